"""Scores of a checkpoint on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from geoseg.blocks import predict_image
from geoseg.classes import LabelClass
from geoseg.errors import DataError
from geoseg.model.inference import TileModel
from geoseg.train.data import Item
from geoseg.train.metrics import Confusion, Scores, ignore_hidden


def evaluate(
    model: TileModel,
    items: list[Item],
    *,
    complete: Mapping[str, frozenset[int]],
    tile_size: int = 1024,
    overlap: int = 128,
    progress: Callable[[Item], None] = lambda item: None,
) -> Scores:
    """Predict whole images as `geoseg predict` does, and compare with their masks.

    Args:
        complete: per group, the ids of the classes that are labelled completely; background
            of the group is not held against predictions of other classes. A group that is
            not named is complete.

    Raises:
        DataError: a mask holds a class that the model does not know.
    """
    classes: tuple[LabelClass, ...] = model.metadata.classes
    confusion = Confusion(len(classes))
    for item in items:
        image, mask = item.load()
        if mask[mask != 255].max(initial=0) >= len(classes):
            raise DataError(
                f"{item.mask} holds class {mask[mask != 255].max()}, but the weights know "
                f"0-{len(classes) - 1} only"
            )
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        valid = np.ones(mask.shape, dtype=bool)
        found = predict_image(pixels, valid, model, tile_size=tile_size, overlap=overlap)
        known = complete.get(item.group)
        hidden = torch.tensor(
            [c.id > 0 and known is not None and c.id not in known for c in classes]
        )
        prediction = torch.from_numpy(found).long()
        target = ignore_hidden(prediction, torch.from_numpy(mask).long(), hidden)
        confusion.update(prediction, target)
        progress(item)
    return Scores.of(confusion.compute(), classes)
