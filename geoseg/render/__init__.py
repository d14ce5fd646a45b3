"""Synthetic aerial scenes whose objects are known exactly.

For the demo and, mixed into real images, for training. Needs numpy and pillow only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import zones
from .canvas import Canvas, Color, Frame, rectangle

Zone = Callable[[Canvas, Frame, float, float], None]

ZONES: list[tuple[Zone, float, float, float]] = [
    (zones.airport, 130, 90, 4.0),
    (zones.runway, 120, 60, 1.0),
    (zones.stadium_ground, 184, 100, 6.0),
    (zones.soccer_ground, 112, 76, 2.0),
    (zones.ball_park, 80, 70, 3.0),
    (zones.courts, 46, 30, 3.0),
    (zones.tank_farm, 45, 45, 2.5),
    (zones.truck_yard, 50, 60, 1.6),
    (zones.car_park, 30, 30, 2.0),
    (zones.suburb, 40, 40, 2.5),
    (zones.industry, 50, 50, 1.2),
    (zones.park, 0, 0, 0.5),
    (zones.forest, 0, 0, 0.4),
    (zones.farmland, 0, 0, 0.4),
]
"""Land uses: painter, least length and width in metres, and how often relative to each other."""

GROUNDS: list[list[Color]] = [
    [(74, 88, 52), (96, 112, 66), (120, 122, 82), (142, 128, 96)],
    [(128, 112, 84), (150, 132, 100), (168, 150, 118)],
    [(56, 74, 44), (82, 98, 58), (102, 108, 74)],
    [(110, 108, 100), (128, 122, 110), (92, 100, 74)],
]


@dataclass(frozen=True, slots=True)
class RenderedObject:
    """One known object."""

    class_id: int
    """iSAID id."""
    polygon: tuple[tuple[float, float], ...]
    """Outline, pixel x, y from the upper left corner; may reach beyond the picture."""


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """A picture and what is in it."""

    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    class_ids: np.ndarray
    """uint8 (H, W), iSAID ids: the pixels whose centre lies in an object's polygon."""
    objects: tuple[RenderedObject, ...]
    """Every object with at least one pixel; they share no pixel."""


def render_scene(height: int, width: int, *, gsd: float = 0.3, seed: int) -> RenderedScene:
    """A scene of height × width pixels of `gsd` metres; the same seed gives the same scene.

    Streets, or a river, divide the ground into plots, and each plot gets a land use that fits
    its size. Sizes are true to the ground, so a small or fine scene holds small things only.
    """
    rng = np.random.default_rng(seed)
    canvas = Canvas(height, width, gsd, rng)
    canvas.ground(GROUNDS[int(rng.integers(len(GROUNDS)))])
    across, down = canvas.extent
    angle = float(rng.choice([0.0, rng.uniform(-np.pi, np.pi)]))
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    center = Frame(across / 2, down / 2, angle)
    length, breadth = across * c + down * s, across * s + down * c
    if min(length, breadth) > 120 and rng.random() < 0.5:
        river = float(min(rng.uniform(40, 190), 0.4 * breadth))
        side = rng.uniform(-0.3, 0.3) * breadth
        zones.water(canvas, center.at(0, side), length, river)
        upper, lower = breadth / 2 + side - river / 2, breadth / 2 - side - river / 2
        _divide(canvas, center.at(0, -breadth / 2 + upper / 2), length, upper)
        _divide(canvas, center.at(0, breadth / 2 - lower / 2), length, lower)
    else:
        _divide(canvas, center, length, breadth)
    return RenderedScene(
        canvas.develop(),
        canvas.class_ids,
        tuple(RenderedObject(i, tuple(map(tuple, p.tolist()))) for i, p in canvas.objects),
    )


def _divide(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Split a rectangle by streets until its parts are plots, and fill those."""
    rng = canvas.rng
    outline = frame(rectangle(length, width))
    if (outline.max(0) < 0).any() or (outline.min(0) > canvas.extent).any() or min(length, width) < 8:
        return
    if length < width:
        frame, length, width = frame.at(0, 0, np.pi / 2), width, length
    largest = min(rng.uniform(90, 330), 0.75 * max(canvas.extent))
    if length <= largest or length < 60:
        _fill(canvas, frame, length, width)
        return
    road = float(rng.choice([7, 9, 14])) if length > 100 else 0.0
    cut = rng.uniform(0.36, 0.64) * length
    for start, stop in ((0.0, cut - road / 2), (cut + road / 2, length)):
        _divide(canvas, frame.at((start + stop - length) / 2, 0), stop - start, width)
    if road:
        zones.street(canvas, frame.at(cut - length / 2, 0, np.pi / 2), width, road)


def _fill(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Give a plot a land use that fits; plots that are cut by the edge get no large ones."""
    rng = canvas.rng
    grid = np.stack(np.meshgrid([-0.5, -0.25, 0, 0.25, 0.5], [-0.5, 0, 0.5]), -1).reshape(-1, 2)
    whole = canvas.sees(frame(grid * (length, width)), 0.85)
    fitting = [
        (zone, weight)
        for zone, least_length, least_width, weight in ZONES
        if length >= least_length + 4 and width >= least_width + 4 and (whole or least_length < 80)
    ]
    weights = np.array([weight for _, weight in fitting])
    zone = fitting[int(rng.choice(len(fitting), p=weights / weights.sum()))][0]
    zone(canvas, frame, length - 4, width - 4)
