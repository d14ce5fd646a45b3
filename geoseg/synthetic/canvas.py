"""Where a scene is painted: metres in, anti-aliased picture and exact mask out."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .geometry import Points, hull, rasterize

SUPERSAMPLING = 3
"""Samples a pixel and axis, for smooth edges."""
Color = tuple[int, int, int]


def shade(color: Color, factor: float) -> Color:
    """The colour in brighter or darker light."""
    r, g, b = (int(min(v * factor, 255)) for v in color)
    return r, g, b


class Canvas:
    """The picture and the mask while a scene is being painted.

    Things are painted in order, later ones over earlier ones. What must not be hidden is claimed
    first: a claim is refused where something stands already, so objects never overlap.
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
        self.shadow_per_metre = np.array([np.cos(sun), np.sin(sun)]) * rng.uniform(0.3, 1.1)
        self.shadow_alpha = int(rng.uniform(90, 185))

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height in metres."""
        return self.width * self.gsd, self.height * self.gsd

    def sees(self, points: Points, share: float = 0.0) -> bool:
        """Whether more than `share` of the points lie within the picture."""
        return bool(((points >= 0) & (points <= self.extent)).all(axis=1).mean() > share)

    def polygon(
        self, points: Points, color: Color, rough: int | None = None, alpha: int = 255
    ) -> None:
        """Fill a polygon; `rough` sets the strength of its texture (0-255; a lawn has 40)."""
        samples = points * (SUPERSAMPLING / self.gsd)
        self._draw.polygon(samples.ravel().tolist(), fill=(*color, alpha))
        if rough is not None:
            self._draw_roughness.polygon((points / self.gsd).ravel().tolist(), fill=rough)

    def line(self, points: Points, color: Color, width: float, alpha: float = 1.0) -> None:
        """A line of true width in metres; one thinner than a sample is painted fainter instead."""
        scale = SUPERSAMPLING / self.gsd
        self._draw.line(
            (points * scale).ravel().tolist(),
            fill=(*color, int(255 * alpha * min(width * scale, 1))),
            width=max(round(width * scale), 1),
        )

    def shadow(self, points: Points, height: float, convex: bool = True) -> None:
        """The shadow of an outline `height` metres above ground: of a solid, if convex."""
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

    def reserve(self, points: Points) -> None:
        """Keep later claims and trees off a polygon, whatever stands there already."""
        rows, columns, inside = rasterize(points / self.gsd, self.height, self.width)
        self.taken[rows, columns] |= inside

    def is_free(self, points: Points) -> bool:
        """Whether nothing that was claimed or reserved stands under a polygon."""
        rows, columns, inside = rasterize(points / self.gsd, self.height, self.width)
        return not self.taken[rows, columns][inside].any()

    def tint(self, color: Color, spread: float = 10) -> Color:
        """The colour with a random change of brightness and a smaller one of hue."""
        change = self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3)
        r, g, b = (int(min(max(v + d, 0), 255)) for v, d in zip(color, change, strict=True))
        return r, g, b

    def pick(self, colors: Sequence[Color], spread: float = 10) -> Color:
        """One of the colours, tinted."""
        return self.tint(colors[int(self.rng.integers(len(colors)))], spread)

    def noise(self, metres: float) -> NDArray[np.float32]:
        """Smooth noise (H, W) whose grain is about `metres` wide, of about unit variance."""
        step = max(metres / self.gsd, 1.0)
        shape = (int(self.height / step) + 3, int(self.width / step) + 3)
        grid = Image.fromarray(self.rng.standard_normal(shape, np.float32))
        x, y = self.rng.uniform(0, 1, 2)
        box = (x, y, x + self.width / step, y + self.height / step)
        return np.asarray(
            grid.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box), np.float32
        )

    def ground(self, colors: Sequence[Color]) -> None:
        """Cover everything with patches that pass smoothly from one colour to the next."""
        field = self.noise(70) + 0.6 * self.noise(20) + 0.35 * self.noise(6)
        place = (np.clip(field / 3.2 + 0.5, 0, 1) * (len(colors) - 1)).ravel()
        steps = np.arange(len(colors))
        bands = [np.interp(place, steps, band) for band in zip(*colors, strict=True)]
        pixels = np.stack(bands, axis=1).reshape(self.height, self.width, 3).astype(np.uint8)
        self.image.paste(Image.fromarray(pixels).resize(self.image.size))
        self.roughness.paste(50, (0, 0, self.width, self.height))

    def develop(self) -> NDArray[np.uint8]:
        """The photograph (H, W, 3): texture, light, film, lens, sensor and compression."""
        rng = self.rng
        picture = np.asarray(self.image.reduce(SUPERSAMPLING), np.float32)
        softened = self.roughness.filter(ImageFilter.GaussianBlur(0.7))
        rough = np.asarray(softened, np.float32)[..., None] / 255
        octaves = ((0, 0.5), (0.6, 0.45), (1.6, 0.45), (4, 0.3), (15, 0.22))
        grain = sum((weight * self.noise(metres) for metres, weight in octaves), np.float32(0))
        warmth = np.array([0.05, 0, -0.05], np.float32) * self.noise(25)[..., None]
        picture *= 1 + rough * (0.55 * np.asarray(grain)[..., None] + warmth)
        picture *= 1 + 0.05 * self.noise(120)[..., None]
        grey = picture.mean(axis=2, keepdims=True)
        picture = grey + (picture - grey) * np.float32(rng.uniform(0.35, 1.05))
        tone = np.float32(rng.uniform(0.95, 1.45))
        gain = (rng.uniform(0.8, 1.3) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
        haze = (rng.uniform(0, 22) * rng.uniform(0.8, 1.2, 3)).astype(np.float32)
        picture = 255 * (np.clip(picture, 0, 255) / 255) ** tone * gain * (1 - haze / 255) + haze
        sharp = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        soft = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 0.7))))
        sensor = rng.standard_normal((self.height, self.width, 1), np.float32)
        noisy = soft + sensor * np.float32(rng.uniform(1, 4))
        final = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        if rng.random() < 0.6:
            compressed = BytesIO()
            final.save(compressed, "JPEG", quality=int(rng.integers(60, 95)))
            final = Image.open(compressed)
        return np.array(final)
