"""Images and masks on disk, and the endless, reproducible stream of crops drawn from them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from geoseg.classes import IGNORE, ISAID
from geoseg.errors import DataError
from geoseg.render import render_scene
from geoseg.train.augment import Placement, photometric, sample_crop
from geoseg.train.recipe import GroupOptions, Recipe, Stage

RENDERED_SIZE = 1024
"""Side of a rendered scene, px."""
CROPS_PER_RENDERED = 32
"""Rendering costs as much as a hundred crops: one scene serves several."""


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image."""

    group: str
    name: str
    image: Path
    mask: Path

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
        if unknown := set(np.unique(mask)) - {c.id for c in ISAID} - {IGNORE}:
            raise DataError(f"{self.mask} holds {min(unknown)}, which is no class id nor {IGNORE}")
        return image, mask


def read_picture(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            # Converting a palette to grey would turn ids into brightnesses.
            if mode == "L" and picture.mode not in ("L", "P"):
                raise DataError(f"{path} has mode {picture.mode}; a mask is a one-channel PNG")
            return np.array(picture if mode == "L" else picture.convert(mode))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def read_split(root: str | Path, split: str) -> list[Item]:
    """The images of one split, as `split.csv` in `root` lists them.

    Raises:
        DataError: no such file or split, or a listed file that does not exist.
    """
    root = Path(root)
    try:
        with (root / "split.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{root / 'split.csv'} cannot be read: {error.strerror}") from error
    columns = {"group", "name", "split", "image", "mask"}
    if rows and (missing := columns - set(rows[0])):
        raise DataError(f"{root / 'split.csv'} lacks the column {sorted(missing)[0]}")
    items = [
        Item(row["group"], row["name"], root / row["image"], root / row["mask"])
        for row in rows
        if row["split"] == split
    ]
    if not items:
        found = ", ".join(sorted({row["split"] for row in rows})) or "no rows"
        raise DataError(f"{root / 'split.csv'} has no image of split {split!r}; found {found}")
    for item in items:
        for path in (item.image, item.mask):
            if not path.is_file():
                raise DataError(f"{path} is listed in {root / 'split.csv'} but does not exist")
    return items


def hidden_classes(recipe: Recipe, group: str, num_classes: int) -> Tensor:
    """(C,) bool: classes whose objects may stand unlabelled in the group's background."""
    complete = recipe.complete_ids(group)
    return torch.tensor([i != 0 and i not in complete for i in range(num_classes)])


class Crops(Dataset[dict[str, Tensor]]):
    """Crop number i of a run: a pure function of the recipe, its seed and i.

    So a resumed run draws what the uninterrupted one would have drawn, and the number of
    loader processes changes nothing.
    """

    def __init__(self, recipe: Recipe, mean: Sequence[float], num_classes: int) -> None:
        self.recipe = recipe
        self.fill = np.asarray(mean, dtype=np.float32)
        self.num_classes = num_classes
        self.items = read_split(recipe.data.root, "train")
        options = recipe.data.groups
        if unknown := set(options) - {item.group for item in self.items}:
            raise DataError(
                f"data.groups names {sorted(unknown)[0]!r}, which has no training image"
            )
        weights = np.array([options.get(i.group, GroupOptions()).weight for i in self.items])
        counts = np.stack([class_counts(item.load()[1], num_classes) for item in self.items])
        pixels = counts.sum(axis=0)
        # The fourth root lifts rare classes without drowning the run in their few images.
        self.class_odds = normalised(np.where(np.arange(num_classes) > 0, pixels**0.25, 0.0))
        self.item_odds = normalised(weights * counts.sum(axis=1) ** 0.5)
        self.item_odds_of_class = [
            normalised(weights * counts[:, c] ** 0.5) for c in range(num_classes)
        ]

    def __getitem__(self, key: tuple[int, Stage]) -> dict[str, Tensor]:
        index, stage = key
        recipe, rng = self.recipe, np.random.default_rng((self.recipe.seed, index))
        if rng.random() < recipe.data.rendered_share:
            scene = rendered(recipe.seed, index // CROPS_PER_RENDERED)
            image, mask, group = *scene, "rendered"
            wanted = object_ids(mask)
            hidden = torch.zeros(self.num_classes, dtype=torch.bool)
        else:
            item, wanted = self.draw(rng)
            image, mask = load_cached(item)
            group = item.group
            hidden = hidden_classes(recipe, group, self.num_classes)
        center = draw_center(rng, mask, wanted, recipe.data.object_share)
        size = (mask.shape[1], mask.shape[0])
        placement = Placement.draw(rng, center, size, stage, recipe.augment)
        image_crop, mask_crop, inside = sample_crop(image, mask, placement, stage.crop)
        if recipe.data.groups.get(group, GroupOptions()).shuffle_channels:
            image_crop = image_crop[..., rng.permutation(3)]
        image_crop = photometric(rng, image_crop, recipe.augment)
        # As in prediction, the model sees the channel mean where there is no image.
        image_crop[~inside] = self.fill
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image_crop.transpose(2, 0, 1))),
            "mask": torch.from_numpy(mask_crop.astype(np.int64)),
            "hidden": hidden,
        }

    def draw(self, rng: np.random.Generator) -> tuple[Item, list[int]]:
        """An image, and the classes of which a pixel may become the crop's centre."""
        if rng.random() < self.recipe.data.object_share:
            class_id = int(rng.choice(self.num_classes, p=self.class_odds))
            odds = self.item_odds_of_class[class_id]
            return self.items[rng.choice(len(self.items), p=odds)], [class_id]
        return self.items[rng.choice(len(self.items), p=self.item_odds)], []


