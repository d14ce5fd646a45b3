"""Kernels in Triton compute what torch does: on a CUDA device, or in Triton's interpreter.

    TRITON_INTERPRET=1 python -m pytest tests/gpu/test_triton.py

runs them on a CPU, as tests/unit/model/test_triton.py does. Without both they are skipped.
"""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("there is no CUDA device", allow_module_level=True)
pytest.importorskip("triton")

from geoseg.model.devices import Precision  # noqa: E402
from geoseg.model.fused import FusedBlock, FusedMSCA  # noqa: E402
from geoseg.model.gpu import kernels  # noqa: E402
from geoseg.model.gpu.block import TritonBlock, use_triton  # noqa: E402
from geoseg.model.inference.prepare import prepare  # noqa: E402
from geoseg.model.load import load_model  # noqa: E402
from geoseg.model.mscan import MSCA, Block, depthwise  # noqa: E402
from geoseg.model.tile_model import TileModel  # noqa: E402
from geoseg.synthetic import render_scene  # noqa: E402
from geoseg.timing import StageTimer  # noqa: E402

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
on_device = pytest.mark.skipif(INTERPRETED, reason="the interpreter is too slow")
WORST = {torch.float32: 2e-6, torch.bfloat16: 6e-3}
"""Norm of the error, of the norm of the result; bfloat16 has rounded steps between."""
SIZES = [(1, 1, 1, 3), (2, 5, 23, 9), (1, 27, 3, 16), (3, 47, 91, 160), (1, 33, 130, 250)]
CASES = list(product(SIZES, WORST))
if INTERPRETED:  # strips reach beyond both borders at once, and tiles beyond the map
    CASES = [((2, 5, 7, 3), torch.float32), ((1, 3, 19, 3), torch.bfloat16)]
cases = pytest.mark.parametrize(("size", "dtype"), CASES)


@pytest.fixture(autouse=True)
def _setup(monkeypatch: pytest.MonkeyPatch) -> object:
    torch.manual_seed(0)
    if INTERPRETED:  # which takes a time for each value, also for those outside of a map
        monkeypatch.setattr(kernels, "SQUARE", kernels.Tile(8, 16, 8, 1))
        monkeypatch.setattr(kernels, "ACROSS", kernels.Tile(8, 16, 4, 1))
        monkeypatch.setattr(kernels, "DOWN", kernels.Tile(8, 32, 4, 1))
    with torch.inference_mode():
        yield


