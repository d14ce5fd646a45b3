"""Algorithms on results: reports, counts, changes, accuracy, tiles to label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..commands import Command, Output, Parameter, last_json
from .shared import EXTRA, LOAD, MIN_CONFIDENCE, ONLY, OVERWRITE, Values

GROUP = "Results"
OBJECTS = Parameter("OBJECTS", "file", "Objects", "GeoPackage of Predict.", filter="gpkg")
LAYER = Output("OBJECTS", "vector", "Layer")


def new_layer(label: str) -> tuple[Parameter, ...]:
    """Return the parameters of an algorithm that writes a GeoPackage."""
    output = Parameter("OUTPUT", "new file", label, "", "--output", filter="GeoPackage (*.gpkg)")
    return EXTRA, OVERWRITE, LOAD, output


def written(values: Values, stdout: str) -> dict[str, Any]:
    """Return the GeoPackage that was written."""
    return {"OBJECTS": values["OUTPUT"]}


def estimates(stdout: str) -> list[str]:
    """Return lines on the accuracy of a map, with intervals of 95 %."""
    found = last_json(stdout)
    unit = found["area_unit"]
    lines = [f"overall accuracy {_interval(found['overall'], '.3f')}"]
    for name, row in found["classes"].items():
        users, producers = (
            _interval(row[f"{key}_accuracy"], ".3f") for key in ("users", "producers")
        )
        area = _interval(row["area"], ",.0f")
        lines.append(f"{name}: user's {users}, producer's {producers}, area {area} {unit}")
    return lines


def _interval(estimate: dict[str, Any], form: str) -> str:
    value, half = estimate["value"], estimate["ci95"]
    if value is None:
        return "-"
    return f"{value:{form}} ± {'-' if half is None else format(half, form)}"


COMMANDS = (
    Command(
        "report",
        "Report",
        GROUP,
        "Writes a page with a map, totals, histograms and pictures, as one HTML file that works "
        "without a network.",
        (
            OBJECTS,
            Parameter(
                "SCENE",
                "raster",
                "Scene",
                "Empty: as the objects record.",
                "--scene",
                optional=True,
            ),
            EXTRA,
            OVERWRITE,
            Parameter("OUTPUT", "new file", "Page", "", "--output", filter="HTML (*.html)"),
        ),
        ("report",),
    ),
    Command(
        "count",
        "Count",
        GROUP,
        "Counts objects, and adds up their areas, in polygons or in squares. An object counts "
        "once; its area is split where a border cuts it.",
        (
            OBJECTS,
            Parameter("UNITS", "layer", "Polygons, such as districts", "", optional=True),
            Parameter(
                "GRID",
                "text",
                "Or squares of this side",
                "Such as 500m or 2km. h3:9 are hexagons of H3.",
                "--grid",
                optional=True,
            ),
            ONLY,
            *new_layer("Counts"),
        ),
        ("count",),
        (LAYER,),
        written,
    ),
    Command(
        "derive",
        "Points, boxes, heat map",
        GROUP,
        "Writes a point in each object, the smallest rectangle around it, or a heat map.",
        (
            OBJECTS,
            Parameter(
                "LAYERS",
                "text",
                "Layers",
                "Of centroids, boxes and heatmap, joined by commas.",
                "--layers",
                "centroids,boxes",
            ),
            ONLY,
            *new_layer("Layers"),
        ),
        ("derive",),
        (LAYER,),
        written,
    ),
    Command(
        "change",
        "Change",
        GROUP,
        "Compares the objects of two dates: which are new, gone or changed. The shift between the "
        "flights is estimated from the objects and taken back.\n"
        "Objects near the limit of confidence come and go. Predict both dates with a least "
        "confidence of 0.4, say, and give the real limit here: then what is unsure at one date is "
        "neither new nor gone.",
        (
            Parameter("OLD", "file", "Objects of the first date", filter="gpkg"),
            Parameter("NEW", "file", "Objects of the second date", filter="gpkg"),
            Parameter(
                "MAX_SHIFT",
                "number",
                "Greatest shift to look for, m",
                "0: the two fit.",
                "--max-shift",
                10.0,
            ),
            replace(
                MIN_CONFIDENCE, help="Objects of a lower confidence at both dates are left out."
            ),
            Parameter(
                "UNCHANGED", "flag", "Also those that are the same", "", "--unchanged", False
            ),
            *new_layer("Changes"),
        ),
        ("change",),
        (LAYER,),
        written,
    ),
    Command(
        "sample",
        "Sample for accuracy",
        GROUP,
        "Draws pixels of a class raster at random, as points. Give each point the class that is "
        "on the ground, in its form; then run Accuracy.",
        (
            Parameter("CLASSES", "raster", "Class raster"),
            Parameter(
                "SIZE",
                "integer",
                "Points",
                "Empty: as a standard error of 0.01 takes.",
                "--size",
                optional=True,
            ),
            Parameter(
                "LEAST", "integer", "Least points of a class", "", "--min-per-class", 50, least=2
            ),
            *new_layer("Points"),
        ),
        ("sample",),
        (LAYER,),
        written,
    ),
    Command(
        "accuracy",
        "Accuracy",
        GROUP,
        "Estimates the accuracy of the map, and the area of each class, from labeled points, with "
        "intervals of 95 %. Save the points first.",
        (
            Parameter("POINTS", "file", "Labeled sample", filter="gpkg"),
            Parameter(
                "MAP",
                "raster",
                "Another class raster to judge",
                "Empty: the one that the sample was drawn from.",
                "--map",
                optional=True,
                advanced=True,
            ),
            EXTRA,
        ),
        ("accuracy", "--json"),
        (Output("OVERALL", "number", "Overall accuracy"),),
        lambda values, stdout: {"OVERALL": last_json(stdout)["overall"]["value"]},
        estimates,
    ),
    Command(
        "suggest",
        "Suggest tiles to label",
        GROUP,
        "Ranks the tiles of a scene by what labeling them would teach a model. Correct the "
        "objects within a tile and tick reviewed; Prepare labels takes the tiles as its area.",
        (
            Parameter(
                "CONFIDENCE",
                "raster",
                "Raster of probabilities",
                "Predict writes it if that is checked among its advanced parameters.",
            ),
            Parameter("COUNT", "integer", "Tiles", "", "--count", 20),
            Parameter("SIZE", "integer", "Side of a tile, px", "", "--size", 512, least=32),
            Parameter(
                "LABELED",
                "layer",
                "What is labeled already",
                "Tiles that these polygons touch are not suggested.",
                "--labeled",
                optional=True,
                advanced=True,
            ),
            *new_layer("Tiles"),
        ),
        ("suggest",),
        (LAYER,),
        written,
    ),
)
