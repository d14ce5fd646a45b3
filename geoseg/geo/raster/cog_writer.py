"""Cloud Optimized GeoTIFFs of 8-bit values on a scene's grid, written window by window."""

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
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterioWindow

from geoseg.classes import IGNORE, LabelClass
from geoseg.errors import OutputError
from geoseg.geo.crs import axis_order, to_pyproj, without_height
from geoseg.geo.gdal_errors import GDAL_ERRORS, without_georeference
from geoseg.geo.geobox import GeoBox
from geoseg.geo.styles import opacity, raster_qml
from geoseg.tiling.grid import Window

_FAILURES = (*GDAL_ERRORS, OSError)
_BLOCK = 512
"""Pixels a side of a block."""
_RUN = 32 * _BLOCK
"""Columns that are read at once: enough blocks for all threads."""
_MIN_CACHE, _MAX_CACHE = 2**26, 2**29
"""Bytes of GDAL's cache, whose own default is a share of the machine's memory."""
_WORKING: dict[str, Any] = {
    "driver": "GTiff",
    "count": 1,
    "dtype": "uint8",
    "nodata": IGNORE,
    "tiled": True,
    "blockxsize": _BLOCK,
    "blockysize": _BLOCK,
    "compress": "ZSTD",  # writes four times as fast as DEFLATE at its lowest level
    "zstd_level": 1,
    "SPARSE_OK": True,  # blocks never written are nodata and take no space
    "BIGTIFF": "IF_SAFER",
}
_FINAL: dict[str, Any] = {
    "driver": "COG",
    "COMPRESS": "DEFLATE",
    "BLOCKSIZE": _BLOCK,
    # MODE erases small objects from the overviews, and takes four times as long.
    "OVERVIEW_RESAMPLING": "NEAREST",
    "NUM_THREADS": "ALL_CPUS",
    "BIGTIFF": "IF_SAFER",
}


class CogWriter:
    """A Cloud Optimized GeoTIFF of one uint8 band with nodata 255, under construction.

    Windows are written in any order and from any thread, to a working file in the same folder. At
    the end of the context, unless there was an error, the file at `path` is complete; for all or
    nothing, see `Staging`.
    """

    def __init__(self, path: Path, geobox: GeoBox) -> None:
        """Create the working file. Raises OutputError."""
        self.path = path
        self._working = path.with_name(f".{path.name}.working.tif")
        crs = without_height(geobox.crs)
        in_file = crs if crs is None or fits_geotiff(crs) else None
        self._crs = None if in_file is crs else crs
        """A CRS that GeoTIFF cannot express; None for others."""
        self._beside: dict[Path, bytes] = {}
        """Content of files that accompany the raster."""
        if self._crs is not None:
            self._beside[aux_xml_path(path)] = aux_xml(self._crs)
        self._lock = threading.Lock()
        # Two rows of blocks: windows that lie side by side fill each block before it is written.
        self._cache = min(max(_MIN_CACHE, 2 * _BLOCK * geobox.width), _MAX_CACHE)
        # GIS programs draw pixel coordinates without a transform, and GDAL cannot store them.
        in_pixels = geobox.has_pixel_coordinates or geobox.transform.is_identity
        grid = {"width": geobox.width, "height": geobox.height, "crs": in_file}
        if not in_pixels:
            grid["transform"] = geobox.transform
        self._written = 0
        """Pixels that are not nodata."""
        try:
            self._working.unlink(missing_ok=True)  # left by a killed run
            with without_georeference():
                self._dataset = rasterio.open(self._working, "w", **grid, **_WORKING)
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
        """Return a writer of class ids, with a color table and names in tags `CLASS_<id>`.

        GeoTIFF cannot store names for QGIS, transparent colors, or more than 256 colors, so the
        raster is accompanied by an `.aux.xml` for GDAL and a `.qml` for QGIS.

        Args:
            model_gsd: meters a pixel at which the model saw the scene, for the tag MODEL_GSD.
        """
        raster = cls(path, geobox)
        colors = {item.id: (*item.color, opacity(item)) for item in classes}
        raster._dataset.write_colormap(1, colors)
        raster._dataset.update_tags(1, **{f"CLASS_{item.id}": item.name for item in classes})
        if model_gsd is not None:
            raster._dataset.update_tags(MODEL_GSD=f"{model_gsd:.6g}")
        raster._beside = {
            aux_xml_path(path): aux_xml(raster._crs, classes),
            path.with_suffix(".qml"): raster_qml(classes),
        }
        return raster

    @classmethod
    def for_confidence(cls, path: Path, geobox: GeoBox) -> CogWriter:
        """Return a writer of probabilities in percent."""
        raster = cls(path, geobox)
        raster._dataset.set_band_description(1, "confidence, percent")
        return raster

    def write(self, window: Window, values: NDArray[np.uint8]) -> None:
        """Write `values` (H, W) at `window`, every pixel at most once.

        Raises OutputError, for instance if the disk is full.
        """
        area = RasterioWindow.from_slices(*window.slices)
        with self._lock:
            try:
                with rasterio.Env(GDAL_CACHEMAX=self._cache):
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
                with rasterio.Env(GDAL_CACHEMAX=_MIN_CACHE), without_georeference():
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
        """Raise OutputError if pixels are missing.

        GDAL does not report that the last blocks of a file did not fit on the disk, and crashes
        when it copies the rest.
        """
        with rasterio.open(path, num_threads="ALL_CPUS") as raster:
            parts = (
                RasterioWindow(
                    left, top, min(_RUN, raster.width - left), min(_BLOCK, raster.height - top)
                )
                for top in range(0, raster.height, _BLOCK)
                for left in range(0, raster.width, _RUN)
            )
            content = sum(_content(raster.read(1, window=part)) for part in parts)
        if content != self._written:
            raise OutputError(f"{self.path} cannot be written: pixels got lost; is the disk full?")

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} cannot be written: {error.__cause__ or error}")


def aux_xml_path(path: Path) -> Path:
    """Return GDAL's file for metadata that the format of the raster at `path` cannot store."""
    return path.with_name(f"{path.name}.aux.xml")


def aux_xml(crs: CRS | None, classes: Sequence[LabelClass] = ()) -> bytes:
    """Return GDAL's "persistent auxiliary metadata": names and colors by value, and a CRS that is
    not None."""
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


def fits_geotiff(crs: CRS) -> bool:
    """Whether GeoTIFF can express the CRS; not one with rotated poles, for instance."""
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
    """Count the pixels that are not nodata; lost ones read as nodata."""
    return int(np.count_nonzero(values != IGNORE))
