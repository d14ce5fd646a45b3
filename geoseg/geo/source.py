"""The file behind a scene: opened under settings that suit files and servers, for all threads."""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError
from geoseg.geo.paths import raster_path

# A picture without a place on the ground is one of the things that a scene's notes say.
warnings.filterwarnings("ignore", "Dataset has no geotransform")

_CORRUPT = re.compile(r"JPEGLib:(Premature end|Corrupt JPEG data: (?!\d+ extraneous))")
"""What libjpeg says, as a mere warning, before it fills a damaged block with nonsense. Bytes
between two images do no harm, and some cameras write them."""

_CACHE = 32 * 2**20, 2**30
"""Least and most bytes of decoded blocks that are kept. GDAL's own default is a share of the
machine's memory, which grows with the machine."""
_ROWS = 2048
"""Of a file stored in strips: as many rows are kept, so that going along them decodes each once."""
_GDAL: dict[str, Any] = {
    # A JPEG block that ends early is otherwise filled up with grey, under a mere warning.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": True,
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # On several threads, GDAL 3.10 loses the errors of a VRT's sources and returns zeros.
    "VRT_NUM_THREADS": 1,
    # For files on servers, among them those that a local VRT names.
    "CPL_VSIL_CURL_CACHE_SIZE": 128 * 2**20,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
}
_GDAL_REMOTE: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no guessing at sidecar files over the network
}
_FOLDERS = {"s3://": "/vsis3/", "gs://": "/vsigs/", "az://": "/vsiaz/"}


class _Complaints(logging.Handler):
    """Catches what GDAL warns of; by thread, for each reads its own blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if _CORRUPT.search(message := record.getMessage()):
            self.local.last = message

    def take(self) -> str | None:
        """The last complaint, once."""
        last: str | None = getattr(self.local, "last", None)
        self.local.last = None
        return last


_COMPLAINTS = _Complaints()
logging.getLogger("rasterio._err").addHandler(_COMPLAINTS)


_POOL = {"has_threads": True}
"""GDAL's threads do not live on in a fork, as a loader of training data is: it would wait for
them for ever."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _POOL.update(has_threads=False))


class Source:
    """One raster file or address, for all threads.

    There is one GDAL handle, which threads use in turns: it keeps the blocks that it decoded, of
    which neighbouring windows share some, and decodes those of one window side by side. Pickling
    keeps the address only, so that a worker in another process opens a handle of its own.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._turn = threading.RLock()
        self._cache = _CACHE[0]
        self._handle: DatasetReader | None = None
        self._users = 0
        """Of the handle, nested in one thread."""
        self._spoilt = False
        """The handle's cache may hold nonsense, of which nobody would warn again."""

    @property
    def is_remote(self) -> bool:
        return "://" in self.path or self.path.startswith(("/vsicurl/", "/vsis3/"))

    @property
    def is_virtual(self) -> bool:
        return self.path.lower().endswith(".vrt") or self.path.lstrip().startswith("<VRTDataset")

    @property
    def gdal_name(self) -> str:
        """The address as GDAL spells it, absolute."""
        for scheme, folder in _FOLDERS.items():
            if self.path.startswith(scheme):
                return folder + self.path.removeprefix(scheme)
        if self.path.startswith(("http://", "https://")):
            return f"/vsicurl/{self.path}"
        return self.path if self.path.startswith("/") else str(Path(self.path).resolve())

    @contextmanager
    def dataset(self, doing: str = "open") -> Iterator[DatasetReader]:
        """A handle for this thread, not to be kept. What GDAL raises comes out as SceneError,
        "cannot `doing`"."""
        settings = _GDAL | (_GDAL_REMOTE if self.is_remote else {}) | {"GDAL_CACHEMAX": self._cache}
        try:
            with self._turn, rasterio.Env(**settings):
                if self._handle is None:
                    self._handle = self._open()
                self._users += 1
                _COMPLAINTS.take()
                try:
                    yield self._handle
                    if complaint := _COMPLAINTS.take():
                        raise SceneError(f"{self.path}: cannot {doing}: {complaint}")
                except (RasterioError, CPLE_BaseError, SceneError):
                    self._spoilt = True
                    raise
                finally:
                    self._users -= 1
                    if self._spoilt and not self._users:
                        self.close()
        except (RasterioError, CPLE_BaseError) as error:
            reason = str(error.__cause__ or error)
            raise SceneError(f"{self.path}: cannot {doing}: {reason}") from error

    def _open(self) -> DatasetReader:
        handle = rasterio.open(raster_path(self.path), **self._open_options)
        if handle.block_shapes and handle.block_shapes[0][1] == handle.width:
            row = handle.width * handle.count * sample_bytes(handle)
            self._cache = min(max(_CACHE[0], _ROWS * row), _CACHE[1])
        points, crs = handle.gcps
        if points and crs is not None and handle.transform.is_identity:
            # Ground control points only: the north-up grid that GDAL derives becomes the scene's.
            opaque = {"add_alpha": True} if _declares_nothing(handle) else {}
            has_palette = ColorInterp.palette in handle.colorinterp
            how = Resampling.nearest if has_palette else Resampling.bilinear
            handle = WarpedVRT(handle, src_crs=crs, crs=crs, resampling=how, **opaque)
        return handle

    @property
    def _open_options(self) -> dict[str, Any]:
        """A GeoTIFF's blocks are decoded by several threads, but not where others do so for a VRT
        (see `_GDAL`), nor where they would be fetched from a server one by one, without its cache.
        """
        local = not (self.is_remote or self.is_virtual)
        is_geotiff = local and self.path.lower().endswith((".tif", ".tiff"))
        return {"NUM_THREADS": "ALL_CPUS"} if is_geotiff and _POOL["has_threads"] else {}

    def close(self) -> None:
        """Close the handle. Call when no thread reads any more."""
        if self._handle is not None:
            _close(self._handle)
        self._handle, self._spoilt = None, False

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.__init__(path)  # type: ignore[misc]


def sample_bytes(dataset: DatasetReader) -> int:
    """Size of a sample of the first band."""
    name = dataset.dtypes[0]
    return 4 if name == "complex_int16" else np.dtype(name).itemsize  # NumPy lacks that one


def _close(handle: DatasetReader) -> None:
    """A warped view before the file under it."""
    handle.close()
    if isinstance(handle, WarpedVRT):
        handle.src_dataset.close()


def _declares_nothing(dataset: DatasetReader) -> bool:
    return all(flag.name == "all_valid" for flag in dataset.mask_flag_enums[0])
