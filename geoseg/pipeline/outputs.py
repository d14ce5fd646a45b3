"""The files of one prediction: planned, checked and written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame

from geoseg.analysis.report.page import Results, report_page
from geoseg.classes import IGNORE, LabelClass
from geoseg.errors import OutputError
from geoseg.geo.layers.by_class import check_known
from geoseg.geo.layers.export import write_format
from geoseg.geo.layers.features import empty_features, tables
from geoseg.geo.layers.filters import choose
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.geopackage import GeoPackageWriter
from geoseg.geo.layers.preview import write_preview
from geoseg.geo.layers.regular import parse_forms
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.geo.raster.logits import DecodeGrid, LogitsWriter
from geoseg.geo.raster.scene import Scene
from geoseg.geo.vector.regularize import Regularized
from geoseg.geo.vector.rows import RowMerger
from geoseg.geo.vector.spool import PolygonSpool
from geoseg.lookahead import map_ahead
from geoseg.native.malloc import return_free_memory
from geoseg.pipeline.execution.block_store import kept_files
from geoseg.pipeline.execution.tasks import BlockResult
from geoseg.pipeline.options import OutputOptions, cores
from geoseg.pipeline.summary import ClassTotal, Written
from geoseg.tiling.decoding import cells_around
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
        "report": f"{stem}.report.html" if output.report else None,
        "preview": f"{stem}.preview.png" if output.preview else None,
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
    """The outputs of one prediction, written block by block, row after row. A context.

    All files go into one folder, see `Staging`. Rasters cover the area of interest only, on the
    scene's grid.
    """

    def __init__(
        self,
        grid: DecodeGrid,
        classes: tuple[LabelClass, ...],
        output: OutputOptions,
        folder: Path,
        stem: str,
        scene: Scene | None = None,
    ) -> None:
        """Args:
        folder: where to write, instead of `output.folder`.
        stem: prefix of the file names.
        scene: for pictures of it in report and preview.
        """
        self.grid, self.classes, self.output = grid, classes, output
        self.folder, self.stem, self.scene = folder, stem, scene
        self.extent = grid.extent
        self.names = planned_names(output, stem)
        self.merger, self.spool = RowMerger(output.cleanup(grid)), PolygonSpool(folder)
        limits = output.min_confidence
        assert isinstance(limits, Mapping), "see OutputOptions.limited"
        self.min_confidence = {item.id: limits.get(item.name, 0.0) for item in classes}
        self.filters = output.selection.open(grid.geobox, classes)
        self.forms = {} if output.regularize is None else parse_forms(output.regularize)
        check_known(self.forms, "--regularize", classes)
        self.damaged: dict[Window, None] = {}
        """Windows of the scene that could not be read, in the order of blocks."""
        self.valid_pixels = 0
        self.rasters, self.closing = ExitStack(), ExitStack()

    def __enter__(self) -> Outputs:
        geobox = self.grid.geobox.crop(self.extent)
        with ExitStack() as opening:
            opening.enter_context(self.spool)
            self.rasters = opening.enter_context(ExitStack())
            self.class_raster = self.rasters.enter_context(
                CogWriter.for_classes(
                    self.path("classes"),
                    geobox,
                    self.classes,
                    model_gsd=self.grid.model_geobox.gsd,
                )
            )
            if self.output.confidence:
                self.confidence_raster = self.rasters.enter_context(
                    CogWriter.for_confidence(self.path("confidence"), geobox)
                )
            if self.output.logits:
                self.logits_store = LogitsWriter(self.path("logits"), self.grid, self.classes)
            self.closing = opening.pop_all()
        return self

    def path(self, kind: str) -> Path:
        return self.folder / self.names[kind]

    def write(self, result: BlockResult) -> None:
        """Write one block; those of one row come after those above. Not thread-safe."""
        window = result.window.intersection(self.extent)
        assert window is not None, "blocks outside the area of interest are not computed"
        part = window.relative_to(result.window).slices
        position = window.relative_to(self.extent)
        self.class_raster.write(position, result.class_ids[part])
        if result.confidence is not None:
            self.confidence_raster.write(position, result.confidence[part])
        if result.logits is not None:
            cells = cells_around(result.block.core, self.grid.tiles.extent)
            self.logits_store.write(cells, result.logits)
            self.logits_store.write_valid(result.window, result.class_ids != IGNORE)
        for clean in (result.clean, *self.merger.add(result.polygons)):
            self.spool.append(clean.select(clean.polygons.confident(self.min_confidence)))
        self.damaged.update(dict.fromkeys(result.damaged))  # neighbors share some
        self.valid_pixels += int(np.count_nonzero(result.class_ids != IGNORE))

    def complete(self, timer: StageTimer, metadata: Mapping[str, str]) -> Written:
        """Merge the polygons and write the layers, while the rasters are completed."""
        if self.output.logits:
            self.logits_store.describe(metadata)
        return_free_memory()  # of the blocks: merging and writing need theirs
        threads = min(4, cores())
        with ThreadPoolExecutor(threads + 1) as pool:
            rasters = pool.submit(self.rasters.close)
            ahead = partial(map_ahead, pool, threads)
            with timer.stage("merge"):
                for clean in self.merger.finish(ahead):
                    self.spool.append(clean.select(clean.polygons.confident(self.min_confidence)))
                self.spool.sort()
                outlines = choose(self.spool, self.filters, self.forms)
            return_free_memory()
            with timer.stage("write"):
                return self._write_layers(outlines, metadata, rasters, ahead)

    def _write_layers(
        self,
        outlines: Regularized | None,
        metadata: Mapping[str, str],
        rasters: Future[None],
        apply: Callable[..., Iterable[GeoDataFrame]],
    ) -> Written:
        """Write the GeoPackage table by table, and the other formats from all tables together."""
        geobox, output = self.grid.geobox, self.output
        others = [kind for kind in output.formats if kind != "gpkg"]
        names, totals = dict(self.names), dict[str, ClassTotal]()
        nothing = empty_features(geobox, regular=bool(self.forms))
        kept = [nothing]
        with ExitStack() as stack:
            layers = None
            if "gpkg" in output.formats:
                layers = stack.enter_context(
                    GeoPackageWriter(self.path("gpkg"), self.classes, nothing, metadata)
                )
            for part in tables(self.spool, geobox, self.classes, apply, outlines):
                name = str(part["class"].iloc[0])
                before = totals.get(name, ClassTotal(0, 0.0))
                area = before.area_m2 + float(part["area_m2"].sum())
                totals[name] = ClassTotal(before.objects + len(part), area)
                if layers:
                    layers.append(part)
                if others or output.report or output.preview:
                    kept.append(part)
            rasters.result()
        table = pd.concat(kept[1:] or kept).sort_values("object_id", ignore_index=True)
        if self.scene is not None:
            self._draw(self.scene, table, metadata)
        for kind in others:
            files = write_format(table, self.folder, self.stem, kind, self.classes)
            names |= {file_key(kind, self.stem, file): file.name for file in files}
        return Written(names, totals, self.valid_pixels, tuple(self.damaged))

    def _draw(self, scene: Scene, table: GeoDataFrame, metadata: Mapping[str, str]) -> None:
        """Write report and preview, if wanted."""
        whole = self.extent == scene.geobox.extent
        window = None if whole else self.extent
        if self.output.report:
            colors = {item.name: item.color for item in self.classes}
            page = report_page(Results(self.stem, table, colors, metadata), scene, window)
            self.path("report").write_text(page, "utf-8")
        if self.output.preview:
            write_preview(self.path("preview"), scene, table, self.classes, window)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.__exit__(kind, error, trace)
