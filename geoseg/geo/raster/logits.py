"""Logits on disk: a Zarr group at the model's output stride, to be decoded again later.

The array `logits` (y, x, class) is float16. Its coordinates and CRS are written as xarray and
rioxarray read them. `valid` says which pixels of the scene have a class, and the attribute `geoseg`
relates the grids of scene, model and tiles, so that decoding repeats what `geoseg predict` did.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.classes import LabelClass
from geoseg.errors import DataError, OutputError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.class_raster import SPECK
from geoseg.tiling.decoding import cells_around
from geoseg.tiling.grid import CELL, Grid, Window
from geoseg.tiling.resample import Resampler

CHUNK = 256
"""Cells a side of a Zarr chunk."""
_VALID_CHUNK = 2048
"""Pixels a side of a chunk of `valid`."""
_KEY = "geoseg"


@dataclass(frozen=True, slots=True)
class DecodeGrid:
    """The grids that decoding relates: pixels of the scene, pixels of the model, tiles."""

    geobox: GeoBox
    """The scene's pixels."""
    extent: Window
    """The part of the scene that the outputs cover."""
    resampler: Resampler
    """From the scene's pixels to those that the model sees."""
    tiles: Grid
    """Tiles and blocks on the model's pixels."""

    @property
    def model_geobox(self) -> GeoBox:
        """The pixels that the model sees. The last row and column may extend beyond the scene."""
        width, height = self.resampler.size
        scale = Affine.scale(*self.resampler.step)
        return GeoBox(height, width, self.geobox.transform @ scale, self.geobox.crs)

    @property
    def part(self) -> Window:
        """The model's pixels that contain the extent."""
        across, down = self.resampler.step
        left, top = floor(self.extent.col_off / across), floor(self.extent.row_off / down)
        right, bottom = ceil(self.extent.col_end / across), ceil(self.extent.row_end / down)
        return Window(left, top, right - left, bottom - top)

    @property
    def cells(self) -> Window:
        """The cells from which the pixels of the extent are interpolated."""
        return cells_around(self.part, self.tiles.extent)

    def min_pixels(self, min_area: float | None) -> float:
        """Return the least pixels of a polygon.

        Args:
            min_area: m²; None = SPECK pixels of the scene or, if larger, of the model.
        """
        across, down = self.resampler.step
        pixel = self.geobox.gsd or 1.0
        return SPECK * max(1.0, across * down) if min_area is None else min_area / pixel**2

    def as_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        e, tiles, resampler = self.extent, self.tiles, self.resampler
        return {
            "width": self.geobox.width,
            "height": self.geobox.height,
            "transform": [*self.geobox.transform.to_gdal()],
            "crs": self.geobox.crs.to_wkt() if self.geobox.crs else None,
            "extent": [e.col_off, e.row_off, e.width, e.height],
            "units": [*resampler.units],
            "tiles": [tiles.tile_size, tiles.overlap, tiles.tiles_per_block],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecodeGrid:
        """Return the grids of `as_dict`. Raises KeyError, TypeError and ValueError."""
        width, height, crs = values["width"], values["height"], values["crs"]
        transform = Affine.from_gdal(*values["transform"])
        across, down = values["units"]
        resampler = Resampler(width, height, (across, down))
        return cls(
            geobox=GeoBox(height, width, transform, None if crs is None else CRS.from_wkt(crs)),
            extent=Window(*values["extent"]),
            resampler=resampler,
            tiles=Grid(*resampler.size, *values["tiles"]),
        )


class LogitsWriter:
    """Writer of logits, block by block; NaN where nothing was computed."""

    def __init__(self, path: Path, grid: DecodeGrid, classes: Sequence[LabelClass]) -> None:
        """Create the arrays. Raises OutputError."""
        import zarr  # takes an eighth of a second, and most predictions do not use it

        self.path, self.grid, self.cells = path, grid, grid.cells
        corner = Affine.translation(self.cells.col_off, self.cells.row_off)
        transform = grid.model_geobox.transform @ Affine.scale(CELL) @ corner
        crs = grid.geobox.crs.to_wkt() if grid.geobox.crs else None
        height, width = self.cells.height, self.cells.width
        tables = [{"id": c.id, "name": c.name, "color": [*c.color]} for c in classes]
        try:
            self.group = zarr.create_group(
                path, attributes={_KEY: {**grid.as_dict(), "classes": tables}}
            )
            self.array = zarr.create_array(
                path,
                name="logits",
                shape=(height, width, len(classes)),
                chunks=(min(CHUNK, height), min(CHUNK, width), len(classes)),
                dtype="float16",
                fill_value=np.nan,
                dimension_names=("y", "x", "class"),
                attributes={
                    "crs": crs,
                    "transform": list(transform.to_gdal()),
                    "classes": [item.name for item in classes],
                    "grid_mapping": "spatial_ref",
                    "coordinates": "spatial_ref",
                },
            )
            extent = grid.extent
            self.valid = zarr.create_array(
                path,
                name="valid",
                shape=(extent.height, extent.width),
                chunks=(min(_VALID_CHUNK, extent.height), min(_VALID_CHUNK, extent.width)),
                dtype="uint8",
                fill_value=0,
                dimension_names=("row", "column"),
            )
            self._write_coordinates(transform, crs, [item.name for item in classes])
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def _write_coordinates(self, transform: Affine, crs: str | None, names: list[str]) -> None:
        import zarr

        height, width = self.cells.height, self.cells.width
        with warnings.catch_warnings():  # text is new in Zarr 3, and what xarray writes, too
            warnings.filterwarnings("ignore", message=".*(specification|[Ss]tring).*")
            labels = zarr.create_array(
                self.path, name="class", shape=(len(names),), dtype=str, dimension_names=("class",)
            )
            labels[:] = np.array(names, object)
        mapping = {"GeoTransform": " ".join(map(repr, transform.to_gdal()))}
        if crs is not None:
            mapping |= {"crs_wkt": crs, "spatial_ref": crs}
        self._add("spatial_ref", np.array(0), (), mapping)
        if transform.is_rectilinear:
            self._add("x", transform.c + transform.a * (np.arange(width) + 0.5), ("x",))
            self._add("y", transform.f + transform.e * (np.arange(height) + 0.5), ("y",))

    def _add(
        self,
        name: str,
        values: NDArray[Any],
        dimensions: tuple[str, ...],
        attributes: dict[str, Any] | None = None,
    ) -> None:
        import zarr

        zarr.create_array(
            self.path, name=name, data=values, dimension_names=dimensions, attributes=attributes
        )

    def write(self, cells: Window, logits: NDArray[np.float16]) -> None:
        """Write logits (h, w, C) of a window of cells. Not thread-safe. Raises OutputError."""
        self._set(self.array, cells, logits, self.cells)

    def write_valid(self, window: Window, valid: NDArray[np.bool_]) -> None:
        """Write the validity (H, W) of a window of the scene. Not thread-safe.

        Raises OutputError.
        """
        self._set(self.valid, window, valid, self.grid.extent)

    def _set(self, array: Any, window: Window, values: NDArray[Any], extent: Window) -> None:
        part = window.intersection(extent)
        if part is None:
            return
        try:
            array[part.relative_to(extent).slices] = values[part.relative_to(window).slices]
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def describe(self, metadata: Mapping[str, str]) -> None:
        """Record how the logits were made. Raises OutputError."""
        try:
            known: Any = self.group.attrs[_KEY]
            self.group.attrs[_KEY] = {**known, "metadata": dict(metadata)}
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} cannot be written: {getattr(error, 'strerror', error)}")


