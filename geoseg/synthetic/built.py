"""Built-up land: housing, parking lots, industry and airports.

Each function fills a rectangle around the origin of a frame, its length along x, in meters.
"""

from __future__ import annotations

import numpy as np

from geoseg.synthetic.canvas import Canvas, Color, shade
from geoseg.synthetic.geometry import Frame, Points, closed, ellipse, rectangle
from geoseg.synthetic.greens import GREENS, trees
from geoseg.synthetic.sports import LAWNS
from geoseg.synthetic.structures import ASPHALT, CONCRETE, hall, house, pool, tank, tree
from geoseg.synthetic.vehicles import WHITE, car, plane, truck

YELLOW: Color = (206, 176, 60)


def suburb(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Rows of houses back to back, with sheds, pools, drives, cars and trees."""
    rng = canvas.rng
    ground = canvas.pick([*LAWNS, (104, 112, 72), (120, 112, 80)])
    canvas.polygon(frame(rectangle(length, width)), ground, rough=60, alpha=200)
    plot, rows = rng.uniform(17, 26), max(int(width // 48), 1)
    depth = width / rows / 2
    for row in range(rows):
        for x in np.arange(-length / 2 + plot / 2, length / 2 - plot / 2 + 1, plot):
            for heading in (0, np.pi):
                lot = frame.at(float(x), (2 * row + 1) * depth - width / 2, heading)
                if canvas.shows(lot.at(0, depth / 2)(rectangle(plot, depth))):
                    _plot(canvas, lot, plot, depth)
    trees(canvas, frame, length, width, 45)


def _plot(canvas: Canvas, lot: Frame, wide: float, depth: float) -> None:
    """One household; y runs from the garden's end to the street, over `depth` meters."""
    rng = canvas.rng
    front = depth - rng.uniform(8, 11)
    home = lot.at(rng.normal(0, 1), front, rng.normal(0, 0.04))
    house(canvas, home, rng.uniform(10, wide - 4), rng.uniform(7.5, 11))
    if rng.random() < 0.4:
        house(canvas, lot.at(rng.uniform(-6, 6), front - 11), rng.uniform(3, 6), 3)
    drive = lot.at(wide / 2 - 2.2, depth - 5, np.pi / 2)
    canvas.polygon(drive(rectangle(10, 3.4)), canvas.pick([CONCRETE, ASPHALT]), rough=10)
    if rng.random() < 0.6:
        car(canvas, drive.at(rng.uniform(-2, 1), 0, rng.normal(0, 0.05)))
    if rng.random() < 0.45:
        spot = lot.at(rng.uniform(-4, 4), depth * 0.26, rng.normal(0, 0.2))
        pool(canvas, spot, rng.uniform(6.5, 12))


def parking_lot(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Double rows of bays, filled to a random share, some with trees between."""
    rng = canvas.rng
    surface = canvas.pick([ASPHALT, (84, 84, 86), (122, 120, 116)])
    canvas.polygon(frame(rectangle(length, width)), surface, rough=22)
    filled, slant, planted = rng.uniform(0.3, 0.95), rng.choice([0, 0, 0.35]), rng.random() < 0.4
    for y in np.arange(-width / 2 + 8, width / 2 - 4, 17.0):
        for s in (-1, 1):
            for x in np.arange(-length / 2 + 4, length / 2 - 4, 2.6):
                bay = frame.at(float(x), float(y) + s * 2.6, -s * np.pi / 2 + slant)
                if not canvas.shows(bay(rectangle(5, 2.5))):
                    continue
                canvas.line(bay([(-2.5, -1.3), (2.5, -1.3)]), (220, 220, 214), 0.12, 0.9)
                if rng.random() < filled:
                    dx, dy, angle = rng.normal(0, (0.2, 0.1, 0.03))
                    car(canvas, bay.at(dx, dy, angle))
        for x in np.arange(-length / 2 + 6, length / 2 - 6, 15) if planted else ():
            spot = frame.at(float(x), float(y))
            tree(canvas, spot.x, spot.y, rng.uniform(1.5, 3), GREENS[0])


def truck_yard(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Rows of buses or trucks before a depot, and some cars."""
    rng = canvas.rng
    surface = canvas.pick([ASPHALT, (128, 126, 122), CONCRETE])
    canvas.polygon(frame(rectangle(length, width)), surface, rough=24)
    hall(canvas, frame.at(0, -width / 2 + 11), length * rng.uniform(0.4, 0.7), 16)
    heading, buses = np.pi / 2 + rng.choice([0, 0.5, -0.5]), rng.choice([0.1, 0.9])
    pitch = rng.uniform(3.6, 5)
    for y in np.arange(-width / 2 + 32, width / 2 - 8, 24):
        for x in np.arange(-length / 2 + 10, length / 2 - 8, pitch):
            bay = frame.at(float(x), float(y), heading)
            if rng.random() < 0.65 and canvas.shows(bay(rectangle(12, 3))):
                spot = bay.at(rng.normal(0, 0.4), 0, rng.normal(0, 0.02))
                truck(canvas, spot, bus=bool(rng.random() < buses))
    for x in np.arange(-length / 2 + 4, length / 2 - 4, 2.7):
        if rng.random() < 0.5:
            car(canvas, frame.at(float(x), width / 2 - 4, np.pi / 2))


def industry(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Large halls, and between them trucks, cars and small tanks."""
    rng = canvas.rng
    surface = canvas.pick([CONCRETE, (136, 132, 124), ASPHALT])
    canvas.polygon(frame(rectangle(length, width)), surface, rough=28)
    for _ in range(int(length * width / 1500) + 1):
        long, wide = rng.uniform(15, 0.5 * length), rng.uniform(12, 0.5 * width)
        x, y = rng.uniform(-0.5, 0.5, 2) * (length - long, width - wide)
        hall(canvas, frame.at(x, y), long, wide)
    headings = rng.choice([0, np.pi / 2], int(length * width / 500))
    traffic(canvas, frame, length, width, headings + rng.normal(0, 0.03, headings.size))
    for _ in range(int(length * width / 3000)):
        x, y = rng.uniform(-0.45, 0.45, 2) * (length, width)
        tank(canvas, frame.at(x, y), rng.uniform(3, 7))


def traffic(canvas: Canvas, frame: Frame, length: float, width: float, headings: Points) -> None:
    """Cars and trucks at random positions, one for each heading (radians)."""
    rng = canvas.rng
    for heading in headings:
        x, y = rng.uniform(-0.46, 0.46, 2) * (length, width)
        spot = frame.at(x, y, heading)
        if not canvas.is_free(spot(rectangle(18, 5))):
            continue
        if rng.random() < 0.6:
            car(canvas, spot)
        else:
            truck(canvas, spot, bus=bool(rng.random() < 0.2))


def tank_farm(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Rows of storage tanks within banks, each row with its own radius."""
    rng = canvas.rng
    ground = canvas.pick([*LAWNS[:2], (150, 144, 130), (128, 124, 112), (120, 122, 90)])
    canvas.polygon(frame(rectangle(length, width)), ground, rough=40)
    bank = canvas.pick([(178, 168, 144), (110, 112, 84), (140, 138, 130)])
    y = -width / 2
    while y < width / 2 - 12:
        radius = min(float(rng.choice([4, 6, 9, 12, 16, 20])), width / 3.2, length / 3.2)
        pitch = radius * rng.uniform(2.5, 3.3)
        for x in np.arange(-length / 2 + pitch / 2 + 2, length / 2 - pitch / 2, pitch):
            spot = frame.at(float(x), y + pitch / 2 + 2, rng.uniform(0, 2 * np.pi))
            if y + pitch < width / 2 - 2 and canvas.shows(spot(ellipse(radius, radius)), 0.6):
                square = Frame(spot.x, spot.y, frame.angle)(rectangle(pitch - 1, pitch - 1))
                canvas.line(closed(square), bank, 1.4, 0.8)
                if rng.random() < 0.9:
                    tank(canvas, spot, radius)
        y += pitch + rng.uniform(1, 8)


def airport(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """An apron: often a terminal on one side, rows of parked planes, service vehicles."""
    rng = canvas.rng
    apron = canvas.pick([CONCRETE, (190, 186, 176), (148, 146, 142), (120, 118, 118)])
    canvas.polygon(frame(rectangle(length, width)), apron, rough=20)
    slab = rng.uniform(6, 15)
    for x in np.arange(-length / 2, length / 2, slab):
        canvas.line(frame([(x, -width / 2), (x, width / 2)]), shade(apron, 0.88), 0.3, 0.5)
    for y in np.arange(-width / 2, width / 2, slab):
        canvas.line(frame([(-length / 2, y), (length / 2, y)]), shade(apron, 0.88), 0.3, 0.5)
    for _ in range(int(length * width / 600)):
        x, y = rng.uniform(-0.5, 0.5, 2) * (length, width)
        stain = frame.at(x, y)(ellipse(rng.uniform(2, 14), rng.uniform(1, 4), 14))
        canvas.polygon(stain, shade(apron, rng.choice([0.8, 0.88, 1.06])), alpha=70)
    y = -width / 2
    if width > 100 and rng.random() < 0.7:
        hall(canvas, frame.at(0, y + 12), length * rng.uniform(0.5, 0.95), 20)
        y += 24
    room = min(length, width / 2 - y, 350)
    fitting = [size for size in (11, 28, 38, 45, 62) if size * 1.25 < room < size * 6]
    size = float(rng.choice(fitting))
    gap, angle = rng.uniform(1.15, 1.7), rng.choice([0, 0, 0.5, -0.5])
    while y + size * 1.2 < width / 2:
        row = y + size * 0.62
        y += size * rng.uniform(1.35, 1.8)
        heading = rng.choice([-1, 1]) * np.pi / 2 + angle
        taxi = frame([(-length / 2, row + size * 0.66), (length / 2, row + size * 0.66)])
        canvas.line(taxi, YELLOW, 0.35)
        for x in np.arange(-length / 2 + size * 0.62, length / 2 - size * 0.55, size * gap):
            stand = frame.at(float(x), row, heading)
            canvas.line(stand([(-size * 0.6, 0), (size * 0.6, 0)]), YELLOW, 0.3)
            spot = stand.at(0, 0, rng.normal(0, 0.06))
            if rng.random() < 0.85 and canvas.shows(spot(ellipse(size / 2, size / 2, 8)), 0.7):
                plane(canvas, spot, size * rng.uniform(0.82, 1.0))
    traffic(canvas, frame, length, width, rng.uniform(0, 2 * np.pi, int(length * width / 900)))
    canvas.reserve(frame(rectangle(length, width)))


def runway(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """A runway or taxiway along x between grass verges, and planes on it."""
    rng = canvas.rng
    verge = canvas.pick([*LAWNS, (122, 112, 78), (96, 100, 66)])
    canvas.polygon(frame(rectangle(length, width)), verge, rough=50, alpha=235)
    wide = min(rng.uniform(22, 46), width * 0.6)
    tarmac = canvas.pick([(88, 86, 88), (120, 118, 116), CONCRETE])
    canvas.polygon(frame(rectangle(length, wide)), tarmac, rough=24)
    paint, bold = (YELLOW, 0.5) if rng.random() < 0.5 else (WHITE, 0.9)
    canvas.line(frame([(-length / 2, 0), (length / 2, 0)]), paint, bold)
    for y in (-0.46 * wide, 0.46 * wide):
        canvas.line(frame([(-length / 2, y), (length / 2, y)]), (230, 228, 220), 0.5)
    for x in np.arange(-length / 2 + 35, length / 2 - 30, 75):
        size = min(float(rng.choice([10, 30, 38, 50])), width * 0.9)
        if rng.random() < 0.6:
            heading = rng.choice([0, np.pi]) + rng.normal(0, 0.08)
            plane(canvas, frame.at(float(x), 0, heading), size)
