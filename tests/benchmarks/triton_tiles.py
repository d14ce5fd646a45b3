"""Bandwidth of the kernels in Triton by the size of their tiles, on a CUDA device.

    python tests/benchmarks/triton_tiles.py

Prints GB/s, of what a kernel must read and write, for maps of SegNeXt-T in bfloat16: 16 tiles of
1472 px. `geoseg.model.gpu.kernels` holds the tiles that are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton.testing
from torch import Tensor

from geoseg.model.gpu import kernels
from geoseg.model.gpu.kernels import Tile

MAPS = {"stage 1": (16, 368, 368, 32), "stage 3": (16, 92, 92, 160)}
HIDDEN = {"stage 1": (16, 368, 368, 256), "stage 3": (16, 92, 92, 640)}
SQUARE = [(8, 16, 32, 4), (8, 8, 32, 4), (4, 16, 32, 4), (16, 16, 32, 8), (8, 8, 64, 4)]
ACROSS = [(2, 32, 32, 4), (1, 64, 32, 4), (4, 16, 32, 4), (2, 32, 32, 8), (1, 32, 32, 2)]
DOWN = [(32, 4, 32, 4), (32, 2, 32, 4), (16, 4, 32, 4), (64, 4, 32, 8), (32, 4, 64, 8)]


def works() -> Iterator[
    tuple[str, str, list[tuple[int, int, int, int]], int, Callable[[], object]]
]:
    """Yield kernels, maps, tiles to try, bytes that are read and written, and calls."""
    for stage, size in HIDDEN.items():
        x = torch.randn(size, device="cuda", dtype=torch.bfloat16)
        weights, bias = table(9, size[-1]), torch.zeros(size[-1], device="cuda")
        moved = 2 * x.nbytes
        yield (
            *("3x3, GELU", stage, SQUARE, moved),
            lambda x=x, w=weights, b=bias: kernels.convolve(x, w, b, gelu=True),
        )
    for stage, size in MAPS.items():
        x = torch.randn(size, device="cuda", dtype=torch.bfloat16)
        maps, y = x.new_empty(size[0], 3, *size[1:]), torch.empty_like(x)
        square, strips = table(25, size[-1]), table(39, size[-1])
        bias = torch.zeros((3, size[-1]), device="cuda")
        yield (
            *("5x5", stage, SQUARE, 2 * x.nbytes),
            lambda x=x, w=square, b=bias[0]: kernels.convolve(x, w, b),
        )
        across = (kernels.across_kernel, x, maps, strips, bias)
        yield "across", stage, ACROSS, 4 * x.nbytes, lambda a=across: run(a, kernels.ACROSS)
        down = (kernels.down_kernel, x, y, strips, bias[0], maps)
        yield "down", stage, DOWN, 5 * x.nbytes, lambda a=down: run(a, kernels.DOWN)


def table(taps: int, channels: int) -> Tensor:
    return torch.randn((taps, channels), device="cuda", dtype=torch.bfloat16)


def run(arguments: tuple[object, ...], tile: Tile) -> None:
    kernel, *tensors = arguments
    kernels.launch(kernel, tile, *tensors)  # type: ignore[arg-type]


def main() -> None:
    for name, stage, tiles, moved, call in works():
        for tile in tiles:
            kernels.SQUARE = kernels.ACROSS = kernels.DOWN = Tile(*tile)
            ms = triton.testing.do_bench(call, warmup=5, rep=40, return_mode="median")
            print(f"{name:10} {stage} {tile!s:20} {moved / ms / 1e6:7.0f} GB/s", flush=True)


if __name__ == "__main__":
    main()
