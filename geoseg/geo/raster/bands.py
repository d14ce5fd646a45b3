"""Bands of a file: which are red, green and blue; reading and sampling them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SceneError
from geoseg.geo.raster.validity import Validity, real_dtype
from geoseg.tiling.grid import Window

_SAMPLE_SIDE = 1024
"""Pixels a side of a decimated sample."""
_LATTICE = 8
"""Blocks a side of a sample by blocks."""
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def sample(dataset: DatasetReader, read: Callable[[Window, tuple[int, int]], NDArray]) -> NDArray:
    """Return `read(window, shape)` of representative windows, joined along the last axis.

    A raster with overviews, or of at most 1024 px a side, is decimated as one window. Of others, a
    lattice of 8 × 8 blocks is read, because decimating would read every block.
    """
    height, width = dataset.shape
    side = max(height, width)
    if side <= _SAMPLE_SIDE or dataset.overviews(1):
        return read(Window(0, 0, width, height), reduced_shape(dataset.shape, _SAMPLE_SIDE))
    block_height, block_width = (min(size, 256) for size in dataset.block_shapes[0])
    windows = [
        Window(left, top, min(block_width, width - left), min(block_height, height - top))
        for top in _lattice(height, block_height)
        for left in _lattice(width, block_width)
    ]
    return np.concatenate(
        [read(window, (window.height, window.width)) for window in windows], axis=-1
    )


def _lattice(length: int, block: int) -> list[int]:
    """Return up to 8 offsets of blocks, spread evenly over `length` pixels from first to last."""
    last = (length - 1) // block
    return sorted({round(i * last / (_LATTICE - 1)) * block for i in range(_LATTICE)})


def reduced_shape(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Return `shape` in proportion, with no side longer than `side`."""
    factor = max(1.0, max(shape) / side)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


