"""The form of a network that is fast on an accelerator."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from geoseg.model.fused_head import FusedHamburger


@torch.no_grad()
def prepare(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a copy of `module`, in evaluation mode, on a device.

    Exact up to rounding: batch norms are folded into the convolutions before them. Kernels are in
    channels-last order, and in the type that autocast would cast them to at every call.
    """
    fast = copy.deepcopy(module).eval().requires_grad_(False)
    fold_norms(fast)
    if dtype != torch.float32:
        store_in(fast, dtype)
    fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fast.to(device)


def fold_norms(module: nn.Module) -> None:
    """Fold each batch norm that follows a convolution in a sequence into it."""
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for (i, conv), (j, norm) in pairwise(list(sequence.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(sequence, i, fuse_conv_bn_eval(conv, norm))
                setattr(sequence, j, nn.Identity())


def store_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of convolutions, except of those that compute in float32 always."""
    kept = {id(each.out) for each in module.modules() if isinstance(each, FusedHamburger)}
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and id(conv) not in kept:
            conv.to(dtype)
