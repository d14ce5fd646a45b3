"""Training recipes that come with geoseg, by name. `geoseg.train.recipe` reads them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from geoseg.errors import RecipeError


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes by name."""
    folder = Path(str(files("geoseg.configs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file `name`, or the shipped recipe of that name.

    Raises:
        RecipeError: neither exists.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    if name not in shipped:
        known = ", ".join(shipped)
        raise RecipeError(f"{name} is neither a recipe file nor a recipe of geoseg: {known}")
    return shipped[name]


def summary(path: Path) -> str:
    """Return the first line of a recipe, a comment that says what it is for."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()
