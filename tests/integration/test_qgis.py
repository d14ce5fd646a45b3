"""GDAL and QGIS themselves read our layers; skipped unless their Python modules are installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from layers import write_layers
from PIL import Image
from rasterio.crs import CRS

from geoseg.classes import IGNORE, ISAID
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.features import features
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.geo.vector.merge import merge
from geoseg.geo.vector.polygonize import polygonize_block
from geoseg.tiling.grid import Window

SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
SCRIPT = Path(__file__).with_name("qgis_layers.py")
VALIDATE = (
    "import sys; from osgeo_utils.samples.validate_gpkg import check; print(check(sys.argv[1]))"
)


def system_python(module: str, package: str, *arguments: str) -> str:
    """Run the system's Python; skip if it lacks `module`."""
    if SYSTEM_PYTHON is None:
        pytest.skip("no system Python")
    probe = [SYSTEM_PYTHON, "-c", f"import {module}"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(f"{module} is not installed (Debian: {package})")
    done = subprocess.run(
        [SYSTEM_PYTHON, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def layers_file(tmp_path) -> Path:
    class_ids = np.zeros((200, 200), np.uint8)
    class_ids[20:180, 20:180] = 15  # a harbor
    class_ids[60:100, 50:110] = 1  # with a ship
    class_ids[120:130, 140:145] = 9  # and a car
    polygons = merge([polygonize_block(class_ids, Window(0, 0, 200, 200))])
    geobox = GeoBox(200, 200, Affine(0.1, 0, 4e5, 0, -0.1, 5.5e6), CRS.from_epsg(32633))
    path = tmp_path / "scene.gpkg"
    table = features(polygons, geobox, ISAID)
    write_layers(path, table, ISAID, {"model": "none"})
    return path


def test_gdal_finds_the_geopackage_valid(layers_file):
    found = system_python(
        "osgeo_utils.samples.validate_gpkg", "python3-gdal", "-c", VALIDATE, str(layers_file)
    )
    assert found.strip() == "[]"


def test_qgis_shows_layers_in_the_colors_of_the_classes(layers_file, tmp_path):
    picture = tmp_path / "scene.png"
    output = system_python("qgis.core", "python3-qgis", str(SCRIPT), str(layers_file), str(picture))
    described = json.loads(output)
    assert [layer["name"] for layer in described] == ["harbor", "ship", "small_vehicle"]
    colors = {label.name: [*label.color] for label in ISAID}
    for layer in described:
        assert layer["valid"]
        assert layer["styled"]
        assert layer["features"] == 1
        assert layer["crs"] == "EPSG:32633"
        assert layer["colors"] == [colors[layer["name"]]]
        assert layer["renderer"] == "singleSymbol"  # a rule would repeat the name in the legend
        assert layer["fields"]["area_m2"] == "Area (m²)"
        assert layer["fields"]["angle_deg"] == "Angle (°)"
        area = layer["shown"]["area_m2"]
        assert len(area.replace(",", ".").rpartition(".")[2]) == 2, area
        name, tip = layer["tip"]
        assert name.startswith(layer["name"])
        assert "m²" in tip
        assert "%" not in tip
    drawn = {color for _, color in Image.open(picture).convert("RGB").getcolors(2**20)}
    assert {tuple(colors[layer["name"]]) for layer in described} <= drawn  # the outlines


@pytest.mark.parametrize("beside", [[".qml", ".tif.aux.xml"], [".tif.aux.xml"]])
def test_qgis_shows_a_class_raster_without_its_background(tmp_path, beside):
    class_ids = np.zeros((200, 200), np.uint8)
    class_ids[60:140, 60:140] = 9
    class_ids[:, 180:] = IGNORE
    geobox = GeoBox(200, 200, Affine(0.1, 0, 4e5, 0, -0.1, 5.5e6), CRS.from_epsg(32633))
    path, picture = tmp_path / "scene.classes.tif", tmp_path / "scene.png"
    with CogWriter.for_classes(path, geobox, ISAID) as raster:
        raster.write(Window(0, 0, 200, 200), class_ids)
    for suffix in (".qml", ".tif.aux.xml"):
        if suffix not in beside:
            path.with_name(f"scene.classes{suffix}").unlink()
    output = system_python(
        "qgis.core",
        "python3-qgis",
        str(SCRIPT.with_name("qgis_raster.py")),
        str(path),
        str(picture),
    )
    described = json.loads(output)
    assert described["renderer"] == "paletted"
    colors = [[item.name, item.id, [*item.color, 255 if item.id else 0]] for item in ISAID]
    if ".qml" in beside:
        assert described["legend"] == colors
    else:
        assert [row[1:] for row in described["legend"]] == [row[1:] for row in colors]
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    assert (drawn[70:130, 70:130] == ISAID[9].color).all()
    for background in (drawn[:50], drawn[:, 185:]):
        assert (background == (255, 0, 255)).all()
