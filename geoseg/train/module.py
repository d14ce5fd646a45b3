"""The training step, as a Lightning module."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from geoseg.classes import ISAID
from geoseg.model.metadata import IMAGENET_MEAN, IMAGENET_STD, Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.train.loss import partial_cross_entropy
from geoseg.train.metrics import Confusion, Scores, ignore_hidden
from geoseg.train.recipe import OptimizerOptions, Recipe

SEED_STRIDE = 1_000_003
"""Keeps the random states of neighbouring seeds and steps apart."""


class SegmentationModule(pl.LightningModule):
    """SegNeXt with its loss, its optimizer and its validation scores."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        model = SegNeXt(recipe.model.variant, len(ISAID), nmf_gradient=recipe.model.nmf_gradient)
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                nn.init.constant_(parameter, recipe.model.layer_scale)
        self.model = model.to(memory_format=torch.channels_last)
        self.register_buffer("mean", channel_column(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", channel_column(IMAGENET_STD), persistent=False)
        self.confusion = Confusion(len(ISAID))

    def metadata(self, metrics: dict[str, float]) -> Metadata:
        """What a checkpoint of this run says about itself."""
        return Metadata(
            variant=self.recipe.model.variant,
            classes=ISAID,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            gsd_range=self.recipe.gsd_range,
            provenance=self.recipe.provenance,
            licence=self.recipe.licence,
            metrics=metrics,
        )

    def forward(self, image: Tensor, stride: int = 1) -> Tensor:
        """Pixels on the 0-255 scale (N,3,H,W) to logits (N,C,H/stride,W/stride)."""
        x = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits = self.model(x).float()
        size = [side // stride for side in image.shape[2:]]
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # NMF bases, dropout and drop path then depend on the step alone, not on what was
        # drawn before it: a resumed run repeats the uninterrupted one.
        torch.manual_seed(self.recipe.seed * SEED_STRIDE + self.global_step)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        options = self.recipe.loss
        logits = self(batch["image"], options.stride)
        # The centre of a coarse pixel lies between fine ones: either neighbour stands for it.
        target = batch["mask"][:, options.stride // 2 :: options.stride]
        target = target[:, :, options.stride // 2 :: options.stride]
        loss = partial_cross_entropy(logits, target, batch["hidden"], options.hard_share)
        self.log("loss", loss, prog_bar=True)
        self.log("lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        prediction = self(batch["image"]).argmax(dim=1)
        target = ignore_hidden(prediction, batch["mask"], batch["hidden"][0])
        self.confusion.update(prediction, target)

    def on_validation_epoch_end(self) -> None:
        scores = Scores.of(self.confusion.compute(), ISAID)
        self.confusion.reset()
        self.log("val_miou", scores.miou, prog_bar=True)
        for row in scores.classes:
            if row.pixels:
                self.log(f"val_iou/{row.name}", row.iou)

    def configure_optimizers(self) -> Any:
        options = self.recipe.optimizer
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, options), lr=options.lr, betas=options.betas
        )
        schedule = LambdaLR(optimizer, lambda step: rate_factor(step, self.recipe))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def channel_column(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def parameter_groups(model: SegNeXt, options: OptimizerOptions) -> list[dict[str, Any]]:
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
