"""`geoseg accuracy`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import options

if TYPE_CHECKING:
    from geoseg.analysis.accuracy import Accuracy, Estimate
    from geoseg.analysis.sample_points import LabeledPoints

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("points", type=FILE)
@click.option(
    "--reference",
    default="reference",
    show_default=True,
    help="Field with the class on the ground.",
)
@click.option("--stratum", default="stratum", show_default=True, help="Field with the stratum.")
@click.option("--map-field", help="Field with the class on the map.  [default: the stratum]")
@click.option(
    "--map",
    "map_raster",
    type=FILE,
    help="Judge this class raster, not the one that the sample was drawn from.",
)
@click.option(
    "--strata",
    type=FILE,
    help="CSV with the columns stratum, pixels and, for areas, area_m2.  [default: as `geoseg "
    "sample` recorded them]",
)
@options.as_json
def command(
    points: Path,
    reference: str,
    stratum: str,
    map_field: str | None,
    map_raster: Path | None,
    strata: Path | None,
    as_json: bool,
) -> None:
    """Estimate the accuracy of a map, and the area of its classes, from labeled POINTS.

    POINTS is a sample of `geoseg sample`. User's and producer's accuracy and areas come with
    intervals of 95 % (Olofsson et al. 2014). A sample that was drawn by other strata than the
    classes of the map is estimated after Stehman (2014). Points without a class are left out.
    """
    from geoseg.analysis.accuracy import estimate
    from geoseg.analysis.sample_points import read_points
    from geoseg.errors import OptionError

    if map_field is not None and map_raster is not None:
        raise OptionError("--map and --map-field are both given; leave one out")
    labeled = read_points(
        points,
        reference=reference,
        stratum=stratum,
        map_field=map_field,
        map_raster=map_raster,
        strata=strata,
    )
    accuracy = estimate(labeled.sample, labeled.classes)
    for warning in warnings(labeled, accuracy):
        click.echo(f"Warning: {warning}", err=True)
    click.echo(json.dumps(as_dict(labeled, accuracy)) if as_json else table(labeled, accuracy))


def warnings(labeled: LabeledPoints, accuracy: Accuracy) -> list[str]:
    """Return what the user should know about the sample."""
    notes = []
    if labeled.unlabeled:
        notes.append(
            f"{labeled.unlabeled} points have no class and are left out; the estimates hold if "
            "they are missing by chance"
        )
    if labeled.classes and (
        unknown := [name for name in accuracy.names if name not in labeled.classes]
    ):
        notes.append(f"classes that the map does not have: {', '.join(unknown)}")
    if accuracy.without_interval:
        names = ", ".join(dict.fromkeys(accuracy.without_interval))
        notes.append(
            f"no interval where all points of a class agree ({names}), for one of width 0 would "
            "be false; label more points of these classes"
        )
    return notes


def as_dict(labeled: LabeledPoints, accuracy: Accuracy) -> dict[str, Any]:
    """Return the estimates for JSON."""
    area = sum(labeled.sample.sizes.values()) * labeled.pixel_area
    return {
        "points": accuracy.points,
        "unlabeled": labeled.unlabeled,
        "overall": accuracy.overall.as_dict(),
        "area_unit": labeled.unit,
        "classes": {
            item.name: {
                "mapped_points": item.mapped,
                "true_points": item.found,
                "users_accuracy": item.users.as_dict(),
                "producers_accuracy": item.producers.as_dict(),
                "area": item.share.scaled(area).as_dict(),
            }
            for item in accuracy.classes
        },
        "names": accuracy.names,
        "matrix": accuracy.matrix.tolist(),
    }


def table(labeled: LabeledPoints, accuracy: Accuracy) -> str:
    """Return the estimates for the terminal."""
    area = sum(labeled.sample.sizes.values()) * labeled.pixel_area
    width = max(8, *(len(name) for name in accuracy.names))
    lines = [
        f"{accuracy.points} points; ± is half of the interval of 95 %",
        f"overall accuracy {with_interval(accuracy.overall, '.3f')}",
        "",
        f"{'class':<{width}} {'users accuracy':>15} {'producers':>15} "
        f"{f'area ({labeled.unit})':>24} {'points':>7}",
    ]
    lines += [
        f"{item.name:<{width}} {with_interval(item.users, '.3f'):>15} "
        f"{with_interval(item.producers, '.3f'):>15} "
        f"{with_interval(item.share.scaled(area), ',.0f'):>24} {item.mapped:>7}"
        for item in accuracy.classes
    ]
    cells = [max(7, len(name)) for name in accuracy.names]
    lines += ["", "shares of the ground: rows are classes of the map, columns of the ground"]
    header = (f"{name:>{cell}}" for name, cell in zip(accuracy.names, cells, strict=True))
    lines.append(" ".join([" " * width, *header]))
    for name, row in zip(accuracy.names, accuracy.matrix, strict=True):
        values = (f"{value:>{cell}.4f}" for value, cell in zip(row, cells, strict=True))
        lines.append(" ".join([f"{name:<{width}}", *values]))
    return "\n".join(lines)


def with_interval(estimate: Estimate, form: str) -> str:
    """Return a value ± half of its interval; a dash for what is not known."""
    if math.isnan(estimate.value):
        return "-"
    half = "-" if math.isnan(estimate.error) else format(estimate.half_width, form)
    return f"{estimate.value:{form}} ± {half}"
