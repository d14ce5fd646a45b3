"""The device that computes, and the precision that it computes in."""

from __future__ import annotations

from typing import Literal, TypedDict

import torch

from geoseg.errors import OptionError

Precision = Literal["auto", "float32", "bfloat16", "float16"]

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class DeviceOptions(TypedDict):
    """Arguments of `TileModel` that each machine of a cluster resolves for itself."""

    device: str
    """``auto`` or a name that torch knows."""
    precision: Precision
    batch_size: int | None
    """None = chosen by the device."""


def choose_device(name: str) -> torch.device:
    """Return the device of that name, or the best one for ``auto``.

    Raises:
        OptionError: the device is unknown or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"--device {name} cannot be used ({reason}); use --device cpu or auto"
        ) from error
    return device


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the data type of a precision; for ``auto`` the fastest that the device supports."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float16
    return torch.float32


def choose_batch_size(size: int | None, device: torch.device) -> int:
    """Return the number of tiles at once; for None what suits the device."""
    return size or (1 if device.type == "cpu" else 8)


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16.

    A processor without them emulates it, at a sixteenth of its speed in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
