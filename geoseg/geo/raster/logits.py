"""Logits on disk: a Zarr array at the model's output stride, to be decoded again later."""

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
"""Cells a side of a Zarr chunk."""


class LogitsWriter:
    """A Zarr array of logits (h, w, C), float16; NaN where nothing was computed.

    Its attributes `crs` (WKT), `transform` (of the cells, in GDAL's order) and `classes` allow it
    to be opened with xarray, or decoded again without the scene.
    """

    def __init__(
        self, path: Path, geobox: GeoBox, classes: Sequence[LabelClass], extent: Window
    ) -> None:
        """Create the array.

        Args:
            geobox: grid of the pixels that the model sees.
            extent: the wanted part of these pixels; cells on its border are included.

        Raises OutputError.
        """
        import zarr  # takes an eighth of a second, and most predictions do not use it

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
        """Write `logits` (h, w, C) of a block whose `core`, in pixels, starts on a cell.

        Not thread-safe. Raises OutputError.
        """
        cells = cells_of(core)
        part = cells.intersection(self.cells)
        if part is None:
            return
        try:
            self.array[part.relative_to(self.cells).slices] = logits[part.relative_to(cells).slices]
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} cannot be written: {getattr(error, 'strerror', error)}")


def cells_of(window: Window) -> Window:
    """Return the cells that share a pixel with `window`."""
    left, top = window.col_off // CELL, window.row_off // CELL
    right, bottom = -(-window.col_end // CELL), -(-window.row_end // CELL)
    return Window(left, top, right - left, bottom - top)
