"""What torch does slowly on a CPU, in C where the installation could compile it.

The C code takes maps of float32 in channels-last order and computes in the calling thread, with the
help of idle ones (`parallel_for`). For other maps, and without a compiler, torch does the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoseg.model.cpu.parallel import new_empty, parallel_for
from geoseg.native.library import library

LANES = 8
"""Channels that the C code computes at once."""
WORTHWHILE = 2**22
"""Multiplications of a piece of work that an idle thread may do: a fifth of a millisecond."""


def compiled(x: Tensor) -> ctypes.CDLL | None:
    """The library, if it is there and can compute `x` (..., C)."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return None
    return library() if x.shape[-1] % LANES == 0 and x.is_contiguous() else None


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """GELU(x + bias), which may overwrite `x` (P,C); `bias` is (C,)."""
    if lib := compiled(x):
        parallel_for(
            len(x),
            WORTHWHILE // (16 * x.shape[1]),
            lambda begin, end: lib.geoseg_bias_gelu(
                *addresses(x[begin:end], bias), *sizes((end - begin, x.shape[1]))
            ),
        )
        return x
    return F.gelu(x.add_(bias))


def depthwise_gelu(x: Tensor, before: Tensor, conv: nn.Conv2d) -> Tensor:
    """GELU(conv(x + before)) in all rows but the outer two; may overwrite all but the last two.

    Args:
        x: (R+2,W,C). Beside it the convolution sees zeros.
        before: (C,).
        conv: a 3×3 depthwise convolution.

    Returns:
        (R,W,C).
    """
    assert conv.bias is not None
    kernel, after = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    rows, width, channels = len(x) - 2, *x.shape[1:]
    if lib := compiled(x):
        taps = kernel.flatten(1).t().contiguous()  # (9,C)
        groups = channels // LANES
        parallel_for(
            groups,
            WORTHWHILE // (24 * LANES * rows * width),
            lambda begin, end: lib.geoseg_depthwise_gelu(
                *addresses(x, before, taps, after),
                *sizes((rows, width, channels, LANES * begin, LANES * end)),
            ),
        )
        return x[:rows]
    maps = (x + before).movedim(2, 0)[None]
    return F.gelu(F.conv2d(maps, kernel, after, padding=(0, 1), groups=channels))[0].movedim(0, 2)


def strips(x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:
    """y + the sum of down(along(y)) over three pairs, with y = local(x), as in MSCA.

    Args:
        x: (H,W,C).
        convs: depthwise: local (5×5), then along rows and down columns of 7, of 11, of 21.

    Returns:
        (H,W,C), a new map.
    """
    if lib := compiled(x):
        weights, result = packed(convs), new_empty(x, *x.shape)

        def compute(begin: int, end: int) -> None:
            workspace = x.new_empty(lib.geoseg_strips_workspace())
            lib.geoseg_strips(
                *addresses(x, result, weights, workspace),
                *sizes((*x.shape, LANES * begin, LANES * end)),
            )

        parallel_for(x.shape[2] // LANES, 1, compute)
        return result
    local, *pairs = convs
    y = local(x.movedim(2, 0)[None])
    total = y.clone()
    for along, down in zip(pairs[::2], pairs[1::2], strict=True):
        total.add_(down(along(y)))
    return total[0].movedim(0, 2)


def packed(convs: Sequence[nn.Conv2d]) -> Tensor:
    """(C/LANES, 108, LANES): what ``struct weights`` holds of each LANES channels."""
    kernels = torch.cat([conv.weight.flatten(1) for conv in convs], dim=1)  # (C,103)
    biases = torch.stack([conv.bias for conv in convs if conv.bias is not None], dim=1)  # (C,7)
    ahead, down = biases[:, [0, 1, 3, 5]], biases[:, [2, 4, 6]].sum(dim=1, keepdim=True)
    rows = torch.cat([kernels, ahead, down], dim=1)
    return rows.unflatten(0, (-1, LANES)).transpose(1, 2).contiguous()


def group_norm_relu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """ReLU(norm(x)), which may overwrite `x` (N,C,H,W)."""
    rows = x.movedim(1, -1)
    lib = compiled(rows)
    if lib is None:
        return norm(x).relu_()
    for sample in rows:
        pixels, channels = sample[..., 0].numel(), norm.num_channels
        sums, squares = torch.zeros((2, channels), dtype=torch.float64)
        lib.geoseg_moments(*addresses(sample, sums, squares), *sizes((pixels, channels)))
        mean, square = (
            (total / pixels).view(norm.num_groups, -1).mean(dim=1, keepdim=True)
            for total in (sums, squares)
        )
        scale = (square - mean**2 + norm.eps).rsqrt()  # (G,1)
        slope = norm.weight.view(norm.num_groups, -1) * scale
        offset = norm.bias.view(norm.num_groups, -1) - mean * slope
        factors = (slope.float().flatten(), offset.float().flatten())
        lib.geoseg_affine_relu(*addresses(sample, *factors), *sizes((pixels, channels)))
    return x


def add_resized(x: Tensor, coarse: Tensor) -> Tensor:
    """Add `coarse` (N,C,h,w), resized bilinearly, to `x` (N,C,H,W)."""
    rows, cells = x.movedim(1, -1), coarse.movedim(1, -1)
    lib = compiled(rows)
    if lib is None or compiled(cells) is None:
        resized = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
        return x.add_(resized)
    for sample, cell in zip(rows, cells, strict=True):
        lib.geoseg_add_resized(*addresses(sample, cell), *sizes((*sample.shape[:2], *cell.shape)))
    return x


def normalize(pixels: Tensor, mask: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Zero mean and unit deviation, and 0 where the mask is False; in channels-last order.

    Args:
        pixels: (N,3,H,W) uint8.
        mask: (N,H,W) bool.
        mean, std: (3,).

    Returns:
        (N,3,H,W) float32.
    """
    lib = library() if pixels.device.type == "cpu" else None
    if lib is None or not (pixels.is_contiguous() and mask.is_contiguous()):
        # Plane by plane first: with three values a pixel, channels-last order is slow to scale.
        x = pixels.to(torch.float32).sub_(mean[:, None, None]).div_(std[:, None, None])
        return x.mul_(mask[:, None]).contiguous(memory_format=torch.channels_last)
    table = torch.arange(256.0).sub(mean[:, None]).div_(std[:, None])  # (3,256)
    x = torch.empty((*mask.shape, 3))
    for sample, colors, valid in zip(x, pixels, mask, strict=True):
        lib.geoseg_look_up(*addresses(sample, colors, valid, table), *sizes((valid.numel(),)))
    return x.movedim(-1, 1)


def addresses(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    """For C. The caller keeps the tensors alive until it returns."""
    return [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]


def sizes(numbers: Sequence[int]) -> list[ctypes.c_long]:
    return [ctypes.c_long(number) for number in numbers]
