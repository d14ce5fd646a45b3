"""Copy-paste: small objects cut from labeled images and pasted elsewhere, alone or in rows.

After Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", CVPR 2021; rows because that is how vehicles are parked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.tiling.grid import Window
from geoseg.train.augment import Placement, sample_pixels
from geoseg.train.dataset import Item
from geoseg.train.recipe import GroupOptions

SIDE = 96
"""Side of the window that an object must fit into, px."""
MAX_CUTOUTS = 300
"""Most objects of each class."""
ATTEMPTS = 4 * MAX_CUTOUTS
"""Pixels drawn of each class, over all images: many hit an object that does not fit."""
MAX_PASTED = 12
"""Objects pasted into one crop."""
MIN_PIXELS = 20
"""Area of the smallest object, px; less is noise of the labels."""


@dataclass(frozen=True, slots=True)
class Cutout:
    """One object, cut from its image."""

    class_id: int
    group: str
    image: NDArray[np.uint8]
    """(SIDE,SIDE,3)."""
    shape: NDArray[np.uint8]
    """(SIDE,SIDE): 255 on the object, else 0."""
    width: float
    """Shorter side of the rectangle with the same second moments, px."""


def extract_cutouts(
    items: Sequence[Item], counts: NDArray[np.int64], class_id: int, seed: int
) -> list[Cutout]:
    """Cut objects of a class out of the items; those that do not fit into a window are skipped.

    Args:
        counts: (N,C) pixels of the items by class; items without the class are not read.
    """
    rng = np.random.default_rng((seed, class_id))
    with_class = np.flatnonzero(counts[:, class_id]).tolist()
    found: list[Cutout] = []
    for index in with_class:
        image, mask, _ = items[index].load()
        pixels = np.flatnonzero(mask == class_id)
        for _ in range(max(4, ATTEMPTS // len(with_class))):
            row, column = divmod(int(rng.choice(pixels)), mask.shape[1])
            top, left = row - SIDE // 2, column - SIDE // 2
            if min(top, left) < 0 or top + SIDE > mask.shape[0] or left + SIDE > mask.shape[1]:
                continue
            window = np.s_[top : top + SIDE, left : left + SIDE]
            shape = region_at_center(mask[window] == class_id)
            edges = np.concatenate([shape[0], shape[-1], shape[:, 0], shape[:, -1]])
            if edges.any() or shape.sum() < MIN_PIXELS:
                continue
            rows, columns = np.nonzero(shape)
            width = math.sqrt(12 * np.linalg.eigvalsh(np.cov(np.stack([rows, columns])))[0] + 1)
            pasted = np.where(shape, np.uint8(255), np.uint8(0))
            found.append(Cutout(class_id, items[index].group, image[window].copy(), pasted, width))
    order = rng.permutation(len(found))[:MAX_CUTOUTS]
    return [found[i] for i in order.tolist()]


def region_at_center(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the 4-connected region of True pixels around the center pixel."""
    region = np.zeros_like(inside)
    region[inside.shape[0] // 2, inside.shape[1] // 2] = True
    size = 0
    while (now := int(region.sum())) != size:
        size = now
        wider = region.copy()
        wider[1:] |= region[:-1]
        wider[:-1] |= region[1:]
        wider[:, 1:] |= region[:, :-1]
        wider[:, :-1] |= region[:, 1:]
        region = wider & inside
    return region


def paste(
    rng: np.random.Generator,
    cutouts: Sequence[Cutout],
    scale: float,
    pixels: NDArray[np.float32],
    ids: NDArray[np.uint8],
    groups: Mapping[str, GroupOptions],
) -> None:
    """Paste objects on the background of a crop, in place.

    Args:
        scale: crop pixels per pixel of the cutouts; the scale of their group comes on top.
        pixels: (H,W,3), on the 0-255 scale.
        ids: (H,W), class ids.
    """
    side = len(ids)
    count = int(rng.integers(1, MAX_PASTED + 1))
    angle, in_row = rng.uniform(0, 2 * math.pi), rng.random() < 0.6
    position = rng.uniform(0, side, 2)
    for _ in range(count):
        cutout = cutouts[int(rng.integers(len(cutouts)))]
        group = groups.get(cutout.group, GroupOptions())
        own = scale * group.scale
        tilt, mirror = angle + rng.normal(0, 0.05), bool(rng.random() < 0.5)
        placement = Placement((SIDE / 2, SIDE / 2), own, tilt, mirror)
        paste_one(rng, cutout, placement, position, pixels, ids, group.shuffle_channels)
        if in_row:
            step = cutout.width * own * rng.uniform(1.1, 1.5)
            position = position + step * np.array([math.cos(angle), math.sin(angle)])
        else:
            angle, position = rng.uniform(0, 2 * math.pi), rng.uniform(0, side, 2)


def paste_one(
    rng: np.random.Generator,
    cutout: Cutout,
    placement: Placement,
    position: NDArray[np.float64],
    pixels: NDArray[np.float32],
    ids: NDArray[np.uint8],
    shuffle: bool,
) -> None:
    """Paste an object centered at `position` (column, row), unless it would cover another."""
    size = max(4, math.ceil(SIDE * placement.scale))
    left, top = (int(value) - size // 2 for value in position)
    common = Window(left, top, size, size).intersection(Window(0, 0, *ids.shape[::-1]))
    if common is None:
        return
    inner = common.relative_to(Window(left, top, size, size)).slices
    color, _ = sample_pixels(cutout.image, placement, size)
    cover, _ = sample_pixels(np.repeat(cutout.shape[..., None], 3, axis=2), placement, size)
    color, cover = color[inner], cover[inner][..., :1] / np.float32(255)
    inside = cover[..., 0] > 0.5
    if (ids[common.slices][inside] != 0).any():
        return
    if shuffle:
        color = color[..., rng.permutation(3)]
    pixels[common.slices] += cover * (color * rng.uniform(0.75, 1.25) - pixels[common.slices])
    ids[common.slices][inside] = cutout.class_id
