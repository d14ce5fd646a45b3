"""Rasters of 8-bit values on a scene's grid, written block by block, finished as COGs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterioWindow

from geoseg.classes import IGNORE, LabelClass
from geoseg.errors import OutputError
from geoseg.geo.crs import axis_order, to_pyproj, without_height
from geoseg.geo.geobox import GeoBox
from geoseg.geo.styles import opacity, raster_qml
from geoseg.tiling.grid import Window

_FAILURES = (RasterioError, OSError, CPLE_BaseError)
"""rasterio lets GDAL's own errors through when it copies."""
_BLOCK = 512
_CACHE = 64 * 2**20
"""Bytes of blocks that GDAL keeps of what it reads again: by default a share of the machine's."""
_WORKING: dict[str, Any] = {
    "driver": "GTiff",
    "dtype": "uint8",
    "nodata": IGNORE,
    "tiled": True,
    "blockxsize": _BLOCK,
    "blockysize": _BLOCK,
    "compress": "ZSTD",  # four times as fast to write as DEFLATE at its lowest level
    "zstd_level": 1,
    "SPARSE_OK": True,  # what is never written stays nodata and takes no room
    "BIGTIFF": "IF_SAFER",
}
_FINAL: dict[str, Any] = {
    "driver": "COG",
    "COMPRESS": "DEFLATE",
    "BLOCKSIZE": _BLOCK,
    # The mode would wipe objects of a few pixels off the overviews, and takes four times as long.
    "OVERVIEW_RESAMPLING": "NEAREST",
    "NUM_THREADS": "ALL_CPUS",
    "BIGTIFF": "IF_SAFER",
}


class CogWriter:
    """A Cloud Optimized GeoTIFF of one uint8 band, nodata 255, under construction.

    Windows arrive in any order and from any thread. A context: when it is left without an error,
    the file at `path` is whole; see `Staging` for one that is to be whole or absent. Meanwhile a
    working file lies in the same folder.
    """

    def __init__(self, path: Path, geobox: GeoBox) -> None:
        """Raises OutputError where the folder cannot be written."""
        self.path = path
        self._working = path.with_name(f".{path.name}.working.tif")
        crs = without_height(geobox.crs)
        in_file = crs if crs is None or in_geotiff(crs) else None
        self._crs = None if in_file is crs else crs
        """A CRS that GeoTIFF has no keys for."""
        self._beside: dict[Path, bytes] = {}
        """Files that go with the raster."""
        if self._crs is not None:
            self._beside[aux_xml_path(path)] = sidecar(self._crs)
        self._lock = threading.Lock()
        # GIS programs show a raster without a place as is, and GDAL cannot store that.
        unplaced = geobox.has_pixel_coordinates or geobox.transform.is_identity
        place = {} if unplaced else {"transform": geobox.transform}
        shape = {"width": geobox.width, "height": geobox.height, "count": 1}
        self._written = 0
        try:
            self._working.unlink(missing_ok=True)  # what a killed run left behind
            self._dataset = rasterio.open(
                self._working, "w", crs=in_file, **shape, **place, **_WORKING
            )
        except _FAILURES as error:
            raise self._failed(error) from error

    @classmethod
    def for_classes(
        cls,
        path: Path,
        geobox: GeoBox,
        classes: Sequence[LabelClass],
        *,
        model_gsd: float | None = None,
    ) -> CogWriter:
        """Of class ids, with the classes' colors as its table and names in tags `CLASS_<id>`.

        GeoTIFF has no place for names that QGIS reads, nor for transparent colors, and its color
        tables have 256 entries: a `.aux.xml` (for GDAL) and a `.qml` (for QGIS) beside have them.

        Args:
            model_gsd: meters a pixel at which the model saw the scene; goes to the tag MODEL_GSD.
        """
        raster = cls(path, geobox)
        colors = {item.id: (*item.color, opacity(item)) for item in classes}
        raster._dataset.write_colormap(1, colors)
        raster._dataset.update_tags(1, **{f"CLASS_{item.id}": item.name for item in classes})
        if model_gsd is not None:
            raster._dataset.update_tags(MODEL_GSD=f"{model_gsd:.6g}")
        raster._beside = {
            aux_xml_path(path): sidecar(raster._crs, classes),
            path.with_suffix(".qml"): raster_qml(classes),
        }
        return raster

    @classmethod
    def for_confidence(cls, path: Path, geobox: GeoBox) -> CogWriter:
        """Of probabilities, in per cent."""
        raster = cls(path, geobox)
        raster._dataset.set_band_description(1, "confidence, percent")
        return raster

    def write(self, window: Window, values: NDArray[np.uint8]) -> None:
        """Write `values` (H, W) at `window`; every pixel once at most.

        Raises OutputError, for instance on a full disk.
        """
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        with self._lock:
            try:
                self._dataset.write(values, 1, window=area)
            except _FAILURES as error:
                raise self._failed(error) from error
            self._written += _content(values)

    def __enter__(self) -> CogWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._dataset.close()
            if kind is None:
                with rasterio.Env(GDAL_CACHEMAX=_CACHE):
                    self._verify(self._working)
                    rasterio.shutil.copy(self._working, self.path, **_FINAL)
                    self._verify(self.path)
                for path, content in self._beside.items():
                    path.write_bytes(content)
        except _FAILURES as failure:
            raise self._failed(failure) from failure
        finally:
            self._working.unlink(missing_ok=True)

    def _verify(self, path: Path) -> None:
        """GDAL closes a file without a word when its last blocks do not fit on the disk, and
        crashes on copying the remains: compare what is there with what was written."""
        with rasterio.open(path) as raster:
            rows = (
                RasterioWindow(0, top, raster.width, min(_BLOCK, raster.height - top))
                for top in range(0, raster.height, _BLOCK)
            )
            content = sum(_content(raster.read(1, window=row)) for row in rows)
        if content != self._written:
            raise OutputError(f"{self.path} cannot be written: pixels got lost; is the disk full?")

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} cannot be written: {error.__cause__ or error}")


