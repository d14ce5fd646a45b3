"""The things that stand in a scene, in true sizes: those with a class, and distractors.

Each function paints one thing at a frame and returns whether there was room for it. What the
outlines include follows the labels of iSAID and NWPU VHR-10: a court up to its lines, a diamond
without its outfield, a track with its infield, a marina with its boats.
"""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Color, Frame, Points, ellipse, hull, rectangle, stadium

SHIP, TANK, DIAMOND, TENNIS, BASKETBALL, TRACK, BRIDGE = 1, 2, 3, 4, 5, 6, 7
LARGE_VEHICLE, SMALL_VEHICLE, POOL, SOCCER, PLANE, HARBOR = 8, 9, 11, 13, 14, 15

WHITE: Color = (238, 238, 236)
ASPHALT: Color = (98, 98, 100)
CONCRETE: Color = (172, 168, 158)
GRASS: Color = (88, 108, 62)
SOIL: Color = (150, 118, 84)
PAINTS: list[Color] = [
    (236, 236, 234), (236, 236, 234), (190, 192, 194), (150, 152, 156), (96, 98, 102), (36, 36, 40),
    (36, 36, 40), (150, 34, 32), (44, 66, 116), (70, 90, 130), (170, 158, 130), (40, 70, 52),
]  # fmt: skip
ROOFS: list[Color] = [
    (120, 116, 112), (92, 88, 86), (140, 122, 106), (160, 94, 70), (178, 110, 80), (106, 84, 72),
    (198, 196, 190), (74, 76, 82), (168, 158, 144),
]  # fmt: skip


def pick(canvas: Canvas, colors: list[Color], spread: float = 10) -> Color:
    return canvas.tint(colors[int(canvas.rng.integers(len(colors)))], spread)


def shade(color: Color, factor: float) -> Color:
    r, g, b = (int(min(v * factor, 255)) for v in color)
    return r, g, b


def car(canvas: Canvas, frame: Frame) -> bool:
    """A car, 4.0-5.2 × 1.75-2.0 m."""
    length, width = canvas.rng.uniform(4.0, 5.2), canvas.rng.uniform(1.75, 2.0)
    nose = np.array([(0.5, 0.3), (0.47, 0.5), (-0.47, 0.5), (-0.5, 0.35)])
    body = frame(np.concatenate([nose, nose[::-1] * (1, -1)]) * (length, width))
    if not canvas.claim(body, SMALL_VEHICLE):
        return False
    paint = pick(canvas, PAINTS)
    canvas.shadow(body, 1.4)
    canvas.polygon(body, paint, rough=8)
    glass = canvas.tint((38, 44, 54), 6)
    canvas.polygon(frame(rectangle(0.52, 0.84) * (length, width) - (0.05 * length, 0)), glass)
    canvas.polygon(frame(rectangle(0.30, 0.74) * (length, width) - (0.07 * length, 0)), shade(paint, 1.06))
    return True


def truck(canvas: Canvas, frame: Frame, bus: bool | None = None) -> bool:
    """A bus or a lorry, 8-16 × 2.5 m."""
    rng = canvas.rng
    bus = bool(rng.random() < 0.5) if bus is None else bus
    length, width = rng.uniform(8, 13 if bus else 16), rng.uniform(2.4, 2.65)
    body = frame(rectangle(length, width))
    if not canvas.claim(body, LARGE_VEHICLE):
        return False
    canvas.shadow(body, 3.2)
    roof = pick(canvas, [WHITE, WHITE, (222, 222, 216), (196, 198, 200), (214, 164, 40), (70, 96, 140), (150, 60, 50)])
    canvas.polygon(body, roof, rough=10)
    if bus:
        for x in (-0.25, 0.1, 0.3):
            canvas.polygon(frame.at(x * length, 0)(rectangle(1.4, 1.3)), shade(roof, 0.8))
        canvas.polygon(frame.at(length / 2 - 0.25, 0)(rectangle(0.5, width * 0.9)), (40, 44, 52))
    else:
        canvas.polygon(frame.at(length / 2 - 2.5, 0)(rectangle(0.5, width)), (40, 40, 42))
        canvas.polygon(frame.at(length / 2 - 1.1, 0)(rectangle(2.2, width)), pick(canvas, PAINTS))
    return True


