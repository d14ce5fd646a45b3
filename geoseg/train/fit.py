"""Training runs: recipe in, a folder with checkpoints, logs and pictures out."""

from __future__ import annotations

import signal
import threading
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
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader

from geoseg.datasets.layout import atomic_write
from geoseg.errors import DataError, OptionError, OutputError
from geoseg.model.load import load_model
from geoseg.model.metadata import HEADER_KEY, Metadata
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import SegNeXt
from geoseg.train.box_scores import read_box_table
from geoseg.train.crops import Crops, StagedBatches, hidden_by_group
from geoseg.train.dataset import (
    Item,
    LabeledFolder,
    check_classes_file,
    check_training,
    check_validation,
    inspect_items,
)
from geoseg.train.initialization import blank_model, initial_model
from geoseg.train.module import SegmentationModule, WholeImages
from geoseg.train.recipe import Recipe, load_recipe
from geoseg.train.trainer import (
    STATE,
    Validation,
    check_device,
    check_loggers,
    logger_errors,
    make_trainer,
    quiet_lightning,
    resolve_precision,
)

RESULTS = ("best.safetensors", "last.safetensors", "recipe.yaml")
"""Files that a new run writes into its folder."""
SAMPLES = 4
"""Images drawn at each validation."""


class RunData(pl.LightningDataModule):
    """Data loaders of a run; that of training starts at the current step of the trainer."""

    def __init__(self, recipe: Recipe, crops: Crops, validation: Sequence[Item]) -> None:
        super().__init__()
        self.recipe, self.crops, self.validation = recipe, crops, validation

    def train_dataloader(self) -> DataLoader[Any]:
        trainer, workers = self.trainer, self.recipe.data.workers
        assert trainer is not None
        batches = StagedBatches(
            self.recipe.stages,
            trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
            self.recipe.accumulate,
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
    """Train, and return the path of the best checkpoint.

    Args:
        folder: gets `best.safetensors` and `last.safetensors` (weights), `state.ckpt` (to resume
            from), `recipe.yaml` (every value), `samples` (pictures), and logs.
        resume: continue from `state.ckpt`; losses and weights are those of an uninterrupted run.
        pretrained: weights to start from, see `initial_model`.
        devices: GPUs that share each batch.
        skip_bad: leave out images that cannot be used.
        without_background: train although no pixel is background.
        report: called with lines for the user.
        progress: called with images read and in all while the data is checked.

    Raises:
        OutputError: the folder has a run to resume, or none, or one of another recipe.
        DataError, CheckpointError: the data or the pretrained weights cannot be used.
        OptionError: the device cannot train the recipe, or a logger fails.
        KeyboardInterrupt: the run was stopped; a note says how to continue.
    """
    report = rank_zero_only(report)
    check_loggers(recipe)
    accelerator = check_device(recipe, device, devices)
    recipe = resolve_precision(recipe, accelerator)
    check_folder(folder, recipe, resume)
    data = LabeledFolder.open(recipe.data.root)
    report(f"reading the images in {data.root}, to train in {folder}")
    check_classes_file(data, recipe, report)
    (items, counts), (val_items, val_counts) = (
        read_split(data, name, skip_bad, report, progress) for name in ("train", "val")
    )
    check_training(recipe, items, counts, data.classes, without_background=without_background)
    check_validation(val_counts, data.classes, report, devices)
    pl.seed_everything(recipe.seed, verbose=False)
    if resume:
        model, start = stored_model(folder, data, recipe), ""
    else:
        model, start = initial_model(recipe, data.classes, pretrained)
        origin = f"{recipe.provenance}\nstarted from {start}".strip()
        model.metadata = replace(model.metadata, provenance=origin)
    boxes = read_box_table(data.root, data.classes) if recipe.loss.projection else None
    loaders = RunData(recipe, Crops(recipe, items, counts, model.metadata, boxes), val_items)
    hidden = hidden_by_group(recipe, val_items, len(data.classes))
    module = SegmentationModule(recipe, model, hidden, load_teacher(recipe, model.metadata))
    if start:
        write_start(folder, recipe, model.metadata)
        family = "SegNeXt" if isinstance(model, SegNeXt) else "EfficientNet"
        report(f"{family}-{recipe.model.variant} starts from {start}")
    validation = Validation(recipe, folder, most_informative(val_items, val_counts), report)
    with quiet_lightning(), interruptible(folder), option_errors(recipe, device, devices):
        trainer = make_trainer(recipe, folder, accelerator, devices, validation)
        trainer.fit(module, loaders, ckpt_path=folder / STATE if resume else None)
        if validation.step != trainer.global_step:
            trainer.validate(module, loaders, verbose=False)
    best = folder / "best.safetensors"
    report(f"best checkpoint: {best}")
    return best


def write_start(folder: Path, recipe: Recipe, metadata: Metadata) -> None:
    """Write what `--resume` reads besides the state."""
    atomic_write(folder / "recipe.yaml", recipe.to_yaml().encode())
    atomic_write(folder / "metadata.json", metadata.to_header()[HEADER_KEY].encode())


def read_split(
    data: LabeledFolder,
    name: str,
    skip_bad: bool,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[list[Item], NDArray[np.int64]]:
    """Return the usable images of a split and their pixels by class (N,C); report the rest."""
    items, counts, bad = inspect_items(
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


@contextmanager
def option_errors(recipe: Recipe, device: str, devices: int) -> Iterator[None]:
    """Turn errors of loggers, and of an unfit or too small device, into OptionError."""
    try:
        with logger_errors(recipe):
            yield
    except MisconfigurationException as error:
        raise OptionError(f"--device {device} --devices {devices}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise OptionError(
            "the device has too little memory for this recipe; lower stages.batch (and raise "
            "accumulate) or stages.crop, give more --devices, or set precision: bf16-mixed"
        ) from error


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into KeyboardInterrupt with a note on how to continue.

    Lightning exits with code 1 on the first, and raises an exception of its own on the second.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        stopped = isinstance(error.__context__, KeyboardInterrupt)
        if isinstance(error, SystemExit) and not (stopped or isinstance(error, SIGTERMException)):
            raise
        interrupt = KeyboardInterrupt()
        kept = f"the run is kept in {folder}: the same command with --resume continues it"
        nothing = f"{folder} has no state yet: the same command starts the run anew"
        interrupt.add_note(kept if (folder / STATE).is_file() else nothing)
        raise interrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raise OutputError if a run cannot start, or resume, in the folder."""
    state = folder / STATE
    if not resume:
        if state.exists() or (folder / "best.safetensors").exists():
            raise OutputError(f"{folder} holds a run already; give --resume or another folder")
        return
    if not state.is_file():
        raise OutputError(f"{state} does not exist, so there is nothing to resume")
    before = load_recipe(folder / "recipe.yaml")
    # Paths, speed and logging may change; what is computed may not.
    free = {"root": "", "workers": 0}
    for part in fields(Recipe):
        if part.name == "logger":
            continue
        now, then = getattr(recipe, part.name), getattr(before, part.name)
        if part.name == "data":
            now, then = replace(now, **free), replace(then, **free)
        if now != then:
            raise OutputError(
                f"{part.name} in the recipe is not that of the run in {folder}; resume with "
                f"{folder / 'recipe.yaml'}, or train into another folder"
            )


def load_teacher(recipe: Recipe, metadata: Metadata) -> nn.Module | None:
    """Load the teacher of the recipe, if any.

    Raises:
        CheckpointError: it cannot be read.
        DataError: its classes or its normalization differ.
    """
    if recipe.teacher is None:
        return None
    name = recipe.teacher.weights
    teacher = load_model(name)
    known = teacher.metadata
    if [c.name for c in known.classes] != [c.name for c in metadata.classes]:
        raise DataError(
            f"teacher.weights: {name} has other classes than the data; "
            "train a teacher on this data first"
        )
    if (known.mean, known.std, known.scale) != (metadata.mean, metadata.std, metadata.scale):
        raise DataError(
            f"teacher.weights: {name} was trained with another mean, std or scale of the pixels; "
            "set model.mean, model.std and model.scale to its own"
        )
    return teacher


def stored_model(
    folder: Path, data: LabeledFolder, recipe: Recipe
) -> SegNeXt | EfficientNetPyramid:
    """Build the network of the run in `folder`; its weights are in the state."""
    text = (folder / "metadata.json").read_text("utf-8")
    metadata = Metadata.from_header({HEADER_KEY: text})
    if metadata.classes != data.classes:
        raise DataError(f"the classes in {data.root} are not those of the run in {folder}")
    return blank_model(recipe, metadata)


def most_informative(items: Sequence[Item], counts: NDArray[np.int64]) -> list[str]:
    """Return the names of the images with the most classes."""
    order = np.argsort(-(counts > 0).sum(axis=1), kind="stable")
    return [items[i].name for i in order[:SAMPLES]]
