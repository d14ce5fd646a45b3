"""The tiles that GDAL keeps on disk, so that no run asks for them again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ENDS = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}
"""The last bytes of a complete file, by its first."""
_CHECKED = "checked"
"""Name of an empty file that is as old as the last check."""


def cache_folder() -> Path:
    """Return `tiles` in `$GEOSEG_CACHE`, or in the user's cache folder."""
    if configured := os.environ.get("GEOSEG_CACHE"):
        return Path(configured).absolute() / "tiles"
    from platformdirs import user_cache_path

    return user_cache_path("geoseg") / "tiles"


def drop_truncated(folder: Path) -> None:
    """Remove tiles whose writing was interrupted since the last check.

    GDAL writes them in place, and returns garbage for the rest of a truncated one.
    """
    mark = folder / _CHECKED
    with suppress(OSError):  # a cache that cannot be read is not used
        since = mark.stat().st_mtime_ns if mark.exists() else 0
        for path in _files(folder):
            if path.stat().st_mtime_ns >= since and path != mark and not _is_complete(path):
                path.unlink()
        if folder.is_dir():
            mark.touch()


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _is_complete(path: Path) -> bool:
    content = path.read_bytes()
    ends = [end for start, end in _ENDS.items() if content.startswith(start)]
    return bool(content) and all(content.rstrip(b"\0").endswith(end) for end in ends)
