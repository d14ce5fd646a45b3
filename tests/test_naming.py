"""What results are called: any legal name of a scene works."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_ins import TRANSFORM, Colors

from geoseg.errors import OptionError
from geoseg.model.inference import TileModel
from geoseg.naming import LONGEST, refuse_equal_names, scene_stem
from geoseg.predict import predict
from geoseg.request import Reading, Request, Tiling


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
    assert all(len(stem.encode()) <= LONGEST for stem in stems)


@pytest.mark.parametrize("pair", [("a/town.tif", "b/town.tif"), ("Town.tif", "town.jp2")])
def test_two_of_one_name(pair):
    with pytest.raises(OptionError, match="both are called"):
        refuse_equal_names(pair)
    refuse_equal_names(["tile#1.tif", "tile#2.tif", "tile.tif"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A red square on grey."""
    image = np.full((3, 64, 72), 110, np.uint8)
    image[0, 16:48, 16:48], image[1:, 16:48, 16:48] = 220, 60
    path = tmp_path_factory.mktemp("scene") / "town.tif"
    profile = {"driver": "GTiff", "height": 64, "width": 72, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=TRANSFORM, **profile) as file:
        file.write(image)
    return path


CHARACTERS = st.sampled_from([*"aZ7 #?%:*[]{};!'\"\\&$~^=+,.-_()<>|@`\n\t", *"éß漢字かな한글مر🛩️☃"])
NAMES = st.text(CHARACTERS, min_size=1, max_size=60).filter(
    lambda name: len(name.encode()) <= 200 and name not in (".", "..")
)


@pytest.mark.skipif(os.name == "nt", reason="many of these are no names there")
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=NAMES, folder=NAMES, suffix=st.sampled_from(["", ".tif"]))
def test_any_legal_name(scene, tmp_path, name, folder, suffix):
    check_names(scene, tmp_path, name + suffix, folder)


@pytest.mark.skipif(os.name == "nt", reason="many of these are no names there")
@pytest.mark.parametrize("name", ["-o", "--help", "a!b;c#1?x:%41[*]", "漢" * 66, ".hidden", "a\nb"])
def test_names_that_are_hard(scene, tmp_path, name):
    check_names(scene, tmp_path, f"{name}.tif", f"{name}!")


def check_names(scene: Path, parent: Path, name: str, folder: str) -> None:
    """Scene, folder and area of interest."""
    place = parent / "case"
    shutil.rmtree(place, ignore_errors=True)
    (place / folder).mkdir(parents=True)
    town = place / "scenes" / name
    town.parent.mkdir()
    shutil.copy(scene, town)
    request = Request(place / folder, formats=("gpkg", "geojson", "shapefile"), confidence=True)
    model, tiling = TileModel(Colors(), device="cpu"), Tiling(tile_size=64, overlap=32, workers=1)
    found = predict(town, model, request, tiling, Reading())
    stem = town.stem
    assert {path.name for path in (place / folder).iterdir()} >= {
        f"{stem}.gpkg", f"{stem}.geojson", f"{stem}.classes.tif", f"{stem}.confidence.tif"
    }  # fmt: skip
    assert all(path.name.startswith(stem) for path in (place / folder).iterdir())
    assert {path.name for path in place.iterdir()} == {folder, "scenes"}
    assert [path.name for path in town.parent.iterdir()] == [name]
    with rasterio.open(place / folder / f"{stem}.classes.tif") as raster:
        assert raster.shape == (64, 72)
    plain = parent / "plain.gpkg"
    shutil.copy(found.outputs["gpkg"], plain)
    assert [name for name, kind in pyogrio.list_layers(plain) if kind] == ["plane"]
    assert (place / folder / f"{stem}_plane.shp").exists()
    assert predict(town, model, request, tiling, Reading()).state == "skipped"
