"""Public weights: every spelling arrives whole, and a hostile file does nothing."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_formats import (
    SPELLINGS,
    arrays,
    importable,
    sealed,
    write_jittor,
    write_legacy,
    write_original,
)
from small_networks import narrow
from torch import Tensor

from geoseg import ISAID, LabelClass
from geoseg.classes import read_class_list
from geoseg.errors import CheckpointError, DataError
from geoseg.model.checkpoint import Metadata, save_checkpoint
from geoseg.model.convert import import_checkpoint, load_backbone_state
from geoseg.model.load import load_model
from geoseg.model.mscan import MSCAN
from geoseg.model.segnext import SegNeXt

State = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow(monkeypatch)
        yield


def network(variant: str, classes: int = 16, *, head_bias: bool = False) -> SegNeXt:
    """Random weights in which no two parameters are alike, so that none can be mixed up."""
    torch.manual_seed(7)
    model = SegNeXt(variant, classes, head_bias=head_bias)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.ndim == 1:
                low = 0.5 if name.endswith(("running_var", "norm.weight")) else -0.1
                value.uniform_(low, low + (0.2 if "layer_scale" in name else 1.0))
    return model.eval()


@pytest.fixture(scope="module")
def tiny() -> State:
    return network("T").state_dict()


def logits(model: torch.nn.Module) -> Tensor:
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        result = model(x)
    assert result.isfinite().all()
    assert result.std() > 1e-3
    return result


@pytest.mark.parametrize(
    ("variant", "spelling"),
    [("S", "original.pth"), ("S", "mmseg.pth"), ("S", "jittor.pkl"), ("B", "jittor.pkl")],
)
def test_larger_variants_in_every_spelling(variant: str, spelling: str, tmp_path: Path) -> None:
    model = network(variant)
    SPELLINGS[spelling](tmp_path / spelling, model.state_dict())
    out = tmp_path / "out.safetensors"
    metadata = import_checkpoint(tmp_path / spelling, out, ISAID)
    assert (metadata.variant, metadata.nmf_rank) == (variant, model.variant.rank)
    assert torch.equal(logits(load_model(out)), logits(model))


@pytest.mark.parametrize("spelling", ["jittor.pkl", "jittor_variables.pkl", "original.pth"])
def test_older_heads_have_biases(spelling: str, tmp_path: Path) -> None:
    model = network("T", head_bias=True)
    SPELLINGS[spelling](tmp_path / spelling, model.state_dict())
    out = tmp_path / "out.safetensors"
    assert import_checkpoint(tmp_path / spelling, out, ISAID).head_bias
    assert torch.equal(logits(load_model(out)), logits(model))


def test_one_bias_of_three_is_not_a_head(tmp_path: Path) -> None:
    state = network("T", head_bias=True).state_dict()
    del state["decode_head.align.conv.bias"]
    write_jittor(tmp_path / "in.pkl", state)
    with pytest.raises(CheckpointError, match=r"needs 'decode_head\.align\.conv\.bias'"):
        import_checkpoint(tmp_path / "in.pkl", tmp_path / "out", ISAID)


def test_what_metadata_says(tiny: State, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for name, write in (("jseg.pkl", write_jittor), ("official.pth", write_original)):
        write(tmp_path / name, tiny)
        metadata = import_checkpoint(tmp_path / name, out, ISAID)
        assert metadata == load_model(out).metadata
        assert metadata.scale == (1.12 if name == "jseg.pkl" else 1.0)
        assert metadata.mean == (123.675, 116.28, 103.53)
        assert metadata.std == (58.395, 57.12, 57.375)
        assert name in metadata.provenance
        assert "sha256" in metadata.provenance
    chosen = import_checkpoint(
        tmp_path / name, out, ISAID, scale=2.0, nmf_rank=4, gsd_range=(0.1, 1.0), license="CC0"
    )
    assert (chosen.scale, chosen.nmf_rank, chosen.gsd_range) == (2.0, 4, (0.1, 1.0))
    assert chosen.license == "CC0"


@pytest.mark.parametrize("config", ["ham_kwargs=dict(MD_R=8)", "'ham_kwargs': {'MD_R': 8}"])
def test_rank_in_a_text_configuration(tiny: State, tmp_path: Path, config: str) -> None:
    torch.save({"meta": {"cfg": config}, "state_dict": tiny}, tmp_path / "in.pth")
    assert import_checkpoint(tmp_path / "in.pth", tmp_path / "out", ISAID).nmf_rank == 8


def test_rank_in_a_dictionary(tiny: State, tmp_path: Path) -> None:
    config = {"model": {"decode_head": {"ham_kwargs": {"MD_R": 8}}}}
    content = sealed({"meta": {"config": config}, "model": arrays(tiny)})
    (tmp_path / "in.pkl").write_bytes(content)
    assert import_checkpoint(tmp_path / "in.pkl", tmp_path / "out", ISAID).nmf_rank == 8


def test_other_precisions_and_layouts(tiny: State, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in tiny.items()}
    write_original(tmp_path / "half.pth", half)
    import_checkpoint(tmp_path / "half.pth", out, ISAID)
    key = "backbone.block1.0.attn.proj_1.weight"
    assert torch.equal(load_model(out).state_dict()[key], half[key].float())

    odd = {k: np.asfortranarray(v.astype(">f8")) for k, v in arrays(tiny).items()}
    (tmp_path / "odd.pkl").write_bytes(sealed(odd))
    import_checkpoint(tmp_path / "odd.pkl", out, ISAID)
    assert torch.equal(load_model(out).state_dict()[key], tiny[key])


# Classes ------------------------------------------------------------------------------------


def test_number_of_classes_is_checked(tiny: State, tmp_path: Path) -> None:
    write_original(tmp_path / "in.pth", tiny)
    with pytest.raises(CheckpointError, match=r"has 16 classes, but --classes names 3"):
        import_checkpoint(tmp_path / "in.pth", tmp_path / "out", ISAID[:3])
    assert not (tmp_path / "out").exists()


def test_stored_classes(tmp_path: Path) -> None:
    state = network("T", 2).state_dict()
    for meta in (
        {"CLASSES": ("road", "roof"), "PALETTE": [[1, 2, 3], [4, 5, 6]]},
        {"dataset_meta": {"classes": ["road", "roof"], "palette": [(1, 2, 3), (4, 5, 6)]}},
    ):
        torch.save({"meta": meta, "state_dict": state}, tmp_path / "in.pth")
        metadata = import_checkpoint(tmp_path / "in.pth", tmp_path / "out", None)
        assert metadata.classes == (
            LabelClass(0, "road", (1, 2, 3)),
            LabelClass(1, "roof", (4, 5, 6)),
        )
    write_legacy(tmp_path / "in.pth", state)
    with pytest.raises(CheckpointError, match="no class names and colors are stored"):
        import_checkpoint(tmp_path / "in.pth", tmp_path / "out", None)


def test_class_files(tmp_path: Path) -> None:
    expected = (LabelClass(0, "road", (255, 0, 16)), LabelClass(1, "roof, red", (0, 0, 0)))
    table = tmp_path / "classes.csv"
    table.write_text('id,name,color\n0,road,#ff0010\n1,"roof, red",#000000\n')
    assert read_class_list(table) == expected
    rows = [
        {"id": 0, "name": "road", "color": [255, 0, 16]},
        {"id": 1, "name": "roof, red", "color": "#000000"},
    ]
    listing = tmp_path / "classes.json"
    listing.write_text(json.dumps(rows))
    assert read_class_list(listing) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.csv", None),
        ("empty.csv", ""),
        ("columns.csv", "id,label\n0,road\n"),
        ("color.csv", "id,name,color\n0,road,red\n"),
        ("ids.csv", "id,name,color\n7,road,#000000\n"),
        ("long.csv", "id,name,color\n0,road,#000000,more\n"),
        ("bad.json", "{"),
        ("object.json", "{}"),
        ("deep.json", "[" * 100000),
    ],
)
def test_bad_class_files(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_class_list(tmp_path / name)


# Wrong files --------------------------------------------------------------------------------


def refused(path: Path, match: str) -> None:
    out = path.with_name("never.safetensors")
    with pytest.raises(CheckpointError, match=match) as caught:
        import_checkpoint(path, out, ISAID)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_missing_and_unknown_keys_are_named(tiny: State, tmp_path: Path) -> None:
    path = tmp_path / "in.pth"
    key = "decode_head.conv_seg.bias"
    for change, said in (
        ({key: None}, f"needs '{key}', missing here"),
        ({"extra": torch.zeros(1)}, "has no 'extra'"),
        ({key: torch.zeros(3)}, r"of shape \(16,\), found \(3,\)"),
        ({"backbone.norm1.weight": torch.zeros(5)}, "of no SegNeXt variant"),
        ({"backbone.norm1.weight": None}, "backbone.norm1.weight is missing"),
        ({key: torch.full((16,), torch.nan)}, f"NaN or infinite weights in '{key}'"),
        ({key: torch.full((16,), 1e300, dtype=torch.float64)}, "NaN or infinite"),
        ({key: torch.zeros(16, dtype=torch.complex64)}, "not an array of real numbers"),
        ({key: torch.zeros(16).to_sparse()}, "not an array of real numbers"),
        ({key: "text"}, "not an array of real numbers"),
    ):
        write_original(path, {k: v for k, v in {**tiny, **change}.items() if v is not None})
        refused(path, said)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"{}", b"\x80\x04N.", pickle.dumps([1]), pickle.dumps({1: 2})]
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.pth"
    path.write_bytes(content)
    refused(path, "weights|pickle|archive|SegNeXt")


def test_archives_of_a_later_version(tmp_path: Path) -> None:
    path = tmp_path / "in.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99  # the version that is needed to extract it
    path.write_bytes(content)
    refused(path, "zip file version 9.9")


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "cannot read")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_truncated_files(tiny: State, tmp_path: Path, spelling: str) -> None:
    path = tmp_path / spelling
    SPELLINGS[spelling](path, tiny)
    content = path.read_bytes()
    for keep in (len(content) - 1, len(content) - 29, len(content) // 2, 1000, 20):
        path.write_bytes(content[:keep])
        refused(path, "damaged|complete|no file of tensors|weights")


def test_damaged_pickles_fail_their_checksum(tiny: State, tmp_path: Path) -> None:
    path = tmp_path / "in.pkl"
    write_jittor(path, tiny)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "checksum does not match")


# Hostile files ------------------------------------------------------------------------------


class Attack:
    """Pickles to a call of os.system that leaves a file behind."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.evidence}",)


