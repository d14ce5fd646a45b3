"""The inference form of SegNeXt computes what the training form does."""

from __future__ import annotations

import copy
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from small_networks import narrow
from torch import Tensor, nn

from geoseg.classes import ISAID
from geoseg.model.fused import fuse
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.model.variants import VARIANTS


@cache
def lively(variant: str, *, head_bias: bool = False) -> SegNeXt:
    """Random weights in which no norm, scale or bias is close to doing nothing. Change copies."""
    torch.manual_seed(len(variant) + ord(variant))
    model = SegNeXt(variant, 16, head_bias=head_bias).eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(parameter, -1.0, 1.0)
    with torch.no_grad():
        model.train()(pixels(2, 3, 96, 128))  # running statistics of this model
    model.eval()
    model.metadata = Metadata(variant, ISAID, head_bias=head_bias)
    return model


def pixels(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def assert_equal_logits(model: SegNeXt, fused: nn.Module, x: Tensor) -> None:
    expected = model(x)
    scale = expected.abs().max().item()
    assert expected.std() > 0.05 * scale  # they differ from place to place
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_training_form(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variant != "T":  # the others are deeper, and as wide as it pleases
        narrow(monkeypatch)
    model = lively(variant)
    fused = fuse(model)
    x = pixels(1, 3, 64, 96)
    assert_equal_logits(model, fused, x)
    assert_equal_logits(model, fused, x.contiguous(memory_format=torch.channels_last))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("rows", [1, 2, 5, 31])
def test_bands_of_the_mlp_do_not_show(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively("T")
    x = pixels(2, 3, 128, 64)
    widest = 2 * 256 * 16 * 4  # bytes of a row of the first stage's MLP
    monkeypatch.setattr("geoseg.model.fused.BAND_BYTES", rows * widest)
    monkeypatch.setattr("geoseg.model.fused.use_fused_mlp", lambda x, hidden: False)
    assert_equal_logits(model, fuse(model), x)


@pytest.mark.parametrize("rows", [1, 3, 8, 32])
def test_bands_of_the_stem_do_not_show(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.model.fused.STEM_ROWS", rows)
    model = TileModel(copy.deepcopy(lively("T")), device="cpu")
    tiles = torch.randint(0, 256, (2, 3, 128, 96), dtype=torch.uint8)
    mask = torch.rand(2, 128, 96) > 0.1
    with torch.inference_mode():
        expected = model.forward.run(model.forward.normalize(tiles, mask))
        scale = expected.abs().max().item()
        found = model.forward(tiles, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def test_biases_of_old_jittor_weights_and_odd_sizes_and_batches() -> None:
    model = lively("T", head_bias=True)
    assert_equal_logits(model, fuse(model), pixels(2, 3, 70, 101))


def test_recorded_logits_of_the_official_code(parity) -> None:
    model = SegNeXt("T", 16).eval()
    state = torch.load(parity / "segnext_t_official.pth", weights_only=True)["state_dict"]
    model.load_state_dict(state)
    recorded = np.load(parity / "segnext_t_io.npz")
    for size in ("256x320", "250x333"):
        with torch.inference_mode():
            logits = fuse(model)(torch.from_numpy(recorded[f"input_{size}"]))
        np.testing.assert_allclose(logits, recorded[f"logits8_{size}"], rtol=0, atol=5e-5)


def test_a_model_that_is_consumed_gives_the_same() -> None:
    x = pixels(1, 3, 64, 64)
    assert torch.equal(fuse(lively("T"))(x), fuse(copy.deepcopy(lively("T")), consume=True)(x))


def test_fusing_leaves_the_model_and_the_random_numbers_alone() -> None:
    model = copy.deepcopy(lively("T")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    x = pixels(1, 3, 64, 64)
    fused = fuse(model)
    first = fused(x)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(fused(x), first)  # it shares nothing with the model
    torch.testing.assert_close(x, pixels(1, 3, 64, 64), rtol=0, atol=0)


def test_it_can_be_pickled_and_copied() -> None:
    fused = fuse(lively("T"))
    x = pixels(1, 3, 32, 64)
    for twin in (pickle.loads(pickle.dumps(fused)), copy.deepcopy(fused)):
        assert twin.metadata == fused.metadata
        assert torch.equal(twin(x), fused(x))


def test_half_precision_stays_close() -> None:
    model = lively("T")
    x = pixels(1, 3, 96, 96)
    with torch.inference_mode():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            training_form, fused = model(x).float(), fuse(model)(x).float()
    error = (fused - expected).abs().mean()
    assert 0 < error < 1.5 * (training_form - expected).abs().mean()
