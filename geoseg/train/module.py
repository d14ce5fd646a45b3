"""Training and validation steps as a Lightning module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from torchmetrics import MeanMetric

from geoseg.classes import IGNORE
from geoseg.model.checkpoint import build_model, stored_state
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.train.crops import class_id_of
from geoseg.train.dataset import Item
from geoseg.train.evaluate import predict_logits, update_confusion
from geoseg.train.loss import (
    distillation,
    pairwise,
    partial_cross_entropy,
    pixel_losses,
    projection,
)
from geoseg.train.metrics import Confusion
from geoseg.train.recipe import OptimizerOptions, Recipe

SEED_STRIDE = 1_000_003
"""Distance of the random seeds of runs whose `seed` differs by 1: more than a run has batches."""

Labeled = tuple[str, str, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
"""Name and group of an item, then its image, mask and validity; see `Item.load`."""


class WholeImages(Dataset[Labeled]):
    """Whole labeled images, for validation."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Labeled:
        item = self.items[index]
        return item.name, item.group, *item.load()


class SegmentationModule(pl.LightningModule):
    """A network with its losses, its optimizer and its validation scores.

    Args:
        model: with the `metadata` of its checkpoints.
        hidden: per group, (C,) bool: classes that its labels leave out.
        teacher: with the classes and the normalization of the model.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        recipe: Recipe,
        model: SegNeXt | EfficientNetPyramid,
        hidden: dict[str, Tensor],
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # In a list, the teacher is not a submodule, which would be trained and saved.
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]
        self.recipe, self.hidden = recipe, hidden
        for network in (model, *self.teachers):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.metadata = model.metadata
        self.register_buffer("mean", channel_column(self.metadata.mean), persistent=False)
        self.register_buffer("std", channel_column(self.metadata.std), persistent=False)
        weights = loss_weights(recipe, self.metadata)
        self.register_buffer("class_weights", weights, persistent=False)
        self.confusion = Confusion(len(self.metadata.classes))
        self.val_loss = MeanMetric()
        if recipe.frozen_steps >= recipe.steps:  # before DDP registers what is trained
            model.backbone.requires_grad_(False)

    def forward(self, image: Tensor, stride: int = 1) -> Tensor:
        """Compute logits (N,C,H/stride,W/stride) of pixels (N,3,H,W) on the 0-255 scale."""
        return self.logits(self.model, image, stride)

    def logits(self, network: nn.Module, image: Tensor, stride: int) -> Tensor:
        """Compute `forward` with the model or its teacher."""
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        size = [side // stride for side in image.shape[2:]]
        return F.interpolate(network(x).float(), size, mode="bilinear", align_corners=False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed torch by the batch, so that a resumed run repeats the uninterrupted one.

        NMF bases, dropout and drop path then depend on nothing that was drawn before.
        """
        parts = self.recipe.accumulate
        number = self.global_step * parts + batch_idx % parts
        seed = self.recipe.seed * SEED_STRIDE + number
        torch.manual_seed(seed * self.trainer.world_size + self.global_rank)
        if self.recipe.freeze == "backbone":
            trained = self.global_step >= self.recipe.frozen_steps
            self.model.backbone.train(trained).requires_grad_(trained)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        options = self.recipe.loss
        logits = self(batch["image"], options.stride)
        # The center of a coarse pixel lies between fine ones; the later one stands for it.
        target = batch["mask"][:, options.stride // 2 :: options.stride]
        target = target[:, :, options.stride // 2 :: options.stride]
        loss = partial_cross_entropy(
            logits, target, batch["hidden"], options.hard_share, self.class_weights
        )
        if options.projection:
            term = projection(logits, batch["boxes"] / options.stride, batch["box_classes"])
            loss = loss + options.projection * self.logged("loss_projection", term)
        if options.pairwise:
            image = F.interpolate(batch["image"], logits.shape[2:], mode="area")
            term = pairwise(logits, image, target == IGNORE)
            loss = loss + options.pairwise * self.logged("loss_pairwise", term)
        if (distilled := self.recipe.teacher) is not None:
            (teacher,) = self.teachers
            with torch.no_grad():
                taught = self.logits(teacher.to(self.device), batch["image"], options.stride)
            term = distillation(logits, taught, distilled.temperature)
            loss = loss + distilled.weight * self.logged("loss_teacher", term)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return self.logged("loss", loss)

    def logged(self, name: str, value: Tensor) -> Tensor:
        """Log a loss, averaged over devices, and return it."""
        self.log(name, value, sync_dist=self.trainer.world_size > 1)
        return value

    def on_validation_epoch_start(self) -> None:
        """Load the weights as a checkpoint stores them into the inference form of the model.

        Lightning calls this after the callbacks' hook of the same name, in which `MovingAverage`
        swaps in averaged weights; `on_validation_start` would be too early.
        """
        stored = build_model(stored_state(self.model), self.metadata)
        self.tiles = TileModel(stored, device=str(self.device), consume=True)

    def validation_step(self, batch: Labeled, batch_idx: int) -> dict[str, Any]:
        """Score one image by the tiling of `geoseg evaluate`; return its predicted class ids.

        The loss is sampled at the resolution of the model, one pixel in 8 × 8, and is neither
        weighted nor restricted to hard pixels.
        """
        _, group, image, mask, valid = batch
        logits, hidden = predict_logits(self.tiles, image, valid), self.hidden.get(group)
        found = logits.class_ids()
        update_confusion(self.confusion, found, mask, hidden)
        target = torch.from_numpy(logits.sample(mask)).long()[None]
        values = torch.from_numpy(logits.values).movedim(-1, 0)[None]
        none = torch.zeros(values.shape[1], dtype=torch.bool)
        losses = pixel_losses(values, target, (none if hidden is None else hidden)[None])
        if labeled := int((target != IGNORE).sum()):
            self.val_loss.update(losses.sum().item() / labeled, labeled)
        return {"found": found}

    def on_validation_end(self) -> None:
        del self.tiles

    def configure_optimizers(self) -> Any:
        options = self.recipe.optimizer
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, options), lr=options.lr, betas=options.betas
        )
        schedule = LambdaLR(optimizer, lambda step: rate_factor(step, self.recipe))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loss_weights(recipe: Recipe, metadata: Metadata) -> Tensor | None:
    """Return the weights of the classes in the loss (C,); None if all are 1.

    Raises:
        DataError: a name that no class has.
    """
    if not recipe.loss.class_weights:
        return None
    weights = torch.ones(len(metadata.classes))
    for name, weight in recipe.loss.class_weights.items():
        weights[class_id_of("loss.class_weights", name, metadata)] = weight
    return weights


