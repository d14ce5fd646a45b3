"""Names and sizes of the networks, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """Sizes of SegNeXt-T, S, B and L (paper, table 2)."""

    name: str
    dims: tuple[int, int, int, int]
    """Channels of the four stages."""
    depths: tuple[int, int, int, int]
    """Blocks of the four stages."""
    head: int
    """Channels inside the decoder, the `D` of its matrix factorization."""
    rank: int
    """Columns of the NMF bases (`MD_R`); no tensor of a checkpoint shows it."""
    drop_path: float
    """Rate of stochastic depth at the last block; it rises linearly from 0 at the first."""
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    """Hidden channels of an MLP per channel of the stage."""


VARIANTS = {
    "T": Variant("T", (32, 64, 160, 256), (3, 3, 5, 2), head=256, rank=16, drop_path=0.1),
    "S": Variant("S", (64, 128, 320, 512), (2, 2, 4, 2), head=256, rank=16, drop_path=0.1),
    "B": Variant("B", (64, 128, 320, 512), (3, 3, 12, 3), head=512, rank=64, drop_path=0.2),
    "L": Variant("L", (64, 128, 320, 512), (3, 5, 27, 3), head=1024, rank=64, drop_path=0.3),
}

PYRAMIDS: dict[str, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Encoders of `geoseg.model.pyramid`: factors on width and depth."""

BUILT_IN = {"lite2_aerial": "lite2", "segnext_t_aerial": "T"}
"""Networks of the weights inside the package, by name."""
DEFAULT_WEIGHTS = "lite2_aerial"
"""Used where none are named, or ``default``."""


def network_name(variant: str) -> str:
    """Return the name of a network for people."""
    return f"EfficientNet-{variant}" if variant in PYRAMIDS else f"SegNeXt-{variant}"
