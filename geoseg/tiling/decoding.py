"""Decode logits at 1/8 to classes at full resolution.

Decoding is bilinear interpolation (``align_corners=False``, borders clamped) and argmax. An
interpolated value is a convex combination of its four neighbors, so a pixel between four cells of
one class has that class, and only pixels between cells of several classes (the boundaries, a few
percent) are interpolated. ``decode.c`` does this where the installation compiled it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.native.library import library
from geoseg.tiling.grid import CELL, Window
from geoseg.tiling.splitting import WHOLE, Splitting

Floats = NDArray[np.float32]

MIXED = 254
"""Temporary id of pixels between cells of several classes; no class may have it."""
CHUNK = 1 << 14
"""Pixels interpolated at once, so that their logits stay in the cache."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Positions of the pixels of one axis between the cells of the logits."""

    index: NDArray[np.intp]
    """(n,) the cell before each pixel."""
    weight: Floats
    """(n,) distance from that cell, 0-1 cells."""

    @staticmethod
    def between(start: int, end: int, first_cell: int, cells: int, step: float) -> Axis:
        """Return the axis of pixels `start` to `end` on cells from `first_cell` on."""
        position = (np.arange(start, end) + 0.5) / (CELL * step) - 0.5 - first_cell
        position = np.clip(position, 0, cells - 1)
        index = np.minimum(position.astype(np.intp), max(cells - 2, 0))
        return Axis(index, (position - index).astype(np.float32))


def cells_around(core: Window, scene: Window, margin: int = 1) -> Window:
    """Return the cells that decoding `core` (px) reads: its own and `margin` on each inner side."""
    across, down = -(-scene.width // CELL), -(-scene.height // CELL)
    left, top = max(core.col_off // CELL - margin, 0), max(core.row_off // CELL - margin, 0)
    right = min(-(-core.col_end // CELL) + margin, across)
    bottom = min(-(-core.row_end // CELL) + margin, down)
    return Window(left, top, right - left, bottom - top)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded window."""

    class_ids: NDArray[np.uint8]
    """(H,W)."""
    confidence: Floats | None
    """(H,W): softmax probability of the pixel's class; 0 where it was not computed."""


def decode(
    logits: Floats,
    cells: Window,
    core: Window,
    *,
    step: tuple[float, float] = (1.0, 1.0),
    confidence: Literal["none", "objects", "all"] = "objects",
    splitting: Splitting = WHOLE,
) -> Decoded:
    """Decode the pixels of `core` from the logits (h,w,C) of `cells`, `cells_around` it.

    Args:
        step: pixels of `core`'s grid per pixel of the model's grid, in x and y.
        confidence: pixels that get one: ``none``, ``objects`` (all but class 0), or ``all``.
        splitting: of touching objects; `cells` has its margin.
    """
    more = int(splitting.reach > 0)  # the next pixel, which may belong to another object
    rows = Axis.between(core.row_off, core.row_end + more, cells.row_off, cells.height, step[1])
    columns = Axis.between(core.col_off, core.col_end + more, cells.col_off, cells.width, step[0])
    corners = logits.argmax(axis=2).astype(np.uint8)  # (h,w)
    agreed = agreement(corners)  # (h-1,w-1)
    class_ids = agreed.take(rows.index, axis=0).take(columns.index, axis=1)  # (H,W)
    scores = None if confidence == "none" else np.zeros(class_ids.shape, np.float32)
    min_class = 0 if confidence == "all" else 1
    interpolate_classes(class_ids, scores, np.ascontiguousarray(logits), rows, columns, min_class)
    if more:
        positions = ((axis.index, axis.weight) for axis in (rows, columns))
        lines = splitting.lines(class_ids, logits, corners, *positions)
        class_ids[lines] = 0
        if scores is not None:  # what is not the object's is the background's
            scores[lines] = 1 - scores[lines] if confidence == "all" else 0
        class_ids = np.ascontiguousarray(class_ids[:-1, :-1])
        scores = None if scores is None else np.ascontiguousarray(scores[:-1, :-1])
    return Decoded(class_ids, scores)


def agreement(corners: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (h-1,w-1) of classes (h,w): the class that four neighbors share, or MIXED."""
    if 1 in corners.shape:  # one row or column of cells, which is its own neighbor
        corners = np.pad(corners, [(0, int(side == 1)) for side in corners.shape], mode="edge")
    a, b, c, d = corners[:-1, :-1], corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]
    return np.where((a == b) & (a == c) & (a == d), a, np.uint8(MIXED))


def interpolate_classes(
    class_ids: NDArray[np.uint8],
    scores: Floats | None,
    logits: Floats,
    rows: Axis,
    columns: Axis,
    min_class: int,
) -> None:
    """Replace MIXED by classes, and set the scores there and of all classes from `min_class` on."""
    if lib := library():
        width, classes = logits.shape[1:]
        below, right = neighbor_steps(logits)
        arrays = (class_ids, scores, logits, rows.index, rows.weight, columns.index, columns.weight)
        lib.geoseg_decode(
            *(ctypes.c_void_p(None if array is None else array.ctypes.data) for array in arrays),
            *map(ctypes.c_long, (*class_ids.shape, width, classes)),
            *map(ctypes.c_long, (below * classes, right * classes, MIXED, min_class)),
        )
        return
    selected = class_ids == MIXED
    if scores is not None:
        selected |= class_ids >= min_class
    indices = np.flatnonzero(selected)
    for first in range(0, indices.size, CHUNK):
        pixels = indices[first : first + CHUNK]
        values = interpolate(logits, rows, columns, pixels)  # (n,C)
        best = values.argmax(axis=1)
        class_ids.reshape(-1)[pixels] = best
        if scores is not None:
            top = values[np.arange(len(pixels)), best]
            scores.reshape(-1)[pixels] = 1 / np.exp(values - top[:, None]).sum(axis=1)


def interpolate(logits: Floats, rows: Axis, columns: Axis, pixels: NDArray[np.intp]) -> Floats:
    """Return bilinear values (n,C) at flat pixel indices."""
    width, classes = logits.shape[1:]
    y, x = np.divmod(pixels, len(columns.index))
    below, right = neighbor_steps(logits)
    flat = logits.reshape(-1, classes)
    corner = rows.index.take(y) * width + columns.index.take(x)
    down, across = rows.weight.take(y)[:, None], columns.weight.take(x)[:, None]

    def lerp(a: Floats, b: Floats, weight: Floats) -> Floats:
        b -= a
        b *= weight
        a += b
        return a

    def between(corner: NDArray[np.intp]) -> Floats:
        return lerp(flat.take(corner, axis=0), flat.take(corner + below, axis=0), down)

    return lerp(between(corner), between(corner + right), across)


def neighbor_steps(logits: Floats) -> tuple[int, int]:
    """Return the flat index steps to the cells below and on the right; 0 if there is only one."""
    height, width, _ = logits.shape
    return (width if height > 1 else 0), int(width > 1)
