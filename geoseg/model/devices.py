"""The device that computes, and the precision that it computes in."""

from __future__ import annotations

import platform
from typing import Literal, TypedDict

import torch

from geoseg.errors import OptionError

Precision = Literal["auto", "float32", "bfloat16", "float16"]

OUT_OF_MEMORY = (
    "MPS backend out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""In messages of RuntimeErrors that parts of torch raise in place of its OutOfMemoryError."""

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Torch's names of the extensions of x86 and of ARM (the last two)."""
X86 = ("x86_64", "AMD64")
"""Python's names of it."""


class DeviceOptions(TypedDict):
    """Arguments of `TileModel` that each machine of a cluster resolves for itself."""

    device: str
    """``auto``, a name that torch knows, or several such names separated by commas."""
    precision: Precision
    batch_size: int | None
    """Of accelerators; None = 8."""


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


def choose_devices(names: str) -> list[torch.device]:
    """Return the devices of a comma-separated list, all of one kind.

    Raises:
        OptionError: one is unknown or not there, is listed twice, or differs from the others.
    """
    devices = [choose_device(name.strip()) for name in names.split(",")]
    if len({(device.type, device.index or 0) for device in devices}) < len(devices):
        raise OptionError(f"--device {names} lists a device twice; list each once")
    if len({device.type for device in devices}) > 1:
        raise OptionError(
            f"--device {names} mixes kinds of devices, whose results differ; list those of one kind"
        )
    return devices


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the data type of a precision; for ``auto`` the fastest that the device supports.

    On CPUs that is bfloat16 where x86 has instructions for it: it changes less than 0.1 % of the
    pixels of real scenes. On ARM neither speed nor maps have been measured.
    """
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float16
    if device.type == "cpu" and platform.machine() in X86 and cpu_computes_bfloat16():
        return torch.bfloat16
    return torch.float32


def choose_block_side(device: torch.device) -> int:
    """Return the side of a block that suits the device, tiles.

    A CPU gets its tiles one by one, so that all cores end at about the same time. Accelerators are
    fast enough for reading to count, and larger blocks read less of a scene twice.
    """
    return 1 if device.type == "cpu" else 2


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16.

    A processor without them emulates it, at a sixteenth of its speed in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_computes_bfloat16()


def cpu_computes_bfloat16() -> bool:
    """Return whether this processor is an x86 or ARM with instructions for bfloat16."""
    if not hasattr(torch.cpu, "get_capabilities"):  # as in torch 2.6
        return torch.cpu._is_avx512_bf16_supported()
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BFLOAT16_INSTRUCTIONS)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an accelerator has too little memory for what it was asked to compute."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    )


def release_cache(device: torch.device) -> None:
    """Wait for the device and free the memory that torch keeps on it for later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.synchronize()
        torch.mps.empty_cache()
