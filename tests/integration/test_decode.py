"""Kept logits, decoded again: what predict gave, and other settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from commands import command, contents, refused
from fakes import TRANSFORM, Colors, write_discs
from results import assert_same_outputs, layers_of

from geoseg.classes import ISAID
from geoseg.geo.raster.logits import KeptLogits
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.decode import decode_logits
from geoseg.pipeline.options import OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict

HEIGHT, WIDTH = 300, 420
AREA = "448065,5411890,448165,5411950"


class Demanding(Colors):
    metadata = Metadata("T", ISAID, min_confidence={"plane": 0.9})


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_discs(tmp_path_factory.mktemp("scenes") / "town.tif", HEIGHT, WIDTH)


def run(scene, folder, options=None, model=Demanding, **output):
    wanted = OutputOptions(folder, logits=True, **output)
    tiling = TilingOptions(tile_size=128, overlap=32)
    return predict(scene, TileModel(model(), device="cpu"), wanted, tiling, options)


@pytest.fixture(scope="module")
def predicted(scene, tmp_path_factory):
    return run(scene, tmp_path_factory.mktemp("predicted"), model=Colors, confidence=True)


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (SceneOptions(), {"confidence": True}),
        (SceneOptions(gsd=0.8), {"simplify": 0.0, "min_area": 20.0}),
        (SceneOptions(aoi=AREA), {"confidence": True, "smooth": False}),
        (SceneOptions(), {"min_confidence": {"ship": 0.8}}),
    ],
    ids=["whole", "other pixels", "area of interest", "other limits"],
)
def test_the_same_settings_give_the_same_bytes(scene, tmp_path, options, output):
    first = run(scene, tmp_path / "first", options, **output)
    again = decode_logits(
        Path(first.outputs["logits"]), OutputOptions(tmp_path / "again", **output)
    )
    assert again.classes == first.classes
    assert again.objects > 5
    assert_same_outputs(first, again)
    if "confidence" in output:
        one, two = (Path(each.outputs["confidence"]) for each in (first, again))
        assert one.read_bytes() == two.read_bytes()


def test_other_classes_and_areas(predicted, tmp_path):
    logits = predicted.outputs["logits"]
    done = command("decode", logits, "-o", tmp_path, "--class", "plane", "--min-area", 300)
    assert done.exit_code == 0, done.output
    classes = tmp_path / "town.classes.tif"
    with rasterio.open(predicted.outputs["classes"]) as a, rasterio.open(classes) as b:
        before, after = a.read(1), b.read(1)
        assert a.tags(1) == b.tags(1)
    assert {*np.unique(after)} == {0, 14, 255}
    assert ((before == 255) == (after == 255)).all()
    assert (after[before == 14] == 14).all()
    planes = layers_of(tmp_path / "town.gpkg")["plane"]
    assert 0 < len(planes) < len(layers_of(predicted.outputs["gpkg"])["plane"])
    assert planes["area_m2"].min() >= 300


def test_results_of_predict_are_replaced_only_if_told_so(scene, tmp_path):
    first = run(scene, tmp_path, confidence=True)
    logits, before = first.outputs["logits"], contents(tmp_path)
    refused("decode", logits, "-o", tmp_path, says="exists; give --overwrite")
    assert contents(tmp_path) == before
    done = command("decode", logits, "-o", tmp_path, "--overwrite", "--json")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "town.confidence.tif").exists()  # it is of the run before
    assert Path(logits, "zarr.json").exists()
    assert KeptLogits.open(Path(logits)).metadata["scene"] == str(scene)


def test_what_is_no_store_of_logits_is_refused(predicted, tmp_path):
    (tmp_path / "empty.logits.zarr").mkdir()
    refused(
        "decode", tmp_path / "empty.logits.zarr", "-o", tmp_path / "out", says="holds no logits"
    )
    logits = predicted.outputs["logits"]
    refused("decode", logits, "-o", tmp_path, "--class", "boat", says="--class boat is not known")
    assert not (tmp_path / "out").exists()


def test_xarray_opens_the_logits(predicted):
    xarray = pytest.importorskip("xarray")
    found = xarray.open_zarr(predicted.outputs["logits"], decode_coords="all", consolidated=False)
    logits = found["logits"]
    assert logits.dims == ("y", "x", "class")
    assert logits.x.to_numpy()[0] == TRANSFORM.c + 0.5 * 4
    assert logits.y.to_numpy()[1] == TRANSFORM.f - 0.5 * 12
    assert "32633" in found["spatial_ref"].attrs["crs_wkt"]
    plane = logits.sel({"class": "plane"})
    assert float(plane.max()) > float(logits.sel({"class": "background"}).min())