def plane(canvas: Canvas, frame: Frame, length: float) -> bool:
    """An aircraft of a given length: straight wings below 15 m, swept wings above."""
    rng = canvas.rng
    small = length < 15
    half = (rng.uniform(1.1, 1.35) if small else rng.uniform(0.86, 1.06)) / 2
    body = rng.uniform(0.05, 0.062)
    sweep = 0.02 if small else rng.uniform(0.2, 0.29)
    root, chord, tail = (0.2, 0.15, 0.19) if small else (0.12, rng.uniform(0.2, 0.26), rng.uniform(0.16, 0.2))
    tip = 0.12 if small else 0.055
    kink = root - chord + 0.01
    wing = [
        (root, body), (root - sweep, half), (root - sweep - tip, half),
        (kink - 0.1 * sweep, 0.35 * half), (kink, body),
    ]  # fmt: skip
    side = [
        (0.5, 0), (0.487, 0.4 * body), (0.45, 0.8 * body), (0.4, body), *wing, (-0.3, 0.9 * body),
        (-0.4, 0.5 * body), (-0.4 - 0.3 * sweep, tail), (-0.46 - 0.3 * sweep, tail), (-0.48, 0.3 * body), (-0.5, 0),
    ]  # fmt: skip
    points = np.array(side)
    outline = np.concatenate([points, points[-2:0:-1] * (1, -1)]) * length
    shape = frame(outline)
    if not canvas.claim(shape, PLANE):
        return False
    paint = pick(canvas, [WHITE, WHITE, WHITE, (214, 216, 218), (150, 154, 158)], 6)
    canvas.shadow(shape, length * 0.07, convex=False)
    engines = [0.36 * half] if length < 50 else [0.34 * half, 0.62 * half]
    for y in [] if small else engines:
        for s in (-1, 1):
            x = root - sweep * y / half + 0.01
            canvas.polygon(frame(rectangle(0.085, 0.045) * length + (x * length, s * y * length)), shade(paint, 0.72))
    canvas.polygon(shape, shade(paint, 0.9), rough=6)
    lit = np.concatenate([points[:4], [(-0.4, 0.5 * body), (-0.5, 0)]])
    spine = np.concatenate([lit, lit[-2:0:-1] * (1, -1)]) * length
    canvas.polygon(frame(spine), paint)
    canvas.line(frame(np.array([(-0.36, 0.0), (-0.5, 0)]) * length), pick(canvas, PAINTS), 0.016 * length)
    canvas.line(frame(np.array([(0.465, -0.4 * body), (0.465, 0.4 * body)]) * length), (50, 56, 66), 0.012 * length)
    return True


def tank(canvas: Canvas, frame: Frame, radius: float) -> bool:
    """A storage tank: fixed roof with a lit half, or floating roof with its inner shadow."""
    rng = canvas.rng
    outline = frame(ellipse(radius, radius, 48))
    if not canvas.claim(outline, TANK):
        return False
    paint = pick(canvas, [WHITE, WHITE, (224, 222, 214), (200, 196, 184), (170, 172, 170), (140, 110, 90)], 8)
    canvas.shadow(outline, rng.uniform(0.6, 1.0) * min(radius, 14))
    canvas.polygon(outline, paint, rough=8)
    sun = Frame(frame.x, frame.y, float(np.arctan2(*canvas.shadow_per_metre[::-1])))
    if rng.random() < 0.4:
        inner = shade(paint, rng.uniform(0.6, 0.9))
        canvas.polygon(frame(ellipse(radius * 0.93, radius * 0.93)), shade(inner, 0.6))
        canvas.polygon(sun.at(radius * 0.08, 0)(ellipse(radius * 0.84, radius * 0.88)), inner)
    else:
        canvas.polygon(sun(ellipse(radius, radius, 24, -0.25, 0.25)), shade(paint, 0.9))
        canvas.polygon(frame(ellipse(radius * 0.75, radius * 0.75)), shade(paint, 1.02), alpha=120)
        canvas.polygon(frame(ellipse(radius * 0.12, radius * 0.12, 12)), shade(paint, 0.75))
    canvas.line(frame([(0, 0), (radius * 0.97, 0)]), shade(paint, 0.65), 0.5)
    return True


