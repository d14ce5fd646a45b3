"""Exported files give torch's numbers, in other programs and at other sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from small_networks import CLASSES, shrink, small_network
from torch.export import ExportedProgram

from geoseg.cli.main import main
from geoseg.errors import CheckpointError, OptionError, OutputError
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.engines import export
from geoseg.model.engines.export import export_weights
from geoseg.model.engines.graph import GraphForm, PixelGraph, fixed_padding, trace
from geoseg.model.fused import fuse
from geoseg.model.pyramid import SameConv2d

WITH_ONNXRUNTIME = """
import json, sys
import numpy as np, onnxruntime
model, pixels, found = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(taken,), (given,) = session.get_inputs(), session.get_outputs()
np.save(found, session.run(None, {taken.name: np.load(pixels)})[0])
keys = session.get_modelmeta().custom_metadata_map
print(json.dumps([taken.name, taken.shape, given.name, given.shape, keys, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Small networks, each traced once: torch takes seconds for a graph of free sides."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        once = cache(lambda kind, form, size: trace(PixelGraph(small_network(kind), form), size))

        def traced(graph: PixelGraph, size: tuple[int, int] | None) -> ExportedProgram:
            form = GraphForm(1 if graph.probabilities else 255, graph.probabilities)
            return once(graph.network.metadata.variant, form, size)

        monkeypatch.setattr(export, "trace", traced)
        yield


def pixels_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, 3, height, width)).astype(np.float32)


def expected_logits(network: torch.nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """The network on pixels of 0-255, at full size."""
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (network.metadata.mean, network.metadata.std)
    )
    with torch.inference_mode():
        logits = network((torch.from_numpy(pixels) - mean) / std)
    return F.interpolate(logits, pixels.shape[2:], mode="bilinear")


def run_alone(path: Path, pixels: np.ndarray, folder: Path) -> tuple[np.ndarray, list]:
    """Run a file in a process that has ONNX Runtime and no torch."""
    np.save(folder / "pixels.npy", pixels)
    done = subprocess.run(
        [sys.executable, "-c", WITH_ONNXRUNTIME, path, folder / "pixels.npy", folder / "found.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    return np.load(folder / "found.npy"), json.loads(done.stdout)


def test_onnx_runs_alone_at_any_size(tmp_path: Path) -> None:
    for package in export.PACKAGES["onnx"]:
        pytest.importorskip(package)
    network, path = small_network("lite0"), tmp_path / "model.onnx"
    assert export_weights(network, path, "onnx") < 1e-3
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    pixels = pixels_of(160, 64)
    found, (taken, shape, given, _, keys, has_torch) = run_alone(path, pixels, tmp_path)
    assert not has_torch
    assert (taken, given) == ("pixels", "logits")
    assert shape[:2] == [1, 3]
    assert all(isinstance(side, str) for side in shape[2:])
    expected = expected_logits(network, pixels).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    (output,) = json.loads(keys["mlm:output"])
    assert output["result"]["shape"] == [1, 3, -1, -1]
    assert [each["name"] for each in output["classification:classes"]] == ["land", "sea", "ship"]
    assert json.loads(keys["mlm:input"])[0]["value_scaling"] is None
    assert json.loads(keys["mlm:tasks"]) == ["semantic-segmentation"]
    assert keys["license"] == "CC0"


def test_deepness_finds_what_it_expects(tmp_path: Path) -> None:
    """Read as Deepness and GeoDeep do; pixels come divided by 255, probabilities go."""
    network, path = small_network("T"), tmp_path / "model.pt2"
    save_checkpoint(tmp_path / "small.safetensors", network, network.metadata, dtype=torch.float32)
    arguments = ["weights", "export", tmp_path / "small.safetensors", "-o", path, "--deepness"]
    done = CliRunner().invoke(main, [*map(str, arguments), "--tile-size", "128"])
    assert done.exit_code == 0, done.output
    pixels = pixels_of(128, 128)
    found, keys = read_back("torch", path, pixels / 255)
    expected = expected_logits(network, pixels).softmax(dim=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-4)
    values = {name: json.loads(keys[name]) for name in keys if not name.startswith(("mlm", "lic"))}
    assert values["model_type"] == "Segmentor"
    assert values["class_names"] == {str(item.id): item.name for item in CLASSES}
    assert values["resolution"] == 25  # cm
    assert values["tiles_size"] == values["tile_size"] == 128
    assert 0 < int(keys["tiles_overlap"]) < 100
    assert float(keys["seg_thresh"]) == 0
    assert int(keys["seg_small_segment"]) >= 0
    assert (values["standardization_mean"], values["standardization_std"]) == ([0] * 3, [1] * 3)
    (taken,) = json.loads(keys["mlm:input"])
    assert taken["input"]["shape"] == [1, 3, 128, 128]
    assert taken["value_scaling"] == [{"type": "scale", "value": 255}]


@pytest.mark.parametrize("to", ["openvino", "torch"])
def test_other_formats_give_the_same(to: export.Format, tmp_path: Path) -> None:
    for package in export.PACKAGES[to]:
        pytest.importorskip(package)
    network, path = small_network("lite0"), tmp_path / f"model{export.SUFFIXES[to]}"
    assert export_weights(network, path, to) < 1e-3
    names = {"openvino": {"model.xml", "model.bin"}, "torch": {"model.pt2"}}[to]
    assert {each.name for each in tmp_path.iterdir()} == names
    with pytest.raises(OutputError, match=r"exists; give --overwrite"):
        export_weights(network, path, to)
    pixels = pixels_of(64, 192)
    found, keys = read_back(to, path, pixels)
    np.testing.assert_allclose(found, expected_logits(network, pixels), rtol=0, atol=1e-3)
    assert json.loads(keys["class_names"])["1"] == "sea"
    assert keys["mlm:architecture"] == "EfficientNet-lite0"


def read_back(to: export.Format, path: Path, pixels: np.ndarray) -> tuple[np.ndarray, dict]:
    """Return outputs and metadata of a file."""
    if to == "torch":
        extra = {"metadata.json": ""}
        module = torch.export.load(path, extra_files=extra).module()
        return module(torch.from_numpy(pixels)).detach().numpy(), json.loads(extra["metadata.json"])
    import openvino

    model = openvino.Core().read_model(path)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    info = model.get_rt_info(["model_info"]).value
    return compiled({"pixels": pixels})["logits"], info


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        export.WRITERS,
        "torch",
        (export.write_torch, lambda path: lambda tile: export.run_torch(path)(tile) + 2e-3),
    )
    (tmp_path / "model.pt2").write_text("an older one")
    with pytest.raises(CheckpointError, match=r"differs from torch by 0\.002"):
        export_weights(
            small_network("lite0"),
            tmp_path / "model.pt2",
            "torch",
            form=GraphForm(tile_size=64),
            overwrite=True,
        )
    assert [each.read_text() for each in tmp_path.iterdir()] == ["an older one"]


@pytest.mark.parametrize(
    ("name", "to", "size", "message"),
    [
        (
            "model.onnx",
            "openvino",
            None,
            "no name for --to openvino; end it in .xml",
        ),
        ("model.pt2", "torch", 100, "--tile-size is 100; give a multiple of 32"),
        ("model.onnx", "onnx", None, r"needs onnx, .*pip install 'geoseg\[export\]'"),
        ("model.xml", "openvino", None, r"needs openvino; .*pip install 'geoseg\[openvino\]'"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(
    name: str,
    to: export.Format,
    size: int | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=message):
        export_weights(torch.nn.Identity(), tmp_path / name, to, form=GraphForm(tile_size=size))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)])
def test_fixed_padding_is_that_of_multiples_of_the_stride(kernel: int, stride: int) -> None:
    conv = SameConv2d(3, 6, kernel, stride, groups=3)
    x = torch.randn(1, 3, 8, 14)
    assert torch.equal(fixed_padding(conv)(x), conv(x))


def test_a_compiler_sees_whole_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.model.fused.BAND_BYTES", 1)
    fused = fuse(small_network("T"))
    program = torch.export.export(fused, (torch.randn(1, 3, 64, 64),))
    convolutions = sum("conv2d" in str(node.target) for node in program.graph.nodes)
    modules = sum(isinstance(module, torch.nn.Conv2d) for module in fused.modules())
    assert convolutions == modules - 1  # one is a product with the bases
