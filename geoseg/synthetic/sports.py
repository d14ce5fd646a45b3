"""Courts, pitches, tracks and diamonds, in regulation sizes.

Outlines follow the labels of iSAID and NWPU VHR-10: a court up to its lines, a diamond without its
outfield, a track with its infield.
"""

from __future__ import annotations

import numpy as np

from geoseg.synthetic.canvas import Canvas, Color, shade
from geoseg.synthetic.geometry import (
    Frame,
    Points,
    closed,
    ellipse,
    hull,
    rectangle,
    shifted,
    stadium,
)

DIAMOND, TENNIS, BASKETBALL, TRACK, SOCCER = 3, 4, 5, 6, 13

CHALK: Color = (228, 226, 218)
LAWNS: list[Color] = [(88, 108, 62), (76, 102, 56), (96, 116, 66), (72, 98, 54), (110, 116, 72)]
TURFS: list[Color] = [(84, 116, 58), (72, 104, 60), (98, 120, 66), (56, 110, 62)]
TARTANS: list[Color] = [
    (160, 74, 58), (150, 66, 54), (176, 92, 70), (134, 72, 62), (164, 80, 60), (120, 116, 112),
    (70, 92, 130),
]  # fmt: skip
CLAYS: list[Color] = [(176, 140, 102), (166, 124, 90), (158, 104, 76), (190, 162, 128)]


def tennis_court(canvas: Canvas, frame: Frame, surface: Color) -> bool:
    """One court, 23.77 × 10.97 m up to its outer lines."""
    outline = rectangle(23.77, 10.97)
    if not canvas.claim(frame(outline), TENNIS):
        return False
    canvas.polygon(frame(outline), surface, rough=10)
    singles = outline * (1, 0.75)
    for points in (outline, singles, singles * (0.538, 1)):
        canvas.line(frame(closed(points)), CHALK, 0.14, 0.95)
    canvas.line(frame([(-6.4, 0), (6.4, 0)]), CHALK, 0.14, 0.95)
    canvas.line(frame([(0, -6.4), (0, 6.4)]), (60, 66, 60), 0.25)
    canvas.line(frame([(0.3, -6.4), (0.3, 6.4)]), (20, 24, 24), 0.5, 0.5)
    return True


def basketball_court(canvas: Canvas, frame: Frame, surface: Color, key: Color) -> bool:
    """One court, 28 × 15 m up to its outer lines; `key` colors the areas under the baskets."""
    outline = rectangle(28, 15)
    if not canvas.claim(frame(outline), BASKETBALL):
        return False
    canvas.polygon(frame(outline), surface, rough=14)
    area = shifted(rectangle(5.8, 4.9), -11.1, 0)
    canvas.polygon(frame(area), key, rough=14)
    canvas.polygon(frame(-area), key, rough=14)
    three = shifted(ellipse(6.75, 6.75, 20, -0.25, 0.25), -12.4, 0)
    throw = shifted(ellipse(1.8, 1.8, 12, -0.25, 0.25), -8.2, 0)
    lines = [closed(area), three, throw]
    lines += [-points for points in lines]
    lines += [closed(outline), closed(ellipse(1.8, 1.8, 20)), np.array([(0, -7.5), (0, 7.5)])]
    paint = canvas.tint(CHALK)
    for points in lines:
        canvas.line(frame(points), paint, 0.15)
    return True


def mown_grass(canvas: Canvas, frame: Frame, length: float, width: float, color: Color) -> None:
    """Grass in stripes of two brightnesses."""
    canvas.polygon(frame(rectangle(length, width)), color, rough=30)
    step = length / int(canvas.rng.integers(8, 22))
    for x in np.arange(-length / 2 + step / 2, length / 2, 2 * step):
        stripe = frame.at(float(x), 0)(rectangle(step, width))
        canvas.polygon(stripe, shade(color, 1.1), alpha=170)