def aux_xml_path(path: Path) -> Path:
    """Where GDAL keeps what a raster at `path` has no place for."""
    return path.with_name(f"{path.name}.aux.xml")


def sidecar(crs: CRS | None, classes: Sequence[LabelClass] = ()) -> bytes:
    """What GeoTIFF has no place for, as GDAL keeps it beside a raster (its "persistent auxiliary
    metadata"): names and colors by value, and a CRS unless that is in the file."""
    root = ElementTree.Element("PAMDataset")
    if crs is not None:
        axes = ElementTree.SubElement(root, "SRS", dataAxisToSRSAxisMapping=axis_order(crs))
        axes.text = to_pyproj(crs).to_wkt()
    if not classes:
        return ElementTree.tostring(root)
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    colors = ElementTree.SubElement(band, "ColorTable")
    known = {item.id: item for item in classes}
    for value in range(max(known) + 1):
        item = known.get(value)
        ElementTree.SubElement(categories, "Category").text = item.name if item else ""
        rgba = (*item.color, opacity(item)) if item else (0, 0, 0, 0)
        entry = {f"c{number}": str(part) for number, part in enumerate(rgba, start=1)}
        ElementTree.SubElement(colors, "Entry", entry)
    return ElementTree.tostring(root)


def in_geotiff(crs: CRS) -> bool:
    """GeoTIFF has keys for it; not for turned poles, for instance."""
    profile = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    with rasterio.Env(GDAL_PAM_ENABLED=False), MemoryFile() as memory:
        try:
            with memory.open(**profile, crs=crs, transform=Affine.scale(2, -2)):
                pass
            with memory.open() as written:
                return written.crs is not None
        except _FAILURES:
            return False


def _content(values: NDArray[np.uint8]) -> int:
    """Pixels that are not nodata, as those are that were never written or got lost."""
    return int(np.count_nonzero(values != IGNORE))