def test_calls_are_refused_by_name_and_not_made(tiny: State, tmp_path: Path) -> None:
    attack = Attack(tmp_path / "evidence")
    hostile = {"state_dict": arrays(tiny), "meta": attack}
    pickled, torched = tmp_path / "in.pkl", tmp_path / "in.pth"
    for protocol in (0, 2, 4, 5):
        pickled.write_bytes(pickle.dumps(attack, protocol))
        refused(pickled, r"asks for 'posix\.system'|asks for 'nt\.system'")
    pickled.write_bytes(sealed(hostile))
    refused(pickled, r"asks for 'posix\.system'|asks for 'nt\.system'")
    for zipped in (True, False):
        torch.save(
            {"state_dict": tiny, "meta": attack}, torched, _use_new_zipfile_serialization=zipped
        )
        refused(torched, r"asks for '(posix|nt)\.system'.*nothing was run")
    assert not attack.evidence.exists()
    os.system(f"touch {attack.evidence}")
    assert attack.evidence.exists()  # the attack would have been seen


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"(V1\niposix\nsystem\n.", "posix.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", "builtins.exec"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
        (b"cjittor\nload\n.", "jittor.load"),
        (b"cnumpy\nndarray.__class__\n.", "numpy.ndarray.__class__"),
        (b"cnumpy.ndarray\n\n.", "numpy.ndarray."),
        (pickle.dumps(OrderedDict(), 4), "collections.OrderedDict"),
    ],
)
def test_other_globals_are_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "in.pkl"
    path.write_bytes(content)
    refused(path, f"asks for '{named}'")


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
FLOAT32 = b"cnumpy\ndtype\n(Vf4\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\ndtype\n}(V__call__\nNub.",  # BUILD on a class
        b"cnumpy\nndarray\n(I1000000000000\ntR.",  # a huge empty array
        b"cnumpy\ndtype\n(VO8\ntR.",  # objects
        b"cnumpy\ndtype\n(]tR.",
        b"cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"cjittor\nVar\n(cnumpy\nndarray\ntR.",
        ARRAY + b"(I1\n(I1000000000000\nt" + FLOAT32 + b"I00\nC\x04abcdtb.",
        ARRAY + b"(I1\n(I-1\nt" + FLOAT32 + b"I00\nC\x04abcdtb.",
        ARRAY + b"(I1\n(I0\nL" + b"9" * 4000 + b"L\nt" + FLOAT32 + b"I00\nC\x00tb.",
        ARRAY + b"(I1\n(I1\nt" + FLOAT32 + b"I00\n]tb.",
        ARRAY + b"}b.",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00.",  # 72 petabytes
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x00.",
        b"\x80\x02Nr\xff\xff\xff\xff0.",  # memo of 4 billion entries, then an unknown instruction
        b"\x80\x02}N\x85" + b"\x86".join([b"2"] * 40) + b"\x86Ns.",  # hash of a nested tuple
        b"\x82\x01.",  # extension registry
        b"Pid\n.",  # persistent id
        b"\x80\x04]]]a",
    ],
)
def test_tricks_end_in_clean_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.pkl"
    path.write_bytes(content)
    refused(path, r"pickle|array|dtype")


