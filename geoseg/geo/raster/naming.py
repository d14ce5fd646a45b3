"""What the results of a scene are called."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from geoseg.errors import OptionError

LONGEST = 200
"""Bytes of a stem: suffixes come after it, and file systems end at 255."""
_SUBDATASET = re.compile(r"[A-Za-z][A-Za-z0-9_]+:(?!//)")
"""The driver's name before GDAL's names of parts of a file, as in `NETCDF:"a.nc":red`."""
_HTTP = re.compile(r"(?:https?|ftp)://")
_PART = re.compile(r'"([^"]*)"|((?:[A-Za-z]:[\\/])?[^:"]+)')
"""Between colons: quoted or not, with a drive or without one."""
_UNFIT = re.compile(r'[/\\\0:"]+')


def scene_stem(path: str | os.PathLike[str]) -> str:
    """The name that the results of the scene at `path` begin with.

    Of a file, its name without the suffix, whatever characters are in it. Of an address, the last
    part of its path, without query. Of a part of a file (GDAL's subdatasets), the names of file
    and part. Names that leave no room for suffixes are cut, and end in a hash of what they were.
    """
    text = os.fspath(path)
    stem = (Path(text).stem or "scene") if os.path.lexists(text) else _stem_of_address(text)
    size = len(os.fsencode(stem))
    if size > LONGEST:
        digest = hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
        stem = os.fsencode(stem)[: LONGEST - 9].decode(errors="ignore") + f"~{digest}"
    return stem


def _stem_of_address(text: str) -> str:
    if text.lstrip().startswith("<"):
        return "scene"  # a VRT in place of its name
    if address := _HTTP.search(text):
        path = urlsplit(text[address.start() :])
        inside = path.path.rpartition("!")[2] if text.startswith("zip") else path.path
        return _cleaned(_last(unquote(inside)) or path.netloc)
    if subdataset := _SUBDATASET.match(text):
        parts = [quoted or plain for quoted, plain in _PART.findall(text[subdataset.end() :])]
        return _cleaned("_".join(filter(None, map(_last, parts))))
    return _cleaned(_last(text.rpartition("!")[2] if text.startswith("zip") else text))


def _last(part: str) -> str:
    """The end of a path, without suffix."""
    return PurePosixPath(re.sub(r"[{}]", "", part).replace("\\", "/").rstrip("/")).stem


def _cleaned(stem: str) -> str:
    """`stem` as a legal file name."""
    return _UNFIT.sub("_", stem).strip("_") or "scene"


def refuse_equal_names(scenes: Iterable[str]) -> None:
    """Raises OptionError where the results of two scenes would have one name.

    Upper and lower case are one to some file systems, and so they are here.
    """
    found: dict[str, str] = {}
    for scene in scenes:
        stem = scene_stem(scene)
        if (other := found.get(stem.casefold())) is not None:
            raise OptionError(
                f"{other} and {scene}: both are called {stem}, and so would their results be; "
                "predict them one at a time into different folders (-o)"
            )
        found[stem.casefold()] = scene
