"""Whole runs: they learn, they resume, they start from other weights, and lead to polygons."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from rasterio.transform import from_origin

from geoseg.classes import ISAID, ISAID_MASK_COLORS, LabelClass
from geoseg.cli.main import main
from geoseg.datasets.layout import Patch, write_classes, write_patch, write_split
from geoseg.errors import CheckpointError, DataError, OptionError, OutputError
from geoseg.model import devices
from geoseg.model.checkpoint import read_metadata, save_checkpoint
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import NMF, SegNeXt
from geoseg.synthetic import render_scene
from geoseg.train.fit import fit
from geoseg.train.initialization import initial_model
from geoseg.train.recipe import load_recipe
from geoseg.train.trainer import resolve_precision

OWN = tuple(
    LabelClass(i, name, (i, i, i)) for i, name in enumerate(["background", "red", "blue", "yellow"])
)


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    """Four images of noisy discs in the user's own classes; train and val are the same."""
    root = tmp_path_factory.mktemp("discs")
    row, column = np.indices((96, 96))
    colors = np.array([[90, 110, 80], [200, 60, 50], [60, 80, 200], [220, 210, 90]])
    patches = []
    for i in range(4):
        rng, ids = np.random.default_rng(i), np.zeros((96, 96), np.uint8)
        for class_id, center in ((1 + i % 3, 26), (1 + (i + 1) % 3, 68)):
            y, x = center + rng.uniform(-4, 4, 2)
            ids[np.hypot(row - y, column - x) < rng.uniform(18, 23)] = class_id
        noisy = colors[ids] + rng.normal(0, 20, (96, 96, 3))
        for split in ("train", "val"):
            patches.append(Patch("discs", f"{split}{i}", split))
            write_patch(root, patches[-1], noisy.clip(0, 255).astype(np.uint8), ids)
    write_classes(root, OWN)
    write_split(root, patches)
    return root


