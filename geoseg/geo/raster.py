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
from geoseg.geo.crs import axis_order, flat, system
from geoseg.geo.geobox import GeoBox
from geoseg.grid import Window
from geoseg.whole import put_in_place

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


class RasterWriter:
    """A Cloud Optimized GeoTIFF of one uint8 band, nodata 255, under construction.

    Windows arrive in any order and from any thread. Used as a context: when it is left in peace
    the file appears at `path`, whole, and replaces what was there; when an error leaves it,
    nothing changes there. Meanwhile temporary files lie in the same folder.
    """

    def __init__(self, path: Path, geobox: GeoBox) -> None:
        """Raises OutputError where the folder cannot be written."""
        self.path = path
        self._working = path.with_name(f".{path.name}.working.tif")
        self._complete = path.with_name(f".{path.name}.complete.tif")
        crs = flat(geobox.crs)
        in_file = crs if crs is None or in_geotiff(crs) else None
        self._names = None if in_file is crs else beside_raster(crs)
        """What `<path>.aux.xml` will say."""
        self._crs = None if in_file is crs else crs
        self._lock = threading.Lock()
        # GIS programs show a raster without a place as is, and GDAL cannot store that.
        unplaced = geobox.is_unplaced or geobox.transform.is_identity
        place = {} if unplaced else {"transform": geobox.transform}
        shape = {"width": geobox.width, "height": geobox.height, "count": 1}
        self._written = 0
        try:
            self._discard()  # what a killed run left behind
            self._dataset = rasterio.open(
                self._working, "w", crs=in_file, **shape, **place, **_WORKING
            )
        except _FAILURES as error:
            raise self._failed(error) from error

    @classmethod
    def of_classes(cls, path: Path, geobox: GeoBox, classes: Sequence[LabelClass]) -> RasterWriter:
        """Of class ids, with the classes' colours as its table and names in tags `CLASS_<id>`.

        The names stand in `<path>.aux.xml`, too: GeoTIFF has no place where QGIS looks for them.
        """
        raster = cls(path, geobox)
        raster._dataset.write_colormap(1, {item.id: (*item.color, 255) for item in classes})
        raster._dataset.update_tags(1, **{f"CLASS_{item.id}": item.name for item in classes})
        raster._names = beside_raster(raster._crs, classes)
        return raster

    @classmethod
    def of_confidence(cls, path: Path, geobox: GeoBox) -> RasterWriter:
        """Of probabilities, in per cent."""
        raster = cls(path, geobox)
        raster._dataset.set_band_description(1, "confidence, percent")
        return raster

    def write(self, window: Window, values: NDArray[np.uint8]) -> None:
        """Store `values` (H, W) at `window`; every pixel once at most.

        Raises OutputError, for instance on a full disk.
        """
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        with self._lock:
            try:
                self._dataset.write(values, 1, window=area)
            except _FAILURES as error:
                raise self._failed(error) from error
            self._written += _content(values)

    def __enter__(self) -> RasterWriter:
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
                    rasterio.shutil.copy(self._working, self._complete, **_FINAL)
                    self._verify(self._complete)
                put_in_place(self._complete, self.path)
                if self._names is not None:
                    self._complete.write_bytes(self._names)
                    put_in_place(self._complete, self.path.with_name(f"{self.path.name}.aux.xml"))
        except _FAILURES as failure:
            raise self._failed(failure) from failure
        finally:
            self._discard()

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

    def _discard(self) -> None:
        self._working.unlink(missing_ok=True)
        self._complete.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} cannot be written: {error.__cause__ or error}")


def beside_raster(crs: CRS | None, classes: Sequence[LabelClass] = ()) -> bytes:
    """What GeoTIFF has no place for, as GDAL keeps it beside a raster (its "persistent auxiliary
    metadata"): names by value, and a CRS unless that is in the file."""
    root = ElementTree.Element("PAMDataset")
    if crs is not None:
        axes = ElementTree.SubElement(root, "SRS", dataAxisToSRSAxisMapping=axis_order(crs))
        axes.text = system(crs).to_wkt()
    if classes:
        band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
        categories = ElementTree.SubElement(band, "CategoryNames")
        names = {item.id: item.name for item in classes}
        for value in range(max(names) + 1):
            ElementTree.SubElement(categories, "Category").text = names.get(value, "")
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
