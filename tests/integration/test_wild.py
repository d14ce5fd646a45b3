"""Scenes as they come: any grid, size, dtype, number of bands and pattern of emptiness."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import fakes
import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
import torch
import yaml
from click.testing import CliRunner
from fakes import TRANSFORM, Colors, write_discs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from results import assert_same_outputs, layers_of

from geoseg.classes import IGNORE
from geoseg.cli.main import main
from geoseg.errors import OptionError, RecipeError, SceneError
from geoseg.geo.raster.scene import Scene
from geoseg.model.inference.batches import BatchSize
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import ComputeOptions, OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.tiling.grid import Window
from geoseg.train.recipe import find_recipe, load_recipe

SMALL = {
    "tiling": TilingOptions(tile_size=64, overlap=32),
    "compute": ComputeOptions(tiles_per_block=1, workers=2),
}


def run(scene, folder, tiling=SMALL, scene_options=None, **output):
    model = TileModel(Colors(), device="cpu")
    return predict(
        scene, model, OutputOptions(Path(folder), **output), scene=scene_options, **tiling
    )


@st.composite
def wild_rasters(draw):
    """Pixels (B,H,W), where they are valid, and the profile of a file that says so."""
    height, width = draw(st.integers(1, 110)), draw(st.integers(1, 110))
    count = draw(st.sampled_from([1, 2, 3, 4, 6]))
    dtype = draw(st.sampled_from(["uint8", "uint16", "int16", "float32"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pixels = rng.integers(1, 200, (count, height, width)).astype(dtype)
    pattern = draw(st.sampled_from(["none", "salt", "corner", "half", "all"]))
    empty = {
        "none": np.zeros((height, width), bool),
        "salt": rng.random((height, width)) < 0.1,
        "corner": np.add.outer(np.arange(height), np.arange(width)) < 40,
        "half": np.broadcast_to(np.arange(width) < width // 2, (height, width)),
        "all": np.ones((height, width), bool),
    }[pattern]
    angle = draw(st.sampled_from([0.0, 0.0, 30.0, -120.0]))
    size = draw(st.sampled_from([0.1, 0.5, 3.0]))
    down = draw(st.sampled_from([-1, 1]))
    place = Affine.translation(448_000, 5_412_000) @ Affine.rotation(angle)
    transform = place @ Affine.scale(size, down * size * draw(st.sampled_from([1.0, 1.3])))
    crs = draw(st.sampled_from(["EPSG:32633", "EPSG:25833", "EPSG:4326", None]))
    if crs == "EPSG:4326":
        transform = Affine.translation(12, 48) @ Affine.scale(1e-5, -1e-5) @ Affine.rotation(angle)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count}
    profile |= {"dtype": dtype, "transform": transform, "crs": crs}
    how = draw(st.sampled_from(["nodata", "mask"]))
    if how == "nodata":
        pixels[:, empty] = 0
        profile["nodata"] = 0
    return pixels, ~empty, profile, how


@given(wild_rasters())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_output_lies_on_the_scenes_grid_and_is_empty_where_the_scene_is(wild):
    pixels, valid, profile, how = wild
    with TemporaryDirectory() as folder:
        path = Path(folder) / "wild.tif"
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as f:
            f.write(pixels)
            if how == "mask":
                f.write_mask(valid)
        if not valid.any():
            with pytest.raises(SceneError, match="nothing to predict"):
                run(path, folder)
            return
        summary = run(path, folder)
        with rasterio.open(summary.outputs["classes"]) as found, rasterio.open(path) as given_:
            assert found.shape == given_.shape
            assert found.crs == given_.crs
            assert found.transform.almost_equals(given_.transform)
            ids = found.read(1)
            assert ((ids == IGNORE) == ~valid).all()
            drawn = np.zeros_like(ids)
            for frame in layers_of(summary.outputs["gpkg"]).values():
                assert frame.geometry.is_valid.all()
        assert summary.valid_pixels == valid.sum()
        exact = run(path, Path(folder) / "exact", simplify=0.0, min_area=0.0)
        for frame in layers_of(exact.outputs["gpkg"]).values():
            if len(frame):
                shapes = list(zip(frame.geometry, frame["class_id"], strict=True))
                drawn |= rasterio.features.rasterize(
                    shapes, ids.shape, transform=profile["transform"], dtype="uint8"
                )
        assert (drawn == np.where(ids == IGNORE, 0, ids)).all()


# --- area of interest -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_discs(tmp_path_factory.mktemp("scene") / "town.tif", 410, 530)


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    return run(scene, tmp_path_factory.mktemp("whole"))


def test_an_area_of_interest_is_cut_out_of_the_whole(scene, whole, tmp_path):
    corner = shapely.Point(TRANSFORM @ (300, 200))
    areas = geopandas.GeoDataFrame(geometry=[corner.buffer(45)], crs=32633)
    areas.to_crs(4326).to_file(tmp_path / "area.geojson")
    part = run(scene, tmp_path, scene_options=SceneOptions(aoi=str(tmp_path / "area.geojson")))
    with (
        rasterio.open(part.outputs["classes"]) as found,
        rasterio.open(whole.outputs["classes"]) as everything,
    ):
        left, top = (round(v) for v in ~everything.transform @ (found.transform @ (0, 0)))
        assert found.transform.almost_equals(TRANSFORM @ Affine.translation(left, top))
        ids = found.read(1)
        expected = everything.read(1)[top : top + found.height, left : left + found.width]
        inside = rasterio.features.rasterize(
            areas.geometry, ids.shape, transform=found.transform, dtype="uint8"
        ).astype(bool)
    assert abs(found.width - 180) <= 1
    assert (ids[inside] == expected[inside]).mean() > 0.999  # but for the circle's corners
    assert (ids[~inside] == IGNORE).mean() > 0.999
    for frame in layers_of(part.outputs["gpkg"]).values():
        assert frame.within(corner.buffer(46)).all()


def test_only_what_an_area_needs_is_computed(scene, tmp_path):
    class Counting(Colors):
        tiles = 0

        def forward(self, x):
            Counting.tiles += len(x)
            return super().forward(x)

    bounds = ",".join(map(str, [*TRANSFORM @ (100, 300), *TRANSFORM @ (110, 290)]))
    predict(
        scene,
        TileModel(Counting(), device="cpu"),
        OutputOptions(tmp_path),
        scene=SceneOptions(aoi=bounds),
        **SMALL,
    )
    assert 1 <= Counting.tiles <= 9


# --- the real scenes --------------------------------------------------------------------------


def test_all_real_scenes_keep_their_collars_empty(scenes, tmp_path):
    """The model calls everything an object, so only emptiness keeps polygons away."""

    class Everything(Colors):
        def forward(self, x):
            return super().forward(x) - 99 * torch.eye(16)[0][:, None, None]

    model = TileModel(Everything(), device="cpu")
    empty = 0
    for path in sorted(scenes.glob("*.tif")):
        scene = Scene.open(str(path))
        # The upper left of the large ones, where their collars are.
        window = Window(0, 0, 900, 900).intersection(scene.geobox.extent)
        geobox = scene.geobox.crop(window)
        corners = ((0.25, window.height - 0.25), (window.width - 0.25, 0.25))
        bounds = [value for corner in corners for value in geobox.transform @ corner]
        area = SceneOptions(aoi=",".join(map(str, bounds)))
        summary = predict(path, model, OutputOptions(tmp_path), scene=area)
        with rasterio.open(summary.outputs["classes"]) as found:
            assert found.shape == geobox.shape
            assert found.transform.almost_equals(geobox.transform)
            assert found.crs == geobox.crs
            invalid = ~scene.valid(window)
            assert ((found.read(1) == IGNORE) == invalid).all()
        covered = 0
        for frame in layers_of(summary.outputs["gpkg"]).values():
            inside = rasterio.features.rasterize(
                frame.geometry, geobox.shape, transform=geobox.transform, dtype="uint8"
            ).astype(bool)
            # Smoothing moves an outline by a pixel at most, along the collar as anywhere.
            assert (inside & eroded(invalid)).sum() == 0
            covered += inside.sum()
        assert covered > 0.98 * (~invalid).sum()
        empty += invalid.sum()
    assert empty > 6e5


def eroded(mask):
    """Without the pixels at its edge, three deep."""
    for _ in range(3):
        mask = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0)
        mask = mask & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    return mask


# --- several files --------------------------------------------------------------------------


def test_a_mosaic_of_cut_files_is_the_whole(scene, whole, tmp_path):
    parts = []
    with rasterio.open(scene) as file:
        for left, top in ((0, 0), (200, 0), (0, 150), (200, 150)):
            width = 200 if left == 0 else file.width - 200
            height = 150 if top == 0 else file.height - 150
            window = rasterio.windows.Window(left, top, width, height)
            profile = file.profile | {"width": width, "height": height}
            profile["transform"] = file.window_transform(window)
            parts.append(tmp_path / f"{left}-{top}.tif")
            with rasterio.open(parts[-1], "w", **profile) as part:
                part.write(file.read(window=window))
    from geoseg.geo.raster.mosaic import write_mosaic

    write_mosaic([str(path) for path in parts], tmp_path / "mosaic.vrt")
    assert_same_outputs(whole, run(tmp_path / "mosaic.vrt", tmp_path))


# --- machines -------------------------------------------------------------------------------


class Cramped(Colors):
    """Has memory for two tiles at a time."""

    def forward(self, x):
        if len(x) > 2:
            raise torch.OutOfMemoryError("too many tiles")
        return super().forward(x)


def test_a_device_out_of_memory_takes_smaller_batches(scene, whole, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("geoseg.model.tile_model.is_accelerator", lambda device: True)
    model = TileModel(Cramped(), device="cpu", batch_size=8)
    tiling = {
        "tiling": TilingOptions(tile_size=64, overlap=32),
        "compute": ComputeOptions(tiles_per_block=4, workers=2),
    }
    with caplog.at_level(logging.WARNING, "geoseg"):
        summary = predict(scene, model, OutputOptions(tmp_path), **tiling)
    assert "--batch-size 2" in caplog.text
    with (
        rasterio.open(summary.outputs["classes"]) as a,
        rasterio.open(whole.outputs["classes"]) as b,
    ):
        assert (a.read() == b.read()).all()


def test_threads_that_run_out_of_memory_at_once_halve_the_batch_once():
    batch = BatchSize(8)
    for _ in range(2):
        batch.halve(8, 64, "cuda")
    assert batch.tiles == 4
    batch.halve(4, 64, "cuda")
    assert batch.tiles == 2
    with pytest.raises(OptionError, match="--tile-size below 64"):
        batch.halve(1, 64, "cuda")


class Fragile(Colors):
    """Takes its process along the first time, if that is a worker's."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def forward(self, x):
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return super().forward(x)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_is_replaced(tmp_path):
    distributed = pytest.importorskip("distributed")
    scene = write_discs(tmp_path / "town.tif", 150, 150)
    whole = run(scene, tmp_path / "whole")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        tiling = {
            "tiling": TilingOptions(64, 32),
            "compute": ComputeOptions(scheduler=cluster.scheduler_address, tiles_per_block=1),
        }
        model = TileModel(Fragile(tmp_path / "died"), device="cpu")
        summary = predict(scene, model, OutputOptions(tmp_path / "out"), **tiling)
    assert (tmp_path / "died").exists()
    assert_same_outputs(whole, summary)


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from click.testing import CliRunner
from fakes import Colors
import geoseg.model.load
from geoseg.cli.main import main

