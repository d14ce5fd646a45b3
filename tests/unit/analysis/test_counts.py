"""Objects counted in units: exact at borders, and equal to an overlay by geopandas."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from commands import command, refused
from geopandas import GeoDataFrame
from layers import CLASSES, LEFT, box, made_by_geoseg, write_layers
from shapely import affinity

from geoseg.analysis.counts import count_by_unit
from geoseg.analysis.units import grid_units
from geoseg.errors import DataError, OptionError

X, Y = 4_300_000.0, 3_200_000.0


def random_objects(seed, crs=3035, count=150):
    """Boxes of two classes in any direction, in an equal-area CRS."""
    rng = np.random.default_rng(seed)
    shapes = [
        affinity.translate(
            affinity.rotate(shapely.box(0, 0, *rng.uniform(5, 120, 2)), rng.uniform(0, 90)),
            X + rng.uniform(0, 3000),
            Y + rng.uniform(0, 3000),
        )
        for _ in range(count)
    ]
    ids = rng.integers(1, 3, count).astype(np.int32)
    frame = GeoDataFrame(
        {"class_id": ids, "class": np.array(["ship", "plane"])[ids - 1]}, geometry=shapes, crs=crs
    )
    return frame.assign(area_m2=frame.area)


def cover(seed):
    """Units that cover all objects without overlaps: cells of a Voronoi diagram."""
    rng = np.random.default_rng(seed)
    points = shapely.multipoints(rng.uniform(-500, 3700, (25, 2)) + np.array([X, Y]))
    cells = shapely.get_parts(
        shapely.voronoi_polygons(
            points, extend_to=shapely.box(X - 900, Y - 900, X + 4000, Y + 4000)
        )
    )
    return GeoDataFrame(
        {"name": [f"unit {i}" for i in range(len(cells))]}, geometry=cells, crs=3035
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_equal_an_overlay(seed):
    objects, units = random_objects(seed), cover(seed)
    counted = count_by_unit(objects, units)
    assert counted["name"].tolist() == units["name"].tolist()
    pieces = geopandas.overlay(objects, units, how="intersection")
    points = objects.set_geometry(objects.representative_point()).sjoin(units)
    for name in ("ship", "plane"):
        area = (
            pieces.assign(part=pieces.area)[pieces["class"] == name].groupby("name")["part"].sum()
        )
        expected = area.reindex(units["name"]).fillna(0).to_numpy()
        np.testing.assert_allclose(counted[f"{name}_area_m2"], expected, atol=1e-6)
        number = points[points["class"] == name].groupby("name").size()
        assert counted[f"{name}_count"].tolist() == number.reindex(units["name"]).fillna(0).tolist()
    assert counted["objects"].sum() == len(objects)
    assert counted["area_m2"].sum() == pytest.approx(objects["area_m2"].sum(), rel=1e-12)


def test_units_in_another_crs_give_the_same():
    objects, units = random_objects(2), cover(2)
    one = count_by_unit(objects, units)
    units = units.set_geometry(units.segmentize(20)).to_crs(4326)
    other = count_by_unit(objects, units)
    assert other["objects"].tolist() == one["objects"].tolist()
    np.testing.assert_allclose(other["area_m2"], one["area_m2"], rtol=1e-4, atol=0.5)
    assert other["area_m2"].sum() == pytest.approx(objects["area_m2"].sum(), rel=1e-6)


def test_at_borders_objects_count_once_and_areas_are_split():
    square = shapely.box(0, 0, 100, 100)
    units = GeoDataFrame(
        geometry=[affinity.translate(square, 100 * x, 100 * y) for y in (0, 1) for x in (0, 1)],
        crs=None,
    )
    objects = GeoDataFrame(
        {"class_id": 1, "class": "ship", "area_m2": [400.0, 400.0, 400.0]},
        geometry=[
            shapely.box(90, 90, 110, 110),
            shapely.box(85, 10, 105, 30),
            shapely.box(40, 40, 60, 60),
        ],
    )
    counted = count_by_unit(objects, units)
    assert counted["objects"].tolist() == [3, 0, 0, 0]
    assert counted["area_m2"].tolist() == [100 + 300 + 400, 100 + 100, 100, 100]
    doubled = pd.concat([units, units])
    assert count_by_unit(objects, doubled)["area_m2"].sum() == 2 * 1200


def test_no_objects_and_mixed_crs():
    objects, units = random_objects(3), cover(3)
    nothing = count_by_unit(objects.iloc[:0], units)
    assert nothing["objects"].tolist() == [0] * len(units)
    with pytest.raises(DataError, match="the units have no CRS"):
        count_by_unit(objects, units.set_crs(None, allow_override=True))


def test_squares_cover_the_objects_on_round_coordinates():
    objects = random_objects(4)
    cells = grid_units(objects, "500m")
    assert (cells.bounds.to_numpy() % 500 == 0).all()
    assert (cells.area == 250_000).all()
    assert cells.crs == objects.crs
    counted = count_by_unit(objects, cells)
    assert counted["objects"].sum() == len(objects)
    assert counted["area_m2"].sum() == pytest.approx(objects["area_m2"].sum())
    assert len(grid_units(objects, "0.5km")) == len(cells)
    # Neither degrees nor Mercator's meters are meters on the ground: squares are then in UTM.
    for crs in (4326, 3857):
        moved = objects.to_crs(crs)
        cells = grid_units(moved, "500m")
        assert cells.crs.is_projected
        assert cells.crs.utm_zone
        assert count_by_unit(moved, cells)["objects"].sum() == len(objects)


def test_hexagons():
    pytest.importorskip("h3")
    objects = random_objects(5, count=40)
    cells = grid_units(objects, "h3:8")
    counted = count_by_unit(objects, cells)
    assert counted["h3"].str.len().eq(15).all()
    assert counted["objects"].sum() == len(objects)
    assert counted["area_m2"].sum() == pytest.approx(objects["area_m2"].sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("0m", "--grid is 0m"),
        ("far", "--grid is far"),
        ("1m", "choose larger ones"),
        ("h3:16", "15"),
    ],
)
def test_impossible_grids(grid, says):
    if grid.startswith("h3"):
        pytest.importorskip("h3")
    with pytest.raises(OptionError, match=says):
        grid_units(random_objects(6, count=400), grid)


def test_the_command(tmp_path):
    results = made_by_geoseg(tmp_path / "results.gpkg")
    districts = GeoDataFrame(
        {"name": ["west", "east", "north"], "objects": [7, 7, 7]},
        geometry=[box(-5, -5, 15, 40), box(10, -5, 80, 40), box(-5, 35, 95, 40)],
        crs=32633,
    )
    districts.to_file(tmp_path / "districts.gpkg")
    out = tmp_path / "counts.gpkg"
    done = command("count", results, tmp_path / "districts.gpkg", "-o", out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["objects"] == 3
    frame = pyogrio.read_dataframe(out, layer="counts").set_index("name")
    assert frame["ship_count"].tolist() == [1, 0, 1]
    assert frame["Grassland/Herbaceous_count"].tolist() == [0, 1, 0]
    assert frame["objects"].tolist() == [1, 1, 1]
    # Areas are those on the ground: UTM's are smaller by 0.08 %.
    assert frame["ship_area_m2"].to_numpy() == pytest.approx([100, 100, 50], rel=2e-3)
    (style,) = pyogrio.read_dataframe(out, layer="layer_styles", read_geometry=False)["styleQML"]
    assert "graduatedSymbol" in style
    refused("count", results, tmp_path / "districts.gpkg", "-o", out, says="--overwrite")
    again = ("count", results, "--grid", "10m", "-o", out, "--overwrite", "--only", "ship", "-q")
    assert command(*again).exit_code == 0
    frame = pyogrio.read_dataframe(out, layer="counts")
    assert frame["objects"].sum() == 2
    assert (frame["area_m2"] > 0).all()
    assert (frame.bounds["minx"] % 10 == LEFT % 10).all()
    for words, says in (
        ((results,), "give either UNITS"),
        ((results, tmp_path / "districts.gpkg", "--grid", "5m"), "not both"),
        ((results, results), "several layers"),
        ((results, "--grid", "5m", "--only", "boat"), "no layer boat"),
    ):
        refused("count", *words, "-o", tmp_path / "other.gpkg", says=says)
        assert not (tmp_path / "other.gpkg").exists()
    refused("count", results, "--grid", "5m", "-o", results, "--overwrite", says="is the input")


def test_nothing_to_count(tmp_path):
    empty = made_by_geoseg(tmp_path / "full.gpkg")
    frame = pyogrio.read_dataframe(empty, layer="ship").iloc[:0]
    write_layers(tmp_path / "empty.gpkg", frame.assign(area_m2=[]), CLASSES)
    done = command("count", tmp_path / "empty.gpkg", "--grid", "1km", "-o", tmp_path / "c.gpkg")
    assert done.exit_code == 0, done.output
    assert "0 objects in 0 units" in done.stdout
