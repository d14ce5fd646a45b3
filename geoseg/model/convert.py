"""Convert public SegNeXt weights to geoseg checkpoints.

Three formats exist: the ``.pth`` of the official PyTorch code (mmsegmentation 0.x), that of
mmsegmentation 1.x (one level less in the name of the MLP's depthwise convolution), and the ``.pkl``
of the Jittor code. None of the files can run code here: see `pickles`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoseg.classes import ISAID, LabelClass
from geoseg.errors import CheckpointError
from geoseg.model.checkpoint import check_fit, read_checkpoint, save_checkpoint
from geoseg.model.metadata import Metadata, classes_from_json, file_hash
from geoseg.model.mscan import MSCAN
from geoseg.model.pickles import PickledArray, is_torch_file, read_jittor, read_torch
from geoseg.model.segnext import SegNeXt
from geoseg.model.variants import VARIANTS, Variant

WRAPPERS = ("module.", "model.", "_orig_mod.")
"""Prefixes that data-parallel training, trainers and compilers put before every key."""

JITTOR_ISAID_SCALE = 896 / 800
"""The Jittor code evaluates iSAID on patches of 800 px enlarged to 896."""

State = dict[str, Tensor | np.ndarray]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Content of a file of another program, under the official parameter names."""

    state: State
    """Floating-point arrays by parameter name, not yet checked against a network."""
    format: str
    """`original`, `mmsegmentation` or `jittor`."""
    meta: dict[str, Any]
    """The file's own description; untrusted."""


def import_checkpoint(
    source: Path,
    target: Path,
    classes: tuple[LabelClass, ...] | None,
    *,
    scale: float | None = None,
    nmf_rank: int | None = None,
    gsd_range: tuple[float, float] | None = None,
    provenance: str = "",
    license: str = "not stated in the imported file",
    metrics: Mapping[str, float] | None = None,
) -> Metadata:
    """Convert public weights to a geoseg checkpoint (float32) and return its metadata.

    Nothing in the file is executed.

    Args:
        classes: None = the names and colors stored in the file.
        scale: None = 1.12 for the Jittor code's iSAID weights, else 1.
        nmf_rank: None = the rank in the file's configuration, or else the paper's.

    Raises:
        CheckpointError: the file is damaged, hostile, of another network or of another number
            of classes.
    """
    foreign = read_foreign(source)
    try:
        variant = variant_of(foreign.state)
        if not any(key.startswith("decode_head.") for key in foreign.state):
            raise CheckpointError(
                "a backbone without a segmentation head; it can start a training: "
                f"geoseg train --pretrained {source.name}"
            )
        if classes is None:
            classes = stored_classes(foreign.meta)
        found = length_of(foreign.state, "decode_head.conv_seg.weight")
        if found != len(classes):
            raise CheckpointError(f"it has {found} classes, but --classes names {len(classes)}")
        head_bias = "decode_head.squeeze.conv.bias" in foreign.state
        if scale is None:
            scale = JITTOR_ISAID_SCALE if (foreign.format, classes) == ("jittor", ISAID) else 1.0
        origin = f"imported from {source.name} ({foreign.format}), "
        metadata = Metadata(
            variant.name,
            classes,
            head_bias=head_bias,
            nmf_rank=nmf_rank or stored_rank(foreign.meta) or variant.rank,
            gsd_range=gsd_range,
            scale=scale,
            provenance=f"{provenance}\n{origin}sha256 {file_hash(source)}".strip(),
            license=license,
            metrics=metrics or {},
        )
        network = SegNeXt(variant.name, len(classes), head_bias=head_bias)
        state = fit_state(foreign.state, network, f"SegNeXt-{variant.name}")
        save_checkpoint(target, state, metadata, dtype=torch.float32)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    return metadata


def load_backbone_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of an `MSCAN`, to start a training from.

    Args:
        path: ImageNet weights (as `mscan_t.pth`), a SegNeXt in any format, or a geoseg checkpoint.
    """
    if path.suffix == ".safetensors":
        state: State = dict(read_checkpoint(path)[0])
    else:
        state = read_foreign(path).state
    prefix = "backbone."
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        variant = variant_of(state)
        return fit_state(backbone, MSCAN(variant), f"the backbone of SegNeXt-{variant.name}")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_foreign(path: Path) -> Foreign:
    """Read the weights of another program, under the official parameter names."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            content = None if is_torch_file(head) else head + file.read()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    try:
        found = read_torch(path) if content is None else read_jittor(content)
        if not isinstance(found, dict):
            raise CheckpointError("no dictionary of weights")
        state, in_mmseg = official_names(strip_wrappers(found))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    format_ = "jittor" if content else "mmsegmentation" if in_mmseg else "original"
    meta = found.get("meta")
    return Foreign(state, format_, meta if isinstance(meta, dict) else {})


