"""Geometric and photometric augmentation of crops, with NumPy and Pillow only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoseg.classes import IGNORE
from geoseg.train.recipe import AugmentOptions, Stage

AFFINE = Image.Transform.AFFINE
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601 weights of R, G and B."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Position of a crop in its image: a similarity transform, optionally mirrored."""

    center: tuple[float, float]
    """Column and row in the image, px."""
    scale: float
    """Crop pixels per image pixel."""
    angle: float
    """Rotation, radians."""
    mirror: bool

    @staticmethod
    def draw(
        rng: np.random.Generator,
        size: tuple[int, int],
        target: tuple[float, float] | None,
        stage: Stage,
        options: AugmentOptions,
        enlarge: float = 1.0,
    ) -> Placement:
        """Draw a placement in an image of `size` (width, height), within it where it fits.

        Args:
            target: column and row that the crop must show, not always in its middle.
            enlarge: factor on the scale of the stage: that of the weights.
        """
        low, high = stage.scale
        if options.scale_draw == "log":
            scale = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            scale = rng.uniform(low, high)
        right_angle = int(rng.integers(4)) * math.pi / 2
        any_angle = rng.uniform(0, 2 * math.pi)
        angle = {
            "none": 0.0,
            "right": right_angle,
            "any": any_angle if rng.random() < 0.5 else right_angle,
        }[options.rotate]
        mirror = options.flip and rng.random() < 0.5
        half = 0.5 * stage.crop / (scale * enlarge)
        center = []
        for axis, side in enumerate(size):
            span = np.array([min(half, side / 2), max(side - half, side / 2)])
            if target is not None:
                span = np.clip(target[axis] + np.array([-0.8, 0.8]) * half, *span)
            center.append(float(rng.uniform(*span)))
        return Placement((center[0], center[1]), scale * enlarge, angle, mirror)

    def matrix(self, crop: int) -> NDArray[np.float64]:
        """Return the affine matrix (2,3) from crop pixels to image pixels."""
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        linear = np.array([[cos, -sin], [sin, cos]])
        if self.mirror:
            linear[:, 0] *= -1
        offset = np.array(self.center) - linear @ np.full(2, crop / 2)
        return np.column_stack([linear, offset])


def sample_pixels(
    image: NDArray[np.uint8], placement: Placement, crop: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample the crop from the image with a single affine transform.

    Returns:
        Pixels (crop,crop,3), float32 on the 0-255 scale; validity (crop,crop), False outside of
        the image.
    """
    matrix = placement.matrix(crop)
    part, matrix = crop_region(image, matrix, crop)
    inside = Image.new("1", part.size, 1).transform((crop, crop), AFFINE, matrix.ravel().tolist())
    # Bilinear sampling alone would alias when shrinking: average whole pixels first.
    factor = max(1, int(1 / placement.scale))
    if factor > 1:
        part, matrix = part.reduce(factor), matrix / factor
    pixels = part.transform(
        (crop, crop), AFFINE, matrix.ravel().tolist(), Image.Resampling.BILINEAR
    )
    return np.array(pixels, dtype=np.float32), np.array(inside)


def sample_ids(
    mask: NDArray[np.uint8], placement: Placement, crop: int, step: int = 1
) -> NDArray[np.uint8]:
    """Sample class ids (crop/step, crop/step) by nearest neighbor; IGNORE outside the image."""
    matrix = placement.matrix(crop)
    matrix[:, :2] *= step
    side = crop // step
    part, matrix = crop_region(mask, matrix, side)
    return np.array(part.transform((side, side), AFFINE, matrix.ravel().tolist(), fillcolor=IGNORE))


def crop_region(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], crop: int
) -> tuple[Image.Image, NDArray[np.float64]]:
    """Cut the part that the crop covers from the image; return it with the matrix for it."""
    height, width = image.shape[:2]
    corners = matrix @ np.array([[0, crop, 0, crop], [0, 0, crop, crop], [1, 1, 1, 1]])
    left, top = np.clip(np.floor(corners.min(axis=1)).astype(int) - 2, 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(corners.max(axis=1)).astype(int) + 2, 1, [width, height])
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    part = Image.fromarray(image[top:bottom, left:right])
    return part, matrix - np.array([[0, 0, left], [0, 0, top]])


def photometric(
    rng: np.random.Generator, image: NDArray[np.floating], options: AugmentOptions
) -> NDArray[np.float32]:
    """Vary brightness, contrast, saturation, hue and sharpness of (H,W,3) on the 0-255 scale.

    The ranges are those of SSD's photometric distortion (Liu et al. 2016), which the SegNeXt
    recipes use; hue is shifted by a rotation about the gray axis of RGB.
    """
    strength = options.photometric
    if rng.random() < 0.5:
        image = image + np.float32(rng.uniform(-32, 32) * strength)
    if rng.random() < 0.5:
        image = image * np.float32(1 + rng.uniform(-0.5, 0.5) * strength)
    if rng.random() < 0.5:
        gray = (image @ LUMA)[..., None]
        image = gray + (image - gray) * np.float32(1 + rng.uniform(-0.5, 0.5) * strength)
    if rng.random() < 0.5:
        image = image @ hue_rotation(math.radians(rng.uniform(-18, 18) * strength)).T
    if rng.random() < options.gray:
        image = np.repeat((image @ LUMA)[..., None], 3, axis=2)
    if rng.random() < options.blur:
        small = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        side = max(8, int(small.width * rng.uniform(0.4, 0.9)))
        small = small.resize((side, side), Image.Resampling.BOX)
        back = small.resize(image.shape[1::-1], Image.Resampling.BILINEAR)
        image = np.array(back, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.float32)


def hue_rotation(angle: float) -> NDArray[np.float32]:
    """Return the rotation (3,3) of RGB about the axis (1,1,1), by Rodrigues' formula."""
    cos, sin, third = math.cos(angle), math.sin(angle), 1 / 3
    axis = math.sqrt(third)
    skew = np.array([[0, -axis, axis], [axis, 0, -axis], [-axis, axis, 0]])
    return (cos * np.eye(3) + (1 - cos) * third + sin * skew).astype(np.float32)
