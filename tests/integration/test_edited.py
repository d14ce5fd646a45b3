"""Export of GeoPackages that people edited, and of those from other programs."""

from __future__ import annotations

import logging
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from click.testing import CliRunner
from geopandas import GeoDataFrame
from layers import BOTTOM, CLASSES, LEFT, box, made_by_geoseg, write_layers

from geoseg.cli.main import main
from geoseg.errors import DataError, GeosegError, OutputError
from geoseg.geo.layers.edited import FIELDS, read_edited
from geoseg.geo.layers.export import export

_SCALE = 1e-3
"""Greater than the error of a UTM zone: its scale is 0.9996 along the meridian, so areas are off
by 0.0008."""


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    return made_by_geoseg(tmp_path / "town.gpkg")


def add(path: Path, layer: str, shapes: list, *, crs: int = 32633, **fields: object) -> None:
    frame = GeoDataFrame(fields, geometry=shapes, crs=crs)
    kind = "Polygon" if layer in ("ship", "Grassland_Herbaceous") else None
    pyogrio.write_dataframe(
        frame, path, layer=layer, driver="GPKG", append=path.exists(), geometry_type=kind
    )


def exported(path: Path, **how: object) -> GeoDataFrame:
    (file,) = export(path, path.parent / "out", "flatgeobuf", overwrite=True, **how)
    return pyogrio.read_dataframe(file).sort_values("object_id", ignore_index=True)


def test_what_geoseg_wrote_stays_as_it_is(layers: Path) -> None:
    edited = read_edited(layers)
    assert not edited.notes
    assert list(edited.features.columns) == [*FIELDS, "geometry"]
    assert edited.features["object_id"].tolist() == [1, 2, 3]
    assert edited.layers.tolist() == ["ship", "Grassland_Herbaceous", "ship"]
    assert edited.colors.keys() == {"ship", "Grassland_Herbaceous"}
    found = exported(layers)
    for name, kind in FIELDS.items():
        values = edited.features[name].tolist()
        wanted = pytest.approx(values, rel=_SCALE) if kind == "float64" else values
        assert found[name].tolist() == wanted, name


def test_a_polygon_drawn_in_qgis_gets_what_it_lacks(layers: Path, caplog) -> None:
    add(layers, "Grassland_Herbaceous", [box(100, 0, 4, 2)], **{"class": [None]})
    found = exported(layers)
    assert len(found) == 4
    assert pd.api.types.is_integer_dtype(found["class_id"])
    new = found.iloc[3]
    assert (new["object_id"], new["class_id"], new["class"]) == (4, 2, "Grassland/Herbaceous")
    assert (new["area_m2"], new["length_m"], new["width_m"]) == pytest.approx((8, 4, 2), rel=_SCALE)
    assert np.isnan(new["confidence"])
    assert "1 features had no object_id" in caplog.text


def test_sizes_follow_the_outline(layers: Path) -> None:
    frame = pyogrio.read_dataframe(layers, layer="ship")
    frame.loc[0, "geometry"] = box(0, 0, 40, 10)
    pyogrio.write_dataframe(frame, layers, layer="ship", driver="GPKG")
    found = exported(layers)
    assert found["area_m2"].tolist() == pytest.approx([400, 900, 50], rel=_SCALE)
    assert found["length_m"][0] == pytest.approx(40, rel=_SCALE)
    assert read_edited(layers).features["area_m2"].tolist() == [200, 900, 50]


def test_copies_of_an_object_get_their_own_ids(layers: Path) -> None:
    """QGIS keeps the attributes of a feature on both parts when it is split."""
    add(layers, "ship", [box(30, 0, 5, 5)], object_id=[1], class_id=[1], **{"class": ["ship"]})
    assert exported(layers)["object_id"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["shapefile", "flatgeobuf", "geojson", "kml", "csv", "geoparquet"])
def test_merged_polygons_stay_one_object(kind: str, layers: Path) -> None:
    frame = pyogrio.read_dataframe(layers, layer="ship")
    frame.loc[0, "geometry"] = shapely.union_all(frame.geometry.array)
    pyogrio.write_dataframe(
        frame[:1], layers, layer="ship", driver="GPKG", geometry_type="MultiPolygon"
    )
    files = export(layers, layers.parent / "out", kind)
    read = geopandas.read_parquet if kind == "geoparquet" else pyogrio.read_dataframe
    found = pd.concat([read(file) for file in files])
    assert len(found) == 2
    ship = found[found["class"] == "ship"].iloc[0]
    assert float(ship["area_m2"]) == pytest.approx(250, rel=_SCALE)
    assert ship.geometry.geom_type == "MultiPolygon"


