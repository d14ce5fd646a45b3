"""How much longer a whole prediction takes than the forward passes of its tiles, on a CPU.

    python tests/benchmarks/overhead.py [SCENE] [--gsd METRES] [--repeat 9]

The passes are timed before and after each prediction, for machines get slower and faster in
between. Without a scene: a rendered one of 4096 × 4096 px. `--gsd` 0 = the scene's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from geoseg.bench import passes, write_scene
from geoseg.cli.main import SWITCH_INTERVAL
from geoseg.geo.scene import Scene
from geoseg.geo.view import View, suitable_gsd
from geoseg.grid import Grid
from geoseg.model.checkpoint import load_model
from geoseg.model.inference import TileModel
from geoseg.predict import predict
from geoseg.request import Reading, Request, Tiling


def seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scene", nargs="?")
    parser.add_argument("--gsd", type=float)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL)
    network, tiling = load_model(None), Tiling()
    model = TileModel(network, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = options.scene or write_scene(Path(folder) / "scene.tif", 4096)
        scene = Scene.open(path)
        own = scene.geobox.gsd if options.gsd == 0 else options.gsd
        gsd = own or suitable_gsd(scene.geobox.gsd, network.metadata.gsd_range)
        seen = View.of(scene, gsd=gsd, scale=network.metadata.scale).geobox
        scene.close()
        grid = Grid(seen.width, seen.height, tiling.tile_size, tiling.overlap)
        shapes = [(y.size, x.size) for y in grid.rows for x in grid.columns]
        bare = passes(model, shapes)
        request = Request(Path(folder) / "results", overwrite=True)
        print(f"{Path(path).name}, {len(shapes)} tiles of {shapes[0][0]} × {shapes[0][1]} px")
        ratios, before = [], seconds(bare)
        for _ in range(options.repeat):
            whole = seconds(lambda: predict(path, model, request, tiling, Reading(gsd=gsd)))
            after = seconds(bare)
            ratios.append(2 * whole / (before + after))
            print(
                f"passes {before:5.2f} and {after:5.2f} s, whole {whole:5.2f} s: {ratios[-1]:.3f}"
            )
            before = after
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
