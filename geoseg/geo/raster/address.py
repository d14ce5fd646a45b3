"""Names of rasters that are no plain paths: addresses of servers, and files inside of files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import unescape

from geoseg.errors import OptionError

_SERVERS = "https?|ftps?|sftp|s3a?|gs|az|abfss?|adls?|oss|swift|hdfs|webhdfs"
_REMOTE = re.compile(
    rf"(?:^|[^a-z0-9])(?:{_SERVERS})://"
    r"|(?:^|/|\{)vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(?:_streaming)?[/?]",
    re.IGNORECASE,
)
"""A server's address, be it plain, within an archive's name or in one of GDAL's long names."""
_ARCHIVE = re.compile(
    r"((?:/vsi(?:zip|tar|gzip|7z|rar)/)+\{?|(?:zip|tar|gzip|file)://)(?!/|vsi|\{)"
)
"""In front of a relative path."""
_SOURCE = re.compile(r"(<Source(?:Filename|Dataset)[^>]*>)([^<]+)")
"""In a VRT."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""Of at least two letters, for one is a drive."""


def is_remote(name: str) -> bool:
    """Whether reading `name` asks a server. A file that is here under that name is not remote."""
    return bool(_REMOTE.search(name)) and not _is_here(name)


def names_server(files: Iterable[str]) -> bool:
    """Whether one of a raster's files is remote, or a VRT that refers to one, by others or not."""
    left, seen = list(files), set[str]()
    while left:
        name = left.pop()
        if is_remote(name):
            return True
        if name.lower().endswith(".vrt") and name not in seen and _is_here(name):
            sources = _sources(Path(name).read_text("utf-8", "replace"))
            if any(map(is_remote, sources)):
                return True
            left += [str(Path(name).parent / source) for source in sources]
        seen.add(name)
    return False


def _sources(vrt: str) -> list[str]:
    return [unescape(source[2]) for source in _SOURCE.finditer(vrt)]


def absolute(name: str) -> str:
    """`name` as it means the same in another folder."""
    if _is_here(name):
        return str(Path(name).absolute())
    if name.lstrip().startswith("<"):
        return _SOURCE.sub(lambda found: found[1] + absolute(found[2]), name)
    if archive := _ARCHIVE.match(name):
        return f"{archive[0]}{Path.cwd()}/{name[archive.end() :]}"
    if "://" in name or name.startswith("/"):
        return name
    for part in re.split(r"[\"':,]", name)[1:]:  # NETCDF:"file":variable, GPKG:file:table, …
        if part and _is_here(part):
            return name.replace(part, str(Path(part).absolute()), 1)
    return str(Path(name).absolute())


def _is_here(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than names can be
        return False


def refuse_address(folder: Path) -> None:
    """Raises OptionError where results would go to a server, which they cannot."""
    first = folder.parts[0] if folder.parts else ""
    scheme = _SCHEME.fullmatch(first) and not Path(first).is_dir()
    if scheme or str(folder).startswith("/vsi"):
        raise OptionError(
            f"{folder} is an address, but results are written to folders only; give a folder (-o), "
            "and copy the results from there"
        )
