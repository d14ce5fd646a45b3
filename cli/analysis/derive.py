"""`geoseg derive`."""

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
    default=Path("derived.gpkg"),
    show_default=True,
    help="GeoPackage to write.",
)
@click.option(
    "--layers",
    "wanted",
    type=options.ClassNames(),
    default="centroids,boxes",
    show_default=True,
    metavar="NAME,…",
    help="centroids: a point in each object; boxes: the smallest rectangle around each; heatmap: "
    "the points as QGIS's heat map.",
)
@click.option(
    "--only",
    type=options.ClassNames(),
    default=(),
    metavar="CLASS,…",
    help="Layers or classes to use.  [default: all]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@options.verbosity
def command(
    layers: Path,
    output: Path,
    wanted: tuple[str, ...],
    only: tuple[str, ...],
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write points, boxes or a heat map of the objects of LAYERS, a GeoPackage of geoseg.

    All classes come into one layer, with the fields of the objects.
    """
    from geoseg.analysis.derived import derive
    from geoseg.geo.paths import printable

    written = derive(layers, output, layers=wanted, classes=only, overwrite=overwrite)
    if not quiet:
        for name, count in written.items():
            click.echo(f"  {name:<20} {count:>7}")
        click.echo(f"  {printable(output)}")
