"""Would it help to split regions into objects that stand side by side?

    python tests/benchmarks/split_touching.py FOLDER [--gsd 0.2 --gsd 0.35] [--seeds 4]
    python tests/benchmarks/split_touching.py FOLDER --pairs PICTURE MASK [--pairs …]

Rendered scenes (or pictures with a mask of iSAID ids, whose regions count as objects) are predicted
with the default weights; what is in FOLDER already is not predicted again. Printed for each class
and way of splitting: objects that are there, regions found, pairs of the two whose intersection is
more than half of their union, precision, recall, F1. `truth` splits where the true objects meet:
no method can do better. Needs scipy.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin
from scipy import ndimage

from geoseg.classes import ISAID
from geoseg.geo.raster.class_raster import SPECK
from geoseg.synthetic import render_scene

CLASSES = (9, 8, 1, 14, 4)
SIZE, SEED = 1024, 700_001
Labels = NDArray[np.int32]
"""(H, W) 0 = nothing, else the number of an object."""
Split = Callable[[Labels, NDArray[np.float32]], Labels]
"""From one region (1 inside) and the confidence over it to its parts."""


def by_height(region: Labels, height: NDArray[np.float32], depth: float) -> Labels:
    """Watershed from the summits that stand out by at least `depth`."""
    inside = region > 0
    height = np.where(inside, height, 0)
    floor = height - depth  # flooded until it meets the heights: what stands out is summits
    while True:
        raised = np.minimum(ndimage.grey_dilation(floor, size=3), height)
        if np.array_equal(raised, floor):
            break
        floor = raised
    summits, count = ndimage.label(inside & (height > floor), np.ones((3, 3)))
    tops = ndimage.maximum(height - floor, summits, np.arange(1, count + 1))
    high = np.append(0, (tops > 0.999 * depth).cumsum() * (tops > 0.999 * depth))
    return flooded(inside, high[summits], height) if high.max() > 1 else region


def by_distance(region: Labels, confidence: NDArray[np.float32], depth: float) -> Labels:
    """Summits are where the region is wide; in pixels."""
    return by_height(region, ndimage.distance_transform_edt(region).astype(np.float32), depth)


def by_confidence(region: Labels, confidence: NDArray[np.float32], depth: float) -> Labels:
    """Summits are where the model is sure."""
    return by_height(region, ndimage.gaussian_filter(confidence, 1.0), depth)


def by_opening(region: Labels, confidence: NDArray[np.float32], width: float) -> Labels:
    """Cut at necks that are narrower than `width` pixels."""
    distance = ndimage.distance_transform_edt(region).astype(np.float32)
    markers, count = ndimage.label(distance > width / 2)
    return flooded(region > 0, markers, distance) if count > 1 else region


def flooded(inside: NDArray[np.bool_], markers: Labels, height: NDArray[np.float32]) -> Labels:
    """Every pixel inside goes to the marker that it drains to."""
    cost = np.rint(65_535 * (1 - height / height.max())).astype(np.uint16)
    parts = ndimage.watershed_ift(cost, np.where(inside, markers, -1).astype(np.int32))
    return np.where(inside, parts, 0)


WAYS: dict[str, Split | None] = {
    "none": None,
    **{f"distance, {depth} px": partial(by_distance, depth=depth) for depth in (0.5, 1, 2)},
    **{f"confidence, {depth}": partial(by_confidence, depth=depth) for depth in (0.03, 0.1, 0.2)},
    **{f"necks, {width} px": partial(by_opening, width=width) for width in (2, 4, 6)},
}


def regions(mask: NDArray[np.bool_]) -> Labels:
    """4-connected, but for specks."""
    labels, _ = ndimage.label(mask)
    return np.where(np.bincount(labels.ravel())[labels] >= SPECK, labels, 0).astype(np.int32)


def split(labels: Labels, confidence: NDArray[np.float32], way: Split) -> Labels:
    result, count = np.zeros_like(labels), 0
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        inside = np.pad(labels[place] == number, 1)
        parts = way(inside.astype(np.int32), np.pad(confidence[place], 1))[1:-1, 1:-1]
        result[place] += np.where(parts > 0, parts + count, 0)
        count += int(parts.max())
    return result


def split_by_truth(labels: Labels, truth: Labels) -> Labels:
    """Each pixel of a region goes to the true object that is nearest."""
    if not truth.any():
        return labels
    nearest = ndimage.distance_transform_edt(
        truth == 0, return_distances=False, return_indices=True
    )
    parts = labels.astype(np.int64) * (int(truth.max()) + 1) + truth[tuple(nearest)]
    numbers = np.unique(np.where(labels > 0, parts, 0), return_inverse=True)[1]
    return numbers.reshape(labels.shape).astype(np.int32)


def matches(found: Labels, truth: Labels) -> NDArray[np.int64]:
    """Objects that are there, that were found, and pairs of the two."""
    there, mine = np.bincount(truth.ravel()), np.bincount(found.ravel())
    both = (found > 0) & (truth > 0)
    pairs, common = np.unique(np.stack([found[both], truth[both]]), axis=1, return_counts=True)
    union = mine[pairs[0]] + there[pairs[1]] - common
    counts = [(there[1:] > 0).sum(), (mine[1:] > 0).sum(), (common * 2 > union).sum()]
    return np.array(counts)


def predicted(folder: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Classes and confidence of `name`.tif, from its outputs."""
    paths = [folder / f"{name}.{kind}.tif" for kind in ("classes", "confidence")]
    if not all(path.exists() for path in paths):
        from geoseg.model.load import load_model
        from geoseg.model.tile_model import TileModel
        from geoseg.native.malloc import keep_free_memory
        from geoseg.pipeline.options import OutputOptions, SceneOptions
        from geoseg.pipeline.predict import predict

        keep_free_memory()
        model = TileModel(load_model(None), device="cpu")
        with rasterio.open(folder / f"{name}.tif") as file:
            own = SceneOptions(gsd=file.res[0])
        request = OutputOptions(folder, overwrite=True, confidence=True)
        predict(folder / f"{name}.tif", model, request, scene=own)
    classes, confidence = (rasterio.open(path).read(1) for path in paths)
    return classes, (confidence / 100).astype(np.float32)


