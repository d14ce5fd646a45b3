"""Vector files from users: read, or refused in one line that says why."""

from __future__ import annotations

import logging
import sqlite3
import struct
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from geoseg.errors import DataError, SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.labels import read_labels
from geoseg.geo.raster.aoi import read_aoi

BOX = GeoBox(512, 512, Affine(0.3, 0, 448_153.6, 0, -0.3, 5_411_846.4), CRS.from_epsg(32633))
SQUARE = shapely.box(448_170, 5_411_820, 448_180, 5_411_830)
PIXELS = pytest.approx(100 / 0.09)


def write(path: Path, names: list[object], shapes: list[object], **options: object) -> Path:
    options = {"crs": 32633} | options
    frame = geopandas.GeoDataFrame({"class": names}, geometry=shapes, crs=options.pop("crs"))
    frame.to_file(path, **options)
    return path


def replace_wkb(path: Path, wkb: bytes, kind: str) -> Path:
    """What other programs put into a GeoPackage."""
    write(path, ["a"], [SQUARE], layer="x")
    with sqlite3.connect(path) as base:
        for (name,) in base.execute("select name from sqlite_master where type='trigger'"):
            base.execute(f'drop trigger "{name}"')
        base.execute("update x set geom=?", (b"GP\0\1" + struct.pack("<i", 32633) + wkb,))
        base.execute("update gpkg_geometry_columns set geometry_type_name=?, z=2", (kind,))
    base.close()
    return path


READINGS = {
    "labels": lambda path: read_labels(path, BOX, field="class"),
    "aoi": lambda path: read_aoi(str(path), BOX),
}


@pytest.mark.parametrize("reading", READINGS)
def test_meters_in_a_geojson(tmp_path: Path, reading: str) -> None:
    path = write(tmp_path / "a.geojson", ["a"], [SQUARE], crs=None)
    with pytest.raises((DataError, SceneError), match=r"a\.geojson.* no longitude and latitude"):
        READINGS[reading](path)


@pytest.mark.parametrize("code", [-1, 0])
def test_undefined_systems_of_a_geopackage_are_none(tmp_path: Path, code: int) -> None:
    path = write(tmp_path / "a.gpkg", ["a"], [SQUARE])
    with sqlite3.connect(path) as base:
        base.execute(f"update gpkg_contents set srs_id={code}")
        base.execute(f"update gpkg_geometry_columns set srs_id={code}")
    base.close()
    with pytest.raises(DataError, match="no coordinate reference system but the scene has one"):
        read_labels(path, BOX, field="class")
    bare = GeoBox(BOX.height, BOX.width, BOX.transform, None)
    assert read_labels(path, bare, field="class").geometry[0].area == PIXELS


def test_triangulated_surfaces_are_refused(tmp_path: Path) -> None:
    corners = ((448_180, 5_411_780, 1), (448_220, 5_411_780, 1), (448_200, 5_411_820, 1))
    ring = b"".join(struct.pack("<ddd", *point) for point in (*corners, corners[0]))
    triangle = struct.pack("<BIII", 1, 1017, 1, 4) + ring
    path = replace_wkb(tmp_path / "a.gpkg", struct.pack("<BII", 1, 1016, 1) + triangle, "TIN")
    for reading in READINGS.values():
        with pytest.raises((DataError, SceneError), match=r"triangles of a surface.*MULTIPOLYGON"):
            reading(path)


@pytest.mark.filterwarnings("error")
def test_curves_count_as_what_they_enclose(tmp_path: Path) -> None:
    x, y, r = 448_200, 5_411_800, 20
    points = [(x - r, y), (x, y + r), (x + r, y), (x, y - r), (x - r, y)]
    arc = struct.pack("<BII", 1, 8, 5) + b"".join(struct.pack("<dd", *p) for p in points)
    wkb = struct.pack("<BII", 1, 10, 1) + arc
    path = replace_wkb(tmp_path / "a.gpkg", wkb, "CURVEPOLYGON")
    labels = read_labels(path, BOX, field="class")
    assert labels.geometry[0].area == pytest.approx(np.pi * r**2 / 0.09, rel=1e-3)
    assert {p.name for p in tmp_path.iterdir()} == {"a.gpkg"}


def test_geometries_in_a_text_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'WKT,class\n"{SQUARE.wkt}",a\n')
    vrt = tmp_path / "a.vrt"
    vrt.write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource relativeToVRT="1">a.csv'
        "</SrcDataSource><LayerSRS>EPSG:32633</LayerSRS>"
        '<GeometryField encoding="WKT" field="WKT"/></OGRVRTLayer></OGRVRTDataSource>'
    )
    labels = read_labels(vrt, BOX, field="class")
    assert (labels.geometry[0].area, [*labels.names]) == (PIXELS, ["a"])


@pytest.mark.parametrize("encoding", ["CP1251", "GBK", "ISO-8859-1"])
def test_an_undeclared_encoding_is_reported(tmp_path: Path, encoding: str, caplog) -> None:
    name = {"CP1251": "Дом", "GBK": "建筑物", "ISO-8859-1": "Gebäude"}[encoding]
    path = write(tmp_path / "a.shp", [name], [SQUARE], encoding=encoding)
    with caplog.at_level(logging.WARNING, "geoseg"):
        assert read_labels(path, BOX, field="class").names.tolist() == [name]
        assert not caplog.records
        path.with_suffix(".cpg").unlink()
        read = read_labels(path, BOX, field="class").names.tolist()
    assert read == ["Gebäude"] or encoding != "ISO-8859-1"
    assert f"its classes are {read[0]}" in caplog.text
    assert "a.cpg" in caplog.text


def test_collections_and_bow_ties_are_repaired(tmp_path: Path) -> None:
    x, y = 448_200, 5_411_800
    bow = shapely.Polygon([(x, y + 30), (x + 30, y), (x + 30, y + 30), (x, y)])
    shapes = [
        shapely.GeometryCollection([SQUARE, shapely.Point(x, y)]),
        bow,
        shapely.Point(x, y),
        None,
        shapely.force_3d(SQUARE, 7.0),
    ]
    path = write(tmp_path / "a.geojson", ["a", "b", "c", "d", "e"], shapes)
    labels = read_labels(path, BOX, field="class")
    areas = dict(zip(labels.names, shapely.area(labels.geometry) * 0.09, strict=True))
    assert areas == {n: pytest.approx(a) for n, a in {"a": 100, "b": 450, "e": 100}.items()}
    assert labels.problems == tuple(
        f"feature {number} of layer a has no polygon" for number in (3, 4)
    )


def test_large_polygons_stay_below_small_ones(tmp_path: Path) -> None:
    """Ranked by their full area, although only part of the forest is on the scene."""
    left, bottom, right, top = BOX.bounds
    forest = shapely.box(left - 9e3, bottom - 9e3, left + 5, top + 9e3)
    house = shapely.box(left, bottom, right, top)
    path = write(tmp_path / "a.gpkg", ["house", "forest"], [house, forest])
    labels = read_labels(path, BOX, field="class")
    assert labels.geometry[1].area < labels.geometry[0].area
    assert labels.area[1] > labels.area[0] > 0


def test_a_wrong_encoding_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.shp", ["Gebäude"], [SQUARE], encoding="ISO-8859-1")
    path.with_suffix(".cpg").write_text("UTF-8")
    with pytest.raises(DataError, match="not in the encoding that it declares"):
        read_labels(path, BOX, field="class")
