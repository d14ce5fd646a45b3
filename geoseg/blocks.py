"""The steps of a prediction on one block, free of files, GIS and schedulers.

`predict` runs them on a scene through dask; evaluation runs them on an image in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geoseg.decode import cells_around, decode
from geoseg.grid import CELL, Block, Grid, Window
from geoseg.stitch import Partial, accumulate, blend


class Model(Protocol):
    """What `TileModel` offers; see there."""

    @property
    def num_classes(self) -> int: ...

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], valid: Sequence[NDArray[np.bool_]]
    ) -> Sequence[NDArray[np.float32]]: ...


def readable(block: Block, grid: Grid) -> Window:
    """The part of the block's window that lies inside the scene."""
    common = block.window.intersection(Window(0, 0, grid.width, grid.height))
    assert common is not None, "every tile begins inside the scene"
    return common


def infer(
    block: Block, grid: Grid, image: NDArray[np.uint8], valid: NDArray[np.bool_], model: Model
) -> Partial:
    """Logits of a block's tiles, summed under their tapers.

    Tiles without a valid pixel are not computed.

    Args:
        image: (3,H,W), the pixels of `readable(block, grid)`.
        valid: (H,W), False where there is no data.
    """
    window = block.window
    # What a tile lacks at the scene's right and lower border is its own mirror image.
    missing = ((0, window.height - valid.shape[0]), (0, window.width - valid.shape[1]))
    if missing != ((0, 0), (0, 0)):
        image = np.pad(image, ((0, 0), *missing), mode="reflect")
        valid = np.pad(valid, missing, mode="reflect")
    places = [tile.window.relative_to(window).slices for tile in block.tiles]
    used = [i for i, place in enumerate(places) if valid[place].any()]
    logits = model([image[:, *places[i]] for i in used], [valid[places[i]] for i in used])
    windows = [block.tiles[i].window for i in used]
    return accumulate(window, windows, logits, model.num_classes, grid.overlap)


def contributors(block: Block, blocks: Sequence[Block], grid: Grid) -> list[Block]:
    """The blocks, itself included, whose tiles cover cells that decoding `block` reads."""
    scene = Window(0, 0, grid.width, grid.height)
    needed = cells_around(block.core, scene)
    return [b for b in blocks if b.window.scaled(CELL).intersection(needed)]


def predict_image(
    image: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    model: Model,
    *,
    tile_size: int,
    overlap: int,
) -> NDArray[np.uint8]:
    """Classes (H,W) of an image (3,H,W) in memory, by the same tiling as `predict`."""
    height, width = valid.shape
    grid = Grid(width, height, tile_size, overlap, tiles_per_block=max(width, height))
    (block,) = grid.blocks()
    scene = Window(0, 0, width, height)
    cells = cells_around(scene, scene)
    logits = blend(cells, [infer(block, grid, image, valid, model)])
    return decode(logits, cells, scene, confidence="none").class_ids
