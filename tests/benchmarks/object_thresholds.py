"""What dropping uncertain and small objects gains: the best limits by class, against boxes.

    python tests/benchmarks/object_thresholds.py WEIGHTS DATA RECIPE

DATA is a training set with `boxes.csv`, as `tests/benchmarks/aerial_data.py` makes one, and RECIPE
says which classes its groups label completely. Limits are fitted on the val images that they are
scored on, so the F1 is an upper bound.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import geoseg
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.train.box_scores import read_box_table
from geoseg.train.dataset import LabeledFolder
from geoseg.train.recipe import load_recipe

MIN_IOU = 0.3
CONFIDENCES = np.arange(0, 0.99, 0.03)
AREAS = (9, 16, 32, 64, 128, 256)


class Found(NamedTuple):
    """One region."""

    confidence: float
    pixels: int
    truth: tuple[str, int] | None
    """Image and box that it overlaps enough, if any."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("data", type=Path)
    parser.add_argument("recipe", type=Path)
    args = parser.parse_args()
    weights = None if args.weights == "default" else args.weights
    model = TileModel(load_model(weights), device="cpu")
    groups = load_recipe(args.recipe).data.groups
    data = LabeledFolder.open(args.data)
    boxes = read_box_table(data.root, data.classes)
    boxed = {group for group, _ in boxes}
    truths, found = Counter[str](), defaultdict[str, list[Found]](list)
    for item in data.split("val"):
        if item.group not in boxed:
            continue
        image, _, valid = item.load()
        class_ids, confidence = geoseg.predict_array(image, valid=valid, model=model)
        complete = groups[item.group].complete if item.group in groups else None
        outlines = boxes.get((item.group, item.name))
        known = outlines.axis_aligned(data.classes) if outlines else {}
        for label in data.classes[1:]:
            if complete is not None and label.id not in complete:
                continue
            own = known.get(label.name, np.zeros((0, 4)))
            truths[label.name] += len(own)
            found[label.name] += regions(class_ids == label.id, confidence, own, item.name)
    for name, count in truths.items():
        if count:
            report(name, count, found[name])


def regions(
    mask: NDArray[np.bool_], confidence: NDArray[np.generic], truth: NDArray[np.float64], name: str
) -> list[Found]:
    """The regions of one class in one image, each with the box that it matches best."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    means = ndimage.mean(confidence, labels, range(1, count + 1))
    result = []
    for (rows, columns), size, mean in zip(ndimage.find_objects(labels), sizes, means, strict=True):
        box = np.array([columns.start, rows.start, columns.stop, rows.stop], float)
        ious = iou(box, truth)
        hit = bool(len(ious)) and ious.max() >= MIN_IOU
        result.append(Found(float(mean), int(size), (name, int(ious.argmax())) if hit else None))
    return result


def iou(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return common / (areas + (box[2:] - box[:2]).prod() - common)


def f1(found: Sequence[Found], truths: int) -> float:
    hits = len({each.truth for each in found} - {None})
    return 2 * hits / (len(found) + truths)


def report(name: str, truths: int, found: list[Found]) -> None:
    now = f1([each for each in found if each.pixels >= AREAS[0]], truths)
    best, confidence, pixels = max(
        (f1([e for e in found if e.confidence >= limit and e.pixels >= area], truths), limit, area)
        for limit in CONFIDENCES
        for area in AREAS
    )
    print(
        f"{name:20} {truths:5} true  F1 {now:.3f} -> {best:.3f} "
        f"from confidence {confidence:.2f} and {pixels} px",
        flush=True,
    )


if __name__ == "__main__":
    main()
