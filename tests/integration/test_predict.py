"""Predict from end to end, with a stand-in model whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from fakes import TRANSFORM, Colors, write_discs
from results import assert_same_outputs, layers_of

from geoseg.classes import IGNORE, ISAID
from geoseg.cli.main import main
from geoseg.errors import OptionError, OutputError
from geoseg.geo.layers.object_scores import score_objects
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution import graph
from geoseg.pipeline.execution.block_store import BlockStore
from geoseg.pipeline.execution.tasks import infer_block
from geoseg.pipeline.options import ComputeOptions, OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict

HEIGHT, WIDTH = 410, 530


class Broken(Colors):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("this model fails")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_discs(tmp_path_factory.mktemp("scene") / "town.tif", HEIGHT, WIDTH)


SMALL = {"tiling": TilingOptions(tile_size=128, overlap=32), "compute": ComputeOptions(workers=2)}


def run(scene, folder, tiling=SMALL, model=None, scene_options=None, **output):
    model = TileModel(model or Colors(), device="cpu")
    return predict(
        scene, model, OutputOptions(Path(folder), **output), scene=scene_options, **tiling
    )


def assert_same_map(one, two):
    """Equal but for the last bits of the logits."""
    with rasterio.open(one.outputs["classes"]) as a, rasterio.open(two.outputs["classes"]) as b:
        assert (a.read(1) != b.read(1)).mean() <= 1e-6
    first, second = layers_of(one.outputs["gpkg"]), layers_of(two.outputs["gpkg"])
    assert list(first) == list(second)
    for name, frame in first.items():
        assert frame.geometry.equals(second[name].geometry)
        np.testing.assert_allclose(frame["confidence"], second[name]["confidence"], atol=1e-4)


@pytest.fixture(scope="module")
def reference(scene, tmp_path_factory):
    return run(scene, tmp_path_factory.mktemp("reference"), simplify=0.0)


class Demanding(Colors):
    metadata = Metadata("T", ISAID, min_confidence={"plane": 0.9})


@pytest.mark.parametrize(
    ("model", "option", "limits"),
    [
        (Demanding(), None, {"plane": 0.9}),
        (Demanding(), {"ship": 0.8}, {"ship": 0.8}),
        (Demanding(), 0.85, {"plane": 0.85, "ship": 0.85, "small_vehicle": 0.85}),
    ],
)
def test_uncertain_objects_are_left_out_of_the_layers(
    scene, reference, tmp_path, model, option, limits
):
    found = run(scene, tmp_path, model=model, simplify=0.0, min_confidence=option)
    layers, dropped = layers_of(found.outputs["gpkg"]), 0
    for name, frame in layers_of(reference.outputs["gpkg"]).items():
        kept = frame[frame["confidence"] >= limits.get(name, 0)]
        dropped += len(frame) - len(kept)
        assert list(layers[name].geometry) == list(kept.geometry)
        assert found.classes[name].objects == len(kept)
    assert 0 < dropped < reference.objects
    assert sorted(i for frame in layers.values() for i in frame["object_id"]) == [
        *range(1, found.objects + 1)
    ]
    with (
        rasterio.open(found.outputs["classes"]) as one,
        rasterio.open(reference.outputs["classes"]) as all_of_them,
    ):
        assert (one.read(1) == all_of_them.read(1)).all()


def test_the_layers_are_what_is_scored(scene, tmp_path):
    found = run(scene, tmp_path, model=Demanding())
    layers, raster = found.outputs["gpkg"], found.outputs["classes"]
    scores = {score.name: score for score in score_objects(Path(layers), Path(layers))}
    assert {name: score.found for name, score in scores.items()} == {
        name: total.objects for name, total in found.classes.items()
    }
    assert all(score.f1 == 1 for score in scores.values())
    regions = {score.name: score for score in score_objects(Path(raster), Path(layers))}
    assert regions["plane"].found > scores["plane"].found
    assert regions["ship"].found == scores["ship"].found


def test_a_limit_for_a_class_that_the_weights_lack_is_refused(scene, tmp_path):
    with pytest.raises(OptionError, match=r"--min-confidence.*no class 'car', but ship"):
        run(scene, tmp_path, min_confidence={"car": 0.5})
    with pytest.raises(OptionError, match="--min-confidence is 60"):
        run(scene, tmp_path, min_confidence=60)


def test_class_raster_lies_on_the_scenes_grid_and_is_a_cog(scene, reference):
    with rasterio.open(reference.outputs["classes"]) as found, rasterio.open(scene) as given:
        assert found.crs == given.crs
        assert found.transform == given.transform
        assert found.shape == given.shape
        assert found.nodata == IGNORE
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.colormap(1)[14][:3] == ISAID[14].color
        assert found.tags(1)["CLASS_14"] == "plane"
        ids = found.read(1)
        empty = (given.read() == 0).all(axis=0)
    assert ((ids == IGNORE) == empty).all()
    assert set(np.unique(ids)) == {0, 1, 9, 14, IGNORE}
    assert reference.valid_pixels == (~empty).sum()


def test_unsimplified_polygons_are_the_class_raster(reference):
    with rasterio.open(reference.outputs["classes"]) as file:
        ids, transform = file.read(1), file.transform
    drawn = np.zeros_like(ids)
    for name, frame in layers_of(reference.outputs["gpkg"]).items():
        class_id = next(item.id for item in ISAID if item.name == name)
        assert frame.crs.to_epsg() == 32633
        assert frame.geometry.is_valid.all()
        assert (frame["class_id"] == class_id).all()
        np.testing.assert_allclose(frame["area_m2"], frame.geometry.area, rtol=1e-3)
        assert frame["confidence"].between(0, 1).all()
        shapes = [(geometry, class_id) for geometry in frame.geometry]
        drawn |= rasterio.features.rasterize(shapes, ids.shape, transform=transform, dtype="uint8")
    assert (drawn == np.where(ids == IGNORE, 0, ids)).all()


def test_discs_get_their_classes(scene, reference):
    with rasterio.open(scene) as file:
        image = file.read().astype(int)
    with rasterio.open(reference.outputs["classes"]) as file:
        ids = file.read(1)
    for channel, class_id in enumerate((14, 9, 1)):
        disc = (image[channel] == 220) & (ids != IGNORE)
        assert (ids[disc] == class_id).mean() > 0.7


@pytest.mark.parametrize("workers", [1, 4])
def test_outputs_do_not_depend_on_workers(scene, reference, tmp_path, workers):
    tiling = {
        "tiling": TilingOptions(tile_size=128, overlap=32),
        "compute": ComputeOptions(workers=workers),
    }
    assert_same_outputs(reference, run(scene, tmp_path, tiling, simplify=0.0))


@pytest.mark.parametrize("length", [1, 7])
def test_outputs_do_not_depend_on_strips(scene, reference, tmp_path, monkeypatch, length):
    monkeypatch.setattr(graph, "STRIP", length)
    assert_same_outputs(reference, run(scene, tmp_path, simplify=0.0))


@pytest.mark.parametrize("size", [1, 4])
def test_outputs_do_not_depend_on_which_logits_are_in_memory(
    scene, reference, tmp_path, monkeypatch, size
):
    read, inferred = [], BlockStore.inferred

    def counted(self, number):
        if (logits := inferred(self, number)) is not None:
            read.append(number)
        return logits

    monkeypatch.setattr(BlockStore, "inferred", counted)
    monkeypatch.setattr(graph, "_in_use", lambda workers: size)
    tiling = {"compute": ComputeOptions(tiles_per_block=1, workers=2)}
    assert_same_outputs(reference, run(scene, tmp_path, SMALL | tiling, simplify=0.0))
    assert len(read) > 10


@pytest.mark.parametrize("side", [1, 3, 9])
def test_outputs_do_not_depend_on_blocks(scene, reference, tmp_path, side):
    tiling = {
        "tiling": TilingOptions(tile_size=128, overlap=32),
        "compute": ComputeOptions(tiles_per_block=side),
    }
    assert_same_map(reference, run(scene, tmp_path, tiling, simplify=0.0))


def test_confidence_and_logits(scene, tmp_path):
    zarr = pytest.importorskip("zarr")
    summary = run(scene, tmp_path, confidence=True, logits=True)
    with rasterio.open(summary.outputs["confidence"]) as file:
        percent = file.read(1)
        assert file.nodata == IGNORE
    with rasterio.open(summary.outputs["classes"]) as file:
        ids = file.read(1)
    assert ((percent == IGNORE) == (ids == IGNORE)).all()
    assert percent[ids != IGNORE].max() <= 100
    group = zarr.open_group(summary.outputs["logits"], mode="r")
    store = group["logits"]
    assert store.shape == (-(-HEIGHT // 8), -(-WIDTH // 8), 16)
    assert store.attrs["classes"][14] == "plane"
    logits = torch.from_numpy(store[:]).float().permute(2, 0, 1)[None]
    full = F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)
    full = full[0, :, :HEIGHT, :WIDTH]
    decoded = full.argmax(dim=0).numpy()
    probs = full.softmax(dim=0).amax(dim=0).numpy() * 100
    known = ids != IGNORE
    assert (decoded == ids)[known].mean() > 0.999
    assert np.abs(probs - percent)[known].max() < 2
    assert np.isfinite(store[:]).all()
    assert (group["valid"][:] == (ids != IGNORE)).all()


def test_logits_of_an_area_of_interest(scene, tmp_path):
    """On the cells' grid, with the numbers that the whole has there."""
    zarr = pytest.importorskip("zarr")
    left, top = TRANSFORM.c + 0.5 * 130, TRANSFORM.f - 0.5 * 100
    area = f"{left},{top - 60},{left + 100},{top}"  # columns 130 to 330, rows 100 to 220
    whole = run(scene, tmp_path / "whole", logits=True)
    part = run(scene, tmp_path / "part", logits=True, scene_options=SceneOptions(aoi=area))
    with rasterio.open(part.outputs["classes"]) as file:
        assert (file.width, file.height) == (200, 120)
    expected, found = (
        zarr.open_group(s.outputs["logits"], mode="r")["logits"] for s in (whole, part)
    )
    assert found.shape == (29 - 11, 43 - 15, 16)  # and the neighbors that decoding needs
    assert found.attrs["transform"][0] == TRANSFORM.c + 0.5 * 8 * 15
    assert found.attrs["transform"][3] == TRANSFORM.f - 0.5 * 8 * 11
    assert (found[:] == expected[11:29, 15:43]).all()


