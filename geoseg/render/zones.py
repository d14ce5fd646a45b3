"""What fills the plots of a scene: one function a land use, each covering a rectangle.

A zone gets the frame of its centre (x along its length) and its size in metres.
"""

from __future__ import annotations

import numpy as np

from . import objects as things
from .canvas import Canvas, Color, Frame, ellipse, rectangle
from .objects import ASPHALT, CONCRETE, GRASS, SOIL, WHITE, pick, shade

GREENS: list[Color] = [(58, 78, 44), (48, 68, 40), (66, 84, 46), (40, 58, 36), (76, 88, 56)]


def trees(canvas: Canvas, frame: Frame, length: float, width: float, per_hectare: float) -> None:
    """Trees at random over a rectangle."""
    rng = canvas.rng
    green = pick(canvas, GREENS, 6)
    count = rng.poisson(per_hectare * length * width / 1e4)
    places = frame(rng.uniform(-0.5, 0.5, (count, 2)) * (length, width))
    for x, y in places:
        if canvas.sees(np.array([(x, y)])):
            things.tree(canvas, x, y, rng.uniform(1.6, 5.5), green)


def suburb(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Two rows of houses back to back, with pools, drives, cars and trees."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width)), pick(canvas, [GRASS, (104, 112, 72), (120, 112, 80)]), rough=80, alpha=210)
    plot, rows = rng.uniform(17, 26), max(int(width // 42), 1)
    depth = width / rows
    for row in range(rows):
        y = -width / 2 + depth * (row + 0.5)
        for x in np.arange(-length / 2 + plot / 2, length / 2 - plot / 2 + 1, plot):
            for s in (-1, 1):
                lot = frame.at(float(x), y, 0 if s > 0 else np.pi)
                if not canvas.sees(lot(rectangle(plot, depth))):
                    continue
                front = depth / 2 - rng.uniform(8, 11)
                things.house(canvas, lot.at(rng.normal(0, 1.5), front, rng.normal(0, 0.04)), rng.uniform(10, plot - 4), rng.uniform(7.5, 11))
                if rng.random() < 0.4:
                    things.house(canvas, lot.at(rng.uniform(-6, 6), front - 11), rng.uniform(3, 6), 3)
                drive = lot.at(plot / 2 - 2.2, depth / 2 - 5)
                canvas.polygon(drive(rectangle(3.4, 10)), pick(canvas, [CONCRETE, ASPHALT]), rough=10)
                if rng.random() < 0.6:
                    things.car(canvas, drive.at(0, rng.uniform(-2, 1), np.pi / 2 + rng.normal(0, 0.05)))
                if rng.random() < 0.35:
                    things.pool(canvas, lot.at(rng.uniform(-4, 4), depth * 0.13, rng.normal(0, 0.2)))
    trees(canvas, frame, length, width, 45)


def car_park(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Double rows of bays, filled to a random share."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width)), pick(canvas, [ASPHALT, (84, 84, 86), (122, 120, 116)]), rough=22)
    filled, heading = rng.uniform(0.3, 0.95), rng.choice([0.0, 0.0, 0.35])
    for y in np.arange(-width / 2 + 5, width / 2 - 4, 17.0):
        for s, shift in ((1, 0.0), (-1, 5.2)):
            for x in np.arange(-length / 2 + 4, length / 2 - 4, 2.6):
                bay = frame.at(float(x), float(y) + shift, s * np.pi / 2 + heading)
                if not canvas.sees(bay(rectangle(5, 2.5))):
                    continue
                canvas.line(bay([(-2.5, -1.3), (2.5, -1.3)]), (220, 220, 214), 0.12, 0.9)
                if rng.random() < filled:
                    things.car(canvas, bay.at(rng.normal(0, 0.2), rng.normal(0, 0.1), rng.normal(0, 0.03)))
        if rng.random() < 0.4:
            for x in np.arange(-length / 2 + 6, length / 2 - 6, 15):
                tx, ty = frame([(x, y + 2.6)])[0]
                things.tree(canvas, tx, ty, rng.uniform(1.5, 3), GREENS[0])


def truck_yard(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Rows of buses or lorries, a depot and some cars."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width)), pick(canvas, [ASPHALT, (128, 126, 122), CONCRETE]), rough=24)
    things.house(canvas, frame.at(0, -width / 2 + 11), length * rng.uniform(0.4, 0.7), 16, flat=True)
    heading, bus = np.pi / 2 + rng.choice([0.0, 0.5, -0.5]), bool(rng.random() < 0.5)
    for y in np.arange(-width / 2 + 32, width / 2 - 8, 24):
        for x in np.arange(-length / 2 + 10, length / 2 - 8, rng.uniform(3.6, 5)):
            bay = frame.at(float(x), float(y), heading)
            if rng.random() < 0.65 and canvas.sees(bay(rectangle(12, 3))):
                things.truck(canvas, bay.at(rng.normal(0, 0.4), 0, rng.normal(0, 0.02)), bus if rng.random() < 0.85 else None)
    for x in np.arange(-length / 2 + 4, length / 2 - 4, 2.7):
        if rng.random() < 0.5:
            things.car(canvas, frame.at(float(x), width / 2 - 4, np.pi / 2))


def courts(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Tennis or basketball courts side by side in a lawn."""
    rng = canvas.rng
    park(canvas, frame, length, width, 0)
    basket = rng.random() < 0.45
    long, wide = (33.0, 19.0) if basket else (36.0, 17.5)
    palette: list[Color] = [(62, 98, 76), (70, 112, 84), (54, 92, 128), (64, 106, 146), (146, 80, 62), (128, 128, 124), (166, 104, 72), (106, 128, 88)]
    surface, around = pick(canvas, palette), pick(canvas, palette)
    if basket and rng.random() < 0.5:
        surface = around = pick(canvas, [ASPHALT, (132, 130, 126), (150, 146, 138)])
    columns, rows = max(int((length - 8) // long), 1), max(int((width - 8) // wide), 1)
    columns, rows = min(columns, int(rng.integers(1, 5))), min(rows, int(rng.integers(1, 7)))
    spot = frame.at(rng.uniform(-0.5, 0.5) * max(length - columns * long - 6, 0), rng.uniform(-0.5, 0.5) * max(width - rows * wide - 6, 0))
    canvas.polygon(spot(rectangle(columns * long, rows * wide)), around, rough=14)
    for column in range(columns):
        for row in range(rows):
            place = spot.at((column - (columns - 1) / 2) * long, (row - (rows - 1) / 2) * wide)
            if not canvas.sees(place(rectangle(long, wide)), 0.5):
                continue
            if basket:
                things.basketball_court(canvas, place, surface, around if rng.random() < 0.5 else pick(canvas, palette))
            else:
                things.tennis_court(canvas, place, surface)
    trees(canvas, frame, length, width, 22)


def park(canvas: Canvas, frame: Frame, length: float, width: float, per_hectare: float = 60) -> None:
    """Lawn with trees and paths."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width)), pick(canvas, [GRASS, (76, 100, 56), (108, 118, 70)]), rough=60, alpha=225)
    for _ in range(2):
        y = rng.uniform(-0.5, 0.5, 4) * width
        path = np.stack([np.linspace(-0.5, 0.5, 25) * length, np.interp(np.linspace(0, 3, 25), range(4), y)], 1)
        canvas.line(frame(path), (176, 166, 144), 2.0, 0.8)
    trees(canvas, frame, length, width, per_hectare)


def forest(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Dense trees."""
    canvas.polygon(frame(rectangle(length, width)), canvas.tint((44, 58, 36), 6), rough=130)
    trees(canvas, frame, length, width, 190)


def farmland(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A crop or fallow field with drill rows."""
    rng = canvas.rng
    color = pick(canvas, [SOIL, (134, 124, 78), (106, 122, 66), (164, 146, 102), (84, 104, 56), (118, 96, 72)])
    canvas.polygon(frame(rectangle(length, width)), color, rough=int(rng.integers(25, 70)))
    for y in np.arange(-width / 2, width / 2, rng.uniform(2.5, 12)):
        canvas.line(frame([(-length / 2, y), (length / 2, y)]), shade(color, rng.choice([0.88, 1.1])), rng.uniform(0.4, 1.2), 0.6)


def stadium_ground(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A running track in its lawn, with stands."""
    park(canvas, frame, length, width, 0)
    if length < width:
        frame, length, width = frame.at(0, 0, np.pi / 2), width, length
    if things.track_field(canvas, frame) and width > 116:
        things.house(canvas, frame.at(0, 56), 60, 8, flat=True)
    trees(canvas, frame, length, width, 30)


def soccer_ground(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A soccer pitch in its lawn."""
    park(canvas, frame, length, width, 0)
    if length < width:
        frame, length, width = frame.at(0, 0, np.pi / 2), width, length
    things.soccer_field(canvas, frame)
    trees(canvas, frame, length, width, 35)


def ball_park(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Baseball diamonds that look inward from the corners of a lawn."""
    rng = canvas.rng
    park(canvas, frame, length, width, 0)
    scale = float(np.clip(min(length, width) / 130, 0.62, 1.0)) * rng.uniform(0.85, 1)
    corners = [(-1, -1), (1, 1), (1, -1), (-1, 1)]
    for sx, sy in corners[: 1 + int(rng.integers(4)) * (min(length, width) > 110 * scale)]:
        home = frame.at(sx * (length / 2 - 12), sy * (width / 2 - 12), np.arctan2(-sy, -sx) + rng.normal(0, 0.08))
        if canvas.sees(home([(0, 0), (40 * scale, 0)]), 0.9):
            things.diamond(canvas, home, scale)
    trees(canvas, frame, length, width, 20)


def tank_farm(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Storage tanks on a grid, each row with its own radius, within banks."""
    rng = canvas.rng
    ground = pick(canvas, [GRASS, (150, 144, 130), (128, 124, 112), (120, 122, 90)])
    canvas.polygon(frame(rectangle(length, width)), ground, rough=45)
    y = -width / 2
    while y < width / 2 - 12:
        radius = min(float(rng.choice([4, 6, 9, 12, 16, 20])), width / 3, length / 3)
        pitch = radius * rng.uniform(2.5, 3.3)
        for x in np.arange(-length / 2 + pitch / 2 + 2, length / 2 - pitch / 2, pitch):
            place = frame.at(float(x), y + pitch / 2 + 2)
            if y + pitch > width / 2 - 2 or not canvas.sees(place(ellipse(radius, radius)), 0.6):
                continue
            bank = place(rectangle(pitch - 1, pitch - 1)[[0, 1, 2, 3, 0]])
            canvas.line(bank, pick(canvas, [(178, 168, 144), (110, 112, 84)]), 1.4, 0.8)
            if rng.random() < 0.9:
                things.tank(canvas, place.at(0, 0, rng.uniform(0, 6)), radius)
        y += pitch + rng.uniform(1, 8)


def industry(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Large flat roofs, yards, lorries and a few tanks."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width)), pick(canvas, [CONCRETE, (136, 132, 124), ASPHALT]), rough=28)
    for _ in range(int(length * width / 1500) + 1):
        x, y = rng.uniform(-0.4, 0.4, 2) * (length, width)
        things.house(canvas, frame.at(x, y, rng.choice([0, np.pi / 2])), rng.uniform(15, 0.5 * length), rng.uniform(12, 0.5 * width), flat=rng.random() < 0.8)
    for _ in range(int(length * width / 500)):
        x, y = rng.uniform(-0.46, 0.46, 2) * (length, width)
        place = frame.at(x, y, rng.choice([0, np.pi / 2]) + rng.normal(0, 0.03))
        if canvas.taken_at(place(rectangle(20, 5))):
            continue
        if rng.random() < 0.5:
            things.truck(canvas, place)
        elif rng.random() < 0.7:
            things.car(canvas, place)
        else:
            things.tank(canvas, place, rng.uniform(3, 7))


def airport(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """An apron: terminal along one side, planes nose-in, others parked or taxiing."""
    rng = canvas.rng
    apron = pick(canvas, [CONCRETE, (190, 186, 176), (148, 146, 142), (120, 118, 118)])
    canvas.polygon(frame(rectangle(length, width)), apron, rough=22)
    for x in np.arange(-length / 2, length / 2, rng.uniform(6, 15)):
        canvas.line(frame([(x, -width / 2), (x, width / 2)]), shade(apron, 0.88), 0.3, 0.5)
    for _ in range(int(length * width / 600)):
        x, y = rng.uniform(-0.5, 0.5, 2) * (length, width)
        stain = frame.at(x, y)(ellipse(rng.uniform(2, 14), rng.uniform(1, 4), 14))
        canvas.polygon(stain, shade(apron, rng.choice([0.8, 0.88, 1.06])), alpha=70)
    light = rng.random() < 0.25
    size = float(rng.uniform(8, 14) if light else rng.choice([28, 38, 45, 62]))
    y = -width / 2
    if rng.random() < 0.7:
        things.house(canvas, frame.at(0, y + 12), length * rng.uniform(0.5, 0.95), 20, flat=True)
        y += 24
    while y + size * 1.15 < width / 2:
        row = y + size * 0.62
        y += size * rng.uniform(1.35, 1.8)
        heading = rng.choice([-1, 1]) * np.pi / 2 + (rng.choice([0, 0.6, -0.6]) if light else 0)
        canvas.line(frame([(-length / 2, row + size * 0.66), (length / 2, row + size * 0.66)]), (206, 176, 60), 0.35)
        for x in np.arange(-length / 2 + size * 0.62, length / 2 - size * 0.55, size * rng.uniform(1.15, 1.6)):
            stand = frame.at(float(x), row)
            canvas.line(stand([(0, -size * 0.5), (0, size * 0.66)]), (206, 176, 60), 0.3)
            length_here = size * rng.uniform(0.82, 1.0)
            place = stand.at(0, 0, heading + rng.normal(0, 0.06))
            if rng.random() < 0.72 and canvas.sees(place(ellipse(size / 2, size / 2, 8)), 0.7):
                things.plane(canvas, place, length_here)
    for _ in range(int(length * width / 900)):
        x, y = rng.uniform(-0.48, 0.48, 2) * (length, width)
        place = frame.at(x, y, rng.uniform(0, 6.3))
        if not canvas.taken_at(place(rectangle(14, 5))):
            (things.car if rng.random() < 0.7 else things.truck)(canvas, place)


def runway(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Grass, a runway or taxiway along x, and planes rolling on it."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width)), pick(canvas, [GRASS, (122, 112, 78), (96, 100, 66)]), rough=70, alpha=235)
    wide = min(rng.uniform(22, 46), width * 0.6)
    tarmac = pick(canvas, [(88, 86, 88), (120, 118, 116), CONCRETE])
    canvas.polygon(frame(rectangle(length, wide)), tarmac, rough=24)
    yellow = rng.random() < 0.5
    canvas.line(frame([(-length / 2, 0), (length / 2, 0)]), (204, 172, 60) if yellow else WHITE, 0.5 if yellow else 0.9)
    for s in (-1, 1):
        canvas.line(frame([(-length / 2, s * wide * 0.46), (length / 2, s * wide * 0.46)]), (230, 228, 220), 0.5)
    for x in np.arange(-length / 2 + 30, length / 2 - 25, 75):
        if rng.random() < 0.6:
            size = min(float(rng.choice([10, 30, 38, 50])), width * 0.9)
            things.plane(canvas, frame.at(float(x), 0, rng.choice([0, np.pi]) + rng.normal(0, 0.08)), size)


def water(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A river or basin along x, over its whole width: bridges, piers, boats and ships."""
    rng = canvas.rng
    x = np.linspace(-length / 2, length / 2, 60)
    wobble = sum(rng.uniform(0.5, 4) * np.sin(x / rng.uniform(14, 70) + rng.uniform(0, 6)) for _ in range(3))
    banks = [np.stack([x, s * (width / 2 - 4) + wobble * rng.uniform(0.4, 1)], 1) for s in (-1, 1)]
    shore = np.concatenate([banks[0], banks[1][::-1]])
    sea = pick(canvas, [(44, 66, 66), (36, 52, 58), (56, 80, 76), (30, 42, 44), (62, 86, 96), (34, 60, 84)], 8)
    canvas.polygon(frame(shore * (1, 1 + 7 / width)), pick(canvas, [SOIL, (128, 124, 100), CONCRETE]), rough=70)
    canvas.polygon(frame(shore), shade(sea, 1.12), rough=10)
    canvas.polygon(frame(shore * (1, 1 - 8 / width)), sea, rough=10)
    for at in np.arange(-length / 2 + 40, length / 2, rng.uniform(150, 320)):
        place = frame.at(float(at), 0, np.pi / 2 + rng.normal(0, 0.05))
        if rng.random() < 0.75 and canvas.sees(place(rectangle(width, 14)), 0.7):
            deck = rng.uniform(9, 24)
            canvas.polygon(place(rectangle(width + 46, deck * 0.78)), canvas.tint(ASPHALT), rough=14)
            things.bridge(canvas, place, width + 2, deck)
    if width > 55 and rng.random() < 0.75:
        start, s = rng.uniform(-0.4, 0.3) * length, rng.choice([-1, 1])
        boat, reach = rng.uniform(7, 14), min(width * 0.5, 90)
        step = 2 * (1.6 + boat * 1.12) + rng.uniform(5, 14)
        for i in range(int(rng.integers(2, 7))):
            root = frame.at(start + i * step, s * (width / 2 - 5), -s * np.pi / 2)
            long = reach * rng.uniform(0.6, 1)
            if canvas.sees(root(rectangle(long, 2) + (long / 2, 0)), 0.7):
                things.pier(canvas, root, long, boat)
    for _ in range(int(length * width / 1800)):
        x0, y0 = rng.uniform(-0.5, 0.5) * length, rng.uniform(-0.5, 0.5) * (width - 24)
        big = rng.random() < 0.5 and width > 60
        size = rng.uniform(40, min(190, 2.4 * width)) if big else rng.uniform(6, 24)
        place = frame.at(x0, y0, (0 if big else rng.uniform(0, 6.3)) + rng.choice([0, np.pi]) + rng.normal(0, 0.1))
        room = place(rectangle(size * 1.15, size * 0.35))
        local = abs(y0) + size * (0.18 if big else 0.5)
        if local < width / 2 - 9 and canvas.sees(room, 0.7) and not canvas.taken_at(room):
            if rng.random() < 0.3 and not big:
                canvas.polygon(place([(-0.5 * size, 0), (-4 * size, 0.5 * size), (-4 * size, -0.5 * size)]), WHITE, alpha=40)
            things.ship(canvas, place, size)


def street(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A road along x with markings and traffic on both sides."""
    rng = canvas.rng
    canvas.polygon(frame(rectangle(length, width + 4)), pick(canvas, [CONCRETE, (126, 122, 110), GRASS]), rough=30)
    canvas.polygon(frame(rectangle(length, width)), canvas.tint(ASPHALT, 14), rough=20)
    lane(canvas, frame, length, width)
    x = -length / 2
    while x < length / 2:
        x += rng.exponential(26) + 9
        s = rng.choice([-1, 1])
        place = frame.at(x, s * width * rng.choice([0.2, 0.22, 0.36]), (np.pi if s > 0 else 0) + rng.normal(0, 0.02))
        if canvas.sees(place(rectangle(5, 2))):
            (things.truck if rng.random() < 0.12 else things.car)(canvas, place)


lane = things.lane
