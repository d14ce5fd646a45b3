"""Predictions on fake accelerators are those of the CPU, byte for byte."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import rasterio
from click.testing import CliRunner
from fakes import Colors, write_discs

from geoseg.cli.main import main
from geoseg.errors import TileMemoryError
from geoseg.model import tile_model
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.pipeline.summary import Summary


def run(
    scene: Path, folder: Path, network: Colors, size: int = 96, overlap: int = 32, **how: object
) -> Summary:
    return predict(
        str(scene),
        TileModel(network, **{"device": "cpu", **how}),
        OutputOptions(folder, confidence=True),
        TilingOptions(size, overlap),
        compute=ComputeOptions(),
    )


def pixels(summary: Summary) -> list[bytes]:
    """Return the pixels of the rasters, whose metadata name the devices and the tile size."""
    found = []
    for kind in ("classes", "confidence"):
        with rasterio.open(summary.outputs[kind]) as file:
            found.append(file.read().tobytes())
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("scene") / "town.tif", 300, 340)


def test_two_devices_write_the_bytes_of_one_cpu(scene, tmp_path, monkeypatch):
    expected = run(scene, tmp_path / "cpu", Colors(), precision="float32")
    monkeypatch.setattr(tile_model, "is_accelerator", lambda device: True)
    monkeypatch.setattr(tile_model, "has_fixed_shapes", lambda device: True)
    options = {"device": "cpu:0,cpu:1", "precision": "float32", "batch_size": 4}
    found = run(scene, tmp_path / "two", Colors(), **options)
    assert found.options["device"] == "cpu:0, cpu:1"
    assert found.classes == expected.classes
    assert pixels(found) == pixels(expected)


class Narrow(Colors):
    """Has memory for tiles of 96 px."""

    def forward(self, x):
        if x.shape[2] * x.shape[3] > 96**2:
            raise RuntimeError("MPS backend out of memory")
        return super().forward(x)


def test_tiles_that_do_not_fit_are_halved(scene, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "geoseg"):
        found = run(scene, tmp_path / "narrow", Narrow(), size=256)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["no memory for one tile of 192 px: starting anew with --tile-size 96"]
    assert found.options["tile_size"] == 96
    expected = run(scene, tmp_path / "small", Colors())
    assert found.classes == expected.classes
    assert pixels(found) == pixels(expected)
    again = run(scene, tmp_path / "narrow", Narrow(), size=256)
    assert again.state == "skipped"


def test_tiles_are_not_halved_below_twice_the_overlap(scene, tmp_path):
    with pytest.raises(TileMemoryError, match="--tile-size below"):
        run(scene, tmp_path / "out", Narrow(), size=256, overlap=96)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_several_devices(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(tile_model, "is_accelerator", lambda device: True)
    monkeypatch.setattr("geoseg.model.load.load_model", lambda source: Colors())
    common = ["predict", str(scene), "-o", str(tmp_path), "--tile-size", "96", "--overlap", "32"]
    done = CliRunner().invoke(main, [*common, "--device", "cpu:0,cpu:1"])
    assert done.exit_code == 0, done.output
    refused = CliRunner().invoke(main, [*common, "--device", "cpu,cpu", "--overwrite"])
    assert refused.exit_code == 2
    assert "lists a device twice" in refused.output
