"""What makes a prediction what it is: if any of this changes, its blocks are others."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geoseg import __version__
from geoseg.geo.scene import Scene
from geoseg.model.inference import TileModel
from geoseg.request import Reading, Request, Tiling


def identity(
    scene: Scene, model: TileModel, reading: Reading, tiling: Tiling, request: Request
) -> dict[str, Any]:
    """As JSON. Of a scene on a server only its address and grid are told."""
    files = [Path(name) for name in scene.files]
    if reading.aoi is not None:
        files.append(Path(reading.aoi))
    options = {
        **{key: value for key, value in model.options.items() if key != "batch_size"},
        **asdict(reading),
        **asdict(tiling),
        "confidence": request.confidence,
        "logits": request.logits,
        "min_area": request.min_area,
    }
    # Nobody's business but the scheduler's.
    del options["workers"], options["scheduler"]
    return {
        "geoseg": __version__,
        "scene": scene.path,
        "grid": [scene.geobox.width, scene.geobox.height, *scene.geobox.transform],
        "files": {str(path): state(path) for path in files if path.is_file()},
        "weights": model.weights_hash,
        **options,
    }


def state(path: Path) -> list[Any]:
    """Size and time of change; of a VRT, which is small and often written anew, the content."""
    if path.suffix.lower() == ".vrt":
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
