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
    from geoseg.train.dataset import LabeledFolder
    from geoseg.train.metrics import Evaluation, Scores

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("weights", required=False)
@click.argument("data", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--split", default="val", show_default=True, help="Which split of DATA to score.")
@click.option(
    "--recipe",
    help="Recipe (file or name) with the classes that each group of images labels completely.  "
    "[default: recipe.yaml beside WEIGHTS]",
)
@click.option("--groups", "by_group", is_flag=True, help="Print the scores of each group as well.")
@click.option(
    "--confusion",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the confusion matrix into this PNG.",
)
@click.option(
    "--scene",
    type=FILE,
    help="Instead of WEIGHTS and DATA: layers of predict (its GeoPackage) or its class raster …",
)
@click.option("--truth", type=FILE, help="… and polygons of the true objects.")
@click.option("--field", default="class", show_default=True, help="Class of a polygon in --truth.")
@click.option("--layer", help="Layer of --truth.  [default: all]")
@options.devices
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
    by_group: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Score WEIGHTS (a file, a registry name or `default`) on the labeled images in DATA.

    Classes are matched by name; DATA may list only some of those of the weights. If DATA has a
    boxes.csv (`geoseg prepare boxes`), objects are scored by bounding boxes as well. --json has
    the scores of each group, too. --backend auto is torch, so that scores do not depend on what is
    installed; quantized weights always run on OpenVINO.

    Or, with --scene and --truth, score the objects of a finished prediction: an object matches a
    true one if their intersection is at least half of their union.
    """
    if scene is not None and truth is not None and weights is None:
        from geoseg.geo.layers.object_scores import score_objects

        if (drawn := how["confusion"] is not None) or by_group:
            flag = "--confusion" if drawn else "--groups"
            raise click.UsageError(f"{flag} goes with WEIGHTS and DATA")

        found = score_objects(scene, truth, field=field, layer=layer)
        results = {score.name: score.as_dict() for score in found}
        click.echo(json.dumps({"objects": results}) if as_json else object_table(found))
    elif scene is None and truth is None and weights is not None and data is not None:
        evaluation = score_pixels(weights, data, **how)
        click.echo(
            json.dumps(evaluation.as_dict()) if as_json else table(evaluation, by_group=by_group)
        )
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
    """Score weights on labeled images, with warnings on stderr."""
    from geoseg.model.load import load_model, locate_weights
    from geoseg.model.tile_model import TileModel
    from geoseg.train.crops import hidden_by_group
    from geoseg.train.dataset import ID_HINT, LabeledFolder
    from geoseg.train.evaluate import evaluate, ids_by_name
    from geoseg.train.figures import confusion_picture, write_picture
    from geoseg.train.recipe import load_recipe

    folder = LabeledFolder.open(data)
    for warning in folder.warnings:
        click.echo(f"Warning: {warning}", err=True)
    items = folder.split(split)
    path = locate_weights(weights)
    if recipe is None and (own := path.with_name("recipe.yaml")).is_file():
        recipe = str(own)
        click.echo(f"Labeled classes of each group: as in {own} (or give --recipe)", err=True)
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
            f"Warning: every labeled pixel is {present[0]}: the scores say nothing about the "
            f"other classes; {ID_HINT}",
            err=True,
        )
    if confusion is not None:
        write_picture(confusion, confusion_picture(evaluation.scores))
    return evaluation


def check_picture(picture: Path, weights: Path, folder: LabeledFolder) -> None:
    """Raise OptionError if the picture is not a PNG or would replace an input."""
    from geoseg.errors import OptionError
    from geoseg.guard import refuse_inputs

    if picture.suffix.lower() != ".png":
        raise OptionError(f"--confusion {picture} is not a PNG; give a name that ends in .png")
    items = [item for split in folder.splits.values() for item in split]
    refuse_inputs([picture], [weights, *(f for item in items for f in (item.image, item.mask))])


def table(evaluation: Evaluation, *, by_group: bool) -> str:
    """Return all scores for the terminal; `by_group`, those of each group as well."""
    parts = [pixel_table(evaluation.scores), *object_tables(evaluation, None)]
    if by_group:
        for group, scores in evaluation.groups.items():
            parts += [f"group {group}\n{pixel_table(scores)}", *object_tables(evaluation, group)]
    elif len(evaluation.groups) > 1:
        lines = [f"{'group':<20} {'mIoU':>6} {'accuracy':>9}"]
        lines += [
            f"{group:<20} {scores.miou:6.3f} {scores.accuracy:9.3f}"
            for group, scores in evaluation.groups.items()
        ]
        parts.append("\n".join(lines))
    if evaluation.unlisted:
        parts.append(
            "classes that the data does not list, so its background does not refute them: "
            + ", ".join(evaluation.unlisted)
        )
    return "\n\n".join(parts)


def pixel_table(scores: Scores) -> str:
    """Return scores by class, of classes with true pixels, and their means."""
    present = [row for row in scores.classes if row.pixels]
    lines = [f"{'class':<20} {'IoU':>6} {'precision':>9} {'recall':>7} {'F1':>6} {'pixels':>11}"]
    lines += [
        f"{row.name:<20} {row.iou:6.3f} {row.precision:9.3f} {row.recall:7.3f} {row.f1:6.3f} "
        f"{row.pixels:>11,}"
        for row in present
    ]
    means = f"mIoU {scores.miou:.4f} over {len(present)} classes, accuracy {scores.accuracy:.4f}"
    return "\n".join([*lines, means])


def object_tables(evaluation: Evaluation, group: str | None) -> list[str]:
    """Return a table for each IoU threshold, of a group or of all images with boxes."""
    from geoseg.train.box_scores import MIN_IOUS

    objects = evaluation.objects
    if objects is None or group not in (None, *objects.groups):
        return []
    return [
        f"objects whose bounding boxes have an IoU of {min_iou:g} or more\n"
        + object_table(objects.scores(min_iou, group))
        for min_iou in MIN_IOUS
    ]


def object_table(scores: list[ObjectScore]) -> str:
    """Return object scores by class."""
    lines = [
        f"{'class':<20} {'precision':>9} {'recall':>7} {'F1':>6} {'true':>7} {'found':>7} "
        f"{'matched':>7}"
    ]
    lines += [
        f"{row.name:<20} {row.precision:9.3f} {row.recall:7.3f} {row.f1:6.3f} {row.truth:>7} "
        f"{row.found:>7} {row.matched:>7}"
        for row in scores
    ]
    return "\n".join(lines)
