"""The three tasks of one block: infer, cut halos, decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.classes import IGNORE
from geoseg.geo.raster.aoi import Aoi
from geoseg.geo.raster.resampled import ResampledScene
from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup
from geoseg.geo.vector.polygonize import BlockPolygons, polygonize_block
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import limit_free_memory
from geoseg.tiling.blending import WeightedLogits, blend
from geoseg.tiling.blocks import infer, readable_window
from geoseg.tiling.decoding import cells_around, decode
from geoseg.tiling.grid import CELL, Block, Grid, Window
from geoseg.timing import StageTimer


@dataclass(frozen=True, slots=True)
class Plan:
    """What all blocks of a prediction share."""

    view: ResampledScene
    grid: Grid
    """Tiles and blocks on the pixels of `view`."""
    aoi: Aoi | None
    """None = the whole scene."""
    cleanup: Cleanup
    """How polygons are cleaned."""
    confidence: bool
    """Whether to keep the confidence of every pixel."""
    logits: bool
    """Whether to keep the logits."""

    def output_window(self, block: Block) -> Window | None:
        """Return the scene's pixels that the block decides, or None if none of them is wanted."""
        window = self.view.to_scene(block.core)
        if window is None or (self.aoi is not None and not self.aoi.meets(window)):
            return None
        return window


@dataclass(frozen=True, slots=True)
class BlockLogits:
    """What `infer_block` returns: logits and a mask, no pixels."""

    logits: WeightedLogits
    valid: NDArray[np.uint8]
    """Validity of the pixels that the block decides, bit-packed."""
    damaged: tuple[Window, ...]
    """Windows of the scene that could not be read; they are not valid."""
    timer: StageTimer


@dataclass(frozen=True, slots=True)
class Halo:
    """The logits of a block that another one needs."""

    logits: WeightedLogits
    intact: bool
    """All of the block could be read."""


@dataclass(frozen=True, slots=True)
class BlockResult:
    """A finished block."""

    number: int
    """Index in `Grid.blocks`."""
    block: Block
    window: Window
    """The scene's pixels that it decides."""
    class_ids: NDArray[np.uint8]
    """(H,W) of `window`; IGNORE where nothing is valid."""
    confidence: NDArray[np.uint8] | None
    """(H,W) of `window`, percent, IGNORE where nothing is valid; None unless wanted."""
    logits: NDArray[np.float16] | None
    """(h,w,C) of the core's cells; None unless wanted."""
    polygons: BlockPolygons
    """Those that the neighboring blocks may change."""
    clean: CleanPolygons
    """The others."""
    damaged: tuple[Window, ...]
    """Windows of the scene that could not be read."""
    timer: StageTimer
    intact: bool = True
    """All pixels behind it could be read, its neighbors' too. Others are not kept: what failed now
    may be readable the next time."""


def infer_block(plan: Plan, block: Block, model: TileModel) -> BlockLogits:
    """Read a block with its halo and run its tiles."""
    timer, view = StageTimer(), plan.view
    window, output = readable_window(block, plan.grid), plan.output_window(block)
    with timer.stage("read"):
        pixels = view.read(window)
        if output is None:
            valid = np.zeros(0, bool)
        elif view.step == (1, 1):
            valid = pixels.valid[output.relative_to(window).slices]
        else:
            valid = view.scene.valid(output)
            for part in pixels.damaged:
                if common := part.intersection(output):
                    valid[common.relative_to(output).slices] = False
    logits = infer(block, plan.grid, pixels.image, pixels.valid, model, timer)
    limit_free_memory()
    return BlockLogits(logits, np.packbits(valid), pixels.damaged, timer)


def halo(inferred: BlockLogits, cells: Window) -> Halo:
    """Cut out the cells that decoding another block needs."""
    return Halo(inferred.logits.crop(cells), not inferred.damaged)


def decode_block(
    plan: Plan, number: int, block: Block, inferred: BlockLogits, pieces: list[Halo]
) -> BlockResult:
    """Blend, decode and polygonize the pixels that a block decides, and clean its polygons."""
    timer, window = StageTimer(inferred.timer.seconds.copy()), plan.output_window(block)
    assert window is not None, "a block without output is not decoded"
    cells = cells_around(block.core, plan.grid.extent)
    with timer.stage("stitch"):
        logits = blend(cells, [inferred.logits, *(piece.logits for piece in pieces)])
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
        polygons, clean = plan.cleanup.clean_interior(
            polygonize_block(
                class_ids, window, confidence=probability, min_pixels=plan.cleanup.min_pixels
            )
        )
    return BlockResult(
        number=number,
        block=block,
        window=window,
        class_ids=class_ids,
        confidence=to_percent(probability, valid) if plan.confidence else None,
        logits=core_logits(plan, block, cells, logits, valid) if plan.logits else None,
        polygons=polygons,
        clean=clean,
        damaged=inferred.damaged,
        timer=timer,
        intact=not inferred.damaged and all(piece.intact for piece in pieces),
    )


def to_percent(probability: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return probabilities (H,W) as percent, IGNORE where not valid."""
    return np.where(valid, np.rint(probability * 100).astype(np.uint8), np.uint8(IGNORE))


def core_logits(
    plan: Plan, block: Block, cells: Window, logits: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.float16]:
    """Return the logits (h,w,C) of the core's cells; NaN where no pixel of a cell is valid.

    Args:
        cells: window of `logits`.
        valid: (H,W) of the pixels that the block decides.
    """
    core, window, step = block.core, plan.output_window(block), plan.view.step
    assert window is not None
    left, top = core.col_off // CELL, core.row_off // CELL
    right, bottom = -(-core.col_end // CELL), -(-core.row_end // CELL)
    core_cells = Window(left, top, right - left, bottom - top)
    rows = cell_indices(window.row_off, window.row_end, step[1]) - top
    columns = cell_indices(window.col_off, window.col_end, step[0]) - left
    # The first pixel of each cell, along both axes.
    down, across = (np.flatnonzero(np.diff(each, prepend=-1)) for each in (rows, columns))
    any_valid = np.logical_or.reduceat(np.logical_or.reduceat(valid, down, axis=0), across, axis=1)
    wanted = np.zeros((core_cells.height, core_cells.width), bool)
    wanted[np.ix_(rows[down], columns[across])] = any_valid
    kept = logits[core_cells.relative_to(cells).slices].astype(np.float16)
    kept[~wanted] = np.nan
    return kept


def cell_indices(start: int, end: int, step: float) -> NDArray[np.intp]:
    """Return the cell of each pixel's center along one axis."""
    return ((np.arange(start, end) + 0.5) / (CELL * step)).astype(np.intp)
