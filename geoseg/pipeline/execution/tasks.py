"""The three tasks of one block: infer, cut halos, decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoseg.classes import IGNORE
from geoseg.geo.raster.aoi import Aoi
from geoseg.geo.raster.logits import DecodeGrid
from geoseg.geo.raster.resampled import ResampledScene
from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup
from geoseg.geo.vector.polygonize import BlockPolygons, polygonize_block
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import limit_free_memory
from geoseg.tiling.blending import WeightedLogits, blend
from geoseg.tiling.blocks import infer, readable_window
from geoseg.tiling.decoding import cells_around, decode
from geoseg.tiling.grid import Block, Grid, Window
from geoseg.tiling.splitting import Splitting
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
    splitting: Splitting
    """Of touching objects."""
    confidence: bool
    """Whether to keep the confidence of every pixel."""
    logits: bool
    """Whether to keep the logits."""

    @property
    def decode_grid(self) -> DecodeGrid:
        """The grids that decoding needs, without the scene's file."""
        scene = self.view.scene.geobox
        extent = scene.extent if self.aoi is None else self.aoi.window
        return DecodeGrid(scene, extent, self.view.resampler, self.grid)

    def cells(self, block: Block) -> Window:
        """Return the cells that decoding a block reads."""
        return cells_around(block.core, self.grid.extent, self.splitting.margin)

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
    """(h,w,C) of the cells that decoding reads (`cells_around` the core); None unless wanted."""
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
    cells = plan.cells(block)
    with timer.stage("stitch"):
        logits, kept = blend(cells, [inferred.logits, *(piece.logits for piece in pieces)]), None
        if plan.logits:  # the map is that of the logits as they are kept
            halves = logits.astype(np.float16)
            logits = halves.astype(np.float32)
            own = cells_around(block.core, plan.grid.extent).relative_to(cells)
            kept = halves[own.slices]
    bits = np.unpackbits(inferred.valid, count=window.width * window.height)
    valid = bits.reshape(window.height, window.width).astype(bool)
    if plan.aoi is not None:
        valid &= plan.aoi.mask(window)
    pixels = decode_pixels(
        logits,
        cells,
        window,
        valid,
        step=plan.view.step,
        confidence=plan.confidence,
        cleanup=plan.cleanup,
        splitting=plan.splitting,
        timer=timer,
    )
    return BlockResult(
        number=number,
        block=block,
        window=window,
        class_ids=pixels.class_ids,
        confidence=pixels.confidence,
        logits=kept,
        polygons=pixels.polygons,
        clean=pixels.clean,
        damaged=inferred.damaged,
        timer=timer,
        intact=not inferred.damaged and all(piece.intact for piece in pieces),
    )


@dataclass(frozen=True, slots=True)
class DecodedPixels:
    """Classes and polygons of a window; see `BlockResult`."""

    class_ids: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None
    polygons: BlockPolygons
    clean: CleanPolygons


def decode_pixels(
    logits: NDArray[np.float32],
    cells: Window,
    window: Window,
    valid: NDArray[np.bool_],
    *,
    step: tuple[float, float],
    confidence: bool,
    cleanup: Cleanup,
    splitting: Splitting,
    timer: StageTimer,
) -> DecodedPixels:
    """Decode and polygonize a window of the scene from the logits (h,w,C) of `cells`.

    Args:
        valid: (H,W) of `window`.
        step: pixels of the scene per pixel of the model.
        confidence: whether to return the confidence of every pixel.
        cleanup: of the polygons.
        splitting: of touching objects.
    """
    with timer.stage("decode"):
        wanted: Literal["all", "objects"] = "all" if confidence else "objects"
        decoded = decode(logits, cells, window, step=step, confidence=wanted, splitting=splitting)
        class_ids, probability = decoded.class_ids, decoded.confidence
        assert probability is not None
        class_ids[~valid] = IGNORE
    with timer.stage("polygonize"):
        block = polygonize_block(
            class_ids, window, confidence=probability, min_pixels=cleanup.min_pixels
        )
        polygons, clean = cleanup.clean_interior(block)
    percent = to_percent(probability, valid) if confidence else None
    return DecodedPixels(class_ids, percent, polygons, clean)


def to_percent(probability: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return probabilities (H,W) as percent, IGNORE where not valid."""
    return np.where(valid, np.rint(probability * 100).astype(np.uint8), np.uint8(IGNORE))
