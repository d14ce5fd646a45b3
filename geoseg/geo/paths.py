"""Paths of files as GDAL must be given them.

pyogrio and GDAL take some names for addresses: `!` ends an archive, what follows `;` is dropped,
and "S2A:tile.tif" has a driver in front. A file that exists is always meant as a file.
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from pathlib import Path

_CHARACTERS = r"!;\t\r\n\ud800-\udfff" + ("" if os.sep == "\\" else r"\\")
"""Have a meaning to pyogrio or GDAL, or (of a name that is not UTF-8) cannot reach them."""
_AMBIGUOUS = re.compile(rf"[{_CHARACTERS}]|\?$|^/vsi")


def vector_path(path: str | Path) -> str:
    """What pyogrio reads or writes as the file at `path`, whatever its name.

    Text that names no file is an address (a URL, /vsizip/…), and stays as it is. A file whose name
    could be read as an address is reached by links in a temporary folder, so layers of formats that
    call them as the file is called have the links' names. A shapefile cannot be written so.

    Raises OSError where a link is needed and cannot be made.
    """
    if isinstance(path, str) and not os.path.lexists(path):
        return path
    full = _absolute(path)
    return _linked(Path(full)) if _AMBIGUOUS.search(full) else full


def raster_path(path: str | Path) -> str | Path:
    """What rasterio opens as the file at `path`; text that names no file stays an address."""
    if isinstance(path, str) and not os.path.lexists(path):
        return path
    full = _absolute(path)
    return Path(_linked(Path(full))) if re.search("[\ud800-\udfff]|^/vsi", full) else Path(full)


def printable(path: str | Path) -> str:
    """A path as text for messages and metadata, also where its name is not UTF-8."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def _absolute(path: str | Path) -> str:
    full = str(Path(path).absolute())
    return re.sub("^//+", "/", full) if os.sep == "/" else full


def _linked(path: Path) -> str:
    if not _AMBIGUOUS.search(f"/{path.name}"):
        return str(_folder_link(path.parent) / path.name)
    links = Path(tempfile.mkdtemp(dir=_links().name))
    plain = re.sub(rf"[{_CHARACTERS}?]", "_", path.stem)
    for each in {path, *_of_the_same_stem(path)}:
        (links / (plain + re.sub(rf"[{_CHARACTERS}?]", "_", each.suffix))).symlink_to(each)
    return str(links / (plain + re.sub(rf"[{_CHARACTERS}?]", "_", path.suffix)))


def _of_the_same_stem(path: Path) -> list[Path]:
    """A shapefile is several files."""
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
    """Of this process, and goes with it."""
    return tempfile.TemporaryDirectory(prefix="geoseg-")
