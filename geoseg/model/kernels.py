"""What torch does slowly on a CPU, in C where the installation could compile it.

The C code is for maps of float32 in channels-last order, and computes in the calling thread. For
others, and where no compiler was at hand, torch does the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LANES = 8
"""Channels that the C code computes at once."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled ``kernels.c``, or None. Calls into it release the GIL."""
    spec = find_spec("geoseg.model._kernels")
    return ctypes.CDLL(spec.origin) if spec and spec.origin else None


def compiled(x: Tensor) -> ctypes.CDLL | None:
    """The library, if it is there and can compute `x` (..., C)."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return None
    return library() if x.shape[-1] % LANES == 0 and x.is_contiguous() else None


def product(
    x: Tensor,
    conv: nn.Conv2d,
    *,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    add: bool = False,
) -> Tensor:
    """What the 1×1 convolution `conv` makes of the pixels `x` (P,C), without its own bias.

    Args:
        bias: (D,), is added.
        out: (P,D), is overwritten; None = a new one.
        add: to what `out` holds, in place of `bias`.

    Returns:
        (P,D).
    """
    channels = conv.out_channels
    if out is None:
        out = x.new_empty(len(x), channels)
    if (lib := compiled(x)) and channels % (2 * LANES) == 0 and blas_packs():
        panels = packed_panels(conv)
        if bias is None:
            bias = x.new_zeros(channels)
        lib.geoseg_product(*addresses(out, x, panels, bias), *sizes((int(add), *x.shape, channels)))
        return out
    weights = conv.weight.flatten(1).t().to(x.dtype)
    if add:
        return out.addmm_(x, weights)
    if bias is None:
        return torch.mm(x, weights, out=out)
    return torch.addmm(bias, x, weights, out=out)


@cache
def blas_packs() -> bool:
    """Whether BLAS is slower than `geoseg_product`, which is written for vectors of 8.

    Where processors have longer ones or units for matrices, it is not.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def packed_panels(conv: nn.Conv2d) -> Tensor:
    """(D/16, C, 16), made once: the weights are those of inference and stay."""
    panels = conv.__dict__.get("panels")
    if panels is None:
        panels = conv.weight.detach().flatten(1).unflatten(0, (-1, 2 * LANES)).mT.contiguous()
        conv.__dict__["panels"] = panels
    return panels


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """GELU(x + bias), which may overwrite `x` (P,C); `bias` is (C,)."""
    if lib := compiled(x):
        lib.geoseg_bias_gelu(*addresses(x, bias), *sizes(x.shape))
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
        lib.geoseg_depthwise_gelu(
            *addresses(x, before, taps, after), *sizes((rows, width, channels))
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
        weights, result = packed(convs), torch.empty_like(x)
        workspace = x.new_empty(lib.geoseg_strips_workspace())
        lib.geoseg_strips(*addresses(x, result, weights, workspace), *sizes(x.shape))
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


def addresses(*tensors: Tensor) -> list[ctypes.c_void_p]:
    """For C. The caller keeps the tensors alive until it returns."""
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def sizes(numbers: Sequence[int]) -> list[ctypes.c_long]:
    return [ctypes.c_long(number) for number in numbers]
