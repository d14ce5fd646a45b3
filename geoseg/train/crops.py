"""The endless, reproducible stream of crops drawn from labeled images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from geoseg.classes import IGNORE, ISAID
from geoseg.errors import DataError
from geoseg.model.metadata import Metadata
from geoseg.synthetic import render_scene
from geoseg.train.augment import Placement, photometric, sample_ids, sample_pixels
from geoseg.train.box_scores import BoxOutlines
from geoseg.train.copy_paste import extract_cutouts, paste
from geoseg.train.dataset import Item
from geoseg.train.recipe import GroupOptions, Recipe, Stage

RENDERED_SIZE = 1024
"""Side of a rendered scene, px."""
CROPS_PER_RENDERED = 32
"""Rendering costs as much as a hundred crops: one scene serves several."""
MAX_BOXES = 24
"""Boxes of a crop that enter the loss."""
MIN_BOX_SIDE = 6.0
"""Shorter sides of a box, px of the crop, say nothing at the stride of the loss."""
MAX_DRAWS = 10
"""Draws of a crop until no class covers more than `data.max_class_share`."""
COARSE_STRIDE = 8
"""Step between the pixels that are counted for it."""


def hidden_classes(options: GroupOptions, num_classes: int) -> Tensor:
    """Return (C,) bool: classes whose objects may be unlabeled in the group's background.

    Raises:
        DataError: the recipe names a class that the data does not have.
    """
    hidden = torch.zeros(num_classes, dtype=torch.bool)
    if options.complete is not None:
        if unknown := [i for i in options.complete if not 0 <= i < num_classes]:
            raise DataError(
                f"data.groups: complete names class {unknown[0]}; the data has 0-{num_classes - 1}"
            )
        hidden[1:] = True
        for class_id in options.complete:
            hidden[class_id] = False
    return hidden


def hidden_by_group(recipe: Recipe, items: Sequence[Item], num_classes: int) -> dict[str, Tensor]:
    """Return `hidden_classes` of every group among the items."""
    groups = sorted({item.group for item in items})
    return {group: hidden_classes(recipe.group(group), num_classes) for group in groups}


class Crops(Dataset[dict[str, Tensor]]):
    """Crops of a run; number i is a pure function of the recipe, its seed and i.

    A resumed run therefore draws the crops of the uninterrupted one, whatever the number of
    loader processes and devices.

    Args:
        items: the training images.
        counts: (N,C) their pixels by class.
        metadata: of the model that is trained.
        boxes: of the images by group and name, for the loss that needs them.
    """

    def __init__(
        self,
        recipe: Recipe,
        items: Sequence[Item],
        counts: NDArray[np.int64],
        metadata: Metadata,
        boxes: Mapping[tuple[str, str], BoxOutlines] | None = None,
    ) -> None:
        self.recipe, self.items = recipe, list(items)
        self.boxes = boxes or {}
        self.fill = metadata.mean
        self.enlarge = metadata.scale
        self.num_classes = len(metadata.classes)
        groups = {item.group for item in items}
        if unknown := sorted(set(recipe.data.groups) - groups):
            raise DataError(f"data.groups names {unknown[0]!r}, which has no training image")
        if recipe.data.rendered_share and metadata.classes != ISAID:
            raise DataError(
                f"data.rendered_share is {recipe.data.rendered_share}, but rendered scenes have "
                "iSAID's classes and the data has others; set it to 0"
            )
        self.hidden = hidden_by_group(recipe, items, self.num_classes)
        self.hidden["rendered"] = torch.zeros(self.num_classes, dtype=torch.bool)
        weights = np.array([recipe.group(item.group).weight for item in items])
        if not weights.any():
            raise DataError("data.groups: every weight is 0, so no image is ever drawn")
        # The fourth root lifts rare classes without drowning the run in their few images.
        odds = (counts * (weights > 0)[:, None]).sum(axis=0) ** 0.25
        odds[0] = 0
        for name, weight in recipe.data.class_weights.items():
            odds[class_id_of("data.class_weights", name, metadata)] *= weight
        self.class_odds = normalize(odds)
        # A teacher labels every pixel, so unlabeled images are drawn as well.
        labeled = np.ones(len(items)) if recipe.teacher else counts.sum(axis=1) ** 0.5
        self.item_odds = normalize(weights * labeled)
        self.item_odds_of_class = [normalize(weights * column**0.5) for column in counts.T]
        self.cutouts = [
            cutout
            for name in recipe.data.paste_classes
            for class_id in [class_id_of("data.paste_classes", name, metadata)]
            for cutout in extract_cutouts(self.items, counts, class_id, recipe.seed)
        ]

    def __getitem__(self, key: tuple[int, Stage]) -> dict[str, Tensor]:
        index, stage = key
        options, rng = self.recipe.augment, np.random.default_rng((self.recipe.seed, index))
        image, mask, (group, name), wanted = self.draw_image(rng, index)
        factor = self.recipe.group(group).scale
        scaled = replace(stage, scale=(stage.scale[0] * factor, stage.scale[1] * factor))
        placement = self.draw_placement(rng, mask, wanted, scaled)
        pixels, inside = sample_pixels(image, placement, stage.crop)
        if self.recipe.group(group).shuffle_channels:
            pixels = pixels[..., rng.permutation(3)]
        ids = sample_ids(mask, placement, stage.crop)
        if self.cutouts and rng.random() < self.recipe.data.paste_share:
            low, high = map(math.log, stage.scale)
            scale = math.exp(rng.uniform(low, high)) * self.enlarge
            paste(rng, self.cutouts, scale, pixels, ids, self.recipe.data.groups)
        pixels = photometric(rng, pixels, options)
        # As in prediction, pixels outside of the image have the channel mean.
        pixels[~inside] = self.fill
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "mask": torch.from_numpy(ids.astype(np.int64)),
            "hidden": self.hidden[group],
            **self.boxes_in(rng, self.boxes.get((group, name)), placement, stage.crop),
        }

    def boxes_in(
        self,
        rng: np.random.Generator,
        known: BoxOutlines | None,
        placement: Placement,
        crop: int,
    ) -> dict[str, Tensor]:
        """Return corners (MAX_BOXES,4,2) of boxes in the crop, px, and classes; -1 pads them."""
        corners = np.zeros((MAX_BOXES, 4, 2), np.float32)
        classes = np.full(MAX_BOXES, -1, np.int64)
        if known is not None and self.recipe.loss.projection:
            linear, offset = np.split(placement.matrix(crop), [2], axis=1)
            corners_in_crop = (known.corners - offset[:, 0]) @ np.linalg.inv(linear).T
            center = corners_in_crop.mean(axis=1)
            sides = np.diff(corners_in_crop[:, [0, 1, 2]], axis=1)
            visible = ((center > 0) & (center < crop)).all(axis=1)
            large = (np.linalg.norm(sides, axis=2) >= MIN_BOX_SIDE).all(axis=1)
            wanted = visible & large & (known.classes != IGNORE)
            chosen = rng.permutation(np.flatnonzero(wanted))[:MAX_BOXES]
            corners[: len(chosen)] = corners_in_crop[chosen]
            classes[: len(chosen)] = known.classes[chosen]
        return {"boxes": torch.from_numpy(corners), "box_classes": torch.from_numpy(classes)}

    def draw_image(
        self, rng: np.random.Generator, index: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[str, str], int | None]:
        """Return image, mask, (group, name) and the class that the crop must show, if any."""
        data = self.recipe.data
        on_object = rng.random() < data.object_share and self.class_odds.any()
        if rng.random() < data.rendered_share:
            image, mask = render_cached(self.recipe.seed, index // CROPS_PER_RENDERED)
            present = [int(i) for i in np.unique(mask) if i not in (0, IGNORE)]
            wanted = int(rng.choice(present)) if present and on_object else None
            return image, mask, ("rendered", ""), wanted
        wanted, odds = None, self.item_odds
        if on_object:
            wanted = int(rng.choice(self.num_classes, p=self.class_odds))
            odds = self.item_odds_of_class[wanted]
        item = self.items[rng.choice(len(self.items), p=odds)]
        return *load_cached(item, self.fill), (item.group, item.name), wanted

    def draw_placement(
        self, rng: np.random.Generator, mask: NDArray[np.uint8], wanted: int | None, stage: Stage
    ) -> Placement:
        """Draw a placement that shows the wanted class, and not too much of one class."""
        size = (mask.shape[1], mask.shape[0])
        target = None if wanted is None else draw_pixel(rng, mask, wanted)
        limit = self.recipe.data.max_class_share
        for _ in range(MAX_DRAWS):
            placement = Placement.draw(rng, size, target, stage, self.recipe.augment, self.enlarge)
            if limit == 1:
                break
            ids = sample_ids(mask, placement, stage.crop, COARSE_STRIDE)
            counts = np.bincount(ids[ids != IGNORE], minlength=1)
            if counts.max() < limit * max(1, counts.sum()):
                break
        return placement


def normalize(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the odds to a sum of 1; zeros stay zeros."""
    total = odds.sum()
    return odds / total if total else odds


