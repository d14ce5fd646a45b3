"""`geoseg change`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .. import options

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("change.gpkg"),
    show_default=True,
    help="GeoPackage to write.",
)
@click.option(
    "--max-shift",
    default=10.0,
    show_default=True,
    metavar="METERS",
    help="Greatest shift between the two flights to look for; 0 takes them as they are.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="METERS",
    help="How far an object may be off after that.  [default: as 95 % of the pairs are]",
)
@click.option(
    "--min-iou",
    default=0.5,
    show_default=True,
    help="Least intersection over union of an object that is the same.",
)
@click.option(
    "--min-confidence",
    default=0.0,
    metavar="NUMBER",
    help="Leave out what has a lower confidence at both dates. With layers of a lower "
    "--min-confidence of predict, objects near the limit are neither new nor gone.  [default: 0]",
)
@click.option("--unchanged", is_flag=True, help="Also write objects that are the same.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@options.as_json
@options.verbosity
def command(
    old: Path,
    new: Path,
    output: Path,
    max_shift: float,
    tolerance: float | None,
    min_iou: float,
    min_confidence: float,
    unchanged: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare OLD and NEW, results of `geoseg predict` of two dates.

    Writes one layer whose field change says new, gone or changed, with class, confidence and area
    at both dates. The shift between the flights is estimated from the objects and taken back.
    """
    from geoseg.analysis.change import find_changes

    found = find_changes(
        old,
        new,
        output,
        min_iou=min_iou,
        max_shift=max_shift,
        tolerance=tolerance,
        min_confidence=min_confidence,
        unchanged=unchanged,
        overwrite=overwrite,
    )
    if as_json:
        click.echo(json.dumps({**asdict(found), "output": str(output)}))
        return
    if max_shift > 0 and not found.agreeing and not quiet:
        click.echo(
            "Warning: too few objects agree on a shift; the layers are taken as they are", err=True
        )
    if quiet:
        return
    if found.agreeing:
        x, y = found.shift
        click.echo(
            f"shift of the new layer: {x:+.2f} m in x, {y:+.2f} m in y, from {found.agreeing} "
            f"objects, of which 95 % are then within {found.tolerance:.2f} m"
            if tolerance is None
            else f"shift of the new layer: {x:+.2f} m in x, {y:+.2f} m in y, from "
            f"{found.agreeing} objects"
        )
    for kind, count in found.counts.items():
        click.echo(f"  {kind:<8} {count:>7}")
    if found.outside:
        click.echo(f"  left out {found.outside:>6}: the other date has no scene there")
    click.echo(f"  {output}")
