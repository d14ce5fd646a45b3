"""Regular outlines and filters in a prediction, with a stand-in model whose answer is known."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from fakes import TRANSFORM, Colors
from results import layers_of

from geoseg.errors import DataError, OptionError, OutputError
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict

HEIGHT, WIDTH = 200, 300


def run(scene, folder, workers=2, tile_size=128, **output):
    return predict(
        scene,
        TileModel(Colors(), device="cpu"),
        OutputOptions(folder, **output),
        TilingOptions(tile_size=tile_size, overlap=32),
        compute=ComputeOptions(workers=workers),
    )


def objects(summary):
    return {name: frame for name, frame in layers_of(summary.outputs["gpkg"]).items() if len(frame)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Discs of three colors and many sizes, two of which overlap."""
    path = tmp_path_factory.mktemp("scene") / "town.tif"
    image = np.full((3, HEIGHT, WIDTH), 110, np.uint8)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    discs = [(40 + 55 * (i % 5), 35 + 60 * (i // 5), 10 + i) for i in range(15)] + [(60, 50, 12)]
    for number, (x, y, radius) in enumerate(discs):
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image[:, inside] = 60
        image[number % 3, inside] = 220
    common = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=TRANSFORM, **common) as file:
        file.write(image)
    return path


@pytest.fixture(scope="module")
def plain(scene, tmp_path_factory):
    return run(scene, tmp_path_factory.mktemp("plain"))


def test_outlines_are_regular_where_the_form_fits(scene, plain, tmp_path):
    one = run(scene, tmp_path / "one", regularize="all=circle")
    layers, before = objects(one), objects(plain)
    assert layers.keys() == before.keys()
    for name, frame in layers.items():
        raw = before[name].geometry
        assert frame["object_id"].tolist() == before[name]["object_id"].tolist()
        regular = frame["regular"] == 1
        changed = ~shapely.equals_exact(frame.geometry.values, raw.values, 1e-9)
        assert changed[regular].all()
        iou = shapely.area(shapely.intersection(frame.geometry.values, raw.values))
        iou /= shapely.area(shapely.union(frame.geometry.values, raw.values))
        assert (iou[regular] >= 0.9 - 1e-9).all()
        assert (iou >= 0.89).all()
        round_ = frame[regular]
        np.testing.assert_allclose(round_["length_m"], round_["width_m"], rtol=0.05)
    assert sum((frame["regular"] == 1).sum() for frame in layers.values()) > 5
    shapes = np.concatenate([frame.geometry.values for frame in layers.values()])
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    assert shapely.area(shapely.intersection(shapes[a], shapes[b]))[a != b].max(initial=0) < 1e-6
    # Threads do not matter, and the summary counts what is written.
    other = run(scene, tmp_path / "other", workers=1, regularize="all=circle")
    for name, frame in objects(other).items():
        assert frame.equals(layers[name])
    assert other.classes == one.classes
    assert sum(total.objects for total in one.classes.values()) == len(shapes)
    assert run(scene, tmp_path / "one", regularize="all=circle").state == "skipped"
    with pytest.raises(OutputError, match="--regularize was all=circle and is not given; give"):
        run(scene, tmp_path / "one")


def test_filters_leave_objects_out_of_all_formats(scene, plain, tmp_path):
    x, y = TRANSFORM @ (0, 0)
    half = shapely.box(x, y - HEIGHT, x + WIDTH / 4, y + 1)
    geopandas.GeoDataFrame(geometry=[half], crs=32633).to_file(tmp_path / "mask.gpkg")
    chosen = {
        "only": ("plane", "1"),
        "min_length": {"plane": 12.0},
        "max_area": 900.0,
        "mask_out": str(tmp_path / "mask.gpkg"),
    }
    done = run(scene, tmp_path / "some", formats=("gpkg", "geojson"), **chosen)
    found = objects(done)
    expected = {}
    for name, frame in objects(plain).items():
        inside = frame.intersection(half).area / frame.area >= 0.5
        kept = frame[~inside & (frame["area_m2"] <= 900)]
        if name == "plane":
            kept = kept[kept["length_m"] >= 12]
        if len(kept) and frame["class_id"].iloc[0] in (14, 1):
            expected[name] = kept
    assert len(expected) == 2
    assert found.keys() == expected.keys()
    for name, frame in found.items():
        assert shapely.equals(frame.geometry.values, expected[name].geometry.values).all()
    ids = sorted(i for frame in found.values() for i in frame["object_id"])
    assert ids == [*range(1, len(ids) + 1)]
    features = json.loads((tmp_path / "some/town.geojson").read_text())["features"]
    assert len(features) == len(ids) == done.objects
    assert run(scene, tmp_path / "some", formats=("gpkg", "geojson"), **chosen).state == "skipped"
    chosen["only"] = ("plane",)
    with pytest.raises(OutputError, match="--only was plane,1 and is plane; give"):
        run(scene, tmp_path / "some", formats=("gpkg", "geojson"), **chosen)
    nothing = run(scene, tmp_path / "none", formats=("gpkg", "geojson"), min_length=1e6)
    assert nothing.objects == 0
    assert json.loads((tmp_path / "none/town.geojson").read_text())["features"] == []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"only": ("boat",)}, OptionError, "--only: there is no class 'boat'"),
        ({"regularize": "boat=box"}, OptionError, "--regularize: there is no class 'boat'"),
        ({"mask_out": "nowhere.gpkg"}, DataError, "nowhere.gpkg"),
    ],
)
def test_what_is_impossible_is_refused_and_leaves_no_results(scene, tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        run(scene, tmp_path / "results", **options)
    assert [path.name for path in (tmp_path / "results").glob("*") if path.is_file()] == []
    with pytest.raises(OptionError, match="built in no one form"):
        OutputOptions(tmp_path, regularize="ship")