def tennis_court(canvas: Canvas, frame: Frame, surface: Color) -> bool:
    """One court, 23.77 × 10.97 m up to its outer lines."""
    outline = frame(rectangle(23.77, 10.97))
    if not canvas.claim(outline, TENNIS):
        return False
    canvas.polygon(outline, surface, rough=10)
    closed = rectangle(23.77, 10.97)[[0, 1, 2, 3, 0]]
    lines = [closed, closed * (1, 0.75), closed * (0.538, 0.75), np.array([(-6.4, 0.0), (6.4, 0)])]
    for points in lines:
        canvas.line(frame(points), (235, 235, 230), 0.14, 0.9)
    canvas.line(frame([(0, -6.4), (0, 6.4)]), (60, 66, 60), 0.25)
    canvas.line(frame([(0.3, -6.4), (0.3, 6.4)]), (20, 24, 24), 0.5, 0.5)
    return True


def basketball_court(canvas: Canvas, frame: Frame, surface: Color, key: Color) -> bool:
    """One court, 28 × 15 m up to its outer lines."""
    outline = frame(rectangle(28, 15))
    if not canvas.claim(outline, BASKETBALL):
        return False
    canvas.polygon(outline, surface, rough=14)
    paint = canvas.tint((228, 226, 220), 10)
    for s in (-1, 1):
        box = (rectangle(5.8, 4.9) + (-11.1, 0)) * s
        canvas.polygon(frame(box), key, rough=14)
        canvas.line(frame(box[[0, 1, 2, 3, 0]]), paint, 0.14)
        canvas.line(frame((ellipse(6.75, 6.75, 20, -0.25, 0.25) + (-12.4, 0)) * s), paint, 0.14)
        canvas.line(frame((ellipse(1.8, 1.8, 12, -0.25, 0.25) + (-8.2, 0)) * s), paint, 0.14)
    canvas.line(frame(ellipse(1.8, 1.8, 20)), paint, 0.14)
    canvas.line(frame([(0, -7.5), (0, 7.5)]), paint, 0.14)
    canvas.line(frame(rectangle(28, 15)[[0, 1, 2, 3, 0]]), paint, 0.18)
    return True


