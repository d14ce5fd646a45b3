"""The pipeline's own speed: predict with a near-free model, on scenes of growing size.

    python tests/benchmarks/pipeline.py [--sizes 4096 8192 16384] [--compress jpeg] [--repeat 3]

Each run has a process of its own; printed are medians. Reading, blending, decoding, polygons and
writing of layers and class raster are all of the work. For comparison the same scene is converted
to a COG by GDAL alone, which reads, compresses and writes three bands and does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import rasterio.shutil

from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory
from geoseg.pipeline.bench import StandIn, write_scene
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict


def predicted(scene: str) -> None:
    keep_free_memory()
    with tempfile.TemporaryDirectory() as folder:
        predict(
            scene, TileModel(StandIn(), device="cpu"), OutputOptions(Path(folder)), TilingOptions()
        )


def converted(scene: str) -> None:
    with tempfile.TemporaryDirectory() as folder, rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
        rasterio.shutil.copy(scene, Path(folder) / "copy.tif", driver="COG")


def measure(
    task: Callable[[str], None], scene: str, results: multiprocessing.Queue[tuple[float, float]]
) -> None:
    start = time.perf_counter()
    task(scene)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put((time.perf_counter() - start, peak))


def in_own_process(task: Callable[[str], None], scene: str) -> tuple[float, float]:
    """Seconds, without those of imports, and peak memory in MB."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=measure, args=(task, scene, results))
    process.start()
    found = results.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--compress", choices=("jpeg", "deflate"), default="jpeg")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(f"{'side':>6} {'Mpx':>6} {'predict':>9} {'':>12} {'':>8} {'to COG':>9} {'ratio':>6}")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            scene = write_scene(Path(folder) / "jpeg.tif", size)
            if options.compress != "jpeg":
                plain = str(Path(folder) / "scene.tif")
                rasterio.shutil.copy(
                    scene, plain, driver="GTiff", tiled=True, compress=options.compress, predictor=2
                )
                scene = plain
            runs = [
                [in_own_process(task, scene) for task in (predicted, converted)]
                for _ in range(options.repeat)
            ]
        seconds = statistics.median(run[0][0] for run in runs)
        memory = statistics.median(run[0][1] for run in runs)
        cog = statistics.median(run[1][0] for run in runs)
        mpx = size**2 / 1e6
        print(
            f"{size:6} {mpx:6.0f} {seconds:7.1f} s {mpx / seconds:6.1f} Mpx/s {memory:5.0f} MB "
            f"{cog:7.1f} s {seconds / cog:6.2f}"
        )


if __name__ == "__main__":
    main()