def test_existing_results_are_kept_unless_told_otherwise(scene, tmp_path):
    first = run(scene, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(map(Path, first.outputs.values())) < set(before)
    with pytest.raises(OutputError, match="overlap was 32 and is 64; give --overwrite"):
        run(scene, tmp_path, {"tiling": TilingOptions(tile_size=128, overlap=64)})
    with pytest.raises(RuntimeError, match="this model fails"):
        run(scene, tmp_path, model=Broken(), overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(scene, tmp_path, overwrite=True)


def test_a_failing_model_leaves_nothing(scene, tmp_path):
    with pytest.raises(RuntimeError, match="this model fails"):
        run(scene, tmp_path / "new", model=Broken(), confidence=True, logits=True)
    assert not (tmp_path / "new").exists()


def test_test_time_augmentation_is_symmetric(scene, tmp_path):
    """With the colors' own symmetry, turning changes nothing but the rounding."""
    plain, turned = Colors(), TileModel(Colors(), device="cpu", tta=True)
    x = torch.randn(1, 3, 64, 96)
    expected = plain(x).softmax(dim=1)
    torch.testing.assert_close(turned.forward.augmented(x).exp(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gsd", [0.35, 0.8])
def test_at_another_gsd_the_outputs_stay_on_the_scenes_grid(scene, reference, tmp_path, gsd):
    summary = run(scene, tmp_path, scene_options=SceneOptions(gsd=gsd))
    with rasterio.open(summary.outputs["classes"]) as found:
        ids, transform = found.read(1), found.transform
    with rasterio.open(reference.outputs["classes"]) as file:
        expected = file.read(1)
    assert transform == TRANSFORM
    assert ((ids == IGNORE) == (expected == IGNORE)).all()
    assert (ids == expected).mean() > 0.9


def test_weights_see_no_finer_pixels_than_they_know(scene, reference, tmp_path):
    """The scene has 0.5 m; outputs are those of --gsd 0.8, and the summary says why."""
    model = Colors()
    model.metadata = Metadata("T", ISAID, gsd_range=(0.8, 2.0))
    unasked = run(scene, tmp_path / "unasked", model=model)
    asked = run(scene, tmp_path / "asked", scene_options=SceneOptions(gsd=0.8))
    own = run(scene, tmp_path / "own", model=model, scene_options=SceneOptions(gsd=0.5))
    for pair in ((unasked, asked), (own, reference)):
        found, expected = (Path(summary.outputs["classes"]).read_bytes() for summary in pair)
        assert found == expected
    assert unasked.options["gsd"] == 0.8
    assert any("the model saw it at 0.8 m (--gsd 0.5 leaves it" in note for note in unasked.notes)
    assert not any("gsd" in note for note in own.notes)


def test_a_scene_too_coarse_for_the_weights_is_left_as_it_is(scene, reference, tmp_path):
    model = Colors()
    model.metadata = Metadata("T", ISAID, gsd_range=(0.1, 0.3))
    summary = run(scene, tmp_path, model=model)
    assert summary.options["gsd"] is None
    assert any("--gsd 0.3 may find more" in note for note in summary.notes)
    found, expected = (Path(one.outputs["classes"]) for one in (summary, reference))
    assert found.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"tile_size": 100}, "--tile-size"),
        ({"overlap": 33}, "--overlap"),
        ({"tile_size": 128, "overlap": 96}, "--overlap"),
        ({"workers": 0}, "--workers"),
    ],
)
def test_impossible_options_name_their_flag(options, flag):
    with pytest.raises(OptionError, match=flag):
        (ComputeOptions if "workers" in options else TilingOptions)(**options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained SegNeXt-T: it runs, whatever it finds."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "t.safetensors"
    save_checkpoint(path, SegNeXt("T", 16), Metadata("T", ISAID))
    return path


def test_command_prints_one_json_object(scene, checkpoint, tmp_path):
    arguments = [str(scene), "-o", str(tmp_path), "--weights", str(checkpoint)]
    arguments += ["--tile-size", "128", "--overlap", "32", "--json"]
    result = CliRunner().invoke(main, ["predict", *arguments])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["pixels"] == HEIGHT * WIDTH
    assert {"read", "model", "decode", "total"} <= set(summary["seconds"])
    assert summary["options"]["tile_size"] == 128
    assert all(Path(path).exists() for path in summary["outputs"].values())
    again = CliRunner().invoke(main, ["predict", *arguments])
    assert again.exit_code == 0
    assert json.loads(again.stdout) == summary | {"state": "skipped"}


def test_command_on_a_picture_without_georeferencing(checkpoint, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    arguments = ["predict", str(tmp_path / "x.png"), "-o", str(tmp_path), "--weights"]
    result = CliRunner().invoke(main, [*arguments, str(checkpoint)])
    assert result.exit_code == 0, result.output
    assert "pixel coordinates" in result.stderr
    assert (tmp_path / "x.classes.tif").exists()


def test_one_bad_scene_does_not_lose_the_others(scene, checkpoint, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"not a raster")
    arguments = ["predict", str(bad), str(scene), "-o", str(tmp_path), "--weights", str(checkpoint)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "bad.tif" in result.stderr
    assert (tmp_path / "town.gpkg").exists()


def test_scenes_of_one_name_are_refused_before_any_work(scene, tmp_path):
    result = CliRunner().invoke(main, ["predict", str(scene), str(scene), "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "called town" in result.stderr


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_blocks_begin_in_turn(scene, tmp_path, monkeypatch, workers):
    """However dask would order them: no block waits for one that was left behind."""
    done, early = set(), []

    def watched(plan, block, model):
        number = list(plan.grid.blocks()).index(block)
        if number >= workers and number - workers not in done:
            early.append(number)
        inferred = infer_block(plan, block, model)
        done.add(number)
        return inferred

    monkeypatch.setattr("geoseg.pipeline.execution.graph.infer_block", watched)
    run(
        scene,
        tmp_path,
        {
            "tiling": TilingOptions(tile_size=128, overlap=32),
            "compute": ComputeOptions(workers=workers),
        },
    )
    assert len(done) == 24
    assert early == []
