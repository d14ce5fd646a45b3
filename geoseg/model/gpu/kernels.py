"""Depthwise convolutions of channels-last maps, in Triton.

cuDNN computes depthwise convolutions in half precision far below the bandwidth of the memory, and
adds each bias in another pass. Here the seven convolutions of multi-scale attention (`MSCA`) take
three passes, and the convolution of an MLP takes one with its bias and GELU.

A program computes a tile of rows, columns and channels. Sums are in float32, and each has the same
order whatever the tiles are, so results do not depend on them. Outside of a map all values are
zero; any height, width and number of channels will do.

Importing this needs Triton, which torch brings along for CUDA on Linux only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tile(NamedTuple):
    """Size of the tile that a program computes, powers of two, and the warps that it uses."""

    rows: int
    columns: int
    channels: int
    warps: int


SQUARE = Tile(4, 16, 32, 4)
ACROSS = Tile(2, 32, 32, 4)
DOWN = Tile(32, 4, 32, 4)
"""The fastest on an H100, by `tests/benchmarks/triton_tiles.py`."""


def convolve(x: Tensor, weights: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """Return a square depthwise convolution of `x`, then its GELU if that is wanted.

    Args:
        x: (N,H,W,C), contiguous, as all maps here.
        weights: (K·K,C), row by row; see `taps`.
        bias: (C,), in float32, as all here.
    """
    side = round(len(weights) ** 0.5)
    y = torch.empty_like(x)
    launch(convolve_kernel, SQUARE, x, y, weights, bias, SIDE=side, GELU=gelu)
    return y


def multiscale(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Return L + Σ V(H(L)) over three strips, L the 5×5 convolution of `x` (N,H,W,C).

    Args:
        weights: (25,C) of the 5×5 convolution; (39,C) of the horizontal strips of 7, 11 and 21
            taps, one after the other; (39,C) of the vertical ones.
        biases: (C,); (3,C) of the horizontal strips; (C,), the sum of the vertical ones.
    """
    local = convolve(x, weights[0], biases[0])
    samples, *size = x.shape
    maps = x.new_empty(samples, 3, *size)
    launch(across_kernel, ACROSS, local, maps, weights[1], biases[1])
    y = torch.empty_like(x)
    launch(down_kernel, DOWN, local, y, weights[2], biases[2], maps)
    return y


def taps(*convs: torch.nn.Conv2d) -> Tensor:
    """Return the weights of depthwise convolutions as (taps,C)."""
    return torch.cat([conv.weight.flatten(1).T for conv in convs]).contiguous()


def launch(kernel: Any, tile: Tile, x: Tensor, *tensors: Tensor, **constants: int) -> None:
    """Run a program for each tile of `x` (N,H,W,C)."""
    samples, height, width, channels = x.shape
    assert x.is_contiguous()
    assert 64 * width * channels < 2**31, "offsets inside a tile and its halo have 32 bits"
    programs = samples * triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns)
    grid = (programs * triton.cdiv(channels, tile.channels),)
    sizes = {"ROWS": tile.rows, "COLUMNS": tile.columns, "CHANNELS": tile.channels}
    with torch.cuda.device_of(x):  # Triton launches on the current one
        kernel[grid](
            x, *tensors, height, width, channels, **constants, **sizes, num_warps=tile.warps
        )


