"""What the tasks of the dask graph do with one block of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.classes import IGNORE
from geoseg.geo.raster.aoi import Aoi
from geoseg.geo.raster.resampled import View
from geoseg.geo.vector.polygonize import BlockPolygons, polygonize
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import return_free_memory
from geoseg.tiling.blending import WeightedLogits, blend
from geoseg.tiling.blocks import infer, readable_window
from geoseg.tiling.decoding import cells_around, decode
from geoseg.tiling.grid import CELL, Block, Grid, Window
from geoseg.timing import StageTimer


@dataclass(frozen=True, slots=True)
class Plan:
    """What every block of one prediction has in common."""

    view: View
    grid: Grid
    """Of the view."""
    aoi: Aoi | None
    """None: all of the scene is wanted."""
    min_pixels: float
    """Smaller regions are specks."""
    confidence: bool
    """The confidence of every pixel is wanted."""
    logits: bool
    """The logits are wanted."""

    def target(self, block: Block) -> Window | None:
        """The scene's pixels that the block decides on; None where none of them is wanted."""
        window = self.view.on_scene(block.core)
        if window is None or (self.aoi is not None and not self.aoi.meets(window)):
            return None
        return window


@dataclass(frozen=True, slots=True)
class BlockLogits:
    """What *infer* leaves of a block: cells and a mask, no pixels."""

    partial: WeightedLogits
    valid: NDArray[np.uint8]
    """Of the pixels that the block decides on, bit-packed."""
    damaged: tuple[Window, ...]
    """Parts of the scene that could not be read, and count as not valid."""
    timer: StageTimer


@dataclass(frozen=True, slots=True)
class Halo:
    """What *halo* cuts out of a block for another one."""

    partial: WeightedLogits
    whole: bool
    """Nothing of the block was damaged."""


@dataclass(frozen=True, slots=True)
class BlockResult:
    """A finished block."""

    number: int
    """In the grid's order."""
    block: Block
    window: Window
    """The scene's pixels that it decided on."""
    class_ids: NDArray[np.uint8]
    """(H,W) of `window`; IGNORE where there is no data."""
    confidence: NDArray[np.uint8] | None
    """(H,W) of `window`, per cent, IGNORE where there is no data; None unless it is wanted."""
    logits: NDArray[np.float16] | None
    """(h,w,C) of the core's cells; None unless they are wanted."""
    polygons: BlockPolygons
    damaged: tuple[Window, ...]
    """Parts of the scene that could not be read."""
    timer: StageTimer
    whole: bool = True
    """Nothing was damaged of what it is made of, be it a neighbour's; else it is not for keeping,
    for what could not be read now may be read the next time."""


def infer_block(
    plan: Plan, number: int, block: Block, model: TileModel, *after: object
) -> BlockLogits:
    """Read a block once, with its halo, and run its tiles. `after` only orders the graph."""
    timer, view = StageTimer(), plan.view
    window, target = readable_window(block, plan.grid), plan.target(block)
    with timer.stage("read"):
        pixels = view.read(window)
        if target is None:
            valid = np.zeros(0, bool)
        elif view.step == (1, 1):
            valid = pixels.valid[target.relative_to(window).slices]
        else:
            valid = view.scene.valid(target)
            for part in pixels.damaged:
                if common := part.intersection(target):
                    valid[common.relative_to(target).slices] = False
    partial = infer(block, plan.grid, pixels.image, pixels.valid, model, timer)
    return_free_memory(spare=model.idle_bytes)
    return BlockLogits(partial, np.packbits(valid), pixels.damaged, timer)


def halo(inferred: BlockLogits, cells: Window) -> Halo:
    """The cells of a block that decoding another one needs."""
    return Halo(inferred.partial.crop(cells), not inferred.damaged)


def decode_block(
    plan: Plan, number: int, block: Block, inferred: BlockLogits, pieces: list[Halo]
) -> BlockResult:
    """Blend, decode and polygonize what a block decides on."""
    timer, window = StageTimer(inferred.timer.seconds.copy()), plan.target(block)
    assert window is not None, "a block that decides on nothing is not decoded"
    cells = cells_around(block.core, plan.grid.extent)
    with timer.stage("stitch"):
        logits = blend(cells, [inferred.partial, *(piece.partial for piece in pieces)])
    with timer.stage("decode"):
        wanted: Literal["all", "objects"] = "all" if plan.confidence else "objects"
        decoded = decode(logits, cells, window, step=plan.view.step, confidence=wanted)
        class_ids, probability = decoded.class_ids, decoded.confidence
        assert probability is not None
        bits = np.unpackbits(inferred.valid, count=class_ids.size)
        valid = bits.reshape(class_ids.shape).astype(bool)
        if plan.aoi is not None:
            valid &= plan.aoi.mask(window)
        class_ids[~valid] = IGNORE
    with timer.stage("polygonize"):
        polygons = polygonize(class_ids, window, confidence=probability, min_pixels=plan.min_pixels)
    return BlockResult(
        number=number,
        block=block,
        window=window,
        class_ids=class_ids,
        confidence=per_cent(probability, valid) if plan.confidence else None,
        logits=own_cells(plan, block, cells, logits, valid) if plan.logits else None,
        polygons=polygons,
        damaged=inferred.damaged,
        timer=timer,
        whole=not inferred.damaged and all(piece.whole for piece in pieces),
    )


def per_cent(probability: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(valid, np.rint(probability * 100).astype(np.uint8), np.uint8(IGNORE))


def own_cells(
    plan: Plan, block: Block, cells: Window, logits: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.float16]:
    """Of the logits of `cells`, those that the block's core owns; NaN without a wanted pixel.

    Args:
        valid: (H,W) of the pixels that the block decides on: they hold data and are wanted.
    """
    core, window, step = block.core, plan.target(block), plan.view.step
    assert window is not None
    left, top = core.col_off // CELL, core.row_off // CELL
    right, bottom = -(-core.col_end // CELL), -(-core.row_end // CELL)
    own = Window(left, top, right - left, bottom - top)
    rows = cell_of_each(window.row_off, window.row_end, step[1]) - top
    columns = cell_of_each(window.col_off, window.col_end, step[0]) - left
    # The first pixel of each cell, along both axes.
    down, across = (np.flatnonzero(np.diff(each, prepend=-1)) for each in (rows, columns))
    some = np.logical_or.reduceat(np.logical_or.reduceat(valid, down, axis=0), across, axis=1)
    wanted = np.zeros((own.height, own.width), bool)
    wanted[np.ix_(rows[down], columns[across])] = some
    found = logits[own.relative_to(cells).slices].astype(np.float16)
    found[~wanted] = np.nan
    return found


def cell_of_each(start: int, end: int, step: float) -> NDArray[np.intp]:
    """The cells in which the centres of a scene's pixels lie, along one axis."""
    return ((np.arange(start, end) + 0.5) / (CELL * step)).astype(np.intp)
