"""Reads ``.pth`` files of any program by torch's restricted unpickler, which imports nothing."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from geoseg.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""A pickled number that torch before 1.6 (and OpenMMLab's publishing script) writes first."""


class Ignored:
    """Stands for an object beside the weights whose class is neither imported nor called."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


IGNORED_GLOBALS = (
    # mmengine's training checkpoints carry their log (`message_hub`).
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "argparse.Namespace",
)


def is_torch_file(head: bytes) -> bool:
    """Whether a file that begins with these 16 bytes was written by `torch.save`."""
    return head.startswith((ZIP_MAGIC, LEGACY_MAGIC))


def read_torch(path: Path) -> Any:
    """The content of a ``.pth``, by torch's own restricted unpickler.

    Objects of training logs become `Ignored`: torch then calls that class instead of theirs.
    Every other global that is no part of a tensor is refused by its name.
    """
    check_archive(path)
    stand_ins: list[Any] = [(Ignored, name) for name in IGNORED_GLOBALS]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if name := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"its pickle asks for {name[1]!r:.100}, which is no part of a tensor; nothing was "
                'run. Where you trust the file, strip it: python -c "import torch; torch.save('
                f"torch.load('{path.name}', weights_only=False)['state_dict'], 'stripped.pth')\""
            ) from None
        raise CheckpointError(f"no file of tensors: {str(error)[-120:]}") from None
    # torch documents no errors for damaged files; these are what they were seen to raise.
    except (
        *(RuntimeError, EOFError, OSError, MemoryError, AssertionError, struct.error),
        *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    ) as error:
        reason = str(error).partition("\n")[0][:120]
        raise CheckpointError(f"damaged, or no file of tensors: {reason}") from None


def check_archive(path: Path) -> None:
    """Refuse archives that would unpack to more than their size; torch packs none."""
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    # Besides its own error, zipfile raises NotImplementedError for versions of the format that it
    # does not know, and the others for torn directories.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"damaged archive: {error}") from None
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError("a compressed archive, which torch does not write")
