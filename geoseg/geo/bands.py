"""Which bands of a file are red, green and blue, and which pixels it declares to be empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SceneError
from geoseg.geo.sample import sample
from geoseg.grid import Window

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@dataclass(frozen=True, slots=True)
class Bands:
    """How to read three colours and a mask of declared validity from one file."""

    color: tuple[int, int, int]
    """Red, green and blue: 1-based bands of the file, equal ones where it is grey."""
    nodata: tuple[float | None, float | None, float | None]
    """Value of each colour band that means "no data"."""
    alpha: int | None
    """Band that is 0 where there is no data."""
    has_mask: bool
    """The file carries a mask: internal, or in a .msk beside it."""
    palette: NDArray[np.uint8] | None
    """(entries, 4) RGBA to look the values of the only band up in."""
    dtype: np.dtype
    """Of the colours as `read` returns them."""

    @property
    def may_be_invalid(self) -> bool:
        """False where no pixel can be declared empty: the file has no way to say so."""
        declared = self.alpha or self.has_mask or self.palette is not None or self.dtype.kind == "f"
        return bool(declared) or any(value is not None for value in self.nodata)

    def read(
        self,
        dataset: DatasetReader,
        window: Window,
        shape: tuple[int, int] | None = None,
        resampling: Resampling = Resampling.nearest,
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Colours (3, H, W) as stored, and validity (H, W) as declared, under `window`.

        `shape` asks for a decimated picture. Raises what rasterio raises.
        """
        shape = shape or (window.height, window.width)
        resampling = Resampling.nearest if self.palette is not None else resampling
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        wanted = [*dict.fromkeys(self.color), *([self.alpha] if self.alpha else [])]
        planes = dataset.read(
            wanted, window=area, out_shape=(len(wanted), *shape), resampling=resampling
        )
        if wanted[:3] == [*self.color]:
            color = planes[:3]  # no copy
        else:
            color = planes[[wanted.index(band) for band in self.color]]
        valid = ~self._is_nodata(color)
        if self.alpha:
            valid &= planes[-1] > 0
        if self.has_mask:
            valid &= dataset.read_masks(self.color[0], window=area, out_shape=shape) > 0
        if self.palette is not None:
            known = color[0] < len(self.palette)
            rgba = self.palette[np.where(known, color[0], 0)]
            valid &= known & (rgba[..., 3] > 0)
            color = np.ascontiguousarray(np.moveaxis(rgba[..., :3], -1, 0))
        return color, valid

    def _is_nodata(self, color: NDArray) -> NDArray[np.bool_]:
        """No data: every band says so, as in GDAL's dataset mask; or any is not a number."""
        if None in self.nodata:
            empty = np.zeros(color.shape[1:], bool)
        else:
            empty = np.all([p == v for p, v in zip(color, self.nodata, strict=True)], axis=0)
        if np.issubdtype(color.dtype, np.floating):
            empty |= ~np.isfinite(color).all(axis=0)
        return empty


def choose_bands(
    path: str, dataset: DatasetReader, wanted: Sequence[int] | None
) -> tuple[Bands, tuple[str, ...]]:
    """The bands to use, and notes on choices that the user may want to overrule.

    Colour interpretation decides, then the order 1, 2, 3; one or two bands are grey.
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
    flags = dataset.mask_flag_enums[color[0] - 1]
    palette = None
    if not wanted and dataset.colorinterp[color[0] - 1] == ColorInterp.palette:
        table = dataset.colormap(color[0])
        palette = np.zeros((max(table) + 1, 4), np.uint8)
        palette[list(table)] = list(table.values())
    dtypes = {np.dtype(dataset.dtypes[band - 1]) for band in color}
    if any(dtype.kind not in "uif" for dtype in dtypes):
        raise SceneError(f"{path}: pixels are {dataset.dtypes[0]}; choose real-valued bands")
    stored = np.result_type(*dtypes)
    bands = Bands(
        color=color,
        nodata=_nodata(dataset, color, stored),
        alpha=alpha,
        has_mask=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        palette=palette,
        dtype=stored if palette is None else np.dtype(np.uint8),
    )
    return bands, notes


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


def _nodata(
    dataset: DatasetReader, color: tuple[int, int, int], dtype: np.dtype
) -> tuple[float | None, float | None, float | None]:
    """Declared values, rounded as the pixels are; those that no pixel can hold mean nothing."""

    def stored(band: int) -> float | None:
        value = dataset.nodatavals[band - 1]
        if value is None or np.isnan(value):
            return None
        if dtype.kind == "f":
            return dtype.type(value).item()
        info = np.iinfo(dtype)
        return int(value) if info.min <= value <= info.max and value == int(value) else None

    red, green, blue = map(stored, color)
    return red, green, blue


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
