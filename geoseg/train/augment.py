"""How a crop is cut from an image and varied. NumPy and Pillow only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoseg.classes import IGNORE
from geoseg.train.recipe import AugmentOptions, Stage

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601 weights of R, G and B."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a crop lies in its image: a similarity, optionally mirrored."""

    center: tuple[float, float]
    """Column and row in the image, px."""
    scale: float
    """Crop pixels per image pixel."""
    angle: float
    """Radians."""
    mirror: bool

    @staticmethod
    def draw(
        rng: np.random.Generator,
        center: tuple[float, float],
        size: tuple[int, int],
        stage: Stage,
        options: AugmentOptions,
    ) -> Placement:
        """Near `center` (column, row) of an image of `size` (width, height)."""
        low, high = stage.scale
        scale = math.exp(rng.uniform(math.log(low), math.log(high)))
        right_angle = int(rng.integers(4)) * math.pi / 2
        any_angle = rng.uniform(0, 2 * math.pi)
        angle = {
            "none": 0.0,
            "right": right_angle,
            "any": any_angle if rng.random() < 0.5 else right_angle,
        }[options.rotate]
        mirror = options.flip and rng.random() < 0.5
        # The object need not sit in the middle of the crop, and little should lie outside.
        half = 0.5 * stage.crop / scale
        column, row = (
            float(
                np.clip(
                    c + rng.uniform(-0.8, 0.8) * half,
                    min(half, side / 2),
                    max(side - half, side / 2),
                )
            )
            for c, side in zip(center, size, strict=True)
        )
        return Placement((column, row), scale, angle, mirror)

    def matrix(self, crop: int) -> NDArray[np.float64]:
        """(2,3): crop pixel coordinates to image pixel coordinates."""
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        linear = np.array([[cos, -sin], [sin, cos]])
        if self.mirror:
            linear[:, 0] *= -1
        offset = np.array(self.center) - linear @ np.full(2, crop / 2)
        return np.column_stack([linear, offset])


def sample_crop(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    placement: Placement,
    crop: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Resample image and mask once, through one affine transform.

    Returns:
        (crop,crop,3) float32 on the 0-255 scale; (crop,crop) class ids, IGNORE outside of the
        image; (crop,crop) True inside of it.
    """
    height, width = mask.shape
    matrix = placement.matrix(crop)
    # Only the part that the crop covers is resampled.
    corners = matrix @ np.array([[0, crop, 0, crop], [0, 0, crop, crop], [1, 1, 1, 1]])
    left, top = np.clip(np.floor(corners.min(axis=1)).astype(int) - 2, 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(corners.max(axis=1)).astype(int) + 2, 1, [width, height])
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    picture = Image.fromarray(image[top:bottom, left:right])
    labels = Image.fromarray(mask[top:bottom, left:right])
    matrix = matrix - np.array([[0, 0, left], [0, 0, top]])
    # Bilinear sampling alone would alias when shrinking: average whole pixels first.
    factor = max(1, int(1 / placement.scale))
    shrunk = matrix
    if factor > 1:
        picture = picture.reduce(factor)
        shrunk = matrix / factor
    size, affine = (crop, crop), Image.Transform.AFFINE
    pixels = picture.transform(size, affine, shrunk.ravel(), Image.Resampling.BILINEAR)
    ids = labels.transform(size, affine, matrix.ravel(), Image.Resampling.NEAREST, fillcolor=IGNORE)
    inside = Image.new("1", labels.size, 1).transform(size, affine, matrix.ravel())
    return np.array(pixels, dtype=np.float32), np.array(ids), np.array(inside)


def photometric(
    rng: np.random.Generator, image: NDArray[np.float32], options: AugmentOptions
) -> NDArray[np.float32]:
    """Brightness, contrast, saturation, hue, grey, blur. (H,W,3), 0-255 scale, float32.

    The ranges are those of SSD's photometric distortion (Liu et al. 2016), which the SegNeXt
    recipes use; hue is turned as a rotation about the grey axis of RGB.
    """
    strength = options.photometric
    if rng.random() < 0.5:
        image = image + np.float32(rng.uniform(-32, 32) * strength)
    if rng.random() < 0.5:
        image = image * np.float32(1 + rng.uniform(-0.5, 0.5) * strength)
    if rng.random() < 0.5:
        grey = (image @ LUMA)[..., None]
        image = grey + (image - grey) * np.float32(1 + rng.uniform(-0.5, 0.5) * strength)
    if rng.random() < 0.5:
        image = image @ hue_rotation(math.radians(rng.uniform(-18, 18) * strength)).T
    if rng.random() < options.grey:
        image = np.repeat((image @ LUMA)[..., None], 3, axis=2)
    if rng.random() < options.blur:
        small = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        side = max(8, int(small.width * rng.uniform(0.4, 0.9)))
        small = small.resize((side, side), Image.Resampling.BOX)
        back = small.resize(image.shape[1::-1], Image.Resampling.BILINEAR)
        image = np.asarray(back, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.float32)


def hue_rotation(angle: float) -> NDArray[np.float32]:
    """(3,3): rotation of RGB about the axis (1,1,1), by Rodrigues' formula."""
    cos, sin, third = math.cos(angle), math.sin(angle), 1 / 3
    axis = math.sqrt(third)
    skew = np.array([[0, -axis, axis], [axis, 0, -axis], [-axis, axis, 0]])
    return (cos * np.eye(3) + (1 - cos) * third + sin * skew).astype(np.float32)