def test_arrays_by_hand_are_read(tmp_path: Path) -> None:
    """The pieces that the tricks above are made of are right, so it is the tricks that fail."""
    path = tmp_path / "in.pkl"
    path.write_bytes(b"}Vx\n" + ARRAY + b"(I1\n(I1\nt" + FLOAT32 + b"I00\nC\x04abcdtbs.")
    refused(path, "no SegNeXt: backbone.norm1.weight is missing")


def test_arrays_of_objects(tiny: State, tmp_path: Path) -> None:
    path = tmp_path / "in.pkl"
    for value in (
        np.array([None, Attack(tmp_path / "e")]),
        np.zeros(2, "m8[s]"),
        np.zeros(2, "U1"),
    ):
        path.write_bytes(sealed(arrays(tiny) | {"decode_head.conv_seg.bias": value}))
        refused(path, r"dtype|asks for")


def test_one_array_under_many_keys_takes_no_memory(tmp_path: Path) -> None:
    shared = np.zeros(1 << 20, np.float32)
    content = {f"key{i}": shared for i in range(100_000)}  # 400 GB if they were copied
    (tmp_path / "in.pkl").write_bytes(sealed(content))
    refused(tmp_path / "in.pkl", "no SegNeXt")


def test_compressed_archives_are_refused(tiny: State, tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.pth", tmp_path / "bomb.pth"
    write_original(plain, tiny)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name), zipfile.ZIP_DEFLATED)
    refused(bomb, "compressed archive")