def recipe_of(path: Path, root: Path, stages: list[dict[str, object]], **more: object) -> Path:
    content = {
        "data": {"root": str(root), "object_share": 0, "workers": 0},
        "model": {"layer_scale": 0.1, "nmf_gradient": "last"},
        "optimizer": {"lr": 1e-3, "head_lr_factor": 1, "warmup_steps": 5, "clip_norm": 1.0},
        "stages": stages,
        **more,
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


def test_a_run_learns_four_images_by_heart(discs, tmp_path):
    """Would fail if images and masks did not fit, or weights, averages or classes were mixed up."""
    path = recipe_of(
        tmp_path / "r.yaml",
        discs,
        [{"steps": 56, "batch": 4, "crop": 96, "scale": [1, 1]}],
        augment={"flip": False, "photometric": 0},
        loss={"stride": 2},
        val_every=32,
    )
    lines = []
    best = fit(load_recipe(path), tmp_path / "run", device="cpu", report=lines.append)
    metadata = read_metadata(best)
    assert metadata.metrics["val_miou"] > 0.9
    assert metadata.classes == OWN
    # Steps 32 and, though no multiple of it, 56 were validated.
    assert [line.partition(":")[0] for line in lines if "mIoU" in line] == ["step 32", "step 56"]
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2
    assert list((tmp_path / "run").glob("events.out.tfevents*"))
    arguments = ["evaluate", str(best), str(discs), "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["miou"] == metadata.metrics["val_miou"]


RUN = """
import os, sys
from pathlib import Path
from training_sets import SMALL
from geoseg.model.variants import VARIANTS
from geoseg.train.fit import fit
from geoseg.train.module import SegmentationModule
from geoseg.train.recipe import load_recipe

VARIANTS["T"] = SMALL
recipe, whole, cut = sys.argv[1:]
run = lambda folder, **how: fit(load_recipe(recipe), Path(folder), device="cpu", **how)
if whole:
    run(whole)
    step = SegmentationModule.training_step
    def step_or_die(self, batch, index):
        if self.global_step == 8:
            os.kill(os.getpid(), 9)
        return step(self, batch, index)
    SegmentationModule.training_step = step_or_die
    run(cut)
else:
    run(cut, resume=True)
"""


def run_apart(recipe: Path, whole: Path | None, cut: Path) -> subprocess.CompletedProcess[bytes]:
    """Train in a process of its own: without a break into `whole` and, killed, into `cut`; or
    resume `cut`. Other tests leave torch with other numbers of threads, on which the last bits
    depend.
    """
    command = [sys.executable, "-c", RUN, str(recipe), str(whole or ""), str(cut)]
    fixtures = Path(__file__).parents[2] / "fixtures"
    environment = {**os.environ, "PYTHONPATH": str(fixtures)}
    return subprocess.run(command, env=environment, capture_output=True, check=False)


def test_a_killed_run_resumes_to_the_same_losses_and_weights(discs, tmp_path):
    path = recipe_of(
        tmp_path / "recipe.yaml",
        discs,
        [
            {"steps": 5, "batch": 2, "crop": 64, "scale": [0.5, 1.0]},
            {"steps": 5, "batch": 1, "crop": 96, "scale": [1.0, 1.0]},
        ],
        augment={"rotate": "any", "gray": 0.2, "blur": 0.2},
        optimizer={"lr": 1e-3, "warmup_steps": 2, "ema_decay": 0.9, "clip_norm": 1.0},
        val_every=3,
        log_every=1,
        precision="auto",
    )
    recipe = load_recipe(path)
    killed = run_apart(path, tmp_path / "whole", tmp_path / "cut")
    assert killed.returncode == -9, killed.stderr.decode()
    chosen = load_recipe(tmp_path / "whole" / "recipe.yaml").precision
    assert chosen == resolve_precision(recipe, torch.device("cpu")).precision != "auto"
    with pytest.raises(OutputError, match="--resume"):
        fit(recipe, tmp_path / "cut", device="cpu")
    with pytest.raises(OutputError, match="seed in the recipe is not that of the run"):
        fit(load_recipe(path, seed=5), tmp_path / "cut", resume=True, device="cpu")
    resumed_run = run_apart(path, None, tmp_path / "cut")
    assert resumed_run.returncode == 0, resumed_run.stderr.decode()
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert sorted(whole) == sorted(resumed) == list(range(10))
    assert resumed == whole
    one, two = (tmp_path / run / "last.safetensors" for run in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("device", "native", "wanted"),
    [
        ("cpu", True, "bf16-mixed"),
        ("cpu", False, "32-true"),
        ("cuda", True, "bf16-mixed"),
        ("cuda", False, "32-true"),
        ("mps", True, "32-true"),
    ],
)
def test_auto_precision_is_what_the_device_computes_in(recipe, monkeypatch, device, native, wanted):
    monkeypatch.setattr(devices, "cpu_computes_bfloat16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert (
        resolve_precision(replace(recipe, precision="auto"), torch.device(device)).precision
        == wanted
    )
    for precision in ("32-true", "bf16-mixed", "16-mixed"):
        chosen = replace(recipe, precision=precision)
        assert resolve_precision(chosen, torch.device(device)) is chosen


def test_a_run_that_cannot_be_is_refused_before_it_starts(discs, tmp_path):
    stages = [{"steps": 9, "batch": 2, "crop": 64, "scale": [1, 1]}]
    path = recipe_of(tmp_path / "r.yaml", discs, stages)
    with pytest.raises(OutputError, match="nothing to resume"):
        fit(load_recipe(path), tmp_path / "run", resume=True)
    with pytest.raises(OptionError, match="16-mixed"):
        fit(load_recipe(path, precision="16-mixed"), tmp_path / "run", device="cpu")
    with pytest.raises(OptionError, match="--device gpu9"):
        fit(load_recipe(path), tmp_path / "run", device="gpu9")
    with pytest.raises(DataError, match="names 'gone'"):
        fit(load_recipe(path, **{"data.groups": {"gone": {}}}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "best.safetensors").exists()


# -- pretrained weights ------------------------------------------------------------------------


@pytest.fixture
def recipe(discs, tmp_path):
    stages = [{"steps": 9, "batch": 2, "crop": 64, "scale": [1, 1]}]
    return load_recipe(recipe_of(tmp_path / "r.yaml", discs, stages))


def same_parts(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    """First two parts of the names of tensors that are equal."""
    equal = {
        n for n in one if n in two and torch.equal(one[n], two[n]) and one[n].float().std() > 0
    }
    return {".".join(name.split(".")[:2]) for name in equal}


def test_a_checkpoint_of_other_classes_keeps_the_rows_of_those_it_shares(recipe, tmp_path):
    model = SegNeXt("T", 16, head_bias=True)
    model.decode_head.hamburger.ham = NMF(256, 8)
    torch.nn.init.normal_(model.decode_head.conv_seg.bias)
    metadata = Metadata(
        "T", ISAID, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), head_bias=True, nmf_rank=8, scale=1.5
    )
    path = tmp_path / "isaid.safetensors"
    save_checkpoint(path, model, metadata, dtype=torch.float32)
    start, sentence = initial_model(recipe, OWN, str(path))
    assert "kept: background; random: red, blue, yellow" in sentence
    equal = same_parts(model.state_dict(), start.state_dict())
    assert {"backbone.block4", "decode_head.squeeze", "decode_head.align"} <= equal
    assert "decode_head.conv_seg" not in equal
    one, two = model.decode_head.conv_seg, start.decode_head.conv_seg
    for old, new in ((one.weight, two.weight), (one.bias, two.bias)):
        assert torch.equal(old[0], new[0])
        assert not torch.equal(old[1:4], new[1:])
    known = start.metadata
    assert (known.mean, known.std, known.scale) == ((1, 2, 3), (4, 5, 6), 1.5)
    assert (known.classes, known.nmf_rank, known.head_bias) == (OWN, 8, True)
    # What the run saves can be loaded.
    save_checkpoint(tmp_path / "own.safetensors", start, known)
    assert load_model(tmp_path / "own.safetensors").metadata == known
    same, sentence = initial_model(recipe, ISAID, str(path))
    assert sentence.startswith("all of")
    assert torch.equal(same.decode_head.conv_seg.weight, model.decode_head.conv_seg.weight)


@pytest.mark.parametrize("spelling", ["original", "mmsegmentation", "imagenet"])
def test_a_backbone_is_taken_from_public_files(recipe, tmp_path, spelling):
    model = SegNeXt("T", 150)
    state = model.state_dict()
    if spelling == "mmsegmentation":
        state = {k.replace(".mlp.dwconv.dwconv.", ".mlp.dwconv."): v for k, v in state.items()}
    if spelling == "imagenet":
        state = {f"{k}": v for k, v in model.backbone.state_dict().items()}
        state["head.weight"] = torch.zeros(1000, 256)
    path = tmp_path / "mscan_t.pth"
    torch.save({"state_dict": state}, path)
    start, sentence = initial_model(recipe, OWN, str(path))
    assert "head is random" in sentence
    loaded, expected = start.backbone.state_dict(), model.backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_a_backbone_is_taken_from_jittor_files(recipe, parity):
    start, _ = initial_model(recipe, OWN, str(parity / "jseg_segnext_t_isaid.pkl"))
    expected, _ = initial_model(recipe, OWN, str(parity / "segnext_t_official.pth"))
    assert all(
        torch.equal(value, expected.backbone.state_dict()[name])
        for name, value in start.backbone.state_dict().items()
    )


def test_weights_of_another_variant_are_refused(recipe, tmp_path):
    backbone = SegNeXt("S", 4).backbone
    torch.save(backbone.state_dict(), tmp_path / "mscan_s.pth")
    with pytest.raises(CheckpointError, match=r"model\.variant is T"):
        initial_model(recipe, OWN, str(tmp_path / "mscan_s.pth"))


# -- from the published data set to polygons ---------------------------------------------------


def test_isaid_to_polygons(tmp_path):
    """prepare, train, evaluate and predict, as commands, on rendered images in iSAID's layout."""
    source, palette = tmp_path / "iSAID", np.array(list(ISAID_MASK_COLORS.values()), np.uint8)
    for split, name, seed in (("train", "P0003", 1), ("train", "P0010", 2), ("val", "P0007", 3)):
        scene = render_scene(200, 300, gsd=0.4, seed=seed)
        ids = scene.class_ids.copy()
        ids[:45, :80].reshape(3, 15, 80)[:] = np.repeat(np.arange(16), 5)  # all of the classes
        image = scene.image.copy()
        image[:45, :80] = palette[ids[:45, :80]]
        masks = source / split / "Semantic_masks" / "images"
        (source / split / "images").mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(source / split / "images" / f"{name}.png")
        Image.fromarray(palette[ids]).save(masks / f"{name}_instance_color_RGB.png")
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5.4e6, 0.4, 0.4)}
    profile = {"driver": "GTiff", "width": 300, "height": 200, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "town.tif", "w", **profile, **place) as file:
        file.write(image.transpose(2, 0, 1))

    def run(*arguments: str | Path) -> str:
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    data, runs = tmp_path / "data", tmp_path / "run"
    text = run("prepare", "isaid", source, data, "--patch", "128", "--overlap", "32")
    assert "without a pixel" not in text
    recipe = recipe_of(
        tmp_path / "r.yaml",
        tmp_path / "nowhere",
        [{"steps": 6, "batch": 2, "crop": 64, "scale": [0.5, 1.0]}],
        precision="bf16-mixed",
    )
    text = run("train", recipe, "--data", data, "-o", runs, "--device", "cpu", "--seed", "3")
    weights = runs / "best.safetensors"
    assert text.splitlines()[-1] == f"best checkpoint: {weights}"
    assert read_metadata(weights).classes == ISAID
    scores = json.loads(run("evaluate", weights, data, "--device", "cpu", "--json"))
    assert sum(c["pixels"] > 0 for c in scores["classes"].values()) == 16
    assert scores["miou"] == read_metadata(weights).metrics["val_miou"]
    scene = tmp_path / "town.tif"
    run("predict", scene, "-o", tmp_path, "--weights", weights, "--device", "cpu")
    assert (tmp_path / "town.gpkg").is_file()
    with rasterio.open(tmp_path / "town.classes.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.read(1).shape == (200, 300)
        assert file.tags(1)["CLASS_14"] == "plane"
