"""`geoseg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.native.malloc import keep_free_memory

from . import options

if TYPE_CHECKING:
    from geoseg.pipeline.demo import Demo


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("geoseg-demo"),
    show_default=True,
    help="Folder of the scene and the results.",
)
@options.weights
@options.device
def command(output: Path, weights: str | None, device: str) -> None:
    """Render a scene with known objects, find them, and count what is right and what is false."""
    from geoseg.pipeline.demo import run_demo

    keep_free_memory()
    with options.pixel_bar("demo", quiet=False) as progress:
        demo = run_demo(output, weights=weights, device=device, progress=progress)
    click.echo(report(demo))


def report(demo: Demo) -> str:
    """Return the report for the terminal."""
    known = sum(item.known for item in demo.covered)
    covered = sum(item.covered for item in demo.covered)
    there, found, right = (
        sum(getattr(score, count) for score in demo.polygons)
        for count in ("truth", "found", "matched")
    )
    lines = [
        f"Predicted in {demo.seconds:.1f} s. Of {known} known objects {covered} have the right",
        f"class on at least half of their pixels. As polygons of their own (IoU 0.5) {right} of",
        f"{there} are right, and {found - right} of the {found} found are false: what is parked",
        "side by side becomes one polygon.",
        "",
        f"{'class':<20} {'pixels right':>14} {'polygons right':>15} {'polygons false':>15}",
    ]
    polygons = {score.name: score for score in demo.polygons}
    for item in demo.covered:
        score = polygons[item.name]
        pixels, right = f"{item.covered} of {item.known}", f"{score.matched} of {score.truth}"
        false = f"{score.found - score.matched} of {score.found}"
        lines.append(f"{item.name:<20} {pixels:>14} {right:>15} {false:>15}")
    lines += [
        "",
        f"Look at   {demo.preview}",
        f"Open      {demo.layers}  (in QGIS, over {demo.scene})",
        f"Count     geoseg evaluate --scene {demo.layers} --truth {demo.truth}",
    ]
    return "\n".join(lines)
