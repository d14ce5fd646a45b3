"""The functions of `geoseg` for Python and notebooks."""

from __future__ import annotations

import gc
import importlib
import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from commands import command
from fakes import Colors, write_discs
from maps import write_map
from rasterio.windows import Window as RasterioWindow
from results import assert_same_outputs

import geoseg
from geoseg.cli.main import main
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict as predict_scene

TILING = {"tile_size": 128, "overlap": 32}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_discs(tmp_path_factory.mktemp("scenes") / "town.tif", 300, 400)


@pytest.fixture(scope="module")
def model() -> geoseg.TileModel:
    return geoseg.TileModel(Colors(), device="cpu")


@pytest.fixture(scope="module")
def result(scene, model) -> geoseg.Prediction:
    return geoseg.predict(scene, model=model, confidence=True, **TILING)


def pixels_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with rasterio.open(path) as file:
        return file.read(), file.dataset_mask() > 0


# -- predict ------------------------------------------------------------------------------------


def test_results_are_those_of_the_pipeline(scene, model, tmp_path):
    ours = geoseg.predict(str(scene), out=tmp_path / "one", model=model, **TILING)
    theirs = predict_scene(scene, model, OutputOptions(tmp_path / "two"), TilingOptions(**TILING))
    assert_same_outputs(ours.summary, theirs)
    assert ours.paths["gpkg"] == tmp_path / "one" / "town.gpkg"
    again = geoseg.predict(scene, out=tmp_path / "one", model=model, **TILING)
    assert again.summary.state == "skipped"
    assert again.objects.equals(ours.objects)


def test_objects_and_rasters_are_read_from_the_files(result):
    assert len(result.objects) == result.summary.objects > 0
    assert set(result.objects["class"]) == set(result.summary.classes)
    for band, kind in ((result.classes, "classes"), (result.confidence, "confidence")):
        with rasterio.open(result.paths[kind]) as file:
            values = file.read(1)
            assert (band.transform, band.crs, band.nodata) == (file.transform, file.crs, 255)
        assert band.shape == values.shape
        assert band.dtype == values.dtype
        np.testing.assert_array_equal(np.asarray(band), values)
        np.testing.assert_array_equal(np.array(band, float), values)
        np.testing.assert_array_equal(band == 9, values == 9)
        assert (band == geoseg.RasterBand(band.path)).all()
        with pytest.raises(ValueError, match="read from a file"):
            np.array(band, copy=False)
        part = band.read(geoseg.Window(30, 20, 50, 40))
        np.testing.assert_array_equal(part, values[20:60, 30:80])
        np.testing.assert_array_equal(part, band.read(RasterioWindow(30, 20, 50, 40)))
    assert {item.name for item in result.classes.legend} >= set(result.summary.classes)


def test_confidence_and_objects_are_there_only_if_written(scene, model, tmp_path):
    found = geoseg.predict(scene, out=tmp_path, model=model, formats="geojson", **TILING)
    assert found.confidence is None
    with pytest.raises(geoseg.OutputError, match="add 'gpkg' to formats"):
        _ = found.objects


def test_temporary_results_live_as_long_as_something_refers_to_them(scene, model):
    found = geoseg.predict(scene, model=model, **TILING)
    folder, band = found.paths["classes"].parent, found.classes
    del found
    gc.collect()
    assert band.read().shape == (300, 400)
    del band
    gc.collect()
    assert not folder.exists()


def test_a_list_is_a_mosaic_and_an_area_can_be_given_as_numbers(scene, model, tmp_path):
    other = tmp_path / "east.tif"
    pixels, _ = pixels_of(scene)
    with rasterio.open(scene) as file:
        profile = file.profile | {"transform": file.transform @ file.transform.translation(400, 0)}
    with rasterio.open(other, "w", **profile) as file:
        file.write(pixels)
    found = geoseg.predict([scene, other], out=tmp_path / "out", model=model, **TILING)
    assert found.classes.shape == (300, 800)
    assert found.paths["mosaic"].name == "mosaic.vrt"
    left, top = found.classes.transform @ (10, 20)
    part = geoseg.predict(scene, model=model, aoi=(left, top - 50, left + 100, top), **TILING)
    assert part.classes.shape == (100, 200)
    with pytest.raises(geoseg.OptionError, match="empty list"):
        geoseg.predict([], model=model)


