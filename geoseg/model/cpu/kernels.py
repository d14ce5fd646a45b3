"""Operations that torch computes slowly on a CPU, in C where the installation compiled it.

The C code takes maps of float32 in channels-last order, and computes in the calling thread. For
other maps, and without a compiler, torch does the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.cpu.parallel import new_empty
from geoseg.native.library import library

LANES = 8
"""Channels that the C code computes at once."""


def library_for(x: Tensor) -> ctypes.CDLL | None:
    """Return the C library if it is there and can compute `x` (..., C)."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return None
    return library() if x.shape[-1] % LANES == 0 and x.is_contiguous() else None


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Return GELU(x + bias) for `x` (P,C), which it may overwrite, and `bias` (C,)."""
    if lib := library_for(x):
        lib.geoseg_bias_gelu(*pointers(x, bias), *longs(x.shape))
        return x
    return F.gelu(x.add_(bias))


def depthwise_gelu(x: Tensor, bias: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return GELU(conv(x + bias)) without the outer two rows; may overwrite all but the last two.

    Args:
        x: (R+2,W,C), padded with zeros left and right.
        bias: (C,).
        conv: a 3×3 depthwise convolution.

    Returns:
        (R,W,C).
    """
    assert conv.bias is not None
    kernel, conv_bias = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    rows, width, channels = len(x) - 2, *x.shape[1:]
    if lib := library_for(x):
        taps = kernel.flatten(1).t().contiguous()  # (9,C)
        lib.geoseg_depthwise_gelu(
            *pointers(x, bias, taps, conv_bias), *longs((rows, width, channels))
        )
        return x[:rows]
    maps = (x + bias).movedim(2, 0)[None]
    return F.gelu(F.conv2d(maps, kernel, conv_bias, padding=(0, 1), groups=channels))[0].movedim(
        0, 2
    )


def multiscale_conv(x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:
    """Return y + the sum of vertical(horizontal(y)) over three pairs, with y = local(x), as MSCA.

    Args:
        x: (H,W,C).
        convs: depthwise: local (5×5), then a horizontal and a vertical one of 7, of 11, of 21.

    Returns:
        (H,W,C), a new map.
    """
    if lib := library_for(x):
        weights, result = pack_kernels(convs), new_empty(x, *x.shape)
        workspace = x.new_empty(lib.geoseg_multiscale_conv_workspace())
        lib.geoseg_multiscale_conv(*pointers(x, result, weights, workspace), *longs(x.shape))
        return result
    local, *pairs = convs
    y = local(x.movedim(2, 0)[None])
    total = y.clone()
    for horizontal, vertical in zip(pairs[::2], pairs[1::2], strict=True):
        total.add_(vertical(horizontal(y)))
    return total[0].movedim(0, 2)


def pack_kernels(convs: Sequence[nn.Conv2d]) -> Tensor:
    """Return (C/LANES, 108, LANES): C's ``struct weights`` for each LANES channels."""
    kernels = torch.cat([conv.weight.flatten(1) for conv in convs], dim=1)  # (C,103)
    biases = torch.stack([conv.bias for conv in convs if conv.bias is not None], dim=1)  # (C,7)
    first, vertical = biases[:, [0, 1, 3, 5]], biases[:, [2, 4, 6]].sum(dim=1, keepdim=True)
    rows = torch.cat([kernels, first, vertical], dim=1)
    return rows.unflatten(0, (-1, LANES)).transpose(1, 2).contiguous()


def pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    """Return the addresses of tensors, which the caller keeps alive while C uses them."""
    return [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]


def longs(numbers: Sequence[int]) -> list[ctypes.c_long]:
    return [ctypes.c_long(number) for number in numbers]
