"""`geoseg recipes`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("recipes")
def command() -> None:
    """List, show and copy the training recipes that come with geoseg."""


@command.command("list")
def list_() -> None:
    """List the recipes."""
    from geoseg.recipes import shipped_recipes, summary

    for name, path in shipped_recipes().items():
        click.echo(f"{name:<17} {summary(path)}")


@command.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the recipe NAME. docs/recipes.md explains every field."""
    from geoseg.recipes import find_recipe

    click.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@command.command()
@click.argument("name")
@click.argument("target", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
def copy(name: str, target: Path | None, overwrite: bool) -> None:
    """Copy the recipe NAME to FILE, to be changed.  [default: NAME.yaml]

    To change a few values only, use `geoseg train NAME --set KEY=VALUE`.
    """
    from geoseg.datasets.layout import atomic_write
    from geoseg.errors import OutputError
    from geoseg.guard import refuse_inputs
    from geoseg.recipes import find_recipe

    source = find_recipe(name)
    target = target or Path(source.name)
    if target.is_dir():
        target /= source.name
    refuse_inputs([target], [str(source)])
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; --overwrite replaces it")
    atomic_write(target, source.read_bytes())
    click.echo(f"{target}: change it, then geoseg train {target}")
