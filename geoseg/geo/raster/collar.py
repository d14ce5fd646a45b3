"""Undeclared collars: flat black or white that extends from the border into the scene.

A collar is found once, on a coarse image of the scene, and refined pixel by pixel in windows that
cross its edge. Both steps depend on the scene only, not on how it is cut into windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.tiling.grid import Window

_NOISE = 4
"""Counts by which JPEG changes a flat area."""
_RINGING = 32
"""Counts by which a codec changes the last pixels before a hard edge."""
_RINGING_WIDTH = 16
"""Pixels from an edge that ring: a JPEG unit with subsampled color."""
_MIN_GAP = 2
"""Gaps up to twice this wide do not connect: a gutter or shadow is no part of a collar."""
_SPECK = 2
"""Stronger ringing comes in specks, up to twice this wide."""
HALO = 2 * _MIN_GAP + _RINGING_WIDTH + 2 * _SPECK
"""Pixels around a window on which `Collar.covers` depends."""

_DATA, _EDGE, _COLLAR = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Collar:
    """The collar of one value in one scene."""

    value: float
    """The value of its pixels in every band, up to the codec's noise."""
    tolerance: int
    """Factor of the noise: 0 for dtypes that no lossy codec stores, else 1."""
    cells: NDArray[np.uint8]
    """Coarse image of the scene: 0 data, 1 edge (decided pixel by pixel), 2 collar."""
    shape: tuple[int, int]
    """Height and width of the scene in pixels."""

    def __str__(self) -> str:
        share = (self.cells == _COLLAR).mean()
        return f"{'white' if self.value else 'black'} collar on {share:.0%} of the scene: left out"

    def crosses(self, window: Window) -> bool:
        """Whether the edge of the collar crosses `window`."""
        return bool((self._cells_under(window) == _EDGE).any())

    def near_mask(self, window: Window, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the collar with its surroundings under `window`, decimated to `shape`."""
        return self._cells_under(window, shape) != _DATA

    def covers(self, color: NDArray, window: Window) -> NDArray[np.bool_]:
        """Return (H, W), True on the collar, for the stored pixels (3, H, W) under `window`.

        Exact except within HALO of the window's sides that are not the scene's.
        """
        cells = self._cells_under(window)
        if not (cells == _EDGE).any():
            return cells == _COLLAR
        core = (cells == _COLLAR) | _is_near(color, self.value, _NOISE * self.tolerance)
        region = _grow(_shrink(core, _MIN_GAP), _MIN_GAP)
        region = _grow_into_ringing(region, color, self.value, self.tolerance)
        region = _shrink(_grow(region, _SPECK), _SPECK)
        return (cells == _COLLAR) | ((cells == _EDGE) & region)

    def _cells_under(
        self, window: Window, shape: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Return the cell of the center of each pixel of `window`, decimated to `shape`."""
        height, width = shape or (window.height, window.width)
        rows = _cells_of(window.row_off, window.height, height, self.shape[0], self.cells.shape[0])
        columns = _cells_of(window.col_off, window.width, width, self.shape[1], self.cells.shape[1])
        return self.cells[np.ix_(rows, columns)]


def find_collars(
    coarse: NDArray, valid: NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[Collar, ...]:
    """Return the collars of a scene of `shape`, given a coarse image (3, h, w) of stored values.

    A collar is flat black or white, has one exact value on 70 % of its cells, covers 0.1 % of the
    scene, and touches a corner of it or a tenth of a side: dark roofs, shadows and water have
    texture. White roofs and clouds saturate, so a white collar must touch a corner and a fifth of a
    side.
    """
    integer = coarse.dtype.kind in "ui"
    found = []
    for value in (0, np.iinfo(coarse.dtype).max) if integer else (0,):
        core = _is_near(coarse, value, _NOISE * integer) | ~valid
        region = _connected(core, coarse, white=value > 0)
        if (region & valid).any():
            cell = max(1.0, shape[0] / coarse.shape[1], shape[1] / coarse.shape[2])
            # Overviews are compressed too, and ring in blocks of their own pixels.
            outside = _grow_into_ringing(region, coarse, value, integer)
            outside = _grow(outside, max(1, round(_RINGING_WIDTH / cell)))
            cells = np.where(_shrink(region, 1), _COLLAR, np.where(outside, _EDGE, _DATA))
            found.append(Collar(float(value), int(integer), cells.astype(np.uint8), shape))
    return tuple(found)


def _connected(core: NDArray[np.bool_], coarse: NDArray, *, white: bool) -> NDArray[np.bool_]:
    """Return the parts of `core` that touch the border and look like a collar."""
    free = _shrink(core, 1)
    accepted = np.zeros_like(core)
    rejected = np.zeros_like(core)
    for seed in _border_runs(free):
        if (seed & (accepted | rejected)).any():
            continue
        region = _grow(_flood(free, seed), 1) & core
        if _is_collar(region, coarse, white=white):
            accepted |= region
        else:
            rejected |= region
    return accepted


def _border_runs(free: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return a mask for each run of `free` along a side that is long enough for a collar."""
    height, width = free.shape
    sides = (
        (np.s_[0, :], width),
        (np.s_[height - 1, :], width),
        (np.s_[:, 0], height),
        (np.s_[:, width - 1], height),
    )
    seeds = []
    for side, length in sides:
        steps = np.flatnonzero(np.diff(np.pad(free[side].astype(np.int8), 1)))
        for start, stop in zip(steps[::2], steps[1::2], strict=True):
            if stop - start >= max(2, 0.03 * length):
                seed = np.zeros_like(free)
                seed[side][start:stop] = True
                seeds.append(seed)
    return seeds


def _is_collar(region: NDArray[np.bool_], coarse: NDArray, *, white: bool) -> bool:
    values = coarse[:, region]
    if values.shape[1] < max(64, region.size / 1000):
        return False
    # Strong compression changes 0 to another constant.
    median = np.median(values, axis=1, keepdims=True)
    if (values == median).all(axis=0).mean() < 0.7:
        return False
    sides = (region[0], region[-1], region[:, 0], region[:, -1])
    has_corner = bool(region[[0, 0, -1, -1], [0, -1, 0, -1]].any())
    contact = max(side.mean() for side in sides)
    if white:
        return has_corner and bool(contact >= 0.2)
    return has_corner or bool(contact >= 0.1)


def _flood(free: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the part of `free` that is connected with `seed`, along rows and columns.

    A collar takes a few sweeps; the limit bounds the work on a maze of shadows.
    """
    for _ in range(32):
        before = seed
        seed = _sweep(free, seed)
        seed = _sweep(free.T, seed.T).T
        if (seed == before).all():
            break
    return seed


def _sweep(free: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return every horizontal run of `free` that contains a seed."""
    starts = free.copy()
    starts[:, 1:] &= ~free[:, :-1]
    run = np.cumsum(starts, dtype=np.int64).reshape(free.shape)
    reached = np.zeros(int(run[-1, -1]) + 1, bool)
    reached[run[seed & free]] = True
    return reached[run] & free


def _cells_of(start: int, length: int, count: int, pixels: int, cells: int) -> NDArray[np.intp]:
    """Return the cell under the center of each of `count` equal parts of `length` pixels.

    In integers, so that every window finds the same cell for the same pixel.
    """
    centers = 2 * start * count + (2 * np.arange(count, dtype=np.int64) + 1) * length
    return centers * cells // (2 * count * pixels)


def _grow_into_ringing(
    region: NDArray[np.bool_], color: NDArray, value: float, tolerance: int
) -> NDArray[np.bool_]:
    """Return `region` with the ringing pixels next to its edge."""
    ringing = region | _is_near(color, value, _RINGING * tolerance)
    for _ in range(_RINGING_WIDTH):
        region = _grow(region, 1) & ringing
    return region


def _is_near(color: NDArray, value: float, counts: int) -> NDArray[np.bool_]:
    """Return (H, W), True if all bands are within `counts` of black or white."""
    if value > 0:
        return np.all(color >= value - counts, axis=0)
    return np.all((color <= counts) & (color >= -counts), axis=0)


def _grow(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Dilate by a square of 2 × `steps` + 1 pixels a side."""
    for _ in range(steps):
        wide = mask.copy()
        wide[:, 1:] |= mask[:, :-1]
        wide[:, :-1] |= mask[:, 1:]
        mask = wide.copy()
        mask[1:] |= wide[:-1]
        mask[:-1] |= wide[1:]
    return mask


def _shrink(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Erode by the same square; pixels beyond the array count as True."""
    return ~_grow(~mask, steps)
