"""Which objects become features."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from commands import command, refused
from rasterio.transform import from_origin
from results import layers_of

LEFT, TOP = 448_000.0, 5_412_000.0


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    """Bars of 10, 20, … 50 m by 4 m: ships, and below them planes."""
    path = tmp_path_factory.mktemp("filters") / "bars.tif"
    ids = np.zeros((80, 400), np.uint8)
    for number in range(1, 6):
        ids[10:14, 70 * number - 60 : 70 * number - 60 + 10 * number] = 1
        ids[50:54, 70 * number - 60 : 70 * number - 60 + 10 * number] = 2
    profile = {"height": 80, "width": 400, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(
        path, "w", driver="GTiff", transform=from_origin(LEFT, TOP, 1, 1), **profile
    ) as file:
        file.write(ids, 1)
        file.update_tags(1, CLASS_0="background", CLASS_1="ship", CLASS_2="plane")
    return path


def lengths(raster, folder, *options):
    """Lengths of the objects of each class, in tens of meters."""
    out = folder / "out.gpkg"
    done = command("vectorize", raster, "-o", out, "--overwrite", "-q", *options)
    assert done.exit_code == 0, done.output
    layers = layers_of(out)
    ids = sorted(i for frame in layers.values() for i in frame["object_id"])
    assert ids == [*range(1, len(ids) + 1)]
    return {
        name: sorted(round(each / 10) for each in frame["length_m"])
        for name, frame in layers.items()
        if len(frame)
    }


@pytest.mark.parametrize(
    ("options", "ships", "planes"),
    [
        ([], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        (["--only", "ship"], [1, 2, 3, 4, 5], []),
        (["--only", "2, ship"], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        (["--min-length", "25"], [3, 4, 5], [3, 4, 5]),
        (["--min-length", "ship=35"], [4, 5], [1, 2, 3, 4, 5]),
        (["--max-area", "plane=100,1=130"], [1, 2, 3], [1, 2]),
        (["--max-area", "130", "--min-length", "15", "--only", "plane"], [], [2, 3]),
        (["--only", "ship", "--max-area", "1"], [], []),
    ],
)
def test_filters(raster, tmp_path, options, ships, planes):
    found = lengths(raster, tmp_path, *options)
    assert found == {name: bars for name, bars in {"ship": ships, "plane": planes}.items() if bars}


FILTERS = [
    ["--only", "ship"],
    ["--only", "2, ship"],
    ["--min-length", "ship=35"],
    ["--max-area", "plane=100,1=130"],
    ["--max-area", "130", "--min-length", "15", "--only", "plane"],
    ["--mask-out", "mask.gpkg"],
    ["--mask-out", "mask.gpkg", "--only", "ship"],
]


@pytest.fixture(scope="module")
def everything(raster, tmp_path_factory):
    path = tmp_path_factory.mktemp("everything") / "all.gpkg"
    assert command("vectorize", raster, "-o", path, "-q").exit_code == 0
    return path


@pytest.mark.parametrize(
    ("options", "crs"),
    [*((each, 32633) for each in FILTERS), *((each, 4326) for each in FILTERS[-2:])],
)
def test_an_export_chooses_as_vectorize_does(
    raster, everything, tmp_path, monkeypatch, options, crs
):
    monkeypatch.chdir(tmp_path)
    boxes = [
        shapely.box(LEFT, TOP - 30, LEFT + 190, TOP),
        shapely.box(LEFT, TOP - 60, LEFT + 50, TOP),
    ]
    geopandas.GeoDataFrame(geometry=boxes, crs=32633).to_crs(crs).to_file("mask.gpkg")
    done = command("vectorize", raster, "-o", "some.gpkg", "-q", *options)
    assert done.exit_code == 0, done.output
    export = ("export", everything, "-o", ".", "--format", "flatgeobuf")
    assert command(*export, *options).exit_code == 0
    assert command("export", "some.gpkg", "--format", "flatgeobuf").exit_code == 0
    exported, expected = (geopandas.read_file(f"{stem}.fgb") for stem in ("all", "some"))
    assert exported.normalize().to_wkb().tolist() == expected.normalize().to_wkb().tolist()
    columns = ["class", "area_m2", "length_m"]
    assert exported[columns].equals(expected[columns])


def test_an_export_leaves_out_what_is_unsure_but_not_what_was_drawn(raster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("vectorize", raster, "-o", "all.gpkg", "--only", "ship").exit_code == 0
    frame = geopandas.read_file("all.gpkg", layer="ship")
    frame["confidence"] = [0.9, 0.5, 0.49, np.nan, 0.7]
    frame.to_file("all.gpkg", layer="ship")
    for limit, kept in (("0.5", [1, 2, 4, 5]), ("ship=0.8", [1, 4]), ("0", [1, 2, 3, 4, 5])):
        options = ("--format", "geojson", "--min-confidence", limit, "--overwrite")
        assert command("export", "all.gpkg", *options).exit_code == 0
        assert geopandas.read_file("all.geojson")["object_id"].tolist() == kept
    export = ("export", "all.gpkg", "--format", "geojson", "--overwrite")
    refused(*export, "--min-confidence", "2", says="--min-confidence is 2.0; give a probability")
    refused(*export, "--min-length", "boat=3", says="there is no class 'boat'; give one of ship")
    refused(*export, "--mask-out", "none.gpkg", says="none.gpkg")


@pytest.mark.parametrize("crs", [32633, 4326])
def test_objects_inside_a_mask_are_left_out_whole(raster, tmp_path, crs):
    # The upper half, up to the middle of the longest bar and a little more.
    right = 70 * 5 - 60 + 27
    box = shapely.box(LEFT - 10, TOP - 30, LEFT + right, TOP + 10)
    overlapping = shapely.box(LEFT + 200, TOP - 30, LEFT + right, TOP)
    mask = geopandas.GeoDataFrame(geometry=[box, overlapping], crs=32633).to_crs(crs)
    mask.to_file(tmp_path / "mask.gpkg")
    assert lengths(raster, tmp_path, "--mask-out", tmp_path / "mask.gpkg") == {
        "plane": [1, 2, 3, 4, 5]
    }
    shorter = shapely.box(LEFT - 10, TOP - 30, LEFT + right - 4, TOP + 10)
    mask = geopandas.GeoDataFrame(geometry=[shorter], crs=32633).to_crs(crs)
    mask.to_file(tmp_path / "mask.gpkg")
    assert lengths(raster, tmp_path, "--mask-out", tmp_path / "mask.gpkg")["ship"] == [5]


def test_what_is_impossible_is_refused_before_the_work(raster, tmp_path):
    out = tmp_path / "out.gpkg"
    lines = geopandas.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (1, 1)])], crs=32633)
    lines.to_file(tmp_path / "lines.gpkg")
    for options, says in (
        (["--only", "boat"], "--only: there is no class 'boat'; give one of ship, plane"),
        (["--min-length", "boat=3"], "--min-length: there is no class 'boat'"),
        (["--max-area", "-1"], "--max-area is -1.0; give 0 or more"),
        (["--regularize", "boat=box"], "--regularize: there is no class 'boat'"),
        (["--mask-out", tmp_path / "lines.gpkg"], "has no polygons"),
        (["--mask-out", tmp_path / "none.gpkg"], "none.gpkg"),
    ):
        refused("vectorize", raster, "-o", out, *options, says=says)
        assert not out.exists()
    (tmp_path / "mask.gpkg").write_bytes((tmp_path / "lines.gpkg").read_bytes())
    mask = tmp_path / "mask.gpkg"
    refused("vectorize", raster, "-o", mask, "--overwrite", "--mask-out", mask, says="is the input")


def test_regular_outlines_are_told_in_a_field(raster, tmp_path):
    out = tmp_path / "out.gpkg"
    command("vectorize", raster, "-o", out, "-q")
    assert "regular" not in layers_of(out)["ship"]
    done = command("vectorize", raster, "-o", out, "-q", "--overwrite", "--regularize", "ship=box")
    assert done.exit_code == 0, done.output
    layers = layers_of(out)
    assert layers["ship"]["regular"].tolist() == [1] * 5
    assert layers["plane"]["regular"].tolist() == [0] * 5
    assert (shapely.get_num_coordinates(layers["ship"].geometry) == 5).all()
