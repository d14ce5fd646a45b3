"""Scores of a checkpoint on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from geoseg.blocks import predict_image
from geoseg.classes import LabelClass
from geoseg.errors import DataError
from geoseg.grid import OVERLAP, TILE_SIZE
from geoseg.model.inference import TileModel
from geoseg.train.folder import Item
from geoseg.train.metrics import Confusion, Scores, ignore_hidden


def evaluate(
    model: TileModel,
    items: Sequence[Item],
    *,
    hidden: Mapping[str, Tensor],
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Predict whole images as `geoseg predict` does, and compare with their masks.

    Args:
        hidden: per group, (C,) bool: classes that its labels leave out. Background of the group
            is not held against predictions of them. A group that is not named is complete.

    Raises:
        DataError: an image cannot be used, or its mask holds a class that the model lacks.
    """
    classes: tuple[LabelClass, ...] = model.metadata.classes
    confusion = Confusion(len(classes))
    for done, item in enumerate(items, start=1):
        image, mask = item.load()
        if item.num_classes != len(classes):
            raise DataError(
                f"the data has {item.num_classes} classes, but the weights know {len(classes)}"
            )
        found = predict_pixels(model, image, tile_size=tile_size, overlap=overlap)
        count(confusion, found, mask, hidden.get(item.group))
        progress(done, len(items))
    return Scores.of(confusion.compute(), classes)


def predict_pixels(
    model: TileModel, image: NDArray[np.uint8], *, tile_size: int, overlap: int
) -> NDArray[np.uint8]:
    """Class ids (H,W) of an image (H,W,3), which is enlarged before as the weights demand."""
    height, width = image.shape[:2]
    scale = model.metadata.scale
    picture = Image.fromarray(image)
    if scale != 1:
        picture = picture.resize(
            (round(width * scale), round(height * scale)), Image.Resampling.BILINEAR
        )
    pixels = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
    valid = np.ones(pixels.shape[1:], dtype=bool)
    found = predict_image(pixels, valid, model, tile_size=tile_size, overlap=overlap)
    if scale != 1:
        found = np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST))
    return found


def count(
    confusion: Confusion, found: NDArray[np.uint8], mask: NDArray[np.uint8], hidden: Tensor | None
) -> None:
    """Add one image's pixels to a confusion matrix, on whichever device that lives."""
    prediction, target = torch.from_numpy(found).long(), torch.from_numpy(mask).long()
    if hidden is not None:
        target = ignore_hidden(prediction, target, hidden)
    confusion.update(prediction.to(confusion.device), target.to(confusion.device))