SHAPES = {
    "CURVEPOLYGON (CIRCULARSTRING (0 0,1 1,2 0,1 -1,0 0))": np.pi,
    "MULTISURFACE (CURVEPOLYGON (CIRCULARSTRING (0 0,1 1,2 0,1 -1,0 0)))": np.pi,
    "POLYGON Z ((0 0 1,1 0 2,1 1 3,0 1 4,0 0 1))": 1,
    "POLYGON M ((0 0 1,1 0 2,1 1 3,0 1 4,0 0 1))": 1,
    "POLYGON ZM ((0 0 1 1,1 0 2 1,1 1 3 1,0 1 4 1,0 0 1 1))": 1,
    "POLYGON ((0 0,2 2,2 0,0 2,0 0))": 2,
    "MULTIPOLYGON (((0 0,1 0,1 1,0 1,0 0)),((5 5,6 5,6 6,5 6,5 5)))": 2,
    "POLYGON ((0 0,1 1,2 2,0 0))": None,
    "POLYGON EMPTY": None,
    "POINT (1 1)": None,
    "LINESTRING (0 0,1 1)": None,
    "GEOMETRYCOLLECTION (POINT (1 1))": None,
    "TIN (((0 0 0,1 0 0,1 1 0,0 0 0)))": None,
    "": None,
}


def test_geometry_of_every_kind(tmp_path: Path, caplog) -> None:
    rows = [f'{number},"{shape}"' for number, shape in enumerate(SHAPES)]
    (tmp_path / "shapes.csv").write_text("\n".join(["name,WKT", *rows]))
    found = exported(tmp_path / "shapes.csv")
    wanted = {str(i): area for i, area in enumerate(SHAPES.values()) if area is not None}
    assert found["name"].tolist() == list(wanted)
    assert found["area_m2"].tolist() == pytest.approx(list(wanted.values()), rel=0.01)
    assert not shapely.has_z(found.geometry.array).any()
    assert found.is_valid.all()
    assert "7 of 14 features of layer shapes hold no polygon" in caplog.text
    assert "1 of 14 features of layer shapes crossed themselves" in caplog.text
    assert "had heights" in caplog.text


def test_layers_of_other_people(layers: Path, caplog) -> None:
    """Layers in another CRS, without geoseg's fields, or without polygons."""
    place = geopandas.GeoSeries([box(0, 0, 60, 80)], crs=32633).to_crs(4326)
    add(layers, "my area", [place[0]], crs=4326, name=["area 1"])
    add(layers, "notes", [shapely.Point(LEFT, BOTTOM)], name=["here"])
    found = exported(layers)
    assert found.crs == 32633
    assert found["class"].tolist() == ["ship", "Grassland/Herbaceous", "ship", "my area"]
    assert found["area_m2"][3] == pytest.approx(4800, rel=_SCALE)
    assert found["name"].tolist()[3] == "area 1"
    assert pd.isna(found["class_id"][3])
    assert "layer my area was reprojected" in caplog.text
    assert "1 of 1 features of layer notes hold no polygon" in caplog.text
    only = exported(layers, layers=["my area"])
    assert only["object_id"].tolist() == [1]
    assert only.crs == 4326