def values(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """(N,H,W,C) on the device; far from zero on average, so that borders matter."""
    return torch.randn(size).add_(1.0).to(DEVICE, dtype)


def placed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a module as `prepare` leaves it, with biases that matter."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.bias is not None:
            nn.init.normal_(conv.bias)
    return prepare(module, DEVICE, dtype, triton=False)


def exact(module: nn.Module, x: Tensor) -> Tensor:
    """Return what a module, as it is rounded, makes of `x` (N,H,W,C), in float64 on the CPU."""
    return module.to("cpu", torch.float64)(x.cpu().double().movedim(-1, 1)).movedim(1, -1)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    error = (found.cpu().double() - expected).norm() / expected.norm()
    assert error < WORST[found.dtype]


@cases
def test_square(size: tuple[int, ...], dtype: torch.dtype) -> None:
    conv = placed(depthwise(size[-1], (3, 3)), dtype)
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    x = values(size, dtype)
    found = kernels.convolve(x, kernels.taps(conv), conv.bias.float(), gelu=True)
    assert_close(found, F.gelu(exact(conv, x)))


class Scales(nn.Module):
    """The depthwise part of `FusedMSCA`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unit = MSCA(channels)

    def forward(self, x: Tensor) -> Tensor:
        unit = self.unit
        local = unit.conv0(x)
        short = unit.conv0_2(unit.conv0_1(local))
        middle = unit.conv1_2(unit.conv1_1(local))
        return local + short + middle + unit.conv2_2(unit.conv2_1(local))


@on_device
@cases
def test_scales(size: tuple[int, ...], dtype: torch.dtype) -> None:
    scales = placed(Scales(size[-1]), dtype)
    block = block_of(size[-1], dtype)
    block.gate = FusedMSCA(scales.unit)  # type: ignore[arg-type]
    ready, x = TritonBlock(block), values(size, dtype)
    assert_close(kernels.multiscale(x, ready.weights, ready.biases), exact(scales, x))


def block_of(channels: int, dtype: torch.dtype) -> FusedBlock:
    block = Block(channels, 2, 0.0)
    for norm in (block.norm1, block.norm2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    for scale in (block.layer_scale_1, block.layer_scale_2):
        nn.init.uniform_(scale, -1.0, 1.0)
    ready = placed(FusedBlock(block.eval()), dtype)
    assert isinstance(ready, FusedBlock)
    return ready


@cases
def test_blocks(size: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    block = block_of(size[-1], dtype)
    x = values(size, dtype)
    before = x.clone()
    found = TritonBlock(block)(x.movedim(-1, 1)).movedim(1, -1)
    assert torch.equal(x, before)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # the form of other devices
    assert_close(found, exact(block, x))


@on_device
def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = TritonBlock(block_of(16, torch.float32)), values((1, 9, 11, 16), torch.float32)
    expected = kernels.multiscale(x, block.weights, block.biases)
    for name, tile in (("SQUARE", (2, 4, 16, 1)), ("ACROSS", (4, 8, 4, 1)), ("DOWN", (8, 4, 4, 1))):
        monkeypatch.setattr(kernels, name, kernels.Tile(*tile))
    assert torch.equal(kernels.multiscale(x, block.weights, block.biases), expected)


def test_compilers_get_the_torch_form(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = block_of(4, torch.float32), values((1, 3, 3, 4), torch.float32).movedim(-1, 1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(TritonBlock(block)(x), block(x))


def test_without_a_compiler_blocks_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    network = nn.Sequential(block_of(4, torch.float32))
    monkeypatch.setattr(TritonBlock, "forward", fail)
    use_triton(network)
    assert isinstance(network[0], FusedBlock)
    assert "Failed to find C compiler" in caplog.text


# -- What only a device can show ---------------------------------------------------------------


@on_device
def test_large_batches() -> None:
    """Offsets in the batch exceed 32 bits."""
    size = (3, 4096, 8192, 32)
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 50 * 2**30:
        pytest.skip("too little memory")
    block = TritonBlock(block_of(32, torch.bfloat16))
    x = torch.randn(size[1:], device=DEVICE, dtype=torch.bfloat16).expand(size).contiguous()
    for found in (
        kernels.convolve(x, block.weights[0], block.biases[0]),
        kernels.multiscale(x, block.weights, block.biases),
    ):
        assert torch.equal(found[0], found[2])
        assert found[2, -1].any()


@on_device
@pytest.mark.parametrize(
    ("precision", "worst", "same"), [("float32", 1e-2, 0.995), ("auto", 0.1, 0.97)]
)
def test_whole_networks(precision: Precision, worst: float, same: float) -> None:
    picture = render_scene(256, 256, seed=1).image.transpose(2, 0, 1)
    tiles = [np.ascontiguousarray(np.roll(picture, 31 * i, axis=2)) for i in range(3)]
    valid = [np.ones((256, 256), bool)] * len(tiles)
    network = load_model("segnext_t_aerial")
    model = TileModel(network, device="cuda", precision=precision, batch_size=2)
    blocks = [part for part in model.forward.network.modules() if isinstance(part, TritonBlock)]  # type: ignore[attr-defined]
    assert len(blocks) == 13
    found = np.stack(model(tiles, valid, StageTimer()))
    if precision == "auto":
        again = np.stack(model(tiles[::-1], valid, StageTimer()))[::-1]
        assert again.tobytes() == found.tobytes()
    expected = TileModel(network, device="cpu", precision="float32")(tiles, valid, StageTimer())
    assert np.abs(found - expected).max() <= worst * np.abs(expected).max()
    assert (found.argmax(axis=1) == np.argmax(expected, axis=1)).mean() >= same
