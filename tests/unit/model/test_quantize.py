"""Weights of 8 bits are a checkpoint like others, and nearly as right."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from commands import command, refused
from fakes import write_discs
from PIL import Image
from small_networks import CLASSES, shrink, small_network

from geoseg.datasets.layout import Patch, write_classes, write_patch, write_split
from geoseg.errors import CheckpointError, DataError, OptionError
from geoseg.model.checkpoint import read_checkpoint, save_checkpoint
from geoseg.model.engines import quantize as module
from geoseg.model.engines.quantized import QuantizedNetwork
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.calibration import calibration_tiles
from geoseg.timing import StageTimer

HEIGHT, WIDTH = 200, 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint, a scene, and what the command makes of both."""
    for package in module.PACKAGES:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("quantized")
    write_discs(folder / "town.tif", HEIGHT, WIDTH)
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        monkeypatch.setenv("GEOSEG_CACHE", str(folder / "cache"))
        network = small_network("lite0")
        save_checkpoint(folder / "small.safetensors", network, network.metadata)
        done = command(
            *("weights", "quantize", folder / "small.safetensors", "--tiles", 4),
            *("--calibrate", folder / "town.tif", "-o", folder / "int8.safetensors"),
        )
        assert done.exit_code == 0, done.output
        (share,) = re.findall(r"2 tiles; ([\d.]+)% of the pixels keep their class", done.stdout)
        assert float(share) > 95
        yield folder


def test_quantized_weights_predict_like_those_before(folder: Path) -> None:
    before, quantized = (load_model(folder / f"{name}.safetensors") for name in ("small", "int8"))
    assert isinstance(quantized, QuantizedNetwork)
    known = quantized.metadata
    assert (known.classes, known.gsd_range, known.license) == (CLASSES, (0.25, 2), "CC0")
    assert known.provenance.startswith("Quantized to 8 bits by NNCF")
    assert b"FakeQuantize" in quantized.files[0]
    with rasterio.open(folder / "town.tif") as file:
        image = file.read()[:, :192, 64:]
    torchs = TileModel(before, device="cpu", backend="torch")
    model = pickle.loads(pickle.dumps(TileModel(quantized)))
    assert model.options["backend"] == "openvino"
    assert model.options["precision"] == "int8, float32"
    for height, width in ((192, 320), (160, 608), (96, 96)):
        tile = [image[:, :height, :width]], [np.ones((height, width), bool)]
        plain, found = (each(*tile, StageTimer())[0] for each in (torchs, model))
        assert found.shape == plain.shape
        assert 0 < np.abs(found - plain).max() < 0.2 * np.abs(plain).max()
        assert (found.argmax(0) == plain.argmax(0)).mean() > 0.95


def test_commands_take_quantized_weights(folder: Path, tmp_path: Path) -> None:
    weights = folder / "int8.safetensors"
    done = command("predict", folder / "town.tif", "-o", tmp_path, "--weights", weights, "--json")
    assert done.exit_code == 0, done.output
    assert '"precision": "int8, float32"' in done.stdout
    assert "Quantized to 8 bits" in command("weights", "show", weights).stdout


def test_what_quantized_weights_cannot_do_is_said(folder: Path, tmp_path: Path) -> None:
    weights, out = folder / "int8.safetensors", tmp_path / "model.onnx"
    quantized = load_model(weights)
    with pytest.raises(OptionError, match="quantized for OpenVINO, not for --backend torch"):
        TileModel(quantized, backend="torch")
    with pytest.raises(OptionError, match="--backend openvino computes on the CPU"):
        TileModel(quantized, device="meta")
    with pytest.raises(CheckpointError, match="OpenVINO only"):
        quantized(torch.zeros(1, 3, 64, 64))
    with pytest.raises(CheckpointError, match="are quantized, which is for prediction only"):
        read_checkpoint(weights)
    scene = folder / "town.tif"
    again = ("weights", "quantize", weights, "--calibrate", scene, "-o", tmp_path / "b.safetensors")
    refused(*again, says="is quantized already")
    refused("weights", "export", weights, "-o", out.with_suffix(".pt2"), says="is quantized")
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_said_before_the_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    scene = write_discs(tmp_path / "town.tif", 100, 100)
    given = ("weights", "quantize", "default", "--calibrate", scene, "-o")
    refused(*given, tmp_path / "int8.onnx", says="end it in .safetensors")
    (tmp_path / "int8.safetensors").touch()
    refused(*given, tmp_path / "int8.safetensors", says="exists; give --overwrite")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    refused(*given, tmp_path / "new.safetensors", says="pip install 'geoseg[quantize]'")


def test_tiles_come_from_scenes_and_training_sets(tmp_path: Path) -> None:
    metadata = Metadata("lite0", CLASSES, mean=(10, 20, 30))
    scene, training = write_discs(tmp_path / "town.tif", 300, 1100), tmp_path / "patches"
    rng = np.random.default_rng(0)
    rows = (("a", "train"), ("small", "train"), ("b", "val"))
    patches = [Patch("g", name, split) for name, split in rows]
    for patch in patches:
        side = 40 if patch.name == "small" else 600
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        write_patch(training, patch, image, np.zeros((side, side), np.uint8))
    write_classes(training, CLASSES)
    write_split(training, patches)
    tiles = calibration_tiles([scene, training], metadata, 8)
    assert [tile.shape for tile in tiles] == [(3, 288, 512)] * 3 + [(3, 512, 512)]
    assert all(tile.dtype == np.uint8 for tile in tiles)
    shown = np.array(Image.open(training / patches[0].image))[44:556, 44:556]
    assert np.array_equal(tiles[3], shown.transpose(2, 0, 1))
    corner = next(tile for tile in tiles[:3] if (tile[:, 0, 0] == (10, 20, 30)).all())
    assert (corner[:, :50, :50] == np.array((10, 20, 30))[:, None, None]).all()  # has no data
    again = calibration_tiles([scene, training], metadata, 8)
    assert all(map(np.array_equal, tiles, again))
    assert len(calibration_tiles([scene, training], metadata, 2)) == 2
    with pytest.raises(DataError, match="no tile of at least 64 px"):
        calibration_tiles([write_discs(tmp_path / "small.tif", 50, 50)], metadata, 8)