@dataclass(frozen=True, slots=True)
class Bands:
    """How to read three colors and a mask of declared validity from one file."""

    color: tuple[int, int, int]
    """Red, green and blue: 1-based bands of the file, all equal if it is gray."""
    validity: Validity
    """What declares pixels of these bands to be empty."""
    palette: NDArray[np.uint8] | None
    """(entries, 4) RGBA of the values of the only band; None without a palette."""
    levels: tuple[float, float]
    """Slope and intercept from stored values to brightness: (1, 0) unless samples have fewer than
    8 bits or 0 is white."""
    dtype: np.dtype
    """Type of the colors that `read` returns."""

    @property
    def may_be_invalid(self) -> bool:
        """Whether the file has a way to declare pixels empty."""
        return not (self.validity.is_total and self.palette is None and self.dtype.kind != "f")

    def __str__(self) -> str:
        """What declares pixels to be empty, for messages."""
        parts = [
            str(self.validity),
            "" if self.palette is None else "palette",
            "not-a-number pixels" if self.dtype.kind == "f" else "",
        ]
        return " and ".join(filter(None, parts))

    def read(
        self,
        dataset: DatasetReader,
        window: Window,
        shape: tuple[int, int] | None = None,
        resampling: Resampling = Resampling.nearest,
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return colors (3, H, W) as stored, and validity (H, W) as declared.

        Palettes are applied, and brightness grows with the values; see `levels`. Raises what
        rasterio raises.

        Args:
            shape: decimate to this; None reads every pixel.
            resampling: how to decimate; palettes always take the nearest pixel.
        """
        shape = shape or (window.height, window.width)
        resampling = Resampling.nearest if self.palette is not None else resampling
        area = RasterioWindow.from_slices(*window.slices)
        alpha, distinct = self.validity.alpha, [*dict.fromkeys(self.color)]
        wanted = [*distinct, *([alpha] if alpha else [])]
        planes = _read_planes(dataset, wanted, area, shape, resampling)
        stored, mask = [*planes[: len(distinct)]], planes[-1] if alpha else None
        valid = self.validity.read(dataset, stored, area, mask)
        indices = [distinct.index(band) for band in self.color]
        if isinstance(planes, np.ndarray) and indices == [0, 1, 2]:
            color = planes[:3]  # no copy
        else:
            color = np.stack([planes[index] for index in indices])
        if self.palette is not None:
            known = (color[0] >= 0) & (color[0] < len(self.palette))
            rgba = self.palette[np.where(known, color[0], 0)]
            valid &= known & (rgba[..., 3] > 0)
            color = np.ascontiguousarray(np.moveaxis(rgba[..., :3], -1, 0))
        return self._brightness(color), valid

    def _brightness(self, color: NDArray) -> NDArray:
        slope, intercept = self.levels
        if (slope, intercept) == (1, 0):
            return color
        if color.dtype == np.uint8:
            table = np.rint(np.arange(256) * slope + intercept).clip(0, 255).astype(np.uint8)
            return table[color]
        return color.dtype.type(intercept) - color  # wider samples are only inverted


def _read_planes(
    dataset: DatasetReader,
    bands: list[int],
    area: RasterioWindow,
    shape: tuple[int, int],
    resampling: Resampling,
) -> NDArray | list[NDArray]:
    """Return each band (H, W) in its own dtype, in one array if they share it."""
    if len({dataset.dtypes[band - 1] for band in bands}) == 1:
        size = (len(bands), *shape)
        return dataset.read(bands, window=area, out_shape=size, resampling=resampling)
    return [
        dataset.read(band, window=area, out_shape=shape, resampling=resampling) for band in bands
    ]


def choose_bands(
    path: str, dataset: DatasetReader, wanted: Sequence[int] | None
) -> tuple[Bands, tuple[str, ...]]:
    """Return the bands to use, and notes on choices that the user may want to overrule.

    Color interpretation decides, then the order 1, 2, 3; one or two bands are gray. An alpha band
    is a mask only if it has two values, because NAIP and others flag near infrared as alpha.
    Raises SceneError for bands that do not exist.
    """
    notes: tuple[str, ...] = ()
    alpha = None
    if ColorInterp.alpha in dataset.colorinterp:
        alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1
        if wanted is not None and alpha in wanted:
            alpha = None
        elif not _is_two_valued(dataset, alpha):
            notes = (f"band {alpha} is flagged as alpha but holds a picture: not used as a mask",)
            alpha = None
    color = _explicit(path, dataset, wanted) if wanted else _automatic(dataset)
    stored = np.result_type(*(real_dtype(path, dataset, band) for band in color))
    palette = _palette(dataset, color[0]) if len({*color}) == 1 else None
    bands = Bands(
        color=color,
        validity=Validity.of(dataset, [*dict.fromkeys(color)], alpha),
        palette=palette,
        levels=(1, 0) if palette is not None else _levels(dataset, color, stored),
        dtype=stored if palette is None else np.dtype(np.uint8),
    )
    return bands, notes


def _palette(dataset: DatasetReader, band: int) -> NDArray[np.uint8] | None:
    """Return (entries, 4) RGBA, or None if the band has no palette."""
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return None
    try:
        table = dataset.colormap(band)
    except ValueError:  # there is none
        return None
    palette = np.zeros((max(table) + 1, 4), np.uint8)
    palette[list(table)] = list(table.values())
    return palette


def _levels(
    dataset: DatasetReader, color: tuple[int, int, int], dtype: np.dtype
) -> tuple[float, float]:
    """Return `Bands.levels`. Only unsigned integers can have 0 for white."""
    if dtype.kind != "u":
        return 1, 0
    bits, is_inverted = sample_bits(dataset, color[0]), is_min_white(dataset)
    top = 2**bits - 1
    if dtype.itemsize > 1:
        return (-1, top) if is_inverted else (1, 0)
    slope = 255 / top
    return (-slope, 255) if is_inverted else (slope, 0)


def sample_bits(dataset: DatasetReader, band: int) -> int:
    """Return how many bits of a sample are used."""
    declared = _underlying(dataset).tags(band, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(declared) if declared else 8 * np.dtype(dataset.dtypes[band - 1]).itemsize


def is_min_white(dataset: DatasetReader) -> bool:
    """Whether 0 is white (TIFF's MINISWHITE), which GDAL reports but does not invert."""
    return _underlying(dataset).tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"


def _underlying(dataset: DatasetReader) -> DatasetReader:
    """Return the file under a warped view, which does not report how pixels are stored."""
    return dataset.src_dataset if isinstance(dataset, WarpedVRT) else dataset


def _explicit(path: str, dataset: DatasetReader, wanted: Sequence[int]) -> tuple[int, int, int]:
    if len(wanted) not in (1, 3) or not all(1 <= band <= dataset.count for band in wanted):
        asked = ",".join(map(str, wanted))
        raise SceneError(
            f"{path}: bands {asked} cannot be used: name one or three of 1 to {dataset.count}"
        )
    red, green, blue = wanted if len(wanted) == 3 else tuple(wanted) * 3
    return red, green, blue


def _automatic(dataset: DatasetReader) -> tuple[int, int, int]:
    meaning = dataset.colorinterp
    if all(color in meaning for color in _RGB):
        red, green, blue = (meaning.index(color) + 1 for color in _RGB)
        return red, green, blue
    others = [band for band in dataset.indexes if meaning[band - 1] != ColorInterp.alpha]
    if len(others) < 3:
        gray = others[0] if others else 1
        return gray, gray, gray
    return others[0], others[1], others[2]


def _is_two_valued(dataset: DatasetReader, band: int) -> bool:
    """Whether 95 % of the band are 0 or its greatest value; the rest may be soft edges."""

    def read(window: Window, shape: tuple[int, int]) -> NDArray:
        area = RasterioWindow.from_slices(*window.slices)
        return dataset.read(band, window=area, out_shape=shape).ravel()

    values = sample(dataset, read)
    return bool(((values == 0) | (values == values.max())).mean() >= 0.95)
