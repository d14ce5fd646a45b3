"""Corrected results become labels: what was looked at, what was touched, and nothing else."""

from __future__ import annotations

import csv
import re

import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from commands import command, refused
from fakes import TRANSFORM, Colors, write_discs
from geopandas import GeoDataFrame
from PIL import Image

from geoseg.classes import IGNORE
from geoseg.datasets.corrected import is_touched, read_area, read_corrected
from geoseg.errors import DataError
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict

HEIGHT, WIDTH = 256, 256


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A scene and its results."""
    folder = tmp_path_factory.mktemp("scenes")
    scene = write_discs(folder / "town.tif", HEIGHT, WIDTH)
    model = TileModel(Colors(), device="cpu")
    predict(scene, model, OutputOptions(folder), TilingOptions(128, 32))
    return scene, folder / "town.gpkg"


def rectangle(left, top, right, bottom):
    """In the CRS, from pixels."""
    return shapely.box(*(TRANSFORM @ (left, bottom)), *(TRANSFORM @ (right, top)))


def write_tiles(path, reviewed):
    """The left and the right half of the scene."""
    shapes = [rectangle(0, 0, 128, 256), rectangle(128, 0, 256, 256)]
    frame = GeoDataFrame({"reviewed": reviewed}, geometry=shapes, crs=32633)
    frame.to_file(path, layer="suggested")
    return path


def correct(source, path):
    """Move one plane on the right, rename another, and draw a new one, as people do in QGIS.

    Returns the ids of the two.
    """
    layers = {name: pyogrio.read_dataframe(source, layer=name)
              for name, kind in pyogrio.list_layers(source) if kind}  # fmt: skip
    planes = layers["plane"]
    centers = planes.geometry.centroid.x
    right = planes.index[centers > (TRANSFORM @ (140, 0))[0]][:2]
    moved, renamed = right
    planes.loc[moved, "geometry"] = planes.geometry[moved].buffer(1)
    planes.loc[renamed, "class"] = "ship"
    new = GeoDataFrame({"class": ["plane"]}, geometry=[rectangle(240, 240, 250, 250)], crs=32633)
    layers["plane"] = GeoDataFrame(pd.concat([planes, new]), crs=32633)
    for name, frame in layers.items():
        pyogrio.write_dataframe(frame, path, layer=name, driver="GPKG")
    return [int(planes["object_id"][each]) for each in right]


def test_untouched_results_are_recognized(predicted):
    scene, layers = predicted
    found = read_edited(layers)
    assert len(found.features) > 10
    with Scene.open(scene) as opened:
        assert not is_touched(found.features, found.layers, opened.geobox.crs).any()


def test_what_was_touched_is_recognized(predicted, tmp_path):
    scene, layers = predicted
    ids = correct(layers, tmp_path / "corrected.gpkg")
    found = read_edited(tmp_path / "corrected.gpkg")
    with Scene.open(scene) as opened:
        touched = is_touched(found.features, found.layers, opened.geobox.crs)
        changed = found.features["object_id"][touched].tolist()
        assert sorted(changed[:2]) == sorted(ids)
        assert len(changed) == 3
        seen = read_corrected(
            tmp_path / "corrected.gpkg", opened.geobox, field="class", layer=None, area=None
        )
    assert (seen.inside, seen.edited) == (0, 3)
    assert seen.ignored == len(found.features) - 3
    assert sorted(seen.labels.names) == ["plane", "plane", "ship"]


def test_only_reviewed_tiles_are_an_area(predicted, tmp_path):
    scene, _ = predicted
    tiles = write_tiles(tmp_path / "tiles.gpkg", [True, False])
    none = write_tiles(tmp_path / "none.gpkg", [False, False])
    with Scene.open(scene) as opened:
        area = read_area(tiles, opened.geobox)
        assert shapely.total_bounds(area.geometry).tolist() == [0, 0, 128, 256]
        with pytest.raises(DataError, match="is reviewed; tick those"):
            read_area(none, opened.geobox)


def masks_of(folder):
    """The mask of the scene, from the patches."""
    full = np.full((HEIGHT, WIDTH), 254, np.uint8)
    with (folder / "split.csv").open() as file:
        for row in csv.DictReader(file):
            top, bottom, left, right = map(int, row["name"].split("_")[-4:])
            full[top:bottom, left:right] = np.array(Image.open(folder / row["mask"]))
    return full


def touched_area(scene, path):
    """Pixels of the right half under polygons that somebody touched."""
    found = read_edited(path)
    with Scene.open(scene) as opened:
        touched = is_touched(found.features, found.layers, opened.geobox.crs)
    shapes = found.features.geometry.to_numpy()[touched]
    right = shapely.intersection(shapely.union_all(shapes), rectangle(128, 0, 256, 256))
    return right.area / 0.5**2


def test_from_suggested_tiles_to_patches(predicted, tmp_path):
    """Left everything is labeled, right only what was touched."""
    scene, layers = predicted
    correct(layers, tmp_path / "corrected.gpkg")
    tiles = write_tiles(tmp_path / "tiles.gpkg", [True, False])
    patches = tmp_path / "patches"
    done = command("prepare", "labels", scene, tmp_path / "corrected.gpkg", patches, "--field",
                   "class", "--area", tiles, "--update", "--patch", 64)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert re.search(r"Note: \d+ polygons lie in the area .*, [23] elsewhere were", done.stdout)
    mask = masks_of(patches)
    left, right = mask[130:, :128], mask[:, 128:]
    assert (left != IGNORE).all()
    assert (left == 0).mean() > 0.1
    labeled = (right != IGNORE) & (right != 254)
    assert labeled.sum() == pytest.approx(
        touched_area(scene, tmp_path / "corrected.gpkg"), rel=0.03
    )
    assert (right[labeled] > 0).all()  # nothing outside the area is known to be background
    everything = command("prepare", "labels", scene, tmp_path / "corrected.gpkg",
                         tmp_path / "all", "--field", "class", "--area", tiles,
                         "--patch", 64)  # fmt: skip
    assert everything.exit_code == 0, everything.output
    other = masks_of(tmp_path / "all")[:, 128:]
    assert ((other != IGNORE) & (other != 254)).mean() > labeled.mean()


def test_results_that_nobody_touched_teach_nothing(predicted, tmp_path):
    scene, layers = predicted
    refused("prepare", "labels", scene, layers, tmp_path / "patches", "--field", "class",
            "--update", says="without --area it is not known what was looked at")  # fmt: skip
    assert not (tmp_path / "patches").exists()
