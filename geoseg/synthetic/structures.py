"""Tanks, piers, bridges and pools; houses, halls and trees as distractors."""

from __future__ import annotations

import itertools

import numpy as np

from geoseg.synthetic.canvas import Canvas, Color, shade
from geoseg.synthetic.geometry import Frame, Points, closed, ellipse, rectangle, shifted
from geoseg.synthetic.vehicles import WHITE, paint_boat, ship, vessel

TANK, BRIDGE, POOL, HARBOR = 2, 7, 11, 15

ASPHALT: Color = (98, 98, 100)
CONCRETE: Color = (172, 168, 158)
TANKS: list[Color] = [
    WHITE, WHITE, (224, 222, 214), (200, 196, 184), (170, 172, 170), (140, 110, 90),
]  # fmt: skip
TILES: list[Color] = [
    (120, 116, 112), (92, 88, 86), (140, 122, 106), (160, 94, 70), (178, 110, 80), (106, 84, 72),
    (198, 196, 190), (74, 76, 82), (168, 158, 144),
]  # fmt: skip
FLAT_ROOFS: list[Color] = [
    (206, 204, 198), (170, 170, 168), (128, 128, 128), (220, 220, 216), (150, 144, 134),
]  # fmt: skip
STEEL: list[Color] = [
    WHITE, (222, 220, 214), (196, 198, 200), (140, 146, 150), (96, 128, 108), (132, 84, 62),
    (88, 110, 134),
]  # fmt: skip
POOLS: list[Color] = [(70, 178, 196), (88, 196, 208), (52, 150, 186), (110, 200, 200)]


def tank(canvas: Canvas, frame: Frame, radius: float) -> bool:
    """A storage tank: a fixed roof with a shaded side, or a floating roof below the rim."""
    rng = canvas.rng
    outline = frame(ellipse(radius, radius, 48))
    if not canvas.claim(outline, TANK):
        return False
    paint = canvas.pick(TANKS, 8)
    canvas.shadow(outline, rng.uniform(0.6, 1.0) * min(radius, 14))
    canvas.polygon(outline, paint, rough=8)
    dx, dy = canvas.shadow_per_meter
    away = Frame(frame.x, frame.y, float(np.arctan2(dy, dx)))
    if rng.random() < 0.4:
        roof = shade(paint, rng.uniform(0.6, 0.9))
        canvas.polygon(frame(ellipse(radius * 0.93, radius * 0.93)), shade(roof, 0.6))
        canvas.polygon(away.at(radius * 0.08, 0)(ellipse(radius * 0.84, radius * 0.88)), roof)
    else:
        canvas.polygon(away(ellipse(radius, radius, 24, -0.25, 0.25)), shade(paint, 0.9))
        canvas.polygon(frame(ellipse(radius * 0.75, radius * 0.75)), shade(paint, 1.02), alpha=120)
        canvas.polygon(frame(ellipse(radius * 0.12, radius * 0.12, 12)), shade(paint, 0.75))
    canvas.line(frame([(0, 0), (radius * 0.97, 0)]), shade(paint, 0.65), 0.5)
    return True


def pier(canvas: Canvas, frame: Frame, length: float, boat: float) -> bool:
    """A pier from the bank along x, with boats of about `boat` meters on both sides.

    At 0.4 m per pixel and coarser, the object is pier and boats together, as in NWPU VHR-10; at
    finer resolutions it is the pier alone and every boat is a ship, as in iSAID.
    """
    rng = canvas.rng
    deck = shifted(rectangle(length, 3.2), length / 2, 0)
    together = canvas.gsd >= 0.4
    basin = shifted(rectangle(length - 4, 3.2 + boat * 2.24), length / 2 + 3, 0)
    if not canvas.claim(frame(basin if together else deck), HARBOR):
        return False
    canvas.shadow(frame(deck), 1)
    canvas.polygon(frame(deck), canvas.tint((172, 164, 150), 12), rough=14)
    for x in np.arange(5, length - 2, boat * 0.42):
        for s in (-1, 1):
            if rng.random() < 0.22:
                continue
            size = boat * rng.uniform(0.72, 1.0)
            heading = s * np.pi / 2 * (1 if rng.random() < 0.7 else -1)
            berth = frame.at(float(x), s * (2.2 + size / 2), heading)
            if together:
                paint_boat(canvas, berth, vessel(canvas, berth, size), size)
            else:
                ship(canvas, berth, size)
    return True


