"""The engine that a prediction takes by itself, and keeps."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from fakes import write_discs
from small_networks import shrink, small_network
from stopping import Stop, stop_after

from geoseg.errors import OptionError, OutputError
from geoseg.model import tile_model
from geoseg.model.engines import choice
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.pipeline.summary import Summary

HEIGHT, WIDTH = 160, 224


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("scene") / "town.tif", HEIGHT, WIDTH)


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the converted network is; OpenVINO is taken as installed, and torch does its work."""
    shrink(monkeypatch)
    path = tmp_path / "model.xml"

    def opened(backend: str, module: torch.nn.Module, *_: object) -> torch.nn.Module:
        assert backend == "openvino"
        path.touch()
        return module

    monkeypatch.setattr(tile_model, "open_backend", opened)
    monkeypatch.setattr(choice, "missing_packages", lambda backend: [])
    monkeypatch.setattr(choice, "graph_path", lambda model: path)
    return path


def pays_from(monkeypatch: pytest.MonkeyPatch, pixels: float) -> None:
    """Let the conversion pay from this many pixels on."""
    monkeypatch.setattr(choice, "PAYS_FROM", pixels / torch.get_num_threads())


def fresh(backend: tile_model.BackendOption = "auto", variant: str = "lite0") -> TileModel:
    return TileModel(small_network(variant), device="cpu", precision="float32", backend=backend)


def run(scene: Path, folder: Path, model: TileModel, blocks: int = 0, **output: bool) -> Summary:
    """Predict, or stop after this many blocks."""
    options = OutputOptions(folder, **output)
    progress = stop_after(blocks) if blocks else lambda done, total: None
    return predict(scene, model, options, TilingOptions(64, 32), progress=progress)


def test_the_conversion_is_made_when_it_pays(scene, graph, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO, "geoseg")
    model = fresh()
    pays_from(monkeypatch, 1.5 * HEIGHT * WIDTH)
    assert run(scene, tmp_path / "a", model).options["backend"] == "torch"
    assert "engine: torch, OpenVINO would have to convert the weights first" in caplog.text
    assert not graph.exists()
    assert run(scene, tmp_path / "b", model).options["backend"] == "openvino"  # the second scene
    assert "engine: openvino, it is faster\n" in caplog.text
    assert run(scene, tmp_path / "c", fresh()).options["backend"] == "openvino"  # is converted now
    assert run(scene, tmp_path / "d", fresh("torch")).options["backend"] == "torch"


def test_others_stay_on_torch(scene, graph, monkeypatch, tmp_path):
    pays_from(monkeypatch, 1)
    assert run(scene, tmp_path / "a", fresh(variant="T")).options["backend"] == "torch"
    monkeypatch.setattr(choice, "missing_packages", lambda backend: ["openvino"])
    assert run(scene, tmp_path / "b", fresh()).options["backend"] == "torch"
    assert not graph.exists()


@pytest.mark.parametrize(("first", "later"), [("torch", 1), ("openvino", 1e9)])
def test_a_stopped_run_goes_on_with_its_engine(
    first, later, scene, graph, monkeypatch, tmp_path, caplog
):
    with pytest.raises(Stop):
        run(scene, tmp_path, fresh(first), blocks=8)
    graph.unlink(missing_ok=True)
    pays_from(monkeypatch, later)  # by which another one would be chosen
    caplog.set_level(logging.INFO, "geoseg")
    assert run(scene, tmp_path, fresh()).options["backend"] == first
    assert f"engine: {first}, as before for this scene" in caplog.text
    assert "afresh" not in caplog.text
    done = run(scene, tmp_path, fresh())
    assert (done.state, done.options["backend"]) == ("skipped", first)
    anew = {"torch": "openvino", "openvino": "torch"}[first]
    graph.unlink(missing_ok=True)
    assert run(scene, tmp_path, fresh(), overwrite=True).options["backend"] == anew
    with pytest.raises(OutputError, match=f"backend was {anew} and is {first}; give --overwrite"):
        run(scene, tmp_path, fresh(first))


def test_an_engine_that_has_gone_is_named(scene, graph, monkeypatch, tmp_path):
    with pytest.raises(Stop):
        run(scene, tmp_path, fresh("openvino"), blocks=8)
    kept = {path.name for path in tmp_path.glob("town.unfinished/*.npz")}
    monkeypatch.setattr(choice, "missing_packages", lambda backend: ["openvino"])
    with pytest.raises(
        OptionError,
        match=r"with --backend openvino, which needs openvino; .* 'geoseg\[openvino\]', or give "
        "--backend torch to start anew",
    ):
        run(scene, tmp_path, fresh())
    assert kept == {path.name for path in tmp_path.glob("town.unfinished/*.npz")} != set()
