"""`geoseg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from geoseg.demo import Demo


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
    """Render a scene with known objects, find them, and say how many are right and how many false."""
    from geoseg.demo import run_demo

    with options.pixel_bar("demo", quiet=False) as progress:
        demo = run_demo(output, weights=weights, device=device, progress=progress)
    click.echo(report(demo))


def report(demo: Demo) -> str:
    """For the terminal."""
    known, covered = (sum(getattr(c, name) for c in demo.covered) for name in ("known", "covered"))
    truth, found, right = (
        sum(getattr(score, name) for score in demo.polygons) for name in ("truth", "found", "matched")
    )
    lines = [
        f"{covered} of {known} known objects have the right class on at least half of their pixels,",
        f"in {demo.seconds:.1f} s. As separate polygons (IoU 0.5) {right} of {truth} are right, and "
        f"{found - right} of {found}",
        "polygons are none: what is parked side by side becomes one.",
        "",
        f"{'':<20} {'pixels right':>14} {'polygons right':>15} {'polygons false':>15}",
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
        f"Count     geoseg evaluate --scene {demo.class_raster} --truth {demo.truth}",
    ]
    return "\n".join(lines)
