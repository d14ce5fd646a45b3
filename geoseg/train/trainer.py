"""Lightning's trainer for a run: callbacks, loggers, precision."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import loggers
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, WeightAveraging
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from tqdm import tqdm

from geoseg.errors import OptionError
from geoseg.model.checkpoint import read_metadata, save_checkpoint
from geoseg.model.devices import choose_device, computes_bfloat16
from geoseg.progress import json_progress, line_progress
from geoseg.train.figures import Sample, sample_sheet, write_picture
from geoseg.train.metrics import Scores
from geoseg.train.module import Labeled, SegmentationModule
from geoseg.train.recipe import Recipe

STATE = "state.ckpt"
STATE_EVERY = 250
"""Most steps between saved states, hence most steps that a killed run loses."""
LOGGER_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "csv": (),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}
"""Packages by logger, of which one must be installed."""
MLFLOW_URI = "MLFLOW_TRACKING_URI"
"""Environment variable of MLflow; without it, MLflow 3 refuses to log."""


def make_trainer(
    recipe: Recipe, folder: Path, accelerator: torch.device, devices: int, validation: Validation
) -> pl.Trainer:
    """Set up Lightning for a recipe whose precision is resolved."""
    assert recipe.precision != "auto"
    callbacks: list[Callback] = [validation, ProgressBar(), state_saver(folder, recipe)]
    if recipe.optimizer.ema_decay is not None:
        callbacks.append(MovingAverage(recipe.optimizer.ema_decay))
    strategy = DDPStrategy(
        broadcast_buffers=False,  # norms are synchronized, so buffers stay equal
        find_unused_parameters=recipe.freeze_steps is not None,
    )
    return pl.Trainer(
        default_root_dir=folder,
        accelerator=accelerator.type,
        devices=devices if accelerator.index is None else [accelerator.index],
        strategy=strategy if devices > 1 else "auto",
        sync_batchnorm=devices > 1 and accelerator.type == "cuda",
        precision=recipe.precision,
        max_steps=recipe.steps,
        # Counted in batches, unlike the rest.
        val_check_interval=min(recipe.val_every, recipe.steps) * recipe.accumulate,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.optimizer.clip_norm,
        callbacks=callbacks,
        logger=make_loggers(recipe, folder),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=recipe.log_every,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def check_loggers(recipe: Recipe) -> None:
    """Raise OptionError if a logger lacks its package or MLflow its server."""
    for name in recipe.logger:
        packages = LOGGER_PACKAGES[name]
        if packages and not any(map(find_spec, packages)):
            raise OptionError(
                f"logger is {', '.join(recipe.logger)}, but {packages[0]} is not installed: "
                f"pip install {packages[0]}, or choose other loggers (--set 'logger=[csv]')"
            )
    if "mlflow" in recipe.logger and not os.environ.get(MLFLOW_URI):
        raise OptionError(
            f"logger has mlflow, but {MLFLOW_URI} is not set: give it a server, or "
            "sqlite:///mlflow.db"
        )


@contextmanager
def logger_errors(recipe: Recipe) -> Iterator[None]:
    """Turn errors of MLflow and W&B, such as a missing login, into OptionError."""
    modules = {
        "mlflow": ("mlflow.exceptions", "MlflowException"),
        "wandb": ("wandb.errors", "Error"),
    }
    kinds: list[type[Exception]] = [
        getattr(import_module(module), kind)
        for name, (module, kind) in modules.items()
        if name in recipe.logger
    ]
    try:
        yield
    except tuple(kinds) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"logger {type(error).__module__.partition('.')[0]}: {reason}") from error


def make_loggers(recipe: Recipe, folder: Path) -> list[loggers.Logger]:
    """Return the loggers of a recipe; those with files of their own write into `folder`."""
    makers: dict[str, Callable[[], loggers.Logger]] = {
        # A resumed run gets another version: it logs beside the first part, not over it.
        "csv": lambda: loggers.CSVLogger(folder, name="logs"),
        "tensorboard": lambda: loggers.TensorBoardLogger(folder, name="", version=""),
        "mlflow": lambda: loggers.MLFlowLogger(experiment_name="geoseg", run_name=folder.name),
        "wandb": lambda: loggers.WandbLogger(
            project="geoseg", name=folder.name, save_dir=folder, config={"recipe": recipe.to_yaml()}
        ),
    }
    return [makers[name]() for name in recipe.logger]


def check_device(recipe: Recipe, name: str, devices: int) -> torch.device:
    """Return the device of that name; OptionError if it cannot train the recipe."""
    device = choose_device(name)
    if devices > 1 and device.index is not None:
        raise OptionError(
            f"--device {name} is a single device; give its kind only with --devices {devices}"
        )
    if recipe.precision == "16-mixed" and device.type == "cpu":
        raise OptionError("precision is 16-mixed, but CPUs cannot train in it; set bf16-mixed")
    return device


def resolve_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """Replace precision `auto` by the fastest one that trains well on the device."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bf16-mixed" if computes_bfloat16(device) else "32-true")


