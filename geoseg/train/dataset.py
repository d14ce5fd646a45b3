"""Folders of labelled images."""

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

SMALLEST = 32
"""Side of an image, px: the stride of the model's deepest stage."""


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image."""

    group: str
    name: str
    image: Path
    mask: Path
    num_classes: int
    """Ids below this, and IGNORE, may occur in the mask."""

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        """Image (H,W,3) RGB, mask (H,W) of class ids, and where the image is valid (H,W).

        The mask is IGNORE where the image holds no data: nothing can be said of such pixels.

        Raises:
            DataError: unreadable, of different sizes, or with ids that are no classes.
        """
        return self.join(read_image(self.image))

    def join(
        self, picture: Picture
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        """`load`, of an image that was read already."""
        image, stored = picture.image, read_mask(self.mask)
        if image.shape[:2] != stored.shape:
            raise DataError(
                f"{self.image} is {image.shape[1]}×{image.shape[0]} px but its mask {self.mask} "
                f"{stored.shape[1]}×{stored.shape[0]}; they must be of one size"
            )
        wrong = ((stored < 0) | (stored >= self.num_classes)) & (stored != IGNORE)
        if wrong.any():
            raise DataError(
                f"{self.mask} holds {stored[wrong][0]} in {wrong.sum()} px, which is no class "
                f"(0-{self.num_classes - 1}) nor {IGNORE}"
            )
        mask = stored.astype(np.uint8)
        mask[~picture.valid] = IGNORE
        return image, mask, picture.valid


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """A folder with `split.csv`, and with `classes.csv` where the classes are not iSAID's."""

    root: Path
    classes: tuple[LabelClass, ...]
    """Of `classes.csv`; iSAID's where there is none."""
    names_classes: bool
    """There is a `classes.csv`."""
    splits: dict[str, list[Item]]

    @staticmethod
    def open(root: str | Path) -> LabelledFolder:
        """Read the lists, not yet the images.

        Raises:
            DataError: a list is missing or wrong, or names a file that does not exist; or patches
                are just changing places.
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
        return LabelledFolder(root, classes, names_classes, splits)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was taken for granted."""
        if self.names_classes:
            return ()
        known = ", ".join(f"{item.id} {item.name}" for item in self.classes[:4])
        return (f"{self.root} has no classes.csv: ids are taken for iSAID's ({known}, …)",)

    def split(self, name: str) -> list[Item]:
        """The images of one split. Raises DataError where there are none."""
        if name not in self.splits:
            found = ", ".join(sorted(self.splits)) or "no rows"
            raise DataError(
                f"{self.root / 'split.csv'} has no image of split {name!r}; found {found}"
            )
        return self.splits[name]


def inspect(
    items: Sequence[Item],
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[Item], NDArray[np.int64], list[str]]:
    """Read every image once: those that can be used, their pixels by class, and what is wrong.

    Args:
        report: called with what had to be done to the pixels of some images.

    Returns:
        N items, (N,C) counts, and a sentence for each item that was skipped.

    Raises:
        DataError: some cannot be used and `skip_bad` is not set, or none can.
    """

    def count(item: Item) -> tuple[NDArray[np.int64], tuple[str, ...]] | str:
        try:
            picture = read_image(item.image)
            mask = item.join(picture)[1]
        except DataError as error:
            return str(error)
        if min(mask.shape) < SMALLEST:
            return (
                f"{item.image} is {mask.shape[1]}×{mask.shape[0]} px; a model sees nothing in "
                f"less than {SMALLEST} px a side"
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
