"""`geoseg vectorize`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from . import options


@click.command()
@click.argument("raster", metavar="CLASSES")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="GeoPackage to write.  [default: the raster's name, .gpkg, in the current folder]",
)
@options.simplify
@options.smooth
@options.min_area
@click.option(
    "--specks",
    type=click.Choice(["fill", "drop"]),
    default="fill",
    show_default=True,
    help="fill: regions below --min-area take the class around them; drop: they leave holes.",
)
@click.option(
    "--skip",
    type=int,
    multiple=True,
    default=[0],
    show_default=True,
    metavar="VALUE",
    help="No polygons of this value, nor of nodata; may be given several times.",
)
@click.option("--skip-none", is_flag=True, help="Polygons of every value but nodata.")
@click.option(
    "--classes",
    "classes_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV or JSON with id, name and color (#rrggbb).  [default: as the raster says]",
)
@options.regularize
@options.filters
@options.workers
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@options.as_json
@options.verbosity
def command(
    raster: str,
    output: Path | None,
    simplify: float | None,
    smooth: bool,
    min_area: float | None,
    specks: str,
    skip: tuple[int, ...],
    skip_none: bool,
    classes_file: Path | None,
    regularize: str | None,
    only: tuple[str, ...],
    min_length: Any,
    max_area: Any,
    mask_out: str | None,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn CLASSES, a raster of one band of whole numbers, into polygons.

    Writes a GeoPackage with a layer per class, in the classes' colors. Lengths and areas are in
    meters, or in pixels where the raster has no place on the ground.
    """
    from geoseg.classes import read_class_list
    from geoseg.geo.layers.filters import Selection
    from geoseg.geo.paths import printable
    from geoseg.geo.raster.address import scene_stem
    from geoseg.pipeline.vectorize import vectorize

    with options.pixel_bar(Path(raster).name, quiet=quiet or as_json) as progress:
        done = vectorize(
            raster,
            output or Path(f"{scene_stem(raster)}.gpkg"),
            simplify=simplify,
            smooth=smooth,
            min_area=min_area,
            fill=specks == "fill",
            skip=() if skip_none else skip,
            classes=read_class_list(classes_file, any_ids=True) if classes_file else None,
            regularize=regularize,
            selection=Selection(only, min_length, max_area, mask_out),
            inputs=[classes_file] if classes_file else [],
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({**asdict(done), "output": printable(done.output)}))
    elif not quiet:
        click.echo(
            f"{printable(raster)}: {done.width * done.height / 1e6:.1f} Mpx "
            f"in {done.seconds:.1f} s, {sum(done.features.values())} polygons"
        )
        for layer, count in done.features.items():
            click.echo(f"  {layer:<20} {count:>7}")
        click.echo(f"  {printable(done.output)}")
