"""Algorithms that train and score models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..commands import Command, Output, Parameter, last_json
from .shared import DEVICE, EXTRA, HOME, Values

GROUP = "Training"


def score_lines(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each class that has true pixels or objects."""
    return [
        f"{name}: " + ", ".join(f"{key} {_number(value)}" for key, value in row.items())
        for name, row in rows.items()
        if row.get("pixels") or row.get("truth")
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def shortened(steps: int) -> list[str]:
    """Return the settings of a recipe of `steps` steps.

    Warm-up and validations shrink with them: without a validation, a run that is stopped has
    nothing from which it could continue.
    """
    return [
        f"stages.0.steps={steps}",
        f"optimizer.warmup_steps={min(100, steps // 10)}",
        f"val_every={max(5, min(250, steps // 6))}",
    ]


def trained(values: Values, stdout: str) -> dict[str, Any]:
    """Return the outputs of train."""
    return {"WEIGHTS": str(Path(values["OUTPUT"]) / "best.safetensors")}


def pixel_scores(values: Values, stdout: str) -> dict[str, Any]:
    """Return the outputs of evaluate."""
    scores = last_json(stdout)
    return {"MIOU": scores["miou"], "ACCURACY": scores["accuracy"]}


def object_scores(values: Values, stdout: str) -> dict[str, Any]:
    """Return the outputs of evaluateobjects: those of all classes together."""
    rows = last_json(stdout)["objects"].values()
    found, truth, matched = (sum(row[key] for row in rows) for key in ("found", "truth", "matched"))
    return {
        "PRECISION": matched / found if found else 0.0,
        "RECALL": matched / truth if truth else 0.0,
    }


COMMANDS = (
    Command(
        "preparelabels",
        "Prepare labels",
        GROUP,
        "Cuts a scene, and the polygons drawn over it, into patches for training.\n"
        "The class of a polygon is its attribute; where that is empty, the name of its layer. "
        "Edits that are not saved yet count, too. Draw an area around the regions in which no "
        "object is missing: the rest of them is background. Several scenes can be prepared into "
        "one folder, one after the other.",
        (
            Parameter("SCENE", "raster", "Scene"),
            Parameter(
                "LABELS",
                "layers",
                "Layers of drawn or corrected objects",
                "For a corrected prediction choose all its layers.",
            ),
            Parameter("FIELD", "field", "Attribute that names the class", "", "--field", "class"),
            Parameter(
                "AREA",
                "layer",
                "Area in which everything is labeled",
                "Without it a model learns no background, unless polygons are of class background. "
                "Of a layer with the attribute reviewed, the polygons in which it is true.",
                "--area",
                optional=True,
            ),
            Parameter(
                "UPDATE",
                "flag",
                "The layers are a corrected prediction",
                "Outside of the area, only those objects are labels that you drew, reshaped or "
                "gave another class. Without this, all are.",
                "--update",
                False,
            ),
            Parameter(
                "PATCH",
                "integer",
                "Side of a patch, px",
                "Both training and validation need a "
                "patch: choose a smaller side if the labels cover little.",
                "--patch",
                512,
                advanced=True,
            ),
            Parameter(
                "VAL_SHARE",
                "number",
                "Share for validation",
                "",
                "--val-share",
                0.2,
                advanced=True,
            ),
            Parameter(
                "SKIP_BAD",
                "flag",
                "Leave out what cannot be used",
                "",
                "--skip-bad",
                False,
                advanced=True,
            ),
            EXTRA,
            Parameter(
                "OUTPUT", "new folder", "Folder of the patches", default=str(HOME / "patches")
            ),
        ),
        ("prepare", "labels"),
    ),
    Command(
        "train",
        "Train",
        GROUP,
        "Trains a model on prepared patches. The recipe's 1,500 steps take one to two hours on a "
        "CPU and minutes on a GPU; fewer are faster and find less. The log says how much is left.\n"
        "A run that was stopped continues with the same folder and “Continue the run”, from the "
        "last of about six validations.",
        (
            Parameter("DATA", "folder", "Folder of the patches", "", "--data"),
            Parameter(
                "PRETRAINED",
                "file",
                "Weights to start from",
                "A .safetensors file, or default: the built-in weights. Empty: random.",
                "--pretrained",
                "default",
                optional=True,
            ),
            Parameter(
                "STEPS",
                "integer",
                "Steps",
                "Empty: as in the recipe (1,500). 300 are a fair first try, 50 show that all "
                "works. On a CPU a step takes some seconds.",
                "--set",
                optional=True,
                least=20,
                settings=shortened,
            ),
            Parameter(
                "RESUME",
                "flag",
                "Continue the run",
                "Continue the stopped run in this folder.",
                "--resume",
                False,
            ),
            Parameter(
                "RECIPE",
                "file",
                "Recipe",
                "A name of geoseg recipes list, or a YAML file.",
                default="lite2_own",
                optional=True,
                advanced=True,
            ),
            DEVICE,
            EXTRA,
            Parameter(
                "OUTPUT", "new folder", "Folder of the run", "", "--output", str(HOME / "run")
            ),
        ),
        ("train",),
        (Output("WEIGHTS", "file", "Best weights"),),
        trained,
        continues="Run it again with the same folder and “Continue the run”.",
    ),
    Command(
        "evaluate",
        "Evaluate",
        GROUP,
        "Scores weights on the patches that were set aside for validation: IoU, precision and "
        "recall of each class by pixels.",
        (
            Parameter(
                "WEIGHTS",
                "file",
                "Weights",
                "A .safetensors file, the name of fetched weights, or default: the built-in ones.",
                default="default",
                optional=True,
            ),
            Parameter("DATA", "folder", "Folder of the patches"),
            DEVICE,
            EXTRA,
            Parameter(
                "CONFUSION",
                "new file",
                "Confusion matrix",
                "",
                "--confusion",
                optional=True,
                filter="PNG (*.png)",
            ),
        ),
        ("evaluate", "--json"),
        (Output("MIOU", "number", "mIoU"), Output("ACCURACY", "number", "Accuracy")),
        pixel_scores,
        lambda stdout: score_lines(last_json(stdout)["classes"]),
    ),
    Command(
        "evaluateobjects",
        "Evaluate objects",
        GROUP,
        "Counts the objects of a prediction that match drawn ones: their intersection is at least "
        "half of their union.",
        (
            Parameter("CLASSES", "raster", "Class raster of the prediction", "", "--scene"),
            Parameter("TRUTH", "layers", "Layers of the true objects", "", "--truth"),
            Parameter("FIELD", "field", "Attribute that names the class", "", "--field", "class"),
            EXTRA,
        ),
        ("evaluate", "--json"),
        (Output("PRECISION", "number", "Precision"), Output("RECALL", "number", "Recall")),
        object_scores,
        lambda stdout: score_lines(last_json(stdout)["objects"]),
    ),
)
