"""Object scores where the truth is boxes: bounding boxes of predicted regions against them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.classes import IGNORE, LabelClass
from geoseg.datasets.layout import BOX_COLUMNS, IGNORED, read_table
from geoseg.errors import DataError
from geoseg.tiling.decoding import Decoded
from geoseg.tiling.grid import Window

if TYPE_CHECKING:
    from geoseg.geo.layers.object_scores import ObjectScore

MIN_IOUS = (0.3, 0.5)
"""IoU of boxes from which an object counts as found. The axis-aligned box of a slanted object is
much larger than the object, so 0.3 is the first one to look at."""
Boxes = dict[str, NDArray[np.float64]]
"""(N,4) left, top, right, bottom, px, by class name."""


@dataclass(frozen=True, slots=True)
class BoxOutlines:
    """The boxes of one image."""

    corners: NDArray[np.float64]
    """(N,4,2) column and row, px."""
    classes: NDArray[np.int64]
    """(N,) class ids; IGNORE for boxes that do not count."""

    def axis_aligned(self, classes: Sequence[LabelClass]) -> Boxes:
        """Return the axis-aligned bounding boxes by class name."""
        flat = np.concatenate([self.corners.min(axis=1), self.corners.max(axis=1)], axis=1)
        names = {item.id: item.name for item in classes} | {IGNORE: IGNORED}
        return {names[int(i)]: flat[self.classes == i] for i in np.unique(self.classes)}


def read_box_table(
    folder: Path, classes: Sequence[LabelClass]
) -> dict[tuple[str, str], BoxOutlines]:
    """Read `boxes.csv` of a labeled folder, by (group, name) of the image; empty without one.

    Raises:
        DataError: an unknown class, or a coordinate that is not a number.
    """
    path = folder / "boxes.csv"
    if not path.is_file():
        return {}
    ids = {item.name: item.id for item in classes} | {IGNORED: IGNORE}
    found: dict[tuple[str, str], list[tuple[list[list[float]], int]]] = defaultdict(list)
    for number, row in enumerate(read_table(path, BOX_COLUMNS), start=2):
        try:
            corners = [[float(row[f"x{i}"]), float(row[f"y{i}"])] for i in range(1, 5)]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if row["class"] not in ids:
            raise DataError(f"{path}, line {number}: the data has no class {row['class']!r}")
        found[row["group"], row["name"]].append((corners, ids[row["class"]]))
    return {
        key: BoxOutlines(np.array([b for b, _ in rows]), np.array([i for _, i in rows]))
        for key, rows in found.items()
    }


def region_boxes(
    decoded: Decoded, classes: Sequence[LabelClass], min_confidence: Mapping[str, float]
) -> Boxes:
    """Return bounding boxes of the 4-connected regions that `predict` makes objects of.

    Args:
        min_confidence: of a region, by class name.
    """
    import shapely  # a machine that only trains may lack GIS packages

    from geoseg.geo.raster.class_raster import SPECK
    from geoseg.geo.vector.merge import merge
    from geoseg.geo.vector.polygonize import polygonize_block
    from geoseg.geo.vector.sieve import sieve

    height, width = decoded.class_ids.shape
    whole = Window(0, 0, width, height)
    block = polygonize_block(decoded.class_ids, whole, confidence=decoded.confidence)
    limits = {item.id: min_confidence.get(item.name, 0.0) for item in classes}
    regions = sieve(merge([block]), SPECK)
    regions = regions.select(regions.confident(limits))
    bounds = shapely.bounds(regions.geometry)
    return {
        item.name: bounds[regions.class_id == item.id]
        for item in classes
        if item.id != 0 and (regions.class_id == item.id).any()
    }


def box_iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return intersection over union (N,M) of boxes (N,4) and (M,4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.prod((high - low).clip(0), axis=2)
    sizes = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    union = sizes[0][:, None] + sizes[1][None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def count_pairs(iou: NDArray[np.float64], min_iou: float) -> int:
    """Count pairs of a row and a column with at least `min_iou`, matched greedily, best first."""
    rows, columns = np.nonzero(iou >= min_iou)
    taken: tuple[set[int], set[int]] = set(), set()
    for i in np.argsort(-iou[rows, columns], kind="stable"):
        row, column = int(rows[i]), int(columns[i])
        if row not in taken[0] and column not in taken[1]:
            taken[0].add(row)
            taken[1].add(column)
    return len(taken[0])


@dataclass(slots=True)
class BoxCounts:
    """Object counts over many images."""

    classes: Sequence[LabelClass]
    min_confidence: Mapping[str, float] = field(default_factory=dict)
    """See `region_boxes`."""
    truth: Counter[tuple[str, str]] = field(default_factory=Counter)
    """True objects, by group and class."""
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Predicted objects, by group and class."""
    matched: Counter[tuple[str, str, float]] = field(default_factory=Counter)
    """Matched pairs, by group, class and IoU threshold."""

    def add(
        self,
        group: str,
        decoded: Decoded,
        boxes: Boxes,
        hidden: NDArray[np.bool_],
    ) -> None:
        """Count one image.

        Args:
            decoded: the prediction, with the confidence of objects.
            boxes: the truth. Regions that match only a box of class `ignore` do not count.
            hidden: (C,) True for classes that the labels of the group leave out.
        """
        regions = region_boxes(decoded, self.classes, self.min_confidence)
        ignored = boxes.get(IGNORED, np.zeros((0, 4)))
        for item in self.classes[1:]:
            if hidden[item.id]:
                continue
            there = boxes.get(item.name, np.zeros((0, 4)))
            found = regions.get(item.name, np.zeros((0, 4)))
            iou = box_iou(found, there)
            if len(ignored) and len(found):
                doubtful = (box_iou(found, ignored).max(axis=1) >= MIN_IOUS[0]) & (
                    iou.max(axis=1, initial=0) < MIN_IOUS[0]
                )
                found, iou = found[~doubtful], iou[~doubtful]
            key = group, item.name
            self.truth[key] += len(there)
            self.found[key] += len(found)
            for least in MIN_IOUS:
                self.matched[*key, least] += count_pairs(iou, least)

    def scores(self, min_iou: float, group: str | None = None) -> list[ObjectScore]:
        """Return scores by class, of one group or of all; without classes that have no object."""
        from geoseg.geo.layers.object_scores import ObjectScore

        groups = [group] if group else self.groups
        scores = []
        for item in self.classes[1:]:
            truth = sum(self.truth[g, item.name] for g in groups)
            found = sum(self.found[g, item.name] for g in groups)
            matched = sum(self.matched[g, item.name, min_iou] for g in groups)
            if truth or found:
                scores.append(ObjectScore(item.name, truth, found, matched))
        return scores

    @property
    def groups(self) -> list[str]:
        """Groups that were counted."""
        return sorted({group for group, _ in self.truth})

    def as_dict(self) -> dict[str, Any]:
        """Return scores by IoU threshold, of all images and by group, as JSON types."""

        def by_class(min_iou: float, group: str | None) -> dict[str, Any]:
            return {score.name: score.as_dict() for score in self.scores(min_iou, group)}

        return {
            f"{min_iou:g}": {
                "all": by_class(min_iou, None),
                "groups": {group: by_class(min_iou, group) for group in self.groups},
            }
            for min_iou in MIN_IOUS
        }
