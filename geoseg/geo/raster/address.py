"""Names of rasters: local paths, URLs, GDAL's long names, and what their results are called."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import unescape

from geoseg.errors import OptionError

MAX_STEM_BYTES = 200
"""Suffixes follow a stem, and file systems allow names of 255 bytes."""

_SERVERS = "https?|ftps?|sftp|s3a?|gs|az|abfss?|adls?|oss|swift|hdfs|webhdfs"
_REMOTE = re.compile(
    rf"(?:^|[^a-z0-9])(?:{_SERVERS})://"
    r"|(?:^|/|\{)vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(?:_streaming)?[/?]",
    re.IGNORECASE,
)
"""A URL of a server, plain, inside the name of an archive or in GDAL's /vsi notation."""
_HTTP = re.compile(r"(?:https?|ftp)://")
_ARCHIVE = re.compile(
    r"((?:/vsi(?:zip|tar|gzip|7z|rar)/)+\{?|(?:zip|tar|gzip|file)://)(?!/|vsi|\{)"
)
"""The prefix of a relative path."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""At least two letters: one is a Windows drive."""
_SUBDATASET = re.compile(r"[A-Za-z][A-Za-z0-9_]+:(?!//)")
"""The driver that begins GDAL's name of a part of a file, such as `NETCDF:"a.nc":red`."""
_SUBDATASET_PART = re.compile(r'"([^"]*)"|((?:[A-Za-z]:[\\/])?[^:"]+)')
"""Between colons; quoted or not, with or without a Windows drive."""
_VRT_SOURCE = re.compile(r"(<Source(?:Filename|Dataset)[^>]*>)([^<]+)")
_TILE_NUMBER = re.compile(r"[^/?]*\{(?:z|x|-?y)\}")
"""A part of a path with the placeholder of a tile's number."""
_ILLEGAL = re.compile(r'[/\\\0:"]+')
"""In file names."""


def is_remote(name: str) -> bool:
    """Whether reading `name` asks a server. A local file of that name is not remote."""
    return bool(_REMOTE.search(name)) and not _exists(name)


def refers_to_server(files: Iterable[str]) -> bool:
    """Whether a raster's files include a remote one, or a VRT that names one, however nested."""
    pending, visited = list(files), set[str]()
    while pending:
        name = pending.pop()
        if is_remote(name):
            return True
        if name.lower().endswith(".vrt") and name not in visited and _exists(name):
            text = Path(name).read_text("utf-8", "replace")
            sources = [unescape(source[2]) for source in _VRT_SOURCE.finditer(text)]
            if any(map(is_remote, sources)):
                return True
            pending += [str(Path(name).parent / source) for source in sources]
        visited.add(name)
    return False


def absolute(name: str) -> str:
    """Return `name` so that it means the same in every working directory."""
    if _exists(name):
        return str(Path(name).absolute())
    if _is_inline_vrt(name):
        return _VRT_SOURCE.sub(lambda found: found[1] + absolute(found[2]), name)
    if archive := _ARCHIVE.match(name):
        return f"{archive[0]}{Path.cwd()}/{name[archive.end() :]}"
    if "://" in name or name.startswith("/"):
        return name
    for part in re.split(r"[\"':,]", name)[1:]:  # NETCDF:"file":variable, GPKG:file:table, …
        if part and _exists(part):
            return name.replace(part, str(Path(part).absolute()), 1)
    return str(Path(name).absolute())


def _is_inline_vrt(name: str) -> bool:
    """GDAL accepts the XML of a VRT in place of its path."""
    return name.lstrip().startswith("<")


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than a file name can be
        return False


def check_local_folder(folder: Path) -> None:
    """Raise OptionError if `folder`, where results should go, is on a server."""
    first = folder.parts[0] if folder.parts else ""
    has_scheme = _SCHEME.fullmatch(first) and not Path(first).is_dir()
    if has_scheme or str(folder).startswith("/vsi"):
        raise OptionError(
            f"{folder} is an address, but results are written to folders only; give a folder (-o), "
            "and copy the results from there"
        )


def scene_stem(path: str | os.PathLike[str]) -> str:
    """Return the name that the results of the scene at `path` begin with.

    A file gives its name without the suffix; a URL the last part of its path, without query; a
    GDAL subdataset the names of file and part. Names longer than `MAX_STEM_BYTES` are cut, and end
    in a hash of the full name.
    """
    text = os.fspath(path)
    stem = (Path(text).stem or "scene") if os.path.lexists(text) else _stem_of_address(text)
    encoded = os.fsencode(stem)
    if len(encoded) > MAX_STEM_BYTES:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        stem = encoded[: MAX_STEM_BYTES - 9].decode(errors="ignore") + f"~{digest}"
    return stem


def _stem_of_address(text: str) -> str:
    if _is_inline_vrt(text):
        return "scene"
    if address := _HTTP.search(text):
        text = _TILE_NUMBER.split(text)[0]
        url = urlsplit(text[address.start() :])
        path = url.path.rpartition("!")[2] if text.startswith("zip") else url.path
        return _legal(_path_stem(unquote(path)) or url.netloc)
    if subdataset := _SUBDATASET.match(text):
        parts = [a or b for a, b in _SUBDATASET_PART.findall(text[subdataset.end() :])]
        return _legal("_".join(filter(None, map(_path_stem, parts))))
    return _legal(_path_stem(text.rpartition("!")[2] if text.startswith("zip") else text))


def _path_stem(path: str) -> str:
    return PurePosixPath(re.sub(r"[{}]", "", path).replace("\\", "/").rstrip("/")).stem


def _legal(stem: str) -> str:
    """Return `stem` as a legal file name."""
    return _ILLEGAL.sub("_", stem).strip("_") or "scene"


def check_unique_stems(scenes: Iterable[str]) -> None:
    """Raise OptionError if the results of two scenes would have the same name.

    Case is ignored, as some file systems do.
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
