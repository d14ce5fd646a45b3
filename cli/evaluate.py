"""`geoseg evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from geoseg.geo.objects import ObjectScore
    from geoseg.train.metrics import Scores

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("weights", required=False)
@click.argument("data", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--split", default="val", show_default=True, help="Split of DATA/split.csv.")
@click.option(
    "--recipe",
    help="Recipe (file or name) that says which classes each group of images labels completely.",
)
@click.option(
    "--confusion", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this PNG."
)
@click.option("--scene", type=FILE, help="Instead of WEIGHTS and DATA: a class raster of predict …")
@click.option("--truth", type=FILE, help="… and polygons of the true objects.")
@click.option("--field", default="class", show_default=True, help="Class of a polygon in --truth.")
@click.option("--layer", help="Layer of --truth.  [default: all]")
@options.device
@options.precision
@options.backend
@options.tiling
@options.tta
@options.as_json
def command(
    weights: str | None,
    data: Path | None,
    scene: Path | None,
    truth: Path | None,
    field: str,
    layer: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Score WEIGHTS (a file, a registry name or `default`) on the labelled images in DATA.

    Or, with --scene and --truth, count the objects of a finished prediction that are right: those
    whose intersection with a true object is at least half of their union.
    """
    if scene is not None and truth is not None and weights is None:
        from geoseg.geo.objects import score_objects

        found = score_objects(scene, truth, field=field, layer=layer)
        results = {score.name: score.as_dict() for score in found}
        click.echo(json.dumps({"objects": results}) if as_json else object_table(found))
    elif scene is None and truth is None and weights is not None and data is not None:
        scores = score_pixels(weights, data, **how)
        click.echo(json.dumps(scores.as_dict()) if as_json else table(scores))
    else:
        raise click.UsageError("give WEIGHTS and DATA, or --scene and --truth")


def score_pixels(
    weights: str,
    data: Path,
    *,
    split: str,
    recipe: str | None,
    confusion: Path | None,
    device: str,
    precision: Any,
    backend: Any,
    tile_size: int,
    overlap: int,
    tta: bool,
) -> Scores:
    from geoseg.model.checkpoint import load_model
    from geoseg.model.inference import TileModel
    from geoseg.train.crops import hidden_by_group
    from geoseg.train.evaluate import evaluate
    from geoseg.train.folder import LabelledFolder
    from geoseg.train.pictures import confusion_picture, write_picture
    from geoseg.train.recipe import load_recipe

    folder = LabelledFolder.open(data)
    items = folder.split(split)
    rules = None if recipe is None else load_recipe(recipe)
    network = load_model(None if weights == "default" else weights)
    model = TileModel(network, device=device, precision=precision, tta=tta, backend=backend)
    with options.count_bar("evaluate", "image") as progress:
        scores = evaluate(
            model,
            items,
            hidden={} if rules is None else hidden_by_group(rules, items, len(folder.classes)),
            tile_size=tile_size,
            overlap=overlap,
            progress=progress,
        )
    if confusion is not None:
        write_picture(confusion, confusion_picture(scores))
    return scores


def table(scores: Scores) -> str:
    """For the terminal."""
    lines = [f"{'class':<20} {'IoU':>6} {'recall':>7} {'F1':>6} {'pixels':>11}"]
    lines += [
        f"{row.name:<20} {row.iou:6.3f} {row.accuracy:7.3f} {row.f1:6.3f} {row.pixels:>11,}"
        for row in scores.classes
        if row.pixels
    ]
    present = sum(row.pixels > 0 for row in scores.classes)
    lines.append(f"mIoU {scores.miou:.4f} over {present} classes, accuracy {scores.accuracy:.4f}")
    return "\n".join(lines)


def object_table(scores: list[ObjectScore]) -> str:
    """For the terminal."""
    lines = [
        f"{'class':<20} {'precision':>9} {'recall':>7} {'F1':>6} {'there':>7} {'found':>7} "
        f"{'right':>7}"
    ]
    lines += [
        f"{row.name:<20} {row.precision:9.3f} {row.recall:7.3f} {row.f1:6.3f} {row.truth:>7} "
        f"{row.found:>7} {row.matched:>7}"
        for row in scores
    ]
    return "\n".join(lines)
