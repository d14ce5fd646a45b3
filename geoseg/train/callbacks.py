"""What happens around the steps of a run: scores, checkpoints, pictures, progress."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from tqdm import tqdm

from geoseg.model.checkpoint import read_metadata, save_checkpoint
from geoseg.train.figures import Sample, sample_sheet, write_picture
from geoseg.train.metrics import Scores
from geoseg.train.module import Labelled, SegmentationModule


class Validation(Callback):
    """Scores each validation and writes `last.safetensors`, `best.safetensors` and a picture.

    Must come before a callback that averages weights: what it saves is what was validated.

    Args:
        shown: names of the images that are drawn.
        report: called with a line for the terminal.
    """

    def __init__(self, folder: Path, shown: Collection[str], report: Callable[[str], None]) -> None:
        self.folder, self.shown, self.report = folder, set(shown), report
        self.samples: list[Sample] = []
        self.step = -1
        best = folder / "best.safetensors"
        self.best = read_metadata(best).metrics["val_miou"] if best.is_file() else -1.0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Labelled,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        name, _, image, mask, _ = batch
        if name in self.shown:
            self.samples.append((image, mask, outputs["found"]))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        scores = Scores.of(pl_module.confusion.compute(), pl_module.metadata.classes)
        pl_module.confusion.reset()
        pl_module.log("val_miou", scores.miou)
        for row in scores.classes:
            if row.pixels:
                pl_module.log(f"val_iou/{row.name}", row.iou)
        samples, self.samples, self.step = self.samples, [], trainer.global_step
        if not trainer.is_global_zero:
            return
        self.report(f"step {trainer.global_step}: val mIoU {scores.miou:.4f}")
        self.save(trainer.global_step, scores, pl_module)
        if samples:
            self.draw(trainer, samples, pl_module)

    def save(self, step: int, scores: Scores, module: SegmentationModule) -> None:
        metadata = replace(module.metadata, metrics={"val_miou": scores.miou, "step": step})
        save_checkpoint(self.folder / "last.safetensors", module.model, metadata)
        if scores.miou > self.best:
            self.best = scores.miou
            save_checkpoint(self.folder / "best.safetensors", module.model, metadata)

    def draw(self, trainer: pl.Trainer, samples: list[Sample], module: SegmentationModule) -> None:
        sheet = sample_sheet(samples, module.metadata.classes)
        write_picture(self.folder / "samples" / f"step_{trainer.global_step:06d}.png", sheet)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "samples", np.asarray(sheet), trainer.global_step, dataformats="HWC"
                )


class MovingAverage(WeightAveraging):
    """Averages the weights exponentially; validation and checkpoints take the average.

    Until (1 + n) / (10 + n) exceeds `decay`, that is the decay of step n: random weights of the
    start are forgotten in a few steps, also in runs too short for `decay` itself to forget them.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self.average)
        self.decay = decay

    @torch.no_grad()
    def average(self, means: list[Tensor], now: list[Tensor], updates: Tensor | int) -> None:
        """Move `means`, tensors of one device and type, towards those of now."""
        count = int(updates)
        decay = min(self.decay, (1 + count) / (10 + count))
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, now, 1 - decay)
        else:
            torch._foreach_copy_(means, now)


class ProgressBar(Callback):
    """One bar over all steps of the run; silent off a terminal."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar = tqdm(
            desc="train",
            unit="step",
            total=trainer.max_steps,
            initial=trainer.global_step,
            disable=None if trainer.is_global_zero else True,
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.bar.update()
        if not self.bar.disable and trainer.global_step % 10 == 0:
            self.bar.set_postfix(loss=f"{outputs['loss'].item():.3f}", refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
