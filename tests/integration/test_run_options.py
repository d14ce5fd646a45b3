"""Freezing, accumulation, validation loss, early stopping, loggers and class weights of runs."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_sets import RGB, TWO, folder_of, mask_of, png, recipe_of

from geoseg.classes import IGNORE
from geoseg.errors import DataError, OptionError
from geoseg.model.checkpoint import read_checkpoint, read_metadata, save_checkpoint
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.train import trainer as trainer_module
from geoseg.train.crops import StagedBatches
from geoseg.train.fit import fit
from geoseg.train.loss import partial_cross_entropy
from geoseg.train.metrics import Scores
from geoseg.train.module import SegmentationModule, loss_weights
from geoseg.train.recipe import LossOptions, Recipe, Stage, load_recipe
from geoseg.train.trainer import Validation, logger_errors

pytestmark = pytest.mark.usefixtures("small_network")

SIDE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """One noisy image of 64 px, half roof."""
    folder = tmp_path_factory.mktemp("small")
    image = png(folder / "a.png", RGB[:, :SIDE, :SIDE].transpose(1, 2, 0))
    return folder_of(folder, image, [np.ascontiguousarray(mask_of(0, 1, 0)[:SIDE, :SIDE])])


@pytest.fixture
def small_recipe(root, tmp_path):
    """Makes a recipe of `steps` on 64 px."""

    def make(steps: int, batch: int = 2, **more: object) -> Recipe:
        stages = [{"steps": steps, "batch": batch, "crop": SIDE, "scale": [1, 1]}]
        more = {"logger": ["csv"], "log_every": 1, "val_every": steps, **more}
        return load_recipe(recipe_of(root, tmp_path / "r.yaml", stages=stages, **more))

    return make


def run(recipe: Recipe, folder: Path, **how: Any) -> list[str]:
    """Train on the CPU; return what is reported."""
    lines: list[str] = []
    fit(recipe, folder, device="cpu", report=lines.append, **how)
    return lines


def logged(folder: Path, column: str) -> dict[int, float]:
    """Values of a column of the CSV log, by step."""
    found = {}
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if row.get(column)]
        found |= {int(row["step"]): float(row[column]) for row in rows}
    return found


@pytest.fixture
def seen(monkeypatch) -> list[tuple[int, bool, bool]]:
    """Of every training step: its number, and whether the backbone is trained and in train mode."""
    calls: list[tuple[int, bool, bool]] = []
    step = SegmentationModule.training_step

    def spy(self: SegmentationModule, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        backbone = self.model.backbone
        trained = {parameter.requires_grad for parameter in backbone.parameters()}
        modes = {module.training for module in backbone.modules()}
        assert len(trained) == len(modes) == 1
        calls.append((self.global_step, trained.pop(), modes.pop()))
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", spy)
    return calls


# -- frozen backbone ---------------------------------------------------------------------------


def test_a_frozen_backbone_stays_as_it_was(small_recipe, tmp_path, seen):
    torch.manual_seed(0)
    start = tmp_path / "start.safetensors"
    save_checkpoint(start, SegNeXt("T", len(TWO)), Metadata("T", TWO))
    recipe = small_recipe(2, freeze="backbone", optimizer={"lr": 0.01, "warmup_steps": 0})
    run(recipe, tmp_path / "run", pretrained=str(start))
    before, _ = read_checkpoint(start)
    after, _ = read_checkpoint(tmp_path / "run" / "last.safetensors")
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decode_head"}
    assert seen == [(0, False, False), (1, False, False)]


def test_a_backbone_is_trained_after_its_frozen_steps(small_recipe, tmp_path, seen):
    # Validation, which puts all of the network into eval mode, lies between.
    run(small_recipe(3, freeze="backbone", freeze_steps=1, val_every=1), tmp_path / "run")
    assert seen == [(0, False, False), (1, True, True), (2, True, True)]


# -- accumulated gradients ---------------------------------------------------------------------


def test_accumulated_batches_are_drawn_one_after_the_other():
    stages = (Stage(2, 2, 64, (1.0, 1.0)), Stage(1, 1, 64, (1.0, 1.0)))
    batches = StagedBatches(stages, accumulate=3)
    drawn = [[index for index, _ in batch] for batch in batches]
    assert drawn == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12], [13], [14]]
    assert len(batches) == len(drawn)
    assert list(StagedBatches(stages, 1, accumulate=3)) == list(batches)[3:]


class KilledError(Exception):
    """Ends a run as a kill would."""


def test_a_step_takes_several_batches_and_a_resumed_run_repeats_them(
    small_recipe, tmp_path, seen, monkeypatch
):
    recipe = small_recipe(3, accumulate=2, val_every=2)
    lines = run(recipe, tmp_path / "whole")
    assert [number for number, _, _ in seen] == [0, 0, 1, 1, 2, 2]
    assert sorted(logged(tmp_path / "whole", "loss")) == [0, 1, 2]
    said = [line.partition(":")[0] for line in lines if "mIoU" in line]
    assert said == ["step 2", "step 3"]

    spied = SegmentationModule.training_step

    def die(self: SegmentationModule, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        if index == 5:
            raise KilledError
        return spied(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", die)
    with pytest.raises(KilledError):
        run(recipe, tmp_path / "cut")
    monkeypatch.setattr(SegmentationModule, "training_step", spied)
    run(replace(recipe, logger=("csv", "tensorboard")), tmp_path / "cut", resume=True)
    one, two = (tmp_path / name / "last.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()
    assert logged(tmp_path / "whole", "loss") == logged(tmp_path / "cut", "loss")


# -- validation loss and early stopping --------------------------------------------------------


def test_validation_loss_is_that_of_the_checkpoint(small_recipe, root, tmp_path):
    lines = run(small_recipe(1), tmp_path / "run")
    path = tmp_path / "run" / "last.safetensors"
    model, metadata = load_model(path), read_metadata(path)
    mean, std = (torch.tensor(v)[:, None, None] for v in (metadata.mean, metadata.std))
    pixels = (torch.from_numpy(RGB[:, :SIDE, :SIDE].copy()).float() - mean) / std
    with torch.no_grad():
        logits = model(pixels[None])
    mask = torch.from_numpy(mask_of(0, 1, 0)[:SIDE, :SIDE].copy()).long()[None]
    expected = F.cross_entropy(logits, mask[:, 4::8, 4::8]).item()
    assert metadata.metrics["val_loss"] == pytest.approx(expected, rel=0.01)
    assert logged(tmp_path / "run", "val_loss")[0] == pytest.approx(expected, rel=0.01)
    assert f"loss {metadata.metrics['val_loss']:.4f}" in next(x for x in lines if "mIoU" in x)


def test_a_run_without_improvement_stops(small_recipe, tmp_path, monkeypatch):
    scores = Scores.of

    def constant(confusion: torch.Tensor, classes: Any) -> Scores:
        return replace(scores(confusion, classes), miou=0.5)

    monkeypatch.setattr(trainer_module.Scores, "of", constant)
    recipe = small_recipe(4, val_every=1, early_stopping={"patience": 2})
    lines = run(recipe, tmp_path / "run")
    assert lines[-2] == "stopped at step 3: no better val_miou since step 1"
    assert read_metadata(tmp_path / "run" / "best.safetensors").metrics["step"] == 1
    assert read_metadata(tmp_path / "run" / "last.safetensors").metrics["step"] == 3
    assert max(logged(tmp_path / "run", "loss")) == 2


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("val_miou", [0.1, 0.3, 0.2, 0.3], 1), ("val_loss", [0.9, 0.5, 0.7, 0.5], 1)],
)
def test_the_best_checkpoint_is_that_of_the_metric(small_recipe, tmp_path, metric, values, best):
    recipe = small_recipe(9, early_stopping={"patience": 2, "metric": metric}, val_every=3)
    validation = Validation(recipe, tmp_path, [], lambda line: None)
    trainer = SimpleNamespace(should_stop=False, is_global_zero=True)
    for number, value in enumerate(values):
        validation.step = 3 * number
        metrics = {metric: value, "step": float(validation.step)}
        if validation.is_better(metrics):
            validation.best = metrics
        validation.stop_early(trainer)
        assert trainer.should_stop == (number == 3)
    assert validation.best["step"] == 3 * best
    assert not validation.is_better({"step": 12.0})


# -- loggers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_logger_is_named_before_anything_is_written(
    small_recipe, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(trainer_module, "find_spec", lambda package: None)
    recipe = small_recipe(1, logger=["csv", name])
    with pytest.raises(OptionError, match=rf"{name} is not installed: pip install {name}"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mlflow_needs_a_server(small_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "find_spec", lambda package: package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(OptionError, match="MLFLOW_TRACKING_URI is not set"):
        run(small_recipe(1, logger=["mlflow"]), tmp_path / "run")


def test_errors_of_a_logger_are_one_line(small_recipe, monkeypatch):
    class Error(Exception):
        __module__ = "wandb.errors"

    monkeypatch.setitem(sys.modules, "wandb.errors", SimpleNamespace(Error=Error))
    with (
        pytest.raises(OptionError, match=r"^logger wandb: no API key; log in$"),
        logger_errors(small_recipe(1, logger=["wandb"])),
    ):
        raise Error("no API key;\n  log in")
    with pytest.raises(Error), logger_errors(small_recipe(1)):
        raise Error


# -- class weights -----------------------------------------------------------------------------


def test_class_weights_of_the_loss_are_those_of_torch():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    target[0, :2] = IGNORE
    hidden, weights = torch.zeros(2, 3, dtype=torch.bool), torch.tensor([0.5, 1.0, 4.0])
    expected = F.cross_entropy(logits, target, weights, ignore_index=IGNORE)
    torch.testing.assert_close(
        partial_cross_entropy(logits, target, hidden, class_weights=weights), expected
    )
    each = F.cross_entropy(logits, target, weights, ignore_index=IGNORE, reduction="none")
    order = each.ravel().argsort(descending=True)[:6]  # a tenth of 60 labeled pixels
    total = weights[target.ravel()[order]].sum()
    torch.testing.assert_close(
        partial_cross_entropy(logits, target, hidden, 0.1, weights),
        each.ravel()[order].sum() / total,
    )
    nothing = partial_cross_entropy(logits, target, hidden, class_weights=torch.zeros(3))
    assert nothing.item() == 0
    assert not math.isnan(partial_cross_entropy(logits, target.fill_(IGNORE), hidden).item())


def test_class_weights_are_named_and_apart_from_those_of_sampling(small_recipe):
    metadata, recipe = Metadata("T", TWO), small_recipe(1)
    assert loss_weights(recipe, metadata) is None
    sampled = replace(recipe, data=replace(recipe.data, class_weights={"roof": 2.0}))
    assert loss_weights(sampled, metadata) is None
    weighted = replace(recipe, loss=LossOptions(class_weights={"roof": 2.0}))
    weights = loss_weights(weighted, metadata)
    assert weights is not None
    assert weights.tolist() == [1, 2]
    wrong = replace(recipe, loss=LossOptions(class_weights={"car": 2.0}))
    with pytest.raises(DataError, match=r"loss\.class_weights names 'car'; the classes are"):
        loss_weights(wrong, metadata)
