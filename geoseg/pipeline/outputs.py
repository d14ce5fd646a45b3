"""The files of one prediction: planned, checked and written."""

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
from geoseg.geo.layers.by_class import check_known
from geoseg.geo.layers.features import empty_features, tables
from geoseg.geo.layers.formats import FORMATS, write_format
from geoseg.geo.layers.geopackage import GeoPackageWriter
from geoseg.geo.layers.regular import parse_forms, regular_outlines
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.geo.raster.zarr_writer import LogitsWriter
from geoseg.geo.vector.cleanup import TOLERANCE, CleanPolygons, Cleanup
from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons
from geoseg.geo.vector.regularize import Regularized
from geoseg.native.malloc import return_free_memory
from geoseg.pipeline.execution.block_store import kept_files
from geoseg.pipeline.execution.tasks import BlockResult, Plan
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.summary import ClassTotal, Written
from geoseg.tiling.grid import Window
from geoseg.timing import StageTimer

BYTES_PER_PIXEL = 0.4
"""Disk space of results and unfinished blocks: what busy scenes took, and half as much again."""
BYTES_CONFIDENCE, BYTES_LOGITS = 1.5, 1.0
"""The same for confidence and logits, which are also part of unfinished blocks."""


def planned_names(output: OutputOptions, stem: str, *, mosaic: bool = False) -> dict[str, str]:
    """Return file names by kind, in the order of completion, without files per class."""
    wanted = {
        "classes": f"{stem}.classes.tif",
        "mosaic": f"{stem}.vrt" if mosaic else None,
        "confidence": f"{stem}.confidence.tif" if output.confidence else None,
        "logits": f"{stem}.logits.zarr" if output.logits else None,
        **{kind: f"{stem}.gpkg" for kind in output.formats if kind == "gpkg"},
        **{
            kind: f"{stem}{FORMATS[kind].suffix}"
            for kind in output.formats
            if kind in FORMATS and not FORMATS[kind].per_class
        },
    }
    return {kind: name for kind, name in wanted.items() if name}


def refuse_shortage(output: OutputOptions, pixels: int, working: Path) -> None:
    """Raise OutputError if the results will not fit on the disk, in addition to kept blocks."""
    folder = output.folder
    each = BYTES_PER_PIXEL + output.confidence * BYTES_CONFIDENCE + output.logits * BYTES_LOGITS
    kept = sum(path.stat().st_size for path in kept_files(working))
    needed, free = pixels * each - kept, shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {readable_size(free)} free, but {pixels / 1e6:.0f} Mpx take about "
            f"{readable_size(needed)}; choose another folder (-o), or a part of the scene (--aoi)"
        )


def refuse_clashes(new: Path, folder: Path) -> None:
    """Raise OutputError if results would replace files that were not foreseen.

    Names of classes may be found only in the end, and files may have appeared meanwhile.
    """
    for path in sorted(new.iterdir()):
        if os.path.lexists(folder / path.name):
            raise OutputError(
                f"{folder / path.name} exists; give --overwrite or another folder (-o)"
            )


