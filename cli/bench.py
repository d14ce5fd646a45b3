"""`geoseg bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from geoseg.native.malloc import keep_free_memory

from . import options

if TYPE_CHECKING:
    from geoseg.pipeline.bench import Report


@click.command()
@click.argument("scene", required=False)
@click.option(
    "--size",
    type=click.IntRange(min=64),
    default=4096,
    show_default=True,
    help="Side of the rendered scene where none is given, px.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs of each measurement, of which the median counts.",
)
@options.weights
@options.device
@options.backend
@options.precision
@options.as_json
def command(scene: str | None, as_json: bool, **how: Any) -> None:
    """Measure this machine: the model in every way it can run, the pipeline, and both on SCENE.

    --backend and --precision apply to the prediction of the scene.
    """
    from geoseg.pipeline.bench import bench

    keep_free_memory()
    with options.count_bar("bench", "run") as progress:
        report = bench(scene, progress=progress, **how)
    click.echo(json.dumps(asdict(report)) if as_json else table(report))


def table(report: Report) -> str:
    """Return the report for the terminal."""
    from geoseg.model.variants import network_name

    side = report.tile_size
    lines = [
        f"{report.machine}, {report.threads} threads, torch {report.torch}, on {report.device}",
        f"{network_name(report.variant)} alone, on tiles of {side} × {side} px, in Mpx/s:",
        *(f"  {way:<24} {speed:>8.2f}" for way, speed in report.forward.items()),
        f"predict, {report.scene}, {report.width} × {report.height} px, in Mpx/s:",
        f"  {'with a model for free':<24} {report.pipeline:>8.2f}",
        f"  {'with ' + report.chosen:<24} {report.whole:>8.2f}",
        f"  {report.ratio:.2f} times as long as the bare forward passes of its tiles",
    ]
    return "\n".join(lines)
