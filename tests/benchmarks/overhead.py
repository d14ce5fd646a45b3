"""How much longer a whole prediction takes than the forward passes of its tiles, on a CPU.

    python tests/benchmarks/overhead.py [SCENE] [--size 4096] [--gsd METERS] [--repeat 9]

Of a scene, the window of --size² px in its middle; without one, a rendered one. The passes are
timed before and after each prediction, for machines get slower and faster in between. `--gsd` 0 =
the scene's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import rasterio
from rasterio.windows import Window

from geoseg.cli.main import SWITCH_INTERVAL
from geoseg.geo.raster.resampled import ResampledScene, suitable_gsd
from geoseg.geo.raster.scene import Scene
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory
from geoseg.pipeline.bench import passes, write_scene
from geoseg.pipeline.options import OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.tiling.grid import Grid


def middle(scene: str, path: Path, size: int) -> str:
    """Written to `path`; returned as a string."""
    with rasterio.open(scene) as file:
        window = Window((file.width - size) // 2, (file.height - size) // 2, size, size)
        place = {"crs": file.crs, "transform": file.window_transform(window)}
        pixels = file.read((1, 2, 3), window=window)
    profile = {"width": size, "height": size, "count": 3, "dtype": pixels.dtype, **place}
    profile |= {"driver": "GTiff", "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
    return str(path)


def seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scene", nargs="?")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--gsd", type=float)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL)
    network, tiling = load_model(None), TilingOptions()
    keep_free_memory()
    model = TileModel(network, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "scene.tif"
        if options.scene:
            path = middle(options.scene, cut, options.size)
        else:
            path = write_scene(cut, options.size)
        scene = Scene.open(path)
        own = scene.geobox.gsd if options.gsd == 0 else options.gsd
        gsd = own or suitable_gsd(scene.geobox.gsd, network.metadata.gsd_range)
        seen = ResampledScene.of(scene, gsd=gsd, scale=network.metadata.scale).geobox
        scene.close()
        grid = Grid(seen.width, seen.height, tiling.tile_size, tiling.overlap)
        shapes = [(y.size, x.size) for y in grid.rows for x in grid.columns]
        bare = passes(model, shapes)
        request = OutputOptions(Path(folder) / "results", overwrite=True)
        print(
            f"{options.scene or 'rendered'}: "
            f"{len(shapes)} tiles of {shapes[0][0]} × {shapes[0][1]} px"
        )
        ratios, before = [], seconds(bare)
        for _ in range(options.repeat):
            whole = seconds(lambda: predict(path, model, request, tiling, SceneOptions(gsd=gsd)))
            after = seconds(bare)
            ratios.append(2 * whole / (before + after))
            print(
                f"passes {before:5.2f} and {after:5.2f} s, whole {whole:5.2f} s: {ratios[-1]:.3f}"
            )
            before = after
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
