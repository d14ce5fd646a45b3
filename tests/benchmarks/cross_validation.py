"""Leave sources out in turn: what weights find in places that they have never seen.

    python tests/benchmarks/cross_validation.py train RECIPE DATA RUNS --pretrained imagenet
    python tests/benchmarks/cross_validation.py score RECIPE DATA RUNS
    python tests/benchmarks/cross_validation.py score RECIPE DATA RUNS --weights default

`train` makes one run a fold, without the groups of the fold. `score` predicts the images that a
fold left out (`--weights`: the same images by other weights), and prints F1 of objects at an IoU of
bounding boxes of 0.3, by class and group, before and after limits on the mean confidence, and with
limits at an IoU of 0.5. The
limits of a fold are fitted on the other folds; the last line gives those of all folds together, for
`tests/benchmarks/calibrate.py --limits`. DATA comes from `tests/benchmarks/aerial_data.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import geoseg
from geoseg.classes import IGNORE
from geoseg.geo.raster.class_raster import SPECK
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.train.box_scores import read_box_table
from geoseg.train.dataset import LabeledFolder
from geoseg.train.recipe import Recipe, load_recipe

FOLDS = {
    "a": ("simd", "airbus_tanks", "ships_harbor63", "hrplanes_640", "pools_cannes"),
    "b": (
        *("dota_full", "dota_obb", "dota_pools", "isaid4", "ucas_planes", "ucas_cars"),
        *("oil_floating", "ships_621", "harvey_uav", "pools_pseudo"),
    ),
    "c": (
        *("vhr10_rgb", "vhr10_cir", "estonia_ortho", "airbus_aircraft", "aerial_airport"),
        *("aid_tracks", "hand_gearth"),
    ),
}
"""Groups that a fold leaves out. Groups of one origin share a fold."""
MIN_IOU, STRICT_IOU = 0.3, 0.5
CONFIDENCES = np.arange(0, 0.96, 0.03)
FIVE = ("ship", "storage_tank", "large_vehicle", "small_vehicle", "plane")
"""Classes of the mean."""


class Region(NamedTuple):
    """One predicted object."""

    fold: str
    group: str
    label: str
    confidence: float
    truth: tuple[str, int] | None
    """Image and box that it overlaps most, if any."""
    iou: float
    """Of its bounding box and that one."""


class Scores(NamedTuple):
    """What one run predicts for images it has not seen."""

    regions: list[Region]
    truths: Counter[tuple[str, str, str]]
    """Boxes by fold, group and label."""
    confusion: dict[str, NDArray[np.int64]]
    """Of pixels, by group."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("step", choices=("train", "score"))
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--pretrained", default="imagenet")
    parser.add_argument("--steps", type=int, help="of the first stage, in place of the recipe's")
    parser.add_argument("--weights", help="score these, instead of those of the folds")
    parser.add_argument("--folds", default="".join(FOLDS))
    parser.add_argument("--split", choices=("train", "val"), nargs="*", default=["train", "val"])
    parser.add_argument("--scale", type=float, help="instead of that of the weights")
    parser.add_argument("--touching", nargs="*", help="classes whose touching objects are split")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--images", type=int, default=40, help="of a group, at most")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    if args.step == "train":
        for fold in args.folds:
            train(fold, args)
        return
    scores = Scores([], Counter(), {})
    for fold in args.folds:
        weights = args.weights or str(args.runs / fold / "best.safetensors")
        network = load_model(weights)
        if args.scale:
            network.metadata = replace(network.metadata, scale=args.scale)
        if args.touching is not None:
            network.metadata = replace(network.metadata, split=tuple(args.touching))
        model = TileModel(network, device="cpu", precision=args.precision)
        score(fold, model, recipe, args, scores)
    report(scores, args.folds)


def train(fold: str, args: argparse.Namespace) -> None:
    settings = [f"data.groups.{group}.weight=0" for group in FOLDS[fold]]
    if args.steps:
        settings.append(f"stages=[{{steps: {args.steps}, batch: 8, crop: 256, scale: [0.5, 1.6]}}]")
    command = [sys.executable, "-m", "geoseg", "train", str(args.recipe), "--data", str(args.data)]
    command += ["-o", str(args.runs / fold), "--pretrained", args.pretrained]
    command += [part for each in settings for part in ("--set", each)]
    subprocess.run(command, check=True)


