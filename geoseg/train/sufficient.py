"""Is there something to learn, and something to score? Asked before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from geoseg.classes import LabelClass
from geoseg.errors import DataError
from geoseg.train.dataset import Item, LabelledFolder
from geoseg.train.recipe import Recipe

IDS = (
    "the ids of objects count from 1, and 255 means not labelled, so a mask of 0 and 255 holds none"
)


def check_classes_file(data: LabelledFolder, recipe: Recipe, report: Callable[[str], None]) -> None:
    """Refuse a folder that does not say what its ids mean, or say how they are understood.

    Rendered scenes have iSAID's classes, so the images beside them have, too.

    Raises:
        DataError: there is no classes.csv.
    """
    if not data.names_classes and not recipe.data.rendered_share:
        raise DataError(
            f"{data.root} has no classes.csv, so nothing says what the ids in its masks mean; "
            "write one with the columns id, name and color, from 0,background,#000000 on"
        )
    for warning in data.warnings:
        report(f"Warning: {warning}")


def check_training(
    recipe: Recipe,
    items: Sequence[Item],
    counts: NDArray[np.int64],
    classes: Sequence[LabelClass],
    *,
    without_background: bool,
) -> None:
    """Refuse images from which nothing, or nothing useful, can be learnt.

    Args:
        counts: (N,C) pixels of the items by class.
        without_background: a model that never says background is wanted.

    Raises:
        DataError: no pixel is labelled; all are of one class; or none is background.
    """
    if recipe.data.rendered_share == 1 or recipe.teacher:
        return
    drawn = np.array([recipe.group(item.group).weight > 0 for item in items])
    totals = counts[drawn].sum(axis=0)
    present = [item.name for item in classes if totals[item.id]]
    if not present:
        raise DataError(
            f"none of the {len(items)} training masks labels a pixel: all hold 255 (not labelled) "
            f"only; {IDS}"
        )
    if recipe.data.rendered_share:
        return
    if len(present) == 1:
        hint = IDS if totals[0] else "label what is not of the class as background (0)"
        raise DataError(
            f"every labelled training pixel is {present[0]}, so there is nothing to tell apart; "
            f"{hint}"
        )
    if not totals[0] and not without_background:
        raise DataError(
            f"no training pixel is {classes[0].name} (id 0), so the model would see an object in "
            "every pixel of a scene; say what is none: polygons of class background, or the area "
            "in which all was labelled (geoseg prepare labels --area), or give "
            "--without-background if the classes are to cover everything"
        )


def check_validation(
    counts: NDArray[np.int64], classes: Sequence[LabelClass], report: Callable[[str], None]
) -> None:
    """Refuse validation images without a labelled pixel; say where scores mean little.

    Raises:
        DataError: no pixel is labelled.
    """
    present = [item.name for item in classes if counts[:, item.id].any()]
    if not present:
        raise DataError(
            f"none of the {len(counts)} val masks labels a pixel, so nothing can be scored; {IDS}"
        )
    if len(present) == 1:
        report(
            f"Warning: every labelled val pixel is {present[0]}: the scores, and the choice of "
            "best.safetensors, say nothing about the other classes"
        )
