"""Convolutions by oneDNN compute what torch's own layers do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geoseg.model.cpu import convolutions
from geoseg.model.cpu.convolutions import OneDNNConv2d, can_fuse, fuse_activations
from geoseg.model.pyramid import EfficientNetPyramid, SameConv2d, fold_norms

pytestmark = pytest.mark.skipif(
    not can_fuse(torch.float32), reason="this torch has no convolutions of oneDNN"
)


@pytest.fixture(scope="module", params=["lite0", "lite2"])
def network(request: pytest.FixtureRequest) -> EfficientNetPyramid:
    torch.manual_seed(0)
    model = EfficientNetPyramid(request.param, 5)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, 0, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.bias, 0, 0.3)
    return fold_norms(model)


def pixels(*size: int) -> Tensor:
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_those_of_torch(network: EfficientNetPyramid, dtype: torch.dtype) -> None:
    x = pixels(96, 160)
    with torch.inference_mode():
        expected = network(x)
        found = fuse_activations(network, dtype)(x)
    assert found.dtype == dtype
    precise = dtype == torch.float32
    error = (found.float() - expected).abs().max() / expected.std()
    assert error < (1e-4 if precise else 0.2)
    assert (found.float() - expected).abs().mean() / expected.std() < (1e-5 if precise else 0.03)


@pytest.mark.parametrize("height", [96, 128, 288])
def test_bands_change_no_bit(
    network: EfficientNetPyramid, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = pixels(height, 64)
    with torch.inference_mode():
        monkeypatch.setattr(convolutions, "BAND", height)
        whole = fuse_activations(network, torch.float32)(x)
        monkeypatch.setattr(convolutions, "BAND", 32)
        assert torch.equal(fuse_activations(network, torch.float32)(x), whole)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6()])
def test_padding_and_activation_are_those_of_the_layers(
    kernel: int, stride: int, activation: nn.Module | None
) -> None:
    if kernel < stride:
        pytest.skip("a network that skips pixels")
    conv = SameConv2d(8, 8, kernel, stride, groups=8)
    layers = nn.Sequential(conv, activation or nn.Identity())
    x = 9 * pixels(20, 26)[:, :1].expand(-1, 8, -1, -1)
    with torch.inference_mode():
        fused = OneDNNConv2d(conv, activation, torch.float32)
        torch.testing.assert_close(fused(x), layers(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 64), (64, 48), (16, 96)])
def test_pointwise_convolutions_in_bfloat16(
    inputs: int, outputs: int, activation: nn.Module | None
) -> None:
    conv = nn.Conv2d(inputs, outputs, 1)
    x = (9 * torch.randn(2, inputs, 5, 7)).bfloat16().contiguous(memory_format=torch.channels_last)
    exact = nn.Conv2d(inputs, outputs, 1).requires_grad_(False)
    for ours, given in zip(exact.parameters(), conv.parameters(), strict=True):
        ours.copy_(given.bfloat16())
    with torch.inference_mode():
        fused = OneDNNConv2d(conv, activation, torch.bfloat16)
        assert fused.is_product == (min(inputs, outputs) >= convolutions.PRODUCT)
        plain = exact(x.float())
        expected = plain if activation is None else activation(plain)
        torch.testing.assert_close(fused(x).float(), expected, rtol=2**-8, atol=1e-4)
        total = torch.randn(plain.shape).bfloat16().contiguous(memory_format=torch.channels_last)
        expected = plain + total.float()
        torch.testing.assert_close(fused.add_to(total, x).float(), expected, rtol=2**-8, atol=1e-4)


def test_the_network_that_is_given_stays_as_it_is(network: EfficientNetPyramid) -> None:
    layers = list(map(type, network.modules()))
    fuse_activations(network, torch.bfloat16)
    assert list(map(type, network.modules())) == layers
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert network.backbone.band is None
