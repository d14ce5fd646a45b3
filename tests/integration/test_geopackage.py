"""How files look on a map: colors, names of fields, order, and results without an object."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from fakes import Colors, write_discs
from layers import write_layers
from rasterio.crs import CRS

from geoseg.classes import ISAID, LabelClass
from geoseg.cli.main import main
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.layers.export import export, write_format
from geoseg.geo.layers.features import drawing_order, empty_features, features
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.geo.styles import fill_color, layer_qml, raster_qml
from geoseg.geo.vector.merge import merge
from geoseg.geo.vector.polygonize import polygonize_block
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.pipeline.vectorize import vectorize
from geoseg.tiling.grid import Window

UTM = CRS.from_epsg(32633)
GEOBOX = GeoBox(60, 80, Affine(0.3, 0, 4e5, 0, -0.3, 5.5e6), UTM)
OWN = (
    LabelClass(0, "background", (0, 0, 0)),
    LabelClass(1, "Öltank & <Dach>", (10, 200, 30)),
    LabelClass(2, "Straße", (200, 10, 30)),
)


def class_ids(*ids: int) -> np.ndarray:
    """A row of squares, one for each class, larger ones first."""
    values = np.zeros(GEOBOX.shape, np.uint8)
    for number, class_id in enumerate(ids):
        side = 18 - 4 * number
        values[5 : 5 + side, 20 * number : 20 * number + side] = class_id
    return values


def table(classes=ISAID, *ids: int, geobox: GeoBox = GEOBOX) -> geopandas.GeoDataFrame:
    polygons = merge([polygonize_block(class_ids(*ids), Window(0, 0, 80, 60))])
    return features(polygons, geobox, classes)


def test_a_style_names_every_field_and_its_unit():
    frame = table(ISAID, 15, 1)
    for unit in ("m", "px"):
        root = ElementTree.fromstring(layer_qml((1, 2, 3), unit=unit))
        aliases = {item.get("field"): item.get("name") for item in root.iter("alias")}
        assert aliases.keys() == {*frame.columns} - {"geometry"}
        assert aliases["area_m2"] == f"Area ({unit}²)"
        assert [item.get("type") for item in root.iter("renderer-v2")] == ["singleSymbol"]
        tip = root.findtext("mapTip")
        assert tip is not None
        assert {name for name in frame.columns if f'"{name}"' in tip} >= {"class", "area_m2"}


def test_units_of_layers_follow_the_crs(tmp_path):
    bare = table(ISAID, 15, geobox=GeoBox(60, 80, Affine.identity(), None))
    for name, frame, unit in (("a", table(ISAID, 15), "m²"), ("b", bare, "px²")):
        write_layers(tmp_path / f"{name}.gpkg", frame, ISAID)
        assert f"({unit})" in read_edited(tmp_path / f"{name}.gpkg").styles["harbor"]


def test_layers_come_in_one_order_whatever_a_scene_holds():
    names = [item.name for item in ISAID if item.id]
    order = [names[i] for i in drawing_order(names, np.linspace(1, 1e5, len(names)))]
    again = [names[i] for i in drawing_order(names, np.linspace(1e5, 1, len(names)))]
    assert order == again
    assert order.index("harbor") < order.index("ship") < order.index("small_vehicle")
    assert order.index("ground_track_field") < order.index("soccer_ball_field")
    assert order[-1] == "small_vehicle"
    own = ["roof", "car", "small_vehicle", "field"]
    assert [own[i] for i in drawing_order(own, [100, 8, 5000, 20_000])] == [
        "field", "roof", "small_vehicle", "car",
    ]  # fmt: skip


def test_a_class_raster_has_a_row_for_each_class(tmp_path):
    path = tmp_path / "scene.classes.tif"
    with CogWriter.for_classes(path, GEOBOX, OWN):
        pass
    root = ElementTree.fromstring((tmp_path / "scene.classes.qml").read_bytes())
    rows = [
        [item.get(key) for key in ("value", "label", "color", "alpha")]
        for item in root.iter("paletteEntry")
    ]
    assert rows == [
        ["0", "background", "#000000", "0"],
        ["1", "Öltank & <Dach>", "#0ac81e", "255"],
        ["2", "Straße", "#c80a1e", "255"],
    ]
    with rasterio.open(path) as raster:
        assert raster.colormap(1) == {item.id: (*item.color, 255 if item.id else 0) for item in OWN}
    assert raster_qml(OWN) == (tmp_path / "scene.classes.qml").read_bytes()


def test_shapefiles_have_the_styles_of_the_layers(tmp_path):
    write_layers(tmp_path / "a.gpkg", table(OWN, 1, 2), OWN)
    paths = export(tmp_path / "a.gpkg", tmp_path, "shapefile")
    styles = read_edited(tmp_path / "a.gpkg").styles
    assert [*styles] == ["Öltank & _Dach_", "Straße"]
    for path, (layer, style), item in zip(paths, styles.items(), OWN[1:], strict=True):
        assert path.name == f"a_{layer}.shp"
        assert set(pyogrio.read_dataframe(path)["class"]) == {item.name}
        assert path.with_suffix(".qml").read_text("utf-8") == style
        assert fill_color(style) == item.color


def test_styles_that_qgis_saved_are_exported(tmp_path):
    path = tmp_path / "a.gpkg"
    write_layers(path, table(OWN, 2), OWN)
    mine = layer_qml((1, 2, 3)).replace('labelsEnabled="0"', 'labelsEnabled="1"')
    with sqlite3.connect(path) as file:
        file.execute("UPDATE layer_styles SET styleQML = ?", [mine])
    export(path, tmp_path, "shapefile")
    assert (tmp_path / "a_Straße.qml").read_text("utf-8") == mine
    (kml,) = export(path, tmp_path, "kml")
    assert "<color>ff030201</color>" in kml.read_text("utf-8")


def test_the_color_of_a_style_of_any_version():
    def style(*colors: str) -> str:
        layers = "".join(f'<layer class="SimpleFill">{color}</layer>' for color in colors)
        other = '<selection><Option name="color" value="9,9,9,255"/></selection>'
        return f"<qgis>{other}<renderer-v2><symbol>{layers}</symbol></renderer-v2></qgis>"

    old = '<prop k="color" v="1,2,3,255"/><prop k="outline_color" v="4,5,6,255"/>'
    unsorted = '<Option type="Map"><Option value="1,2,3,96" type="QString" name="color"/></Option>'
    new = '<Option name="color" value="1,2,3,255,rgb:0.0039,0.0078,0.0117,1"/>'
    for text in (old, unsorted, new):
        assert fill_color(style(text)) == (1, 2, 3)
    assert fill_color(style(new, new.replace("1,2,3", "7,8,9"))) is None
    assert fill_color(style()) is fill_color("<qgis") is None


def test_kml_is_in_the_colors_of_the_classes(tmp_path):
    frame = table(OWN, 1, 2)
    (path,) = write_format(frame, tmp_path, "a", "kml", OWN)
    space = {"k": "http://www.opengis.net/kml/2.2"}
    root = ElementTree.parse(path)
    styles = {
        f"#{item.get('id')}": item.findtext("k:LineStyle/k:color", "", space)
        for item in root.iterfind(".//k:Style", space)
    }
    drawn = {
        item.findtext("k:name", "", space): styles[item.findtext("k:styleUrl", "", space)]
        for item in root.iterfind(".//k:Placemark", space)
    }
    assert drawn == {"Öltank & <Dach>": "ff1ec80a", "Straße": "ff1e0ac8"}  # alpha, blue, green, red
    again = pyogrio.read_dataframe(path)
    assert list(again["Name"]) == list(frame["class"])
    assert again.geometry.geom_equals_exact(frame.to_crs(4326).geometry, 1e-9).all()


def test_a_result_without_an_object_keeps_fields_and_crs(tmp_path):
    path = tmp_path / "a.gpkg"
    write_layers(path, table(), ISAID)
    assert pyogrio.list_layers(path)[:, 0].tolist()[0] == "objects"
    found, expected = read_layers(path), empty_features(GEOBOX)
    assert list(found.columns) == list(expected.columns)
    assert found.crs == expected.crs == UTM.to_wkt()
    assert len(found) == 0
    assert read_edited(path).styles.keys() == {"objects"}


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_exported_as_an_empty_file(tmp_path, kind, caplog):
    if kind == "geoparquet":
        pytest.importorskip("pyarrow")
    write_layers(tmp_path / "a.gpkg", table(), ISAID)
    with caplog.at_level(logging.WARNING, "geoseg"):
        (path,) = export(tmp_path / "a.gpkg", tmp_path / "out", kind)
    assert path.stat().st_size > 0
    assert "a.gpkg has no polygons" in caplog.text
    if kind in ("shapefile", "flatgeobuf"):
        found = pyogrio.read_dataframe(path)
        assert len(found) == 0
        assert list(found.columns) == list(empty_features(GEOBOX).columns)
        assert found.crs.to_epsg() == 32633
    if kind == "shapefile":
        assert path.name == "a_objects.shp"


def test_predict_and_vectorize_without_an_object_keep_fields_and_crs(tmp_path):
    scene = tmp_path / "gray.tif"
    place = {"transform": GEOBOX.transform, "crs": UTM, "height": 60, "width": 80, "count": 3}
    with rasterio.open(scene, "w", driver="GTiff", dtype="uint8", **place) as raster:
        raster.write(np.full((3, 60, 80), 110, np.uint8))
    request = OutputOptions(tmp_path, formats=("gpkg", "shapefile"))
    summary = predict(scene, TileModel(Colors(), device="cpu"), request)
    assert summary.objects == 0
    assert "shapefile:objects" in summary.outputs
    vectorize(summary.outputs["classes"], tmp_path / "v.gpkg")
    for path in (summary.outputs["gpkg"], tmp_path / "v.gpkg"):
        assert list(read_layers(Path(path)).columns) == list(empty_features(GEOBOX).columns)
        assert read_layers(Path(path)).crs.to_epsg() == 32633


@pytest.mark.parametrize("gsd", [None, 1.0])
def test_specks_are_as_large_for_predict_as_for_vectorize(tmp_path, gsd):
    noise = np.random.default_rng(0).integers(0, 256, (3, 300, 400), np.uint8)
    scene = write_discs(tmp_path / "town.tif", 300, 400)  # pixels of 0.5 m
    with rasterio.open(scene, "r+") as raster:
        raster.write(noise)
    model = Colors()
    if gsd:
        model.metadata = Metadata("T", ISAID, gsd_range=(gsd, 2.0))
    least = 9 * (gsd or 0.5) ** 2

    def areas(folder: str, **options) -> np.ndarray:
        request = OutputOptions(tmp_path / folder, simplify=0, **options)
        summary = predict(scene, TileModel(model, device="cpu"), request, TilingOptions(128, 32))
        output = tmp_path / folder / "v.gpkg"
        vectorize(summary.outputs["classes"], output, simplify=0, **options)
        one, other = (read_layers(Path(path)) for path in (summary.outputs["gpkg"], output))
        assert sorted(one["area_m2"]) == pytest.approx(sorted(other["area_m2"]))
        return one["area_m2"].to_numpy()

    kept, all_of_them = areas("default"), areas("all", min_area=0)
    assert all_of_them.min() < least * 0.999 <= kept.min()
    assert len(kept) < len(all_of_them)


def test_both_commands_explain_min_area_in_the_same_words():
    texts = []
    for command in ("predict", "vectorize"):
        text = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
        texts.append(text[text.index("--min-area") :].partition(" --")[0])
    assert texts[0] == texts[1]
    assert "9 pixels" in texts[0]
