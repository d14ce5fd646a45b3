"""One scene opened and planned, and the errors that only its pixels reveal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from geoseg.errors import SceneError
from geoseg.geo.layers.formats import FORMATS, check_installed
from geoseg.geo.raster.aoi import read_aoi
from geoseg.geo.raster.damage import unreadable_files
from geoseg.geo.raster.logits import DecodeGrid
from geoseg.geo.raster.resampled import ResampledScene
from geoseg.geo.raster.scene import Scene
from geoseg.geo.reproject import check_format_crs
from geoseg.model.metadata import Metadata
from geoseg.pipeline.execution.tasks import Plan
from geoseg.pipeline.options import PredictOptions, SceneOptions
from geoseg.tiling.grid import Grid, Window

_LOG = logging.getLogger("geoseg")


def open_scene(path: str, options: SceneOptions, *, look: bool = True) -> Scene:
    """Open a scene; without a `look` at its pixels, as far as its header goes.

    Raises SceneError and OptionError.
    """
    return Scene.open(
        path,
        bands=options.bands,
        collar=options.collar if look else "off",
        rescale=options.rescale if look else options.rescale or (0.0, 1.0),
        skip_damage=True,  # reported at the end, when the rest is done
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
        confidence=output.confidence,
        logits=output.logits,
    )


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
