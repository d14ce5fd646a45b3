"""The form of a network that is fast on an accelerator."""

from __future__ import annotations

import copy

import torch
from torch import nn

from geoseg.model.fused_head import FusedHamburger


@torch.no_grad()
def prepare(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a copy of `module`, in evaluation mode, on a device.

    Kernels are in channels-last order, and in the type that autocast would cast them to at every
    call.
    """
    fast = copy.deepcopy(module).eval().requires_grad_(False)
    if dtype != torch.float32:
        store_in(fast, dtype)
    fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fast.to(device)


def store_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of convolutions, except of those that compute in float32 always."""
    kept = {id(each.out) for each in module.modules() if isinstance(each, FusedHamburger)}
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and id(conv) not in kept:
            conv.to(dtype)