class Slow(Colors):
    def forward(self, x):
        time.sleep(0.1)
        return super().forward(x)

geoseg.model.load.load_model = lambda weights: Slow()
main(["predict", sys.argv[1], "-o", sys.argv[2], "--tile-size", "64", "--overlap", "32"])
"""


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(scene, tmp_path):
    arguments = [
        sys.executable,
        "-c",
        SLOW,
        str(scene),
        str(tmp_path),
        str(Path(fakes.__file__).parent),
    ]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("town.unfinished/*.result.npz")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    said = process.communicate(timeout=60)[1]
    assert time.monotonic() - start < 30
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "town.unfinished" in said
    assert "goes on from there" in said
    assert [path.name for path in tmp_path.iterdir()] == ["town.unfinished"]


# --- bad options ----------------------------------------------------------------------------

TEXT = st.text(max_size=12) | st.sampled_from(["nan", "inf", "-1", "1e400", "0", "٣", "1,2", ",,"])
FLAGS = st.sampled_from(
    """tile-size overlap gsd bands rescale collar format simplify min-area batch-size workers
    precision device""".split()  # noqa: SIM905
)


@given(st.lists(st.tuples(FLAGS, TEXT), min_size=1, max_size=3))
@settings(max_examples=120, deadline=None)
def test_no_option_makes_a_traceback(pairs):
    arguments = [f"--{flag}={value}" for flag, value in pairs]
    absent = ["--weights", "absent.safetensors"]
    result = CliRunner().invoke(main, ["predict", "absent.tif", *absent, *arguments])
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit)
    assert "Error: " in result.stderr


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_recipe_makes_a_traceback(data):
    """One value of a sound recipe becomes anything that YAML knows."""
    content = yaml.safe_load(find_recipe("segnext_t_aerial").read_text("utf-8"))
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(VALUES)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(content), "utf-8")
        with contextlib.suppress(RecipeError):
            assert load_recipe(path).steps >= 1


# --- damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gsd", [None, 0.8])
def test_exactly_the_damaged_blocks_are_left_empty(tmp_path, gsd):
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    options = tiles | {"compress": "zstd", "interleave": "pixel", "nodata": None}
    path = write_discs(tmp_path / "town.tif", 410, 530, **options)
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\x00" * 8
    path.write_bytes(content)
    scene_options = SceneOptions(gsd=gsd, collar="off")
    summary = run(path, tmp_path / "out", scene_options=scene_options, keep_going=True)
    assert summary.damaged == [{"col_off": 256, "row_off": 128, "width": 128, "height": 128}]
    with rasterio.open(summary.outputs["classes"]) as file:
        empty = file.read(1) == IGNORE
    assert empty[128:256, 256:384].all()
    assert empty.sum() == 128 * 128
    with pytest.raises(SceneError, match=r"128×128 px at \(256, 128\)"):
        run(path, tmp_path / "strict", scene_options=scene_options)
    with pytest.raises(SceneError, match="cannot look at it"):
        Scene.open(str(path), collar="off").read(Scene.open(str(path)).geobox.extent)
