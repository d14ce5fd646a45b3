"""One training run: recipe in, a folder with checkpoints, logs and pictures out."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader, Dataset

from geoseg.datasets.layout import write_whole
from geoseg.errors import DataError, OptionError, OutputError
from geoseg.model.devices import choose_device, computes_bfloat16
from geoseg.model.load import load_model
from geoseg.model.metadata import HEADER_KEY, Metadata
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import SegNeXt
from geoseg.native.malloc import keep_free_memory
from geoseg.train.box_scores import read_box_table
from geoseg.train.callbacks import MovingAverage, ProgressBar, Validation
from geoseg.train.crops import Crops, StagedBatches, hidden_by_group
from geoseg.train.dataset import (
    Item,
    LabelledFolder,
    check_classes_file,
    check_training,
    check_validation,
    inspect,
)
from geoseg.train.initialization import blank_model, initial_model
from geoseg.train.module import Labelled, SegmentationModule
from geoseg.train.recipe import Recipe, load_recipe

STATE = "state.ckpt"
RESULTS = ("best.safetensors", "last.safetensors", "recipe.yaml")
"""Files that a new run writes into its folder."""
STATE_EVERY = 250
"""Steps after which a killed run can be resumed, at the latest."""
SAMPLES = 4
"""Images that are drawn at each validation."""


class WholeImages(Dataset[Labelled]):
    """Items with their images and masks."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Labelled:
        item = self.items[index]
        return item.name, item.group, *item.load()


