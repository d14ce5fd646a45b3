"""One scene opened and planned: its blocks, what they depend on, and what its pixels reveal."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geoseg.errors import SceneError
from geoseg.geo.layers.formats import FORMATS, check_installed
from geoseg.geo.layers.regular import forms_text, parse_forms
from geoseg.geo.raster.aoi import read_aoi
from geoseg.geo.raster.damage import unreadable_files
from geoseg.geo.raster.files import vector_files
from geoseg.geo.raster.logits import DecodeGrid
from geoseg.geo.raster.resampled import ResampledScene
from geoseg.geo.raster.scene import Scene
from geoseg.geo.reproject import check_format_crs
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution.tasks import Plan
from geoseg.pipeline.options import OutputOptions, PredictOptions, SceneOptions
from geoseg.tiling.grid import Grid, Window
from geoseg.version import build

_LOG = logging.getLogger("geoseg")
BESIDE = (".aux.xml", ".ovr")
"""Suffixes of files that viewers write beside a scene without changing it."""


def open_scene(
    path: str, options: SceneOptions, requests_per_second: float | None, *, look: bool = True
) -> Scene:
    """Open a scene; without a `look` at its pixels, as far as its header goes.

    Raises SceneError and OptionError.
    """
    return Scene.open(
        path,
        bands=options.bands,
        collar=options.collar if look else "off",
        rescale=options.rescale if look else options.rescale or (0.0, 1.0),
        skip_damage=True,  # reported at the end, when the rest is done
        requests_per_second=requests_per_second,
    )


def make_plan(scene: Scene, metadata: Metadata, options: PredictOptions) -> Plan:
    """Plan a prediction. Raises SceneError and OptionError for impossible combinations."""
    geobox, tiling, output = scene.geobox, options.tiling, options.output
    for kind in output.formats:
        if (form := FORMATS.get(kind)) is not None:
            check_installed(kind)
            check_format_crs(geobox, kind, scene.path, wgs84=form.wgs84, prj=form.prj)
    view = ResampledScene.of(scene, gsd=options.scene.gsd, scale=metadata.scale)
    width, height = view.geobox.width, view.geobox.height
    side = options.compute.tiles_per_block or 1  # a cluster chooses its own
    grid = Grid(width, height, tiling.tile_size, tiling.overlap, side)
    grids = DecodeGrid(geobox, geobox.extent, view.resampler, grid)
    return Plan(
        view=view,
        grid=grid,
        aoi=None if options.scene.aoi is None else read_aoi(options.scene.aoi, geobox),
        cleanup=output.cleanup(grids),
        splitting=output.splitting(grid, metadata.classes),
        confidence=output.confidence,
        logits=output.logits,
    )


def seen_pixels(scene: Scene, options: PredictOptions, metadata: Metadata) -> int:
    """Return about how many pixels the model will see, without the overlap of tiles.

    Raises SceneError and OptionError for impossible combinations.
    """
    geobox = scene.geobox
    seen = ResampledScene.of(scene, gsd=options.scene.gsd, scale=metadata.scale).geobox
    if options.scene.aoi is None:
        return seen.width * seen.height
    part = read_aoi(options.scene.aoi, geobox).window
    share = part.width * part.height / (geobox.width * geobox.height)
    return round(share * seen.width * seen.height)


def damage_error(path: str, scene: Scene, damaged: Sequence[Window]) -> SceneError:
    """Return the error of a scene with unreadable parts; it names the files of a mosaic."""
    files = unreadable_files(scene.source, damaged)
    for reason in files.values():
        _LOG.info("%s", reason)
    parts = [f"{w.width}×{w.height} px at ({w.col_off}, {w.row_off})" for w in damaged]
    names = list(files) or parts
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    what = "files" if files else "blocks of the file"
    return SceneError(
        f"{path}: {what} that cannot be read: {shown} (-v says why); repair what is broken, "
        "and the same command reads it again, or leave it as nodata: --keep-going"
    )


def emptiness_error(scene: Scene, *, in_aoi: bool) -> SceneError:
    """Return the error of a scene without a valid pixel."""
    where = "the area of interest" if in_aoi else "the scene"
    causes = [str(scene.bands), "collars (--collar off keeps them)" if scene.collars else ""]
    return SceneError(
        f"{scene.path}: nothing to predict, for all pixels of {where} are declared empty by its "
        f"{' and '.join(filter(None, causes))}; if they are not, remove the declaration "
        "(gdal_translate -b 1 -b 2 -b 3 -mask none -a_nodata none)"
    )


def description(path: str, run: dict[str, Any], weights: Metadata) -> dict[str, str]:
    """Return metadata of the layers: how they were made."""
    values = {key: str(value) for key, value in run.items() if value is not None and key != "files"}
    origin = {
        "weights_variant": weights.variant,
        "weights_provenance": weights.provenance,
        "weights_license": weights.license,
    }
    values |= {key: value for key, value in origin.items() if value}
    return {**values, "scene": path, "date": datetime.now(UTC).isoformat(timespec="seconds")}


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
        "split": output.split,
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
    chosen = output.selection.settings
    if output.regularize is not None:
        chosen["regularize"] = forms_text(parse_forms(output.regularize))
    if output.mask_out is not None:
        chosen["mask"] = digest(vector_files(Path(output.mask_out)))
    names = ("regularize", "only", "min_length", "max_area", "mask_out", "mask")
    added: dict[str, Any] = {"min_confidence": output.min_confidence}
    added |= {name: chosen.get(name) for name in names}
    added |= {name: True for name in ("report", "preview") if getattr(output, name)}
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
