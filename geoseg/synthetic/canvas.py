"""A canvas in meters, which becomes an anti-aliased image and an exact mask."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from geoseg.synthetic.geometry import Points, hull, rasterize

SUPERSAMPLING = 3
"""Samples per pixel and axis, for smooth edges."""
Color = tuple[int, int, int]


def shade(color: Color, factor: float) -> Color:
    """Return the color, brighter or darker by a factor."""
    r, g, b = (int(min(v * factor, 255)) for v in color)
    return r, g, b


class Canvas:
    """Image and mask of a scene while it is painted.

    Shapes are painted over earlier ones. An object must claim its ground first; a claim is refused
    if any of it is taken, so objects neither overlap nor are hidden.
    """

    def __init__(self, height: int, width: int, gsd: float, rng: np.random.Generator) -> None:
        self.height, self.width, self.gsd, self.rng = height, width, gsd, rng
        self.image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        self.roughness = Image.new("L", (width, height))
        self.class_ids = np.zeros((height, width), np.uint8)
        self.taken = np.zeros((height, width), bool)
        self.objects: list[tuple[int, Points]] = []
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._draw_roughness = ImageDraw.Draw(self.roughness)
        sun = rng.uniform(0, 2 * np.pi)
        self.shadow_per_meter = np.array([np.cos(sun), np.sin(sun)]) * rng.uniform(0.3, 1.1)
        self.shadow_alpha = int(rng.uniform(90, 185))

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height in meters."""
        return self.width * self.gsd, self.height * self.gsd

    def shows(self, points: Points, share: float = 0.0) -> bool:
        """Return whether more than `share` of the points lie within the image."""
        return bool(((points >= 0) & (points <= self.extent)).all(axis=1).mean() > share)

    def polygon(
        self, points: Points, color: Color, rough: int | None = None, alpha: int = 255
    ) -> None:
        """Fill a polygon; `rough` is the strength of its texture (0-255; about 40 for a lawn)."""
        samples = points * (SUPERSAMPLING / self.gsd)
        self._draw.polygon(samples.ravel().tolist(), fill=(*color, alpha))
        if rough is not None:
            self._draw_roughness.polygon((points / self.gsd).ravel().tolist(), fill=rough)

    def line(self, points: Points, color: Color, width: float, alpha: float = 1.0) -> None:
        """Draw a line, its width in meters; one thinner than a sample is drawn fainter instead."""
        scale = SUPERSAMPLING / self.gsd
        self._draw.line(
            (points * scale).ravel().tolist(),
            fill=(*color, int(255 * alpha * min(width * scale, 1))),
            width=max(round(width * scale), 1),
        )

    def shadow(self, points: Points, height: float, convex: bool = True) -> None:
        """Draw the shadow of an outline `height` meters above ground; of a solid, if convex."""
        moved = points + self.shadow_per_meter * height
        shape = hull(np.concatenate([points, moved])) if convex else moved
        self.polygon(shape, (12, 14, 24), alpha=self.shadow_alpha)

    def claim(self, points: Points, class_id: int = 0) -> bool:
        """Take the ground under a polygon for an object of a class, or (0) for a distractor.

        Returns False, and takes nothing, if some of it is taken or it covers no pixel.
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

    def reserve(self, points: Points) -> None:
        """Take the ground under a polygon, even if some of it is taken."""
        rows, columns, inside = rasterize(points / self.gsd, self.height, self.width)
        self.taken[rows, columns] |= inside

    def is_free(self, points: Points) -> bool:
        """Return whether none of the ground under a polygon is taken."""
        rows, columns, inside = rasterize(points / self.gsd, self.height, self.width)
        return not self.taken[rows, columns][inside].any()

    def tint(self, color: Color, spread: float = 10) -> Color:
        """Return the color with a random change of brightness and a smaller one of hue."""
        change = self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3)
        r, g, b = (int(min(max(v + d, 0), 255)) for v, d in zip(color, change, strict=True))
        return r, g, b

    def pick(self, colors: Sequence[Color], spread: float = 10) -> Color:
        """Return a random one of the colors, tinted."""
        return self.tint(colors[int(self.rng.integers(len(colors)))], spread)

    def noise(self, meters: float) -> NDArray[np.float32]:
        """Return smooth noise (H, W) with a grain of about `meters` and about unit variance."""
        step = max(meters / self.gsd, 1.0)
        shape = (int(self.height / step) + 3, int(self.width / step) + 3)
        grid = Image.fromarray(self.rng.standard_normal(shape, np.float32))
        x, y = self.rng.uniform(0, 1, 2)
        box = (x, y, x + self.width / step, y + self.height / step)
        return np.asarray(
            grid.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box), np.float32
        )

    def ground(self, colors: Sequence[Color]) -> None:
        """Cover the canvas with patches that blend from one color to the next."""
        field = self.noise(70) + 0.6 * self.noise(20) + 0.35 * self.noise(6)
        position = (np.clip(field / 3.2 + 0.5, 0, 1) * (len(colors) - 1)).ravel()
        steps = np.arange(len(colors))
        bands = [np.interp(position, steps, band) for band in zip(*colors, strict=True)]
        pixels = np.stack(bands, axis=1).reshape(self.height, self.width, 3).astype(np.uint8)
        self.image.paste(Image.fromarray(pixels).resize(self.image.size))
        self.roughness.paste(50, (0, 0, self.width, self.height))

    def develop(self) -> NDArray[np.uint8]:
        """Return the image (H, W, 3) with texture, light, tone, blur, noise and compression."""
        rng = self.rng
        pixels = np.asarray(self.image.reduce(SUPERSAMPLING), np.float32)
        softened = self.roughness.filter(ImageFilter.GaussianBlur(0.7))
        rough = np.asarray(softened, np.float32)[..., None] / 255
        octaves = ((0, 0.5), (0.6, 0.45), (1.6, 0.45), (4, 0.3), (15, 0.22))
        grain = sum((weight * self.noise(meters) for meters, weight in octaves), np.float32(0))
        warmth = np.array([0.05, 0, -0.05], np.float32) * self.noise(25)[..., None]
        pixels *= 1 + rough * (0.55 * np.asarray(grain)[..., None] + warmth)
        pixels *= 1 + 0.05 * self.noise(120)[..., None]
        gray = pixels.mean(axis=2, keepdims=True)
        pixels = gray + (pixels - gray) * np.float32(rng.uniform(0.35, 1.05))
        tone = np.float32(rng.uniform(0.95, 1.45))
        gain = (rng.uniform(0.8, 1.3) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
        haze = (rng.uniform(0, 22) * rng.uniform(0.8, 1.2, 3)).astype(np.float32)
        pixels = 255 * (np.clip(pixels, 0, 255) / 255) ** tone * gain * (1 - haze / 255) + haze
        sharp = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        soft = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 0.7))))
        sensor = rng.standard_normal((self.height, self.width, 1), np.float32)
        noisy = soft + sensor * np.float32(rng.uniform(1, 4))
        final = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        if rng.random() < 0.6:
            compressed = BytesIO()
            final.save(compressed, "JPEG", quality=int(rng.integers(60, 95)))
            final = Image.open(compressed)
        return np.array(final)
