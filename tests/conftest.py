"""Fixtures for the data beside the repository; tests that need it are skipped without it."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the repository."""
    return existing(REPOSITORY.parent / "shared")


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    """Weights, inputs and outputs of the official SegNeXt code."""
    return existing(shared / "parity")


@pytest.fixture(scope="session")
def scenes(shared: Path) -> Path:
    """Eight real orthophotos."""
    return existing(shared / "data" / "scenes")


def existing(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{folder.name}/ is not beside the repository")
    return folder
