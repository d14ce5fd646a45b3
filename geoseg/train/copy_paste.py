"""Copy-paste: small objects cut from labelled images, put down elsewhere, alone or in rows.

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
"""Of the window that an object must fit into, px."""
CUTTINGS = 300
"""Objects that are kept, of each class."""
ATTEMPTS = 4 * CUTTINGS
MOST = 12
"""Objects that are put down at once."""
SMALLEST = 20
"""Pixels; less is the corner of something that an image's border cuts."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """One object, cut out."""

    class_id: int
    group: str
    image: NDArray[np.uint8]
    """(SIDE,SIDE,3)."""
    shape: NDArray[np.uint8]
    """(SIDE,SIDE): 255 on the object, else 0."""
    width: float
    """Roughly its shorter side, px."""


def cut_out(
    items: Sequence[Item], counts: NDArray[np.int64], class_id: int, seed: int
) -> list[Cutting]:
    """Objects of a class, drawn from the items at random, those that fit into a window.

    Args:
        counts: (N,C) pixels of the items by class; items without the class are not read.
    """
    rng = np.random.default_rng((seed, class_id))
    with_class = np.flatnonzero(counts[:, class_id]).tolist()
    found: list[Cutting] = []
    for index in with_class:
        image, mask, _ = items[index].load()
        pixels = np.flatnonzero(mask == class_id)
        for _ in range(max(4, ATTEMPTS // len(with_class))):
            row, column = divmod(int(rng.choice(pixels)), mask.shape[1])
            top, left = row - SIDE // 2, column - SIDE // 2
            if min(top, left) < 0 or top + SIDE > mask.shape[0] or left + SIDE > mask.shape[1]:
                continue
            window = np.s_[top : top + SIDE, left : left + SIDE]
            shape = grown(mask[window] == class_id)
            edges = np.concatenate([shape[0], shape[-1], shape[:, 0], shape[:, -1]])
            if edges.any() or shape.sum() < SMALLEST:
                continue
            rows, columns = np.nonzero(shape)
            width = math.sqrt(12 * np.linalg.eigvalsh(np.cov(np.stack([rows, columns])))[0] + 1)
            pasted = np.where(shape, np.uint8(255), np.uint8(0))
            found.append(Cutting(class_id, items[index].group, image[window].copy(), pasted, width))
    order = rng.permutation(len(found))[:CUTTINGS]
    return [found[i] for i in order.tolist()]


def grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The 4-connected region that holds the centre."""
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
    cuttings: Sequence[Cutting],
    scale: float,
    pixels: NDArray[np.float32],
    ids: NDArray[np.uint8],
    groups: Mapping[str, GroupOptions],
) -> None:
    """Put objects down on the background of a crop, which is changed.

    Args:
        scale: crop pixels per pixel of the cuttings, besides the scale of their group.
        pixels: (H,W,3); ids: (H,W).
    """
    side = len(ids)
    count = int(rng.integers(1, MOST + 1))
    angle, in_row = rng.uniform(0, 2 * math.pi), rng.random() < 0.6
    place = rng.uniform(0, side, 2)
    for _ in range(count):
        cutting = cuttings[int(rng.integers(len(cuttings)))]
        group = groups.get(cutting.group, GroupOptions())
        own = scale * group.scale
        turn, mirror = angle + rng.normal(0, 0.05), bool(rng.random() < 0.5)
        placement = Placement((SIDE / 2, SIDE / 2), own, turn, mirror)
        put(rng, cutting, placement, place, pixels, ids, group.shuffle_channels)
        if in_row:
            step = cutting.width * own * rng.uniform(1.1, 1.5)
            place = place + step * np.array([math.cos(angle), math.sin(angle)])
        else:
            angle, place = rng.uniform(0, 2 * math.pi), rng.uniform(0, side, 2)


def put(
    rng: np.random.Generator,
    cutting: Cutting,
    placement: Placement,
    place: NDArray[np.float64],
    pixels: NDArray[np.float32],
    ids: NDArray[np.uint8],
    shuffle: bool,
) -> None:
    """One object at `place` (column, row), where it does not cover another."""
    size = max(4, math.ceil(SIDE * placement.scale))
    left, top = (int(value) - size // 2 for value in place)
    common = Window(left, top, size, size).intersection(Window(0, 0, *ids.shape[::-1]))
    if common is None:
        return
    inner = common.relative_to(Window(left, top, size, size)).slices
    color, _ = sample_pixels(cutting.image, placement, size)
    cover, _ = sample_pixels(np.repeat(cutting.shape[..., None], 3, axis=2), placement, size)
    color, cover = color[inner], cover[inner][..., :1] / np.float32(255)
    inside = cover[..., 0] > 0.5
    if (ids[common.slices][inside] != 0).any():
        return
    if shuffle:
        color = color[..., rng.permutation(3)]
    pixels[common.slices] += cover * (color * rng.uniform(0.75, 1.25) - pixels[common.slices])
    ids[common.slices][inside] = cutting.class_id