def pitch_lines(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """The markings of a soccer pitch."""
    paint = (222, 226, 214)
    box = rectangle(length, width)
    marks = [box[[0, 1, 2, 3, 0]], np.array([(0, -width / 2), (0, width / 2)]), ellipse(9.15, 9.15, 32)]
    for s in (-1, 1):
        for deep, wide in ((16.5, 40.3), (5.5, 18.3)):
            marks.append((rectangle(deep, wide)[[0, 1, 2, 3, 0]] + ((length - deep) / 2, 0)) * s)
    for points in marks:
        canvas.line(frame(points), paint, 0.2, 0.85)


def mown(canvas: Canvas, frame: Frame, length: float, width: float, color: Color) -> None:
    """Grass in stripes of two brightnesses."""
    canvas.polygon(frame(rectangle(length, width)), color, rough=34)
    step = length / int(canvas.rng.integers(8, 22))
    for x in np.arange(-length / 2 + step / 2, length / 2, 2 * step):
        canvas.polygon(frame.at(float(x), 0)(rectangle(step, width)), shade(color, 1.1), alpha=170)


def soccer_field(canvas: Canvas, frame: Frame) -> bool:
    """A pitch, 95-108 × 60-70 m up to its lines."""
    rng = canvas.rng
    length, width = rng.uniform(95, 108), rng.uniform(60, 70)
    if not canvas.claim(frame(rectangle(length, width)), SOCCER):
        return False
    color = pick(canvas, [(84, 116, 58), (72, 104, 60), (98, 120, 66), (56, 110, 62)], 8)
    mown(canvas, frame, length + 6, width + 6, color)
    pitch_lines(canvas, frame, length, width)
    return True


def track_field(canvas: Canvas, frame: Frame) -> bool:
    """A 400 m track with its infield, about 176 × 92 m."""
    rng = canvas.rng
    straight, radius, lanes = 84.4, 36.5, int(rng.integers(6, 9))
    outer = radius + 1.22 * lanes
    outline = frame(stadium(straight, outer))
    if not canvas.claim(outline, TRACK):
        return False
    surface = pick(canvas, [(160, 74, 58), (150, 66, 54), (176, 92, 70), (134, 72, 62), (120, 116, 112), (70, 92, 130)], 8)
    canvas.polygon(outline, surface, rough=16)
    for lane in range(lanes + 1):
        loop = stadium(straight, radius + 1.22 * lane)
        canvas.line(frame(np.concatenate([loop, loop[:1]])), (222, 214, 206), 0.12, 0.7)
    grass = pick(canvas, [GRASS, (70, 106, 58), (60, 112, 66), (110, 116, 70)], 8)
    canvas.polygon(frame(stadium(straight, radius)), surface if rng.random() < 0.35 else grass, rough=26)
    mown(canvas, frame, 100, 62, grass)
    pitch_lines(canvas, frame, 98, 60)
    if rng.random() < 0.6:
        for x in np.arange(-45, 46, 4.57):
            canvas.line(frame([(x, -24), (x, 24)]), (220, 222, 214), 0.15, 0.7)
    return True


def diamond(canvas: Canvas, frame: Frame, scale: float) -> bool:
    """A baseball infield with home plate at the frame's origin; 1.0 is the full-size field.

    The label is the skinned infield, with the grass inside it but without the outfield.
    """
    rng = canvas.rng
    reach = rng.uniform(27, 30.5) * scale
    arc = ellipse(reach, reach, 26, -0.2, 0.2) + (18.4 * scale, 0)
    tangent = [(-2.6, -1.8), (-2.6, 1.8)] * np.array(scale)
    outline = hull(np.concatenate([arc, tangent, ellipse(4, 4, 16) * scale]))
    if not canvas.claim(frame(outline), DIAMOND):
        return False
    grass = pick(canvas, [GRASS, (74, 104, 56), (96, 116, 66)], 6)
    if rng.random() < 0.8:
        field = rng.uniform(60, 105) * scale
        fan = np.concatenate([[(-6 * scale, 0)], ellipse(field, field, 24, -0.128, 0.128)])
        canvas.polygon(frame(fan), shade(grass, 1.05), rough=40, alpha=190)
    clay = pick(canvas, [(176, 140, 102), (166, 124, 90), (158, 104, 76), (190, 162, 128)], 8)
    canvas.polygon(frame(outline), clay, rough=18)
    base = 27.4 * scale / np.sqrt(2)
    if rng.random() < 0.7:
        inner = (np.array([(0.14, 0), (1, -0.82), (1.84, 0), (1, 0.82)]) * base)
        canvas.polygon(frame(inner), grass, rough=36)
        canvas.polygon(frame.at(18.4 * scale, 0)(ellipse(2.7, 2.7, 16) * scale), clay)
        canvas.polygon(frame(ellipse(4, 4, 16) * scale), clay)
        for x, y in ((base, base), (2 * base, 0), (base, -base)):
            canvas.polygon(frame.at(x, y)(ellipse(3.2, 3.2, 14) * scale), clay)
    for s in (-1, 1):
        canvas.line(frame(np.array([(0.0, 0), (45 * scale, s * 45 * scale)])), (228, 224, 214), 0.15, 0.8)
        canvas.line(frame([(-5 * scale, 0), (4 * scale, s * 12 * scale)]), (150, 150, 148), 0.4)
    return True


def ship(canvas: Canvas, frame: Frame, length: float, class_id: int = SHIP) -> bool:
    """A boat or a ship of a given length; class 0 leaves it to the label of its marina."""
    rng = canvas.rng
    beam = length * (rng.uniform(0.13, 0.2) if length > 30 else rng.uniform(0.24, 0.34))
    side = np.array([(0.5, 0.0), (0.44, 0.22), (0.34, 0.42), (0.2, 0.5), (-0.42, 0.5), (-0.5, 0.38)])
    outline = np.concatenate([side, side[:0:-1] * (1, -1)]) * (length, beam)
    if class_id and not canvas.claim(frame(outline), class_id):
        return False
    small = length < 30
    hues = [WHITE, WHITE, (220, 222, 220), (170, 176, 180), (60, 80, 120)] if small else [
        (120, 60, 50), (70, 74, 80), (110, 116, 120), (150, 84, 60), (60, 84, 100), (186, 186, 180)]
    hull_color = pick(canvas, hues)
    canvas.shadow(frame(outline), 1.5 if small else 6)
    canvas.polygon(frame(outline), hull_color, rough=12)
    if small:
        canvas.polygon(frame(outline * (0.8, 0.7) - (0.04 * length, 0)), pick(canvas, [(200, 190, 170), WHITE, (150, 150, 152)]))
        canvas.polygon(frame.at(rng.uniform(-0.15, 0.1) * length, 0)(rectangle(0.3 * length, 0.5 * beam)), pick(canvas, [WHITE, (40, 50, 66), (70, 100, 150)]))
        return True
    canvas.polygon(frame(outline * (0.97, 0.82)), shade(hull_color, rng.uniform(1.1, 1.5)))
    tower = frame.at(-0.4 * length, 0)
    cargo = int(rng.integers(3))
    for x in np.arange(-0.3 * length, 0.33 * length, max(0.075 * length, 6.5)):
        box = frame.at(float(x), 0)(rectangle(max(0.06 * length, 5), beam * 0.7))
        if cargo == 0:
            canvas.polygon(box, pick(canvas, PAINTS, 14))
        elif cargo == 1:
            canvas.polygon(box, shade(hull_color, 0.75))
    canvas.line(frame([(-0.4 * length, 0), (0.42 * length, 0)]), (180, 178, 170), 0.8, 0.7)
    canvas.shadow(tower(rectangle(0.08 * length, beam * 0.86)), 9)
    canvas.polygon(tower(rectangle(0.08 * length, beam * 0.86)), WHITE)
    return True


def pier(canvas: Canvas, frame: Frame, length: float, boat: float) -> bool:
    """A pier that leaves the bank along x, with boats on both sides.

    Seen from far (0.4 m and coarser) the label covers pier and boats together, as in VHR-10;
    seen from near it is the pier alone and every boat is a ship, as in iSAID.
    """
    rng = canvas.rng
    deck = rectangle(length, 3.2) + (length / 2, 0)
    reach = 1.6 + boat * 1.12
    together = canvas.gsd >= 0.4
    outline = rectangle(length - 4, 2 * reach) + (length / 2 + 3, 0) if together else deck
    if not canvas.claim(frame(outline), HARBOR):
        return False
    canvas.shadow(frame(deck), 1)
    canvas.polygon(frame(deck), canvas.tint((172, 164, 150), 12), rough=14)
    for x in np.arange(5, length - 2, boat * 0.42):
        for s in (-1, 1):
            if rng.random() < 0.78:
                size = boat * rng.uniform(0.72, 1.0)
                berth = frame.at(float(x), s * (2.2 + size / 2), s * np.pi / 2 * (1 if rng.random() < 0.7 else -1))
                ship(canvas, berth, size, 0 if together else SHIP)
    return True


def bridge(canvas: Canvas, frame: Frame, length: float, width: float) -> bool:
    """A road or rail bridge along x."""
    rng = canvas.rng
    outline = frame(rectangle(length, width))
    if not canvas.claim(outline, BRIDGE):
        return False
    canvas.shadow(outline, rng.uniform(4, 12))
    deck = pick(canvas, [(150, 146, 140), (176, 170, 160), (128, 126, 124)])
    canvas.polygon(outline, deck, rough=12)
    canvas.polygon(frame(rectangle(length, width * 0.78)), pick(canvas, [ASPHALT, (120, 118, 116), (142, 138, 132)]), rough=12)
    lane(canvas, frame, length, width * 0.78)
    return True


def lane(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Road markings along x: edge lines and a broken centre line."""
    for y in (-width / 2 + 0.5, width / 2 - 0.5):
        canvas.line(frame([(-length / 2, y), (length / 2, y)]), (214, 212, 204), 0.15, 0.7)
    for x in np.arange(-length / 2 + 2, length / 2 - 3, 9):
        canvas.line(frame([(x, 0), (x + 3, 0)]), (224, 220, 208), 0.18, 0.8)


def pool(canvas: Canvas, frame: Frame) -> bool:
    """A swimming pool in its patio, 6-13 m long."""
    rng = canvas.rng
    length, width = rng.uniform(6.5, 13), rng.uniform(3.5, 6)
    if rng.random() < 0.5:
        outline: Points = rectangle(length, width)
    else:
        turn = ellipse(1, 1, 36)
        bend = 1 + rng.uniform(0, 0.22) * np.cos(2 * np.arctan2(turn[:, 1], turn[:, 0]) + rng.uniform(0, 6))
        outline = turn * bend[:, None] * (length / 2, width / 2)
    patio = frame(rectangle(length + rng.uniform(2, 5), width + rng.uniform(2, 5)))
    if canvas.taken_at(patio) or not canvas.claim(frame(outline), POOL):
        return False
    canvas.polygon(patio, pick(canvas, [CONCRETE, (196, 186, 168), (160, 140, 124)]), rough=12)
    water = pick(canvas, [(70, 178, 196), (88, 196, 208), (52, 150, 186), (110, 200, 200)], 10)
    canvas.polygon(frame(outline * 1.06), (216, 214, 206))
    canvas.polygon(frame(outline), water, rough=10)
    canvas.polygon(frame(outline * 0.6), shade(water, 0.88), alpha=150)
    return True


def house(canvas: Canvas, frame: Frame, length: float, width: float, flat: bool = False) -> bool:
    """A building as distractor: two roof planes in different light, or a flat roof."""
    rng = canvas.rng
    outline = frame(rectangle(length, width))
    if not canvas.claim(outline):
        return False
    roof = pick(canvas, [(206, 204, 198), (170, 170, 168), (128, 128, 128), (220, 220, 216), (150, 144, 134)] if flat else ROOFS)
    canvas.shadow(outline, rng.uniform(4, 9))
    canvas.polygon(outline, roof, rough=18)
    if flat:
        canvas.line(frame(rectangle(length - 0.8, width - 0.8)[[0, 1, 2, 3, 0]]), shade(roof, 1.12), 0.5)
        for _ in range(int(length * width / 140)):
            x, y = rng.uniform(-0.42, 0.42, 2) * (length, width)
            box = frame.at(x, y)(rectangle(rng.uniform(1, 4), rng.uniform(1, 3)))
            canvas.shadow(box, 1.2)
            canvas.polygon(box, shade(roof, rng.uniform(0.7, 1.2)))
        return True
    lit = float(np.dot(frame.at(0, 1)([(0, 0)])[0] - frame([(0, 0)])[0], -canvas.shadow_per_metre))
    canvas.polygon(frame(rectangle(length, width / 2) + (0, width / 4)), shade(roof, 1 + 0.25 * lit))
    canvas.polygon(frame(rectangle(length, width / 2) - (0, width / 4)), shade(roof, 1 - 0.25 * lit))
    canvas.line(frame([(-length / 2, 0), (length / 2, 0)]), shade(roof, 1.2), 0.3, 0.6)
    return True


def tree(canvas: Canvas, x: float, y: float, radius: float, green: Color) -> None:
    """A crown with its shadow; trees stay off everything that has been claimed."""
    rng = canvas.rng
    crown = ellipse(1, 1, 14) * rng.uniform(0.75, 1.1, (14, 1)) * radius + (x, y)
    if canvas.taken_at(crown):
        return
    green = canvas.tint(green, 9)
    canvas.shadow(crown, radius * 1.1)
    canvas.polygon(crown, shade(green, 0.82), rough=120)
    to_sun = -canvas.shadow_per_metre * radius * 0.25
    canvas.polygon((crown - (x, y)) * 0.62 + (x, y) + to_sun, shade(green, 1.22), alpha=200)
