"""Depthwise convolutions in C compute what torch's layers do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geoseg.model.cpu import depthwise
from geoseg.model.cpu.convolutions import fuse_activations
from geoseg.model.cpu.depthwise import NativeDepthwise, native_depthwise
from geoseg.model.pyramid import EfficientNetPyramid, SameConv2d, fold_norms
from geoseg.native.library import library

needs_compiled = pytest.mark.skipif(not library(), reason="no compiler was at hand")


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> object:
    """The C code is right on any processor, and used on those where it is fast."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def maps(*shape: int) -> Tensor:
    """Values (N,C,H,W) that bfloat16 has, from -9 to 9."""
    x = (torch.rand(shape) * 18 - 9).bfloat16()
    return x.contiguous(memory_format=torch.channels_last)


@needs_compiled
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize("channels", [32, 34, 48, 96, 144])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_the_layers_of_torch(
    kernel: int, stride: int, channels: int, activation: nn.Module
) -> None:
    conv = SameConv2d(channels, channels, kernel, stride, groups=channels)
    native = native_depthwise(conv, activation, torch.bfloat16)
    assert isinstance(native, NativeDepthwise)
    for size in ((2, 2), (2, 30), (14, 2), (10, 16)):
        x = maps(2, channels, *size)
        exact = activation(conv(x.float()))
        # Rounded once, at the end: by half of the last of eight bits.
        torch.testing.assert_close(native(x).float(), exact, rtol=2**-8, atol=1e-5)


@needs_compiled
def test_odd_sides_at_stride_1() -> None:
    conv = SameConv2d(32, 32, 5, groups=32)
    native = native_depthwise(conv, nn.ReLU(), torch.bfloat16)
    assert native is not None
    for size in ((1, 1), (1, 7), (3, 1), (43, 9)):
        x = maps(1, 32, *size)
        torch.testing.assert_close(native(x).float(), conv(x.float()).relu(), rtol=2**-8, atol=1e-5)


@needs_compiled
def test_ties_round_to_even() -> None:
    conv = SameConv2d(32, 32, 3, groups=32)
    conv.weight.zero_()
    conv.weight[:, :, 1, 1] = 1 + 2**-8  # halfway between two numbers of bfloat16
    assert conv.bias is not None
    conv.bias.zero_()
    native = native_depthwise(conv, nn.ReLU(), torch.bfloat16)
    assert native is not None
    x = maps(1, 32, 6, 6)
    assert torch.equal(native(x), conv(x.float()).relu().bfloat16())


@needs_compiled
def test_a_pyramid_has_them() -> None:
    network = fold_norms(EfficientNetPyramid("lite0", 3))
    kinds = [type(each) for each in fuse_activations(network, torch.bfloat16).modules()]
    assert kinds.count(NativeDepthwise) == 16
    precise = fuse_activations(network, torch.float32)
    assert not any(isinstance(each, NativeDepthwise) for each in precise.modules())


@pytest.mark.parametrize(
    ("conv", "activation"),
    [
        (SameConv2d(32, 32, 3, groups=32), None),
        (SameConv2d(32, 32, 3, groups=32), nn.GELU()),
        (SameConv2d(16, 16, 3, groups=16), nn.ReLU()),
        (SameConv2d(33, 33, 3, groups=33), nn.ReLU()),
        (SameConv2d(32, 64, 3, groups=32), nn.ReLU()),
        (SameConv2d(32, 32, 3), nn.ReLU()),
        (SameConv2d(32, 32, 7, groups=32), nn.ReLU()),
        (SameConv2d(32, 32, 5, 3, groups=32), nn.ReLU()),
        (nn.Conv2d(32, 32, 3, groups=32), nn.ReLU()),
    ],
)
def test_torch_computes_the_rest(conv: nn.Conv2d, activation: nn.Module | None) -> None:
    assert native_depthwise(conv, activation, torch.bfloat16) is None


def test_so_it_does_without_the_c_code_and_on_other_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conv = SameConv2d(32, 32, 3, groups=32)
    with monkeypatch.context() as patch:
        patch.setattr(depthwise, "library", lambda: None)
        assert native_depthwise(conv, nn.ReLU(), torch.bfloat16) is None
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert native_depthwise(conv, nn.ReLU(), torch.bfloat16) is None
