"""What makes a prediction what it is: if any of this changes, its blocks are others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, PredictOptions
from geoseg.version import build

BESIDE = (".aux.xml", ".ovr")
"""Suffixes of files that viewers put beside a scene, which then is as it was."""


def run_fingerprint(scene: Scene, model: TileModel, options: PredictOptions) -> dict[str, Any]:
    """What results depend on that can be known without a look at pixels, and with whom they are
    computed, as JSON; not the folder in which the files lie.

    Of a scene on a server only its address and grid are told.
    """
    files = [Path(name) for name in scene.files if not name.endswith(BESIDE)]
    aoi, output = options.scene.aoi, options.output
    if aoi is not None and Path(aoi).is_file():
        files.append(Path(aoi))
        aoi = Path(aoi).name
    settings = {
        **{key: value for key, value in model.options.items() if key != "batch_size"},
        **asdict(options.scene),
        **asdict(options.tiling),
        "tiles_per_block": options.compute.tiles_per_block,
        "aoi": aoi,
        "confidence": output.confidence,
        "logits": output.logits,
        "min_area": output.min_area,
    }
    local = Path(scene.path)
    run = {
        "geoseg": build(),
        "scene": local.name if local.exists() else scene.path,
        "grid": [scene.geobox.width, scene.geobox.height, *scene.geobox.transform],
        "files": digest(files),
        "weights": model.weights_hash,
        **settings,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(run))
    return as_json


def blocks_fingerprint(
    run: dict[str, Any], scene: Scene, computing: Mapping[str, object]
) -> dict[str, Any]:
    """What finished blocks depend on: `run`, from `run_fingerprint`, and what only pixels tell.

    Args:
        computing: `TileModel.options`, of those who compute.
    """
    stretch = scene.rescale
    return run | {
        **{key: value for key, value in computing.items() if key != "batch_size"},
        # Both are found by looking, which may go another way while parts cannot be read.
        "stretch": stretch and [*map(float, stretch.low), *map(float, stretch.high)],
        "collars": [hashlib.sha256(one.cells.tobytes()).hexdigest()[:8] for one in scene.collars],
    }


def results_fingerprint(run: dict[str, Any], request: OutputOptions) -> dict[str, Any]:
    """What results depend on: `run`, from `run_fingerprint`, without how it is
    computed, and the rest of what is asked for."""
    kept = {
        key: value
        for key, value in run.items()
        if key not in ("geoseg", "device", "tiles_per_block")
    }
    asked = {"simplify": request.simplify, "smooth": request.smooth}
    return kept | asked | {"formats": sorted(set(request.formats))}


def digest(files: Iterable[Path]) -> str:
    """One line that changes when one of the files does."""
    states = sorted([path.name, *state(path)] for path in files if path.is_file())
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]


def state(path: Path) -> list[Any]:
    """Size and time of change; of a VRT, which is small and often written anew, the content."""
    if path.suffix.lower() == ".vrt":
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