def pitch_lines(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """The markings of a soccer field."""
    outline = rectangle(length, width)
    lines = [closed(outline), np.array([(0, -width / 2), (0, width / 2)]), ellipse(9.15, 9.15, 32)]
    for deep, wide in ((16.5, 40.3), (5.5, 18.3)):
        box = shifted(closed(rectangle(deep, wide)), (length - deep) / 2, 0)
        lines += [box, -box]
    for points in lines:
        canvas.line(frame(points), CHALK, 0.2, 0.85)


def soccer_field(canvas: Canvas, frame: Frame) -> bool:
    """A field, 95-108 × 60-70 m up to its lines."""
    length, width = canvas.rng.uniform(95, 108), canvas.rng.uniform(60, 70)
    if not canvas.claim(frame(rectangle(length, width)), SOCCER):
        return False
    mown_grass(canvas, frame, length + 6, width + 6, canvas.pick(TURFS, 8))
    pitch_lines(canvas, frame, length, width)
    return True


def track_field(canvas: Canvas, frame: Frame) -> bool:
    """A 400 m track of 6-8 lanes with its infield, up to 176.9 × 92.5 m."""
    rng = canvas.rng
    straight, inner, lanes = 84.39, 36.5, int(rng.integers(6, 9))
    outline = stadium(straight, inner + 1.22 * lanes)
    if not canvas.claim(frame(outline), TRACK):
        return False
    tartan, grass = canvas.pick(TARTANS, 8), canvas.pick([*LAWNS, *TURFS], 8)
    canvas.polygon(frame(outline), tartan, rough=16)
    for lane in range(lanes + 1):
        loop = closed(stadium(straight, inner + 1.22 * lane))
        canvas.line(frame(loop), (222, 214, 206), 0.12, 0.7)
    ends = tartan if rng.random() < 0.35 else grass
    canvas.polygon(frame(stadium(straight, inner)), ends, rough=26)
    mown_grass(canvas, frame, 100, 62, grass)
    if rng.random() < 0.8:
        pitch_lines(canvas, frame, 98, 60)
    if rng.random() < 0.6:
        for x in np.arange(-45, 46, 4.57):
            canvas.line(frame([(x, -24), (x, 24)]), CHALK, 0.15, 0.7)
    return True


def outfield(canvas: Canvas, frame: Frame, scale: float, grass: Color) -> None:
    """The outfield of a diamond at the same frame; paint all outfields before the diamonds."""
    radius = canvas.rng.uniform(60, 105)
    fan = np.concatenate([[(-6, 0)], ellipse(radius, radius, 24, -0.128, 0.128)]) * scale
    canvas.polygon(frame(fan), shade(grass, 1.06), rough=34, alpha=190)


def diamond(canvas: Canvas, frame: Frame, scale: float, clay: Color, grass: Color) -> bool:
    """A baseball infield with home plate at the frame's origin and the pitcher along x.

    `scale` 1 is the full-size field: bases 27.4 m apart, the skin's arc 27-30 m around the mound.
    """
    rng = canvas.rng
    arc_radius, mound = rng.uniform(27, 30.5), (18.4, 0)
    arc = shifted(ellipse(arc_radius, arc_radius, 26, -0.2, 0.2), *mound)
    outline = hull(np.concatenate([arc, ellipse(4, 4, 16)])) * scale
    if not canvas.claim(frame(outline), DIAMOND):
        return False
    canvas.polygon(frame(outline), clay, rough=18)
    base = 27.4 / np.sqrt(2)
    if rng.random() < 0.7:
        inner: Points = np.array([(0.14, 0), (1, -0.82), (1.84, 0), (1, 0.82)]) * base
        canvas.polygon(frame(inner * scale), grass, rough=30)
        cuts = [(mound, 2.7), ((0, 0), 4), ((base, base), 3.2), ((2 * base, 0), 3.2)]
        for position, radius in [*cuts, ((base, -base), 3.2)]:
            canvas.polygon(
                frame(shifted(ellipse(radius, radius, 16), *position) * scale), clay, rough=18
            )
    for s in (-1, 1):
        canvas.line(frame(np.array([(0, 0), (45, s * 45)]) * scale), CHALK, 0.15, 0.8)
        backstop = np.array([(-5, 0), (4, s * 12)]) * scale
        canvas.line(frame(backstop), (150, 150, 148), 0.4)
    return True