def test_progress_is_called_shown_or_neither(scene, model, capfd):
    calls = []
    geoseg.predict(scene, model=model, progress=lambda *counts: calls.append(counts), **TILING)
    assert calls[-1] == (300 * 400, 300 * 400)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert capfd.readouterr() == ("", "")
    geoseg.predict(scene, model=model, progress=False, **TILING)
    geoseg.predict(scene, model=model, **TILING)  # this is no terminal
    assert capfd.readouterr() == ("", "")
    geoseg.predict(scene, model=model, progress=True, **TILING)
    assert "town.tif: 100%" in capfd.readouterr().err


def test_a_network_is_as_good_as_a_tile_model(scene, result):
    found = geoseg.predict(scene, model=Colors(), device="cpu", confidence=True, **TILING)
    assert_same_outputs(found.summary, result.summary)


# -- Notebooks ----------------------------------------------------------------------------------


def test_a_notebook_shows_a_picture_and_a_table(result):
    page = result._repr_html_()
    assert 'src="data:image/png;base64,' in page
    for name, total in result.summary.classes.items():
        assert f"<td>{name}</td><td>{total.objects}</td>" in page
    assert len(page) < 100_000
    assert "ship" in repr(result)


def test_names_from_outside_are_escaped(result):
    total = next(iter(result.summary.classes.values()))
    evil = '<script>alert("x")</script>'
    summary = replace(result.summary, scene=evil, classes={evil: total}, notes=(evil,))
    page = geoseg.Prediction(summary)._repr_html_()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 3


def test_results_that_were_moved_away_still_have_a_table(result, tmp_path):
    gone = {kind: str(tmp_path / "gone" / Path(path).name) for kind, path in result.paths.items()}
    page = geoseg.Prediction(replace(result.summary, outputs=gone))._repr_html_()
    assert "<table>" in page
    assert "<img" not in page


def test_xarray_gets_coordinates_of_pixel_centers(result):
    pytest.importorskip("xarray")
    found = result.classes.to_xarray()
    assert found.dims == ("y", "x")
    np.testing.assert_array_equal(found.to_numpy(), result.classes)
    x, y = result.classes.transform @ (7.5, 3.5)
    assert (float(found.x[7]), float(found.y[3])) == (x, y)
    grid = found.spatial_ref.attrs
    assert rasterio.crs.CRS.from_wkt(grid["crs_wkt"]) == result.classes.crs
    assert tuple(map(float, grid["GeoTransform"].split())) == result.classes.transform.to_gdal()


