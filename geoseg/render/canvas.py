"""Where a scene is painted: metres in, anti-aliased picture and exact mask out."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SUPERSAMPLING = 3
Color = tuple[int, int, int]
Points = np.ndarray
"""(N, 2) float x, y: metres from the upper left corner of the scene unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A place and a heading on the ground; maps local metres to scene metres."""

    x: float
    """Origin, metres from the left edge."""
    y: float
    """Origin, metres from the upper edge."""
    angle: float = 0.0
    """Heading of the local x axis, radians, clockwise in the picture."""

    def __call__(self, points: Points | list[tuple[float, float]]) -> Points:
        """Local points (N, 2) in the scene's metres."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.asarray(points, float) @ np.array([[c, s], [-s, c]]) + (self.x, self.y)

    def at(self, x: float, y: float, angle: float = 0.0) -> Frame:
        """The frame whose origin is at local (x, y), turned by `angle` more."""
        ((x, y),) = self([(x, y)])
        return Frame(float(x), float(y), self.angle + angle)


def rectangle(length: float, width: float) -> Points:
    """Corners of a rectangle around the origin."""
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (length / 2, width / 2)


def ellipse(rx: float, ry: float, vertices: int = 40, start: float = 0, stop: float = 1) -> Points:
    """An ellipse around the origin, or the arc of it between two fractions of a turn."""
    turn = 2 * np.pi * np.linspace(start, stop, vertices, endpoint=stop - start < 1)
    return np.stack([rx * np.cos(turn), ry * np.sin(turn)], 1)


def stadium(straight: float, radius: float) -> Points:
    """Two half circles joined by straights: the outline of a running track."""
    right = ellipse(radius, radius, 24, -0.25, 0.25) + (straight / 2, 0)
    return np.concatenate([right, -right])


