"""`geoseg report`."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options


@click.command()
@click.argument("layers", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file to write.  [default: the name of LAYERS, .report.html, in the current folder]",
)
@click.option("--scene", help="The scene.  [default: as LAYERS records]")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@options.verbosity
def command(
    layers: Path, output: Path | None, scene: str | None, overwrite: bool, quiet: bool
) -> None:
    """Write a report on LAYERS, a GeoPackage of `geoseg predict`, as one HTML file.

    It works in any browser, without a network: a map of scene and objects, totals of the classes,
    histograms of size and confidence, pictures of the most and the least certain objects,
    settings, weights and their license. It has at most 10 MB, whatever the scene.
    """
    from geoseg.analysis.report.from_layers import write_report

    path = output or Path(f"{layers.stem}.report.html")
    notes = write_report(layers, path, scene_path=scene, overwrite=overwrite)
    if not quiet:
        for note in notes:
            click.echo(f"Warning: {note}", err=True)
        click.echo(path)
