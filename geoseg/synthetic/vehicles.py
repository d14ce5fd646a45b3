"""Cars, trucks, aircraft and vessels, in true sizes.

Each function paints one object at a frame, heading along its x axis, and returns whether its
ground was free.
"""

from __future__ import annotations

import numpy as np

from geoseg.synthetic.canvas import Canvas, Color, shade
from geoseg.synthetic.geometry import Frame, Points, mirrored, rectangle

SHIP, LARGE_VEHICLE, SMALL_VEHICLE, PLANE = 1, 8, 9, 14

WHITE: Color = (238, 238, 236)
GLASS: Color = (40, 45, 54)
PAINTS: list[Color] = [
    WHITE, WHITE, (190, 192, 194), (150, 152, 156), (96, 98, 102), (36, 36, 40), (36, 36, 40),
    (150, 34, 32), (44, 66, 116), (70, 90, 130), (170, 158, 130), (40, 70, 52),
]  # fmt: skip
ROOFS: list[Color] = [
    WHITE, WHITE, (222, 222, 216), (196, 198, 200), (214, 164, 40), (70, 96, 140), (150, 60, 50),
]  # fmt: skip
LIVERIES: list[Color] = [WHITE, WHITE, WHITE, (214, 216, 218), (150, 154, 158)]
BOATS: list[Color] = [WHITE, WHITE, (220, 222, 220), (170, 176, 180), (60, 80, 120)]
COCKPITS: list[Color] = [WHITE, GLASS, (70, 100, 150), (200, 190, 170), (150, 150, 152)]
HULLS: list[Color] = [
    (120, 60, 50), (70, 74, 80), (110, 116, 120), (150, 84, 60), (60, 84, 100), (186, 186, 180),
]  # fmt: skip


def car(canvas: Canvas, frame: Frame) -> bool:
    """A car, 4.0-5.2 × 1.75-2.0 m."""
    length, width = canvas.rng.uniform(4.0, 5.2), canvas.rng.uniform(1.75, 2.0)
    nose = np.array([(0.5, 0.3), (0.47, 0.5), (-0.47, 0.5), (-0.5, 0.35)])
    body = frame(np.concatenate([nose, nose[::-1] * (1, -1)]) * (length, width))
    if not canvas.claim(body, SMALL_VEHICLE):
        return False
    paint = canvas.pick(PAINTS)
    canvas.shadow(body, 1.4)
    canvas.polygon(body, paint, rough=8)
    canvas.polygon(frame.at(-0.05 * length, 0)(rectangle(0.52 * length, 0.84 * width)), GLASS)
    roof = frame.at(-0.07 * length, 0)(rectangle(0.3 * length, 0.74 * width))
    canvas.polygon(roof, shade(paint, 1.06))
    return True


def truck(canvas: Canvas, frame: Frame, bus: bool) -> bool:
    """A bus, 8-13 m long, or a truck, 8-16 m; both 2.4-2.65 m wide."""
    rng = canvas.rng
    length, width = rng.uniform(8, 13 if bus else 16), rng.uniform(2.4, 2.65)
    body = frame(rectangle(length, width))
    if not canvas.claim(body, LARGE_VEHICLE):
        return False
    canvas.shadow(body, 3.2)
    roof = canvas.pick(ROOFS)
    canvas.polygon(body, roof, rough=10)
    if bus:
        for x in (-0.25, 0.1, 0.3):
            canvas.polygon(frame.at(x * length, 0)(rectangle(1.4, 1.3)), shade(roof, 0.8))
        canvas.polygon(frame.at(length / 2 - 0.25, 0)(rectangle(0.5, width * 0.9)), GLASS)
    else:
        canvas.polygon(frame.at(length / 2 - 2.5, 0)(rectangle(0.5, width)), GLASS)
        canvas.polygon(frame.at(length / 2 - 1.1, 0)(rectangle(2.2, width)), canvas.pick(PAINTS))
    return True


def plane(canvas: Canvas, frame: Frame, length: float) -> bool:
    """An aircraft: straight wings below a length of 15 m, swept wings with jets from there on."""
    side, nacelles = _half_plane(canvas.rng, length)
    shape = frame(mirrored(side) * length)
    if not canvas.claim(shape, PLANE):
        return False
    paint = canvas.pick(LIVERIES, 6)
    body = side[3, 1]
    canvas.shadow(shape, length * 0.07, convex=False)
    canvas.polygon(shape, shade(paint, 0.9), rough=6)
    for nacelle in nacelles:
        for s in (-1, 1):
            canvas.polygon(frame(nacelle * (1, s) * length), shade(paint, 0.72))
    fuselage = np.concatenate([side[:4], [(-0.4, 0.5 * body), (-0.5, 0)]])
    canvas.polygon(frame(mirrored(fuselage) * length), paint)
    fin = frame(np.array([(-0.36, 0.0), (-0.49, 0.0)]) * length)
    canvas.line(fin, canvas.pick(PAINTS), 0.016 * length)
    cockpit = frame(np.array([(0.465, -0.4 * body), (0.465, 0.4 * body)]) * length)
    canvas.line(cockpit, GLASS, 0.012 * length)
    return True


