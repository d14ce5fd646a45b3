"""`geoseg suggest`."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options


@click.command()
@click.argument("kept", metavar="LOGITS|CONFIDENCE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("suggested.gpkg"),
    show_default=True,
    help="GeoPackage to write.",
)
@click.option("--count", default=20, show_default=True, help="Tiles.")
@click.option("--size", default=512, show_default=True, help="Side of a tile, px of the scene.")
@click.option(
    "--labeled",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Polygons of what is labeled already; no tile that they touch is suggested.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@options.verbosity
def command(
    kept: Path,
    output: Path,
    count: int,
    size: int,
    labeled: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Suggest the tiles of a scene that are most useful to label next.

    Reads the logits (STEM.logits.zarr) or the confidence (STEM.confidence.tif) that `geoseg
    predict` kept. A tile is useful if the model is unsure on it, and if it differs from the tiles
    that rank before. Correct the results within a tile in QGIS and tick `reviewed`; then
    `geoseg prepare labels --update --area` takes the tiles as what was looked at.
    """
    from geoseg.analysis.suggest import suggest_tiles

    done = suggest_tiles(kept, output, count=count, size=size, labeled=labeled, overwrite=overwrite)
    if not quiet:
        click.echo(f"{done.chosen} of {done.tiles} tiles: {done.output}")
