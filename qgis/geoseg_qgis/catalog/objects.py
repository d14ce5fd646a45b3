"""Algorithms that find, draw and write objects."""

from __future__ import annotations

from typing import Any

from ..commands import Command, Output, Parameter, last_json
from .shared import DEVICE, EXTRA, HOME, LOAD, MIN_CONFIDENCE, ONLY, OVERWRITE, WEIGHTS, Values

GROUP = "Objects"
FORMATS = ("shapefile", "flatgeobuf", "geojson", "geoparquet", "kml", "csv")


def outlines(pixels: str) -> tuple[Parameter, ...]:
    """Return the parameters of polygons, which predict and vectorize share."""
    return (
        Parameter(
            "MIN_AREA",
            "number",
            "Smallest area, m²",
            "Smaller regions take the class around "
            f"them; 0 keeps all. Empty: the area of 9 pixels{pixels}.",
            "--min-area",
            optional=True,
        ),
        Parameter(
            "SIMPLIFY",
            "number",
            "Tolerance of the outlines, m",
            "0 keeps the corners of all pixels. Empty: half a pixel.",
            "--simplify",
            optional=True,
            advanced=True,
        ),
        Parameter(
            "NO_SMOOTH",
            "flag",
            "Keep the corners of pixels",
            "",
            "--no-smooth",
            False,
            advanced=True,
        ),
        Parameter(
            "REGULARIZE",
            "flag",
            "Right angles and circles",
            "Courts, fields, pools and buildings get right angles, tanks become circles, where "
            "that fits.",
            "--regularize",
            False,
            settings=lambda on: ["all"],
        ),
        ONLY,
    )


def predicted(values: Values, stdout: str) -> dict[str, Any]:
    """Return the outputs of predict."""
    summary = last_json(stdout)
    files = summary["outputs"]
    return {
        "OBJECTS": files.get("gpkg"),
        "CLASSES": files["classes"],
        "CONFIDENCE_RASTER": files.get("confidence"),
        "COUNT": summary["objects"],
    }


def vectorized(values: Values, stdout: str) -> dict[str, Any]:
    """Return the outputs of vectorize."""
    done = last_json(stdout)
    return {"OBJECTS": done["output"], "COUNT": sum(done["features"].values())}


COMMANDS = (
    Command(
        "predict",
        "Predict",
        GROUP,
        "Finds objects in a scene: polygons of each class and a raster of classes.\n"
        "A run that was stopped continues when it is run again with the same output folder, and a "
        "scene that is done is not computed twice.",
        (
            Parameter("SCENE", "raster", "Scene", "A raster in a file that GDAL reads."),
            WEIGHTS,
            Parameter(
                "EXTENT",
                "extent",
                "Only in this rectangle",
                "Empty: the whole scene.",
                "--aoi",
                optional=True,
            ),
            Parameter(
                "AREA",
                "layer",
                "Only within these polygons",
                "",
                "--aoi",
                optional=True,
                advanced=True,
            ),
            *outlines(", as the model saw them"),
            MIN_CONFIDENCE,
            Parameter(
                "GSD",
                "number",
                "Pixel size for the model, m",
                "Empty: the scene's own, or the finest that the weights know.",
                "--gsd",
                optional=True,
                advanced=True,
            ),
            Parameter(
                "BANDS",
                "text",
                "Bands",
                "Three bands as R,G,B, or one, from 1. Empty: by their color interpretation.",
                "--bands",
                optional=True,
                advanced=True,
            ),
            Parameter(
                "RESCALE",
                "text",
                "Values that become black and white",
                "MIN,MAX. Empty: 8 bits as they are, else percentiles.",
                "--rescale",
                optional=True,
                advanced=True,
            ),
            Parameter(
                "CONFIDENCE",
                "flag",
                "Also write a raster of probabilities",
                "",
                "--confidence",
                False,
                advanced=True,
            ),
            Parameter(
                "TTA",
                "flag",
                "Average over 8 flips and rotations",
                "Better, in 8 times the time.",
                "--tta",
                False,
                advanced=True,
            ),
            DEVICE,
            EXTRA,
            OVERWRITE,
            LOAD,
            Parameter(
                "OUTPUT",
                "new folder",
                "Folder of the results",
                "",
                "--output",
                str(HOME / "results"),
            ),
        ),
        ("predict", "--json"),
        (
            Output("OBJECTS", "vector", "Objects"),
            Output("CLASSES", "raster", "Classes"),
            Output("CONFIDENCE_RASTER", "raster", "Confidence"),
            Output("COUNT", "number", "Number of objects"),
        ),
        predicted,
        continues="Run it again with the same output folder: it continues from what is finished.",
    ),
    Command(
        "vectorize",
        "Vectorize class raster",
        GROUP,
        "Turns a raster of one band of whole numbers into polygons, with a layer for each class. "
        "Neighbors share their boundary, and nothing overlaps.",
        (
            Parameter("CLASSES", "raster", "Class raster"),
            *outlines(""),
            Parameter(
                "SPECKS",
                "choice",
                "Regions below the smallest area",
                "fill: they take the class around them; drop: they leave holes.",
                "--specks",
                "fill",
                advanced=True,
                choices=("fill", "drop"),
            ),
            Parameter(
                "SKIP_NONE",
                "flag",
                "Polygons of value 0, too",
                "",
                "--skip-none",
                False,
                advanced=True,
            ),
            Parameter(
                "TABLE",
                "file",
                "Table of classes",
                "CSV with the columns id, name and color. Empty: as the raster says.",
                "--classes",
                optional=True,
                advanced=True,
                filter="csv",
            ),
            EXTRA,
            OVERWRITE,
            LOAD,
            Parameter(
                "OUTPUT", "new file", "GeoPackage", "", "--output", filter="GeoPackage (*.gpkg)"
            ),
        ),
        ("vectorize", "--json"),
        (Output("OBJECTS", "vector", "Objects"), Output("COUNT", "number", "Number of polygons")),
        vectorized,
    ),
    Command(
        "export",
        "Export",
        GROUP,
        "Writes a GeoPackage of Predict or Vectorize, edited or not, in another format. Sizes are "
        "measured again.",
        (
            Parameter("OBJECTS", "file", "GeoPackage", filter="gpkg"),
            ONLY,
            MIN_CONFIDENCE,
            Parameter(
                "FORMAT",
                "choice",
                "Format",
                "shapefile: a file for each class; geojson and kml: "
                "in WGS 84; csv: with the outlines as WKT.",
                "--format",
                choices=FORMATS,
            ),
            Parameter(
                "CRS",
                "crs",
                "Reproject to",
                "Empty: the CRS of the objects.",
                "--t-srs",
                optional=True,
            ),
            EXTRA,
            OVERWRITE,
            Parameter(
                "OUTPUT",
                "new folder",
                "Folder of the files",
                "",
                "--output",
                str(HOME / "exported"),
            ),
        ),
        ("export",),
    ),
)
