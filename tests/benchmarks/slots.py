"""How busy predict keeps the threads of a cluster, and how fast the client commits.

    python tests/benchmarks/slots.py [--slots 32] [--seconds 1] [--blocks 512]

The cluster has `slots` threads in this process, and its model sleeps for `seconds` a block. Busy is
the time asleep over that of all threads until the last block is written. With `--seconds 0` the
speed is that of one process that does the work of client and workers.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from distributed import LocalCluster
from numpy.typing import NDArray

from geoseg.model.tile_model import TileModel
from geoseg.pipeline.bench import StandIn, write_scene
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.timing import StageTimer


class Sleeping(TileModel):
    """Waits in the thread that calls it, as for a device."""

    seconds = 0.0

    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]],
        valid: Sequence[NDArray[np.bool_]],
        timer: StageTimer,
    ) -> list[NDArray[np.float32]]:
        time.sleep(self.seconds)
        return super().__call__(images, valid, timer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--tile-size", type=int, default=256)
    options = parser.parse_args()
    Sleeping.seconds = options.seconds
    tiling = TilingOptions(options.tile_size, 32)
    side = round(math.sqrt(options.blocks))
    cluster = LocalCluster(
        n_workers=-(-options.slots // 8),
        threads_per_worker=min(8, options.slots),
        processes=False,
        protocol="tcp",
        dashboard_address=None,
    )
    with tempfile.TemporaryDirectory() as folder, cluster:
        scene = write_scene(Path(folder) / "scene.tif", side * (options.tile_size - 32) + 32)
        start = time.perf_counter()
        summary = predict(
            scene,
            Sleeping(StandIn(), device="cpu"),
            OutputOptions(Path(folder) / "results"),
            tiling,
            compute=ComputeOptions(scheduler=cluster.scheduler_address),
        )
        seconds = time.perf_counter() - start
    asleep = side**2 * options.seconds
    print(
        f"{side**2} blocks in {seconds:.1f} s: {asleep / options.slots / seconds:.0%} of "
        f"{options.slots} threads busy, {summary.pixels / 1e6 / seconds:.1f} Mpx/s"
    )


if __name__ == "__main__":
    main()
