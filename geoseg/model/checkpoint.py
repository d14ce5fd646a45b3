"""geoseg's checkpoints: safetensors files whose header describes the weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from geoseg.atomic import replace
from geoseg.errors import CheckpointError, OutputError
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import NMF, SegNeXt
from geoseg.model.variants import PYRAMIDS, network_name

GRAPH, WEIGHTS = "openvino.xml", "openvino.bin"
"""Tensors of a quantized checkpoint: the bytes of the two files of OpenVINO's format."""


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of the names and values of all tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()


def save_checkpoint(
    path: Path,
    model: nn.Module | Mapping[str, Tensor],
    metadata: Metadata,
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write weights and metadata; the file appears complete or not at all.

    Args:
        dtype: see `stored_state`.

    Raises:
        CheckpointError: the weights are not finite or do not fit the metadata.
        OutputError: the file cannot be written.
    """
    tensors = stored_state(model, dtype)
    build_model(tensors, metadata)  # never write a file that cannot be loaded
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Metadata) -> None:
    """Write a safetensors file that appears complete or not at all. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # safetensors would make the file readable by its owner only, ignoring the umask.
        temporary.write_bytes(save(tensors, metadata.to_header()))
        replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def stored_state(
    model: nn.Module | Mapping[str, Tensor], dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint of these weights holds.

    Biases, norms and their running statistics, 2 % of the bytes, stay float32: a variance may
    exceed the range of float16. BatchNorm's step counters are left out.

    Args:
        dtype: of the convolution kernels, float16 or float32.

    Raises:
        CheckpointError: a weight is not finite.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        stored = tensor.detach().to("cpu", dtype if tensor.ndim == 4 else torch.float32)
        tensors[key] = stored.clone(memory_format=torch.contiguous_format)
    check_finite(tensors)
    return tensors


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a checkpoint, without its tensors."""
    with open_checkpoint(path) as (_, metadata):
        return metadata


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read the state dict (float32) and metadata of a checkpoint."""
    with open_checkpoint(path) as (file, metadata):
        if is_quantized(file):
            raise CheckpointError(
                "these weights are quantized, which is for prediction only; give those that they "
                "were made from"
            )
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        check_finite(state)
        return state, metadata


def is_quantized(file: safe_open) -> bool:
    """Return whether a checkpoint holds files of OpenVINO's instead of weights."""
    return set(file.keys()) == {GRAPH, WEIGHTS}


@contextmanager
def open_checkpoint(path: Path) -> Iterator[tuple[safe_open, Metadata]]:
    """Open a checkpoint; a context. Raises CheckpointError, which names the file."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, Metadata.from_header(file.metadata())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def build_model(state: Mapping[str, Tensor], metadata: Metadata) -> SegNeXt | EfficientNetPyramid:
    """Return the network that `metadata` describes with the weights `state`, in evaluation mode.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape; the message names some.
    """
    variant, classes = metadata.variant, len(metadata.classes)
    model: SegNeXt | EfficientNetPyramid
    if variant in PYRAMIDS:
        model = EfficientNetPyramid(variant, classes)
    else:
        model = SegNeXt(variant, classes, head_bias=metadata.head_bias)
        if metadata.nmf_rank != model.variant.rank:
            model.decode_head.hamburger.ham = NMF(model.variant.head, metadata.nmf_rank)
    check_fit(state, model.state_dict(), network_name(variant))
    model.load_state_dict(state)
    model.metadata = metadata
    return model.eval()


def check_fit(
    state: Mapping[str, Tensor | np.ndarray], expected: Mapping[str, Tensor], what: str
) -> None:
    """Raise CheckpointError unless `state` has the keys and shapes of `expected`."""
    # Few files contain BatchNorm's count of training steps, and nothing reads it.
    needed = {key for key in expected if not key.endswith("num_batches_tracked")}
    if missing := needed - state.keys():
        raise CheckpointError(f"{what} needs {some_of(missing)}, missing here")
    if unknown := state.keys() - expected.keys():
        raise CheckpointError(f"{what} has no {some_of(unknown)}")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            found, shape = tuple(tensor.shape), tuple(expected[key].shape)
            raise CheckpointError(f"{what} needs {key} of shape {shape}, found {found}")


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a weight is NaN or infinite."""
    if bad := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"NaN or infinite weights in {some_of(bad)}")


def some_of(keys: Iterable[str]) -> str:
    """Return the first few keys, for an error message."""
    ordered = sorted(keys)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(f"{key!r:.80}" for key in ordered[:3]) + more
