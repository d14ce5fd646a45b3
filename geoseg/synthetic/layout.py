"""Lay out a scene: a river, streets, and plots with a land use each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geoseg.synthetic import built, greens
from geoseg.synthetic.canvas import Canvas, Color
from geoseg.synthetic.geometry import Frame, rectangle
from geoseg.synthetic.sports import LAWNS
from geoseg.synthetic.structures import ASPHALT, CONCRETE, road_lines
from geoseg.synthetic.vehicles import car, truck
from geoseg.synthetic.water import river

MARGIN = 4.0
"""Meters of a plot's length and width that stay empty."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle of ground."""

    frame: Frame
    """Origin at its center, x along its length."""
    length: float
    """Meters."""
    width: float
    """Meters; at most the length."""


@dataclass(frozen=True, slots=True)
class LandUse:
    """A possible use of a plot."""

    fill: Callable[[Canvas, Frame, float, float], None]
    """Paints the plot."""
    length: float
    """Least length of the plot in meters."""
    width: float
    """Least width of the plot in meters."""
    weight: float
    """Relative frequency among the uses that fit."""


LAND_USES = (
    LandUse(built.airport, 60, 45, 6.0),
    LandUse(built.runway, 120, 60, 1.0),
    LandUse(greens.athletics_ground, 182, 98, 14.0),
    LandUse(greens.soccer_ground, 114, 78, 2.5),
    LandUse(greens.ball_park, 60, 50, 4.0),
    LandUse(greens.courts, 42, 26, 4.0),
    LandUse(built.tank_farm, 45, 45, 2.5),
    LandUse(built.truck_yard, 50, 60, 1.5),
    LandUse(built.parking_lot, 30, 30, 1.5),
    LandUse(built.suburb, 40, 40, 3.0),
    LandUse(built.industry, 50, 50, 1.0),
    LandUse(greens.park, 0, 0, 0.4),
    LandUse(greens.forest, 0, 0, 0.3),
    LandUse(greens.farmland, 0, 0, 0.3),
)
GROUNDS: tuple[tuple[Color, ...], ...] = (
    ((74, 88, 52), (96, 112, 66), (120, 122, 82), (142, 128, 96)),
    ((128, 112, 84), (150, 132, 100), (168, 150, 118)),
    ((56, 74, 44), (82, 98, 58), (102, 108, 74)),
    ((110, 108, 100), (128, 122, 110), (92, 100, 74)),
)


def lay_out(canvas: Canvas) -> None:
    """Paint a scene."""
    rng = canvas.rng
    canvas.ground(GROUNDS[int(rng.integers(len(GROUNDS)))])
    across, down = canvas.extent
    angle = float(rng.choice([0.0, rng.uniform(-np.pi, np.pi)]))
    center = Frame(across / 2, down / 2, angle)
    # The smallest rectangle at this angle that covers the image.
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    length, width = across * c + down * s, across * s + down * c
    banks, roads = [(-width / 2, width / 2)], []
    if width > 120 and rng.random() < 0.55:
        wide = min(rng.uniform(40, 190), 0.4 * width)
        middle = rng.uniform(-0.3, 0.3) * width
        roads = river(canvas, center.at(0, middle), length, wide)
        banks = [(-width / 2, middle - wide / 2), (middle + wide / 2, width / 2)]
    plots: list[Plot] = []
    for start, stop in banks:
        bank, left = center.at(0, (start + stop) / 2), -length / 2
        for x, road in [*roads, (length / 2, 0.0)]:
            right = x - road / 2
            plots += divide(canvas, bank.at((left + right) / 2, 0), right - left, stop - start)
            if road:
                street(canvas, bank.at(x, 0, np.pi / 2), stop - start, road)
            left = x + road / 2
    fill(canvas, plots)


def divide(canvas: Canvas, frame: Frame, length: float, width: float) -> list[Plot]:
    """Split a rectangle recursively by streets; return the plots that remain."""
    rng = canvas.rng
    outline = frame(rectangle(length, width))
    outside = (outline.max(axis=0) < 0) | (outline.min(axis=0) > canvas.extent)
    if outside.any() or min(length, width) < 2 * MARGIN:
        return []
    if length < width:
        frame, length, width = frame.at(0, 0, np.pi / 2), width, length
    if length < max(60, min(rng.uniform(90, 360), 1.1 * max(canvas.extent))):
        return [Plot(frame, length, width)]
    road = float(rng.choice([7, 9, 14])) if length > 100 else 0.0
    cut = rng.uniform(0.36, 0.64) * length
    if road:
        street(canvas, frame.at(cut - length / 2, 0, np.pi / 2), width, road)
    plots = []
    for start, stop in ((0.0, cut - road / 2), (cut + road / 2, length)):
        plots += divide(canvas, frame.at((start + stop - length) / 2, 0), stop - start, width)
    return plots


def street(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A road along x with sidewalks, markings and traffic in both directions."""
    rng = canvas.rng
    sidewalk = canvas.pick([CONCRETE, (126, 122, 110), *LAWNS[:2]])
    canvas.polygon(frame(rectangle(length, width + 4)), sidewalk, rough=30)
    canvas.polygon(frame(rectangle(length, width)), canvas.tint(ASPHALT, 14), rough=20)
    road_lines(canvas, frame, length, width)
    x = -length / 2
    while x < length / 2:
        x += rng.exponential(26) + 9
        side = rng.choice([-1, 1])
        y, heading = side * width * rng.choice([0.2, 0.22, 0.36]), np.pi * (side > 0)
        spot = frame.at(x, y, heading + rng.normal(0, 0.02))
        if not canvas.shows(spot(rectangle(5, 2))):
            continue
        if rng.random() < 0.12:
            truck(canvas, spot, bus=bool(rng.random() < 0.5))
        else:
            car(canvas, spot)


def fill(canvas: Canvas, plots: list[Plot]) -> None:
    """Give each plot a land use that fits it, largest plots first.

    A plot that the border of the image cuts gets no use that needs 80 m or more; one that fills
    most of the image gets more than plain greenery; and a use becomes less likely once the scene
    has it, for variety.
    """
    across, down = canvas.extent
    weights = np.array([use.weight for use in LAND_USES])
    grid = np.stack(np.meshgrid([-0.5, -0.25, 0, 0.25, 0.5], [-0.5, 0, 0.5]), -1).reshape(-1, 2)
    for plot in sorted(plots, key=lambda plot: -plot.length * plot.width):
        is_complete = canvas.shows(plot.frame(grid * (plot.length, plot.width)), 0.85)
        length, width = plot.length - MARGIN, plot.width - MARGIN
        large = min(length, width) >= 30 and length * width > 0.4 * across * down
        fits = [
            length >= use.length
            and width >= use.width
            and (is_complete or use.length < 80)
            and not (large and use.length == 0)
            for use in LAND_USES
        ]
        odds = weights * fits
        choice = int(canvas.rng.choice(len(odds), p=odds / odds.sum()))
        weights[choice] *= 0.5
        LAND_USES[choice].fill(canvas, plot.frame, length, width)
