"""`geoseg evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from geoseg.train.metrics import Scores


@click.command()
@click.argument("weights")
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", default="val", show_default=True, help="Split of DATA/split.csv.")
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Recipe that says which classes each group of images labels completely.",
)
@options.device
@options.precision
@options.tiling
@options.tta
@options.as_json
def command(
    weights: str,
    data: Path,
    split: str,
    recipe: Path | None,
    device: str,
    precision: str,
    tile_size: int,
    overlap: int,
    tta: bool,
    as_json: bool,
) -> None:
    """Score WEIGHTS (a file, a registry name or `default`) on the labelled images in DATA."""
    from tqdm import tqdm

    from geoseg.model.checkpoint import load_model
    from geoseg.model.inference import TileModel
    from geoseg.train.data import read_split
    from geoseg.train.evaluate import evaluate
    from geoseg.train.recipe import load_recipe

    items = read_split(data, split)
    complete = {}
    if recipe is not None:
        rules = load_recipe(recipe)
        complete = {item.group: rules.complete_ids(item.group) for item in items}
    network = load_model(None if weights == "default" else weights)
    model = TileModel(network, device=device, precision=precision, tta=tta)  # type: ignore[arg-type]
    with tqdm(total=len(items), unit="image", disable=None) as bar:
        scores = evaluate(
            model,
            items,
            complete=complete,
            tile_size=tile_size,
            overlap=overlap,
            progress=lambda item: bar.update(),
        )
    click.echo(json.dumps(scores.as_dict()) if as_json else table(scores))


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
