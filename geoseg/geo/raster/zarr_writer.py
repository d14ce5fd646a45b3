"""Soft predictions on disk: the logits at 1/8 as a Zarr array, to be decoded again later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.geobox import GeoBox
from geoseg.tiling.grid import CELL, Window

CHUNK = 256
"""Side of a Zarr chunk, cells."""


class LogitsWriter:
    """Writes `(h, w, C)` float16 logits of a window; NaN where nothing was computed.

    Its attributes hold `crs` (WKT), `transform` (of the cells, GDAL order) and `classes`, so
    that the array can be opened with xarray or decoded again without the scene.

    Raises OutputError where the store cannot be written.
    """

    def __init__(
        self, path: Path, geobox: GeoBox, classes: Sequence[LabelClass], extent: Window
    ) -> None:
        """Args:
        geobox: of the pixels that the model sees.
        extent: the part of them that is wanted; whole cells are kept.
        """
        import zarr  # an eighth of a second that most predictions can do without

        self.path = path
        self.cells = cells_of(extent)
        corner = Affine.translation(self.cells.col_off, self.cells.row_off)
        transform = geobox.transform @ Affine.scale(CELL) @ corner
        height, width = self.cells.height, self.cells.width
        try:
            self.array = zarr.create_array(
                path,
                shape=(height, width, len(classes)),
                chunks=(min(CHUNK, height), min(CHUNK, width), len(classes)),
                dtype="float16",
                fill_value=np.nan,
                attributes={
                    "crs": geobox.crs.to_wkt() if geobox.crs else None,
                    "transform": list(transform.to_gdal()),
                    "classes": [item.name for item in classes],
                },
            )
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def write(self, core: Window, logits: NDArray[np.float16]) -> None:
        """Write `logits` (h,w,C) of a block whose `core` (px) begins on the cells' grid.

        Not for several threads at once.
        """
        cells = cells_of(core)
        part = cells.intersection(self.cells)
        if part is None:
            return
        place = part.relative_to(self.cells).slices
        try:
            self.array[place] = logits[part.relative_to(cells).slices]
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} cannot be written: {getattr(error, 'strerror', error)}")


def cells_of(window: Window) -> Window:
    """The cells that share a pixel with `window`."""
    left, top = window.col_off // CELL, window.row_off // CELL
    right, bottom = -(-window.col_end // CELL), -(-window.row_end // CELL)
    return Window(left, top, right - left, bottom - top)
