"""One raster file or address: a GDAL handle for all threads, with retries where GDAL fails."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError
from geoseg.geo.gdal_errors import GDAL_ERRORS, is_out_of_memory, without_georeference
from geoseg.geo.paths import raster_path
from geoseg.geo.raster.address import absolute, is_remote, refers_to_server
from geoseg.geo.request_limit import REPORTING, RequestLimit
from geoseg.version import VERSION

_MIN_CACHE, _MAX_CACHE = 32 * 2**20, 2**30
"""Bytes of decoded blocks in GDAL's cache, whose own default is a share of the machine's memory."""
_CACHED_ROWS = 2048
"""Rows of a file stored in strips that the cache holds, so that windows side by side decode each
strip once."""
_GDAL: dict[str, Any] = {
    # GDAL fills a truncated JPEG block with gray and only warns.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": True,
    # GDAL fills a truncated PNG that it reads at once with black, silently.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # With several threads, GDAL 3.10 loses the errors of a VRT's sources and returns zeros.
    "VRT_NUM_THREADS": 1,
    # The rest concerns servers. It is always set, because a local VRT may name remote files.
    "CPL_VSIL_CURL_CACHE_SIZE": 128 * 2**20,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_USERAGENT": f"geoseg/{VERSION}",
    "GDAL_HTTP_LOW_SPEED_TIME": 20,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    # GDAL caches truncated responses, so a file that is opened again must be fetched again.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/:/vsiadls/:/vsioss/:/vsiswift/",
}
_GDAL_REMOTE: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no requests for sidecars that may not exist
}
_SERVICES = {"WMS", "WMTS", "WCS", "OGCAPI", "STACIT", "STACTA", "EEDAI", "PLMOSAIC"}
"""Drivers that ask servers, whatever the name of the file."""
_PAUSES, _PAUSES_REMOTE = (0.05, 0.2, 0.6), (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts to read. GDAL itself retries requests to servers, too."""
_PATIENCE, _PATIENCE_REMOTE = 3.0, 60.0
"""Seconds that failed attempts may cost without a success; from then on there are no retries."""
_REFUSED = re.compile(r"HTTP (?:response|status) code: (?:204|4(?!08|29))")
"""Client errors, which do not go away, and no content; 408 (timeout) and 429 (too many requests)
do."""
_BUSY = re.compile(r"HTTP (?:response|status) code: 429")
_BUSY_PAUSE = 4
"""How much longer the pauses are if a server answers that there are too many requests."""
_PROCESS = os.getpid()
"""GDAL's threads do not survive a fork, and a forked child that uses them hangs."""
_LOG = logging.getLogger("geoseg")
T = TypeVar("T")


class ReadError(SceneError):
    """GDAL cannot open or read the file; another attempt may succeed."""


