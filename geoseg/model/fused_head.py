"""The decoder of SegNeXt for inference; `geoseg.model.fused` explains what is fused."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoseg.model.cpu.kernels import (
    LANES,
    add_resized,
    group_norm_relu,
    library_for,
    longs,
    pointers,
)
from geoseg.model.cpu.matmul import add_low_rank, project
from geoseg.model.segnext import NMF, Hamburger, HamHead


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
            x = add_resized(x, project(conv, stages.pop()))
        x = self.hamburger(group_norm_relu(x, self.squeeze_norm))  # (N,D,H/8,W/8)
        x = group_norm_relu(project(self.align, x), self.align_norm)
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
        with torch.autocast(x.device.type, enabled=False):  # as in `NMF`
            bases, coef = factorize(lifted.float().flatten(2).mT, self.nmf)  # (N,D,R), (N,HW,R)
            bases = self.out.weight.flatten(1) @ bases
            slope, offset = self.affine(bases, coef)
            rows = add_low_rank(rows, coef, bases * slope[..., None], offset)
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


def factorize(samples: Tensor, nmf: NMF) -> tuple[Tensor, Tensor]:
    """Return ``nmf.factorize(samples)`` of samples (N,P,D), in C where it can."""
    rank, dim = nmf.bases.shape[-1], samples.shape[-1]
    lib = library_for(samples)
    if lib is None or rank != 2 * LANES:
        return nmf.factorize(samples)
    bases = nmf.bases.expand(len(samples), -1, -1).clone()  # (N,D,R)
    coefficients = samples.new_empty(*samples.shape[:2], rank)
    for x, basis, coef in zip(samples, bases, coefficients, strict=True):
        for step in range(nmf.eval_steps + 1):
            last, shrink = step == nmf.eval_steps, basis.T @ basis
            correlations, squares = x.new_zeros(dim, rank), x.new_zeros(rank, rank)
            sums = (None, None) if last else (correlations, squares)
            lib.geoseg_nmf(
                *pointers(x, basis, shrink, coef, *sums),
                ctypes.c_float(nmf.eps),
                *longs((int(step == 0), len(x), dim)),
            )
            if not last:
                divisor = (basis @ squares).add_(nmf.eps)
                basis.mul_(correlations).div_(divisor)
    return bases, coefficients
