"""The form of a network that is fast on an accelerator."""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec

import torch
from torch import nn

from geoseg.model.fused import FusedSegNeXt
from geoseg.model.fused_head import FusedHamburger

LOG = logging.getLogger("geoseg")


@torch.no_grad()
def prepare(
    module: nn.Module, device: torch.device, dtype: torch.dtype, *, triton: bool = True
) -> nn.Module:
    """Return a copy of `module`, in evaluation mode, on a device.

    Kernels are in channels-last order, and in the type that autocast would cast them to at every
    call.

    Args:
        triton: on CUDA, compute the blocks of SegNeXt with `geoseg.model.gpu`, if there is Triton.
    """
    fast = copy.deepcopy(module).eval().requires_grad_(False)
    if dtype != torch.float32:
        store_in(fast, dtype)
    fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast = fast.to(device)
    if triton and device.type == "cuda" and isinstance(fast, FusedSegNeXt):
        with torch.cuda.device(device):
            add_kernels(fast)
    return fast


def add_kernels(network: FusedSegNeXt) -> None:
    """Let the blocks use kernels in Triton, where that is installed."""
    if find_spec("triton") is None:
        LOG.info("Triton is not installed: SegNeXt is slower on this device")
        return
    from geoseg.model.gpu.block import use_triton

    use_triton(network)


def store_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of convolutions, except of those that compute in float32 always."""
    kept = {id(each.out) for each in module.modules() if isinstance(each, FusedHamburger)}
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and id(conv) not in kept:
            conv.to(dtype)
