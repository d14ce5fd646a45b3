"""Folders of labeled images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoseg.classes import IGNORE, ISAID, LabelClass, read_class_list
from geoseg.datasets.collection import check_complete
from geoseg.datasets.images import Picture, read_image, read_mask
from geoseg.datasets.layout import SPLIT_COLUMNS, read_table, refuse
from geoseg.errors import DataError
from geoseg.train.recipe import Recipe

MIN_SIDE = 32
"""Least side of an image, px: the stride of the deepest stage of the model."""


@dataclass(frozen=True, slots=True)
class Item:
    """One labeled image."""

    group: str
    name: str
    image: Path
    mask: Path
    num_classes: int
    """Ids below this, and IGNORE, may occur in the mask."""

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        """Read the image (H,W,3) RGB, its mask (H,W) of class ids and its validity (H,W).

        The mask is IGNORE where the image has no data.

        Raises:
            DataError: unreadable, of different sizes, or with ids that are not classes.
        """
        return self.join(read_image(self.image))

    def join(
        self, picture: Picture
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        """Complete `load` with an image that was read already."""
        image, stored = picture.image, read_mask(self.mask)
        if image.shape[:2] != stored.shape:
            raise DataError(
                f"{self.image} is {image.shape[1]}×{image.shape[0]} px but its mask {self.mask} "
                f"{stored.shape[1]}×{stored.shape[0]}; they must be of one size"
            )
        wrong = ((stored < 0) | (stored >= self.num_classes)) & (stored != IGNORE)
        if wrong.any():
            raise DataError(
                f"{self.mask} holds {stored[wrong][0]} in {wrong.sum()} px; ids are "
                f"0-{self.num_classes - 1} and {IGNORE}"
            )
        mask = stored.astype(np.uint8)
        mask[~picture.valid] = IGNORE
        return image, mask, picture.valid


@dataclass(frozen=True, slots=True)
class LabeledFolder:
    """A folder with `split.csv`, and with `classes.csv` where the classes are not iSAID's."""

    root: Path
    classes: tuple[LabelClass, ...]
    """Classes of `classes.csv`; iSAID's without one."""
    names_classes: bool
    """Whether there is a `classes.csv`."""
    splits: dict[str, list[Item]]

    @staticmethod
    def open(root: str | Path) -> LabeledFolder:
        """Read the tables, not yet the images.

        Raises:
            DataError: a table is missing or wrong, or names a file that does not exist; or a
                preparation is writing into the folder.
        """
        root = Path(root)
        check_complete(root)
        table = root / "classes.csv"
        names_classes = table.is_file()
        classes = read_class_list(table) if names_classes else ISAID
        splits: dict[str, list[Item]] = {}
        for row in read_table(root / "split.csv", SPLIT_COLUMNS):
            image, mask = root / row["image"], root / row["mask"]
            for path in (image, mask):
                if not path.is_file():
                    raise DataError(f"{path} is listed in {root / 'split.csv'} but does not exist")
            item = Item(row["group"], row["name"], image, mask, len(classes))
            splits.setdefault(row["split"], []).append(item)
        return LabeledFolder(root, classes, names_classes, splits)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Assumptions that the user should know of."""
        if self.names_classes:
            return ()
        known = ", ".join(f"{item.id} {item.name}" for item in self.classes[:4])
        return (f"{self.root} has no classes.csv: ids are taken for iSAID's ({known}, …)",)

    def split(self, name: str) -> list[Item]:
        """Return the images of a split; DataError if there are none."""
        if name not in self.splits:
            found = ", ".join(sorted(self.splits)) or "no rows"
            raise DataError(
                f"{self.root / 'split.csv'} has no image of split {name!r}; found {found}"
            )
        return self.splits[name]


def inspect_items(
    items: Sequence[Item],
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[Item], NDArray[np.int64], list[str]]:
    """Read every image once and count its pixels by class.

    Args:
        skip_bad: leave out images that cannot be used.
        progress: called with images read and in all.
        report: called with a line on conversions of pixels, such as stretching.

    Returns:
        The N usable items, their counts (N,C), and a sentence for each skipped one.

    Raises:
        DataError: an image cannot be used and `skip_bad` is not set, or none can be used.
    """

    def count(item: Item) -> tuple[NDArray[np.int64], tuple[str, ...]] | str:
        try:
            picture = read_image(item.image)
            mask = item.join(picture)[1]
        except DataError as error:
            return str(error)
        if min(mask.shape) < MIN_SIDE:
            return (
                f"{item.image} is {mask.shape[1]}×{mask.shape[0]} px; the model needs at least "
                f"{MIN_SIDE} px a side"
            )
        return np.bincount(mask.ravel(), minlength=256)[: item.num_classes], picture.notes

    good: list[Item] = []
    counts: list[NDArray[np.int64]] = []
    problems: list[str] = []
    notes: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (item, found) in enumerate(zip(items, pool.map(count, items), strict=True), 1):
            if isinstance(found, str):
                problems.append(found)
            else:
                good.append(item)
                counts.append(found[0])
                notes.update(found[1])
            progress(done, len(items))
    if problems and not (skip_bad and good):
        raise refuse(problems, len(items), "images")
    for note, times in notes.items():
        report(f"{times} of {len(items)} images: {note}")
    return good, np.stack(counts), problems


ID_HINT = (
    "the ids of objects count from 1, and 255 means not labeled, so a mask of 0 and 255 holds none"
)


def check_classes_file(data: LabeledFolder, recipe: Recipe, report: Callable[[str], None]) -> None:
    """Refuse a folder without class names, or report the assumed ones.

    Beside rendered scenes, which have iSAID's classes, iSAID's ids are assumed.

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
    """Refuse training images from which no useful model can be learned.

    Args:
        counts: (N,C) pixels of the items by class.
        without_background: a model that never predicts background is wanted.

    Raises:
        DataError: no pixel is labeled; all are of one class; or none is background.
    """
    if recipe.data.rendered_share == 1 or recipe.teacher:
        return
    drawn = np.array([recipe.group(item.group).weight > 0 for item in items])
    totals = counts[drawn].sum(axis=0)
    present = [item.name for item in classes if totals[item.id]]
    if not present:
        raise DataError(
            f"none of the {len(items)} training masks labels a pixel: all hold 255 (not labeled) "
            f"only; {ID_HINT}"
        )
    if recipe.data.rendered_share:
        return
    if len(present) == 1:
        hint = ID_HINT if totals[0] else "label what is not of the class as background (0)"
        raise DataError(
            f"every labeled training pixel is {present[0]}, so there is nothing to tell apart; "
            f"{hint}"
        )
    if not totals[0] and not without_background:
        raise DataError(
            f"no training pixel is {classes[0].name} (id 0), so the model would see an object in "
            "every pixel of a scene; say what is none: polygons of class background, or the area "
            "in which all was labeled (geoseg prepare labels --area), or give "
            "--without-background if the classes are to cover everything"
        )


def check_validation(
    counts: NDArray[np.int64],
    classes: Sequence[LabelClass],
    report: Callable[[str], None],
    devices: int = 1,
) -> None:
    """Refuse validation images without a labeled pixel; report where scores mean little.

    Raises:
        DataError: no pixel is labeled, or there are fewer images than devices.
    """
    if len(counts) < devices:
        raise DataError(
            f"{len(counts)} val images are too few for {devices} devices; give --devices "
            f"{len(counts)}, or more val images"
        )
    present = [item.name for item in classes if counts[:, item.id].any()]
    if not present:
        raise DataError(
            f"none of the {len(counts)} val masks labels a pixel, so there is nothing to score; "
            f"{ID_HINT}"
        )
    if len(present) == 1:
        report(
            f"Warning: every labeled val pixel is {present[0]}: the scores, and the choice of "
            "best.safetensors, say nothing about the other classes"
        )
