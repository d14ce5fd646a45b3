"""Matrix products and what goes along with them, on a CPU: in C on AVX2, by BLAS elsewhere."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from geoseg.model.cpu.kernels import LANES, WORTHWHILE, addresses, bias_gelu, compiled, sizes
from geoseg.model.cpu.parallel import new_empty, parallel_for
from geoseg.native.library import library

WEIGHT_BYTES = 2**18
"""Of an MLP whose weights are read for every row of a map: half of a core's cache."""
Ending = Literal["gelu", "relu"]
ENDINGS = (None, "gelu", "relu")
"""As numbered in C."""


def pointwise_conv(
    x: Tensor,
    conv: nn.Conv2d,
    *,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    add: bool = False,
    gain: Tensor | None = None,
    ending: Ending | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """What the 1×1 convolution `conv` makes of the pixels `x` (P,C), without its own bias.

    Args:
        bias: (D,), is added.
        out: (P,D), is overwritten; None = a new one.
        add: to what `out` holds, and to that times `gain` (D,).
        ending: what the sum goes through.
        factor: (P,D), multiplies that, and is overwritten by it; excludes `out`.

    Returns:
        (P,D).
    """
    if use_native_gemm(x, conv.out_channels):
        scale = None if not add else x.new_ones(conv.out_channels) if gain is None else gain + 1
        out = factor if out is None else out
        out = new_empty(x, len(x), conv.out_channels) if out is None else out
        return multiply(out, x, packed_panels(conv), bias, scale, factor, ending)
    out = x.new_empty(len(x), conv.out_channels) if out is None else out
    weights = conv.weight.flatten(1).t().to(x.dtype)
    if add:
        more = torch.mm(x, weights) if bias is None else torch.addmm(bias, x, weights)
        # 1 + gain, in one step, would lose the gain in half precision.
        out.add_(more if gain is None else more.addcmul_(out, gain))
    elif bias is None or ending == "gelu":
        torch.mm(x, weights, out=out)
    else:
        torch.addmm(bias, x, weights, out=out)
    if ending == "gelu":
        out = bias_gelu(out, x.new_zeros(conv.out_channels) if bias is None or add else bias)
    elif ending == "relu":
        out.relu_()
    return out if factor is None else factor.mul_(out)


def vector(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The bias (D,), for a sum with `x`."""
    assert conv.bias is not None
    return conv.bias.to(x.dtype)


def project(conv: nn.Module, x: Tensor, ending: Literal["relu"] | None = None) -> Tensor:
    """`conv`, which is 1×1, of `x`, and `ending`; on a CPU as the matrix product that it is."""
    assert isinstance(conv, nn.Conv2d)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return conv(x).relu_() if ending else conv(x)
    rows = x.movedim(1, -1)  # (N,H,W,C)
    bias = None if conv.bias is None else vector(conv, x)
    found = pointwise_conv(rows.flatten(0, 2), conv, bias=bias, ending=ending)
    return found.unflatten(0, rows.shape[:3]).movedim(-1, 1)


def add_low_rank(x: Tensor, coef: Tensor, bases: Tensor, offset: Tensor) -> Tensor:
    """ReLU(x + coef·basesᵀ + offset), which may overwrite `x` (N,P,D).

    Args:
        coef: (N,P,R).
        bases: (N,D,R).
        offset: (N,D).
    """
    if not (use_native_gemm(coef, x.shape[2]) and compiled(x)):
        return x.add_(torch.baddbmm(offset[:, None], coef, bases.mT)).relu_()
    for rows, coefs, basis, bias in zip(x, coef, bases, offset, strict=True):
        multiply(rows, coefs, panels(basis), bias, torch.ones_like(bias), None, "relu")
    return x


def fits_mlp(x: Tensor, hidden: int) -> bool:
    """Whether `mlp` can compute `x` (H,W,C), and is the quicker way: the weights are read for
    every row, so they have to stay in the cache."""
    channels = x.shape[-1]
    small = 2 * channels * hidden * x.element_size() <= WEIGHT_BYTES
    return small and use_native_gemm(x, channels) and hidden % (2 * LANES) == 0


def mlp(x: Tensor, fc1: nn.Conv2d, before: Tensor, dwconv: nn.Conv2d, fc2: nn.Conv2d) -> Tensor:
    """x + fc2(GELU(dwconv(fc1(x) + before))), without the biases of `fc1` and `fc2`.

    Args:
        x: (H,W,C), for which `fits_mlp`.
        before: (D,).
        dwconv: a 3×3 depthwise convolution.

    Returns:
        (H,W,C), a new map.
    """
    lib, hidden = library(), len(before)
    assert lib is not None
    assert dwconv.bias is not None
    result = new_empty(x, *x.shape)
    taps = dwconv.weight.flatten(1).t().contiguous()  # (9,D)
    first, second = packed_panels(fc1), packed_panels(fc2)
    width, channels = x.shape[1:]

    def compute(begin: int, end: int) -> None:
        workspace = x.new_empty(lib.geoseg_mlp_workspace(*sizes((width, hidden))))
        lib.geoseg_mlp(
            *addresses(result, x, first, before, taps, dwconv.bias, second, workspace),
            *sizes((*x.shape, hidden, begin, end)),
        )

    # Beside its own rows, a piece computes a part of the next two.
    parallel_for(len(x), max(8, WORTHWHILE // (2 * width * channels * hidden)), compute)
    return result


def use_native_gemm(x: Tensor, columns: int) -> bool:
    """Whether `multiply` can multiply `x`, and is quicker than BLAS.

    It is written for vectors of 8. Where processors have longer ones, or units for matrices, BLAS
    is the quicker one.
    """
    return compiled(x) is not None and columns % (2 * LANES) == 0 and is_plain_avx2()


def multiply(
    out: Tensor,
    x: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    factor: Tensor | None,
    ending: Ending | None,
) -> Tensor:
    """out = ending(out·scale + bias + x·weights)·factor in C, with the weights in `panels`."""
    lib = library()
    assert lib is not None
    bias = x.new_zeros(out.shape[1]) if bias is None else bias
    depth, columns = x.shape[1], out.shape[1]

    def compute(begin: int, end: int) -> None:
        rows = slice(begin, end)
        lib.geoseg_product(
            *addresses(
                out[rows], x[rows], weights, bias, scale, None if factor is None else factor[rows]
            ),
            *sizes((ENDINGS.index(ending), end - begin, depth, columns)),
        )

    parallel_for(len(x), WORTHWHILE // (depth * columns), compute)
    return out


@cache
def is_plain_avx2() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def packed_panels(conv: nn.Conv2d) -> Tensor:
    """Its weights, packed once: they are those of inference and stay."""
    if "panels" not in conv.__dict__:
        conv.__dict__["panels"] = panels(conv.weight.detach().flatten(1))
    packed: Tensor = conv.__dict__["panels"]
    return packed


def panels(weights: Tensor) -> Tensor:
    """(D/16, C, 16) of (D,C)."""
    return weights.unflatten(0, (-1, 2 * LANES)).mT.contiguous()
