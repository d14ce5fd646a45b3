"""Rivers with bridges, marinas and vessels."""

from __future__ import annotations

import numpy as np

from geoseg.synthetic.canvas import Canvas, Color, shade
from geoseg.synthetic.geometry import Frame, Points, rectangle, shifted
from geoseg.synthetic.structures import ASPHALT, CONCRETE, bridge, pier
from geoseg.synthetic.vehicles import WHITE, ship

WATERS: list[Color] = [
    (44, 66, 66), (36, 52, 58), (56, 80, 76), (30, 42, 44), (62, 86, 96), (34, 60, 84),
    (72, 82, 70), (104, 98, 66), (126, 114, 82), (90, 92, 60), (118, 100, 74), (98, 106, 88),
]  # fmt: skip
BANKS: list[Color] = [(150, 118, 84), (128, 124, 100), (86, 92, 64), CONCRETE]
BANK = 9.0
"""Meters on both sides within which the shoreline varies."""


def river(canvas: Canvas, frame: Frame, length: float, width: float) -> list[tuple[float, float]]:
    """A river along x: bridges first, then piers, then vessels in the remaining space.

    Returns the roads that cross it, as x and width.
    """
    rng = canvas.rng
    x = np.linspace(-length / 2, length / 2, 80)
    near, far = _shore(rng, x) - width / 2, _shore(rng, x) + width / 2
    color = canvas.pick(WATERS, 8)
    # From the outside inward: bank, shallow water, deep water.
    layers = ((3.0, canvas.pick(BANKS), 60), (0.0, shade(color, 1.15), 12), (-4.0, color, 12))
    for offset, tone, rough in layers:
        y = np.concatenate([near - offset, (far + offset)[::-1]])
        outline = np.stack([np.concatenate([x, x[::-1]]), y], axis=1)
        canvas.polygon(frame(outline), tone, rough)
    if rng.random() < 0.3:
        _glitter(canvas, frame, length, width)
    roads = _bridges(canvas, frame, length, width)
    if width > 55 and rng.random() < 0.85:
        _marina(canvas, frame, length, width)
    _vessels(canvas, frame, length, width)
    return roads


def _glitter(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Sun glitter on ripples, densest around one position."""
    rng = canvas.rng
    x, spread = rng.uniform(-0.4, 0.4) * length, rng.uniform(20, 80)
    for _ in range(int(rng.integers(50, 250))):
        spot = rng.normal(x, spread), rng.uniform(-0.42, 0.42) * width
        end = spot[0] + rng.uniform(0.4, 1.6), spot[1] + rng.normal(0, 0.3)
        canvas.line(frame([spot, end]), WHITE, rng.uniform(0.2, 0.6), rng.uniform(0.4, 0.9))


def _shore(rng: np.random.Generator, x: Points) -> Points:
    """Return the offset of the shoreline from its mean at every x, at most `BANK` / 2."""
    waves = [np.sin(x / rng.uniform(14, 80) + rng.uniform(0, 6)) for _ in range(3)]
    offset: Points = np.sum(waves, axis=0) * rng.uniform(0.1, BANK / 6)
    return offset


def _bridges(
    canvas: Canvas, frame: Frame, length: float, width: float
) -> list[tuple[float, float]]:
    rng, roads = canvas.rng, []
    for x in np.arange(-length / 2 + 40, length / 2, rng.uniform(150, 320)):
        spot = frame.at(float(x), 0, np.pi / 2)
        if rng.random() < 0.75 and canvas.shows(spot(rectangle(width, 14)), 0.7):
            road = rng.uniform(7, 19)
            canvas.polygon(spot(rectangle(width + 8, road)), canvas.tint(ASPHALT), rough=14)
            bridge(canvas, spot, width + 2, road * 1.28)
            roads.append((float(x), road))
    return roads


def _marina(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Parallel piers from one bank, as many as fit into the image."""
    rng = canvas.rng
    side, boat = rng.choice([-1, 1]), rng.uniform(7, 14)
    longest = min(width * 0.5, 90)
    step = 3.2 + boat * 2.24 + rng.uniform(5, 14)
    start, wanted = rng.uniform(-0.45, 0.1) * length, int(rng.integers(2, 8))
    for x in np.arange(start, length / 2, step):
        root = frame.at(float(x), side * (width / 2 - BANK / 2), -side * np.pi / 2)
        long = longest * rng.uniform(0.6, 1)
        if canvas.shows(root(shifted(rectangle(long, 2), long / 2, 0)), 0.7):
            wanted -= pier(canvas, root, long, boat)
        if not wanted:
            return


def _vessels(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    rng = canvas.rng
    for _ in range(int(length * width / 1600)):
        x, y = rng.uniform(-0.5, 0.5) * length, rng.uniform(-0.5, 0.5) * (width - 24)
        large = width > 60 and rng.random() < 0.5
        size = rng.uniform(40, min(190, 2.4 * width)) if large else rng.uniform(6, 24)
        heading = 0 if large else rng.uniform(0, np.pi)
        spot = frame.at(x, y, heading + rng.choice([0, np.pi]) + rng.normal(0, 0.1))
        room = spot(rectangle(size * 1.15, size * 0.35))
        afloat = abs(y) + size * (0.18 if large else 0.5) < width / 2 - BANK
        if not (afloat and canvas.shows(room, 0.7) and canvas.is_free(room)):
            continue
        astern = spot.at(-1.3 * size, 0)(rectangle(2.4 * size, 0.8 * size))
        if size < 30 and rng.random() < 0.5 and canvas.is_free(astern):
            for s in (-1, 1):
                wake = [
                    (0.4 * size, 0),
                    (-0.7 * size, s * 0.22 * size),
                    (-2 * size, s * 0.4 * size),
                ]
                canvas.line(spot(wake), WHITE, 0.06 * size, 0.22)
        ship(canvas, spot, size)
