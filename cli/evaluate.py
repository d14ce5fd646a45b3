"""`geoseg evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.native.malloc import keep_free_memory

from . import options

if TYPE_CHECKING:
    from geoseg.geo.layers.object_scores import ObjectScore
    from geoseg.train.dataset import LabelledFolder
    from geoseg.train.metrics import Evaluation

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("weights", required=False)
@click.argument("data", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--split", default="val", show_default=True, help="Which split of DATA to score.")
@click.option(
    "--recipe",
    help="Recipe (file or name) that says which classes each group of images labels completely.  "
    "[default: recipe.yaml beside WEIGHTS]",
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

    Classes are told by name; DATA may list only some of those that the weights know. Where DATA
    has a boxes.csv (`geoseg prepare boxes`), objects are counted by bounding boxes, too.

    Or, with --scene and --truth, count the objects of a finished prediction that are right: those
    whose intersection with a true object is at least half of their union.
    """
    if scene is not None and truth is not None and weights is None:
        from geoseg.geo.layers.object_scores import score_objects

        if how["confusion"] is not None:
            raise click.UsageError("--confusion goes with WEIGHTS and DATA")

        found = score_objects(scene, truth, field=field, layer=layer)
        results = {score.name: score.as_dict() for score in found}
        click.echo(json.dumps({"objects": results}) if as_json else object_table(found))
    elif scene is None and truth is None and weights is not None and data is not None:
        evaluation = score_pixels(weights, data, **how)
        click.echo(json.dumps(evaluation.as_dict()) if as_json else table(evaluation))
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
) -> Evaluation:
    from geoseg.model.load import load_model, locate_weights
    from geoseg.model.tile_model import TileModel
    from geoseg.train.crops import hidden_by_group
    from geoseg.train.dataset import IDS, LabelledFolder
    from geoseg.train.evaluate import evaluate, ids_by_name
    from geoseg.train.figures import confusion_picture, write_picture
    from geoseg.train.recipe import load_recipe

    folder = LabelledFolder.open(data)
    for warning in folder.warnings:
        click.echo(f"Warning: {warning}", err=True)
    items = folder.split(split)
    path = locate_weights(None if weights == "default" else weights)
    if recipe is None and (own := path.with_name("recipe.yaml")).is_file():
        recipe = str(own)
        click.echo(f"Groups are labelled as {own} says (--recipe overrules)", err=True)
    if confusion is not None:
        check_picture(confusion, path, folder)
    rules = None if recipe is None else load_recipe(recipe)
    network = load_model(path)
    ids_by_name(folder, network.metadata.classes)
    hidden = {} if rules is None else hidden_by_group(rules, items, len(folder.classes))
    keep_free_memory()
    model = TileModel(network, device=device, precision=precision, tta=tta, backend=backend)
    with options.count_bar("evaluate", "image") as progress:
        evaluation = evaluate(
            model,
            folder,
            items,
            hidden=hidden,
            tile_size=tile_size,
            overlap=overlap,
            progress=progress,
        )
    present = [row.name for row in evaluation.scores.classes if row.pixels]
    if len(present) == 1:
        click.echo(
            f"Warning: every labelled pixel is {present[0]}: the scores say nothing about the "
            f"other classes; {IDS}",
            err=True,
        )
    if confusion is not None:
        write_picture(confusion, confusion_picture(evaluation.scores))
    return evaluation


def check_picture(picture: Path, weights: Path, folder: LabelledFolder) -> None:
    """Raises OptionError where the picture would not be one, or replace what is scored."""
    from geoseg.errors import OptionError
    from geoseg.guard import refuse_inputs

    if picture.suffix.lower() != ".png":
        raise OptionError(f"--confusion {picture}: a PNG is drawn; give a name that ends in .png")
    items = [item for split in folder.splits.values() for item in split]
    refuse_inputs([picture], [weights, *(f for item in items for f in (item.image, item.mask))])


def table(evaluation: Evaluation) -> str:
    """For the terminal."""
    from geoseg.train.box_scores import MIN_IOUS

    scores = evaluation.scores
    lines = [f"{'class':<20} {'IoU':>6} {'precision':>9} {'recall':>7} {'F1':>6} {'pixels':>11}"]
    lines += [
        f"{row.name:<20} {row.iou:6.3f} {row.precision:9.3f} {row.recall:7.3f} {row.f1:6.3f} "
        f"{row.pixels:>11,}"
        for row in scores.classes
        if row.pixels
    ]
    if len(evaluation.groups) > 1:
        lines += ["", f"{'group':<20} {'mIoU':>6}"]
        lines += [f"{name:<20} {miou:6.3f}" for name, miou in evaluation.groups.items()]
        lines.append("")
    present = sum(row.pixels > 0 for row in scores.classes)
    lines.append(f"mIoU {scores.miou:.4f} over {present} classes, accuracy {scores.accuracy:.4f}")
    if evaluation.objects is not None:
        for min_iou in MIN_IOUS:
            lines += ["", f"objects, by bounding boxes that overlap by {min_iou:g}:"]
            lines.append(object_table(evaluation.objects.scores(min_iou)))
    if evaluation.unlisted:
        lines.append(
            "not among the classes of the data, so not held against its background: "
            + ", ".join(evaluation.unlisted)
        )
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
