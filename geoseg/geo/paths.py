"""Paths of local files in a form that GDAL takes for files.

pyogrio and GDAL read some names as addresses: `!` ends an archive, the part after `;` is dropped,
and "S2A:tile.tif" begins with a driver. Here, a file that exists is always meant as a file.
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from pathlib import Path

_CHARACTERS = r"!;\t\r\n\ud800-\udfff" + ("" if os.sep == "\\" else r"\\")
"""Characters with a meaning to pyogrio or GDAL, and surrogates of names that are not UTF-8."""
_AMBIGUOUS = re.compile(rf"[{_CHARACTERS}]|\?$|^/vsi")


def vector_path(path: str | Path) -> str:
    """Return a path at which pyogrio reads or writes the file at `path`, whatever its name.

    Text that names no file is an address (a URL, /vsizip/…) and is returned unchanged. A file whose
    name could be an address is linked from a temporary folder; formats that name their layer after
    the file then have the link's name. A shapefile cannot be written this way.

    Raises OSError if a link is needed and cannot be made.
    """
    if isinstance(path, str) and not os.path.lexists(path):
        return path
    full = _absolute(path)
    return _linked(Path(full)) if _AMBIGUOUS.search(full) else full


def raster_path(path: str | Path) -> str | Path:
    """Return a path at which rasterio opens the file at `path`; an address stays as it is."""
    if isinstance(path, str) and not os.path.lexists(path):
        return path
    full = _absolute(path)
    return Path(_linked(Path(full))) if re.search("[\ud800-\udfff]|^/vsi", full) else Path(full)


def printable(path: str | Path) -> str:
    """Return a path as text for messages and metadata, even if it is not UTF-8."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def _absolute(path: str | Path) -> str:
    full = str(Path(path).absolute())
    return re.sub("^//+", "/", full) if os.sep == "/" else full


def _linked(path: Path) -> str:
    if not _AMBIGUOUS.search(f"/{path.name}"):
        return str(_folder_link(path.parent) / path.name)
    links = Path(tempfile.mkdtemp(dir=_links().name))
    for each in {path, *_same_stem(path)}:
        (links / _plain_name(each)).symlink_to(each)
    return str(links / _plain_name(path))


def _plain_name(path: Path) -> str:
    return re.sub(rf"[{_CHARACTERS}?]", "_", path.name)


def _same_stem(path: Path) -> list[Path]:
    """Return the files of a shapefile."""
    try:
        return [each for each in path.parent.iterdir() if each.stem == path.stem]
    except OSError:
        return []


@cache
def _folder_link(folder: Path) -> Path:
    link = Path(tempfile.mkdtemp(dir=_links().name)) / "folder"
    link.symlink_to(folder, target_is_directory=True)
    return link


@cache
def _links() -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="geoseg-")