class RunData(pl.LightningDataModule):
    """Loaders of a run; the training loader starts at the trainer's current step."""

    def __init__(self, recipe: Recipe, crops: Crops, validation: Sequence[Item]) -> None:
        super().__init__()
        self.recipe, self.crops, self.validation = recipe, crops, validation

    def train_dataloader(self) -> DataLoader[Any]:
        trainer, workers = self.trainer, self.recipe.data.workers
        assert trainer is not None
        batches = StagedBatches(
            self.recipe.stages, trainer.global_step, trainer.global_rank, trainer.world_size
        )
        return DataLoader(
            self.crops,
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        own = self.validation[trainer.global_rank :: trainer.world_size]
        return DataLoader(WholeImages(own), batch_size=None, collate_fn=tuple)


def fit(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    pretrained: str | None = None,
    device: str = "auto",
    devices: int = 1,
    skip_bad: bool = False,
    without_background: bool = False,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Train and return the best checkpoint's path.

    Args:
        folder: the run: `best.safetensors` and `last.safetensors` (for predict), `state.ckpt` (to
            resume from), `recipe.yaml` (every value), `samples` (pictures), and logs.
        resume: go on from `state.ckpt`; the loss goes on as if nothing had happened.
        pretrained: weights to start from, see `initial_model`.
        devices: GPUs that share each batch.
        skip_bad: leave out images that cannot be used.
        without_background: train although no pixel is background: classes cover everything.
        report: called with lines for the user.
        progress: called with images read and in all, while the data is checked.

    Raises:
        OutputError: the folder holds a run already and `resume` is not set, or the reverse, or
            the run's recipe was another.
        DataError: what is wrong with the data.
        CheckpointError: what is wrong with the pretrained weights.
        OptionError: the device cannot do what is asked for.
        KeyboardInterrupt: the run was stopped; a note says how it goes on.
    """
    report = rank_zero_only(report)
    accelerator = check_device(recipe, device, devices)
    if accelerator.type == "cpu":
        keep_free_memory()
    recipe = resolve_precision(recipe, accelerator)
    check_folder(folder, recipe, resume)
    data = LabelledFolder.open(recipe.data.root)
    check_classes_file(data, recipe, report)
    (items, counts), (validation, val_counts) = (
        read_split(data, name, skip_bad, report, progress) for name in ("train", "val")
    )
    check_training(recipe, items, counts, data.classes, without_background=without_background)
    check_validation(val_counts, data.classes, report)
    pl.seed_everything(recipe.seed, verbose=False)
    if resume:
        model, start = stored_model(folder, data, recipe), None
    else:
        model, start = initial_model(recipe, data.classes, pretrained)
        origin = f"{recipe.provenance}\nstarted from {start}".strip()
        model.metadata = replace(model.metadata, provenance=origin)
    boxes = read_box_table(data.root, data.classes) if recipe.loss.projection else None
    crops = Crops(recipe, items, counts, model.metadata, boxes)
    hidden = hidden_by_group(recipe, validation, len(data.classes))
    module = SegmentationModule(recipe, model, hidden, load_teacher(recipe, model.metadata))
    if start:
        family = "SegNeXt" if isinstance(model, SegNeXt) else "EfficientNet"
        report(f"{family}-{recipe.model.variant} starts from {start}")
        write_start(folder, recipe, model.metadata)
    scored = Validation(folder, most_informative(validation, val_counts), report)
    with quiet_lightning(), interruptible(folder), device_limits(device, devices):
        trainer = trainer_of(recipe, folder, accelerator, devices, scored)
        loaders = RunData(recipe, crops, validation)
        trainer.fit(module, loaders, ckpt_path=folder / STATE if resume else None)
        if scored.step != trainer.global_step:
            trainer.validate(module, loaders, verbose=False)
    best = folder / "best.safetensors"
    report(f"best checkpoint: {best}")
    return best


def write_start(folder: Path, recipe: Recipe, metadata: Metadata) -> None:
    """What `--resume` needs beside the state."""
    write_whole(folder / "recipe.yaml", recipe.to_yaml().encode())
    write_whole(folder / "metadata.json", metadata.to_header()[HEADER_KEY].encode())


def read_split(
    data: LabelledFolder,
    name: str,
    skip_bad: bool,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[list[Item], NDArray[np.int64]]:
    """The images of a split that can be used, and their pixels by class; tells what is odd."""
    items, counts, bad = inspect(
        data.split(name),
        skip_bad=skip_bad,
        progress=progress,
        report=lambda note: report(f"{name}: {note}"),
    )
    for sentence in bad:
        report(f"skipped: {sentence}")
    if absent := [c.name for c in data.classes if not counts[:, c.id].any()]:
        report(f"without a {name} pixel: {', '.join(absent)}")
    return items, counts


def trainer_of(
    recipe: Recipe, folder: Path, accelerator: torch.device, devices: int, scored: Validation
) -> pl.Trainer:
    """Lightning, set up for the recipe, with a precision that its device has."""
    assert recipe.precision != "auto"
    callbacks: list[Callback] = [scored, ProgressBar(), state_saver(folder, recipe)]
    if recipe.optimizer.ema_decay is not None:
        callbacks.append(MovingAverage(recipe.optimizer.ema_decay))
    return pl.Trainer(
        default_root_dir=folder,
        accelerator=accelerator.type,
        devices=devices if accelerator.index is None else [accelerator.index],
        # Norms keep no statistics of their own on each device, so buffers stay equal.
        strategy=DDPStrategy(broadcast_buffers=False) if devices > 1 else "auto",
        sync_batchnorm=devices > 1 and accelerator.type == "cuda",
        precision=recipe.precision,
        max_steps=recipe.steps,
        val_check_interval=min(recipe.val_every, recipe.steps),
        check_val_every_n_epoch=None,
        gradient_clip_val=recipe.optimizer.clip_norm,
        callbacks=callbacks,
        # A resumed run logs beside the first part, not over it.
        logger=[CSVLogger(folder, name="logs"), TensorBoardLogger(folder, name="", version="")],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=recipe.log_every,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


@contextmanager
def device_limits(device: str, devices: int) -> Iterator[None]:
    """What a device cannot do, or has no memory for, as OptionError."""
    try:
        yield
    except MisconfigurationException as error:
        raise OptionError(f"--device {device} --devices {devices}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise OptionError(
            "the device has too little memory for this recipe; lower stages.batch or "
            "stages.crop, share the batch among more --devices, or set precision: bf16-mixed"
        ) from error


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM leave as KeyboardInterrupt, with a note on what was kept.

    Lightning ends the process with exit code 1 for the one, and leaves the other without a word.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        stopped = isinstance(error.__context__, KeyboardInterrupt)
        if isinstance(error, SystemExit) and not (stopped or isinstance(error, SIGTERMException)):
            raise
        interrupt = KeyboardInterrupt()
        kept = f"the run is kept in {folder}: the same command with --resume goes on"
        nothing = f"{folder} has no state yet: the same command starts the run anew"
        interrupt.add_note(kept if (folder / STATE).is_file() else nothing)
        raise interrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    state = folder / STATE
    if not resume:
        if state.exists() or (folder / "best.safetensors").exists():
            raise OutputError(f"{folder} holds a run already; give --resume or another folder")
        return
    if not state.is_file():
        raise OutputError(f"{state} does not exist, so there is nothing to resume")
    before = load_recipe(folder / "recipe.yaml")
    # Where the data lies, and how fast it is loaded, may change; what is computed may not.
    free = {"root": "", "workers": 0}
    for part in fields(Recipe):
        now, then = getattr(recipe, part.name), getattr(before, part.name)
        if part.name == "data":
            now, then = replace(now, **free), replace(then, **free)
        if now != then:
            raise OutputError(
                f"{part.name} in the recipe is not that of the run in {folder}; resume with "
                f"{folder / 'recipe.yaml'}, or train into another folder"
            )


def check_device(recipe: Recipe, name: str, devices: int) -> torch.device:
    device = choose_device(name)
    if devices > 1 and device.index is not None:
        raise OptionError(
            f"--device {name} is one device; name its kind only for --devices {devices}"
        )
    if recipe.precision == "16-mixed" and device.type == "cpu":
        raise OptionError("precision is 16-mixed, which no CPU trains in; set bf16-mixed")
    return device


def resolve_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with `auto` replaced by the fastest precision that trains well on the device."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bf16-mixed" if computes_bfloat16(device) else "32-true")


def load_teacher(recipe: Recipe, metadata: Metadata) -> nn.Module | None:
    """The recipe's teacher, if it names one.

    Raises:
        CheckpointError: it cannot be read. DataError: it knows other classes or other pixels.
    """
    if recipe.teacher is None:
        return None
    name = recipe.teacher.weights
    teacher = load_model(None if name == "default" else name)
    known = teacher.metadata
    if [c.name for c in known.classes] != [c.name for c in metadata.classes]:
        raise DataError(
            f"teacher.weights: {name} tells other classes apart than the data has; "
            "train a teacher on this data first"
        )
    if (known.mean, known.std, known.scale) != (metadata.mean, metadata.std, metadata.scale):
        raise DataError(
            f"teacher.weights: {name} was trained with another mean, std or scale of the pixels; "
            "set model.mean, model.std and model.scale to its own"
        )
    return teacher


def stored_model(
    folder: Path, data: LabelledFolder, recipe: Recipe
) -> SegNeXt | EfficientNetPyramid:
    """The network of the run in `folder`; its weights come with the state."""
    text = (folder / "metadata.json").read_text("utf-8")
    metadata = Metadata.from_header({HEADER_KEY: text})
    if metadata.classes != data.classes:
        raise DataError(f"the classes in {data.root} are not those of the run in {folder}")
    return blank_model(recipe, metadata)


def state_saver(folder: Path, recipe: Recipe) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder,
        filename=Path(STATE).stem,
        every_n_train_steps=min(STATE_EVERY, recipe.val_every),
        enable_version_counter=False,
    )


def most_informative(items: Sequence[Item], counts: NDArray[np.int64]) -> list[str]:
    """Names of the images with the most classes."""
    order = np.argsort(-(counts > 0).sum(axis=1), kind="stable")
    return [items[i].name for i in order[:SAMPLES]]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without tips and without warnings that a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
