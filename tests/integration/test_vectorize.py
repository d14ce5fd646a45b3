"""From class rasters to files: their content, on the ground and in every format."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import rasterio.features
import shapely
from affine import Affine
from click.testing import CliRunner
from geopandas.testing import assert_geodataframe_equal
from layers import write_layers
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.classes import ISAID, LabelClass, read_class_list
from geoseg.cli.main import main
from geoseg.errors import DataError, OptionError, OutputError, SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.export import export, write_format
from geoseg.geo.layers.features import features
from geoseg.geo.layers.formats import FORMATS, shapefile_size, short_names
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.layers.measure import measure
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.geo.vector import blocks
from geoseg.geo.vector.merge import merge
from geoseg.geo.vector.polygonize import polygonize_block
from geoseg.pipeline.vectorize import vectorize
from geoseg.tiling.grid import Window

PLACES = {
    "utm": (32633, Affine(0.3, 0, 4e5, 0, -0.3, 5.5e6)),
    "degrees": (4326, Affine(3e-6, 0, 14, 0, -2e-6, 52)),
    "web mercator, 60° north": (3857, Affine(0.5, 0, 2.7e6, 0, -0.5, 8.4e6)),
    "feet, south up": (2263, Affine(1, 0, 1e6, 0, 1, 2e5)),
    "rotated": (32633, Affine.translation(4e5, 5.5e6) @ Affine.rotation(30) @ Affine.scale(0.3)),
    "mirrored": (32633, Affine(-0.3, 0, 4e5, 0, -0.3, 5.5e6)),
    "sheared": (32633, Affine(0.3, 0.1, 4e5, 0.05, -0.3, 5.5e6)),
}


def class_map(seed: int = 0, shape: tuple[int, int] = (60, 80)) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).choice([0, 8, 9, 14], (12, 16)).astype(np.uint8)
    return np.kron(coarse, np.ones((5, 5), np.uint8))[: shape[0], : shape[1]]


def polygons_of(class_ids: NDArray[np.uint8]):
    height, width = class_ids.shape
    confidence = np.linspace(0, 1, class_ids.size, dtype=np.float32).reshape(class_ids.shape)
    return merge([polygonize_block(class_ids, Window(0, 0, width, height), confidence=confidence)])


def geobox_of(class_ids: NDArray[np.uint8], place: str) -> GeoBox:
    epsg, transform = PLACES[place]
    return GeoBox(*class_ids.shape, transform, CRS.from_epsg(epsg))


def table(place: str = "utm") -> geopandas.GeoDataFrame:
    polygons = polygons_of(class_map())
    return features(polygons, geobox_of(class_map(), place), ISAID)


def write_raster(path: Path, values: NDArray, *, nodata: int | None = None) -> Path:
    height, width = values.shape
    epsg, transform = PLACES["utm"]
    profile = {"height": height, "width": width, "count": 1, "dtype": values.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", crs=epsg, transform=transform, nodata=nodata, **profile
    ) as raster:
        raster.write(values, 1)
    return path


@pytest.mark.parametrize("place", PLACES)
def test_outlines_lie_on_the_ground_where_the_pixels_do(place):
    class_ids = class_map()
    geobox = geobox_of(class_ids, place)
    frame = table(place)
    assert frame.is_valid.all()
    assert frame.exterior.is_ccw.all()
    for class_id, rows in frame.groupby("class_id"):
        found = rasterio.features.rasterize(
            rows.geometry, class_ids.shape, transform=geobox.transform
        )
        np.testing.assert_array_equal(found == 1, class_ids == class_id)


@pytest.mark.parametrize("place", PLACES)
def test_areas_are_those_on_the_ground(place):
    frame = table(place)
    crs = pyproj.CRS(frame.crs)
    geod = crs.get_geod()
    lonlat = frame.to_crs(crs.geodetic_crs).geometry
    expected = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in lonlat]
    np.testing.assert_allclose(frame["area_m2"], expected, rtol=2e-5)


@pytest.mark.parametrize("place", ["utm", "degrees", "web mercator, 60° north"])
@pytest.mark.parametrize("bearing", [0, 30, 90, 135])
def test_length_width_and_angle_of_a_car(place, bearing):
    epsg, _ = PLACES[place]
    crs = CRS.from_epsg(epsg)
    geod = pyproj.CRS(epsg).get_geod()
    to_map = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    # 4.5 m × 1.8 m around a point on the central meridian, where grid north is true north.
    lon, lat = (15.0, 52.0)
    corners = []
    for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        direction = bearing + np.degrees(np.arctan2(across * 0.9, along * 2.25))
        corners.append(geod.fwd(lon, lat, direction, np.hypot(0.9, 2.25))[:2])
    car = np.array([shapely.Polygon([to_map.transform(*corner) for corner in corners])])
    sizes = measure(car, crs)
    assert sizes.length[0] == pytest.approx(4.5, rel=1e-3)
    assert sizes.width[0] == pytest.approx(1.8, rel=1e-3)
    assert (sizes.angle[0] - bearing + 90) % 180 - 90 == pytest.approx(0, abs=0.1)
    assert 0 <= sizes.angle[0] < 180


def test_a_scene_without_crs_is_measured_in_pixels():
    polygons = polygons_of(class_map())
    geobox = GeoBox(60, 80, Affine.identity(), None)
    frame = features(polygons, geobox, ISAID)
    np.testing.assert_allclose(frame["area_m2"], polygons.pixels)
    assert frame.crs is None


def test_geopackage_has_a_styled_layer_per_class(tmp_path):
    path = tmp_path / "out.gpkg"
    frame = table()
    counts = write_layers(path, frame, ISAID, {"model": "segnext_t", "weights": "abc"})
    assert counts == frame.groupby("class").size().to_dict()
    assert [each.name for each in tmp_path.iterdir()] == ["out.gpkg"]
    assert list(counts) == ["plane", "large_vehicle", "small_vehicle"]  # whatever their sizes here
    again = read_layers(path)
    assert_geodataframe_equal(again, frame, check_dtype=False)
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        styles = dict(file.execute("SELECT f_table_name, styleQML FROM layer_styles"))
        tables = {name for (name,) in file.execute("SELECT table_name FROM gpkg_contents")}
        metadata = "".join(text for (text,) in file.execute("SELECT metadata FROM gpkg_metadata"))
    assert styles.keys() == counts.keys()
    assert {*counts, "layer_styles"} == tables
    color = next(label.color for label in ISAID if label.name == "plane")
    assert ",".join(map(str, color)) in styles["plane"]
    assert "segnext_t" in metadata
    assert pyogrio.read_info(path, layer="plane")["layer_metadata"]["weights"] == "abc"


def test_writing_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_layers(tmp_path / "missing" / "out.gpkg", table(), ISAID)
    (tmp_path / "out.gpkg").mkdir()
    with pytest.raises(OutputError):
        write_layers(tmp_path / "out.gpkg", table(), ISAID)
    assert [each.name for each in tmp_path.iterdir()] == ["out.gpkg"]


def test_results_depend_neither_on_blocks_nor_on_threads(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    class_ids = class_map(1)
    noise = rng.random(class_ids.shape) < 0.02
    class_ids[noise] = rng.choice([0, 8, 9, 14], noise.sum())
    raster = write_raster(tmp_path / "map.tif", class_ids)
    frames = []
    for block, workers in ((2048, 1), (32, 4), (7, 2)):
        monkeypatch.setattr(blocks, "BLOCK", block)
        vectorize(raster, tmp_path / "map.gpkg", workers=workers, overwrite=True)
        frames.append(read_layers(tmp_path / "map.gpkg"))
    assert len(frames[0]) > 10
    for frame in frames[1:]:
        assert_geodataframe_equal(frame, frames[0])


def test_vectorize_takes_our_own_rasters_with_names_and_colors(tmp_path):
    class_ids = class_map()
    with CogWriter.for_classes(tmp_path / "c.tif", geobox_of(class_ids, "utm"), ISAID) as raster:
        raster.write(Window(0, 0, 80, 60), class_ids)
    assert ClassRaster.open(tmp_path / "c.tif").classes == ISAID
    done = vectorize(tmp_path / "c.tif", tmp_path / "c.gpkg", simplify=0, min_area=0)
    expected = table().drop(columns="confidence")
    found = read_layers(tmp_path / "c.gpkg")
    assert found["confidence"].isna().all()
    assert_geodataframe_equal(found.drop(columns="confidence"), expected, check_dtype=False)
    assert sum(done.features.values()) == len(expected)


@pytest.mark.parametrize(
    ("dtype", "values", "nodata", "skip", "expected"),
    [
        ("uint8", [0, 255], None, (0,), {255}),
        ("uint8", [0, 255], 0, (), {255}),
        ("uint8", [1, 2, 255], 255, (0,), {1, 2}),
        ("uint8", [0, 1], None, (), {0, 1}),
        ("int16", [-9999, 111, 512], -9999, (0,), {111, 512}),
        ("uint16", [0, 40000, 65535], 65535, (0,), {40000}),
        ("int32", [-1, 0, 100_000], None, (0,), {-1, 100_000}),
    ],
)
def test_vectorize_takes_any_whole_numbers(tmp_path, dtype, values, nodata, skip, expected):
    coarse = np.random.default_rng(0).choice(values, (6, 7))
    stored = np.kron(coarse, np.ones((4, 4), int)).astype(dtype)
    raster = write_raster(tmp_path / "map.tif", stored, nodata=nodata)
    vectorize(raster, tmp_path / "map.gpkg", skip=skip, simplify=0)
    frame = read_layers(tmp_path / "map.gpkg")
    assert {*frame["class_id"]} == expected
    for value in expected:
        area = (stored == value).sum() * geobox_of(stored, "utm").gsd ** 2
        found = frame.loc[frame["class_id"] == value, "area_m2"].sum()
        assert found == pytest.approx(area, rel=1e-6)


def test_vectorize_refuses_rasters_without_classes(tmp_path):
    floats = write_raster(tmp_path / "f.tif", np.full((4, 4), 0.5, np.float32))
    with pytest.raises(SceneError, match=r"holds 0\.5, but classes are whole numbers; round it"):
        vectorize(floats, tmp_path / "f.gpkg")
    many = write_raster(tmp_path / "m.tif", np.arange(1600, dtype=np.int16).reshape(40, 40))
    with pytest.raises(SceneError, match="different values"):
        vectorize(many, tmp_path / "m.gpkg")
    good = write_raster(tmp_path / "g.tif", class_map())
    with pytest.raises(OptionError, match="--min-area"):
        vectorize(good, tmp_path / "g.gpkg", min_area=-1)
    vectorize(good, tmp_path / "g.gpkg")
    with pytest.raises(OutputError, match="--overwrite"):
        vectorize(good, tmp_path / "g.gpkg")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gpkg", ".tif", ".tif", ".tif"]


def test_a_raster_without_objects_gives_a_geopackage_without_features(tmp_path):
    raster = write_raster(tmp_path / "map.tif", np.zeros((20, 20), np.uint8))
    done = vectorize(raster, tmp_path / "map.gpkg")
    assert done.features == {}
    assert len(read_layers(tmp_path / "map.gpkg")) == 0


PAM = """<PAMDataset><PAMRasterBand band="1">
<CategoryNames><Category></Category><Category>one</Category></CategoryNames>
<GDALRasterAttributeTable tableType="thematic">
{fields}{rows}
</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"""


def attribute_table(fields: list[tuple[str, int, int]], rows: list[tuple]) -> str:
    """Return the XML that GDAL writes; fields are (name, type, usage)."""
    return PAM.format(
        fields="".join(
            f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage>'
            "</FieldDefn>"
            for i, (name, kind, usage) in enumerate(fields)
        ),
        rows="".join(
            f'<Row index="{i}">{"".join(f"<F>{cell}</F>" for cell in row)}</Row>'
            for i, row in enumerate(rows)
        ),
    )


@pytest.mark.parametrize(
    ("fields", "rows", "expected"),
    [
        (  # what gdal_translate and QGIS leave
            [("VALUE", 0, 5), ("Class", 2, 2), ("R", 0, 6), ("G", 0, 7), ("B", 0, 8)],
            [(8, "Wald &amp; Wiese", 0, 128, 0), (9, "Straße", 90, 90, 90)],
            {8: ("Wald & Wiese", (0, 128, 0)), 9: ("Straße", (90, 90, 90))},
        ),
        (  # what comes from Erdas and Esri
            [("Value", 1, 0), ("Class_Name", 2, 0), ("Red", 1, 6), ("Green", 1, 7), ("Blue", 1, 8)],
            [("8.0", "wood", "0", "0.5", "1"), ("9.0", "", "1", "1", "1")],
            {8: ("wood", (0, 128, 255)), 9: ("class_9", (255, 255, 255))},
        ),
        # A histogram is no table of classes; then there are the categories.
        ([("Min", 1, 3), ("Max", 1, 4), ("Count", 0, 1)], [(0.5, 1.5, 7)], {1: ("one", None)}),
    ],
)
def test_classes_from_a_raster_attribute_table(tmp_path, fields, rows, expected):
    raster = write_raster(tmp_path / "map.tif", class_map())
    (tmp_path / "map.tif.aux.xml").write_text(attribute_table(fields, rows), encoding="utf-8")
    classes = ClassRaster.open(raster).classes
    assert {label.id: label.name for label in classes} == {
        value: name for value, (name, _) in expected.items()
    }
    for label in classes:
        assert expected[label.id][1] in (None, label.color)


def test_a_damaged_attribute_table_is_named(tmp_path):
    raster = write_raster(tmp_path / "map.tif", class_map())
    table = attribute_table([("VALUE", 0, 5), ("Class", 2, 2)], [("eight", "wood")])
    for text in (table, table.replace("<F>wood</F>", "").replace("eight", "8"), table[:200]):
        (tmp_path / "map.tif.aux.xml").write_text(text)
        with pytest.raises(SceneError, match=r"map\.tif\.aux\.xml is damaged.*--classes"):
            ClassRaster.open(raster)


def test_classes_from_a_table(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("id,name,color\n311,Laubwald,#80ff00\n312,Nadelwald,\n", encoding="utf-8")
    first, second = read_class_list(path, any_ids=True)
    assert first == LabelClass(311, "Laubwald", (128, 255, 0))
    assert second.id == 312
    for text, message in (
        ("311,wood", "line 1: there is no column id"),
        ("id,name\nx,wood", "line 2.*whole number"),
        ("id,name\n1,a\n1,b", "line 3: id 1 is that of line 2, too"),
        ("id,name,color\n1,a,red", "#rrggbb"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_class_list(path, any_ids=True)


@pytest.fixture
def layers(tmp_path) -> Path:
    write_layers(tmp_path / "scene.gpkg", table(), ISAID)
    return tmp_path / "scene.gpkg"


@pytest.mark.parametrize("kind", FORMATS)
def test_round_trip(kind, layers, tmp_path):
    paths = export(layers, tmp_path / "out", kind)
    if kind == "geoparquet":
        pytest.importorskip("pyarrow")
        parts = [geopandas.read_parquet(path) for path in paths]
    elif kind == "csv":
        parts = [pyogrio.read_dataframe(path, AUTODETECT_TYPE="YES") for path in paths]
    else:
        parts = [pyogrio.read_dataframe(path) for path in paths]
    frame = geopandas.GeoDataFrame(pd.concat(parts))
    frame = frame.astype({"object_id": int}).sort_values("object_id")  # KML holds text
    original = read_layers(layers)
    assert len(frame) == len(original) > 30
    columns = [name for name in original.columns if name != "geometry"]
    assert not {name for name in columns if len(name) > 10}
    for name in columns:
        if name == "class":
            assert frame[name].tolist() == original[name].tolist()
        else:
            np.testing.assert_allclose(
                frame[name].astype(float), original[name].astype(float), rtol=1e-9
            )
    if kind in ("geojson", "kml"):
        assert frame.crs == "EPSG:4326"
        frame = frame.to_crs(original.crs)
    elif kind != "csv":
        assert frame.crs == original.crs
    distance = shapely.hausdorff_distance(frame.geometry.array, original.geometry.array)
    assert distance.max() < 1e-3
    assert frame.is_valid.all()


def test_there_is_a_shapefile_per_class_with_its_sidecars(layers, tmp_path):
    paths = export(layers, tmp_path / "out", "shapefile", target_crs="EPSG:25833")
    classes = {*read_layers(layers)["class"]}
    assert {path.stem for path in paths} == {f"scene_{name}" for name in classes}
    for path in paths:
        assert path.with_suffix(".cpg").read_text() == "UTF-8"
        assert "ETRS" in path.with_suffix(".prj").read_text()
        assert path.stat().st_size == shapefile_size(pyogrio.read_dataframe(path))
    assert len([*(tmp_path / "out").iterdir()]) == 6 * len(paths)


def test_shortened_names_of_shapefiles_are_logged(layers, tmp_path, caplog):
    frame = read_layers(layers).assign(
        photographer="A",
        photographers_camera="B",
        größenordnung=1,
        ship_count=2,
        large_vehicle_count=3,
        large_vehicle_area_m2=4.0,
        large_vehicles_count=5,
    )
    names = short_names(frame.columns.drop("geometry"))
    assert {name: short for name, short in names.items() if name != short} == {
        "photographer": "photograph",
        "photographers_camera": "photog_2",
        "größenordnung": "größenor",
        "large_vehicle_count": "n_large_ve",
        "large_vehicle_area_m2": "m2_large_v",
        "large_vehicles_count": "n_larg_2",
    }
    (path, *_) = write_format(frame, tmp_path / "out", "scene", "shapefile")
    assert "photographers_camera → photog_2" in caplog.text
    found = pyogrio.read_dataframe(path)
    assert list(found.columns) == [*names.values(), "geometry"]
    assert {*found["photog_2"]} == {"B"}


def test_shapefiles_near_their_size_limit_are_logged(layers, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("geoseg.geo.layers.formats._SHAPEFILE_LIMIT", 1000)
    export(layers, tmp_path / "out", "shapefile")
    assert "2 GB" in caplog.text


def test_geojson_keeps_to_rfc_7946(layers, tmp_path):
    (path,) = export(layers, tmp_path, "geojson")
    document = json.loads(path.read_text())
    assert "crs" not in document
    for feature in document["features"]:
        shell, *holes = feature["geometry"]["coordinates"]
        assert shapely.LinearRing(shell).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        assert all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in shell)


def test_geoparquet_has_a_covering_bbox(layers, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (path,) = export(layers, tmp_path, "geoparquet")
    schema = parquet.read_schema(path)
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert "bbox" in geo["columns"]["geometry"]["covering"]
    assert "bbox" in schema.names


def test_export_refuses_what_a_format_cannot_store(layers, tmp_path):
    with pytest.raises(DataError, match="no layer harbor"):
        export(layers, tmp_path, "csv", layers=["harbor"])
    with pytest.raises(OptionError, match="WGS 84"):
        export(layers, tmp_path, "geojson", target_crs="EPSG:25833")
    polygons = polygons_of(class_map())
    bare = features(polygons, GeoBox(60, 80, Affine.identity(), None), ISAID)
    write_layers(tmp_path / "bare.gpkg", bare, ISAID)
    with pytest.raises(OptionError, match="no CRS"):
        export(tmp_path / "bare.gpkg", tmp_path, "geojson")
    (path,) = export(tmp_path / "bare.gpkg", tmp_path, "flatgeobuf")
    with pytest.raises(OutputError, match="--overwrite"):
        export(tmp_path / "bare.gpkg", tmp_path, "flatgeobuf")
    assert len(pyogrio.read_dataframe(path)) == len(bare)


def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_raster(tmp_path / "map.tif", class_map())
    runner = CliRunner()
    done = runner.invoke(main, ["vectorize", "map.tif", "--json", "--simplify", "0"])
    assert done.exit_code == 0, done.output
    assert sum(json.loads(done.output)["features"].values()) == len(table())
    done = runner.invoke(main, ["export", "map.gpkg", "--format", "csv", "--layer", "class_9"])
    assert done.exit_code == 0, done.output
    assert done.output.split() == ["map.csv"]
    assert runner.invoke(main, ["vectorize", "map.tif"]).exit_code == 1
    assert runner.invoke(main, ["export", "map.gpkg", "--format", "dwg"]).exit_code == 2
