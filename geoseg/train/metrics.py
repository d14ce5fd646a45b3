"""Scores from a confusion matrix, by the mmsegmentation protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from geoseg.classes import IGNORE, LabelClass
from geoseg.train.box_scores import BoxCounts


class Confusion(MulticlassConfusionMatrix):
    """Pixel counts (C,C): rows are the truth, columns the prediction. IGNORE is left out."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, ignore_index=IGNORE, validate_args=False)


def ignore_hidden(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Return `target` with IGNORE where background may hide the predicted class.

    Labels that leave out a class neither confirm nor refute a prediction of it.

    Args:
        prediction, target: (...), class ids.
        hidden: (C,), bool; classes that the labels leave out.
    """
    unknowable = (target == 0) & hidden[prediction]
    return target.masked_fill(unknowable, IGNORE)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Pixel scores of one class; NaN where its denominator is 0."""

    name: str
    iou: float
    precision: float
    """Share of the predicted pixels that are right."""
    recall: float
    """Share of the true pixels that were found."""
    f1: float
    pixels: int
    """True pixels."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Pixel scores of a set of images."""

    classes: tuple[ClassScore, ...]
    miou: float
    """Mean IoU over the classes that have true pixels, background included."""
    accuracy: float
    """Share of all labeled pixels that are right."""
    confusion: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(confusion: Tensor, classes: Sequence[LabelClass]) -> Scores:
        """Compute scores from a confusion matrix (C,C), rows = truth."""
        counts = confusion.to(torch.float64)
        hit, truth, found = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        iou = hit / (truth + found - hit)
        f1 = 2 * hit / (truth + found)
        precision, recall = hit / found, hit / truth
        present = truth > 0
        rows = tuple(
            ClassScore(
                name=c.name,
                iou=iou[c.id].item(),
                precision=precision[c.id].item(),
                recall=recall[c.id].item(),
                f1=f1[c.id].item(),
                pixels=int(truth[c.id]),
            )
            for c in classes
        )
        return Scores(
            classes=rows,
            miou=iou[present].mean().item(),
            accuracy=(hit.sum() / counts.sum()).item(),
            confusion=tuple(tuple(row) for row in confusion.long().tolist()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all scores as JSON types; NaN becomes None."""
        return {
            "miou": none_if_nan(self.miou),
            "accuracy": none_if_nan(self.accuracy),
            "classes": {
                row.name: {
                    "iou": none_if_nan(row.iou),
                    "precision": none_if_nan(row.precision),
                    "recall": none_if_nan(row.recall),
                    "f1": none_if_nan(row.f1),
                    "pixels": row.pixels,
                }
                for row in self.classes
            },
            "confusion": self.confusion,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of weights on labeled images."""

    scores: Scores
    groups: dict[str, Scores]
    """Pixel scores by group of images."""
    unlisted: tuple[str, ...]
    """Classes of the weights that the data does not list: background does not refute them."""
    objects: BoxCounts | None = None
    """Object counts by bounding boxes; None without boxes."""

    def as_dict(self) -> dict[str, Any]:
        """Return all scores as JSON types; NaN becomes None."""
        groups = {group: scores.as_dict() for group, scores in self.groups.items()}
        result = {**self.scores.as_dict(), "groups": groups, "unlisted": self.unlisted}
        return result | ({} if self.objects is None else {"objects": self.objects.as_dict()})


def none_if_nan(value: float) -> float | None:
    """Return None for NaN, which JSON lacks."""
    return None if math.isnan(value) else value