class _JpegWarnings(logging.Handler):
    """Records libjpeg's warning that it fills a corrupt block with garbage.

    GDAL does not turn all of them into errors. Extraneous bytes between images do no harm, and
    some cameras write them. Only warnings of the thread that listens count.
    """

    _CORRUPT = re.compile(r"JPEGLib:(Premature end|Corrupt JPEG data: (?!\d+ extraneous))")

    def __init__(self) -> None:
        super().__init__()
        self._thread: int | None = None
        self._last: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record the warnings of this thread. May be nested."""
        if self._thread == threading.get_ident():
            yield
            return
        logger = logging.getLogger("rasterio")
        self._thread = threading.get_ident()
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            self._thread = None

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.thread == self._thread and self._CORRUPT.search(message):
            self._last = message

    def take(self) -> str | None:
        """Return the last warning and forget it."""
        last, self._last = self._last, None
        return last


class Source:
    """One raster file or address. Any thread may read.

    Threads take turns with one GDAL handle, which caches decoded blocks for the next window and
    decodes those of one window in parallel. A pickled source holds the absolute address and the
    limit only, and opens a handle of its own in another process.
    """

    def __init__(self, path: str, requests_per_second: float | None = None) -> None:
        self.path = path
        self.limit = None if requests_per_second is None else RequestLimit.of(requests_per_second)
        """Of requests to a tile or map service."""
        self.files: tuple[str, ...] = (path,)
        """After opening: the file and its companions, unless they are on a server."""
        self.is_remote = is_remote(path)
        """Reading asks a server; after opening, also because a VRT names one."""
        self._lock = threading.RLock()
        self._cache = _MIN_CACHE
        self._handle: DatasetReader | None = None
        self._users = 0
        """Nested uses of the handle, all in one thread."""
        self._owner: int | None = None
        """The identifier of that thread."""
        self._is_corrupt = False
        """The handle's cache may hold garbage, about which GDAL would not warn again."""
        self._was_opened = False
        self._jpeg_warnings = _JpegWarnings()
        self._reset_patience()

    def read(self, doing: str, action: Callable[[DatasetReader], T]) -> T:
        """Return `action(dataset)`, with more attempts after pauses where GDAL fails.

        Raises SceneError, "cannot `doing`".
        """
        failed = False
        pauses = [*(_PAUSES_REMOTE if self.is_remote else _PAUSES)]
        for pause in pauses:
            start = time.monotonic()
            try:
                with self.dataset(doing) as dataset:
                    result = action(dataset)
            except ReadError as error:
                is_final = _REFUSED.search(str(error)) or not (self.is_remote or self._was_opened)
                # A nested use keeps the handle, and with it the cache that holds the failure.
                is_nested = self._owner == threading.get_ident()
                if is_final or is_nested or self._patience <= 0:
                    raise
                _LOG.info("%s; trying again", error)
                failed = True
                failed_after = time.monotonic()
                if _BUSY.search(str(error)):
                    pauses.append(pause)  # as long as patience lasts
                    time.sleep(_BUSY_PAUSE * pause)
                else:
                    time.sleep(pause)
                # With a limit, an attempt that fails may have waited long for its turn.
                self._patience -= time.monotonic() - (failed_after if self.limit else start)
            else:
                if failed:
                    self._reset_patience()
                return result
        with self.dataset(doing) as dataset:
            return action(dataset)

    @contextmanager
    def dataset(self, doing: str = "open") -> Iterator[DatasetReader]:
        """Lend this thread the handle. Raises SceneError, "cannot `doing`", for errors of GDAL."""
        settings = _GDAL | (_GDAL_REMOTE if self.is_remote else {}) | {"GDAL_CACHEMAX": self._cache}
        limited: AbstractContextManager[None] = nullcontext()
        if self.limit is not None:
            settings, limited = settings | REPORTING, self.limit.applied()
        try:
            with self._lock, limited, rasterio.Env(**settings), self._use() as handle:
                yield handle
                if warning := self._jpeg_warnings.take():
                    raise ReadError(f"{self.path}: cannot {doing}: {warning}")
        except GDAL_ERRORS as error:
            cause = error.__cause__ or error
            if is_out_of_memory(cause):
                raise MemoryError(f"{self.path}: cannot {doing}: {cause}") from error
            raise ReadError(f"{self.path}: cannot {doing}: {cause}") from error

    @contextmanager
    def _use(self) -> Iterator[DatasetReader]:
        """Open the handle if necessary, and close it after an error."""
        if self._handle is None:
            self._handle = self._open()
        self._users, self._owner = self._users + 1, threading.get_ident()
        self._jpeg_warnings.take()
        try:
            with self._jpeg_warnings.listening():
                yield self._handle
        except (*GDAL_ERRORS, SceneError):
            self._is_corrupt = True
            raise
        finally:
            self._users -= 1
            if not self._users:
                self._owner = None
                if self._is_corrupt:
                    self.close()

    def _open(self) -> DatasetReader:
        with without_georeference():  # a scene's notes mention it
            handle = rasterio.open(raster_path(self.path), **self._open_options)
        if not self._was_opened and not self.is_remote:
            self.files = tuple(handle.files)
            if handle.driver in _SERVICES or refers_to_server(self.files):
                self.is_remote = True
                self._reset_patience()
        self._was_opened = True
        if handle.block_shapes and handle.block_shapes[0][1] == handle.width:
            row = handle.width * handle.count * sample_bytes(handle)
            self._cache = min(max(_MIN_CACHE, _CACHED_ROWS * row), _MAX_CACHE)
        points, crs = handle.gcps
        if points and crs is not None and handle.transform.is_identity:
            # Ground control points only: the scene's grid is the north-up one that GDAL derives.
            is_opaque = all(flag.name == "all_valid" for flag in handle.mask_flag_enums[0])
            has_palette = ColorInterp.palette in handle.colorinterp
            how = Resampling.nearest if has_palette else Resampling.bilinear
            alpha = {"add_alpha": True} if is_opaque else {}
            handle = WarpedVRT(handle, src_crs=crs, crs=crs, resampling=how, **alpha)
        return handle

    @property
    def _open_options(self) -> dict[str, Any]:
        """Decode the blocks of a local GeoTIFF in parallel.

        Not those of a VRT (see `_GDAL`) or of a server, where threads bypass GDAL's cache of
        requests.
        """
        is_geotiff = self.path.lower().endswith((".tif", ".tiff"))
        parallel = is_geotiff and not self.is_remote and os.getpid() == _PROCESS
        return {"NUM_THREADS": "ALL_CPUS"} if parallel else {}

    def share_limit(self, processes: int) -> None:
        """Take this process's part of a limit that several keep together."""
        if self.limit is not None:
            self.limit = RequestLimit.of(self.limit.per_second / processes)

    def _reset_patience(self) -> None:
        self._patience = _PATIENCE_REMOTE if self.is_remote else _PATIENCE

    def close(self) -> None:
        """Close the handle, which no thread may be using."""
        if self._handle is not None:
            self._handle.close()
            if isinstance(self._handle, WarpedVRT):
                self._handle.src_dataset.close()
        self._handle, self._is_corrupt = None, False

    def __getstate__(self) -> tuple[str, float | None]:
        return absolute(self.path), None if self.limit is None else self.limit.per_second

    def __setstate__(self, state: tuple[str, float | None]) -> None:
        self.__init__(*state)  # type: ignore[misc]


def sample_bytes(dataset: DatasetReader) -> int:
    """Return the size of a sample of the first band."""
    name = dataset.dtypes[0]
    return 4 if name == "complex_int16" else np.dtype(name).itemsize  # NumPy lacks this type
