"""The training loop: the loss, the crops, the recipes, and a run that is killed and resumed."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from geoseg.classes import IGNORE, ISAID
from geoseg.errors import DataError, OutputError, RecipeError
from geoseg.model.checkpoint import load_model
from geoseg.model.metadata import Metadata
from geoseg.render import render_scene
from geoseg.train.augment import Placement, sample_ids, sample_pixels
from geoseg.train.crops import Crops, StagedBatches
from geoseg.train.fit import fit
from geoseg.train.folder import Item, LabelledFolder, inspect
from geoseg.train.loss import partial_cross_entropy
from geoseg.train.recipe import Stage, load_recipe

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four rendered images with exact masks, laid out as training data."""
    root = tmp_path_factory.mktemp("aerial")
    rows = []
    for seed in range(4):
        scene = render_scene(160, 224, gsd=0.5, seed=seed)
        Image.fromarray(scene.image).save(root / f"{seed}.png")
        Image.fromarray(scene.class_ids).save(root / f"{seed}_mask.png")
        split = "val" if seed == 3 else "train"
        rows.append(["town", str(seed), split, f"{seed}.png", f"{seed}_mask.png"])
    with (root / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["group", "name", "split", "image", "mask"], *rows])
    return root


def small_recipe(root: Path, path: Path, **changes: object) -> Path:
    """A recipe of six steps that validates, and saves its state, after every third."""
    content = {
        "data": {"root": str(root), "rendered_share": 0.3, "workers": 0},
        "stages": [
            {"steps": 4, "batch": 2, "crop": 64, "scale": [0.5, 1.0]},
            {"steps": 2, "batch": 1, "crop": 96, "scale": [1.0, 1.0]},
        ],
        "optimizer": {"lr": 1e-3, "warmup_steps": 2, "ema_decay": 0.9, "clip_norm": 1.0},
        "augment": {"rotate": "any", "grey": 0.2, "blur": 0.2},
        "val_every": 3,
        "log_every": 1,
        **changes,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def losses(folder: Path) -> dict[int, float]:
    """Loss by step, over all parts of a run."""
    found = {}
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with path.open() as file:
            found |= {int(r["step"]): float(r["loss"]) for r in csv.DictReader(file) if r["loss"]}
    return found


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(path):
    assert load_recipe(path).steps > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "unknown key colour"),
        ({"optimizer": {"learning_rate": 1}}, "unknown key optimizer.learning_rate"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr is 'fast'"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas has 1 values"),
        ({"augment": {"rotate": "left"}}, "augment.rotate is 'left'"),
        ({"model": {"variant": "XL"}}, "model.variant is 'XL'"),
        (
            {"stages": [{"steps": 1, "batch": 1, "crop": 100, "scale": [1, 1]}]},
            "stages.crop is 100",
        ),
        ({"stages": [{"steps": 1}]}, "is missing"),
        ({"data": {"root": "x", "rendered_share": 2}}, "data.rendered_share is 2"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"stages": 3}, "stages is 3"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path, change, words):
    with pytest.raises(RecipeError, match=words.replace("[", r"\[")):
        load_recipe(small_recipe(tmp_path, tmp_path / "r.yaml", **change))


def test_loss_without_partial_labels_is_cross_entropy():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 5, 7, 6), torch.randint(0, 5, (3, 7, 6))
    target[0, :3] = IGNORE
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    expected = F.cross_entropy(logits, target, ignore_index=IGNORE)
    torch.testing.assert_close(partial_cross_entropy(logits, target, hidden), expected)


def test_hidden_classes_are_not_penalised_on_background_only():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 5, requires_grad=True)
    target = torch.randint(0, 3, (2, 5, 5))
    hidden = torch.tensor([[False] * 4, [False, False, False, True]])
    probs = logits.softmax(dim=1)
    likelihood = probs.gather(1, target[:, None])[:, 0]
    background = target[1] == 0
    marginal = torch.where(background, probs[1, 0] + probs[1, 3], likelihood[1])
    expected = -torch.stack([likelihood[0], marginal]).log().mean()
    loss = partial_cross_entropy(logits, target, hidden)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    # Moving mass between background and the hidden class changes nothing.
    grad = logits.grad[1].movedim(0, -1)[background]
    share = logits[1].softmax(0).movedim(0, -1)[background]
    ratio = grad[:, 3] * share[:, 0] - grad[:, 0] * share[:, 3]
    torch.testing.assert_close(ratio, torch.zeros_like(ratio), atol=1e-6, rtol=0)