def _half_plane(rng: np.random.Generator, length: float) -> tuple[Points, list[Points]]:
    """Return the half outline y ≥ 0, from nose to tail, for a length of 1, and its nacelles."""
    light = length < 15
    half_span = (rng.uniform(1.1, 1.35) if light else rng.uniform(0.86, 1.06)) / 2
    sweep = 0.02 if light else rng.uniform(0.2, 0.29)
    body = rng.uniform(0.05, 0.062)
    root, tip = (0.2, 0.12) if light else (0.12, 0.055)
    kink = root - (0.15 if light else rng.uniform(0.2, 0.26))
    tail, back = rng.uniform(0.16, 0.2), -0.4 - 0.3 * sweep
    jets = () if light else (0.36,) if length < 50 else (0.34, 0.62)
    engines, nacelles = [], []
    for share in jets:
        # A nacelle protrudes from the leading edge, which runs from the root to the tip.
        inner, outer = (share * half_span + offset for offset in (-0.022, 0.022))
        edge = [root - sweep * (y - body) / (half_span - body) for y in (inner, outer)]
        front = [(edge[0] + 0.045, inner), (edge[0] + 0.045, outer)]
        engines += [(edge[0], inner), *front, (edge[1], outer)]
        nacelles.append(np.array([(edge[1], inner), *front, (edge[1], outer)]))
    side = [
        (0.5, 0), (0.487, 0.4 * body), (0.45, 0.8 * body), (0.4, body), (root, body), *engines,
        (root - sweep, half_span), (root - sweep - tip, half_span),
        (kink - 0.1 * sweep, 0.35 * half_span), (kink, body), (-0.3, 0.9 * body),
        (-0.4, 0.5 * body), (back, tail), (back - 0.06, tail), (-0.48, 0.3 * body), (-0.5, 0),
    ]  # fmt: skip
    return np.array(side), nacelles


def vessel(canvas: Canvas, frame: Frame, length: float) -> Points:
    """Return the outline, in the scene's meters, of a boat or, from 30 m on, a ship."""
    rng = canvas.rng
    beam = length * (rng.uniform(0.24, 0.34) if length < 30 else rng.uniform(0.13, 0.2))
    side = [(0.5, 0.0), (0.44, 0.22), (0.34, 0.42), (0.2, 0.5), (-0.42, 0.5), (-0.5, 0.38)]
    return frame(mirrored(np.array([*side, (-0.5, 0)])) * (length, beam))


def ship(canvas: Canvas, frame: Frame, length: float) -> bool:
    """A boat or, from 30 m on, a ship."""
    outline = vessel(canvas, frame, length)
    if not canvas.claim(outline, SHIP):
        return False
    if length < 30:
        paint_boat(canvas, frame, outline, length)
    else:
        _paint_ship(canvas, frame, outline, length)
    return True


def paint_boat(canvas: Canvas, frame: Frame, outline: Points, length: float) -> None:
    """Hull, deck and cabin of a boat."""
    rng = canvas.rng
    canvas.shadow(outline, 1.5)
    canvas.polygon(outline, canvas.pick(BOATS), rough=12)
    origin = (frame.x, frame.y)
    canvas.polygon((outline - origin) * 0.76 + origin, canvas.pick(COCKPITS))
    cabin = frame.at(rng.uniform(-0.15, 0.1) * length, 0)
    canvas.polygon(cabin(rectangle(0.3 * length, 0.14 * length)), canvas.pick(COCKPITS))


def _paint_ship(canvas: Canvas, frame: Frame, outline: Points, length: float) -> None:
    """Hull, hatches or containers, and bridge of a ship."""
    beam = float(np.linalg.norm(outline[4] - outline[-4]))
    paint = canvas.pick(HULLS)
    canvas.shadow(outline, 6)
    canvas.polygon(outline, paint, rough=12)
    origin = (frame.x, frame.y)
    deck = (outline - origin) * 0.92 + origin
    canvas.polygon(deck, shade(paint, canvas.rng.uniform(1.1, 1.5)))
    containers = canvas.rng.random() < 0.4
    hold = max(0.075 * length, 6.5)
    for x in np.arange(-0.3 * length, 0.33 * length, hold):
        hatch = frame.at(float(x), 0)(rectangle(0.8 * hold, 0.7 * beam))
        canvas.polygon(hatch, canvas.pick(PAINTS, 14) if containers else shade(paint, 0.75))
    canvas.line(frame([(-0.4 * length, 0), (0.42 * length, 0)]), (180, 178, 170), 0.8, 0.7)
    house = frame.at(-0.4 * length, 0)(rectangle(0.08 * length, beam * 0.86))
    canvas.shadow(house, 9)
    canvas.polygon(house, WHITE)