@triton.jit
def place(
    height, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Return a program's sample and first row; rows from there and columns (P,); channels (C,)."""
    index = tl.program_id(0)
    blocks = tl.cdiv(channels, CHANNELS)
    channel = index % blocks * CHANNELS + tl.arange(0, CHANNELS)
    index = index // blocks
    blocks = tl.cdiv(width, COLUMNS)
    pixel = tl.arange(0, ROWS * COLUMNS)
    column = index % blocks * COLUMNS + pixel % COLUMNS
    index = index // blocks
    blocks = tl.cdiv(height, ROWS)
    # 64 bits, since a batch can have more than 2³¹ values. A tile with its halo has fewer.
    sample = (index // blocks).to(tl.int64)
    return sample, index % blocks * ROWS, pixel // COLUMNS, column, channel


@triton.jit
def locate(top, row, column, channel, height, width, channels):
    """Return offsets of values from row `top`, and which are inside of the map, (P,C)."""
    inside = (top + row >= 0) & (top + row < height) & (column >= 0) & (column < width)
    at = (row * width + column)[:, None] * channels + channel[None, :]
    return at, inside[:, None] & (channel < channels)[None, :]


@triton.jit
def read(x, top, row, column, channel, height, width, channels):
    """Return values (P,C) in float32, zero outside of the map."""
    at, inside = locate(top, row, column, channel, height, width, channels)
    return tl.load(x + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def write(y, total, top, row, column, channel, height, width, channels):
    at, inside = locate(top, row, column, channel, height, width, channels)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def per_channel(table, index, channel, channels):
    """Return a row (1,C) of a table in float32."""
    found = tl.load(table + index * channels + channel, mask=channel < channels, other=0.0)
    return found.to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["height", "width"])
def convolve_kernel(
    x, y, weights, bias, height, width, channels,
    SIDE: tl.constexpr, GELU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sample, top, row, column, channel = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    start = (sample * height + top) * width * channels
    total = tl.zeros((ROWS * COLUMNS, CHANNELS), tl.float32)
    total += per_channel(bias, 0, channel, channels)
    for i in range(SIDE):
        for j in tl.static_range(SIDE):
            down, right = row + (i - SIDE // 2), column + (j - SIDE // 2)
            values = read(x + start, top, down, right, channel, height, width, channels)
            total += values * per_channel(weights, i * SIDE + j, channel, channels)
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    write(y + start, total, top, row, column, channel, height, width, channels)


@triton.jit(do_not_specialize=["height", "width"])
def across_kernel(
    x, maps, weights, bias, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write strips of 7, 11 and 21 columns to three maps; what they have in common is read once."""
    sample, top, row, column, channel = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    start = (sample * height + top) * width * channels
    total = tl.zeros((ROWS * COLUMNS, CHANNELS), tl.float32)
    total_7 = total + per_channel(bias, 0, channel, channels)
    total_11 = total + per_channel(bias, 1, channel, channels)
    total_21 = total + per_channel(bias, 2, channel, channels)
    for j in range(-10, 11):
        values = read(x + start, top, row, column + j, channel, height, width, channels)
        if j * j <= 9:
            total_7 += values * per_channel(weights, j + 3, channel, channels)
        if j * j <= 25:
            total_11 += values * per_channel(weights, j + 12, channel, channels)
        total_21 += values * per_channel(weights, j + 28, channel, channels)
    plane = height.to(tl.int64) * width * channels
    maps += start + 2 * sample * plane
    write(maps, total_7, top, row, column, channel, height, width, channels)
    write(maps + plane, total_11, top, row, column, channel, height, width, channels)
    write(maps + 2 * plane, total_21, top, row, column, channel, height, width, channels)


@triton.jit(do_not_specialize=["height", "width"])
def down_kernel(
    x, y, weights, bias, maps, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add up `x` and the strips of 7, 11 and 21 rows, each of its map."""
    sample, top, row, column, channel = place(height, width, channels, ROWS, COLUMNS, CHANNELS)
    start = (sample * height + top) * width * channels
    plane = height.to(tl.int64) * width * channels
    total = read(x + start, top, row, column, channel, height, width, channels)
    total += per_channel(bias, 0, channel, channels)
    maps += start + 2 * sample * plane
    for i in range(-3, 4):
        values = read(maps, top, row + i, column, channel, height, width, channels)
        total += values * per_channel(weights, i + 3, channel, channels)
    for i in range(-5, 6):
        values = read(maps + plane, top, row + i, column, channel, height, width, channels)
        total += values * per_channel(weights, i + 12, channel, channels)
    for i in range(-10, 11):
        values = read(maps + 2 * plane, top, row + i, column, channel, height, width, channels)
        total += values * per_channel(weights, i + 28, channel, channels)
    write(y + start, total, top, row, column, channel, height, width, channels)
