"""Soft predictions on disk: the logits at 1/8 as a Zarr array, to be decoded again later."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.geobox import GeoBox
from geoseg.grid import CELL, Window

CHUNK = 256
"""Side of a Zarr chunk, cells."""


class LogitsWriter:
    """Writes `(H/8, W/8, C)` float16 logits; the store appears at `path` when it is complete.

    Its attributes hold `crs` (WKT), `transform` (of the cells, GDAL order) and `classes`, so
    that the array can be opened with xarray or decoded again without the scene.
    """

    def __init__(self, path: Path, geobox: GeoBox, classes: Sequence[LabelClass]) -> None:
        import zarr  # an eighth of a second that most predictions can do without

        self.path = path
        self.temporary = path.with_name(f".{path.name}.partial")
        shutil.rmtree(self.temporary, ignore_errors=True)
        height, width = -(-geobox.height // CELL), -(-geobox.width // CELL)
        cells = geobox.transform @ Affine.scale(CELL)
        try:
            self.array = zarr.create_array(
                self.temporary,
                shape=(height, width, len(classes)),
                chunks=(min(CHUNK, height), min(CHUNK, width), len(classes)),
                dtype="float16",
                attributes={
                    "crs": geobox.crs.to_wkt() if geobox.crs else None,
                    "transform": list(cells.to_gdal()),
                    "classes": [item.name for item in classes],
                },
            )
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error

    def write(self, core: Window, logits: NDArray[np.float16]) -> None:
        """Store `logits` (h,w,C) of a block whose `core` (px) begins on the cells' grid.

        Not for several threads at once.
        """
        top, left = core.row_off // CELL, core.col_off // CELL
        height, width, _ = logits.shape
        self.array[top : top + height, left : left + width] = logits

    def __enter__(self) -> LogitsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is None:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.temporary.rename(self.path)
        else:
            shutil.rmtree(self.temporary, ignore_errors=True)
