"""The training step, as a Lightning module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from geoseg.classes import IGNORE
from geoseg.model.checkpoint import build_model, stored_state
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.tiling.grid import OVERLAP, TILE_SIZE
from geoseg.train.evaluate import count, predict_pixels
from geoseg.train.loss import distillation, pairwise, partial_cross_entropy, projection
from geoseg.train.metrics import Confusion
from geoseg.train.recipe import OptimizerOptions, Recipe

SEED_STRIDE = 1_000_003
"""Keeps the random states of neighbouring seeds and steps apart."""

Labelled = tuple[str, str, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
"""An item's name and group, then what its `load` returns: image, mask and validity."""


class SegmentationModule(pl.LightningModule):
    """SegNeXt with its loss, its optimizer and its confusion matrix.

    Args:
        model: with its `metadata`, which its checkpoints will carry.
        hidden: per group, (C,) bool: classes that its labels leave out.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        recipe: Recipe,
        model: SegNeXt | EfficientNetPyramid,
        hidden: dict[str, Tensor],
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # Held in a list, it is no part of the module: neither trained nor saved with it.
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]
        self.recipe, self.hidden = recipe, hidden
        for network in (model, *self.teachers):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.metadata = model.metadata
        self.register_buffer("mean", channel_column(self.metadata.mean), persistent=False)
        self.register_buffer("std", channel_column(self.metadata.std), persistent=False)
        self.confusion = Confusion(len(self.metadata.classes))

    def forward(self, image: Tensor, stride: int = 1) -> Tensor:
        """Pixels on the 0-255 scale (N,3,H,W) to logits (N,C,H/stride,W/stride)."""
        return self.logits(self.model, image, stride)

    def logits(self, network: nn.Module, image: Tensor, stride: int) -> Tensor:
        """What `forward` gives, of either network."""
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        size = [side // stride for side in image.shape[2:]]
        return F.interpolate(network(x).float(), size, mode="bilinear", align_corners=False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # NMF bases, dropout and drop path then depend on the step alone, not on what was
        # drawn before it: a resumed run repeats the uninterrupted one.
        step = self.recipe.seed * SEED_STRIDE + self.global_step
        torch.manual_seed(step * self.trainer.world_size + self.global_rank)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        options = self.recipe.loss
        logits = self(batch["image"], options.stride)
        # The centre of a coarse pixel lies between fine ones: either neighbour stands for it.
        target = batch["mask"][:, options.stride // 2 :: options.stride]
        target = target[:, :, options.stride // 2 :: options.stride]
        loss = partial_cross_entropy(logits, target, batch["hidden"], options.hard_share)
        if options.projection:
            reach = projection(logits, batch["boxes"] / options.stride, batch["box_classes"])
            self.log("loss_projection", reach, sync_dist=self.trainer.world_size > 1)
            loss = loss + options.projection * reach
        if options.pairwise:
            image = F.interpolate(batch["image"], logits.shape[2:], mode="area")
            alike = pairwise(logits, image, target == IGNORE)
            self.log("loss_pairwise", alike, sync_dist=self.trainer.world_size > 1)
            loss = loss + options.pairwise * alike
        if (asked := self.recipe.teacher) is not None:
            (teacher,) = self.teachers
            with torch.no_grad():
                taught = self.logits(teacher.to(self.device), batch["image"], options.stride)
            learned = distillation(logits, taught, asked.temperature)
            self.log("loss_teacher", learned, sync_dist=self.trainer.world_size > 1)
            loss = loss + asked.weight * learned
        self.log("loss", loss, sync_dist=self.trainer.world_size > 1)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def on_validation_epoch_start(self) -> None:
        """Take the weights as the checkpoint will hold them, computed as `geoseg evaluate` does.

        Lightning calls this after the callbacks' hook of the same name, in which averaged weights
        are put in place; `on_validation_start` would be too early.
        """
        stored = build_model(stored_state(self.model), self.metadata)
        self.tiles = TileModel(stored, device=str(self.device), consume=True)

    def validation_step(self, batch: Labelled, batch_idx: int) -> dict[str, Any]:
        """Score one image by the same tiling as `geoseg evaluate`."""
        _, group, image, mask, valid = batch
        found = predict_pixels(self.tiles, image, valid, tile_size=TILE_SIZE, overlap=OVERLAP)
        count(self.confusion, found, mask, self.hidden.get(group))
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


def channel_column(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def parameter_groups(
    model: SegNeXt | EfficientNetPyramid, options: OptimizerOptions
) -> list[dict[str, Any]]:
    """Backbone and head, each with and without weight decay."""
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
    """Linear warm-up times polynomial decay to zero."""
    options = recipe.optimizer
    decay = (1 - min(step, recipe.steps) / recipe.steps) ** options.power
    if step >= options.warmup_steps:
        return decay
    progress = step / options.warmup_steps
    return decay * (options.warmup_start + (1 - options.warmup_start) * progress)
