"""Files behind a dataset: those beside it, and those that VRTs name, however nested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from geoseg.errors import SceneError
from geoseg.geo.raster.source import Source
from geoseg.tiling.grid import Window

Rectangle = tuple[float, float, float, float]
"""Left, top, width and height in pixels; VRTs allow fractions."""

_CHUNK_BYTES, _CHUNKS = 2**14, 32
"""Bytes of a chunk, and chunks that are hashed of a file; a smaller one is hashed completely."""


def raster_files(path: str) -> tuple[str, ...]:
    """Return the raster's own files, its sidecars, and those that VRTs name.

    A file that cannot be opened is left out: reading it raises the error.
    """
    found: dict[str, None] = {}
    pending = [path]
    while pending:
        try:
            with closing(Source(pending.pop())) as source, source.dataset() as dataset:
                files = [name for name in dataset.files if name not in found]
        except SceneError:
            continue
        found.update(dict.fromkeys(files))
        pending += [name for name in files if name != path and name.lower().endswith(".vrt")]
    return tuple(found)


def vector_files(path: Path) -> tuple[Path, ...]:
    """Return the vector file at `path`, and those that VRTs name.

    A file that cannot be read is left out: reading it raises the error.
    """
    found: dict[Path, None] = {}
    pending = [path]
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found[file] = None
        if file.suffix.lower() == ".vrt":
            with suppress(OSError, ElementTree.ParseError):
                names = ElementTree.parse(file).iter("SrcDataSource")
                pending += [
                    Path(_source_path(name, file)) for name in names if (name.text or "").strip()
                ]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class VrtSource:
    """A file that a raster VRT shows."""

    path: str
    window: Window
    """The part of the file that is shown."""
    target: Rectangle
    """The part of the VRT that shows it."""

    def file_window(self, window: Window) -> Window | None:
        """Return the file's pixels under `window` of the VRT; None if there are none."""
        left, top, width, height = self.target
        x_scale, y_scale = self.window.width / width, self.window.height / height
        column = self.window.col_off + int((window.col_off - left) * x_scale)
        row = self.window.row_off + int((window.row_off - top) * y_scale)
        size = max(1, round(window.width * x_scale)), max(1, round(window.height * y_scale))
        return Window(column, row, *size).intersection(self.window)


def vrt_sources(source: Source) -> Iterator[VrtSource]:
    """Yield the files that a raster VRT places side by side; none for other formats."""
    try:
        with source.dataset() as dataset:
            text = dataset.tags(ns="xml:VRT").get("xml:VRT") if dataset.driver == "VRT" else None
            extent = 0.0, 0.0, float(dataset.width), float(dataset.height)
    except SceneError:
        return
    if text is None:
        return
    visited = set()
    for element in ElementTree.fromstring(text).iter():
        name = element.find("SourceFilename")
        if name is None or not name.text:
            continue
        target = _rectangle(element.find("DstRect")) or extent
        shown = _rectangle(element.find("SrcRect")) or target
        window = Window(*(int(value) for value in shown))
        item = VrtSource(_source_path(name, Path(source.path)), window, target)
        if item not in visited:
            visited.add(item)
            yield item


def _source_path(element: ElementTree.Element, vrt: Path) -> str:
    name = (element.text or "").strip()
    return str(vrt.parent / name) if element.get("relativeToVRT") == "1" else name


def _rectangle(element: ElementTree.Element | None) -> Rectangle | None:
    if element is None:
        return None
    left, top, width, height = (
        float(element.get(key, 0)) for key in ("xOff", "yOff", "xSize", "ySize")
    )
    return left, top, width, height


@dataclass(frozen=True, slots=True)
class FileSignature:
    """Cheap evidence that two paths hold the same file, such as copies on two machines."""

    size: int
    """Bytes."""
    modified: int
    """Time of the last change, nanoseconds."""
    sample: str
    """SHA-256 of the head, the tail and chunks between; a copy has another time."""

    @classmethod
    def of(cls, path: str | Path) -> FileSignature:
        """Return the signature of a file. Raises OSError."""
        status = Path(path).stat()
        return cls(status.st_size, status.st_mtime_ns, _sample(path, status.st_size))

    def matches(self, path: str | Path) -> bool:
        """Whether the file at `path` is the same, or a copy. Raises OSError."""
        status = Path(path).stat()
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.modified or _sample(path, self.size) == self.sample


def _sample(path: str | Path, size: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for i in range(_CHUNKS):
            file.seek(max(0, size - _CHUNK_BYTES) * i // (_CHUNKS - 1))
            digest.update(file.read(_CHUNK_BYTES))
    return digest.hexdigest()
