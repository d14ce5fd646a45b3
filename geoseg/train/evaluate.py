"""Scores of a checkpoint on labeled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoseg.classes import IGNORE, LabelClass, ids_of
from geoseg.errors import DataError
from geoseg.model.tile_model import TileModel
from geoseg.tiling.blocks import ImageLogits, image_logits
from geoseg.tiling.grid import OVERLAP, TILE_SIZE
from geoseg.train.box_scores import BoxCounts, read_box_table
from geoseg.train.dataset import Item, LabeledFolder
from geoseg.train.metrics import Confusion, Evaluation, Scores, ignore_hidden


def evaluate(
    model: TileModel,
    data: LabeledFolder,
    items: Sequence[Item],
    *,
    hidden: Mapping[str, Tensor] | None = None,
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Predict whole images as `geoseg predict` does, and compare with their masks.

    In groups with boxes, objects are counted by their boxes as well.

    Classes are matched by name: the data may list them in another order than the weights, or only
    some of them. Classes that it does not list count as left out by its labels.

    Args:
        data: the folder, for its classes and boxes.
        items: the images of it to score.
        hidden: per group, bool by class of the data: classes that its labels leave out.
            Background of the group does not refute predictions of them. A group that is not
            named is complete.

    Raises:
        DataError: an image cannot be used, no pixel is labeled, or the data has a class that the
            weights lack.
    """
    classes: tuple[LabelClass, ...] = model.metadata.classes
    ids = ids_by_name(data, classes)
    listed = torch.from_numpy(ids[: len(data.classes)]).long()
    by_group: dict[str, Confusion] = {}
    boxes = read_box_table(data.root, data.classes)
    boxed = {group for group, _ in boxes}
    objects = BoxCounts(classes, model.metadata.min_confidence)
    split = ids_of(model.metadata.split, classes)
    for done, item in enumerate(items, start=1):
        image, mask, valid = item.load()
        logits = predict_logits(model, image, valid, tile_size=tile_size, overlap=overlap)
        decoded = logits.decode("objects" if item.group in boxed else "none", split)
        left_out = torch.ones(len(classes), dtype=torch.bool)
        left_out[listed] = (hidden or {}).get(item.group, torch.tensor(False))
        confusion = by_group.setdefault(item.group, Confusion(len(classes)))
        update_confusion(confusion, decoded.class_ids, ids[mask], left_out)
        if item.group in boxed:
            known = boxes.get((item.group, item.name))
            there = known.axis_aligned(data.classes) if known else {}
            objects.add(item.group, decoded, there, left_out.numpy())
        progress(done, len(items))
    counts = {group: confusion.compute() for group, confusion in sorted(by_group.items())}
    total = torch.stack(list(counts.values())).sum(dim=0)
    if not total.any():
        raise DataError(f"no pixel of these {len(items)} images in {data.root} is labeled")
    return Evaluation(
        scores=Scores.of(total, classes),
        groups={group: Scores.of(part, classes) for group, part in counts.items()},
        objects=objects if boxed else None,
        unlisted=tuple(c.name for c in classes if c.id not in ids[: len(data.classes)]),
    )


def ids_by_name(data: LabeledFolder, classes: Sequence[LabelClass]) -> NDArray[np.uint8]:
    """Map mask ids of the data to ids of the weights, (256,); IGNORE stays.

    Raises:
        DataError: a class of the data is none of `classes`.
    """
    number = {item.name: item.id for item in classes}
    if unknown := [item.name for item in data.classes if item.name not in number]:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        source = "classes.csv" if data.names_classes else "no classes.csv, hence iSAID's classes"
        raise DataError(
            f"the weights do not know {', '.join(unknown[:3])}{more} of {data.root} ({source}); "
            f"they know {', '.join(list(number)[:8])}{', …' * (len(number) > 8)}: rename the "
            "classes of one, or take other weights"
        )
    ids = np.full(256, IGNORE, np.uint8)
    for item in data.classes:
        ids[item.id] = number[item.name]
    return ids


def predict_pixels(
    model: TileModel,
    image: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    *,
    tile_size: int,
    overlap: int,
) -> NDArray[np.uint8]:
    """Predict class ids (H,W) of an image; see `predict_logits`."""
    return predict_logits(model, image, valid, tile_size=tile_size, overlap=overlap).class_ids()


def predict_logits(
    model: TileModel,
    image: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    *,
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
) -> ImageLogits:
    """Predict the logits of an image (H,W,3), resampled to the scale of the weights.

    Args:
        valid: (H,W); False where the image has no data.
    """
    pixels, scale = np.ascontiguousarray(image.transpose(2, 0, 1)), model.metadata.scale
    return image_logits(pixels, valid, model, tile_size=tile_size, overlap=overlap, scale=scale)


def update_confusion(
    confusion: Confusion, found: NDArray[np.uint8], mask: NDArray[np.uint8], hidden: Tensor | None
) -> None:
    """Add the pixels of one image to a confusion matrix, on its device."""
    prediction, target = torch.from_numpy(found).long(), torch.from_numpy(mask).long()
    if hidden is not None:
        target = ignore_hidden(prediction, target, hidden)
    confusion.update(prediction.to(confusion.device), target.to(confusion.device))
