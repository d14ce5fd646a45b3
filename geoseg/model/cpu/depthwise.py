"""Depthwise convolutions in C, in bfloat16 on AVX-512.

oneDNN takes 1.05 to 2.9 times as long for those of an EfficientNet (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor, nn

from geoseg.model.cpu.kernels import longs, pointers
from geoseg.model.pyramid import SameConv2d
from geoseg.native.library import library

PAIR = 32
"""Channels that the C code computes at once: a map has as many at least."""
LIMITS: dict[type, tuple[float, float]] = {nn.ReLU: (0, math.inf), nn.ReLU6: (0, 6)}
"""Least and largest value after an activation."""


def native_depthwise(
    conv: nn.Conv2d, activation: nn.Module | None, dtype: torch.dtype
) -> NativeDepthwise | None:
    """Return a convolution and an activation in C; None where torch has to compute them."""
    possible = (
        dtype == torch.bfloat16
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and library() is not None
        and isinstance(conv, SameConv2d)
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.in_channels >= PAIR
        and conv.in_channels % 2 == 0
        and conv.kernel_size in ((3, 3), (5, 5))
        and conv.stride in ((1, 1), (2, 2))
    )
    limits = LIMITS.get(type(activation))
    return NativeDepthwise(conv, *limits) if possible and limits else None


class NativeDepthwise(nn.Module):
    """A depthwise convolution and an activation, of maps (N,C,H,W) with even sides at stride 2.

    Args:
        low, high: limits of its results, which are bfloat16.
    """

    groups: Tensor

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("groups", pack_groups(conv))
        self.side, self.stride = conv.kernel_size[0], conv.stride[0]
        self.limits = low, high

    def forward(self, x: Tensor) -> Tensor:
        lib = library()
        assert lib is not None
        maps = x.to(torch.bfloat16).permute(0, 2, 3, 1).contiguous()  # (N,H,W,C)
        height, width, channels = maps.shape[1:]
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        # Of an odd amount of padding the end gets more; to C, all beyond the map is 0.
        before = (self.side - self.stride) // 2
        shape = (height, width, channels, rows, columns, before, self.side, self.stride)
        results = maps.new_empty(len(maps), rows, columns, channels)
        zeros = maps.new_zeros(width * channels)
        limits = [ctypes.c_float(limit) for limit in self.limits]
        for result, each in zip(results, maps, strict=True):
            tensors = pointers(result, each, self.groups, zeros)
            lib.geoseg_depthwise(*tensors, *limits, *longs(shape))
        return results.permute(0, 3, 1, 2)


def pack_groups(conv: nn.Conv2d) -> Tensor:
    """Return (G,1+K,2,PAIR/2): C's ``struct group`` for each PAIR channels, of K taps.

    The last group ends with the last channel and may overlap the one before.
    """
    assert conv.bias is not None
    rows = torch.cat([conv.bias[None], conv.weight.flatten(1).t()])  # (1+K,C)
    last = rows.shape[1] - PAIR
    starts = [min(start, last) for start in range(0, rows.shape[1], PAIR)]
    groups = torch.stack([rows[:, start : start + PAIR] for start in starts])
    return groups.unflatten(2, (-1, 2)).transpose(2, 3).float().contiguous()
