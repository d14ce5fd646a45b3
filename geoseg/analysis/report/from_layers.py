"""Reports on GeoPackages of results, edited ones included."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from geoseg.analysis.layer_file import read_metadata
from geoseg.analysis.report.page import Results, report_page
from geoseg.atomic import Staging
from geoseg.errors import DataError, OptionError, SceneError
from geoseg.geo.crs import same_crs, to_pyproj
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.raster.aoi import read_aoi
from geoseg.geo.raster.scene import Scene
from geoseg.guard import check_outputs
from geoseg.tiling.grid import Window


def write_report(
    path: Path, output: Path, *, scene_path: str | None = None, overwrite: bool = False
) -> list[str]:
    """Write a report on a GeoPackage as one HTML file, and return notes for the user.

    Args:
        path: results of `geoseg predict` or `vectorize`.
        scene_path: the scene; None = the one that the results record, if it is still there.

    Raises:
        DataError, OutputError: the results cannot be read, or the report cannot be written.
        SceneError: the scene cannot be read.
        OptionError: the report would replace an input, or is not called .html.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"-o {output}: a page is written; give a name that ends in .html")
    metadata = read_metadata(path)
    given = scene_path or _recorded_scene(path, metadata)
    check_outputs([output], [path, *([given] if given else [])], overwrite=overwrite)
    layers = read_edited(path)
    frame, notes = layers.features, list(layers.notes)
    colors = {
        str(name): layers.colors[layer]
        for name, layer in zip(frame["class"], layers.layers, strict=True)
    }
    results = Results(path.stem, frame, colors, metadata, notes)
    if given is None:
        notes.append("the scene is not there, so there are no pictures; give it (--scene)")
        page = report_page(results, None)
    else:
        with closing(Scene.open(given, **_reading(metadata), skip_damage=True)) as scene:
            _check_crs(path, frame.crs, scene)
            page = report_page(results, scene, _window(metadata, scene))
    with Staging(output.parent, output.name) as staging:
        (staging.new / output.name).write_text(page, "utf-8")
    return notes


def _recorded_scene(path: Path, metadata: dict[str, str]) -> str | None:
    """Return the scene of the results: as recorded, or of that name beside them."""
    recorded = metadata.get("scene")
    if not recorded:
        return None
    for each in (Path(recorded), path.parent / Path(recorded).name):
        if each.is_file():
            return str(each)
    return None


def _reading(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the options of `Scene.open` that the results record."""
    options: dict[str, Any] = {
        key: json.loads(metadata[key]) for key in ("bands", "rescale") if metadata.get(key)
    }
    if metadata.get("collar"):
        options["collar"] = metadata["collar"]
    return options


def _check_crs(path: Path, crs: Any, scene: Scene) -> None:
    own = scene.geobox.crs
    fits = crs is None if own is None else crs is not None and same_crs(crs, to_pyproj(own))
    if not fits:
        raise DataError(
            f"{path} and {scene.path} are in different coordinate reference systems; give the "
            "scene that the results are of (--scene)"
        )


def _window(metadata: dict[str, str], scene: Scene) -> Window | None:
    """Return the part of the scene that was predicted, if its area is still known."""
    if not metadata.get("aoi"):
        return None
    try:
        return read_aoi(metadata["aoi"], scene.geobox).window
    except SceneError:  # a file that is elsewhere now
        return None
