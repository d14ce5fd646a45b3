"""The C code of the CPU's forward pass computes what torch does."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.cpu import kernels, matmul
from geoseg.model.fused import fuse
from geoseg.model.mscan import MSCA, depthwise
from geoseg.model.segnext import SegNeXt
from geoseg.native.library import library

needs_compiled = pytest.mark.skipif(not library(), reason="no compiler was at hand")
SIZES = [(1, 1), (1, 9), (3, 72), (24, 73), (26, 150), (61, 7)]
"""Heights and widths around the sizes of the bands that the C code cuts maps into."""


@pytest.fixture(autouse=True)
def _no_gradient() -> object:
    torch.manual_seed(0)  # weights are drawn
    with torch.inference_mode():
        yield


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)


@needs_compiled
def test_gelu_is_exact_to_single_precision() -> None:
    x = torch.cat([torch.linspace(-30, 30, 60_001), torch.tensor([0.0, -0.0, 1e-30, 1e4, -1e4])])
    x = F.pad(x, (0, -len(x) % 16)).view(-1, 16)
    exact = 0.5 * x.double() * (1 + torch.erf(x.double() / math.sqrt(2)))
    error = (kernels.bias_gelu(x.clone(), torch.zeros(16)) - exact).abs()
    assert (error / x.double().abs().clamp(min=1)).max() < 3e-7
    assert kernels.bias_gelu(torch.full((1, 8), math.nan), torch.zeros(8)).isnan().all()


@needs_compiled
@pytest.mark.parametrize("pixels", [1, 6, 257, 1000])
@pytest.mark.parametrize(("channels", "columns"), [(32, 16), (40, 48), (1024, 256)])
def test_pointwise_conv(
    pixels: int, channels: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "is_plain_avx2", lambda: True)
    x, bias, out = values(pixels, channels), values(columns, seed=1), values(pixels, columns)
    conv = nn.Conv2d(channels, columns, 1)
    plain = x @ conv.weight.flatten(1).T
    same = partial(torch.testing.assert_close, rtol=0, atol=2e-5)
    same(matmul.pointwise_conv(x, conv), plain)
    same(matmul.pointwise_conv(x, conv, bias=bias), plain + bias)
    found = matmul.pointwise_conv(x, conv, out=(added := out.clone()), add=True)
    assert found is added
    same(found, plain + out)
    same(matmul.pointwise_conv(x, conv, out=added), plain)
    gain, factor = values(columns, seed=2), values(pixels, columns, seed=3)

    def with_all() -> Tensor:
        scaled = {"out": out.clone(), "add": True, "gain": gain, "bias": bias}
        return matmul.pointwise_conv(x, conv, **scaled, activation="gelu")

    def times() -> Tensor:
        found = matmul.pointwise_conv(x, conv, bias=bias, factor=(overwritten := factor.clone()))
        assert found is overwritten
        return found

    same(with_all(), F.gelu(plain + out + gain * out + bias), atol=2e-4)
    same(times(), (plain + bias) * factor, atol=2e-4)
    same(matmul.pointwise_conv(x, conv, bias=bias, activation="relu"), (plain + bias).relu())
    by_torch(monkeypatch)
    same(matmul.pointwise_conv(x, conv, bias=bias), plain + bias)
    same(matmul.pointwise_conv(x, conv, out=out.clone(), add=True), plain + out)
    same(with_all(), F.gelu(plain + out + gain * out + bias), atol=2e-4)
    same(times(), (plain + bias) * factor, atol=2e-4)
    same(matmul.pointwise_conv(x, conv, bias=bias, activation="relu"), (plain + bias).relu())


@needs_compiled
def test_bias_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    x, bias = values(35, 24), values(24, seed=1)
    found = kernels.bias_gelu(x.clone(), bias)
    by_torch(monkeypatch)
    torch.testing.assert_close(found, kernels.bias_gelu(x, bias), rtol=0, atol=2e-6)


@needs_compiled
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_depthwise_gelu(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, before, conv = values(height + 2, width, 16), values(16, seed=1), depthwise(16, (3, 3))
    overwritten = x.clone()
    found = kernels.depthwise_gelu(overwritten, before, conv)
    assert found.shape == (height, width, 16)
    assert torch.equal(overwritten[-2:], x[-2:])  # the next band begins with them
    by_torch(monkeypatch)
    expected = kernels.depthwise_gelu(x, before, conv)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


@needs_compiled
@pytest.mark.parametrize(("height", "width"), [*SIZES, (3, 400)])
@pytest.mark.parametrize(("channels", "hidden"), [(16, 48), (32, 256)])
def test_fused_mlp(
    height: int, width: int, channels: int, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "is_plain_avx2", lambda: True)
    x, before, dwconv = values(height, width, channels), values(hidden), depthwise(hidden, (3, 3))
    fc1, fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
    assert matmul.use_fused_mlp(x, hidden)
    wide = x @ fc1.weight.flatten(1).T + before
    gated = F.gelu(dwconv(wide.movedim(2, 0)[None]))[0].movedim(0, 2)
    expected = x + gated @ fc2.weight.flatten(1).T
    assert (expected - x).std() > 0.05
    untouched = x.clone()
    found = matmul.fused_mlp(x, fc1, before, dwconv, fc2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(x, untouched)


@needs_compiled
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_multiscale_conv(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    unit = MSCA(24)
    convs = [conv for conv in unit.children() if conv is not unit.conv3]
    x = values(height, width, 24)
    found = kernels.multiscale_conv(x, convs)
    y = unit.conv0(x.movedim(2, 0)[None])
    expected = y + unit.conv0_2(unit.conv0_1(y)) + unit.conv1_2(unit.conv1_1(y))
    expected = (expected + unit.conv2_2(unit.conv2_1(y)))[0].movedim(0, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)
    by_torch(monkeypatch)
    torch.testing.assert_close(kernels.multiscale_conv(x, convs), expected, rtol=0, atol=5e-6)


def test_torch_computes_what_the_c_code_cannot() -> None:
    odd = values(5, 6, 12)
    assert kernels.library_for(odd) is None
    assert kernels.library_for(values(5, 6, 16).bfloat16()) is None
    assert kernels.library_for(values(5, 16, 6).transpose(1, 2)) is None
    unit = MSCA(12)
    convs = [conv for conv in unit.children() if conv is not unit.conv3]
    assert kernels.multiscale_conv(odd, convs).shape == odd.shape


@needs_compiled
@pytest.mark.parametrize("variant", ["T", "S"])  # B and L: more such blocks, wider heads
def test_networks_agree_with_and_without(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    network = fuse(SegNeXt(variant).eval())
    x = values(1, 3, 64, 96)
    found = network(x)
    by_torch(monkeypatch)
    expected = network(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
