"""Matrix products and what is fused with them, on a CPU: in C on AVX2, by BLAS elsewhere."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from geoseg.model.cpu.kernels import LANES, bias_gelu, library_for, longs, pointers
from geoseg.model.cpu.parallel import new_empty
from geoseg.native.library import library

PANEL = 2 * LANES
"""Columns of a weight panel: what `native_gemm` computes at once."""
MLP_WEIGHT_BYTES = 2**18
"""Largest weights of a fused MLP, which are read for every row: half of a core's cache."""
Activation = Literal["gelu", "relu"]
ACTIVATIONS = (None, "gelu", "relu")
"""In the order of C's ``enum activation``."""


def pointwise_conv(
    x: Tensor,
    conv: nn.Conv2d,
    *,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    add: bool = False,
    gain: Tensor | None = None,
    activation: Activation | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """Apply the 1×1 convolution `conv`, without its own bias, to the pixels `x` (P,C).

    Args:
        bias: (D,), is added.
        out: (P,D), is overwritten; None = a new tensor.
        add: the result to what `out` holds and to that times `gain` (D,).
        activation: is applied to the sum.
        factor: (P,D), is overwritten by its product with the result; excludes `out`.

    Returns:
        (P,D).
    """
    if use_native_gemm(x, conv.out_channels):
        scale = None if not add else x.new_ones(conv.out_channels) if gain is None else gain + 1
        out = factor if out is None else out
        out = new_empty(x, len(x), conv.out_channels) if out is None else out
        return native_gemm(out, x, packed_weights(conv), bias, scale, factor, activation)
    out = x.new_empty(len(x), conv.out_channels) if out is None else out
    weights = conv.weight.flatten(1).t().to(x.dtype)
    if add:
        more = torch.mm(x, weights) if bias is None else torch.addmm(bias, x, weights)
        # 1 + gain, in one step, would lose the gain in half precision.
        out.add_(more if gain is None else more.addcmul_(out, gain))
    elif bias is None or activation == "gelu":
        torch.mm(x, weights, out=out)
    else:
        torch.addmm(bias, x, weights, out=out)
    if activation == "gelu":
        out = bias_gelu(out, x.new_zeros(conv.out_channels) if bias is None or add else bias)
    elif activation == "relu":
        out.relu_()
    return out if factor is None else factor.mul_(out)


def bias_like(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the bias (D,) of `conv` in the data type of `x`."""
    assert conv.bias is not None
    return conv.bias.to(x.dtype)


def project(conv: nn.Module, x: Tensor, activation: Literal["relu"] | None = None) -> Tensor:
    """Apply a 1×1 convolution to `x` (N,C,H,W); on a CPU as the matrix product that it is."""
    assert isinstance(conv, nn.Conv2d)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return conv(x).relu_() if activation else conv(x)
    rows = x.movedim(1, -1)  # (N,H,W,C)
    bias = None if conv.bias is None else bias_like(conv, x)
    found = pointwise_conv(rows.flatten(0, 2), conv, bias=bias, activation=activation)
    return found.unflatten(0, rows.shape[:3]).movedim(-1, 1)


def use_fused_mlp(x: Tensor, hidden: int) -> bool:
    """Return whether `fused_mlp` can compute `x` (H,W,C), and is faster than layer by layer.

    It reads the weights for every row, so they must fit into the cache.
    """
    channels = x.shape[-1]
    fits = 2 * channels * hidden * x.element_size() <= MLP_WEIGHT_BYTES
    return fits and use_native_gemm(x, channels) and hidden % PANEL == 0


def fused_mlp(x: Tensor, fc1: nn.Conv2d, bias: Tensor, dwconv: nn.Conv2d, fc2: nn.Conv2d) -> Tensor:
    """Return x + fc2(GELU(dwconv(fc1(x) + bias))), without the biases of `fc1` and `fc2`.

    Args:
        x: (H,W,C), for which `use_fused_mlp` is true.
        bias: (D,).
        dwconv: a 3×3 depthwise convolution.

    Returns:
        (H,W,C), a new map.
    """
    lib, hidden = library(), len(bias)
    assert lib is not None
    assert dwconv.bias is not None
    result = new_empty(x, *x.shape)
    taps = dwconv.weight.flatten(1).t().contiguous()  # (9,D)
    first, second = packed_weights(fc1), packed_weights(fc2)
    workspace = x.new_empty(lib.geoseg_mlp_workspace(*longs((x.shape[1], hidden))))
    lib.geoseg_mlp(
        *pointers(result, x, first, bias, taps, dwconv.bias, second, workspace),
        *longs((*x.shape, hidden)),
    )
    return result


def use_native_gemm(x: Tensor, columns: int) -> bool:
    """Return whether `native_gemm` can multiply `x`, and is faster than BLAS.

    It is written for vectors of 8 floats. With longer ones, or matrix units, BLAS is faster.
    """
    return library_for(x) is not None and columns % PANEL == 0 and is_plain_avx2()


def native_gemm(
    out: Tensor,
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    factor: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """Compute out = activation(out·scale + bias + x·weights)·factor in C; see `pack_panels`."""
    lib = library()
    assert lib is not None
    bias = x.new_zeros(out.shape[1]) if bias is None else bias
    lib.geoseg_gemm(
        *pointers(out, x, panels, bias, scale, factor),
        *longs((ACTIVATIONS.index(activation), *x.shape, out.shape[1])),
    )
    return out


@cache
def is_plain_avx2() -> bool:
    """Return whether the processor has AVX2 but not AVX-512."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def packed_weights(conv: nn.Conv2d) -> Tensor:
    """Return the weights of `conv` in panels; packed once, since inference never changes them."""
    if "panels" not in conv.__dict__:
        conv.__dict__["panels"] = pack_panels(conv.weight.detach().flatten(1))
    panels: Tensor = conv.__dict__["panels"]
    return panels


def pack_panels(weights: Tensor) -> Tensor:
    """Return weights (D,C) as panels (D/16,C,16), each contiguous."""
    return weights.unflatten(0, (-1, PANEL)).mT.contiguous()
