"""Images in memory: the same classes as `predict` finds in a scene of the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoseg.api.messages import python_messages
from geoseg.api.models import ready_model
from geoseg.classes import IGNORE, ids_of
from geoseg.errors import DataError, OptionError
from geoseg.geo.raster.resampled import suitable_gsd
from geoseg.geo.raster.stretch import Rescale
from geoseg.model.devices import Precision
from geoseg.model.engines.backends import BackendOption
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import TilingOptions
from geoseg.tiling.blending import blend
from geoseg.tiling.blocks import infer
from geoseg.tiling.decoding import cells_around, decode
from geoseg.tiling.grid import OVERLAP, TILE_SIZE, Grid, Window
from geoseg.tiling.resample import Resampler
from geoseg.tiling.splitting import Splitting
from geoseg.timing import StageTimer

if TYPE_CHECKING:
    from torch import nn


class ArrayPrediction(NamedTuple):
    """The classes of an image."""

    class_ids: NDArray[np.uint8]
    """(H,W); 255 where the image is not valid."""
    confidence: NDArray[np.float32]
    """(H,W) probability of the pixel's class, 0-1; 0 where the image is not valid."""


@python_messages
def predict_array(
    image: ArrayLike,
    *,
    gsd: float | None = None,
    valid: ArrayLike | None = None,
    rescale: tuple[float, float] | None = None,
    weights: str | Path | None = None,
    model: TileModel | nn.Module | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    backend: BackendOption = "auto",
    batch_size: int | None = None,
    tta: bool = False,
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
) -> ArrayPrediction:
    """Find the class of each pixel of an image, tiled as by `predict`.

    >>> class_ids, confidence = geoseg.predict_array(np.asarray(Image.open("town.png")), gsd=0.3)

    Classes are those of each pixel: limits of confidence are for the objects of `predict`.

    Args:
        image: (H,W,3) or (3,H,W), red, green, blue; 8 bits, or others with `rescale`.
        gsd: meters a pixel of the image. If it is finer than the weights know, the model sees the
            image reduced, as `predict` does with a scene. None = as it is, so
            that objects have the size in pixels that they had in training only by chance.
        valid: (H,W) bool, False on pixels without data; None = all are valid.
        rescale: values that become 0 and 255.
        weights: a checkpoint, or a name of `geoseg weights list`; None = the built-in ones.
        model: a `TileModel` or network to use instead of `weights`.

    Raises:
        DataError: the image or its validity has a shape or type that cannot be used.
        OptionError: options contradict each other or the machine.
    """
    if gsd is not None and not gsd > 0:
        raise OptionError(f"gsd is {gsd}; give meters a pixel, above 0")
    tiling = TilingOptions(tile_size, overlap)
    pixels = _channels_first(np.asarray(image), rescale)
    mask = _validity(valid, pixels.shape[1:])
    options: dict[str, Any] = {"device": device, "precision": precision, "backend": backend}
    tiles_model = ready_model(model, weights, **options, batch_size=batch_size, tta=tta)
    return _predict(pixels, mask, gsd, tiles_model, tiling)


def _predict(
    pixels: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    gsd: float | None,
    model: TileModel,
    tiling: TilingOptions,
) -> ArrayPrediction:
    seen_gsd = suitable_gsd(gsd, model.metadata.gsd_range)
    step = (1.0 if gsd is None or seen_gsd is None else seen_gsd / gsd) / model.metadata.scale
    height, width = valid.shape
    resampler = Resampler.of(width, height, step, step)
    columns, rows = resampler.size
    shown, shown_valid = resampler.read(
        Window(0, 0, columns, rows), lambda part: (pixels[:, *part.slices], valid[part.slices])
    )
    model.settle(columns * rows)
    grid = Grid(columns, rows, tiling.tile_size, tiling.overlap, max(columns, rows))
    (block,) = grid.blocks()
    cells = cells_around(grid.extent, grid.extent)
    logits = blend(cells, [infer(block, grid, shown, shown_valid, model, StageTimer())])
    whole = Window(0, 0, width, height)
    splitting = Splitting.on(grid, ids_of(model.metadata.split, model.metadata.classes))
    decoded = decode(
        logits, cells, whole, step=resampler.step, confidence="all", splitting=splitting
    )
    assert decoded.confidence is not None
    decoded.class_ids[~valid] = IGNORE
    decoded.confidence[~valid] = 0
    return ArrayPrediction(decoded.class_ids, decoded.confidence)


def _channels_first(image: NDArray[Any], rescale: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Return an image as (3,H,W) of 8 bits. Raises DataError and OptionError."""
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]) or 0 in image.shape:
        raise DataError(
            f"image has the shape {image.shape}; give (H, W, 3) or (3, H, W), for instance "
            "np.stack([gray] * 3) or image[..., :3]"
        )
    pixels = image.transpose(2, 0, 1) if image.shape[2] == 3 else image
    if rescale is not None:
        if image.dtype.kind not in "uif":
            raise DataError(f"image is of type {image.dtype}; give whole or real numbers")
        if not rescale[0] < rescale[1]:
            raise OptionError(f"rescale is {rescale}; give the smaller value first")
        low, high = map(float, rescale)
        pixels = Rescale((low, low, low), (high, high, high)).apply(pixels)
    if pixels.dtype != np.uint8:
        raise DataError(
            f"image is of type {image.dtype}; give uint8, or rescale=(black, white) with the "
            "values that become 0 and 255"
        )
    return np.ascontiguousarray(pixels)


def _validity(valid: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the validity (H,W) of an image. Raises DataError."""
    if valid is None:
        return np.ones(shape, bool)
    mask = np.asarray(valid)
    if mask.shape != shape or mask.dtype != bool:
        raise DataError(
            f"valid is {mask.dtype} of the shape {mask.shape}; give bool of the shape {shape}"
        )
    return mask
