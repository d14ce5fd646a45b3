"""A rendered scene with known objects: predicted, and scored by pixels and by polygons."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.transform import from_origin

from geoseg.classes import ISAID, LabelClass
from geoseg.errors import OutputError
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.layers.object_scores import ObjectScore, score_objects
from geoseg.geo.layers.preview import write_preview
from geoseg.geo.raster.scene import Scene
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.predict import predict
from geoseg.synthetic import RenderedObject, RenderedScene, render_scene

SIZE = 2560
"""Side of the scene, px."""
GSD = 0.3
"""Meters a pixel."""
SEED = 77
"""A bright scene that holds all 13 classes; training draws other seeds and another size."""
CRS = "EPSG:32633"
CORNER = (448_000.0, 5_412_000.0)
"""Upper left corner, in a field in Lower Bavaria."""
COVERED = 0.5
"""Share of an object's pixels that must have its class."""


@dataclass(frozen=True, slots=True)
class Covered:
    """Objects of one class, and how many of them the class raster covers."""

    name: str
    known: int
    covered: int


def write_scene(path: Path) -> RenderedScene:
    """Render the demo's scene and write it as a GeoTIFF."""
    scene = render_scene(SIZE, SIZE, gsd=GSD, seed=SEED)
    profile = {
        "driver": "GTiff",
        "width": SIZE,
        "height": SIZE,
        "count": 3,
        "dtype": "uint8",
        "crs": CRS,
        "transform": from_origin(*CORNER, GSD, GSD),
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "predictor": 2,
        "photometric": "rgb",
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(scene.image.transpose(2, 0, 1))
    return scene


def refuse_others(path: Path, results: Sequence[Path]) -> None:
    """Raise OutputError if existing files are not those of an earlier demo."""
    found = [each for each in (path, *results) if os.path.lexists(each)]
    if not found:
        return
    is_demo = False
    with suppress(RasterioError), rasterio.open(path) as file:
        transform = from_origin(*CORNER, GSD, GSD)
        is_demo = file.shape == (SIZE, SIZE) and file.transform.almost_equals(transform)
    if not is_demo or path.is_symlink():
        raise OutputError(f"{found[0]} exists and is not of a demo; choose another folder (-o)")


def write_truth(path: Path, scene: RenderedScene) -> None:
    """Write the objects as polygons with their class, for `geoseg evaluate --truth`."""
    transform = from_origin(*CORNER, GSD, GSD)
    shapes = [
        shapely.Polygon([transform @ point for point in item.polygon]) for item in scene.objects
    ]
    names = [ISAID[item.class_id].name for item in scene.objects]
    frame = GeoDataFrame({"class": names}, geometry=shapes, crs=CRS)
    frame.to_file(path, driver="GPKG", layer="objects")


def count_covered(
    scene: RenderedScene, class_ids: NDArray[np.uint8], classes: Sequence[LabelClass] = ISAID
) -> list[Covered]:
    """Count the objects inside the scene that `class_ids` (H,W) covers, by class.

    Args:
        classes: classes of the ids, matched by name.
    """
    names = np.array(["", *(ISAID[item.class_id].name for item in scene.objects)])
    id_of = {item.name: item.id for item in classes}
    truth = np.array([id_of.get(name, -1) for name in names.tolist()])
    shapes = [(outline(item), number) for number, item in enumerate(scene.objects, start=1)]
    numbers = rasterio.features.rasterize(shapes, class_ids.shape, dtype="int32")
    whole = np.array([False, *(inside(item, class_ids.shape) for item in scene.objects)])
    hits = np.bincount(numbers[class_ids == truth[numbers]], minlength=len(truth))
    sizes = np.bincount(numbers.ravel(), minlength=len(truth))
    covered = hits >= COVERED * np.maximum(sizes, 1)
    return [
        Covered(item.name, int(known.sum()), int((known & covered).sum()))
        for item in ISAID
        if (known := (names == item.name) & whole).any()
    ]


def inside(item: RenderedObject, shape: tuple[int, ...]) -> bool:
    """Whether the object lies inside a picture of that shape."""
    x, y = np.array(item.polygon).T
    return bool(min(x.min(), y.min()) >= 0 and x.max() <= shape[1] and y.max() <= shape[0])


def outline(item: RenderedObject) -> dict[str, object]:
    """Return the outline as a GeoJSON geometry in pixel coordinates."""
    return {"type": "Polygon", "coordinates": [[*item.polygon, item.polygon[0]]]}


@dataclass(frozen=True, slots=True)
class Demo:
    """Results of the demo."""

    covered: list[Covered]
    """Objects by class, and how many have the right class on half of their pixels."""
    polygons: list[ObjectScore]
    """Scores of the polygons at IoU 0.5, as `geoseg evaluate --scene --truth` counts them."""
    seconds: float
    scene: Path
    truth: Path
    class_raster: Path
    layers: Path
    preview: Path


def run_demo(
    folder: Path,
    *,
    weights: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Demo:
    """Render a scene into `folder`, predict it, score the result and draw a preview.

    Files of an earlier demo are replaced.
    """
    path, truth, preview = (folder / n for n in ("scene.tif", "truth.gpkg", "preview.png"))
    refuse_others(path, (truth, preview, folder / "scene.gpkg", folder / "scene.classes.tif"))
    folder.mkdir(parents=True, exist_ok=True)
    known = write_scene(path)
    write_truth(truth, known)
    model = TileModel(load_model(weights), device=device, consume=True)
    summary = predict(path, model, OutputOptions(folder, overwrite=True), progress=progress)
    layers, raster = (Path(summary.outputs[kind]) for kind in ("gpkg", "classes"))
    with rasterio.open(raster) as file:
        covered = count_covered(known, file.read(1), model.metadata.classes)
    write_preview(preview, Scene.open(str(path)), read_layers(layers), ISAID)
    return Demo(
        covered=covered,
        polygons=score_objects(layers, truth),
        seconds=summary.seconds["total"],
        scene=path,
        truth=truth,
        class_raster=raster,
        layers=layers,
        preview=preview,
    )