@lru_cache(maxsize=32)
def load_cached(
    item: Item, fill: tuple[float, float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Load image and mask of an item; frequently drawn images stay decoded.

    Args:
        fill: color where there is no data.
    """
    image, mask, valid = item.load()
    if not valid.all():
        image[~valid] = np.rint(fill)
    return image, mask


@lru_cache(maxsize=2)
def render_cached(seed: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render a scene of 0.1 to 0.6 m a pixel: image and class ids."""
    scene_seed = seed * 1_000_003 + number
    gsd = 10 ** np.random.default_rng(scene_seed).uniform(math.log10(0.1), math.log10(0.6))
    scene = render_scene(RENDERED_SIZE, RENDERED_SIZE, gsd=float(gsd), seed=scene_seed)
    return scene.image, scene.class_ids


def draw_pixel(
    rng: np.random.Generator, mask: NDArray[np.uint8], class_id: int
) -> tuple[float, float]:
    """Draw a pixel of the class; return its column and row."""
    row, column = divmod(int(rng.choice(np.flatnonzero(mask == class_id))), mask.shape[1])
    return float(column), float(row)


def class_id_of(key: str, name: str, metadata: Metadata) -> int:
    """Return the id of a class that the recipe names; DataError if the data lacks it."""
    number = {item.name: item.id for item in metadata.classes}
    if name not in number:
        raise DataError(f"{key} names {name!r}; the classes are {', '.join(number)}")
    return number[name]


class StagedBatches(Sampler[list[tuple[int, Stage]]]):
    """Batches of (crop number, stage) from step `start` to the end of the last stage.

    The length is that of the whole run: Lightning counts the batches before `start` as seen.

    Args:
        rank: process number; of `world` processes each takes every `world`-th crop of a batch.
        accumulate: batches a step.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.stages, self.start, self.rank, self.world = tuple(stages), start, rank, world
        self.accumulate = accumulate
        for stage in stages:
            if stage.batch % world:
                raise DataError(
                    f"stages.batch is {stage.batch}, which {world} devices cannot share equally"
                )

    def __len__(self) -> int:
        return self.accumulate * sum(stage.steps for stage in self.stages)

    def __iter__(self) -> Iterator[list[tuple[int, Stage]]]:
        number = first = 0
        for stage in self.stages:
            for _ in range(stage.steps * self.accumulate):
                end = first + stage.batch
                if number >= self.start * self.accumulate:
                    yield [(index, stage) for index in range(first + self.rank, end, self.world)]
                number, first = number + 1, end
