"""Starts of runs: what is refused, precision, and the weights that they start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_sets import OWN, recipe_of, write_disc_set

from geoseg.classes import ISAID
from geoseg.errors import CheckpointError, DataError, OptionError, OutputError
from geoseg.model import devices
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import NMF, SegNeXt
from geoseg.train.fit import fit
from geoseg.train.initialization import initial_model
from geoseg.train.recipe import load_recipe
from geoseg.train.trainer import resolve_precision


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    return write_disc_set(tmp_path_factory.mktemp("discs"))


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
    path = recipe_of(discs, tmp_path / "r.yaml")
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
    return load_recipe(recipe_of(discs, tmp_path / "r.yaml"))


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
