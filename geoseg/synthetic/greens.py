"""Green land: parks, woods, fields and sports grounds.

Each function fills a rectangle around the origin of a frame, its length along x, in meters.
"""

from __future__ import annotations

import numpy as np

from geoseg.synthetic.canvas import Canvas, Color, shade
from geoseg.synthetic.geometry import Frame, bezier, rectangle
from geoseg.synthetic.sports import (
    CLAYS,
    LAWNS,
    basketball_court,
    diamond,
    outfield,
    soccer_field,
    tennis_court,
    track_field,
)
from geoseg.synthetic.structures import ASPHALT, hall, tree

GREENS: list[Color] = [(58, 78, 44), (48, 68, 40), (66, 84, 46), (40, 58, 36), (76, 88, 56)]
CROPS: list[Color] = [
    (150, 118, 84), (134, 124, 78), (106, 122, 66), (164, 146, 102), (84, 104, 56), (118, 96, 72),
]  # fmt: skip
HARD_COURTS: list[Color] = [
    (62, 98, 76), (70, 112, 84), (54, 92, 128), (64, 106, 146), (146, 80, 62), (128, 128, 124),
    (166, 104, 72), (106, 128, 88),
]  # fmt: skip


def trees(canvas: Canvas, frame: Frame, length: float, width: float, per_hectare: float) -> None:
    """Trees at random positions, and sometimes a row of them along an edge."""
    rng = canvas.rng
    green = canvas.pick(GREENS, 6)
    count = rng.poisson(per_hectare * length * width / 1e4)
    positions = rng.uniform(-0.5, 0.5, (count, 2)) * (length, width)
    if rng.random() < 0.4:
        row = np.arange(-length / 2, length / 2, rng.uniform(4, 11))
        edge = rng.choice([-0.49, 0.49]) * width + rng.normal(0, 0.8, row.size)
        positions = np.concatenate([positions, np.stack([row, edge], axis=1)])
    for x, y in frame(positions):
        if canvas.shows(np.array([(x, y)])):
            tree(canvas, x, y, rng.uniform(1.6, 5.5), green)


def lawn(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Grass with a path or two."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width)), canvas.pick(LAWNS), rough=42, alpha=220)
    for _ in range(int(rng.integers(3))):
        bends = rng.uniform(-0.5, 0.5, 4) * width
        path = bezier(np.stack([np.linspace(-0.5, 0.5, 4) * length, bends], axis=1))
        canvas.line(frame(path), (170, 162, 142), 1.8, 0.7)


def park(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Lawn and trees."""
    lawn(canvas, frame, length, width)
    trees(canvas, frame, length, width, 60)


def forest(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Dense trees."""
    canvas.polygon(frame(rectangle(length, width)), canvas.tint((44, 58, 36), 6), rough=120)
    trees(canvas, frame, length, width, 190)


def farmland(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A crop or fallow field with drill rows."""
    rng = canvas.rng
    color = canvas.pick(CROPS)
    canvas.polygon(frame(rectangle(length, width)), color, rough=int(rng.integers(20, 60)))
    tone, wide = shade(color, rng.choice([0.88, 1.1])), rng.uniform(0.4, 1.2)
    for y in np.arange(-width / 2, width / 2, rng.uniform(2.5, 12)):
        canvas.line(frame([(-length / 2, y), (length / 2, y)]), tone, wide, 0.6)


def courts(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Tennis or basketball courts side by side in a lawn."""
    rng = canvas.rng
    lawn(canvas, frame, length, width)
    basket = rng.random() < 0.5
    long, wide = (33.0, 19.0) if basket else (36.0, 17.5)
    surface, around = canvas.pick(HARD_COURTS), canvas.pick(HARD_COURTS)
    key = around if rng.random() < 0.5 else canvas.pick(HARD_COURTS)
    if basket and rng.random() < 0.5:
        surface = around = key = canvas.pick([ASPHALT, (132, 130, 126), (150, 146, 138)])
    columns = min(max(int((length - 6) // long), 1), int(rng.integers(1, 5)))
    rows = min(max(int((width - 6) // wide), 1), int(rng.integers(1, 7)))
    slack = np.maximum((length - columns * long - 6, width - rows * wide - 6), 0)
    x0, y0 = rng.uniform(-0.5, 0.5, 2) * slack
    ground = frame.at(x0, y0)(rectangle(columns * long, rows * wide))
    canvas.polygon(ground, around, rough=14)
    for column in range(columns):
        for row in range(rows):
            x, y = (column - (columns - 1) / 2) * long, (row - (rows - 1) / 2) * wide
            spot = frame.at(x0 + x, y0 + y)
            if not canvas.shows(spot(rectangle(long, wide)), 0.5):
                continue
            if basket:
                basketball_court(canvas, spot, surface, key)
            else:
                tennis_court(canvas, spot, surface)
    canvas.reserve(ground)
    trees(canvas, frame, length, width, 30)


def ball_park(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Baseball diamonds that face inward from the corners of a lawn."""
    rng = canvas.rng
    lawn(canvas, frame, length, width)
    scale = float(np.clip(min(length, width) / 110, 0.62, 1.0)) * rng.uniform(0.85, 1)
    clay, grass = canvas.pick(CLAYS, 8), canvas.pick(LAWNS, 6)
    corners = [(-1, -1), (1, 1), (1, -1), (-1, 1)]
    several = min(length, width) > 110 * scale
    homes = []
    for sx, sy in corners[: 1 + several * int(rng.integers(4))]:
        x, y = sx * (length / 2 - 12), sy * (width / 2 - 12)
        home = frame.at(x, y, float(np.arctan2(-sy, -sx)) + rng.normal(0, 0.08))
        if canvas.shows(home([(0, 0), (44 * scale, 0)]), 0.9):
            homes.append(home)
    for home in homes:
        if rng.random() < 0.8:
            outfield(canvas, home, scale, grass)
    for home in homes:
        diamond(canvas, home, scale, canvas.tint(clay, 4), grass)
    trees(canvas, frame, length, width, 20)


def soccer_ground(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A soccer field in its lawn."""
    lawn(canvas, frame, length, width)
    soccer_field(canvas, frame)
    trees(canvas, frame, length, width, 35)


def athletics_ground(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A running track with a stand; courts or diamonds beside it where there is room."""
    lawn(canvas, frame, length, width)
    spare = length - 196
    if spare > 50:
        beside = courts if canvas.rng.random() < 0.6 else ball_park
        beside(canvas, frame.at((length - spare) / 2, 0), spare, width)
        frame = frame.at(-spare / 2, 0)
    if track_field(canvas, frame) and width > 116:
        hall(canvas, frame.at(0, 55), 60, 8)
    trees(canvas, frame, min(length, 196), width, 30)
