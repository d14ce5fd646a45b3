"""`geoseg demo`."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


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
    """Render a scene with known objects, find them, and say how many were found."""
    from geoseg.demo import run_demo

    with options.pixel_bar("demo", quiet=False) as progress:
        demo = run_demo(output, weights=weights, device=device, progress=progress)
    found, known = (sum(getattr(r, name) for r in demo.recalls) for name in ("found", "known"))
    click.echo(f"{found} of {known} known objects found, in {demo.seconds:.1f} s:")
    for recall in demo.recalls:
        click.echo(f"  {recall.name:<20} {recall.found:>5} of {recall.known}")
    click.echo(f"Look at   {demo.preview}")
    click.echo(f"Open      {demo.layers}  (in QGIS, over {demo.scene})")