def test_hard_share_takes_the_hardest_pixels():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 10, 10), torch.randint(0, 3, (1, 10, 10))
    each = F.cross_entropy(logits, target, reduction="none").ravel().sort().values
    hidden = torch.zeros(1, 3, dtype=torch.bool)
    loss = partial_cross_entropy(logits, target, hidden, hard_share=0.1)
    torch.testing.assert_close(loss, each[-10:].mean())


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_a_crop_without_scaling_is_a_symmetry_of_the_image(quarters, mirror):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = rng.integers(0, 16, (32, 32), dtype=np.uint8)
    placement = Placement((16.0, 16.0), 1.0, quarters * np.pi / 2, mirror)
    pixels, inside = sample_pixels(image, placement, 32)
    ids = sample_ids(mask, placement, 32)
    turned = [np.rot90(m, k, (0, 1)) for m in (image, image[:, ::-1]) for k in range(4)]
    match = [np.abs(pixels[1:-1, 1:-1] - t[1:-1, 1:-1].astype(float)).max() < 2 for t in turned]
    assert sum(match) == 1
    found = match.index(True)
    flipped = mask if found < 4 else mask[:, ::-1]
    assert (ids[1:-1, 1:-1] == np.rot90(flipped, found % 4)[1:-1, 1:-1]).all()
    assert inside[1:-1, 1:-1].all()


def test_crops_depend_on_their_number_alone(folder, tmp_path):
    recipe = load_recipe(small_recipe(folder, tmp_path / "r.yaml"))
    items, counts, _ = inspect(LabelledFolder.open(folder).split("train"))
    one, two = (Crops(recipe, items, counts, Metadata("T", ISAID)) for _ in range(2))
    stage = recipe.stages[0]
    later = [two[(i, stage)] for i in (5, 3)]
    for index, crop in zip((5, 3), later, strict=True):
        for name, tensor in one[(index, stage)].items():
            assert torch.equal(tensor, crop[name])
    assert not torch.equal(later[0]["image"], later[1]["image"])
    assert later[0]["image"].shape == (3, 64, 64)


def test_batches_go_on_where_they_stopped_and_ranks_share_them():
    stages = (Stage(3, 4, 64, (1.0, 1.0)), Stage(2, 2, 64, (1.0, 1.0)))
    whole = list(StagedBatches(stages))
    assert [i for batch in whole for i, _ in batch] == list(range(16))
    assert list(StagedBatches(stages, start=2)) == whole[2:]
    both = [list(StagedBatches(stages, rank=rank, world=2)) for rank in (0, 1)]
    shared = [i for one, other in zip(*both, strict=True) for i, _ in one + other]
    assert sorted(shared) == list(range(16))
    with pytest.raises(DataError, match=r"stages\.batch is 4, which 3 devices"):
        StagedBatches(stages, world=3)


def test_bad_data_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="no image of split 'test'; found train, val"):
        LabelledFolder.open(folder).split("test")
    with pytest.raises(DataError, match=r"split\.csv cannot be read"):
        LabelledFolder.open(tmp_path)
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(image)
    item = Item("g", "a", image, mask, 16)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(mask)
    with pytest.raises(DataError, match="5×4 px but its mask"):
        item.load()
    Image.fromarray(np.full((4, 5), 77, np.uint8)).save(mask)
    with pytest.raises(DataError, match="holds 77"):
        item.load()
    mask.write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read as an image"):
        item.load()


KILLED_RUN = """
import os, sys
from pathlib import Path
from geoseg.train.fit import fit
from geoseg.train.module import SegmentationModule
from geoseg.train.recipe import load_recipe

step = SegmentationModule.training_step
def step_or_die(self, batch, index):
    if self.global_step == 4:
        os.kill(os.getpid(), 9)
    return step(self, batch, index)
SegmentationModule.training_step = step_or_die
fit(load_recipe(sys.argv[1]), Path(sys.argv[2]), device="cpu")
"""


def test_a_killed_run_resumes_to_the_same_losses_and_weights(folder, tmp_path):
    path = small_recipe(folder, tmp_path / "recipe.yaml")
    recipe = load_recipe(path)
    best = fit(recipe, tmp_path / "whole", device="cpu")
    command = [sys.executable, "-c", KILLED_RUN, str(path), str(tmp_path / "cut")]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    with pytest.raises(OutputError, match="--resume"):
        fit(recipe, tmp_path / "cut", device="cpu")
    fit(recipe, tmp_path / "cut", resume=True, device="cpu")
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert sorted(whole) == list(range(6))
    for step in (3, 4, 5):
        assert resumed[step] == pytest.approx(whole[step], abs=1e-5)
    one, two = (load_model(tmp_path / run / "last.safetensors") for run in ("whole", "cut"))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], atol=1e-5, rtol=0)
    assert load_model(best).metadata.classes == ISAID
