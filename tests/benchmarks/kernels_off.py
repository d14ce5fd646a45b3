"""What each piece of C is worth: a SegNeXt pass on one thread with that piece off.

    python tests/benchmarks/kernels_off.py SCENE [--weights NAME|PATH] [--side 1024] [--rounds 5]

The ways take turns in one process. Times are processor time of the thread, which other jobs on the
machine hardly change. The ratio is to the pass with everything on, a median over the rounds; that
pass is timed twice, to show the scatter. `cpu_table.py` tells how to imitate AVX2.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from geoseg import load_model
from geoseg.model import fused
from geoseg.model.cpu import kernels, matmul
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory

FUNCTIONS = ("bias_gelu", "depthwise_gelu", "multiscale_conv")
SWITCHES = ("use_fused_mlp", "use_native_gemm")
ALL = "everything"


def install(off: set[str]) -> None:
    """Make the functions do without C while their names, or `ALL`, are in `off`."""
    library = kernels.library

    def by_torch(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            kernels.library = (lambda: None) if off & {name, ALL} else library
            try:
                return function(*args)
            finally:
                kernels.library = library

        return run

    def switched(function: Callable[..., bool], name: str) -> Callable[..., bool]:
        return lambda *args: not off & {name, ALL} and function(*args)

    for names, wrap in ((FUNCTIONS, by_torch), (SWITCHES, switched)):
        for name in names:
            wrapped = wrap(getattr(kernels, name, None) or getattr(matmul, name), name)
            for module in (kernels, matmul, fused):
                if hasattr(module, name):
                    setattr(module, name, wrapped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scene")
    parser.add_argument("--weights", default="geoseg/model/weights/segnext_t_aerial.safetensors")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_free_memory()
    torch.set_num_threads(1)
    off: set[str] = set()
    install(off)
    side = options.side
    with rasterio.open(options.scene) as file:
        window = Window((file.width - side) // 2, (file.height - side) // 2, side, side)
        pixels = torch.from_numpy(file.read((1, 2, 3), window=window))[None]
    mask = torch.ones((1, side, side), dtype=torch.bool)
    model = TileModel(load_model(options.weights), device="cpu", precision="float32", consume=True)

    @torch.inference_mode()
    def once() -> float:
        start = time.thread_time()
        model.forward(pixels, mask)
        return time.thread_time() - start

    ways = ["nothing", "nothing again", *FUNCTIONS, *SWITCHES, ALL]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(options.rounds + 1):
        for way in ways:
            off.clear()
            off.add(way)
            used = model.pool.submit(once).result()
            if round_:  # the first one warms up
                seconds[way].append(used)
    print(f"{torch.backends.cpu.get_cpu_capability()}, {side}², one thread")
    print("| off | s | ratio | least | most |\n|---|---|---|---|---|")
    for way in ways:
        ratios = np.divide(seconds[way], seconds["nothing"])
        print(
            f"| {way} | {statistics.median(seconds[way]):.3f} | {np.median(ratios):.3f} "
            f"| {ratios.min():.3f} | {ratios.max():.3f} |"
        )


if __name__ == "__main__":
    main()
