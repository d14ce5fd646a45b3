"""Images and masks on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from geoseg.classes import IGNORE, ISAID, LabelClass
from geoseg.errors import CheckpointError, DataError
from geoseg.model.metadata import read_classes
from geoseg.patches import SPLIT_COLUMNS, read_table, refuse


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image."""

    group: str
    name: str
    image: Path
    mask: Path
    num_classes: int
    """Ids below this, and IGNORE, may occur in the mask."""

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image (H,W,3) RGB and mask (H,W) of class ids.

        Raises:
            DataError: unreadable, of different sizes, or with ids that are no classes.
        """
        image = read_picture(self.image, "RGB")
        mask = read_picture(self.mask, "L")
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{self.image} is {image.shape[1]}×{image.shape[0]} px but its mask {self.mask} "
                f"{mask.shape[1]}×{mask.shape[0]}; they must be of one size"
            )
        wrong = (mask >= self.num_classes) & (mask != IGNORE)
        if wrong.any():
            raise DataError(
                f"{self.mask} holds {mask[wrong][0]} in {wrong.sum()} px, which is no class "
                f"(0-{self.num_classes - 1}) nor {IGNORE}"
            )
        return image, mask


def read_picture(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            # Converting a palette to grey would turn ids into brightnesses.
            if mode == "L" and picture.mode not in ("L", "P"):
                raise DataError(f"{path} has mode {picture.mode}; a mask is a one-channel PNG")
            return np.array(picture if mode == "L" else picture.convert(mode))
    except (OSError, SyntaxError, Image.DecompressionBombError, UnidentifiedImageError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """A folder with `split.csv`, and with `classes.csv` where the classes are not iSAID's."""

    root: Path
    classes: tuple[LabelClass, ...]
    splits: dict[str, list[Item]]

    @staticmethod
    def open(root: str | Path) -> LabelledFolder:
        """Read the lists, not yet the images.

        Raises:
            DataError: a list is missing or wrong, or names a file that does not exist.
        """
        root = Path(root)
        classes = ISAID
        if (table := root / "classes.csv").is_file():
            try:
                classes = read_classes(table)
            except CheckpointError as error:
                raise DataError(str(error)) from error
        splits: dict[str, list[Item]] = {}
        for row in read_table(root / "split.csv", SPLIT_COLUMNS):
            image, mask = root / row["image"], root / row["mask"]
            for path in (image, mask):
                if not path.is_file():
                    raise DataError(f"{path} is listed in {root / 'split.csv'} but does not exist")
            item = Item(row["group"], row["name"], image, mask, len(classes))
            splits.setdefault(row["split"], []).append(item)
        return LabelledFolder(root, classes, splits)

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
) -> tuple[list[Item], NDArray[np.int64], list[str]]:
    """Read every image once: those that can be used, their pixels by class, and what is wrong.

    Returns:
        N items, (N,C) counts, and a sentence for each item that was skipped.

    Raises:
        DataError: some cannot be used and `skip_bad` is not set, or none can.
    """

    def count(item: Item) -> NDArray[np.int64] | str:
        try:
            mask = item.load()[1]
        except DataError as error:
            return str(error)
        return np.bincount(mask.ravel(), minlength=256)[: item.num_classes]

    good: list[Item] = []
    counts: list[NDArray[np.int64]] = []
    problems: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (item, found) in enumerate(zip(items, pool.map(count, items), strict=True), 1):
            if isinstance(found, str):
                problems.append(found)
            else:
                good.append(item)
                counts.append(found)
            progress(done, len(items))
    if problems and not (skip_bad and good):
        raise refuse(problems, len(items), "images")
    return good, np.stack(counts), problems
