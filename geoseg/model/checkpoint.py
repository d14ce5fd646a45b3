"""geoseg's own weights: one safetensors file that describes itself."""

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
from geoseg.model.variants import PYRAMIDS


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of the names and values of all tensors, in hexadecimal."""
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
        CheckpointError: weights that are not finite or do not fit the metadata.
        OutputError: the file cannot be written.
    """
    tensors = stored_state(model, dtype)
    build_model(tensors, metadata)  # what could not be loaded must not be written
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # safetensors' own files are readable by their owner only, whatever the umask says.
        temporary.write_bytes(save(tensors, metadata.to_header()))
        replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def stored_state(
    model: nn.Module | Mapping[str, Tensor], dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """The tensors that a checkpoint of these weights holds.

    `dtype` (float16 or float32) is that of the convolution kernels. Biases, norms and their
    running statistics, 2 % of the bytes, stay float32: a variance does not fit into float16.
    BatchNorm's step counters are left out, evaluation does not need them.

    Raises CheckpointError where a weight is not finite.
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
    """The metadata of a geoseg checkpoint, without its tensors."""
    with opened(path) as (_, metadata):
        return metadata


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """State dict (float32) and metadata of a geoseg checkpoint."""
    with opened(path) as (file, metadata):
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        check_finite(state)
        return state, metadata


@contextmanager
def opened(path: Path) -> Iterator[tuple[safe_open, Metadata]]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file, Metadata.from_header(file.metadata())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def build_model(state: Mapping[str, Tensor], metadata: Metadata) -> SegNeXt | EfficientNetPyramid:
    """The network that `metadata` describes, with the weights in `state`, in evaluation mode.

    Raises CheckpointError naming the keys that are missing, unknown or of another shape.
    """
    if metadata.variant in PYRAMIDS:
        teacher = EfficientNetPyramid(metadata.variant, len(metadata.classes))
        check_fit(state, teacher.state_dict(), f"EfficientNet-{metadata.variant}")
        teacher.load_state_dict(state)
        teacher.metadata = metadata
        return teacher.eval()
    model = SegNeXt(metadata.variant, len(metadata.classes), head_bias=metadata.head_bias)
    if metadata.nmf_rank != model.variant.rank:
        model.decode_head.hamburger.ham = NMF(model.variant.head, metadata.nmf_rank)
    check_fit(state, model.state_dict(), f"SegNeXt-{metadata.variant}")
    model.load_state_dict(state)
    model.metadata = metadata
    return model.eval()


def check_fit(
    state: Mapping[str, Tensor | np.ndarray], expected: Mapping[str, Tensor], what: str
) -> None:
    """Raise CheckpointError unless `state` has the keys and shapes of `expected`."""
    # BatchNorm counts its training steps; nothing reads the count, and few files carry it.
    needed = {key for key in expected if not key.endswith("num_batches_tracked")}
    if missing := needed - state.keys():
        raise CheckpointError(f"{what} needs {sample(missing)}, missing here")
    if unknown := state.keys() - expected.keys():
        raise CheckpointError(f"{what} has no {sample(unknown)}")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            found, shape = tuple(tensor.shape), tuple(expected[key].shape)
            raise CheckpointError(f"{what} needs {key} of shape {shape}, found {found}")


def check_finite(state: Mapping[str, Tensor]) -> None:
    if bad := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"NaN or infinite weights in {sample(bad)}")


def sample(keys: Iterable[str]) -> str:
    """The first few keys, for an error message."""
    ordered = sorted(keys)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(f"{key!r:.80}" for key in ordered[:3]) + more
