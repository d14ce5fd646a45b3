"""Which geoseg this is."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

VERSION = version("geoseg")
_AROUND = {"api", "cli", "configs", "synthetic", "train"}
"""Folders of the package that do not decide on results."""


@cache
def build() -> str:
    """The version and a hash of the sources at work, "0.1.0+1a2b3c4d".

    Two checkouts of one version differ. C sources are not in an installed package, so they do not
    count.
    """
    return f"{VERSION}+{sources_hash(Path(__file__).parent)[:8]}"


def sources_hash(folder: Path) -> str:
    """SHA-256 of the Python sources in `folder` that decide on results."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        if place.parts[0] not in _AROUND:
            digest.update(place.as_posix().encode() + b"\0")
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()
