"""Files that a raster is made of."""

from __future__ import annotations

from contextlib import closing

from geoseg.errors import SceneError
from geoseg.geo.source import Source


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