def score(
    fold: str, model: TileModel, recipe: Recipe, args: argparse.Namespace, scores: Scores
) -> None:
    """Predict the images of a fold's groups, evenly chosen, and compare with boxes and masks."""
    data = LabeledFolder.open(args.data)
    boxes = read_box_table(args.data, data.classes)
    boxed = {group for group, _ in boxes}
    items = defaultdict(list)
    for item in itertools.chain(*map(data.split, args.split)):
        items[item.group].append(item)
    for group in FOLDS[fold]:
        chosen = items[group][:: -(-len(items[group]) // args.images) or None]
        complete = recipe.data.groups[group].complete if group in recipe.data.groups else None
        for item in chosen:
            image, mask, valid = item.load()
            ids, confidence = geoseg.predict_array(image, valid=valid, model=model)
            matrix = confusion(mask, ids, len(data.classes), complete)
            scores.confusion[group] = scores.confusion.get(group, 0) + matrix
            if group not in boxed:
                continue
            outlines = boxes.get((group, item.name))
            known = outlines.axis_aligned(data.classes) if outlines else {}
            for label in data.classes[1:]:
                if complete is not None and label.id not in complete:
                    continue
                own = known.get(label.name, np.zeros((0, 4)))
                scores.truths[fold, group, label.name] += len(own)
                scores.regions.extend(
                    Region(fold, group, label.name, *found)
                    for found in regions(ids == label.id, confidence, own, item.name)
                )
        print(f"{fold} {group}: {len(chosen)} images", file=sys.stderr, flush=True)


def confusion(
    mask: NDArray[np.uint8], ids: NDArray[np.uint8], classes: int, complete: Collection[int] | None
) -> NDArray[np.int64]:
    """Pixels by truth and prediction, where the labels can tell."""
    known = mask != IGNORE
    if complete is not None:
        known &= (mask != 0) | (ids == 0) | np.isin(ids, list(complete))
    pairs = mask[known].astype(np.int64) * classes + ids[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def regions(
    mask: NDArray[np.bool_], confidence: NDArray[np.generic], truth: NDArray[np.float64], name: str
) -> Iterable[tuple[float, tuple[str, int] | None, float]]:
    """The regions of one class in one image, each with the box that it matches best."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    means = ndimage.mean(confidence, labels, range(1, count + 1))
    for (rows, columns), size, mean in zip(ndimage.find_objects(labels), sizes, means, strict=True):
        if size < SPECK:
            continue
        box = np.array([columns.start, rows.start, columns.stop, rows.stop], float)
        ious = iou(box, truth)
        best = int(ious.argmax()) if len(ious) else None
        yield float(mean), None if best is None else (name, best), max(ious, default=0.0)


def iou(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return common / (areas + (box[2:] - box[:2]).prod() - common)


class Counts(NamedTuple):
    found: int
    right: int
    truths: int

    @property
    def f1(self) -> float:
        return 2 * self.right / max(self.found + self.truths, 1)


def count(regions: Iterable[Region], truths: int, limit: float, min_iou: float = MIN_IOU) -> Counts:
    kept = [each for each in regions if each.confidence >= limit]
    right = {(each.group, each.truth) for each in kept if each.iou >= min_iou}
    return Counts(len(kept), len(right), truths)


def fitted(regions: list[Region], truths: int) -> float:
    """The limit of the highest F1; the lowest of those that are within 0.002 of it."""
    trials = {limit: count(regions, truths, limit).f1 for limit in CONFIDENCES.tolist()}
    best = max(trials.values())
    return min(limit for limit, value in trials.items() if value >= best - 0.002)


def report(scores: Scores, folds: str) -> None:
    limits: dict[str, float] = {}
    trios: list[tuple[Counts, Counts, Counts]] = []
    print(f"{'class':20} {'true':>5} | F1, precision, recall | with limits | at {STRICT_IOU}")
    for label in sorted({label for _, _, label in scores.truths}):
        own = [each for each in scores.regions if each.label == label]
        truths = {
            (fold, group): number
            for (fold, group, name), number in scores.truths.items()
            if name == label
        }
        total = sum(truths.values())
        if not total:
            continue
        limits[label] = fitted(own, total)
        free, limited, strict = (Counts(0, 0, 0),) * 3
        for fold in folds:
            here = [each for each in own if each.fold == fold]
            others = [each for each in own if each.fold != fold]
            inside = sum(number for (each, _), number in truths.items() if each == fold)
            # One fold alone has no others to fit the limit on.
            limit = fitted(others, total - inside) if total > inside else limits[label]
            free = add(free, count(here, inside, 0.0))
            limited = add(limited, count(here, inside, limit))
            strict = add(strict, count(here, inside, limit, STRICT_IOU))
        print(row(label, free, limited, strict))
        if label in FIVE:
            trios.append((free, limited, strict))
        for (_, group), number in truths.items():
            here = [each for each in own if each.group == group]
            if number:
                three = ((0.0, MIN_IOU), (limits[label], MIN_IOU), (limits[label], STRICT_IOU))
                print(row(f"  {group}", *(count(here, number, *each) for each in three)))
    if trios:
        means = [np.mean([each.f1 for each in kind]) for kind in zip(*trios, strict=True)]
        free, limited, strict = (f"{each:.3f}" for each in means)
        print(
            f"mean F1 of {', '.join(FIVE)}: {free}, with limits {limited}, at {STRICT_IOU} {strict}"
        )
    print("\nIoU of pixels by group")
    for group, matrix in scores.confusion.items():
        print(f"{group:20} {mean_iou(matrix):.3f}")
    print(f"{'all':20} {mean_iou(sum(scores.confusion.values())):.3f}")
    print("\nmin_confidence: " + json.dumps({k: round(v, 2) for k, v in limits.items()}))


def add(one: Counts, other: Counts) -> Counts:
    return Counts(*(a + b for a, b in zip(one, other, strict=True)))


def row(name: str, *counts: Counts) -> str:
    parts = [f"{name:20} {counts[0].truths:5}"]
    for each in counts:
        precision = each.right / max(each.found, 1)
        recall = each.right / max(each.truths, 1)
        parts.append(f"{each.f1:6.3f} {precision:9.3f} {recall:6.3f}")
    return " | ".join(parts)


def mean_iou(matrix: NDArray[np.int64]) -> float:
    """Over the classes that the truth holds."""
    right = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - right
    there = matrix.sum(1) > 0
    return float(np.mean(right[there] / union[there]))


if __name__ == "__main__":
    main()
