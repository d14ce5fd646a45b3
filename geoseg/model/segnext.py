"""SegNeXt: the light Hamburger decoder, and the network of the `MSCAN` encoder and this decoder.

Source: Guo et al., "SegNeXt: Rethinking Convolutional Attention Design for Semantic
Segmentation", NeurIPS 2022 (arXiv 2209.08575). Parameter names are those of the official
PyTorch code (``mmseg/models/backbones/mscan.py`` and ``decode_heads/ham_head.py``), so that
its state dicts load as they are. Shapes are (N, C, H, W); comments give them per line.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.metadata import Metadata
from geoseg.model.mscan import MSCAN
from geoseg.model.variants import VARIANTS, Variant

NmfGradient = Literal["full", "last"]


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast, for the updates of NMF, which divide by sums of products.

    Where autocast is off it is empty, since torch.export cannot trace one with dynamic shapes.
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


class NMF(nn.Module):
    """Non-negative matrix factorization X ≈ B·Cᵀ by multiplicative updates.

    Geng et al., "Is Attention Better Than Matrix Decomposition?", ICLR 2021. In evaluation
    the initial bases are drawn once, so that results are reproducible; in training they are drawn
    at every forward, as in the official code.

    Args:
        gradient: ``full`` back-propagates through all steps (official PyTorch code), ``last``
            through the final coefficient update only (Jittor code, public iSAID weights).
    """

    bases: Tensor
    train_steps, eval_steps = 6, 7
    """Updates, as in the official code."""
    eps = 1e-6

    def __init__(self, dim: int, rank: int, gradient: NmfGradient = "full") -> None:
        super().__init__()
        self.gradient = gradient
        self.register_buffer("bases", self.draw(1, dim, rank, seed=0), persistent=False)

    @staticmethod
    def draw(n: int, dim: int, rank: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return F.normalize(torch.rand((n, dim, rank), generator=generator), dim=1)

    def forward(self, x: Tensor) -> Tensor:  # (N,D,H,W), non-negative
        with full_precision(x):
            bases, coef = self.factorize(x.float().flatten(2).transpose(1, 2))
            return (coef @ bases.transpose(1, 2)).transpose(1, 2).reshape(x.shape).to(x.dtype)

    def factorize(self, samples: Tensor) -> tuple[Tensor, Tensor]:  # (N,HW,D)
        """Return bases (N,D,R) and coefficients (N,HW,R)."""
        bases = self.bases.float().expand(len(samples), -1, -1)
        if self.training:
            bases = F.normalize(torch.rand_like(bases), dim=1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient == "full"):
            coef = torch.softmax(samples @ bases, dim=-1)
            for _ in range(self.train_steps if self.training else self.eval_steps):
                coef = self.update_coef(samples, bases, coef)
                shrink = coef.transpose(1, 2) @ coef  # (N,R,R)
                bases = bases * (samples.transpose(1, 2) @ coef) / (bases @ shrink + self.eps)
        return bases, self.update_coef(samples, bases, coef)

    def update_coef(self, samples: Tensor, bases: Tensor, coef: Tensor) -> Tensor:
        shrink = bases.transpose(1, 2) @ bases  # (N,R,R)
        return coef * (samples @ bases) / (coef @ shrink + self.eps)


class ConvGN(nn.Module):
    """1×1 convolution and GroupNorm(32)."""

    def __init__(self, in_dim: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 1, bias=bias)
        self.gn = nn.GroupNorm(32, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.gn(self.conv(x))


class Lift(nn.Module):
    """1×1 convolution with bias; a module only to keep the official parameter name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Hamburger(nn.Module):
    """Global context: the map's low-rank reconstruction, added to it."""

    def __init__(self, dim: int, rank: int, bias: bool, gradient: NmfGradient) -> None:
        super().__init__()
        self.ham_in = Lift(dim)
        self.ham = NMF(dim, rank, gradient)
        self.ham_out = ConvGN(dim, dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.ham_out(self.ham(F.relu(self.ham_in(x)))))


class HamHead(nn.Module):
    """Decoder on stages 2-4: resize to 1/8, squeeze, Hamburger, align, classify.

    Args:
        bias: whether the three convolutions before a GroupNorm have a bias, as in the Jittor
            code until December 2022.
    """

    def __init__(
        self, variant: Variant, num_classes: int, bias: bool, gradient: NmfGradient
    ) -> None:
        super().__init__()
        dim = variant.head
        self.squeeze = ConvGN(sum(variant.dims[1:]), dim, bias)
        self.hamburger = Hamburger(dim, variant.rank, bias, gradient)
        self.align = ConvGN(dim, dim, bias)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(dim, num_classes, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        size = stages[0].shape[2:]
        maps = [F.interpolate(s, size, mode="bilinear", align_corners=False) for s in stages[1:]]
        x = F.relu(self.squeeze(torch.cat([stages[0], *maps], dim=1)))  # (N,D,H/8,W/8)
        x = F.relu(self.align(self.hamburger(x)))
        return self.conv_seg(self.dropout(x))


class SegNeXt(nn.Module):
    """The whole network: normalized pixels (N,3,H,W) to logits (N,C,⌈H/8⌉,⌈W/8⌉).

    Sides that are not multiples of 32 are accepted as in the official code, but then the
    stages do not share one grid; prediction pads to 32 and crops.
    """

    metadata: Metadata
    """Description of the weights; set where they are loaded."""

    def __init__(
        self,
        variant: str = "T",
        num_classes: int = 16,
        *,
        head_bias: bool = False,
        nmf_gradient: NmfGradient = "full",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; choose one of {', '.join(VARIANTS)}")
        self.variant = VARIANTS[variant]
        self.num_classes = num_classes
        self.head_bias = head_bias
        self.backbone = MSCAN(self.variant)
        self.decode_head = HamHead(self.variant, num_classes, head_bias, nmf_gradient)
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.backbone(x)[1:])


def initialize(module: nn.Module) -> None:
    """Initialize convolutions as the official code: Kaiming with fan-out, per group."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2.0 * module.groups / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, HamHead):
        nn.init.normal_(module.conv_seg.weight, std=0.01)