def class_counts(mask: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
    return np.bincount(mask.ravel(), minlength=256)[:num_classes].astype(np.float64)


def normalised(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    total = odds.sum()
    return odds / total if total else odds


@lru_cache(maxsize=32)
def load_cached(item: Item) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """`item.load()`; images that are drawn often stay decoded."""
    return item.load()


@lru_cache(maxsize=2)
def rendered(seed: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    scene_seed = seed * 1_000_003 + number
    gsd = 10 ** np.random.default_rng(scene_seed).uniform(math.log10(0.12), math.log10(1.2))
    scene = render_scene(RENDERED_SIZE, RENDERED_SIZE, gsd=float(gsd), seed=scene_seed)
    return scene.image, scene.class_ids


def object_ids(mask: NDArray[np.uint8]) -> list[int]:
    return [int(i) for i in np.unique(mask) if i not in (0, IGNORE)]


def draw_center(
    rng: np.random.Generator, mask: NDArray[np.uint8], wanted: list[int], object_share: float
) -> tuple[float, float]:
    """Column and row, px: at a pixel of a wanted class, else anywhere."""
    height, width = mask.shape
    if wanted and (len(wanted) == 1 or rng.random() < object_share):
        pixels = np.flatnonzero(mask == rng.choice(wanted))
        row, column = divmod(int(rng.choice(pixels)), width)
        return float(column), float(row)
    return float(rng.uniform(0, width)), float(rng.uniform(0, height))


class StagedBatches(Sampler[list[tuple[int, Stage]]]):
    """Batches of (crop number, stage) from step `start` to the end of the last stage.

    `rank` of `world` processes takes every `world`-th crop.
    """

    def __init__(self, stages: Sequence[Stage], start: int = 0, rank: int = 0, world: int = 1):
        self.stages, self.start, self.rank, self.world = tuple(stages), start, rank, world

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, Stage]]]:
        step = first = 0
        for stage in self.stages:
            for _ in range(stage.steps):
                size = stage.batch * self.world
                if step >= self.start:
                    crops = range(first + self.rank, first + size, self.world)
                    yield [(index, stage) for index in crops]
                step, first = step + 1, first + size
