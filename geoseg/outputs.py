"""The files of one prediction: planned and checked first, complete or absent in the end."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from geopandas import GeoDataFrame

from geoseg.classes import LabelClass
from geoseg.errors import OptionError, OutputError
from geoseg.geo.polygons import BlockPolygons
from geoseg.geo.scene import Scene

FORMATS = ("gpkg",)
"""Vector formats that predict writes itself."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a user wants written, and where."""

    folder: Path
    """Made if it does not exist."""
    formats: tuple[str, ...] = ("gpkg",)
    """Of the polygons."""
    confidence: bool = False
    """Also `<stem>.confidence.tif`."""
    logits: bool = False
    """Also `<stem>.logits.zarr`."""
    overwrite: bool = False
    """Replace what exists."""
    simplify: float | None = None
    """Tolerance of the outlines, metres; None = half a pixel."""
    min_area: float = 0.0
    """Smaller objects are left out, m²."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise OptionError(f"--format {unknown[0]}: choose from {', '.join(FORMATS)}")
        for flag, value in (("--simplify", self.simplify), ("--min-area", self.min_area)):
            if value is not None and not value >= 0:
                raise OptionError(f"{flag} is {value}; give 0 or more")

    def paths(self, stem: str) -> dict[str, Path]:
        """By kind, in the order in which they are completed."""
        wanted = {
            "classes": f"{stem}.classes.tif",
            "confidence": f"{stem}.confidence.tif" if self.confidence else None,
            "logits": f"{stem}.logits.zarr" if self.logits else None,
            **{name: f"{stem}.{name}" for name in self.formats},
        }
        return {kind: self.folder / name for kind, name in wanted.items() if name}


@dataclass(frozen=True, slots=True)
class Written:
    """What a prediction left on disk."""

    paths: dict[str, Path]
    features: GeoDataFrame
    """The polygons, with their attributes, in the scene's CRS."""
    valid_pixels: int


class Outputs:
    """Takes finished blocks in any order and writes what the request asks for.

    A context: when it is left by an error, nothing is at the final paths that was not there.
    """

    def __init__(self, scene: Scene, classes: tuple[LabelClass, ...], request: Request) -> None:
        self.scene, self.classes, self.request = scene, classes, request
        self.paths = request.paths(scene.stem)
        self.polygons: list[BlockPolygons] = []
        self.valid_pixels = 0
        self.writers = ExitStack()

    def __enter__(self) -> Outputs:
        if not self.request.overwrite:
            for path in self.paths.values():
                if path.exists():
                    raise OutputError(f"{path} exists; give --overwrite or another folder (-o)")
        ...
