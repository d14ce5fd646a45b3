"""The public weights that geoseg can fetch by name: plain data. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PublicWeights:
    """One checkpoint on its authors' server."""

    name: str
    """What `--weights` and `geoseg weights fetch` take."""
    variant: str
    """T, S, B or L."""
    url: str
    """Address of the Jittor pickle, which is converted after download."""
    miou: float
    """Mean IoU on iSAID val in percent, as published."""
    sha256: str | None = None
    """Hash of the download; None = unknown, then the first download's hash is recorded."""

    @property
    def filename(self) -> str:
        """Last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Where the converted weights lie once they are fetched."""
        return cache_folder() / f"{self.name}.safetensors"


def cache_folder() -> Path:
    """`weights` in `$GEOSEG_CACHE`, or in the user's cache folder."""
    if configured := os.environ.get("GEOSEG_CACHE"):
        return Path(configured) / "weights"
    # Training runs where platformdirs is not installed, and needs no cache.
    from platformdirs import user_cache_path

    return user_cache_path("geoseg") / "weights"


SERVER = "https://cg.cs.tsinghua.edu.cn/jittor/assets/build/checkpoints/"

PUBLIC_WEIGHTS = tuple(
    PublicWeights(
        f"segnext_{variant.lower()}_isaid",
        variant,
        f"{SERVER}segnext_{size}_896x896_isaid_160k.pkl",
        miou,
    )
    for variant, size, miou in (
        ("T", "tiny", 68.3),
        ("S", "small", 68.8),
        ("B", "base", 69.9),
        ("L", "large", 70.3),
    )
)
"""SegNeXt on iSAID by its authors, 896 × 896 px, 160 000 iterations (Jittor code)."""

LICENCE = "code Apache-2.0; weights trained on iSAID, which is for academic use only"
"""Of all the weights above."""


def find_public(name: str) -> PublicWeights | None:
    """The entry of that name."""
    return next((entry for entry in PUBLIC_WEIGHTS if entry.name == name), None)