def strip_wrappers(found: dict[Any, Any]) -> dict[Any, Any]:
    """Return the dictionary of weights in a checkpoint, without prefixes common to all keys."""
    for container in ("state_dict", "model"):
        if isinstance(found.get(container), dict):
            found = found[container]
            break
    if not all(isinstance(key, str) for key in found):
        raise CheckpointError("no dictionary of weights: some keys are not names")
    for wrapper in WRAPPERS:
        if found and all(key.startswith(wrapper) for key in found):
            found = {key.removeprefix(wrapper): value for key, value in found.items()}
    return found


def official_names(found: dict[str, Any]) -> tuple[State, bool]:
    """Return weights under their official names, and whether they had mmsegmentation 1.x's."""
    bare = any(key.startswith("patch_embed1.") for key in found)
    state: State = {}
    in_mmseg = False
    for name, value in found.items():
        key = name
        # An ImageNet backbone has neither prefix nor decoder, but a classifier.
        if bare and key in {"head.weight", "head.bias"}:
            continue
        if key.endswith(".num_batches_tracked"):
            continue
        if bare:
            key = f"backbone.{key}"
        if re.search(r"\.mlp\.dwconv\.(weight|bias)$", key):
            in_mmseg = True
            key = key.replace(".mlp.dwconv.", ".mlp.dwconv.dwconv.")
        state[key] = real_array(key, value)
    return state, in_mmseg


def real_array(key: str, value: Any) -> Tensor | np.ndarray:
    """Return `value`, uncopied, if it is a floating-point array. Raises CheckpointError if not."""
    if isinstance(value, PickledArray) and value.data is not None and value.data.dtype.kind == "f":
        return value.data
    if (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
    ):
        return value.detach()
    raise CheckpointError(f"{key!r:.80} is not an array of real numbers")


def fit_state(state: State, network: torch.nn.Module, what: str) -> dict[str, Tensor]:
    """Return `state` as float32 tensors, checked to fit `network`.

    The check comes before the copies: a small file may hold one array under many keys.
    """
    check_fit(state, network.state_dict(), what)
    return {key: as_float32(value) for key, value in state.items()}


def as_float32(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.float()
    with np.errstate(over="ignore"):  # `save_checkpoint` refuses infinity and names the key
        return torch.from_numpy(value.astype(np.float32))


def variant_of(state: State) -> Variant:
    """Return the variant with the widths and depths of the backbone."""
    dims = tuple(length_of(state, f"backbone.norm{stage}.weight") for stage in range(1, 5))
    blocks = {tuple(key.split(".")[1:3]) for key in state if key.startswith("backbone.block")}
    depths = tuple(sum(name == f"block{i}" for name, *_ in blocks) for i in range(1, 5))
    for variant in VARIANTS.values():
        if (variant.dims, variant.depths) == (dims, depths):
            return variant
    raise CheckpointError(f"widths {dims} and depths {depths} are of no SegNeXt variant")


def length_of(state: State, key: str) -> int:
    """Return the first dimension of an array. Raises CheckpointError if there is none."""
    if key not in state or not state[key].shape:
        raise CheckpointError(f"no SegNeXt: {key} is missing")
    return int(state[key].shape[0])


def stored_classes(meta: dict[str, Any]) -> tuple[LabelClass, ...]:
    """Return the classes that OpenMMLab's programs store in a checkpoint."""
    inner = meta.get("dataset_meta")
    source = inner if isinstance(inner, dict) else meta
    names = source.get("CLASSES", source.get("classes"))
    colors = source.get("PALETTE", source.get("palette"))
    if not isinstance(names, list | tuple) or not isinstance(colors, list | tuple):
        raise CheckpointError("no class names and colors are stored in it; --classes FILE")
    rows = zip(names, colors, strict=False)
    return classes_from_json(
        [
            {"id": i, "name": name, "color": list(color) if isinstance(color, tuple) else color}
            for i, (name, color) in enumerate(rows)
        ]
    )


def stored_rank(meta: dict[str, Any]) -> int | None:
    """Return `MD_R` of the training configuration, text in a ``.pth`` or a dictionary in a
    ``.pkl``."""
    config = meta.get("config", meta.get("cfg"))
    if isinstance(config, str):
        found = re.search(r"\bMD_R['\"]?\s*[=:]\s*(\d{1,4})\b", config)
        return int(found[1]) if found else None
    for key in ("model", "decode_head", "ham_kwargs", "MD_R"):
        config = config.get(key) if isinstance(config, dict) else None
    return config if type(config) is int else None
