"""The files of one prediction: planned and checked first, complete or absent in the end."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from geopandas import GeoDataFrame

from geoseg.classes import IGNORE, LabelClass
from geoseg.clock import Clock
from geoseg.errors import OptionError, OutputError
from geoseg.geo.features import features
from geoseg.geo.layers import write_layers
from geoseg.geo.logits import LogitsWriter
from geoseg.geo.polygons import BlockPolygons
from geoseg.geo.raster import RasterWriter
from geoseg.geo.seams import merge
from geoseg.geo.simplify import simplify
from geoseg.geo.view import View
from geoseg.heap import return_free_memory

if TYPE_CHECKING:
    from geoseg.predict import BlockResult

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

    def __init__(self, view: View, classes: tuple[LabelClass, ...], request: Request) -> None:
        self.view, self.classes, self.request = view, classes, request
        self.paths = request.paths(view.scene.stem)
        self.polygons: list[BlockPolygons] = []
        self.valid_pixels = 0
        self.closing = ExitStack()

    def __enter__(self) -> Outputs:
        if not self.request.overwrite and (there := [p for p in self.paths.values() if p.exists()]):
            raise OutputError(f"{there[0]} exists; give --overwrite or another folder (-o)")
        try:
            self.request.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.request.folder} cannot be made: {error.strerror}; choose another (-o)"
            ) from error
        geobox = self.view.scene.geobox
        with ExitStack() as opening:
            self.class_raster = opening.enter_context(
                RasterWriter.of_classes(self.paths["classes"], geobox, self.classes)
            )
            if self.request.confidence:
                self.confidence_raster = opening.enter_context(
                    RasterWriter.of_confidence(self.paths["confidence"], geobox)
                )
            if self.request.logits:
                self.logits_store = opening.enter_context(
                    LogitsWriter(self.paths["logits"], self.view.geobox, self.classes)
                )
            self.closing = opening.pop_all()
        return self

    def write(self, result: BlockResult) -> None:
        """Take one block. Not for several threads at once."""
        self.class_raster.write(result.window, result.class_ids)
        if result.confidence is not None:
            self.confidence_raster.write(result.window, result.confidence)
        if result.logits is not None:
            self.logits_store.write(result.block.core, result.logits)
        self.polygons.append(result.polygons)
        self.valid_pixels += int((result.class_ids != IGNORE).sum())

    def finish(self, clock: Clock) -> Written:
        """Unite the polygons, write the layers and complete the rasters."""
        geobox, request = self.view.scene.geobox, self.request
        pixel = geobox.gsd or 1.0
        with clock.stage("merge"):
            polygons = merge(self.polygons).without_specks(request.min_area / pixel**2)
        return_free_memory()
        with clock.stage("simplify"):
            tolerance = 0.5 if request.simplify is None else request.simplify / pixel
            geometry = simplify(polygons, tolerance)
            table = features(polygons, geometry, geobox, self.classes)
        return_free_memory()
        with clock.stage("write"):
            self.closing.close()
            return_free_memory()
            for kind in request.formats:
                write_layers(self.paths[kind], table, self.classes)
        return Written(self.paths, table, self.valid_pixels)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.__exit__(kind, error, trace)
