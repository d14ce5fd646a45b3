"""The file behind a scene: opened under settings that suit files and servers, for all threads."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError, CPLE_OutOfMemoryError
from rasterio._path import _parse_path, _vsi_path
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError
from geoseg.geo.paths import raster_path
from geoseg.geo.raster.address import absolute, is_remote, names_server

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
    # Read at once, a PNG that ends early is filled up with black, without a word.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # On several threads, GDAL 3.10 loses the errors of a VRT's sources and returns zeros.
    "VRT_NUM_THREADS": 1,
    # For files on servers, among them those that a local VRT names.
    "CPL_VSIL_CURL_CACHE_SIZE": 128 * 2**20,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_LOW_SPEED_TIME": 20,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    # Of an answer that ended early, GDAL keeps what came: a file opened anew is fetched anew.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/:/vsiadls/:/vsioss/:/vsiswift/",
}
_GDAL_REMOTE: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no guessing at sidecar files over the network
}
_SERVICES = {"WMS", "WMTS", "WCS", "OGCAPI", "STACIT", "STACTA", "EEDAI", "PLMOSAIC"}
"""Drivers that ask servers, whatever their files are called."""
_PAUSES = 0.05, 0.2, 0.6
"""Seconds between tries of a read from a file."""
_PAUSES_REMOTE = 0.5, 1.0, 2.0, 4.0
"""The same of a server, which GDAL has then asked several times."""
_PATIENCE, _PATIENCE_REMOTE = 3.0, 60.0
"""Seconds that reads of a scene may fail without one that mends, before each is tried but once."""
_REFUSED = re.compile(r"HTTP response code: 4(?!08|29)")
"""What a server will say the next time, too."""
_LOG = logging.getLogger("geoseg")
T = TypeVar("T")


class ReadError(SceneError):
    """GDAL cannot open or read; it may the next time."""


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
    keeps the address only, made absolute, so that a worker in another process opens a handle of its
    own.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._turn = threading.RLock()
        self._cache = _CACHE[0]
        self._handle: DatasetReader | None = None
        self._users = 0
        """Of the handle, nested in one thread."""
        self._owner: int | None = None
        """That thread."""
        self._spoilt = False
        """The handle's cache may hold nonsense, of which nobody would warn again."""
        self._opened = False
        """At least once."""
        self.files: tuple[str, ...] = (path,)
        """Once it was opened: the file and all that belong to it, as far as no server is asked."""
        self.is_remote = is_remote(path)
        """A server is asked, be it, once the file was opened, for what a VRT names."""
        self._patience = _PATIENCE_REMOTE if self.is_remote else _PATIENCE

    @property
    def is_virtual(self) -> bool:
        return self.path.lower().endswith(".vrt") or self.path.lstrip().startswith("<VRTDataset")

    @property
    def gdal_name(self) -> str:
        """The address as GDAL spells it, absolute."""
        name: str = _vsi_path(_parse_path(absolute(self.path)))
        return name

    def read(self, doing: str, action: Callable[[DatasetReader], T]) -> T:
        """What `action` returns of a handle, tried again after a pause where GDAL fails.

        Raises SceneError, "cannot `doing`".
        """
        failed = False
        for pause in _PAUSES_REMOTE if self.is_remote else _PAUSES:
            start = time.monotonic()
            try:
                with self.dataset(doing) as dataset:
                    result = action(dataset)
            except ReadError as error:
                lasting = _REFUSED.search(str(error)) or not (self.is_remote or self._opened)
                # Within another use the handle is the same, and so is what it holds.
                if lasting or self._patience <= 0 or self._owner == threading.get_ident():
                    raise
                _LOG.info("%s; trying again", error)
                failed = True
                time.sleep(pause)
                self._patience -= time.monotonic() - start
            else:
                if failed:  # trying again is worth it
                    self._patience = _PATIENCE_REMOTE if self.is_remote else _PATIENCE
                return result
        with self.dataset(doing) as dataset:
            return action(dataset)

    @contextmanager
    def dataset(self, doing: str = "open") -> Iterator[DatasetReader]:
        """A handle for this thread, not to be kept. What GDAL raises comes out as SceneError,
        "cannot `doing`"."""
        settings = _GDAL | (_GDAL_REMOTE if self.is_remote else {}) | {"GDAL_CACHEMAX": self._cache}
        try:
            with self._turn, rasterio.Env(**settings):
                if self._handle is None:
                    self._handle = self._open()
                self._users, self._owner = self._users + 1, threading.get_ident()
                _COMPLAINTS.take()
                try:
                    yield self._handle
                    if complaint := _COMPLAINTS.take():
                        raise ReadError(f"{self.path}: cannot {doing}: {complaint}")
                except (RasterioError, CPLE_BaseError, SceneError):
                    self._spoilt = True
                    raise
                finally:
                    self._users -= 1
                    if not self._users:
                        self._owner = None
                        if self._spoilt:
                            self.close()
        except (RasterioError, CPLE_BaseError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, CPLE_OutOfMemoryError):
                raise MemoryError(f"{self.path}: cannot {doing}: {cause}") from error
            raise ReadError(f"{self.path}: cannot {doing}: {cause}") from error

    def _open(self) -> DatasetReader:
        handle = rasterio.open(raster_path(self.path), **self._open_options)
        if not self._opened and not self.is_remote:
            self.files = tuple(handle.files)
            if handle.driver in _SERVICES or names_server(self.files):
                self.is_remote, self._patience = True, _PATIENCE_REMOTE
        self._opened = True
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
        return absolute(self.path)

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


def files_of(path: str) -> tuple[str, ...]:
    """The files of the raster at `path`: its own, sidecars, and what VRTs name, however deep.

    What cannot be opened is left out; reading it will say so.
    """
    found: dict[str, None] = {}
    waiting = [path]
    while waiting:
        try:
            with closing(Source(waiting.pop())) as source, source.dataset() as dataset:
                files = [name for name in dataset.files if name not in found]
        except SceneError:
            continue
        found.update(dict.fromkeys(files))
        waiting += [name for name in files if name != path and name.lower().endswith(".vrt")]
    return tuple(found)


def vector_files_of(path: Path) -> tuple[Path, ...]:
    """The vector file at `path`, and what VRTs name as their sources, however deep.

    What cannot be read is left out; reading it will say so.
    """
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        if file.suffix.lower() == ".vrt":
            with suppress(OSError, ElementTree.ParseError):
                waiting += _vrt_sources(file)
    return tuple(found)


def _vrt_sources(vrt: Path) -> list[Path]:
    sources = ElementTree.parse(vrt).iter("SrcDataSource")
    return [
        vrt.parent / name if source.get("relativeToVRT") == "1" else Path(name)
        for source in sources
        if (name := (source.text or "").strip())
    ]


_PIECE, _PIECES = 2**14, 32
"""Bytes of a sample, and samples of a file; smaller ones are read as a whole."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a file looks like, for little reading."""

    size: int
    changed: int
    """Time of the last change, nanoseconds."""
    sample: str
    """SHA-256 of the head, the tail and pieces between, for copies have times of their own."""

    @classmethod
    def of(cls, path: str | Path) -> Mark:
        """Raises OSError."""
        status = Path(path).stat()
        return cls(status.st_size, status.st_mtime_ns, _sample(path, status.st_size))

    def fits(self, path: str | Path) -> bool:
        """Whether the file at `path` is this one, or a copy. Raises OSError."""
        status = Path(path).stat()
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.changed or _sample(path, self.size) == self.sample


def _sample(path: str | Path, size: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for i in range(_PIECES):
            file.seek(max(0, size - _PIECE) * i // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()
