"""The files of one prediction: planned and checked first, complete or absent in the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame

from geoseg.classes import IGNORE, LabelClass
from geoseg.clock import Clock
from geoseg.errors import OutputError
from geoseg.geo.export import FORMATS, write_format
from geoseg.geo.features import features, no_features, tables
from geoseg.geo.finish import Finish, Finished
from geoseg.geo.flat import Polygons
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers import Layers
from geoseg.geo.logits import LogitsWriter
from geoseg.geo.polygons import BlockPolygons
from geoseg.geo.raster import RasterWriter
from geoseg.geo.styles import layer_styles
from geoseg.grid import Window
from geoseg.heap import return_free_memory
from geoseg.request import Request
from geoseg.summary import ClassTotal
from geoseg.tasks import BlockResult, Plan

TOLERANCE = 0.5
"""Of outlines, by default: pixels."""
BYTES_PER_PIXEL = 0.4
"""Of results and unfinished blocks together: what busy scenes took, and a half more."""
BYTES_CONFIDENCE, BYTES_LOGITS = 1.5, 1.0
"""The same for confidence and logits; each is on disk twice before the end."""


def planned_paths(request: Request, stem: str) -> dict[str, Path]:
    """Results by kind, in the order in which they are completed."""
    wanted = {
        "classes": f"{stem}.classes.tif",
        "confidence": f"{stem}.confidence.tif" if request.confidence else None,
        "logits": f"{stem}.logits.zarr" if request.logits else None,
        **{kind: f"{stem}.gpkg" for kind in request.formats if kind == "gpkg"},
    }
    return {kind: request.folder / name for kind, name in wanted.items() if name}


def prepare_folder(request: Request, pixels: int) -> None:
    """Make the folder of the results, and see that they will fit.

    Raises OutputError.
    """
    folder = request.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".geoseg-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}; choose another folder (-o)"
        ) from error
    each = BYTES_PER_PIXEL + request.confidence * BYTES_CONFIDENCE + request.logits * BYTES_LOGITS
    needed, free = pixels * each, shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {free / 1e9:.1f} GB free, but {pixels / 1e6:.0f} Mpx take about "
            f"{needed / 1e9:.1f} GB; choose another folder (-o), or a part of the scene (--aoi)"
        )


def refuse_existing(request: Request, stem: str) -> None:
    """Raises OutputError where a result exists that may not be replaced."""
    paths = list(planned_paths(request, stem).values())
    for kind in request.formats:
        if kind in FORMATS:
            suffix = FORMATS[kind].suffix
            name = f"{stem}_*{suffix}" if FORMATS[kind].per_class else f"{stem}{suffix}"
            paths += request.folder.glob(name)
    if there := [path for path in paths if path.exists()]:
        raise OutputError(f"{there[0]} exists; give --overwrite or another folder (-o)")


def file_key(kind: str, stem: str, path: Path) -> str:
    return f"{kind}:{path.stem.removeprefix(f'{stem}_')}" if FORMATS[kind].per_class else kind


def whole_table(
    parts: list[GeoDataFrame],
    polygons: Polygons,
    geobox: GeoBox,
    classes: tuple[LabelClass, ...],
) -> GeoDataFrame:
    """In the order of object_id; of no polygons, too."""
    if not parts:
        return features(polygons, polygons.geometry, geobox, classes)
    return pd.concat(parts).sort_values("object_id", ignore_index=True)


@dataclass(frozen=True, slots=True)
class Written:
    """What a prediction left on disk."""

    paths: dict[str, Path]
    """By kind; where a format has a file of each class, by kind and class, `shapefile:ship`."""
    totals: dict[str, ClassTotal]
    """By class, that with the largest objects first."""
    valid_pixels: int
    damaged: tuple[Window, ...]
    """Parts of the scene that could not be read."""


class Outputs:
    """Takes finished blocks in any order and writes what the request asks for.

    A context: when it is left by an error, nothing is at the final paths that was not there.
    Rasters cover the area of interest only, on the scene's grid.
    """

    def __init__(self, plan: Plan, classes: tuple[LabelClass, ...], request: Request) -> None:
        self.plan, self.classes, self.request = plan, classes, request
        scene = plan.view.scene
        self.extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
        self.stem, self.paths = scene.stem, planned_paths(request, scene.stem)
        pixel = scene.geobox.gsd or 1.0
        tolerance = TOLERANCE if request.simplify is None else request.simplify / pixel
        self.finishing = Finish(plan.min_pixels, tolerance=tolerance, smooth=request.smooth)
        self.polygons: list[BlockPolygons] = []
        self.finished: list[Finished] = []
        self.damaged: dict[Window, None] = {}
        """Parts of the scene that could not be read, in the order of blocks."""
        self.valid_pixels = 0
        self.closing = ExitStack()

    def __enter__(self) -> Outputs:
        geobox = self.plan.view.scene.geobox.crop(self.extent)
        with ExitStack() as opening:
            self.class_raster = opening.enter_context(
                RasterWriter.of_classes(
                    self.paths["classes"],
                    geobox,
                    self.classes,
                    model_gsd=self.plan.view.geobox.gsd,
                )
            )
            if self.request.confidence:
                self.confidence_raster = opening.enter_context(
                    RasterWriter.of_confidence(self.paths["confidence"], geobox)
                )
            if self.request.logits:
                self.logits_store = opening.enter_context(
                    LogitsWriter(self.paths["logits"], self.plan.view.geobox, self.classes)
                )
            self.closing = opening.pop_all()
        return self

    def settle(self, result: BlockResult) -> tuple[BlockResult, Finished]:
        """Finish those polygons of a block that can be; it keeps the others. For any thread."""
        with result.clock.stage("polygonize"):
            polygons, finished = self.finishing.settle(result.polygons)
        return replace(result, polygons=polygons), finished

    def write(self, result: BlockResult, finished: Finished) -> None:
        """Take one block, settled. Not for several threads at once."""
        window = result.window.intersection(self.extent)
        assert window is not None, "blocks beyond the area of interest are not computed"
        part = window.relative_to(result.window).slices
        place = window.relative_to(self.extent)
        self.class_raster.write(place, result.class_ids[part])
        if result.confidence is not None:
            self.confidence_raster.write(place, result.confidence[part])
        if result.logits is not None:
            self.logits_store.write(result.block.core, result.logits)
        self.polygons.append(result.polygons)
        self.finished.append(finished)
        self.damaged.update(dict.fromkeys(result.damaged))  # neighbours share some
        self.valid_pixels += int(np.count_nonzero(result.class_ids != IGNORE))

    def finish(self, clock: Clock, metadata: Mapping[str, str]) -> Written:
        """Complete the rasters, and meanwhile unite the polygons and write the layers."""
        with ThreadPoolExecutor(1) as pool:
            rasters = pool.submit(self.closing.close)
            with clock.stage("merge"):
                polygons = self.finishing.unite(self.polygons, self.finished)
                self.polygons, self.finished = [], []
            return_free_memory()  # of passes; of a large scene, the table comes on top
            with clock.stage("write"):
                return self._write(polygons, metadata, rasters)

    def _write(
        self, polygons: Polygons, metadata: Mapping[str, str], rasters: Future[None]
    ) -> Written:
        """A part of the table after the other; formats that want it whole get it whole."""
        scene, request = self.plan.view.scene, self.request
        others = [kind for kind in request.formats if kind != "gpkg"]
        paths, totals, kept = dict(self.paths), dict[str, ClassTotal](), []
        with ExitStack() as stack:
            layers = None
            if "gpkg" in request.formats:
                nothing = no_features(scene.geobox)
                layers = stack.enter_context(Layers(paths["gpkg"], self.classes, nothing, metadata))
            for part in tables(polygons, scene.geobox, self.classes):
                name = str(part["class"].iloc[0])
                before = totals.get(name, ClassTotal(0, 0.0))
                area = before.area_m2 + float(part["area_m2"].sum())
                totals[name] = ClassTotal(before.objects + len(part), area)
                if layers:
                    layers.append(part)
                if others:
                    kept.append(part)
            rasters.result()  # without them no layers appear
        for kind in others:
            table = whole_table(kept, polygons, scene.geobox, self.classes)
            styles = layer_styles(self.classes, unit="px" if table.crs is None else "m")
            files = write_format(
                table, request.folder, self.stem, kind, styles=styles, overwrite=True
            )
            paths |= {file_key(kind, self.stem, file): file for file in files}
        return Written(paths, totals, self.valid_pixels, tuple(self.damaged))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.__exit__(kind, error, trace)
