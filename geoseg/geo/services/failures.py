"""Failures of services: which tile, what the server said, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from geoseg.errors import SceneError

_DESCRIPTION = re.compile(r"<GDAL_WMS\b.*</GDAL_WMS>", re.DOTALL)
_BLOCK = re.compile(r"Unable to download block (\d+), (\d+)")
_STATUS = re.compile(r"HTTP status code: (\d+), error: (.*?)\.\s", re.DOTALL)
_NO_PICTURE = re.compile(r"ReadBlockFromFile \((.*?)\) failed")
_EXCEPTION = re.compile(r"server returned exception: (.*)", re.DOTALL)
_NO_TILES = {204, 400, 404, 410}
"""What servers answer at zoom levels beyond theirs."""
_LATER = "try the same command later, which goes on from what is done"
_WRONG = "check the address and its key, and whether the service ends at a coarser zoom level"


def lacks_tiles(error: SceneError) -> bool:
    """Whether a server answered that it has no such tile."""
    status = _STATUS.search(str(error))
    return status is not None and int(status[1]) in _NO_TILES


@contextmanager
def explained(path: str, url: Callable[[int, int], str | None]) -> Iterator[None]:
    """Raise errors of GDAL's drivers for services as one line that says what to do.

    Args:
        path: of the service, as given.
        url: the address of a tile, by column and row; None if it is unknown.
    """
    try:
        yield
    except SceneError as error:
        text = str(error)
        if "GDALWMS" not in text and _DESCRIPTION.search(text) is None:
            raise
        raise SceneError(_explanation(text, path, url)) from error


def _explanation(text: str, path: str, url: Callable[[int, int], str | None]) -> str:
    if exception := _EXCEPTION.search(text):
        said = " ".join(exception[1].split())
        return f"{path}: the server says: {said}; {_WRONG}"
    if found := _NO_PICTURE.search(text):
        return f"{path}: what the server sent for {found[1]} is no tile of the right size; {_WRONG}"
    block, status = _BLOCK.search(text), _STATUS.search(text)
    if block is None or status is None:
        return " ".join(_DESCRIPTION.sub(path, text).split())
    column, row, code = int(block[1]), int(block[2]), int(status[1])
    tile = url(column, row) or f"tile {column}, {row}"
    answer = f"the server answered {code}" if code else " ".join(status[2].split())
    is_refused = 400 <= code < 500 and code not in (408, 429)
    return f"{path}: cannot fetch {tile}: {answer}; {_WRONG if is_refused else _LATER}"