def test_torch_tensors_that_claim_too_much(tmp_path: Path) -> None:
    state = {"backbone.norm1.weight": torch.zeros(1).expand(10**12)}  # 4 TB of one number
    torch.save({"state_dict": state}, tmp_path / "in.pth")
    refused(tmp_path / "in.pth", "no SegNeXt")
    meta = {"backbone.norm1.weight": torch.zeros(10**12, device="meta")}
    torch.save({"state_dict": meta}, tmp_path / "in.pth")
    refused(tmp_path / "in.pth", "not an array of real numbers")


def test_unknown_objects_in_a_pth_come_with_advice(tiny: State, tmp_path: Path) -> None:
    class Config:
        pass

    with importable("mmengine.config.config", Config):
        torch.save({"state_dict": tiny, "meta": Config()}, tmp_path / "in.pth")
    refused(tmp_path / "in.pth", r"'mmengine\.config\.config\.Config'.*torch\.save\(torch\.load")


# Backbones ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_imagenet_backbones(tmp_path: Path, prefix: str, suffix: str) -> None:
    backbone = network("S").backbone.state_dict()
    state = {prefix + key: value for key, value in backbone.items()}
    if not prefix:
        state |= {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    path = tmp_path / f"mscan_s{suffix}"
    (write_original if suffix == ".pth" else write_jittor)(path, state)
    refused(path, r"backbone without a segmentation head.*geoseg train --pretrained mscan_s")

    model = MSCAN(SegNeXt("S").variant)
    missing = model.load_state_dict(load_backbone_state(path)).missing_keys
    assert not missing
    for key, value in model.state_dict().items():
        assert torch.equal(value, backbone[key]) or key.endswith("num_batches_tracked")


def test_backbone_of_whole_checkpoints(tiny: State, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "t.safetensors", tiny, Metadata("T", ISAID), dtype=torch.float32)
    write_jittor(tmp_path / "t.pkl", tiny)
    for name in ("t.safetensors", "t.pkl"):
        state = load_backbone_state(tmp_path / name)
        assert torch.equal(state["norm4.bias"], tiny["backbone.norm4.bias"])
        assert not any(key.startswith("decode_head") for key in state)


def test_incomplete_backbone(tiny: State, tmp_path: Path) -> None:
    key = "backbone.block3.2.mlp.fc1.bias"
    write_jittor(tmp_path / "t.pkl", {k: v for k, v in tiny.items() if k != key})
    with pytest.raises(CheckpointError, match=r"needs 'block3\.2\.mlp\.fc1\.bias'"):
        load_backbone_state(tmp_path / "t.pkl")
