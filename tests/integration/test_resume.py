"""Runs that were stopped, in every way, and go on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes import write_discs
from results import assert_same_outputs
from stopping import Counting, Stop, stop_after

from geoseg.errors import OutputError
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict

TILING = {
    "tiling": TilingOptions(tile_size=128, overlap=32),
    "compute": ComputeOptions(tiles_per_block=1, workers=2),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_discs(tmp_path_factory.mktemp("scene") / "town.tif", 410, 530)


@pytest.fixture(scope="module")
def reference(scene, tmp_path_factory):
    """An uninterrupted run, and the tiles that it took."""
    model = Counting()
    output = OutputOptions(tmp_path_factory.mktemp("reference"), confidence=True)
    summary = predict(scene, TileModel(model, device="cpu"), output, **TILING)
    return summary, model.tiles


def run(scene, folder, model=None, progress=lambda done, total: None, tiling=TILING, **output):
    output = OutputOptions(Path(folder), **{"confidence": True, **output})
    model = TileModel(model or Counting(), device="cpu")
    return predict(scene, model, output, **tiling, progress=progress)


@pytest.mark.parametrize("blocks", [1, 2, 7, 20])
def test_a_stopped_run_goes_on(scene, reference, tmp_path, blocks):
    expected, tiles = reference
    first, second = Counting(), Counting()
    with pytest.raises(Stop) as stopped:
        run(scene, tmp_path, first, stop_after(blocks))
    assert "town.unfinished" in stopped.value.__notes__[0]
    assert [path.name for path in tmp_path.iterdir()] == ["town.unfinished"]
    assert_same_outputs(expected, run(scene, tmp_path, second))
    assert not (tmp_path / "town.unfinished").exists()
    # What the model had done is not done again, but for what ran when the stop came.
    assert second.tiles < tiles - blocks
    assert first.tiles + second.tiles <= tiles + TILING["compute"].threads


def test_a_run_is_stopped_again_and_again(scene, reference, tmp_path):
    for _ in range(4):
        with pytest.raises(Stop):
            run(scene, tmp_path, progress=stop_after(6))
    assert_same_outputs(reference[0], run(scene, tmp_path))


def die(scene: Path, folder: Path, blocks: int) -> None:
    """In a process of its own, which never returns."""
    seen = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == blocks:
            os.kill(os.getpid(), signal.SIGKILL)

    run(scene, folder, progress=progress)


def test_a_killed_run_goes_on(scene, reference, tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=die, args=(scene, tmp_path, 9))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob("town.*.tif"))
    model = Counting()
    assert_same_outputs(reference[0], run(scene, tmp_path, model))
    assert 0 < model.tiles < reference[1] - 9


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_torn_files_are_made_again(scene, reference, tmp_path, kept):
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(12))
    store = tmp_path / "town.unfinished"
    for path in store.glob("*.npz"):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
    assert_same_outputs(reference[0], run(scene, tmp_path))


def test_a_flipped_bit_is_noticed(scene, reference, tmp_path):
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(12))
    for path in (tmp_path / "town.unfinished").glob("*.npz"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert_same_outputs(reference[0], run(scene, tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {
                "tiling": {
                    "tiling": TilingOptions(tile_size=128, overlap=64),
                    "compute": ComputeOptions(tiles_per_block=1),
                }
            },
            "--overlap was 32 and is",
        ),
        ({"confidence": False}, "--confidence was on and is off"),
        ({"min_area": 4.0}, "--min-area was not given and is 4.0"),
        ({"simplify": 1.0}, "--simplify was not given and is 1.0"),
    ],
)
def test_other_options_start_afresh_and_say_so(scene, reference, tmp_path, caplog, change, said):
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(12))
    model = Counting()
    with caplog.at_level(logging.WARNING, "geoseg"):
        run(scene, tmp_path, model, **change)
    assert said in caplog.text
    assert "starting afresh" in caplog.text
    assert model.tiles >= reference[1]


def test_a_changed_scene_starts_afresh(tmp_path, caplog):
    scene = write_discs(tmp_path / "town.tif", 300, 300)
    with pytest.raises(Stop):
        run(scene, tmp_path / "out", progress=stop_after(3))
    write_discs(scene, 300, 300, seed=6)
    with caplog.at_level(logging.WARNING, "geoseg"):
        found = run(scene, tmp_path / "out")
    assert "starting afresh" in caplog.text
    assert_same_outputs(found, run(scene, tmp_path / "fresh"))


def test_only_one_run_at_a_time(scene, tmp_path):
    def intrude(done: int, total: int) -> None:
        with pytest.raises(OutputError, match="in use by another run"):
            run(scene, tmp_path)

    run(scene, tmp_path, progress=intrude)
    assert not list(tmp_path.glob(".*"))


def test_results_of_an_earlier_run_survive_until_the_new_ones_are_whole(scene, tmp_path):
    first = run(scene, tmp_path)
    before = {name: Path(path).read_bytes() for name, path in first.outputs.items()}
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(3), overwrite=True, min_area=50.0)
    assert {name: Path(path).read_bytes() for name, path in first.outputs.items()} == before


def test_the_store_is_small(tmp_path):
    """Logits are kept of about two rows of blocks, however long the scene is."""
    scene = write_discs(tmp_path / "strip.tif", 9000, 300)
    tiling = {
        "tiling": TilingOptions(tile_size=256, overlap=32),
        "compute": ComputeOptions(tiles_per_block=1, workers=2),
    }
    sizes = []

    def measure(done: int, total: int) -> None:
        files = (tmp_path / "strip.unfinished").iterdir()
        sizes.append(sum(path.stat().st_size for path in files if path.suffix == ".npz"))

    run(scene, tmp_path, progress=measure, tiling=tiling, confidence=False)
    assert max(sizes) < 0.5 * 9000 * 300


def test_logits_of_a_stopped_run_are_the_same(scene, tmp_path):
    zarr = pytest.importorskip("zarr")
    one = run(scene, tmp_path / "one", logits=True)
    with pytest.raises(Stop):
        run(scene, tmp_path / "two", progress=stop_after(8), logits=True)
    two = run(scene, tmp_path / "two", logits=True)
    first, second = (
        zarr.open_group(s.outputs["logits"], mode="r")["logits"][:] for s in (one, two)
    )
    assert np.array_equal(first, second, equal_nan=True)
    with (
        rasterio.open(one.outputs["confidence"]) as a,
        rasterio.open(two.outputs["confidence"]) as b,
    ):
        assert np.array_equal(a.read(), b.read())