def channel_column(values: tuple[float, float, float]) -> Tensor:
    """Return a value per channel as (3,1,1)."""
    return torch.tensor(values)[:, None, None]


def parameter_groups(
    model: SegNeXt | EfficientNetPyramid, options: OptimizerOptions
) -> list[dict[str, Any]]:
    """Return AdamW's groups: backbone and head, each with and without weight decay."""
    norms = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
    exempt = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters()}
    groups = []
    for part, factor in ((model.backbone, 1.0), (model.decode_head, options.head_lr_factor)):
        decayed = [p for p in part.parameters() if id(p) not in exempt]
        kept = [p for p in part.parameters() if id(p) in exempt]
        for parameters, decay in ((decayed, options.weight_decay), (kept, 0.0)):
            groups.append({"params": parameters, "lr": options.lr * factor, "weight_decay": decay})
    return groups


def rate_factor(step: int, recipe: Recipe) -> float:
    """Return the factor on the learning rate: linear warm-up times polynomial decay to 0."""
    options = recipe.optimizer
    decay = (1 - min(step, recipe.steps) / recipe.steps) ** options.power
    if step >= options.warmup_steps:
        return decay
    progress = step / options.warmup_steps
    return decay * (options.warmup_start + (1 - options.warmup_start) * progress)