def test_a_missing_xarray_is_named(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(geoseg.GeosegError, match="pip install xarray"):
        result.classes.to_xarray()


# -- Arrays -------------------------------------------------------------------------------------


def test_an_array_gets_the_classes_of_a_scene(scene, result, model):
    pixels, valid = pixels_of(scene)
    class_ids, confidence = geoseg.predict_array(pixels, valid=valid, model=model, **TILING)
    np.testing.assert_array_equal(class_ids, result.classes)
    assert (class_ids == 255).any()
    np.testing.assert_array_equal(confidence == 0, ~valid)
    percent = np.asarray(result.confidence)[valid]
    assert np.abs(percent / 100 - confidence[valid]).max() <= 0.0051
    channels_last = pixels.transpose(1, 2, 0)
    again = geoseg.predict_array(channels_last, valid=valid, model=model, **TILING)
    np.testing.assert_array_equal(again.class_ids, class_ids)


def test_fine_pixels_are_reduced_as_in_a_scene(scene):
    network = Colors()
    network.metadata = replace(network.metadata, gsd_range=(1.0, 2.0), scale=1.12)
    pixels, valid = pixels_of(scene)
    options = {"model": geoseg.TileModel(network, device="cpu"), **TILING}
    found = geoseg.predict(scene, **options)
    assert "the model saw it at 1 m" in found.summary.notes[-1]
    class_ids, _ = geoseg.predict_array(pixels, valid=valid, gsd=found.summary.gsd, **options)
    np.testing.assert_array_equal(class_ids, found.classes)
    as_it_is, _ = geoseg.predict_array(pixels, valid=valid, **options)
    assert (as_it_is != class_ids).any()


def test_other_types_are_stretched_as_in_a_scene(scene, model, tmp_path):
    pixels, valid = pixels_of(scene)
    path = tmp_path / "deep.tif"
    with rasterio.open(scene) as file:
        profile = file.profile | {"dtype": "uint16"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels * np.uint16(20))
    options = {"model": model, "rescale": (100, 4000), **TILING}
    found = geoseg.predict(path, collar="off", **options)
    class_ids, _ = geoseg.predict_array(pixels * np.uint16(20), valid=valid, **options)
    np.testing.assert_array_equal(class_ids, found.classes)
    real, _ = geoseg.predict_array(pixels * 20.0, valid=valid, **options)
    np.testing.assert_array_equal(real, class_ids)


@pytest.mark.parametrize(
    ("image", "options", "says"),
    [
        (np.zeros((64, 64), np.uint8), {}, r"shape \(64, 64\)"),
        (np.zeros((64, 64, 4), np.uint8), {}, "image\\[..., :3\\]"),
        (np.zeros((0, 64, 3), np.uint8), {}, "shape"),
        (np.zeros((64, 64, 3), np.uint16), {}, "uint16; give uint8, or rescale"),
        (np.zeros((64, 64, 3)), {}, "float64"),
        (np.zeros((64, 64, 3), complex), {"rescale": (0, 1)}, "complex128"),
        (np.zeros((64, 64, 3), np.uint8), {"rescale": (2, 1)}, "smaller value first"),
        (np.zeros((64, 64, 3), np.uint8), {"valid": np.ones((64, 65), bool)}, r"\(64, 65\)"),
        (np.zeros((64, 64, 3), np.uint8), {"valid": np.ones((64, 64))}, "float64"),
        (np.zeros((64, 64, 3), np.uint8), {"gsd": 0.0}, "above 0"),
    ],
)
def test_images_that_cannot_be_used_are_refused(image, options, says, model):
    with pytest.raises((geoseg.DataError, geoseg.OptionError), match=says):
        geoseg.predict_array(image, model=model, **options)


# -- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tile_size": 40}, "tile_size is 40"),
        ({"overlap": 96, "tile_size": 128}, "overlap is 96; give at most half of tile_size 128"),
        ({"min_area": -1.0}, "min_area is -1.0"),
        ({"formats": ["xyz"]}, "formats xyz is not known"),
        ({"aoi": "nowhere.gpkg"}, "aoi nowhere.gpkg"),
        ({"rescale": (5.0, 1.0)}, "rescale 5,1"),
        ({"rescale": (5.0, 1.0, 2.0)}, "rescale has 3 values"),
        ({"collar": "none"}, "collar is none; choose auto or off"),
        ({"precision": "half"}, "precision is 'half'; choose from auto, float32"),
        ({"backend": "jax"}, "backend is 'jax'; choose from auto, torch"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"out": "s3://bucket/results"}, r"give a folder \(out\)"),
    ],
)
def test_errors_name_parameters(scene, model, options, says):
    with pytest.raises(geoseg.GeosegError, match=says) as caught:
        geoseg.predict(scene, model=model, **options)
    assert "--" not in str(caught.value)


def test_errors_say_what_to_pass(scene, model, tmp_path):
    (tmp_path / "town.gpkg").write_text("mine")
    with pytest.raises(geoseg.OutputError, match=r"overwrite=True or another folder \(out\)"):
        geoseg.predict(scene, out=tmp_path, model=model)
    with pytest.raises(geoseg.OptionError, match=r"choose another name or folder \(out\)"):
        geoseg.vectorize(scene, out=scene, overwrite=True)
    with pytest.raises(geoseg.OptionError, match=r"format is 'gif'; choose from shapefile"):
        geoseg.export(tmp_path / "town.gpkg", format="gif")
    with pytest.raises(geoseg.CheckpointError, match=r"geoseg weights import .* --classes isaid"):
        geoseg.predict(
            scene, weights=write_discs(tmp_path / "w.tif", 8, 8).rename(tmp_path / "w.pth")
        )


def test_a_model_and_options_of_a_model_exclude_each_other(scene, model):
    with pytest.raises(geoseg.OptionError, match="model and weights"):
        geoseg.predict(scene, model=model, weights="default")
    with pytest.raises(geoseg.OptionError, match="tta was chosen when"):
        geoseg.predict(scene, model=model, tta=True)
    with pytest.raises(geoseg.OptionError, match=r"a Identity; give a geoseg\.TileModel"):
        geoseg.predict(scene, model=torch.nn.Identity())
    with pytest.raises(geoseg.OptionError, match="device was chosen when"):
        geoseg.predict_array(np.zeros((64, 64, 3), np.uint8), model=model, device="cpu")


