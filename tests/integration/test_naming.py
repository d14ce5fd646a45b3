"""What results are called: any legal name of a scene works."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from fakes import TRANSFORM, Colors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from geoseg.classes import ISAID, name_problem
from geoseg.errors import OptionError
from geoseg.geo.layers.export import export
from geoseg.geo.layers.names import clean_name
from geoseg.geo.layers.object_scores import score_objects
from geoseg.geo.paths import vector_path
from geoseg.geo.raster.address import MAX_STEM_BYTES, check_unique_stems, scene_stem
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.pipeline.summary import Summary
from geoseg.pipeline.vectorize import vectorize


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/b/town.tif", "town"),
        ("town.north.tif", "town.north"),
        ("C:\\scenes\\town.tif", "town"),
        ("https://host/my%20town.tif?sig=a/b.tif#part", "my town"),
        ("https://host/", "host"),
        ("/vsicurl/https://host/town.tif?x=1", "town"),
        ("/vsicurl?url=https%3A//host/town.tif&retry=3", "town"),
        ("s3://bucket/key/tile#1.tif", "tile#1"),
        ("/vsis3/bucket/town.tif", "town"),
        ("/vsizip/scenes.zip/deep/town.tif", "town"),
        ("/vsizip/{/data/scenes.zip}/town.tif", "town"),
        ("/vsizip/scenes.zip", "scenes"),
        ("zip:///data/scenes.zip!/deep/town.tif", "town"),
        ("zip+https://host/scenes.zip!/town.tif", "town"),
        ('NETCDF:"/data/a.nc":red', "a_red"),
        ("GPKG:/data/area.gpkg:north", "area_north"),
        ('HDF5:"a.h5"://group/red', "a_red"),
        ("SENTINEL2_L1C:/data/MTD.xml:10m:EPSG_32632", "MTD_10m_EPSG_32632"),
        ("<VRTDataset/>", "scene"),
        ("https://tile.example/{z}/{x}/{y}.png", "tile.example"),
        ("https://tile.example/aerial/{z}/{x}/{y}@2x.png?key=a", "aerial"),
        ("https://tile.example/wmts?z={z}&x={x}&y={-y}", "wmts"),
    ],
)
def test_stems_of_addresses(path, stem):
    assert scene_stem(path) == stem


@pytest.mark.skipif(os.name == "nt", reason="these are no names there")
@pytest.mark.parametrize("name", ["x:tile.tif", "S2A:tile#2.tif", "a?b.tif", "a\\b.tif", ".tif"])
def test_a_file_is_called_what_it_is_called(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert scene_stem(name) == scene_stem(tmp_path / name) == Path(name).stem


def test_long_names_leave_room(tmp_path):
    names = ["é" * 125 + tail for tail in ("a.tif", "b.tif")]
    stems = {scene_stem(name) for name in names}
    assert len(stems) == 2
    assert all(len(stem.encode()) <= MAX_STEM_BYTES for stem in stems)


@pytest.mark.parametrize("pair", [("a/town.tif", "b/town.tif"), ("Town.tif", "town.jp2")])
def test_two_of_one_name(pair):
    with pytest.raises(OptionError, match="both are called"):
        check_unique_stems(pair)
    check_unique_stems(["tile#1.tif", "tile#2.tif", "tile.tif"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A red square on gray."""
    image = np.full((3, 64, 72), 110, np.uint8)
    image[0, 16:48, 16:48], image[1:, 16:48, 16:48] = 220, 60
    path = tmp_path_factory.mktemp("scene") / "town.tif"
    profile = {"driver": "GTiff", "height": 64, "width": 72, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=TRANSFORM, **profile) as file:
        file.write(image)
    return path


STRANGE = "aZ7 #?%:*[]{};!'\"\\&$~^=+,.-_()<>|@`"
CHARACTERS = st.sampled_from([*STRANGE, *"éß漢字かな한글مر🛩️☃"])
NAMES = st.text(CHARACTERS | st.sampled_from("\n\t"), min_size=1, max_size=60).filter(
    lambda name: len(name.encode()) <= 200 and name not in (".", "..")
)
CLASS_NAMES = st.text(CHARACTERS | st.just("/"), min_size=1, max_size=64).filter(
    lambda name: not name_problem(name)
)


@pytest.mark.skipif(os.name == "nt", reason="many of these are no names there")
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=NAMES, folder=NAMES, suffix=st.sampled_from(["", ".tif"]), plane=CLASS_NAMES)
@example(name="漢" * 60, folder="漢!", suffix=".tif", plane="Built-up / Urban")
@example(name="a!b;c#1?x:%41[*]", folder="-o", suffix=".tif", plane='l\'eau "claire"')
@example(name="--help", folder="a\nb", suffix="", plane="gpkg_contents")
@example(name=".hidden", folder=".hidden!", suffix=".tif", plane="landuse:forest")
def test_any_legal_name(scene, tmp_path, name, folder, suffix, plane):
    """Through predict, export, vectorize and evaluate."""
    place, name = tmp_path / "case", name + suffix
    shutil.rmtree(place, ignore_errors=True)
    (place / "scenes").mkdir(parents=True)
    out = place / folder
    out.mkdir(exist_ok=True)
    town = place / "scenes" / name
    shutil.copy(scene, town)
    found = predict_planes(town, out, plane)
    stem, layer = town.stem, clean_name(plane)
    assert {path.name for path in out.iterdir()} - {"scenes"} >= {
        f"{stem}.gpkg", f"{stem}.geojson", f"{stem}.classes.tif", f"{stem}.confidence.tif"
    }  # fmt: skip
    assert all(path.name.startswith(stem) for path in out.iterdir())
    assert {path.name for path in place.iterdir()} == {folder, "scenes"}
    assert [path.name for path in town.parent.iterdir()] == [name]
    assert predict_planes(town, out, plane).state == "skipped"

    classes, layers = (Path(found.outputs[kind]) for kind in ("classes", "gpkg"))
    (place / "exported").mkdir()
    (shape,) = export(layers, place / "exported", "shapefile")
    assert shape == place / "exported" / f"{stem}_{layer}.shp"
    before = geopandas.read_file(vector_path(layers), layer=layer).geometry
    assert geopandas.read_file(vector_path(shape)).geometry.geom_equals(before).tolist() == [True]
    again = place / "exported" / f"{stem}.gpkg"
    assert vectorize(classes, again, simplify=0).features == {layer: 1}
    for truth in (shape, again):
        score = next(each for each in score_objects(classes, truth) if each.name == plane)
        assert (score.truth, score.found, score.matched) == (1, 1, 1)


def predict_planes(town: Path, out: Path, plane: str) -> Summary:
    """What is red is called `plane`."""
    model = Colors()
    classes = [replace(label, name=plane) if label.id == 14 else label for label in ISAID]
    model.metadata = replace(model.metadata, classes=tuple(classes))
    formats = ("gpkg", "geojson", "shapefile")
    output = OutputOptions(out, formats=formats, confidence=True, simplify=0)
    tiling = {
        "tiling": TilingOptions(tile_size=64, overlap=32),
        "compute": ComputeOptions(workers=1),
    }
    return predict(town, TileModel(model, device="cpu"), output, **tiling)
