"""One training run: recipe in, a folder with checkpoints, logs and pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geoseg.classes import ISAID
from geoseg.errors import OutputError
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.metadata import IMAGENET_MEAN
from geoseg.train.data import Crops, Item, StagedBatches, hidden_classes, read_split
from geoseg.train.module import SegmentationModule
from geoseg.train.recipe import Recipe


class WholeImages(Dataset[dict[str, Tensor]]):
    """Images of a split at full size, for validation. Sides are padded to 32 by IGNORE."""

    def __init__(self, recipe: Recipe, split: str, num_classes: int) -> None:
        self.recipe, self.num_classes = recipe, num_classes
        self.items: list[Item] = read_split(recipe.data.root, split)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = self.items[index]
        image, mask = item.load()
        pixels = torch.from_numpy(image).permute(2, 0, 1).float()
        rows, columns = (-side % 32 for side in mask.shape)
        return {
            "image": torch.nn.functional.pad(pixels, (0, columns, 0, rows), mode="reflect"),
            "mask": torch.nn.functional.pad(
                torch.from_numpy(mask).long(), (0, columns, 0, rows), value=255
            ),
            "hidden": hidden_classes(self.recipe, item.group, self.num_classes),
        }


class RunData(pl.LightningDataModule):
    """Loaders of a run; the training loader starts at the trainer's current step."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.crops = Crops(recipe, IMAGENET_MEAN, len(ISAID))
        self.validation = WholeImages(recipe, "val", len(ISAID))

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        batches = StagedBatches(
            self.recipe.stages, trainer.global_step, trainer.global_rank, trainer.world_size
        )
        workers = self.recipe.data.workers
        return DataLoader(self.crops, batch_sampler=batches, num_workers=workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, batch_size=1)


class GeosegCheckpoints(Callback):
    """Writes `last.safetensors` and `best.safetensors` at every validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, SegmentationModule)
        miou = float(trainer.callback_metrics["val_miou"])
        metadata = pl_module.metadata({"val_miou": miou, "step": trainer.global_step})
        weights = averaged_weights(trainer, pl_module)
        save_checkpoint(self.folder / "last.safetensors", weights, metadata)
        if miou > self.best:
            self.best = miou
            save_checkpoint(self.folder / "best.safetensors", weights, metadata)


def averaged_weights(trainer: pl.Trainer, module: SegmentationModule) -> dict[str, Tensor]:
    """The state that was validated: the moving average where the run keeps one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMAWeightAveraging) and callback._average_model is not None:
            return callback._average_model.module.model.state_dict()
    return module.model.state_dict()


def fit(recipe: Recipe, folder: Path, *, resume: bool = False, device: str = "auto") -> Path:
    """Train and return the best checkpoint's path.

    Args:
        folder: the run; holds `best.safetensors` and `last.safetensors` (usable by predict),
            `state.ckpt` (to resume from), CSV and TensorBoard logs.
        resume: go on from `state.ckpt`; the loss goes on as if nothing had happened.

    Raises:
        OutputError: the folder holds a run already and `resume` is not set, or the reverse.
        DataError: what is wrong with the data.
    """
    state = folder / "state.ckpt"
    if resume and not state.is_file():
        raise OutputError(f"{state} does not exist, so there is nothing to resume")
    if state.exists() and not resume:
        raise OutputError(f"{folder} holds a run already; give --resume or another folder")
    folder.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(recipe.seed, verbose=False)
    module, data = SegmentationModule(recipe), RunData(recipe)
    optimizer = recipe.optimizer
    callbacks: list[Callback] = [
        ModelCheckpoint(
            folder,
            filename="state",
            every_n_train_steps=min(250, recipe.val_every),
            enable_version_counter=False,
        ),
        GeosegCheckpoints(folder),
    ]
    if optimizer.ema_decay is not None:
        callbacks.insert(0, EMAWeightAveraging(decay=optimizer.ema_decay))
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator=device,
        precision=recipe.precision,
        max_steps=recipe.steps,
        val_check_interval=recipe.val_every,
        check_val_every_n_epoch=None,
        gradient_clip_val=optimizer.clip_norm,
        callbacks=callbacks,
        # A resumed run logs beside the first part, not over it.
        logger=[CSVLogger(folder, name="logs"), TensorBoardLogger(folder, name="", version="")],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=recipe.log_every,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=state if resume else None)
    return folder / "best.safetensors"
