"""Options that several commands share, defined once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps …")
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the model.",
)
tta = click.option("--tta", is_flag=True, help="Average over 8 flips and rotations: 8 × the time.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")


def tiling(command: Callable[..., Any]) -> Callable[..., Any]:
    size = click.option(
        "--tile-size", default=1024, show_default=True, help="Side of a tile, px; of 32 a multiple."
    )
    overlap = click.option(
        "--overlap", default=128, show_default=True, help="Overlap of tiles, px; of 32 a multiple."
    )
    return size(overlap(command))