def readable_size(size: float) -> str:
    """Return bytes as MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def file_key(kind: str, stem: str, path: Path) -> str:
    """Return the key of a file in `Written.names`."""
    return f"{kind}:{path.stem.removeprefix(f'{stem}_')}" if FORMATS[kind].per_class else kind


class Outputs:
    """The outputs of one prediction, written block by block in any order. A context.

    All files go into one folder, see `Staging`. Rasters cover the area of interest only, on the
    scene's grid.
    """

    def __init__(
        self,
        plan: Plan,
        classes: tuple[LabelClass, ...],
        output: OutputOptions,
        folder: Path,
        stem: str,
    ) -> None:
        """Args:
        folder: where to write, instead of `output.folder`.
        stem: prefix of the file names.
        """
        self.plan, self.classes, self.output = plan, classes, output
        self.folder, self.stem = folder, stem
        scene = plan.view.scene
        self.extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
        self.names = planned_names(output, stem)
        pixel = scene.geobox.gsd or 1.0
        tolerance = TOLERANCE if output.simplify is None else output.simplify / pixel
        self.cleanup = Cleanup(plan.min_pixels, tolerance=tolerance, smooth=output.smooth)
        self.filters = output.selection.open(scene.geobox, classes)
        if output.regularize is not None:
            check_known(parse_forms(output.regularize), "--regularize", classes)
        self.polygons: list[BlockPolygons] = []
        self.clean: list[CleanPolygons] = []
        self.damaged: dict[Window, None] = {}
        """Windows of the scene that could not be read, in the order of blocks."""
        self.valid_pixels = 0
        self.closing = ExitStack()

    def __enter__(self) -> Outputs:
        geobox = self.plan.view.scene.geobox.crop(self.extent)
        with ExitStack() as opening:
            self.class_raster = opening.enter_context(
                CogWriter.for_classes(
                    self.path("classes"),
                    geobox,
                    self.classes,
                    model_gsd=self.plan.view.geobox.gsd,
                )
            )
            if self.output.confidence:
                self.confidence_raster = opening.enter_context(
                    CogWriter.for_confidence(self.path("confidence"), geobox)
                )
            if self.output.logits:
                view = self.plan.view
                self.logits_store = LogitsWriter(
                    self.path("logits"),
                    view.geobox,
                    self.classes,
                    view_window(self.extent, view.step),
                )
            self.closing = opening.pop_all()
        return self

    def path(self, kind: str) -> Path:
        return self.folder / self.names[kind]

    def clean_interior(self, result: BlockResult) -> tuple[BlockResult, CleanPolygons]:
        """Clean the polygons that no other block continues. Thread-safe."""
        with result.timer.stage("polygonize"):
            polygons, clean = self.cleanup.clean_interior(result.polygons)
        return replace(result, polygons=polygons), clean

    def write(self, result: BlockResult, clean: CleanPolygons) -> None:
        """Write one block. Not thread-safe."""
        window = result.window.intersection(self.extent)
        assert window is not None, "blocks outside the area of interest are not computed"
        part = window.relative_to(result.window).slices
        position = window.relative_to(self.extent)
        self.class_raster.write(position, result.class_ids[part])
        if result.confidence is not None:
            self.confidence_raster.write(position, result.confidence[part])
        if result.logits is not None:
            self.logits_store.write(result.block.core, result.logits)
        self.polygons.append(result.polygons)
        self.clean.append(clean)
        self.damaged.update(dict.fromkeys(result.damaged))  # neighbors share some
        self.valid_pixels += int(np.count_nonzero(result.class_ids != IGNORE))

    def complete(self, timer: StageTimer, metadata: Mapping[str, str]) -> Written:
        """Merge the polygons and write the layers, while the rasters are completed."""
        with ThreadPoolExecutor(1) as pool:
            rasters = pool.submit(self.closing.close)
            with timer.stage("merge"):
                polygons = self.cleanup.merge_blocks(self.polygons, self.clean)
                self.polygons, self.clean = [], []
                outlines = None
                if self.output.regularize is not None:
                    geobox, forms = self.plan.view.scene.geobox, self.output.regularize
                    outlines = regular_outlines(polygons, geobox, self.classes, forms)
                polygons, outlines = self.filters(polygons, outlines)
            return_free_memory()  # before the tables of a large scene need theirs
            with timer.stage("write"):
                return self._write_layers(polygons, outlines, metadata, rasters)

    def _write_layers(
        self,
        polygons: Polygons,
        outlines: Regularized | None,
        metadata: Mapping[str, str],
        rasters: Future[None],
    ) -> Written:
        """Write the GeoPackage table by table, and the other formats from all tables together."""
        scene, output = self.plan.view.scene, self.output
        others = [kind for kind in output.formats if kind != "gpkg"]
        names, totals = dict(self.names), dict[str, ClassTotal]()
        kept: list[GeoDataFrame] = []
        with ExitStack() as stack:
            layers = None
            if "gpkg" in output.formats:
                nothing = empty_features(scene.geobox, regular=outlines is not None)
                layers = stack.enter_context(
                    GeoPackageWriter(self.path("gpkg"), self.classes, nothing, metadata)
                )
            for part in tables(polygons, scene.geobox, self.classes, outlines=outlines):
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
            nothing = empty_features(scene.geobox, regular=outlines is not None)
            table = pd.concat(kept or [nothing]).sort_values("object_id", ignore_index=True)
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


def view_window(window: Window, step: tuple[float, float]) -> Window:
    """Return the pixels of a view, whose `step` is given, that a window of the scene touches."""
    left, top = floor(window.col_off / step[0]), floor(window.row_off / step[1])
    right, bottom = ceil(window.col_end / step[0]), ceil(window.row_end / step[1])
    return Window(left, top, right - left, bottom - top)
