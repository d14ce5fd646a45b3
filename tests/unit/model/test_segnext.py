"""SegNeXt against numbers from the official code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import narrow
from torch import Tensor

from geoseg.model.mscan import MSCAN
from geoseg.model.segnext import NMF, SegNeXt

TOLERANCE = 5e-5
"""Threads, layouts and compilers differ by 2e-5; a wrong GELU, eps or step count by 1.5e-4."""

PARAMETERS = {  # 16 and 150 classes, in millions
    "T": (4.229, 4.263),
    "S": (13.898, 13.933),
    "B": (27.568, 27.636),
    "L": (48.789, 48.927),
}


@pytest.fixture(scope="module")
def model(official: dict[str, Tensor]) -> SegNeXt:
    model = SegNeXt("T", 16)
    model.load_state_dict(official)
    return model.eval()


def test_stages(model: SegNeXt, recorded: dict[str, np.ndarray]) -> None:
    with torch.inference_mode():
        stages = model.backbone(torch.from_numpy(recorded["input_256x320"]))
    for i, stage in enumerate(stages, start=1):
        np.testing.assert_allclose(stage, recorded[f"stage{i}_256x320"], rtol=0, atol=TOLERANCE)


def test_bases_are_drawn_as_recorded(model: SegNeXt, recorded: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(model.decode_head.hamburger.ham.bases[0], recorded["bases"])


@pytest.mark.parametrize("variant", PARAMETERS)
def test_keys_shapes_and_parameter_counts(
    parity: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Shapes do not depend on values, which take most of the time.
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda weight, **options: weight)
    keys = json.loads((parity / "keys.json").read_text())[variant]
    for classes, millions in zip((16, 150), PARAMETERS[variant], strict=True):
        model = SegNeXt(variant, classes)
        count = sum(parameter.numel() for parameter in model.parameters())
        assert round(count / 1e6, 3) == millions
        if classes == 16:
            assert {k: list(v.shape) for k, v in model.state_dict().items()} == keys


@pytest.fixture(scope="module")
def factorized(parity: Path) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(parity / "nmf_small.npz").items()}


def run_nmf(nmf: NMF, numbers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The reconstruction, and the gradient of its product with `w`."""
    nmf.bases = numbers["bases"][None]
    x = numbers["x"].clone().requires_grad_()
    y = nmf(x)
    (y * numbers["w"]).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_nmf(factorized: dict[str, Tensor], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Training draws random bases; the recorded ones take their place.
    monkeypatch.setattr(torch, "rand_like", lambda like: like.clone())
    nmf = NMF(32, 8).train(mode == "train")
    y, gradient = run_nmf(nmf, factorized)
    torch.testing.assert_close(y, factorized[f"y_{mode}"], rtol=0, atol=1e-5)
    expected = factorized[f"gradx_{mode}"]
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_nmf_gradient_through_the_last_update(factorized: dict[str, Tensor]) -> None:
    """Same values; the gradient is that of one update from constants, here in float64."""
    y, gradient = run_nmf(NMF(32, 8, "last").eval(), factorized)
    torch.testing.assert_close(y, factorized["y_eval"], rtol=0, atol=1e-5)

    start = factorized["x"].double().flatten(2)  # (N,D,P)
    bases = factorized["bases"].double().expand(2, -1, -1)  # (N,D,R)
    coef = torch.einsum("ndp,ndr->npr", start, bases).softmax(-1)

    def updated(samples: Tensor) -> Tensor:
        up = torch.einsum("ndp,ndr->npr", samples, bases)
        return coef * up / (torch.einsum("npr,nds,ndr->nps", coef, bases, bases) + 1e-6)

    for _ in range(7):
        coef = updated(start)
        up = torch.einsum("ndp,npr->ndr", start, coef)
        bases = bases * up / (torch.einsum("ndr,nps,npr->nds", bases, coef, coef) + 1e-6)
    x = start.clone().requires_grad_()
    result = torch.einsum("ndr,npr->ndp", bases, updated(x))
    (result * factorized["w"].double().flatten(2)).sum().backward()
    assert x.grad is not None
    expected = x.grad.reshape(gradient.shape).float()
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert (gradient - factorized["gradx_eval"]).abs().max() > 1e-3  # not the full gradient


def test_evaluation_is_deterministic_and_training_is_not() -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = SegNeXt("T").eval()
    with torch.no_grad():
        first = model(x)
        torch.rand(7)  # the state of the global generator must not matter
        assert torch.equal(model(x), first)
        torch.testing.assert_close(model(x[1:]), first[1:], rtol=0, atol=1e-5)
        ham = model.decode_head.hamburger.ham.train()
        values = torch.rand(1, 256, 8, 8)
        assert not torch.equal(ham(values), ham(values))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 64), (95, 130), (129, 57)])
def test_odd_sizes(height: int, width: int) -> None:
    with torch.inference_mode():
        logits = SegNeXt("T", 5).eval()(torch.zeros(1, 3, height, width))
    assert logits.shape == (1, 5, -(-height // 8), -(-width // 8))


def test_every_variant_runs_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    for variant in PARAMETERS:
        model = SegNeXt(variant, 3)
        model(torch.randn(2, 3, 64, 64)).sum().backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None]
        assert not silent


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match="choose one of T, S, B, L"):
        SegNeXt("XL")


def test_backbone_takes_other_channel_counts() -> None:
    with torch.inference_mode():
        stages = MSCAN(SegNeXt("T").variant, in_channels=4).eval()(torch.zeros(1, 4, 64, 32))
    assert [tuple(s.shape) for s in stages] == [
        (1, 32, 16, 8),
        (1, 64, 8, 4),
        (1, 160, 4, 2),
        (1, 256, 2, 1),
    ]