def hull(points: Points) -> Points:
    """Convex hull (Andrew's monotone chain)."""
    ordered = sorted(map(tuple, points.tolist()))

    def chain(sequence: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        out: list[tuple[float, ...]] = []
        for p in sequence:
            while len(out) > 1 and (
                (out[-1][0] - out[-2][0]) * (p[1] - out[-2][1])
                <= (out[-1][1] - out[-2][1]) * (p[0] - out[-2][0])
            ):
                out.pop()
            out.append(p)
        return out[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def rasterize(polygon: Points, height: int, width: int) -> tuple[slice, slice, np.ndarray]:
    """The pixels whose centres lie in a polygon (even-odd rule), as rows, columns and bool mask.

    `polygon` is in pixels. Every crossing of an edge with a row's centre line toggles the rest
    of that row; counting them gives the inside.
    """
    low, high = np.floor(polygon.min(0)), np.ceil(polygon.max(0))
    x0, y0 = (int(v) for v in np.clip(low, 0, (width, height)))
    x1, y1 = (int(v) for v in np.clip(high, 0, (width, height)))
    toggles = np.zeros((max(y1 - y0, 0), max(x1 - x0, 0) + 1), np.int32)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        first = max(int(np.ceil(min(ay, by) - 0.5)), y0)
        last = min(int(np.ceil(max(ay, by) - 0.5)), y1)
        if first >= last:
            continue
        rows = np.arange(first, last)
        crossing = ax + (rows + 0.5 - ay) * (bx - ax) / (by - ay)
        columns = np.clip(np.ceil(crossing - 0.5).astype(int), x0, x1) - x0
        toggles[rows - y0, columns] += 1
    inside = (np.cumsum(toggles, 1) & 1).astype(bool)[:, :-1]
    return slice(y0, y0 + inside.shape[0]), slice(x0, x0 + inside.shape[1]), inside


class Canvas:
    """The picture and the mask while a scene is being painted.

    Things are painted in order, later ones over earlier ones. What carries a class is claimed
    first: a claim is refused where something stands already, so objects never overlap.
    """

    def __init__(self, height: int, width: int, gsd: float, rng: np.random.Generator) -> None:
        self.height, self.width, self.gsd, self.rng = height, width, gsd, rng
        self.image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        self.roughness = Image.new("L", (width, height), 30)
        self.class_ids = np.zeros((height, width), np.uint8)
        self.taken = np.zeros((height, width), bool)
        self.objects: list[tuple[int, Points]] = []
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._draw_roughness = ImageDraw.Draw(self.roughness)
        sun = rng.uniform(0, 2 * np.pi)
        self.shadow_per_metre = np.array([np.cos(sun), np.sin(sun)]) * rng.uniform(0.3, 1.1)
        self.shadow_alpha = int(rng.uniform(90, 175))

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height in metres."""
        return self.width * self.gsd, self.height * self.gsd

    def sees(self, points: Points, share: float = 0.0) -> bool:
        """Whether more than `share` of the points lie within the picture."""
        inside = ((points >= 0) & (points <= self.extent)).all(1)
        return bool(inside.mean() > share) if share else bool(inside.any())

    def polygon(self, points: Points, color: Color, rough: int | None = None, alpha: int = 255) -> None:
        """Fill a polygon; `rough` sets the amplitude of its texture (0-255, grass is about 60)."""
        scale = SUPERSAMPLING / self.gsd
        self._draw.polygon((points * scale).ravel().tolist(), fill=(*color, alpha))
        if rough is not None:
            self._draw_roughness.polygon((points / self.gsd).ravel().tolist(), fill=rough)

    def line(self, points: Points, color: Color, width: float, alpha: float = 1.0) -> None:
        """A line of true width in metres; one thinner than a sample is painted fainter instead."""
        samples = width * SUPERSAMPLING / self.gsd
        self._draw.line(
            (points * (SUPERSAMPLING / self.gsd)).ravel().tolist(),
            fill=(*color, int(255 * alpha * min(samples, 1))),
            width=max(round(samples), 1),
        )

    def shadow(self, points: Points, height: float, convex: bool = True) -> None:
        """The shadow that an outline casts, `height` metres above ground."""
        moved = points + self.shadow_per_metre * height
        shape = hull(np.concatenate([points, moved])) if convex else moved
        self.polygon(shape, (12, 14, 24), alpha=self.shadow_alpha)

    def claim(self, points: Points, class_id: int = 0) -> bool:
        """Reserve the ground under a polygon, for an object of a class or (0) for a distractor.

        False, and nothing reserved, where something stands already or no pixel would be covered.
        """
        pixels = points / self.gsd
        rows, columns, inside = rasterize(pixels, self.height, self.width)
        if not inside.any() or self.taken[rows, columns][inside].any():
            return False
        self.taken[rows, columns] |= inside
        if class_id:
            self.class_ids[rows, columns][inside] = class_id
            self.objects.append((class_id, pixels))
        return True

    def taken_at(self, points: Points) -> bool:
        """Whether something that was claimed stands under a polygon."""
        rows, columns, inside = rasterize(points / self.gsd, self.height, self.width)
        return bool(self.taken[rows, columns][inside].any())

    def tint(self, color: Color, spread: float = 10) -> Color:
        """The colour with a random change of brightness and a smaller one of hue."""
        change = self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3)
        r, g, b = (int(v) for v in np.clip(np.array(color) + change, 0, 255))
        return r, g, b

    def noise(self, metres: float) -> np.ndarray:
        """Smooth noise (H, W) of unit variance whose grain is about `metres` wide."""
        step = max(metres / self.gsd, 1.0)
        shape = (int(self.height / step) + 3, int(self.width / step) + 3)
        grid = Image.fromarray(self.rng.standard_normal(shape, np.float32))
        x, y = self.rng.uniform(0, 1, 2)
        box = (x, y, x + self.width / step, y + self.height / step)
        method = Image.Resampling.BICUBIC
        return np.asarray(grid.resize((self.width, self.height), method, box=box))

    def ground(self, colors: list[Color]) -> None:
        """Cover everything with patches that pass smoothly from one colour to the next."""
        field = self.noise(70) + 0.6 * self.noise(20) + 0.35 * self.noise(6)
        place = (np.clip(field / 3.2 + 0.5, 0, 1) * (len(colors) - 1)).ravel()
        bands = [np.interp(place, np.arange(len(colors)), band) for band in zip(*colors, strict=True)]
        pixels = np.stack(bands, 1).reshape(self.height, self.width, 3).astype(np.uint8)
        self.image.paste(Image.fromarray(pixels).resize(self.image.size, Image.Resampling.BILINEAR))
        self.roughness.paste(70, (0, 0, self.width, self.height))

    def develop(self) -> np.ndarray:
        """The photograph (H, W, 3): texture, light, lens, sensor and compression."""
        rng = self.rng
        picture = np.asarray(self.image.reduce(SUPERSAMPLING), np.float32)
        blurred = self.roughness.filter(ImageFilter.GaussianBlur(0.7))
        rough = np.asarray(blurred, np.float32)[..., None] / 255
        grain = 0.4 * self.noise(0) + 0.5 * self.noise(1.2) + 0.45 * self.noise(4) + 0.3 * self.noise(15)
        light = 1 + 0.05 * self.noise(120)[..., None]
        warm = (self.noise(25) * 0.05)[..., None] * np.array([1, 0, -1], np.float32)
        picture = picture * light * (1 + rough * (0.55 * grain[..., None] + warm))
        tone = rng.uniform(0.9, 1.2)
        gain = rng.uniform(0.75, 1.12) * rng.uniform(0.94, 1.06, 3)
        haze = rng.uniform(0, 22) * rng.uniform(0.8, 1.2, 3)
        picture = 255 * (np.clip(picture, 0, 255) / 255) ** tone * gain * (1 - haze / 255) + haze
        clean = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        soft = clean.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.75)))
        noisy = np.asarray(soft) + rng.normal(0, rng.uniform(1, 4), (self.height, self.width, 1))
        final = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        if rng.random() < 0.6:
            compressed = BytesIO()
            final.save(compressed, "JPEG", quality=int(rng.integers(60, 95)))
            final = Image.open(compressed)
        return np.array(final)
