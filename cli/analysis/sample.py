"""`geoseg sample`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .. import options


@click.command()
@click.argument("classes", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("sample.gpkg"),
    show_default=True,
    help="GeoPackage of the points.",
)
@click.option("--size", type=int, help="Points.  [default: as --standard-error takes]")
@click.option(
    "--standard-error",
    default=0.01,
    show_default=True,
    help="Wanted standard error of the overall accuracy.",
)
@click.option(
    "--expect",
    "expected",
    type=options.Pair("CLASS=ACCURACY"),
    multiple=True,
    help="User's accuracy that a class is expected to have, 0-1; may be repeated.  [default: 0.85]",
)
@click.option(
    "--allocation",
    type=click.Choice(["proportional", "neyman", "equal"]),
    default="proportional",
    show_default=True,
    help="Points of a class by its pixels; by pixels and uncertainty; or the same for all.",
)
@click.option(
    "--min-per-class", "minimum", default=50, show_default=True, help="Least points of a class."
)
@click.option("--seed", default=0, show_default=True, help="Another seed draws another sample.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@options.as_json
@options.verbosity
def command(
    classes: Path,
    output: Path,
    size: int | None,
    standard_error: float,
    expected: tuple[tuple[str, str], ...],
    allocation: str,
    minimum: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw a stratified random sample of the pixels of CLASSES, a class raster, as points.

    Open the points in QGIS over the scene, and give each the class that is on the ground: the
    form offers the classes, and hides that of the map. `geoseg accuracy` then estimates the
    accuracy of the map and the area of each class.
    """
    from geoseg.analysis.sampling import draw_sample

    with options.pixel_bar("count", quiet=quiet or as_json) as progress:
        drawn = draw_sample(
            classes,
            output,
            size=size,
            standard_error=standard_error,
            allocation=allocation,  # type: ignore[arg-type]
            users_accuracy={name: _accuracy(name, text) for name, text in expected},
            minimum=minimum,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        found = {"output": str(drawn.output), "pixels": drawn.pixels, "points": drawn.points}
        click.echo(json.dumps(found))
    elif not quiet:
        click.echo(f"{'class':<20} {'pixels':>13} {'points':>7}")
        for name, pixels in drawn.pixels.items():
            click.echo(f"{name:<20} {pixels:>13,} {drawn.points[name]:>7}")
        click.echo(f"{sum(drawn.points.values())} points: {drawn.output}")


def _accuracy(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{name}={text}: {text!r} is not a number") from None
