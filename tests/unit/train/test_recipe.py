"""The parts of training: recipes, crops, loss, sampling."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from geoseg.classes import IGNORE, ISAID
from geoseg.errors import DataError, RecipeError
from geoseg.model.metadata import Metadata
from geoseg.model.mscan import DropPath
from geoseg.model.segnext import SegNeXt
from geoseg.model.variants import VARIANTS
from geoseg.synthetic import render_scene
from geoseg.train.augment import Placement, sample_ids, sample_pixels
from geoseg.train.copy_paste import SIDE, extract_cutouts, paste
from geoseg.train.crops import Crops, StagedBatches
from geoseg.train.dataset import Item, LabeledFolder, inspect_items
from geoseg.train.loss import partial_cross_entropy
from geoseg.train.module import parameter_groups, rate_factor
from geoseg.train.recipe import AugmentOptions, LossOptions, Recipe, Stage, load_recipe

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


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
    """A recipe with everything in it."""
    content = {
        "data": {"root": str(root), "rendered_share": 0.3, "workers": 0},
        "stages": [
            {"steps": 4, "batch": 2, "crop": 64, "scale": [0.5, 1.0]},
            {"steps": 2, "batch": 1, "crop": 96, "scale": [1.0, 1.0]},
        ],
        "optimizer": {"lr": 1e-3, "warmup_steps": 2, "ema_decay": 0.9, "clip_norm": 1.0},
        "augment": {"rotate": "any", "gray": 0.2, "blur": 0.2},
        "val_every": 3,
        "log_every": 1,
        **changes,
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_valid_and_survive_yaml(path, tmp_path):
    recipe = load_recipe(path)
    assert recipe == load_recipe(path.stem)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml())
    assert load_recipe(again) == recipe


@pytest.mark.parametrize(("variant", "drop_path"), [("T", 0.1), ("S", 0.1), ("B", 0.2), ("L", 0.3)])
def test_isaid_recipes_are_the_published_ones(variant, drop_path):
    recipe = load_recipe(f"segnext_{variant.lower()}_isaid")
    assert recipe.stages == (Stage(160_000, 16, 896, (0.5, 2.0)),)
    assert recipe.model.variant == variant
    assert VARIANTS[variant].drop_path == drop_path
    assert recipe.loss == LossOptions(hard_share=1, stride=1)
    model = SegNeXt(variant, 16)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(drop_path)
    groups = parameter_groups(model, recipe.optimizer)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [
        (6e-5, 0.01),
        (6e-5, 0),
        (pytest.approx(6e-4), 0.01),
        (pytest.approx(6e-4), 0),
    ]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    norms = [n for n, p in model.named_parameters() if any(p is q for q in groups[1]["params"])]
    assert all(p.ndim == 1 for g in (groups[1], groups[3]) for p in g["params"])
    assert "backbone.patch_embed1.proj.1.weight" in norms
    # mmcv's "poly" with linear warm-up: rate · (1 - (1 - step/1500) · (1 - 1e-6)).
    for step in (0, 1, 700, 1499, 1500, 80_000, 160_000):
        poly = 1 - step / 160_000
        warm = 1 - (1 - step / 1500) * (1 - 1e-6) if step < 1500 else 1
        assert rate_factor(step, recipe) == pytest.approx(poly * warm, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"color": 1}, "unknown key color"),
        ({"optimizer": {"learning_rate": 1}}, "unknown key optimizer.learning_rate"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr is 'fast'"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas has 1 values"),
        ({"augment": {"rotate": "left"}}, "augment.rotate is 'left'"),
        ({"model": {"variant": "XL"}}, "model.variant is XL; give one of T, S, B, L"),
        (
            {"stages": [{"steps": 1, "batch": 1, "crop": 100, "scale": [1, 1]}]},
            "stages.0.crop is 100",
        ),
        ({"stages": [{"steps": 1}]}, "is missing"),
        ({"data": {"root": "x", "rendered_share": 2}}, "data.rendered_share is 2"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"val_every": 0}, "val_every is 0"),
        ({"data": {"root": "x", "max_class_share": -1}}, "data.max_class_share is -1"),
        ({"model": {"std": [1, 0, 1]}}, "model.std is"),
        ({"optimizer": {"ema_decay": 1}}, "optimizer.ema_decay is 1"),
        ({"optimizer": {"warmup_steps": 6}}, "optimizer.warmup_steps is 6, but the stages have 6"),
        ({"stages": 3}, "stages is 3"),
        ({"stages": []}, "stages is []; give one stage or more"),
        ({"loss": {"class_weights": {"ship": -1}}}, "loss.class_weights.ship is -1"),
        ({"logger": ["csv", "paper"]}, "logger.1 is 'paper'"),
        ({"freeze_steps": 2}, "freeze_steps is 2, but freeze is none"),
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


def test_hidden_classes_are_not_penalized_on_background_only():
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


def test_crops_lie_on_the_image_evenly_and_show_their_target():
    rng, options = np.random.default_rng(0), AugmentOptions(scale_draw="uniform")
    stage = Stage(1, 1, 64, (0.5, 2.0))
    scales, lefts = [], []
    for _ in range(500):
        target = rng.uniform(0, 300), rng.uniform(0, 200)
        crop = Placement.draw(rng, (300, 200), target, stage, options)
        half = 32 / crop.scale
        for center, point, side in zip(crop.center, target, (300, 200), strict=True):
            assert half - 1e-9 <= center <= side - half + 1e-9
            assert abs(center - point) <= half
        free = Placement.draw(rng, (300, 200), None, stage, options, enlarge=1.5)
        scales.append(free.scale)
        half = 32 / free.scale
        lefts.append((free.center[0] - half) / (300 - 2 * half))
    for values, low, high in ((scales, 0.75, 3.0), (lefts, 0.0, 1.0)):
        share = np.histogram(values, bins=5, range=(low, high))[0] / 500
        assert (abs(share - 0.2) < 0.06).all()


def test_crops_of_one_class_only_are_drawn_again(folder, tmp_path):
    recipe = load_recipe(
        small_recipe(folder, tmp_path / "r.yaml"),
        **{"data.max_class_share": 0.9, "data.rendered_share": 0.0, "data.object_share": 0.0},
    )
    free = replace(recipe, data=replace(recipe.data, max_class_share=1.0))
    items, counts, _ = inspect_items(LabeledFolder.open(folder).split("train"))

    def dominated(recipe: Recipe) -> int:
        crops = Crops(recipe, items, counts, Metadata("T", ISAID))
        masks = [crops[(i, recipe.stages[0])]["mask"].ravel() for i in range(60)]
        labeled = [mask[mask != IGNORE] for mask in masks]
        return sum(int(m.bincount().max()) > 0.9 * len(m) for m in labeled)

    assert dominated(recipe) < 0.75 * dominated(free)


def test_objects_are_cut_out_whole_and_put_down_on_background_only(folder, tmp_path):
    items, counts, _ = inspect_items(LabeledFolder.open(folder).split("train"))
    cutouts = extract_cutouts(items, counts, 9, seed=0)
    assert cutouts
    for cutout in cutouts:
        edges = [cutout.shape[0], cutout.shape[-1], cutout.shape[:, 0], cutout.shape[:, -1]]
        assert not np.concatenate(edges).any()
        assert cutout.shape[SIDE // 2, SIDE // 2] == 255
    put_down = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        pixels = rng.uniform(0, 255, (128, 128, 3)).astype(np.float32)
        ids = np.where(np.arange(128) < 40, 3, 0).astype(np.uint8) + np.zeros((128, 1), np.uint8)
        ids[:20] = IGNORE
        before, known = pixels.copy(), ids.copy()
        paste(rng, cutouts, 0.7, pixels, ids, {})
        assert (ids[known != 0] == known[known != 0]).all()
        assert set(np.unique(ids[known == 0])) <= {0, 9}
        changed = (pixels != before).any(axis=2)
        assert changed[(ids == 9)].all()
        put_down += (ids == 9).sum()
    assert put_down > 1000


def test_class_weights_say_what_crops_show(folder, tmp_path):
    """With all other weights at 0, every crop on an object shows the one class."""
    items, counts, _ = inspect_items(LabeledFolder.open(folder).split("train"))
    wanted = int(np.argmax(counts[:, 1:].sum(axis=0))) + 1
    weights = {item.name: float(item.id == wanted) for item in ISAID}
    changes = {"data.rendered_share": 0.0, "data.object_share": 1.0}
    recipe = load_recipe(
        small_recipe(folder, tmp_path / "r.yaml"), **changes, **{"data.class_weights": weights}
    )
    crops = Crops(recipe, items, counts, Metadata("T", ISAID))
    shown = [(crops[(i, recipe.stages[0])]["mask"] == wanted).any() for i in range(20)]
    assert np.mean(shown) > 0.9
    wrong = replace(recipe, data=replace(recipe.data, class_weights={"cars": 2.0}))
    with pytest.raises(DataError, match="names 'cars'"):
        Crops(wrong, items, counts, Metadata("T", ISAID))


def test_classes_and_groups_must_be_those_of_the_data(folder, tmp_path):
    items, counts, _ = inspect_items(LabeledFolder.open(folder).split("train"))
    path = small_recipe(folder, tmp_path / "r.yaml")
    three = replace(Metadata("T", ISAID), classes=ISAID[:3])
    with pytest.raises(DataError, match=r"rendered_share is 0\.3"):
        Crops(load_recipe(path), items, counts[:, :3], three)
    for groups, words in (
        ({"village": {}}, "names 'village'"),
        ({"town": {"complete": [1, 16]}}, "class 16; the data has 0-15"),
        ({"town": {"weight": 0}}, "every weight is 0"),
    ):
        recipe = load_recipe(path, **{"data.groups": groups})
        with pytest.raises(DataError, match=words):
            Crops(recipe, items, counts, Metadata("T", ISAID))


def test_crops_depend_on_their_number_alone(folder, tmp_path):
    recipe = load_recipe(small_recipe(folder, tmp_path / "r.yaml"))
    items, counts, _ = inspect_items(LabeledFolder.open(folder).split("train"))
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
        LabeledFolder.open(folder).split("test")
    with pytest.raises(DataError, match=r"split\.csv cannot be read"):
        LabeledFolder.open(tmp_path)
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
