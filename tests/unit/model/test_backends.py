"""Other engines give torch's logits, or say in one line why they cannot."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import torch
from small_networks import shrink, small_network

from geoseg.classes import ISAID
from geoseg.errors import OptionError
from geoseg.model import devices, tile_model
from geoseg.model.engines import backends
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.bench import StandIn
from geoseg.timing import StageTimer

SIDE = 64


@pytest.fixture(scope="module")
def network() -> SegNeXt:
    torch.manual_seed(3)
    model = SegNeXt("T", 16)
    model.metadata = Metadata("T", ISAID)
    with torch.no_grad():
        model.decode_head.conv_seg.weight.mul_(100)
        model.train()(torch.randn(4, 3, 96, 96))  # norms that do something
    return model.eval()


@pytest.fixture(scope="module")
def tiles() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three, one of them partly without data."""
    rng = np.random.default_rng(0)
    valid = [np.ones((SIDE, SIDE), bool) for _ in range(3)]
    valid[1][: SIDE // 2] = False
    return [rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8) for _ in valid], valid


def logits_of(model: TileModel, tiles: tuple[list[np.ndarray], list[np.ndarray]]) -> np.ndarray:
    return np.stack(model(*tiles, StageTimer()))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_agree_with_torch(tiles, backend, monkeypatch, tmp_path):
    for package in backends.PACKAGES[backend]:
        pytest.importorskip(package)
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path))
    shrink(monkeypatch)
    network = small_network("lite0")
    expected = logits_of(TileModel(network, device="cpu", precision="float32"), tiles)
    assert expected.std() > 0.05
    model = TileModel(network, backend=backend, precision="float32", batch_size=2)
    found = logits_of(pickle.loads(pickle.dumps(model)), tiles)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * abs(expected).max())
    assert model.options["backend"] == backend
    assert model.device.type == "cpu"
    if backend == "openvino":  # keeps its graph, for all sizes
        monkeypatch.setattr(backends, "converted", lambda module: pytest.fail("converted again"))
        images, valid = tiles
        wide = [np.concatenate(images[:2], axis=2)], [np.concatenate(valid[:2], axis=1)]
        again = TileModel(network, backend=backend, precision="float32")
        plain = logits_of(TileModel(network, device="cpu", precision="float32"), wide)
        np.testing.assert_allclose(
            logits_of(again, wide), plain, rtol=0, atol=2e-5 * abs(plain).max()
        )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_missing_package_is_named_with_its_extra(network, backend, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(
        OptionError, match=rf"pip install 'geoseg\[{backends.EXTRAS[backend]}\]'"
    ) as caught:
        TileModel(network, backend=backend, precision="float32")
    assert all(package in str(caught.value) for package in backends.PACKAGES[backend])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "openvino", "device": "meta"}, "--backend openvino .* --device meta"),
        ({"backend": "openvino", "precision": "float16"}, "--precision float16"),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "float32, not in --precision bf"),
    ],
)
def test_contradictions_name_their_flags(network, options, message):
    with pytest.raises(OptionError, match=message):
        TileModel(network, **options)


@pytest.mark.parametrize(("native", "warnings"), [(True, 0), (False, 1)])
def test_emulated_bfloat16_is_warned_of(network, monkeypatch, caplog, native, warnings):
    monkeypatch.setattr(devices, "cpu_computes_bfloat16", lambda: native)
    TileModel(network, device="cpu", precision="bfloat16")
    assert sum("emulates bfloat16" in record.message for record in caplog.records) == warnings
    TileModel(network, device="cpu")
    assert len(caplog.records) == warnings


@pytest.mark.parametrize(
    ("machine", "native", "backend", "dtype"),
    [
        ("x86_64", True, "torch", torch.bfloat16),
        ("x86_64", True, "onnxruntime", torch.float32),
        ("x86_64", False, "torch", torch.float32),
        ("aarch64", True, "torch", torch.float32),
    ],
)
def test_auto_precision_on_a_cpu_follows_its_instructions(
    network, monkeypatch, machine, native, backend, dtype
):
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(devices, "cpu_computes_bfloat16", lambda: native)
    monkeypatch.setattr(tile_model, "open_backend", lambda *rest: network)
    assert TileModel(network, device="cpu", backend=backend).dtype == dtype


def test_the_network_that_is_given_stays_as_it_is(network, tiles):
    """Training validates its live model: that one goes on, and what was prepared does not."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    model = TileModel(network, device="cpu", precision="float32")
    first = logits_of(model, tiles)
    assert network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == before[name].stride()
    network.eval()
    pixels, valid = (torch.from_numpy(np.stack(each)) for each in tiles)
    plain = network(model.forward.normalize(pixels, valid)).detach().numpy()
    np.testing.assert_allclose(first, plain, rtol=0, atol=2e-5 * abs(plain).max())


def test_tiles_that_overtake_each_other_come_back_in_order():
    class Dawdling(StandIn):
        def forward(self, x):
            time.sleep(0.1 if x.mean() > 0 else 0.0)  # the bright ones
            return super().forward(x)

    model = TileModel(Dawdling(), device="cpu")
    assert model.streams * model.pool.share <= max(1, torch.get_num_threads())
    bright = [255, 0, 255, 0, 0, 255]
    images = [np.full((3, SIDE, SIDE), value, np.uint8) for value in bright]
    timer = StageTimer()
    found = model(images, [np.ones((SIDE, SIDE), bool)] * len(images), timer)
    assert [bool(logits[9].mean() > 0) for logits in found] == [value > 0 for value in bright]
    assert timer.seconds["model"] >= 0.3
