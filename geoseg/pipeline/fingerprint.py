"""Fingerprints: everything that blocks and results depend on, as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geoseg.geo.layers.regular import parse_forms
from geoseg.geo.raster.files import vector_files
from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, PredictOptions
from geoseg.version import build

BESIDE = (".aux.xml", ".ovr")
"""Suffixes of files that viewers write beside a scene without changing it."""


def run_fingerprint(scene: Scene, model: TileModel, options: PredictOptions) -> dict[str, Any]:
    """Return what results depend on and how they are computed, as far as known without pixels.

    It does not depend on the folder of the files. A scene on a server is identified by its address
    and grid only.
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
        "simplify": output.simplify,
        "smooth": output.smooth,
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
    """Return what finished blocks depend on: `run_fingerprint`, and what only pixels tell.

    Args:
        run: from `run_fingerprint`.
        computing: `TileModel.options` of the machines that compute.
    """
    stretch = scene.rescale
    return run | {
        **{key: value for key, value in computing.items() if key != "batch_size"},
        # Both are measured on pixels, and may differ while parts of the scene cannot be read.
        "stretch": stretch and [*map(float, stretch.low), *map(float, stretch.high)],
        "collars": [hashlib.sha256(one.cells.tobytes()).hexdigest()[:8] for one in scene.collars],
    }


def results_fingerprint(run: dict[str, Any], output: OutputOptions) -> dict[str, Any]:
    """Return what results depend on: `run_fingerprint` without the machine, and output options."""
    kept = {
        key: value
        for key, value in run.items()
        if key not in ("geoseg", "device", "tiles_per_block")
    }
    added: dict[str, Any] = {"min_confidence": output.min_confidence}
    added |= {name: True for name in ("report", "preview") if getattr(output, name)}
    if output.regularize is not None:
        added["regularize"] = parse_forms(output.regularize)
    if not output.selection.is_everything:
        added["selection"] = asdict(output.selection)
        if output.mask_out is not None:
            added["mask"] = digest(vector_files(Path(output.mask_out)))
    return kept | added | {"formats": sorted(set(output.formats))}


def digest(files: Iterable[Path]) -> str:
    """Return a hash that changes when one of the files does."""
    states = sorted([path.name, *state(path)] for path in files if path.is_file())
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]


def state(path: Path) -> list[Any]:
    """Return size and modification time; for a VRT, which tools rewrite unchanged, its content."""
    if path.suffix.lower() == ".vrt":
        return [hashlib.sha256(path.read_bytes()).hexdigest()]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
