"""What makes a prediction what it is: if any of this changes, its blocks are others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from geoseg import __version__
from geoseg.geo.scene import Scene
from geoseg.model.inference import TileModel
from geoseg.request import Reading, Request, Tiling

_AROUND = {"cli", "configs", "render", "train"}
"""Folders of the package that do not decide on results."""


@cache
def build() -> str:
    """The version and a hash of the sources at work, "0.1.0+1a2b3c4d".

    Two checkouts of one version differ. C sources are not in an installed package, so they do not
    count.
    """
    return f"{__version__}+{sources_hash(Path(__file__).parent)[:8]}"


def sources_hash(folder: Path) -> str:
    """SHA-256 of the Python sources in `folder` that decide on results."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        if place.parts[0] not in _AROUND:
            digest.update(place.as_posix().encode() + b"\0")
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def identity(
    scene: Scene,
    model: TileModel,
    reading: Reading,
    tiling: Tiling,
    request: Request,
    computing: Mapping[str, object],
) -> dict[str, Any]:
    """As JSON. Of a scene on a server only its address and grid are told.

    Args:
        computing: `TileModel.options`, of those who compute.
    """
    files, stretch = [Path(name) for name in scene.files], scene.rescale
    if reading.aoi is not None:
        files.append(Path(reading.aoi))
    options = {
        **{key: value for key, value in computing.items() if key != "batch_size"},
        **asdict(reading),
        **asdict(tiling),
        "confidence": request.confidence,
        "logits": request.logits,
        "min_area": request.min_area,
    }
    # Nobody's business but the scheduler's.
    del options["workers"], options["scheduler"]
    return {
        "geoseg": build(),
        "scene": scene.path,
        "grid": [scene.geobox.width, scene.geobox.height, *scene.geobox.transform],
        "files": {str(path): state(path) for path in files if path.is_file()},
        # Both are found by looking, which may go another way while parts cannot be read.
        "stretch": stretch and [stretch.low, stretch.high],
        "collars": [hashlib.sha256(one.cells.tobytes()).hexdigest()[:8] for one in scene.collars],
        "weights": model.weights_hash,
        **options,
    }


def state(path: Path) -> list[Any]:
    """Size and time of change; of a VRT, which is small and often written anew, the content."""
    if path.suffix.lower() == ".vrt":
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
