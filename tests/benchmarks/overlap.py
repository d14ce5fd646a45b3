"""What the overlap of tiles costs, and what it does for the map.

    python tests/benchmarks/overlap.py [SCENE …] [--size 2048] [--tile-sizes 512 1024 1472]

For the default weights and every overlap: pixels that the model sees per pixel of the scene, the
share of pixels whose class differs from one forward pass over the whole picture, and that share of
the pixels whose class is an object's in either. Scenes are cut to their `--size`; besides them
scenes are rendered, whose truth is known: the mean IoU is theirs.
"""

from __future__ import annotations

import argparse

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from geoseg.classes import IGNORE
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory
from geoseg.synthetic import render_scene
from geoseg.tiling.grid import ALIGN, Grid
from geoseg.train.evaluate import predict_pixels


def centre(path: str, size: int) -> NDArray[np.uint8]:
    """(H,W,3), sides multiples of what the model's stride demands."""
    with rasterio.open(path) as file:
        width, height = (min(size, side) // ALIGN * ALIGN for side in (file.width, file.height))
        left, top = (file.width - width) // 2, (file.height - height) // 2
        pixels = file.read([1, 2, 3], window=Window(left, top, width, height))
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def mean_iou(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> float:
    """Of the classes that the truths have, over all pairs of found and true classes."""
    confusion = np.zeros((256, 256), dtype=np.int64)
    for found, truth in pairs:
        known = truth != IGNORE
        np.add.at(confusion, (truth[known], found[known]), 1)
    hits = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return float((hits / np.maximum(union, 1))[confusion.any(axis=1)].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rendered", type=int, default=3, help="as many rendered scenes")
    parser.add_argument("--tile-sizes", type=int, nargs="+", default=[512, 1024, 1472])
    options = parser.parse_args()
    keep_free_memory()
    model = TileModel(load_model(), device="cpu")
    rendered = [
        render_scene(options.size, options.size, gsd=0.3, seed=seed)
        for seed in range(options.rendered)
    ]
    pictures = [scene.image for scene in rendered]
    pictures += [centre(path, options.size) for path in options.scenes]
    # One tile that holds the picture: nothing is cut.
    wholes = [predict_pixels(model, p, tile_size=max(p.shape[:2]), overlap=0) for p in pictures]
    area = sum(whole.size for whole in wholes)
    print(f"{'tile':>5} {'overlap':>7} {'seen':>6} {'differs':>8} {'of objects':>10} {'mIoU':>6}")
    for tile_size in options.tile_sizes:
        for overlap in (0, 32, 64, 96, 128, 192, 256):
            if 2 * overlap > tile_size:
                continue
            maps = [
                predict_pixels(model, picture, tile_size=tile_size, overlap=overlap)
                for picture in pictures
            ]
            pairs = list(zip(maps, wholes, strict=True))
            seen = sum(
                Grid(whole.shape[1], whole.shape[0], tile_size, overlap).model_pixels
                for whole in wholes
            )
            differs = sum(int((found != whole).sum()) for found, whole in pairs)
            objects = sum(int(((found | whole) != 0).sum()) for found, whole in pairs)
            truths = [scene.class_ids for scene in rendered]
            score = mean_iou(list(zip(maps[: len(truths)], truths, strict=True)))
            print(
                f"{tile_size:5} {overlap:7} {seen / area:6.3f} {100 * differs / area:7.3f}% "
                f"{100 * differs / objects:9.2f}% {score:6.3f}"
            )


if __name__ == "__main__":
    main()
