"""Whole runs: they learn, they resume, and lead to polygons."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from rasterio.transform import from_origin
from training_sets import OWN, SMALL, write_disc_set

from geoseg.classes import ISAID, ISAID_MASK_COLORS
from geoseg.cli.main import main
from geoseg.errors import OutputError
from geoseg.model.checkpoint import read_metadata
from geoseg.model.variants import VARIANTS
from geoseg.synthetic import render_scene
from geoseg.train.fit import fit
from geoseg.train.recipe import load_recipe
from geoseg.train.trainer import resolve_precision


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """SegNeXt-T has few channels and blocks: what holds for a run holds for every size."""
    monkeypatch.setitem(VARIANTS, "T", SMALL)


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    return write_disc_set(tmp_path_factory.mktemp("discs"))


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
        [{"steps": 70, "batch": 4, "crop": 96, "scale": [1, 1]}],
        augment={"flip": False, "photometric": 0},
        loss={"stride": 2},
        optimizer={"lr": 3e-3, "head_lr_factor": 1, "warmup_steps": 5, "clip_norm": 1.0},
        val_every=40,
    )
    lines = []
    best = fit(load_recipe(path), tmp_path / "run", device="cpu", report=lines.append)
    metadata = read_metadata(best)
    assert metadata.metrics["val_miou"] > 0.8
    assert metadata.classes == OWN
    # Steps 40 and, though no multiple of it, 70 were validated.
    assert [line.partition(":")[0] for line in lines if "mIoU" in line] == ["step 40", "step 70"]
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
    fixtures = Path(__file__).parents[1] / "fixtures"
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
