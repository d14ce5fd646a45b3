"""Which bands of a file are red, green and blue, and which pixels it declares to be empty."""

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

_SIDE = 1024
_PIECES = 8


def sample(dataset: DatasetReader, read: Callable[[Window, tuple[int, int]], NDArray]) -> NDArray:
    """`read(window, shape)` of a few places, joined along the last axis.

    A raster with overviews, or of at most 1024 px a side, is looked at as a whole, decimated.
    Of another the blocks of an 8 by 8 lattice are read, for decimating would read every block.
    """
    height, width = dataset.shape
    whole = Window(0, 0, width, height)
    side = max(height, width)
    if side <= _SIDE or dataset.overviews(1):
        factor = max(1.0, side / _SIDE)
        return read(whole, (max(1, round(height / factor)), max(1, round(width / factor))))
    block_height, block_width = (min(size, 256) for size in dataset.block_shapes[0])
    pieces = [
        Window(left, top, min(block_width, width - left), min(block_height, height - top))
        for top in _lattice(height, block_height)
        for left in _lattice(width, block_width)
    ]
    return np.concatenate([read(piece, (piece.height, piece.width)) for piece in pieces], axis=-1)


def _lattice(length: int, block: int) -> list[int]:
    """Up to 8 block starts, spread evenly over `length` pixels, first and last included."""
    last = (length - 1) // block
    return sorted({round(i * last / (_PIECES - 1)) * block for i in range(_PIECES)})


_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@dataclass(frozen=True, slots=True)
class Bands:
    """How to read three colors and a mask of declared validity from one file."""

    color: tuple[int, int, int]
    """Red, green and blue: 1-based bands of the file, equal ones where it is gray."""
    validity: Validity
    """Of the color bands, and what else declares pixels to be empty."""
    palette: NDArray[np.uint8] | None
    """(entries, 4) RGBA to look the values of the only band up in."""
    levels: tuple[float, float]
    """Slope and intercept from stored values to brightness: not (1, 0) where samples have fewer
    than 8 bits, or 0 is white."""
    dtype: np.dtype
    """Of the colors as `read` returns them."""

    @property
    def may_be_invalid(self) -> bool:
        """False where no pixel can be declared empty: the file has no way to say so."""
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
        """Colors (3, H, W) as stored, and validity (H, W) as declared, under `window`.

        Palettes are looked up, and brightness grows with the values, see `levels`. `shape` asks
        for a decimated picture. Raises what rasterio raises.
        """
        shape = shape or (window.height, window.width)
        resampling = Resampling.nearest if self.palette is not None else resampling
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        alpha, distinct = self.validity.alpha, [*dict.fromkeys(self.color)]
        wanted = [*distinct, *([alpha] if alpha else [])]
        planes = _read_planes(dataset, wanted, area, shape, resampling)
        stored, mask = [*planes[: len(distinct)]], planes[-1] if alpha else None
        valid = self.validity.read(dataset, stored, area, mask)
        places = [distinct.index(band) for band in self.color]
        if isinstance(planes, np.ndarray) and places == [0, 1, 2]:
            color = planes[:3]  # no copy
        else:
            color = np.stack([planes[place] for place in places])
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
        return color.dtype.type(intercept) - color  # wider samples are turned round only


def _read_planes(
    dataset: DatasetReader,
    bands: list[int],
    area: RasterioWindow,
    shape: tuple[int, int],
    resampling: Resampling,
) -> NDArray | list[NDArray]:
    """Each band (H, W) in its own dtype; one array where they have one."""
    if len({dataset.dtypes[band - 1] for band in bands}) == 1:
        size = (len(bands), *shape)
        return dataset.read(bands, window=area, out_shape=size, resampling=resampling)
    return [
        dataset.read(band, window=area, out_shape=shape, resampling=resampling) for band in bands
    ]


def choose_bands(
    path: str, dataset: DatasetReader, wanted: Sequence[int] | None
) -> tuple[Bands, tuple[str, ...]]:
    """The bands to use, and notes on choices that the user may want to overrule.

    Color interpretation decides, then the order 1, 2, 3; one or two bands are gray.
    An alpha band counts as a mask only where it holds two values, for NAIP and others flag their
    near-infrared band as alpha. Raises SceneError for bands that are not there.
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
    """(entries, 4) RGBA, if the band has a palette."""
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return None
    try:
        table = dataset.colormap(band)
    except ValueError:  # rasterio's way to say that there is none
        return None
    palette = np.zeros((max(table) + 1, 4), np.uint8)
    palette[list(table)] = list(table.values())
    return palette


def _levels(
    dataset: DatasetReader, color: tuple[int, int, int], dtype: np.dtype
) -> tuple[float, float]:
    """See `Bands.levels`. Only whole numbers without a sign can have 0 for white."""
    if dtype.kind != "u":
        return 1, 0
    bits, is_inverted = sample_bits(dataset, color[0]), is_min_white(dataset)
    top = 2**bits - 1
    if dtype.itemsize > 1:
        return (-1, top) if is_inverted else (1, 0)
    slope = 255 / top
    return (-slope, 255) if is_inverted else (slope, 0)


def sample_bits(dataset: DatasetReader, band: int) -> int:
    """Bits of a sample that may be used, of those it takes."""
    told = _file_under(dataset).tags(band, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(told) if told else 8 * np.dtype(dataset.dtypes[band - 1]).itemsize


def is_min_white(dataset: DatasetReader) -> bool:
    """Whether 0 is white (TIFF's MINISWHITE): GDAL says so and leaves the pixels as they are."""
    return _file_under(dataset).tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"


def _file_under(dataset: DatasetReader) -> DatasetReader:
    """A warped view does not say how the pixels under it are stored."""
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
    pictures = [band for band in dataset.indexes if meaning[band - 1] != ColorInterp.alpha]
    if len(pictures) < 3:
        return (pictures or [1])[0], (pictures or [1])[0], (pictures or [1])[0]
    return pictures[0], pictures[1], pictures[2]


def _is_two_valued(dataset: DatasetReader, band: int) -> bool:
    """At least 95 % of the band is either 0 or its greatest value; the rest may be soft edges."""
    values = sample(
        dataset,
        lambda window, shape: dataset.read(
            band,
            window=RasterioWindow(window.col_off, window.row_off, window.width, window.height),
            out_shape=shape,
        ).ravel(),
    )
    return bool(((values == 0) | (values == values.max())).mean() >= 0.95)
