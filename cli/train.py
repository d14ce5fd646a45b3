"""`geoseg train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of images and masks.  [default: the recipe's]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run.  [default: runs/<recipe>]",
)
@click.option(
    "--pretrained",
    metavar="NAME|PATH",
    help="Weights to start from: ImageNet weights of the backbone (.pth, .pkl), or a geoseg "
    "checkpoint, also of other classes, of which those are kept that the data has by the same "
    "name; `default` = the built-in ones.  [default: random]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@options.device
@click.option(
    "--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Number of devices."
)
@click.option("--seed", type=int, help="Random seed; replaces the recipe's.")
@click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be used.")
@click.option(
    "--without-background",
    is_flag=True,
    help="Train although no pixel is background: the classes are to cover everything.",
)
def command(
    recipe: str,
    data: Path | None,
    output: Path | None,
    pretrained: str | None,
    resume: bool,
    device: str,
    devices: int,
    seed: int | None,
    skip_bad: bool,
    without_background: bool,
) -> None:
    """Train a model by RECIPE, a YAML file or the name of one that geoseg has (segnext_t_own, …).

    The data is a folder that `geoseg prepare` made, or any with a split.csv (group,name,split,
    image,mask) and a classes.csv (id,name,color; 0 is background). Images are of any kind that
    `geoseg predict` reads. The run's folder gets best.safetensors and last.safetensors, which
    `geoseg predict --weights` takes. Stopped, by Ctrl-C too, a run goes on with --resume.
    """
    from tqdm import tqdm

    from geoseg.guard import refuse_inputs
    from geoseg.train.fit import RESULTS, fit
    from geoseg.train.recipe import load_recipe

    changes: dict[str, Any] = {"data.root": str(data) if data else None, "seed": seed}
    changes = {key: value for key, value in changes.items() if value is not None}
    folder = output or Path("runs") / Path(recipe).stem
    if not resume:
        refuse_inputs((folder / name for name in RESULTS), filter(None, (recipe, pretrained)))
    with options.count_bar("read", "image") as progress:
        fit(
            load_recipe(recipe, **changes),
            folder,
            resume=resume,
            pretrained=pretrained,
            device=device,
            devices=devices,
            skip_bad=skip_bad,
            without_background=without_background,
            report=tqdm.write,
            progress=progress,
        )
