"""Files that a raster, or a vector file, is made of."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from xml.etree import ElementTree

from geoseg.errors import SceneError
from geoseg.geo.raster.source import Source


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
