"""The files of one prediction: planned and checked first, then written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from math import ceil, floor
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame

from geoseg.classes import IGNORE, LabelClass
from geoseg.errors import OutputError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.features import empty_features, features, tables
from geoseg.geo.layers.formats import FORMATS, write_format
from geoseg.geo.layers.geopackage import GeoPackageWriter
from geoseg.geo.raster.cog_writer import RasterWriter
from geoseg.geo.raster.zarr_writer import LogitsWriter
from geoseg.geo.vector.cleanup import TOLERANCE, CleanPolygons, Cleanup
from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons
from geoseg.native.malloc import return_free_memory
from geoseg.pipeline.execution.block_store import kept_files
from geoseg.pipeline.execution.tasks import BlockResult, Plan
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.summary import ClassTotal, Written
from geoseg.tiling.grid import Window
from geoseg.timing import StageTimer

BYTES_PER_PIXEL = 0.4
"""Of results and unfinished blocks together: what busy scenes took, and a half more."""
BYTES_CONFIDENCE, BYTES_LOGITS = 1.5, 1.0
"""The same for confidence and logits, which are among the unfinished blocks, too."""


def planned_names(request: OutputOptions, stem: str, *, mosaic: bool = False) -> dict[str, str]:
    """Files by kind, in the order in which they are completed, without those of each class."""
    wanted = {
        "classes": f"{stem}.classes.tif",
        "mosaic": f"{stem}.vrt" if mosaic else None,
        "confidence": f"{stem}.confidence.tif" if request.confidence else None,
        "logits": f"{stem}.logits.zarr" if request.logits else None,
        **{kind: f"{stem}.gpkg" for kind in request.formats if kind == "gpkg"},
        **{
            kind: f"{stem}{FORMATS[kind].suffix}"
            for kind in request.formats
            if kind in FORMATS and not FORMATS[kind].per_class
        },
    }
    return {kind: name for kind, name in wanted.items() if name}


def refuse_shortage(request: OutputOptions, pixels: int, working: Path) -> None:
    """Raises OutputError where results will not fit on the disk, beside what is there of them."""
    folder = request.folder
    each = BYTES_PER_PIXEL + request.confidence * BYTES_CONFIDENCE + request.logits * BYTES_LOGITS
    kept = sum(path.stat().st_size for path in kept_files(working))
    needed, free = pixels * each - kept, shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {size(free)} free, but {pixels / 1e6:.0f} Mpx take about "
            f"{size(needed)}; choose another folder (-o), or a part of the scene (--aoi)"
        )


def refuse_clashes(new: Path, folder: Path) -> None:
    """Raises OutputError where results would replace something: names of classes, say, that were
    not foreseen, or a file that came meanwhile."""
    for path in sorted(new.iterdir()):
        if os.path.lexists(folder / path.name):
            raise OutputError(
                f"{folder / path.name} exists; give --overwrite or another folder (-o)"
            )


def size(of: float) -> str:
    return f"{of / 1e9:.1f} GB" if of >= 1e8 else f"{of / 1e6:.1f} MB"


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
        return features(polygons, geobox, classes)
    return pd.concat(parts).sort_values("object_id", ignore_index=True)


class Outputs:
    """Takes finished blocks in any order and writes what the request asks for.

    A context. Everything goes into one folder, from which it takes its place when it is complete;
    see `Staging`. Rasters cover the area of interest only, on the scene's grid.
    """

    def __init__(
        self,
        plan: Plan,
        classes: tuple[LabelClass, ...],
        request: OutputOptions,
        folder: Path,
        stem: str,
    ) -> None:
        """Args:
        folder: where to write, in place of the request's.
        stem: with which the files' names begin.
        """
        self.plan, self.classes, self.request = plan, classes, request
        self.folder, self.stem = folder, stem
        scene = plan.view.scene
        self.extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
        self.names = planned_names(request, stem)
        pixel = scene.geobox.gsd or 1.0
        tolerance = TOLERANCE if request.simplify is None else request.simplify / pixel
        self.finishing = Cleanup(plan.min_pixels, tolerance=tolerance, smooth=request.smooth)
        self.polygons: list[BlockPolygons] = []
        self.finished: list[CleanPolygons] = []
        self.damaged: dict[Window, None] = {}
        """Parts of the scene that could not be read, in the order of blocks."""
        self.valid_pixels = 0
        self.closing = ExitStack()

    def __enter__(self) -> Outputs:
        geobox = self.plan.view.scene.geobox.crop(self.extent)
        with ExitStack() as opening:
            self.class_raster = opening.enter_context(
                RasterWriter.of_classes(
                    self.path("classes"),
                    geobox,
                    self.classes,
                    model_gsd=self.plan.view.geobox.gsd,
                )
            )
            if self.request.confidence:
                self.confidence_raster = opening.enter_context(
                    RasterWriter.of_confidence(self.path("confidence"), geobox)
                )
            if self.request.logits:
                view = self.plan.view
                self.logits_store = LogitsWriter(
                    self.path("logits"), view.geobox, self.classes, seen(self.extent, view.step)
                )
            self.closing = opening.pop_all()
        return self

    def path(self, kind: str) -> Path:
        return self.folder / self.names[kind]

    def clean_interior(self, result: BlockResult) -> tuple[BlockResult, CleanPolygons]:
        """Clean those polygons of a block that can be; it keeps the others. For any thread."""
        with result.timer.stage("polygonize"):
            polygons, finished = self.finishing.clean_interior(result.polygons)
        return replace(result, polygons=polygons), finished

    def write(self, result: BlockResult, finished: CleanPolygons) -> None:
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

    def finish(self, timer: StageTimer, metadata: Mapping[str, str]) -> Written:
        """Complete the rasters, and meanwhile merge the polygons and write the layers."""
        with ThreadPoolExecutor(1) as pool:
            rasters = pool.submit(self.closing.close)
            with timer.stage("merge"):
                polygons = self.finishing.merge_blocks(self.polygons, self.finished)
                self.polygons, self.finished = [], []
            return_free_memory()  # of passes; of a large scene, the table comes on top
            with timer.stage("write"):
                return self._write(polygons, metadata, rasters)

    def _write(
        self, polygons: Polygons, metadata: Mapping[str, str], rasters: Future[None]
    ) -> Written:
        """A part of the table after the other; formats that want it whole get it whole."""
        scene, request = self.plan.view.scene, self.request
        others = [kind for kind in request.formats if kind != "gpkg"]
        names, totals, kept = dict(self.names), dict[str, ClassTotal](), []
        with ExitStack() as stack:
            layers = None
            if "gpkg" in request.formats:
                nothing = empty_features(scene.geobox)
                layers = stack.enter_context(
                    GeoPackageWriter(self.path("gpkg"), self.classes, nothing, metadata)
                )
            for part in tables(polygons, scene.geobox, self.classes):
                name = str(part["class"].iloc[0])
                before = totals.get(name, ClassTotal(0, 0.0))
                area = before.area_m2 + float(part["area_m2"].sum())
                totals[name] = ClassTotal(before.objects + len(part), area)
                if layers:
                    layers.append(part)
                if others:
                    kept.append(part)
            rasters.result()
        for kind in others:
            table = whole_table(kept, polygons, scene.geobox, self.classes)
            files = write_format(table, self.folder, self.stem, kind, self.classes)
            names |= {file_key(kind, self.stem, file): file.name for file in files}
        return Written(names, totals, self.valid_pixels, tuple(self.damaged))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.__exit__(kind, error, trace)


def seen(window: Window, step: tuple[float, float]) -> Window:
    """The pixels that the model sees of a window of the scene; `step` of a `View`."""
    left, top = floor(window.col_off / step[0]), floor(window.row_off / step[1])
    right, bottom = ceil(window.col_end / step[0]), ceil(window.row_end / step[1])
    return Window(left, top, right - left, bottom - top)
