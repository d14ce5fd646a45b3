"""Public SegNeXt weights, in their three spellings, to geoseg checkpoints.

The spellings: the official PyTorch code's ``.pth`` (mmsegmentation 0.x), mmsegmentation 1.x's
``.pth`` (one level less in the name of the MLP's depthwise convolution), and the ``.pkl`` of
the Jittor code. None of the files can run code here: see `pickles`.
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
    """What a file of another program holds, in the official spelling."""

    state: State
    """Official parameter names to floating-point arrays, not yet checked against a network."""
    spelling: str
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

    `classes` None takes the names and colors that the file itself carries. `scale` and
    `nmf_rank` None stand for what is known of the spelling: 1.12 for the Jittor code's iSAID
    weights, and the rank in the file's own configuration or else the paper's.

    Raises CheckpointError where the file is damaged, hostile, of another network or of
    another number of classes. Nothing in the file is executed.
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
            raise CheckpointError(f"it tells {found} classes apart, --classes names {len(classes)}")
        head_bias = "decode_head.squeeze.conv.bias" in foreign.state
        if scale is None:
            scale = JITTOR_ISAID_SCALE if (foreign.spelling, classes) == ("jittor", ISAID) else 1.0
        origin = f"imported from {source.name} ({foreign.spelling}), "
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
        state = fitted(foreign.state, network, f"SegNeXt-{variant.name}")
        save_checkpoint(target, state, metadata, dtype=torch.float32)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    return metadata


def load_backbone_state(path: Path) -> dict[str, Tensor]:
    """The state dict of an `MSCAN`, to start a training from.

    From ImageNet weights (`mscan_t.pth` and the like), from any spelling of a whole SegNeXt,
    or from a geoseg checkpoint.
    """
    if path.suffix == ".safetensors":
        state: State = dict(read_checkpoint(path)[0])
    else:
        state = read_foreign(path).state
    prefix = "backbone."
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        variant = variant_of(state)
        return fitted(backbone, MSCAN(variant), f"the backbone of SegNeXt-{variant.name}")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_foreign(path: Path) -> Foreign:
    """Weights of another program, with their keys in the official spelling."""
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
        state, in_mmseg = official_spelling(unwrapped(found))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    spelling = "jittor" if content else "mmsegmentation" if in_mmseg else "original"
    meta = found.get("meta")
    return Foreign(state, spelling, meta if isinstance(meta, dict) else {})


def unwrapped(found: dict[Any, Any]) -> dict[Any, Any]:
    """The dictionary of weights inside a checkpoint, without prefixes common to all keys."""
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


def official_spelling(found: dict[str, Any]) -> tuple[State, bool]:
    """Weights under their official names, and whether they were in mmsegmentation 1.x's."""
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
        state[key] = numbers(key, value)
    return state, in_mmseg


def numbers(key: str, value: Any) -> Tensor | np.ndarray:
    """`value` where it is an ordinary floating-point array, still uncopied."""
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


def fitted(state: State, network: torch.nn.Module, what: str) -> dict[str, Tensor]:
    """`state` as float32 tensors, after it was found to fit `network`.

    The check comes first: many keys can share one array, and are copied here.
    """
    check_fit(state, network.state_dict(), what)
    return {key: as_float32(value) for key, value in state.items()}


def as_float32(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.float()
    with np.errstate(over="ignore"):  # infinity is refused, with its key, when saved
        return torch.from_numpy(value.astype(np.float32))


def variant_of(state: State) -> Variant:
    """The variant whose widths and depths the backbone has."""
    dims = tuple(length_of(state, f"backbone.norm{stage}.weight") for stage in range(1, 5))
    blocks = {tuple(key.split(".")[1:3]) for key in state if key.startswith("backbone.block")}
    depths = tuple(sum(name == f"block{i}" for name, *_ in blocks) for i in range(1, 5))
    for variant in VARIANTS.values():
        if (variant.dims, variant.depths) == (dims, depths):
            return variant
    raise CheckpointError(f"widths {dims} and depths {depths} are of no SegNeXt variant")


def length_of(state: State, key: str) -> int:
    if key not in state or not state[key].shape:
        raise CheckpointError(f"no SegNeXt: {key} is missing")
    return int(state[key].shape[0])


def stored_classes(meta: dict[str, Any]) -> tuple[LabelClass, ...]:
    """Names and colors as OpenMMLab's programs store them in a checkpoint."""
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
    """`MD_R` in the training configuration: text in a ``.pth``, a dictionary in a ``.pkl``."""
    config = meta.get("config", meta.get("cfg"))
    if isinstance(config, str):
        found = re.search(r"\bMD_R['\"]?\s*[=:]\s*(\d{1,4})\b", config)
        return int(found[1]) if found else None
    for key in ("model", "decode_head", "ham_kwargs", "MD_R"):
        config = config.get(key) if isinstance(config, dict) else None
    return config if type(config) is int else None
