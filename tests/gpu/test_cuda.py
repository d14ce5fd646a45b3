"""What only a CUDA device can show; skipped without one. See tests/benchmarks/gpu.sh."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import torch
from fakes import write_discs

from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.synthetic import render_scene
from geoseg.timing import StageTimer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
SIDE = 256


def cuda(**how) -> TileModel:
    return TileModel(load_model(), **{"device": "cuda", "batch_size": 4, **how})


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    picture = render_scene(SIDE, SIDE, seed=1).image.transpose(2, 0, 1)
    return [np.ascontiguousarray(np.roll(picture, 31 * i, axis=2)) for i in range(11)]


def logits_of(model: TileModel, tiles: list[np.ndarray]) -> np.ndarray:
    return np.stack(model(tiles, [np.ones((SIDE, SIDE), bool)] * len(tiles), StageTimer()))


@pytest.fixture(scope="module")
def expected(tiles) -> np.ndarray:
    return logits_of(TileModel(load_model(), device="cpu", precision="float32"), tiles)


@pytest.mark.parametrize(
    ("precision", "worst", "same"), [("float32", 1e-2, 0.995), ("auto", 0.1, 0.97)]
)
def test_logits_are_those_of_the_cpu(tiles, expected, precision, worst, same):
    found = logits_of(cuda(precision=precision), tiles)
    assert np.abs(found - expected).max() <= worst * np.abs(expected).max()
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= same


def test_bytes_do_not_depend_on_order_and_threads(tiles):
    model = cuda()
    first = logits_of(model, tiles)
    assert logits_of(model, tiles[::-1])[::-1].tobytes() == first.tobytes()
    with ThreadPoolExecutor(len(tiles)) as pool:
        for _ in range(5):
            found = list(pool.map(lambda tile: logits_of(model, [tile])[0], tiles))
            assert np.stack(found).tobytes() == first.tobytes()


def test_a_device_out_of_memory_takes_smaller_batches(tiles, expected, caplog):
    """Memory for the weights and two tiles or so is left."""
    model = cuda(precision="float32", batch_size=64)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + 400 * 2**20) / total
        )
        with caplog.at_level(logging.WARNING, "geoseg"):
            found = logits_of(model, tiles)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert model.batch_size < 64
    assert "is out of memory" in caplog.text
    assert np.abs(found - expected).max() <= 1e-2 * np.abs(expected).max()


def test_predictions_repeat_byte_for_byte(tmp_path):
    scene = write_discs(tmp_path / "town.tif", 700, 900)
    found = set()
    for workers in (1, 3, 16):
        summary = predict(
            scene,
            cuda(),
            OutputOptions(tmp_path / f"{workers}"),
            TilingOptions(SIDE, 64),
            compute=ComputeOptions(workers=workers),
        )
        with rasterio.open(summary.outputs["classes"]) as file:
            found.add(file.read().tobytes())
    assert len(found) == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_two_devices_give_the_bytes_of_one(tiles):
    assert (
        logits_of(cuda(device="cuda:0,cuda:1"), tiles * 4).tobytes()
        == logits_of(cuda(device="cuda:0"), tiles * 4).tobytes()
    )
