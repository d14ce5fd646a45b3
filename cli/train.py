"""`geoseg train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images and masks.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run.  [default: runs/<recipe>]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps …")
@click.option("--seed", type=int, help="Instead of the recipe's.")
def command(
    recipe: Path,
    data: Path | None,
    output: Path | None,
    resume: bool,
    device: str,
    seed: int | None,
) -> None:
    """Train a model by RECIPE, a YAML file as in configs/."""
    from geoseg.train.fit import fit
    from geoseg.train.recipe import load_recipe

    changes: dict[str, Any] = {}
    if data is not None:
        changes["data.root"] = str(data)
    if seed is not None:
        changes["seed"] = seed
    folder = output or Path("runs") / recipe.stem
    best = fit(load_recipe(recipe, **changes), folder, resume=resume, device=device)
    click.echo(f"best checkpoint: {best}")