@pytest.mark.parametrize(
    "fields",
    [
        {"class": [1.0, 2.0]},
        {"object_id": ["A-1", "A-2"], "class_id": ["x", "y"], "area_m2": ["big", "small"]},
        {"object_id": [0.5, 7.0], "class": ["", None]},
        {"Name": [None, "  "], "x": [1, 2], "WKT": ["p", "q"]},
        {
            "object_id": [2**60 + 1, 5],
            "class_id": [1e300, 2.0],
            "when": pd.to_datetime(["2024-01-01", None]),
            "ok": [True, False],
        },
    ],
)
def test_any_fields(fields: dict, tmp_path: Path) -> None:
    add(tmp_path / "x.gpkg", "roads", [box(0, 0, 1, 1), box(2, 0, 2, 2)], **fields)
    for kind in ("shapefile", "flatgeobuf", "geojson", "kml", "csv", "geoparquet"):
        files = export(tmp_path / "x.gpkg", tmp_path / kind, kind)
        read = geopandas.read_parquet if kind == "geoparquet" else pyogrio.read_dataframe
        found = pd.concat([read(file) for file in files])
        found = found.assign(area=found["area_m2"].astype(float)).sort_values("area")
        assert found["area"].tolist() == pytest.approx([1, 4], rel=_SCALE)
        assert found["object_id"].notna().all()
        expected = ["1", "2"] if fields.get("class") == [1.0, 2.0] else ["roads", "roads"]
        assert found["class"].tolist() == expected, kind
        if "object_id" in fields and fields["object_id"][0] == "A-1" and kind != "shapefile":
            assert found["object_id_2"].tolist() == ["A-1", "A-2"]


def test_what_cannot_be_exported_is_one_sentence(layers: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.gpkg"
    bare.write_bytes(layers.read_bytes())
    frame = GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)])
    with pytest.warns(UserWarning, match="crs"):
        pyogrio.write_dataframe(frame, bare, layer="plan", driver="GPKG", append=True)
    with pytest.raises(DataError, match="layer plan has no coordinate reference system"):
        export(bare, tmp_path / "out", "csv")
    assert len(exported(bare, layers=["plan"])) == 1
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no layer of polygons"):
        export(table, tmp_path / "none", "csv")
    cut = tmp_path / "cut.gpkg"
    cut.write_bytes(layers.read_bytes()[:9000])
    with pytest.raises(GeosegError, match=r"cut\.gpkg"):
        export(cut, tmp_path / "none", "csv")
    with pytest.raises(OutputError, match="cannot be read"):
        read_edited(tmp_path / "missing.gpkg")
    assert not (tmp_path / "none").exists()


def test_an_empty_result_says_so(tmp_path: Path, caplog) -> None:
    empty = GeoDataFrame({name: [] for name in FIELDS}, geometry=[], crs=32633)
    write_layers(tmp_path / "e.gpkg", empty, CLASSES)
    for kind in ("shapefile", "flatgeobuf", "geojson", "kml", "csv", "geoparquet"):
        caplog.clear()
        (file,) = export(tmp_path / "e.gpkg", tmp_path / kind, kind)
        assert "has no polygons" in caplog.text
        if kind == "csv":
            header = file.read_text().strip()
            assert header == ",".join([*FIELDS, "x", "y", "WKT"])


def test_reading_leaves_the_file_and_its_folder_alone(layers: Path) -> None:
    before = layers.read_bytes()
    export(layers, layers.parent / "out", "csv")
    assert layers.read_bytes() == before
    assert {each.name for each in layers.parent.iterdir()} == {"town.gpkg", "out"}


def test_kml_has_the_colors_of_the_layers(layers: Path) -> None:
    add(layers, "Grassland_Herbaceous", [box(0, 90, 3, 3)], **{"class": ['a\n<Placemark id="x">']})
    (file,) = export(layers, layers.parent, "kml")
    text = file.read_text("utf-8")
    colors = read_edited(layers).colors
    for (red, green, blue), count in ((colors["ship"], 2), (colors["Grassland_Herbaceous"], 2)):
        assert f"<color>60{blue:02x}{green:02x}{red:02x}</color>" in text
        assert text.count(f"<styleUrl>#color-{red:02x}{green:02x}{blue:02x}</styleUrl>") == count
    assert len(pyogrio.read_dataframe(file)) == 4


def test_csv_has_a_point_on_every_polygon(layers: Path) -> None:
    (file,) = export(layers, layers.parent, "csv")
    table = pd.read_csv(file)
    shapes = geopandas.GeoSeries.from_wkt(table["WKT"])
    points = geopandas.GeoSeries.from_xy(table["x"], table["y"])
    assert shapes.contains(points).all()


def test_notes_of_the_command_are_warnings(layers: Path, tmp_path: Path) -> None:
    add(layers, "ship", [box(200, 0, 5, 5)], **{"class": [None]})
    logging.getLogger("geoseg").setLevel(logging.WARNING)
    done = CliRunner().invoke(
        main, ["export", str(layers), "--format", "csv", "-o", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.output
    assert "Warning: " in done.stderr
