"""Pixels that a file declares to be empty: by a nodata value, an alpha band or a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SceneError


@dataclass(frozen=True, slots=True)
class Validity:
    """How a file declares that pixels of some of its bands hold no data."""

    nodata: tuple[float | None, ...]
    """The nodata value of each band; None if there is none, or only GDAL can compare with it."""
    alpha: int | None
    """Band that is 0 where there is no data."""
    masks: tuple[int, ...]
    """Bands whose GDAL masks count: a pixel is empty where all of them are 0. A mask of the file
    (internal, or in a .msk beside it) is the mask of every band, so one of them is enough."""

    @classmethod
    def of(cls, dataset: DatasetReader, bands: Sequence[int], alpha: int | None) -> Validity:
        """Return what `dataset` declares for `bands`, which are not complex."""
        nodata = tuple(_declared_nodata(dataset, band) for band in bands)
        return cls(nodata, alpha, _masked_bands(dataset, bands))

    @property
    def has_mask(self) -> bool:
        """Whether an alpha band or a mask counts, not only values of the pixels."""
        return bool(self.alpha or self.masks)

    @property
    def is_total(self) -> bool:
        """Whether the file has no way to declare a pixel empty."""
        return not self.has_mask and all(value is None for value in self.nodata)

    def __str__(self) -> str:
        """What declares pixels to be empty."""
        values = dict.fromkeys(f"{value:g}" for value in self.nodata if value is not None)
        parts = [
            *([f"alpha band {self.alpha}"] if self.alpha else []),
            *(["mask"] if self.masks else []),
            *([f"nodata value {', '.join(values)}"] if values else []),
        ]
        return " and ".join(parts)

    def read(
        self,
        dataset: DatasetReader,
        planes: Sequence[NDArray],
        area: RasterioWindow,
        alpha: NDArray | None = None,
    ) -> NDArray[np.bool_]:
        """Return validity (H, W).

        A pixel is empty if it is so in every band, as in GDAL's dataset mask, or if any band is not
        a number.

        Args:
            planes: (H, W) stored values of each band, under `area` or decimated.
            alpha: (H, W) of the alpha band; None reads it, if there is one.
        """
        shape = planes[0].shape
        if None in self.nodata:
            empty = np.zeros(shape, bool)
        else:
            values = zip(planes, self.nodata, strict=True)
            empty = np.all([_is_nodata(plane, value) for plane, value in values], axis=0)
        for plane in planes:
            if plane.dtype.kind == "f":
                empty |= ~np.isfinite(plane)
        if self.alpha:
            if alpha is None:
                alpha = dataset.read(self.alpha, window=area, out_shape=shape)
            empty |= ~(alpha > 0)
        if self.masks:
            size = (len(self.masks), *shape)
            masks = dataset.read_masks([*self.masks], window=area, out_shape=size)
            empty |= (masks == 0).all(axis=0)
        return ~empty


def _is_nodata(plane: NDArray, value: float | None) -> NDArray[np.bool_]:
    """Whether pixels are the nodata value, compared as GDAL does: floats to a few units in the last
    place of float32, because files declare rounded values."""
    if plane.dtype.kind != "f" or value is None:
        return np.zeros(plane.shape, bool) if value is None else plane == value
    with np.errstate(over="ignore", invalid="ignore"):
        stored = plane.dtype.type(value)
        close = np.abs(plane - stored) < 2 * np.finfo(np.float32).eps * np.abs(plane + stored)
    return (plane == stored) | close


def _declared_nodata(dataset: DatasetReader, band: int) -> float | None:
    """Return the band's nodata value in the range of its pixels.

    None if there is none, no pixel can hold it, or only GDAL can compare with it; see
    `_masked_bands`.
    """
    value, dtype = dataset.nodatavals[band - 1], np.dtype(dataset.dtypes[band - 1])
    if value is None or np.isnan(value) or is_beyond_double(dtype):
        return None
    if dtype.kind == "f":
        return float(value)
    info = np.iinfo(dtype)
    return int(value) if info.min <= value <= info.max else None  # GDAL truncates


def _masked_bands(dataset: DatasetReader, bands: Sequence[int]) -> tuple[int, ...]:
    """Return the bands whose masks must be read from GDAL; only one if they share it."""
    flags = [dataset.mask_flag_enums[band - 1] for band in bands]
    if MaskFlags.per_dataset in flags[0]:
        return () if MaskFlags.alpha in flags[0] else (bands[0],)
    if not all(set(each) <= {MaskFlags.nodata} for each in flags):
        return ()  # some band is valid everywhere
    needed = [
        not each or is_beyond_double(np.dtype(dataset.dtypes[band - 1]))
        for band, each in zip(bands, flags, strict=True)
    ]
    return tuple(dict.fromkeys(bands)) if any(needed) else ()


def real_dtype(path: str, dataset: DatasetReader, band: int) -> np.dtype:
    """Return the dtype of a band. Raises SceneError if it is complex."""
    name = dataset.dtypes[band - 1]
    if name.startswith("complex"):
        raise SceneError(
            f"{path}: band {band} holds complex numbers ({name}); convert it to real ones first, "
            "for instance to amplitudes (gdal_calc.py)"
        )
    return np.dtype(name)


def is_beyond_double(dtype: np.dtype) -> bool:
    """Whether nodata values may be inexact: rasterio returns doubles, exact up to 2^53."""
    return dtype.kind in "ui" and dtype.itemsize == 8