def road_lines(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Markings along x: edge lines and a broken center line."""
    for y in (-width / 2 + 0.5, width / 2 - 0.5):
        canvas.line(frame([(-length / 2, y), (length / 2, y)]), (214, 212, 204), 0.15, 0.7)
    for x in np.arange(-length / 2 + 2, length / 2 - 3, 9):
        canvas.line(frame([(x, 0), (x + 3, 0)]), (224, 220, 208), 0.18, 0.8)


def bridge(canvas: Canvas, frame: Frame, length: float, width: float) -> bool:
    """A road bridge along x."""
    outline = frame(rectangle(length, width))
    if not canvas.claim(outline, BRIDGE):
        return False
    canvas.shadow(outline, canvas.rng.uniform(4, 12))
    canvas.polygon(outline, canvas.pick([(150, 146, 140), (176, 170, 160), (128, 126, 124)]), 12)
    road = canvas.pick([ASPHALT, (120, 118, 116), (142, 138, 132)])
    canvas.polygon(frame(rectangle(length, width * 0.78)), road, rough=12)
    road_lines(canvas, frame, length, width * 0.78)
    if canvas.rng.random() < 0.45:
        truss(canvas, frame, length, width)
    return True


def truss(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """The truss of a bridge along x, seen from above: chords, struts and diagonals."""
    rng = canvas.rng
    paint, half = canvas.pick(STEEL, 8), width * rng.uniform(0.44, 0.5)
    thick = rng.uniform(0.5, 1.2)
    count = max(2, round(length / rng.uniform(7, 13)))
    joints = np.linspace(-length / 2, length / 2, count + 1)
    middle = [0.0] if rng.random() < 0.5 else []
    for y in (-half, half, *middle):
        canvas.line(frame([(-length / 2, y), (length / 2, y)]), paint, 1.5 * thick)
    for x in joints:
        canvas.line(frame([(x, -half), (x, half)]), paint, thick)
    sides = np.array([-half, *middle, half])
    for left, right in itertools.pairwise(joints):
        for near, far in itertools.pairwise(sides):
            canvas.line(frame([(left, near), (right, far)]), paint, 0.6 * thick)
            canvas.line(frame([(left, far), (right, near)]), paint, 0.6 * thick)


def pool(canvas: Canvas, frame: Frame, length: float) -> bool:
    """A swimming pool in its patio: a rectangle, an oval or a kidney."""
    rng = canvas.rng
    width = length * rng.uniform(0.42, 0.6)
    outline: Points = rectangle(length, width)
    if rng.random() < 0.5:
        circle = ellipse(1, 1, 36)
        angle = np.arctan2(circle[:, 1], circle[:, 0])
        bend = 1 + rng.uniform(0, 0.2) * np.cos(2 * angle + rng.uniform(0, 6))
        outline = circle * bend[:, None] * (length / 2, width / 2)
    patio = frame(rectangle(length + rng.uniform(2, 5), width + rng.uniform(2, 5)))
    if not canvas.is_free(patio) or not canvas.claim(frame(outline), POOL):
        return False
    canvas.reserve(patio)
    canvas.polygon(patio, canvas.pick([CONCRETE, (196, 186, 168), (160, 140, 124)]), rough=12)
    water = canvas.pick(POOLS)
    canvas.polygon(frame(outline * 1.06), (216, 214, 206))
    canvas.polygon(frame(outline), water, rough=10)
    canvas.polygon(frame(outline * 0.6), shade(water, 0.88), alpha=150)
    return True


def house(canvas: Canvas, frame: Frame, length: float, width: float) -> bool:
    """A house with a gable roof, one side brighter than the other."""
    outline = frame(rectangle(length, width))
    if not canvas.claim(outline):
        return False
    roof = canvas.pick(TILES)
    canvas.shadow(outline, canvas.rng.uniform(4, 7))
    canvas.polygon(outline, roof, rough=22)
    sunward = -float(canvas.shadow_per_meter @ (-np.sin(frame.angle), np.cos(frame.angle)))
    for s in (-1, 1):
        plane = frame.at(0, s * width / 4)(rectangle(length, width / 2))
        canvas.polygon(plane, shade(roof, 1 + s * 0.25 * sunward))
    canvas.line(frame([(-length / 2, 0), (length / 2, 0)]), shade(roof, 1.2), 0.3, 0.6)
    return True


def hall(canvas: Canvas, frame: Frame, length: float, width: float) -> bool:
    """A large building with a flat roof and machinery on it."""
    rng = canvas.rng
    outline = rectangle(length, width)
    if not canvas.claim(frame(outline)):
        return False
    roof = canvas.pick(FLAT_ROOFS)
    canvas.shadow(frame(outline), rng.uniform(4, 12))
    canvas.polygon(frame(outline), roof, rough=14)
    if rng.random() < 0.5:
        for x in np.arange(-length / 2, length / 2, rng.uniform(1, 6)):
            seam = frame([(x, -width / 2), (x, width / 2)])
            canvas.line(seam, shade(roof, 0.86), 0.3, 0.7)
    canvas.line(frame(closed(outline * 0.98)), shade(roof, 1.12), 0.5)
    for _ in range(int(length * width / 140)):
        x, y = rng.uniform(-0.44, 0.44, 2) * (length, width)
        box = frame.at(x, y)(rectangle(rng.uniform(1, 4), rng.uniform(1, 3)))
        canvas.shadow(box, 1.2)
        canvas.polygon(box, shade(roof, rng.uniform(0.7, 1.2)))
    return True


def tree(canvas: Canvas, x: float, y: float, radius: float, green: Color) -> bool:
    """A tree with its shadow; only on free ground, so it never hides an object."""
    rng = canvas.rng
    shape = ellipse(radius, radius, 14) * rng.uniform(0.75, 1.1, (14, 1))
    crown = shifted(shape, x, y)
    if not canvas.is_free(crown):
        return False
    green = canvas.tint(green, 9)
    canvas.shadow(crown, radius * 1.1, convex=False)
    canvas.polygon(crown, shade(green, 0.82), rough=110)
    sunny = (x, y) - canvas.shadow_per_meter * radius * 0.25
    canvas.polygon(shifted(shape * 0.62, *sunny), shade(green, 1.22), alpha=200)
    return True
