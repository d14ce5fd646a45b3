"""Class rasters of any origin: which value is which class, and how to draw it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from geoseg.classes import IGNORE, LabelClass
from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.legend import declared_classes
from geoseg.geo.source import Source
from geoseg.grid import Window

_SCAN_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ClassRaster:
    """A raster of one band of whole numbers, read as 8-bit codes of its classes."""

    source: Source
    geobox: GeoBox
    classes: tuple[LabelClass, ...]
    """Ids are values of the raster, which may be larger than 255. Not all need occur."""
    values: NDArray[np.int64]
    """(K,) value of each code, ascending; K ≤ 255."""
    skip: tuple[int, ...]
    """Codes that are no class, beside IGNORE."""
    direct: bool
    """The raster's values are the codes."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        skip: Collection[int] = (0,),
        classes: tuple[LabelClass, ...] | None = None,
    ) -> ClassRaster:
        """Learn which values are classes: of 8 bits from the header, of more by reading them.

        Args:
            skip: values that are no class, beside the file's nodata value.
            classes: names and colours; None = see `declared_classes`.

        Raises:
            SceneError: not readable, not one band of whole numbers, or of more than 255 classes.
        """
        source = Source(str(path))
        with source.dataset() as dataset:
            dtype = np.dtype(dataset.dtypes[0])
            if dataset.count != 1 or dtype.kind not in "ui":
                raise SceneError(
                    f"{path}: {dataset.count} band(s) of {dtype}; give a raster of one band of "
                    "whole numbers, each of them a class"
                )
            geobox = GeoBox.of(dataset)
            nothing = {*skip} | ({int(dataset.nodata)} if dataset.nodata is not None else set())
            direct = dtype == np.uint8 and IGNORE in nothing
            if direct:
                values = np.arange(IGNORE)
            elif dtype == np.uint8 and nothing & {*range(256)}:
                values = np.setdiff1d(np.arange(256), [*nothing])
            else:
                values = np.setdiff1d(_distinct(dataset), [*nothing])
            if len(values) > IGNORE:
                raise SceneError(
                    f"{path}: {len(values)} different values; give a raster of at most 255 classes"
                )
            known = declared_classes(dataset) if classes is None else classes
        return cls(
            source=source,
            geobox=geobox,
            classes=known,
            values=values.astype(np.int64),
            skip=tuple(value for value in sorted(nothing) if 0 <= value < IGNORE) if direct else (),
            direct=direct,
        )

    def read(self, window: Window) -> NDArray[np.uint8]:
        """(H, W) codes; IGNORE where there is no class.

        Raises SceneError where the file is damaged.
        """
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        with self.source.dataset("read") as dataset:
            stored = dataset.read(1, window=area)
        if self.direct:
            return stored
        if stored.dtype == np.uint8:
            table = np.full(256, IGNORE, np.uint8)
            table[self.values] = np.arange(len(self.values))
            return table[stored]
        code = np.searchsorted(self.values, stored)
        padded = np.append(self.values, 0)
        known = (code < len(self.values)) & (padded[code] == stored)
        return np.where(known, code, IGNORE).astype(np.uint8)


def _distinct(dataset: DatasetReader) -> NDArray[np.int64]:
    found: set[int] = set()
    for top in range(0, dataset.height, _SCAN_ROWS):
        rows = min(_SCAN_ROWS, dataset.height - top)
        part = dataset.read(1, window=RasterioWindow(0, top, dataset.width, rows))
        found.update(np.unique(part).tolist())
        if len(found) > 2 * 256:
            break  # enough to refuse
    return np.array(sorted(found), np.int64)
