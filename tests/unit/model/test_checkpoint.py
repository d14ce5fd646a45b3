"""geoseg's own checkpoints: what is saved is loaded, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import geoseg
from geoseg import ISAID, LabelClass
from geoseg.errors import CheckpointError, OutputError
from geoseg.model.checkpoint import read_metadata, save_checkpoint
from geoseg.model.load import load_model, locate_weights
from geoseg.model.metadata import Metadata, file_hash
from geoseg.model.segnext import SegNeXt
from geoseg.model.variants import BUILT_IN, DEFAULT_WEIGHTS

TINY = Metadata(
    "T",
    ISAID,
    mean=(101.5, 99.0, 88.25),
    std=(50.0, 49.5, 48.0),
    gsd_range=(0.1, 0.6),
    scale=1.12,
    nmf_rank=8,
    provenance="made in a test\nfrom nothing",
    license="CC0-1.0",
    metrics={"val mIoU": 0.5},
    min_confidence={"ship": 0.5},
)


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    """A SegNeXt-T whose BatchNorm statistics are not the trivial ones."""
    torch.manual_seed(1)
    model = SegNeXt("T")
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def saved(model: SegNeXt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, model, TINY)
    return path


def test_metadata_survives(saved: Path) -> None:
    assert read_metadata(saved) == TINY
    assert load_model(saved).metadata == TINY


def test_the_old_spelling_of_license_is_read_and_the_new_one_written() -> None:
    header = TINY.to_header()
    assert "licence" not in header["geoseg"]
    old = {"geoseg": header["geoseg"].replace('"license"', '"licence"')}
    assert Metadata.from_header(old) == TINY
    both = {"geoseg": header["geoseg"].replace("{", '{"licence": "CC0-1.0", ', 1)}
    with pytest.raises(CheckpointError, match="'licence' is unknown"):
        Metadata.from_header(both)


def test_float32_survives_exactly(model: SegNeXt, tmp_path: Path) -> None:
    path = tmp_path / "exact.safetensors"
    save_checkpoint(path, model, replace(TINY, nmf_rank=16), dtype=torch.float32)
    loaded = load_model(path)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))


def test_float16_is_small_and_close(model: SegNeXt, saved: Path) -> None:
    assert saved.stat().st_size < 10e6
    stored = load_file(saved)
    assert all(
        t.dtype == (torch.float16 if t.ndim == 4 else torch.float32) for t in stored.values()
    )
    key = "backbone.patch_embed1.proj.1.running_var"
    assert torch.equal(stored[key], model.state_dict()[key])
    loaded = load_model(str(saved))
    assert not loaded.training
    for name, parameter in loaded.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert parameter.dtype == torch.float32
            torch.testing.assert_close(parameter, model.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_rank_comes_from_metadata(saved: Path) -> None:
    assert load_model(saved).decode_head.hamburger.ham.bases.shape == (1, 256, 8)
    assert Metadata("B", ISAID).nmf_rank == 64


def test_geoseg_load_model_is_the_same_function() -> None:
    assert geoseg.load_model is load_model


def test_hash_is_of_the_content(saved: Path, model: SegNeXt, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, model, TINY)
    assert file_hash(again) == file_hash(saved)
    save_checkpoint(again, model, replace(TINY, license=""))
    assert file_hash(again) != file_hash(saved)


@pytest.mark.parametrize(("name", "variant"), BUILT_IN.items())
def test_built_in_weights_describe_themselves(name: str, variant: str) -> None:
    assert locate_weights(name).stat().st_size < 11e6
    metadata = load_model(name).metadata
    assert metadata.variant == variant
    assert metadata.classes == ISAID
    assert metadata.provenance
    assert metadata.license


def test_package_without_default_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.model.load.files", lambda package: Path("nowhere"))
    with pytest.raises(CheckpointError, match="--weights"):
        load_model()


def test_default_is_a_name() -> None:
    assert locate_weights("default") == locate_weights() == locate_weights(DEFAULT_WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("segnext_x", "no name of public weights"),
        (Path("none.safetensors"), "no name"),
        (Path(), "folder"),
    ],
)
def test_unknown_weights(weights: str | Path, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_model(weights)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_foreign_files_name_the_import_command(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"whatever")
    with pytest.raises(CheckpointError, match=r"geoseg weights import .*weights\.safetensors"):
        load_model(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("variant", "XL"),
        ("variant", None),
        ("classes", []),
        ("classes", [{"id": 1, "name": "plane", "color": [0, 0, 0]}]),
        ("classes", [{"id": 0, "name": "plane\n", "color": [0, 0, 0]}]),
        ("classes", [{"id": 0, "name": "plane", "color": [0, 0, 256]}]),
        ("classes", [{"id": 0, "name": "plane"}]),
        ("classes", "isaid"),
        ("mean", [1.0, 2.0]),
        ("mean", [1.0, 2.0, "3"]),
        ("std", [1.0, 1.0, 0.0]),
        ("head_bias", 1),
        ("nmf_rank", 10**9),
        ("nmf_rank", -1),
        ("nmf_rank", True),
        ("gsd_range", [0.5, 0.1]),
        ("gsd_range", 0.5),
        ("scale", 0),
        ("scale", 10**400),
        ("provenance", "\x1b[2J"),
        ("license", None),
        ("metrics", {"mIoU": None}),
        ("min_confidence", {"ship": 2}),
        ("min_confidence", {"no such class": 0.5}),
        ("format", 99),
    ],
)
def test_bad_metadata_is_named(model: SegNeXt, tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "bad.safetensors"
    header = {"geoseg": json.dumps({"format": 1, **asdict(TINY), field: value})}
    save_file({"x": torch.zeros(1)}, path, header)
    with pytest.raises(CheckpointError, match=field) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("value", ["", "[]", "{", "[" * 10000, "null", '{"format": 1}', "1e999"])
def test_headers_that_are_no_metadata(tmp_path: Path, value: str) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"geoseg": value})
    with pytest.raises(CheckpointError, match=r"metadata|format"):
        load_model(path)


def test_two_classes_of_one_name() -> None:
    twins = (LabelClass(0, "Plane", (0, 0, 0)), LabelClass(1, "plane", (1, 1, 1)))
    with pytest.raises(CheckpointError, match="classes"):
        Metadata("T", twins)


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no geoseg metadata"):
        load_model(path)


def test_missing_unknown_and_misshapen_keys_are_named(model: SegNeXt, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    key = "decode_head.conv_seg.bias"
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("tracked")}
    for changes, said in (
        ({key: None}, f"needs '{key}', missing"),
        ({"extra.weight": torch.zeros(1)}, "has no 'extra.weight'"),
        ({key: torch.zeros(15)}, rf"{key} of shape \(16,\), found \(15,\)"),
        ({key: torch.full((16,), torch.nan)}, f"NaN or infinite weights in '{key}'"),
    ):
        bad = {k: v for k, v in {**state, **changes}.items() if v is not None}
        with pytest.raises(CheckpointError, match=said):
            save_checkpoint(path, bad, TINY)
        assert not list(tmp_path.iterdir())  # nothing was written
        save_file(bad, path, TINY.to_header())
        with pytest.raises(CheckpointError, match=said):
            load_model(path)
        path.unlink()


def test_truncated_file(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    content = saved.read_bytes()
    for size in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            load_model(path)


def test_failed_write_leaves_the_old_file(model: SegNeXt, tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    target.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OutputError, match="cannot write"):
        save_checkpoint(target, model, TINY)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    with pytest.raises(OutputError, match="cannot write"):
        save_checkpoint(tmp_path / "no" / "folder.safetensors", model, TINY)
