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
    help="Initial weights: ImageNet weights of the backbone (.pth, .pkl), or a geoseg checkpoint, "
    "of whose classes those are kept that the data has by the same name; `default` = the built-in "
    "one.  [default: random]",
)
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@click.option(
    "--set",
    "settings",
    type=options.Pair("KEY=VALUE"),
    multiple=True,
    help="Replace a value of the recipe, as in --set optimizer.lr=1e-4; may be repeated. VALUE is "
    "YAML; items of lists are numbered: stages.0.steps.",
)
@options.device
@click.option(
    "--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Number of GPUs."
)
@click.option("--seed", type=int, help="Random seed; replaces the recipe's.")
@click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be used.")
@click.option(
    "--without-background",
    is_flag=True,
    help="Train although no pixel is background, if the classes cover everything.",
)
def command(
    recipe: str,
    data: Path | None,
    output: Path | None,
    pretrained: str | None,
    resume: bool,
    settings: tuple[tuple[str, str], ...],
    device: str,
    devices: int,
    seed: int | None,
    skip_bad: bool,
    without_background: bool,
) -> None:
    """Train a model by RECIPE, a YAML file or a name of `geoseg recipes list`.

    The data is a folder that `geoseg prepare` wrote, or any with a split.csv (group,name,split,
    image,mask) and a classes.csv (id,name,color; 0 is background). Images are of any kind that
    `geoseg predict` reads. The folder of the run gets best.safetensors and last.safetensors, for
    `geoseg predict --weights`. A run that was stopped continues with --resume.
    """
    from tqdm import tqdm

    from geoseg.guard import refuse_inputs
    from geoseg.native.malloc import keep_free_memory
    from geoseg.train.fit import RESULTS, fit
    from geoseg.train.recipe import load_recipe, parse_setting

    changes: dict[str, Any] = {key: parse_setting(key, text) for key, text in settings}
    if data is not None:
        changes["data.root"] = str(data)
    if seed is not None:
        changes["seed"] = seed
    folder = output or Path("runs") / Path(recipe).stem
    if not resume:
        refuse_inputs((folder / name for name in RESULTS), filter(None, (recipe, pretrained)))
    keep_free_memory()
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
