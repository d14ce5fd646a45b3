"""The decoder of SegNeXt for inference; `geoseg.model.fused` explains what is fused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.cpu.matmul import project
from geoseg.model.segnext import Hamburger, HamHead, full_precision


class FusedHead(nn.Module):
    """`HamHead`, squeezing each stage on its own grid."""

    def __init__(self, head: HamHead, dims: Sequence[int]) -> None:
        super().__init__()
        kernels = head.squeeze.conv.weight.split(list(dims), dim=1)
        biases = [head.squeeze.conv.bias, None, None]
        self.squeeze = nn.ModuleList(map(pointwise, kernels, biases))
        self.squeeze_norm = head.squeeze.gn
        self.hamburger = FusedHamburger(head.hamburger)
        self.align, self.align_norm = head.align.conv, head.align.gn
        self.classify = head.conv_seg

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Return the logits.

        Args:
            stages: maps from fine to coarse. The list is emptied, to free each map after its use.
        """
        fine, *others = self.squeeze
        x = project(fine, stages.pop(0))
        for conv in reversed(others):
            coarse = project(conv, stages.pop())
            x.add_(F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False))
        x = self.hamburger(self.squeeze_norm(x).relu_())  # (N,D,H/8,W/8)
        x = self.align_norm(project(self.align, x)).relu_()
        return project(self.classify, x)


class FusedHamburger(nn.Module):
    """`Hamburger` with `ham_out` applied to the bases: W·(B·Cᵀ) = (W·B)·Cᵀ.

    The moments of the product, which the norm after it needs, follow from those of its factors.
    """

    def __init__(self, ham: Hamburger) -> None:
        super().__init__()
        self.lift, self.nmf = ham.ham_in.conv, ham.ham
        self.out, self.norm = ham.ham_out.conv, ham.ham_out.gn

    def forward(self, x: Tensor) -> Tensor:  # (N,D,H,W)
        lifted = project(self.lift, x, activation="relu")
        rows = x.movedim(1, -1).flatten(1, 2)  # (N,HW,D)
        with full_precision(x):
            bases, coef = self.nmf.factorize(lifted.float().flatten(2).mT)  # (N,D,R), (N,HW,R)
            bases = self.out.weight.flatten(1) @ bases
            slope, offset = self.affine(bases, coef)
            low_rank = torch.baddbmm(offset[:, None], coef, (bases * slope[..., None]).mT)
            rows = rows.add_(low_rank).relu_()
        return rows.unflatten(1, x.shape[2:]).movedim(-1, 1)

    def affine(self, bases: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and offset (N,D) of the norm of bases·coefᵀ + bias."""
        bias = 0.0 if self.out.bias is None else self.out.bias
        mean = coef.mean(dim=1, keepdim=True)  # (N,1,R)
        spread = coef - mean
        covariance = spread.mT @ spread / coef.shape[1]  # (N,R,R)
        means = (bases @ mean.mT).squeeze(2) + bias  # (N,D)
        variances = ((bases @ covariance) * bases).sum(dim=2)
        groups = (self.norm.num_groups, -1)
        means, variances = means.unflatten(1, groups), variances.unflatten(1, groups)
        mean = means.mean(dim=2, keepdim=True)  # (N,G,1)
        variance = (variances + (means - mean) ** 2).mean(dim=2, keepdim=True)
        slope = (variance + self.norm.eps).rsqrt() * self.norm.weight.unflatten(0, groups)
        offset = self.norm.bias - (mean * slope).flatten(1)
        slope = slope.flatten(1)
        return slope, offset + bias * slope


def pointwise(kernel: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a 1×1 convolution with these weights, (D,C,1,1) and (D,)."""
    dim, channels = kernel.shape[:2]
    conv = nn.Conv2d(channels, dim, 1, device="meta")  # saves the initialization
    conv.weight = nn.Parameter(kernel.clone())
    conv.bias = None if bias is None else nn.Parameter(bias)
    return conv
