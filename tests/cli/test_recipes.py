"""`geoseg recipes`, `geoseg train --set`, and the reference of recipe fields."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from training_sets import RGB, folder_of, mask_of, png, recipe_of

from geoseg.cli.main import main
from geoseg.recipes import shipped_recipes
from geoseg.train.recipe import Recipe, load_recipe
from geoseg.train.schema import dotted_keys

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_recipes_are_listed_with_what_they_are_for():
    lines = run("recipes", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(shipped_recipes())
    assert all(re.fullmatch(r"\w+ +[A-Z].{20,}\.", line) for line in lines)


def test_a_shown_recipe_is_the_file():
    for name, path in shipped_recipes().items():
        assert run("recipes", "show", name).stdout == path.read_text()
    refused = run("recipes", "show", "segnext_xl")
    assert refused.exit_code == 1
    assert "neither a recipe file nor a recipe of geoseg" in refused.output


def test_a_copy_replaces_nothing_unless_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = shipped_recipes()["segnext_t_own"].read_bytes()
    assert run("recipes", "copy", "segnext_t_own").exit_code == 0
    copy = tmp_path / "segnext_t_own.yaml"
    assert copy.read_bytes() == original
    copy.write_text("mine: 1")
    refused = run("recipes", "copy", "segnext_t_own")
    assert refused.exit_code == 1
    assert "exists already; --overwrite replaces it" in refused.output
    assert copy.read_text() == "mine: 1"
    assert run("recipes", "copy", "segnext_t_own", copy, "--overwrite").exit_code == 0
    assert copy.read_bytes() == original
    assert run("recipes", "copy", "segnext_t_own", tmp_path / "new" / "a.yaml").exit_code == 0
    onto_itself = run("recipes", "copy", copy, copy, "--overwrite")
    assert onto_itself.exit_code == 2
    assert copy.read_bytes() == original


# -- --set -------------------------------------------------------------------------------------


def test_set_values_are_those_of_the_run(tmp_path):
    image = png(tmp_path / "a.png", RGB[:, :64, :64].transpose(1, 2, 0))
    masks = [np.ascontiguousarray(mask_of(0, 1)[16:80, :64])]
    recipe = recipe_of(folder_of(tmp_path, image, masks), tmp_path / "r.yaml")
    changes = {
        "optimizer.lr": "2e-4",
        "stages.0.steps": "1",
        "stages.0.scale": "[0.5, 1]",
        "data.class_weights.roof": "3",
        "model.layer_scale": "0.5",
        "logger": "[csv]",
        "provenance": "a=b",
    }
    sets = [part for key, text in changes.items() for part in ("--set", f"{key}={text}")]
    folder = tmp_path / "run"
    result = run("train", recipe, "-o", folder, "--device", "cpu", *sets, "--seed", 7)
    assert result.exit_code == 0, result.output
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert written["optimizer"]["lr"] == 2e-4
    assert written["stages"] == [{"steps": 1, "batch": 1, "crop": 64, "scale": [0.5, 1.0]}]
    assert written["data"]["class_weights"] == {"roof": 3.0}
    assert written["model"]["layer_scale"] == 0.5
    assert (written["seed"], written["provenance"]) == (7, "a=b")
    assert list((folder / "logs").glob("*/metrics.csv"))
    assert not list(folder.glob("events.out.tfevents*"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lr=1", "unknown key lr; did you mean optimizer.lr?"),
        ("optimiser.lr=1", "unknown key optimiser; did you mean optimizer?"),
        ("optimizer.weight_decy=1", "did you mean optimizer.weight_decay?"),
        ("stages.3.steps=1", "stages has the items 0-0, but not 3"),
        ("stages.first.steps=1", "stages has the items 0-0, but not first"),
        ("seed.x=1", "seed is 0 (int); it must be a mapping"),
        ("optimizer.lr=fast", "optimizer.lr is 'fast'"),
        ("augment.flip=2", "augment.flip is 2 (int); it must be true or false"),
        ("data.groups=[1", "--set data.groups=[1 is not YAML"),
        ("seed", "'seed' is not of the form KEY=VALUE"),
        ("=1", "'=1' is not of the form KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path, setting, words):
    recipe = recipe_of(tmp_path, tmp_path / "r.yaml", seed=0)
    result = run("train", recipe, "-o", tmp_path / "run", "--set", setting)
    assert result.exit_code in (1, 2)
    assert words in result.output
    assert not (tmp_path / "run").exists()


def test_old_names_of_fields_are_read(tmp_path):
    path = recipe_of(tmp_path, tmp_path / "r.yaml", license="CC0", augment={"grey": 0.25})
    recipe = load_recipe(path)
    assert (recipe.license, recipe.augment.gray) == ("CC0", 0.25)


# -- the reference -----------------------------------------------------------------------------


def test_the_reference_is_current_and_complete():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "recipe_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "recipes.md").read_text()
    assert page == module.reference(), "run python docs/recipe_reference.py"
    for key in dotted_keys(Recipe):
        section, _, name = key.rpartition(".")
        title = f"## `{section}`\n" if section else "## Top level\n"
        assert f"\n| `{name}` | " in page.split(title)[1].split("\n## ")[0], key
