"""`geoseg count`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .. import options

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("layers", type=_FILE)
@click.argument("units", type=_FILE, required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("counts.gpkg"),
    show_default=True,
    help="GeoPackage to write.",
)
@click.option(
    "--grid",
    metavar="SIDE|h3:N",
    help="Instead of UNITS: squares of this side, such as 500m or 2km, or the cells of H3 of "
    "resolution N (needs the package h3). Only cells with objects are written.",
)
@click.option("--layer", help="Layer of UNITS.  [default: the only one]")
@click.option(
    "--only",
    type=options.ClassNames(),
    default=(),
    metavar="CLASS,…",
    help="Layers or classes to count.  [default: all]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@options.as_json
@options.verbosity
def command(
    layers: Path,
    units: Path | None,
    output: Path,
    grid: str | None,
    layer: str | None,
    only: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Count the objects of LAYERS, a GeoPackage of geoseg, in the polygons of UNITS.

    Writes the units with their fields and, for each class, CLASS_count and CLASS_area_m2, besides
    objects and area_m2 of all. An object counts in the unit that holds a point inside it; its area
    is split exactly. Any CRS will do; areas are those on the ground.
    """
    from geoseg.analysis.counts import count
    from geoseg.geo.paths import printable

    counted = count(
        layers,
        output,
        units=units,
        layer=layer,
        grid=grid,
        classes=only,
        overwrite=overwrite,
    )
    objects, area = int(counted["objects"].sum()), float(counted["area_m2"].sum())
    if as_json:
        summary = {"units": len(counted), "objects": objects, "area_m2": area}
        click.echo(json.dumps({**summary, "output": printable(output)}))
    elif not quiet:
        click.echo(f"{objects} objects in {len(counted)} units")
        click.echo(f"  {printable(output)}")