@dataclass(frozen=True, slots=True)
class KeptLogits:
    """Logits that `geoseg predict --logits` wrote. Any thread may read."""

    path: Path
    grid: DecodeGrid
    classes: tuple[LabelClass, ...]
    metadata: dict[str, str]
    """How they were made."""
    arrays: tuple[Any, Any]
    """Logits and validity."""

    @classmethod
    def open(cls, path: Path) -> KeptLogits:
        """Open a Zarr group of logits. Raises DataError."""
        import zarr

        try:
            group = zarr.open_group(path, mode="r")
            values: Any = group.attrs[_KEY]
            classes = tuple(
                LabelClass(each["id"], each["name"], (red, green, blue))
                for each in values["classes"]
                for red, green, blue in [each["color"]]
            )
            grid = DecodeGrid.from_dict(values)
            arrays = group["logits"], group["valid"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} holds no logits of geoseg predict --logits ({type(error).__name__}: "
                f"{error}); give a folder that ends in .logits.zarr"
            ) from error
        return cls(path, grid, classes, values.get("metadata", {}), arrays)

    def read(self, cells: Window) -> NDArray[np.float32]:
        """Return the logits (h, w, C) of a window of cells; 0 where there are none.

        Raises DataError.
        """
        found = np.zeros((cells.height, cells.width, len(self.classes)), np.float32)
        self._fill(found, self.arrays[0], cells, self.grid.cells)
        found[np.isnan(found)] = 0
        return found

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels (H, W) of a window of the scene have a class. Raises DataError."""
        found = np.zeros((window.height, window.width), bool)
        self._fill(found, self.arrays[1], window, self.grid.extent)
        return found

    def _fill(self, target: NDArray[Any], array: Any, window: Window, extent: Window) -> None:
        part = window.intersection(extent)
        if part is None:
            return
        try:
            values = array[part.relative_to(extent).slices]
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read: {error}") from error
        target[part.relative_to(window).slices] = values