def write_picture(path: Path, picture: NDArray[np.uint8], gsd: float) -> None:
    height, width, _ = picture.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8"}
    place = {"crs": 32633, "transform": from_origin(448_000, 5_412_000, gsd, gsd)}
    with rasterio.open(path, "w", photometric="rgb", **profile, **place) as file:
        file.write(picture.transpose(2, 0, 1))


def rendered(folder: Path, gsd: float, seed: int) -> tuple[str, dict[int, Labels]]:
    name, scene = f"{gsd:g}-{seed}", render_scene(SIZE, SIZE, gsd=gsd, seed=seed)
    if not (folder / f"{name}.tif").exists():
        write_picture(folder / f"{name}.tif", scene.image, gsd)
    truth = {}
    for class_id in CLASSES:
        shapes = [
            ({"type": "Polygon", "coordinates": [[*item.polygon, item.polygon[0]]]}, number)
            for number, item in enumerate(scene.objects, start=1)
            if item.class_id == class_id
        ]
        burnt = rasterio.features.rasterize(shapes, (SIZE, SIZE), dtype="int32") if shapes else 0
        truth[class_id] = np.where(scene.class_ids == class_id, burnt, 0)
    return name, truth


def pictured(folder: Path, picture: str, mask: str) -> tuple[str, dict[int, Labels]]:
    name, class_ids = Path(picture).stem, np.asarray(Image.open(mask))
    if not (folder / f"{name}.tif").exists():
        write_picture(folder / f"{name}.tif", np.asarray(Image.open(picture).convert("RGB")), 0.1)
    return name, {class_id: regions(class_ids == class_id) for class_id in CLASSES}


def report(scenes: Iterator[tuple[str, dict[int, Labels]]], folder: Path) -> None:
    sums: dict[tuple[int, str], NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, np.int64))
    for name, truth in scenes:
        class_ids, confidence = predicted(folder, name)
        for class_id, there in truth.items():
            found = regions(class_ids == class_id)
            for way, cut in WAYS.items():
                parts = split(found, confidence, cut) if cut else found
                sums[class_id, way] += matches(parts, there)
            sums[class_id, "truth"] += matches(split_by_truth(found, there), there)
    print(f"{'class':<14} {'split by':<16} there found pairs  precision recall    F1")
    for (class_id, way), (there, found, pairs) in sums.items():
        if there:
            ratios = pairs / max(found, 1), pairs / there, 2 * pairs / (there + found)
            text = "   ".join(f"{ratio:6.3f}" for ratio in ratios)
            print(f"{ISAID[class_id].name:<14} {way:<16} {there:5} {found:5} {pairs:5}   {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gsd", type=float, action="append")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--pairs", nargs=2, action="append", metavar=("PICTURE", "MASK"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.pairs:
        report((pictured(options.folder, *pair) for pair in options.pairs), options.folder)
        return
    for gsd in options.gsd or [0.2, 0.35]:
        print(f"\n{gsd:g} m, {options.seeds} scenes of {SIZE}²")
        seeds = range(SEED, SEED + options.seeds)
        report((rendered(options.folder, gsd, seed) for seed in seeds), options.folder)


if __name__ == "__main__":
    main()
