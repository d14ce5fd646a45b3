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


class Confusion(MulticlassConfusionMatrix):
    """Pixel counts, (C,C): rows are the truth, columns the prediction. IGNORE counts not."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, ignore_index=IGNORE, validate_args=False)


def ignore_hidden(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """`target` with IGNORE where background may hide the predicted class.

    A group whose labels leave out a class can neither confirm nor refute a prediction of it.

    Args:
        prediction, target: (...), class ids.
        hidden: (C,), bool; classes that the labels leave out.
    """
    unknowable = (target == 0) & hidden[prediction]
    return target.masked_fill(unknowable, IGNORE)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One row of the table; NaN where a class has no pixel."""

    name: str
    iou: float
    accuracy: float
    """Recall: share of the class's true pixels that were found."""
    f1: float
    pixels: int
    """True pixels."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What an evaluation says."""

    classes: tuple[ClassScore, ...]
    miou: float
    """Mean IoU over the classes that have true pixels, background included."""
    accuracy: float
    """Share of all labelled pixels that are right."""
    confusion: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(confusion: Tensor, classes: Sequence[LabelClass]) -> Scores:
        """Scores of a (C,C) confusion matrix, rows = truth."""
        counts = confusion.to(torch.float64)
        hit, truth, found = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
        iou = hit / (truth + found - hit)
        f1 = 2 * hit / (truth + found)
        accuracy = hit / truth
        present = truth > 0
        rows = tuple(
            ClassScore(
                name=c.name,
                iou=iou[c.id].item(),
                accuracy=accuracy[c.id].item(),
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
        """For JSON: NaN becomes None."""
        return {
            "miou": none_if_nan(self.miou),
            "accuracy": none_if_nan(self.accuracy),
            "classes": {
                row.name: {
                    "iou": none_if_nan(row.iou),
                    "accuracy": none_if_nan(row.accuracy),
                    "f1": none_if_nan(row.f1),
                    "pixels": row.pixels,
                }
                for row in self.classes
            },
            "confusion": self.confusion,
        }


def none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