def state_saver(folder: Path, recipe: Recipe) -> ModelCheckpoint:
    """Return the callback that saves what `--resume` loads."""
    return ModelCheckpoint(
        folder,
        filename=Path(STATE).stem,
        every_n_train_steps=min(STATE_EVERY, recipe.val_every),
        enable_version_counter=False,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's tips, and warnings that a user can do nothing about."""
    quieted = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.fabric")]
    levels = [logger.level for logger in quieted]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        for logger in quieted:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(quieted, levels, strict=True):
                logger.setLevel(level)


class Validation(Callback):
    """Scores each validation, writes checkpoints and a picture, and stops a run that is done.

    Writes `last.safetensors`, and `best.safetensors` if `recipe.best_metric` has a new best. Must
    precede a callback that averages weights: it saves the weights that were validated.

    Args:
        shown: names of the images that are drawn.
        report: called with a line for the terminal.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, shown: Collection[str], report: Callable[[str], None]
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.shown, self.report = set(shown), report
        self.samples: list[Sample] = []
        self.step = -1
        """Step of the latest validation."""
        best = folder / "best.safetensors"
        self.best = read_metadata(best).metrics if best.is_file() else {}
        """Metrics of the best checkpoint, on disk rather than in the state: a run that is resumed
        before its last validation must not forget it."""

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Labeled,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        name, _, image, mask, _ = batch
        if name in self.shown:
            self.samples.append((image, mask, outputs["found"]))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        scores = Scores.of(pl_module.confusion.compute(), pl_module.metadata.classes)
        loss = pl_module.val_loss.compute().item()
        pl_module.confusion.reset()
        pl_module.val_loss.reset()
        pl_module.log("val_miou", scores.miou)
        pl_module.log("val_loss", loss)
        for row in scores.classes:
            if row.pixels:
                pl_module.log(f"val_iou/{row.name}", row.iou)
        samples, self.samples, self.step = self.samples, [], trainer.global_step
        metrics = {"val_miou": scores.miou, "step": float(self.step)}
        if math.isfinite(loss):  # else no labeled pixel was sampled
            metrics["val_loss"] = loss
        improved = self.is_better(metrics)
        if improved:
            self.best = metrics
        if trainer.is_global_zero:
            self.report(f"step {self.step}: val mIoU {scores.miou:.4f}, loss {loss:.4f}")
            self.save(pl_module, metrics, improved)
            if samples:
                self.draw(trainer, samples, pl_module)
        self.stop_early(trainer)

    def is_better(self, metrics: dict[str, float]) -> bool:
        """Whether metrics exceed those of the best checkpoint."""
        name = self.recipe.best_metric
        if name not in metrics or name not in self.best:
            return name not in self.best
        difference = metrics[name] - self.best[name]
        return difference < 0 if name == "val_loss" else difference > 0

    def stop_early(self, trainer: pl.Trainer) -> None:
        """End the run if its best checkpoint is older than the recipe's patience."""
        if (stopping := self.recipe.early_stopping) is None or trainer.should_stop:
            return
        if self.step - self.best["step"] >= stopping.patience * self.recipe.val_every:
            trainer.should_stop = True
            if trainer.is_global_zero:
                self.report(
                    f"stopped at step {self.step}: no better {stopping.metric} since step "
                    f"{self.best['step']:.0f}"
                )

    def save(self, module: SegmentationModule, metrics: dict[str, float], improved: bool) -> None:
        """Write the checkpoints of a validation."""
        metadata = replace(module.metadata, metrics=metrics)
        save_checkpoint(self.folder / "last.safetensors", module.model, metadata)
        if improved:
            save_checkpoint(self.folder / "best.safetensors", module.model, metadata)

    def draw(self, trainer: pl.Trainer, samples: list[Sample], module: SegmentationModule) -> None:
        """Draw samples into the folder, and into TensorBoard's log."""
        sheet = sample_sheet(samples, module.metadata.classes)
        write_picture(self.folder / "samples" / f"step_{trainer.global_step:06d}.png", sheet)
        for logger in trainer.loggers:
            if isinstance(logger, loggers.TensorBoardLogger):
                logger.experiment.add_image(
                    "samples", np.asarray(sheet), trainer.global_step, dataformats="HWC"
                )


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights, which validation and checkpoints use.

    The decay of step n is at most (1 + n) / (10 + n), so that the random initial weights are
    forgotten in short runs as well.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self.average)
        self.decay = decay

    @torch.no_grad()
    def average(self, means: list[Tensor], now: list[Tensor], updates: Tensor | int) -> None:
        """Update `means`, tensors of the same device and type, with the present weights."""
        count = int(updates)
        decay = min(self.decay, (1 + count) / (10 + count))
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, now, 1 - decay)
        else:
            torch._foreach_copy_(means, now)


class ProgressBar(Callback):
    """A bar over all steps of the run; a line now and then if not on a terminal, or JSON if the
    environment asks for it.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.by_json = json_progress("train", "step") if trainer.is_global_zero else None
        self.bar = tqdm(
            desc="train",
            unit="step",
            total=trainer.max_steps,
            initial=trainer.global_step,
            disable=None if trainer.is_global_zero and not self.by_json else True,
        )
        silent = self.by_json or not self.bar.disable or not trainer.is_global_zero
        self.by_line = None if silent else line_progress("train", "step")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.by_json:
            self.by_json(trainer.global_step, trainer.max_steps)
        if self.by_line:
            loss = f", loss {outputs['loss'].item():.3f}"
            self.by_line(trainer.global_step, trainer.max_steps, loss)
        if self.bar.disable:
            return
        self.bar.update(trainer.global_step - self.bar.n)
        if trainer.global_step % 10 == 0:
            self.bar.set_postfix(loss=f"{outputs['loss'].item():.3f}", refresh=False)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated = line_progress("validate", "image") if self.by_line else None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done, total = batch_idx + 1, int(trainer.num_val_batches[0])
        if self.validated:
            self.validated(done, total, "")
        elif not self.bar.disable:
            self.bar.set_postfix_str(f"validating {done}/{total}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "bar"):
            self.bar.close()
