"""The version, and a hash of the sources that decide on results."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

VERSION = version("geoseg")
_IGNORED = {"api", "cli", "configs", "synthetic", "train"}
"""Folders of the package that do not affect results."""


@cache
def build() -> str:
    """Return the version and a hash of the Python sources, as "0.1.0+1a2b3c4d".

    Checkouts of one version may differ. C sources are not part of an installed package.
    """
    return f"{VERSION}+{sources_hash(Path(__file__).parent)[:8]}"


def sources_hash(folder: Path) -> str:
    """Return the SHA-256 of the Python sources in `folder` that affect results."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0] not in _IGNORED:
            digest.update(name.as_posix().encode() + b"\0")
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()
