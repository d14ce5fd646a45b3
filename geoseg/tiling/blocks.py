"""The steps of a prediction of one block, without files, GIS and schedulers.

`predict` runs them on a scene through dask, evaluation on an image in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from geoseg.tiling.blending import WeightedLogits, accumulate, blend
from geoseg.tiling.decoding import Decoded, cells_around, decode
from geoseg.tiling.grid import CELL, Block, Grid, Window
from geoseg.tiling.resample import Resampler
from geoseg.tiling.splitting import Splitting
from geoseg.timing import StageTimer


class Model(Protocol):
    """The part of `TileModel` that predictions use."""

    @property
    def num_classes(self) -> int: ...

    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]],
        valid: Sequence[NDArray[np.bool_]],
        timer: StageTimer,
    ) -> Sequence[NDArray[np.float32]]: ...


def readable_window(block: Block, grid: Grid) -> Window:
    """Return the part of the block's window inside the scene."""
    common = block.window.intersection(grid.extent)
    assert common is not None, "every tile begins inside the scene"
    return common


def infer(
    block: Block,
    grid: Grid,
    image: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    model: Model,
    timer: StageTimer,
) -> WeightedLogits:
    """Return the tapered sums of the logits of a block's tiles.

    Tiles without a valid pixel are not computed.

    Args:
        image: (3,H,W), the pixels of `readable_window(block, grid)`.
        valid: (H,W), False where there is no data.
    """
    window = block.window
    # Tiles that exceed the scene at its right and lower border are padded by reflection.
    missing = ((0, window.height - valid.shape[0]), (0, window.width - valid.shape[1]))
    if missing != ((0, 0), (0, 0)):
        image = np.pad(image, ((0, 0), *missing), mode="reflect")
        valid = np.pad(valid, missing, mode="reflect")
    windows = [tile.window for tile in block.tiles]
    windows = [each for each in windows if valid[each.relative_to(window).slices].any()]
    parts = [each.relative_to(window).slices for each in windows]
    logits = model([image[:, *part] for part in parts], [valid[part] for part in parts], timer)
    with timer.stage("stitch"):
        return accumulate(window, windows, logits, model.num_classes, grid.overlap)


@dataclass(frozen=True, slots=True)
class ImageLogits:
    """Logits of a whole image at the resolution of the model."""

    values: NDArray[np.float32]
    """(h,w,C)."""
    cells: Window
    """The window of `values`, in cells."""
    image: Window
    """The window of the image, px."""
    step: tuple[float, float]
    """Image pixels per pixel that the model saw, across and down."""
    grid: Grid
    """Tiles on the pixels that the model saw."""

    def decode(
        self,
        confidence: Literal["none", "objects", "all"] = "none",
        split: tuple[int, ...] = (),
    ) -> Decoded:
        """Decode the classes and confidences of the image, see `geoseg.tiling.decoding.decode`.

        Args:
            split: ids of the classes whose touching objects are split.
        """
        return decode(
            *(self.values, self.cells, self.image),
            step=self.step,
            confidence=confidence,
            splitting=Splitting.on(self.grid, split),
        )

    def class_ids(self) -> NDArray[np.uint8]:
        """Decode classes (H,W) of the image."""
        return self.decode().class_ids

    def sample(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels of a mask (H,W) at the centers of the cells, (h,w)."""
        columns, rows = (
            np.minimum(((np.arange(cells) + 0.5) * CELL * step).astype(np.intp), pixels - 1)
            for cells, step, pixels in zip(
                self.values.shape[1::-1], self.step, mask.shape[::-1], strict=True
            )
        )
        return mask[np.ix_(rows, columns)]


def image_logits(
    image: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    model: Model,
    *,
    tile_size: int,
    overlap: int,
    scale: float = 1.0,
) -> ImageLogits:
    """Logits of an image (3,H,W) in memory, by the same tiling as `predict`.

    Args:
        valid: (H,W), False where there is no data.
        scale: factor by which pixels are enlarged for the model, as by `predict`.
    """
    resampler = Resampler.of(valid.shape[1], valid.shape[0], 1 / scale, 1 / scale)
    width, height = resampler.size
    extent = Window(0, 0, valid.shape[1], valid.shape[0])
    resampled, mask = resampler.read(
        Window(0, 0, width, height), lambda part: (image[:, *part.slices], valid[part.slices])
    )
    grid = Grid(width, height, tile_size, overlap, tiles_per_block=max(width, height))
    (block,) = grid.blocks()
    cells = cells_around(grid.extent, grid.extent)
    logits = blend(cells, [infer(block, grid, resampled, mask, model, StageTimer())])
    return ImageLogits(logits, cells, extent, resampler.step, grid)
