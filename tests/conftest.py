"""Fixtures for the data beside the repository; tests that need it are skipped without it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

# Workers of pytest-xdist share the cores. This precedes the first import of torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# What tests write need not survive a power cut: SQLite does not wait for the disk.
os.environ["OGR_SQLITE_SYNCHRONOUS"] = "OFF"

# Shells let what runs in the background, or under nohup, ignore these, and so would the commands
# that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk, and failed reads of local files are repeated without pauses."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    if source := sys.modules.get("geoseg.geo.raster.source"):
        monkeypatch.setattr(source, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the repository."""
    return existing(REPOSITORY.parent / "shared")


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    """Weights, inputs and outputs of the official SegNeXt code."""
    return existing(shared / "parity")


@pytest.fixture(scope="session")
def recorded(parity: Path) -> dict[str, NDArray[Any]]:
    """Inputs, stages and logits that the official code recorded."""
    return dict(np.load(parity / "segnext_t_io.npz"))


@pytest.fixture(scope="session")
def official(parity: Path) -> dict[str, Any]:
    """Weights of the official SegNeXt-T, tensors by key."""
    import torch  # after the environment is set

    return torch.load(parity / "segnext_t_official.pth", weights_only=True)["state_dict"]


@pytest.fixture(scope="session")
def scenes(shared: Path) -> Path:
    """Eight real orthophotos."""
    return existing(shared / "data" / "scenes")


def existing(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{folder.name}/ is not beside the repository")
    return folder