# -- Names --------------------------------------------------------------------------------------

DIFFERENT = {
    "predict": ({"scenes", "mosaic", "output", "as_json", "quiet"}, {"scene", "out", "model"}),
    "vectorize": ({"output", "skip_none", "classes_file", "as_json", "quiet"}, {"out", "classes"}),
    "export": ({"output", "kind", "wanted", "quiet"}, {"out", "format", "layer"}),
    "evaluate": ({"confusion", "scene", "truth", "field", "layer", "by_group", "as_json"}, set()),
    "report": ({"output", "quiet"}, {"out"}),
    "sample": (
        {"output", "expected", "minimum", "as_json", "quiet"},
        {"out", "expect", "min_per_class"},
    ),
    "accuracy": ({"map_raster", "as_json"}, {"map"}),
    "change": ({"output", "as_json", "quiet"}, {"out"}),
    "count": ({"output", "as_json", "quiet"}, {"out"}),
    "derive": ({"output", "wanted", "quiet"}, {"out", "objects"}),
    "decode": ({"output", "only", "as_json", "quiet"}, {"out", "classes"}),
    "suggest": ({"output", "quiet"}, {"out"}),
    "train": ({"output", "settings"}, {"out", "changes", "report"}),
}
"""Parameters that only the command has, and those that only the function has."""


@pytest.mark.parametrize("name", DIFFERENT)
def test_functions_have_the_options_of_their_commands(name):
    options = {each.name: each for each in main.commands[name].params if each.name != "verbose"}
    parameters = dict(inspect.signature(geoseg.__getattr__(name)).parameters)
    only_command, only_function = DIFFERENT[name]
    assert options.keys() - parameters.keys() == only_command
    assert parameters.keys() - options.keys() - {"progress"} == only_function
    for common in options.keys() & parameters.keys() - {"weights", "formats", "skip", "batch_size"}:
        default = parameters[common].default
        if default is not inspect.Parameter.empty:
            assert options[common].to_info_dict()["default"] in (default, None), common


def test_import_is_light():
    code = """
import sys
import geoseg
print({"torch", "rasterio", "geopandas", "numpy", "PIL", "tqdm"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_name_is_there_and_described():
    assert set(geoseg.__all__) <= set(dir(geoseg))
    for name in set(geoseg.__all__) - {"__version__", "IGNORE", "ISAID"}:
        thing = getattr(geoseg, name)
        assert thing.__doc__, name
        if inspect.isfunction(thing) and thing.__module__.startswith("geoseg.api"):
            assert ">>> " in thing.__doc__, name
            assert f"geoseg.{name}(" in thing.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = geoseg.nonsense


def test_train_can_be_called_though_a_package_has_its_name(monkeypatch):
    package = importlib.import_module("geoseg.train")
    monkeypatch.setattr("geoseg.api.training.train", lambda *names, **options: (names, options))
    assert geoseg.train is package
    assert geoseg.train("recipe", data="patches") == (("recipe",), {"data": "patches"})


# -- The others ---------------------------------------------------------------------------------


def test_vectorize_export_and_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raster = write_map(tmp_path / "map.tif")
    done = geoseg.vectorize(raster, simplify=0, smooth=False)
    assert done.output == Path("map.gpkg")
    assert sum(done.features.values()) == 3
    (file,) = geoseg.export(
        "map.gpkg", out="shared", format="geojson", layer=next(iter(done.features))
    )
    assert file == Path("shared/map.geojson")
    written = command("vectorize", raster, "-o", "other.gpkg", "--simplify", 0, "--no-smooth")
    assert written.exit_code == 0
    scores = geoseg.score_objects(raster, "map.gpkg")
    assert [score.f1 for score in scores] == [1.0] * 3


def test_a_scene_is_a_context(scene):
    pixels, _ = pixels_of(scene)
    with geoseg.Scene.open(scene) as opened:
        found = opened.read(geoseg.Window(200, 100, 64, 32))
    np.testing.assert_array_equal(found.image, pixels[:, 100:132, 200:264])
