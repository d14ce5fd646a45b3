"""Scene in, polygons and class raster out."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.atomic import Staging, WorkingFolder
from geoseg.errors import OptionError, TileMemoryError
from geoseg.geo.raster.address import scene_stem
from geoseg.geo.raster.files import raster_files
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.resampled import suitable_gsd
from geoseg.geo.raster.scene import Scene
from geoseg.geo.services.service import Service, Wanted
from geoseg.guard import refuse_inputs
from geoseg.interrupts import interruptible
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import refused_memory
from geoseg.pipeline.earlier import Earlier, Record
from geoseg.pipeline.execution.block_store import BlockStore
from geoseg.pipeline.execution.graph import run_blocks
from geoseg.pipeline.options import (
    ComputeOptions,
    OutputOptions,
    PredictOptions,
    SceneOptions,
    TilingOptions,
)
from geoseg.pipeline.outputs import Outputs, refuse_clashes, refuse_shortage
from geoseg.pipeline.plan import (
    blocks_fingerprint,
    damage_error,
    description,
    emptiness_error,
    make_plan,
    open_scene,
    results_fingerprint,
    run_fingerprint,
    seen_pixels,
)
from geoseg.pipeline.summary import Summary, summarize
from geoseg.tiling.grid import ALIGN, round_up
from geoseg.timing import StageTimer

if TYPE_CHECKING:
    from geoseg.pipeline.execution.cluster import Cluster

LOG = logging.getLogger("geoseg")


@refused_memory()
def predict(
    path: str | Path,
    model: TileModel,
    output: OutputOptions,
    tiling: TilingOptions | None = None,
    scene: SceneOptions | None = None,
    compute: ComputeOptions | None = None,
    *,
    parts: Sequence[str] = (),
    inputs: Iterable[str | Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    cluster: Cluster | None = None,
) -> Summary:
    """Find the objects of one scene and write the outputs.

    All outputs appear together, when they are complete. They depend on tile size and overlap, not
    on workers or the scheduler. If they exist already, from the same scene, weights and options,
    nothing is computed (see `Record`). A killed run leaves its finished blocks (see `BlockStore`),
    from which the next run with the same arguments resumes. Where a device has no memory for one
    tile, the scene is predicted with smaller ones, and the summary has their size. A model that may
    choose its engine takes that of earlier results or blocks of the scene.

    Args:
        parts: files of a mosaic, which is named `path`.
        inputs: further files that no output may replace.
        progress: called with the finished and the total number of pixels after every block.
        cluster: an open connection to `compute.scheduler`; None = open one.

    Raises:
        SceneError: the scene cannot be opened, or parts of it could not be read.
        ClusterError: no scheduler or worker answers, or one is unfit.
        MachineError: the machine has too little memory.
        OutputError: an output exists already or cannot be written.
        OptionError: options contradict each other or the machine.
        TileMemoryError: a device has too little memory for the smallest tile of this overlap.
    """
    compute = compute or ComputeOptions()
    if compute.tiles_per_block is None and compute.scheduler is None:
        compute = replace(compute, tiles_per_block=model.tiles_per_block)
    scene, tiling = scene or SceneOptions(), tiling or TilingOptions()
    weights = model.metadata
    output = output.with_recommended(weights.classes, weights.min_confidence, weights.split)
    stem = scene_stem(path)
    with WorkingFolder(output.folder, stem) as working, ExitStack() as stack:
        limit = compute.requests_per_second
        readable = readable_scene(path, parts, working.path, scene, tiling, weights, limit)
        source, scene = stack.enter_context(readable)
        header = interruptible(partial(open_scene, source, scene, limit, look=False))
        stack.enter_context(closing(header))
        if scene.gsd is None:
            scene = replace(scene, gsd=suitable_gsd(header.geobox.gsd, weights.gsd_range))
        options = PredictOptions(output, scene, tiling, compute)
        earlier = Earlier.find(output, stem, weights.classes, mosaic=bool(parts))
        refuse_inputs(earlier.possible, [*raster_files(source), *inputs, *options.drawn_files])
        settle_engine(model, header, options, earlier, working.path)
        run = run_fingerprint(header, model, options)
        results = results_fingerprint(run, output)
        if (summary := earlier.summary(str(path), output, results)) is not None:
            return summary
        opened = interruptible(partial(open_scene, source, scene, limit))
        stack.enter_context(closing(opened))
        while True:
            job = Job(str(path), opened, model, options, run, results)
            try:
                return job.execute(working, earlier, progress, cluster)
            except TileMemoryError as error:
                options = with_smaller_tiles(options, error)
                run = run_fingerprint(header, model, options)


@contextmanager
def readable_scene(
    path: str | Path,
    parts: Sequence[str],
    working: Path,
    options: SceneOptions,
    tiling: TilingOptions,
    weights: Metadata,
    requests_per_second: float | None,
) -> Iterator[tuple[str, SceneOptions]]:
    """Yield what GDAL reads, and the options to read it: a VRT of a mosaic or service, or `path`.

    Raises SceneError, OutputError, and OptionError for a limit of requests to a file.
    """
    service = None if parts else Service.find(str(path))
    if service is None and requests_per_second is not None:
        raise OptionError(
            f"{path}: --requests-per-second limits tile and map services, and this is none; "
            "leave it out"
        )
    view = working / f"{scene_stem(path)}.vrt"
    if parts:
        try:
            write_mosaic(parts, view, overwrite=True)
            yield str(view), options
        finally:
            view.unlink(missing_ok=True)
    elif service is not None:
        known, overlap = weights.gsd_range, tiling.overlap
        wanted = Wanted(options.aoi, options.gsd, known, overlap, requests_per_second)
        with service.view(view, wanted):
            # A look for collars would ask for tiles on all sides.
            yield str(view), replace(options, collar="off")
    else:
        yield str(path), options


def settle_engine(
    model: TileModel, header: Scene, options: PredictOptions, earlier: Earlier, working: Path
) -> None:
    """Let the model choose its engine for a scene; on a cluster it stays as it is.

    Raises:
        OptionError: the engine of earlier work on the scene is not installed any more.
    """
    if options.compute.scheduler is None:
        known = earlier.backend(working, overwrite=options.output.overwrite)
        model.settle(seen_pixels(header, options, model.metadata), known)


def with_smaller_tiles(options: PredictOptions, error: TileMemoryError) -> PredictOptions:
    """Return options with tiles of half the side, which a device may have memory for.

    Raises the error if the overlap allows none, or on a cluster, whose workers differ.
    """
    size, overlap = round_up(error.side // 2, ALIGN), options.tiling.overlap
    if not 0 < size < error.side or size < 2 * overlap or options.compute.scheduler is not None:
        raise error
    LOG.warning(
        "no memory for one tile of %d px: starting anew with --tile-size %d", error.side, size
    )
    return replace(options, tiling=TilingOptions(size, overlap))


def open_cluster(cluster: Cluster | None, address: str) -> AbstractContextManager[Cluster]:
    """Return `cluster`, left open at the end of the context, or a connection that is closed."""
    from geoseg.pipeline.execution.cluster import Cluster

    return Cluster(address) if cluster is None else nullcontext(cluster)


@dataclass(frozen=True, slots=True)
class Job:
    """One prediction that is to be computed."""

    path: str
    """The scene's path as given."""
    scene: Scene
    model: TileModel
    options: PredictOptions
    run: dict[str, Any]
    """See `run_fingerprint`."""
    results: dict[str, Any]
    """`results_fingerprint` of what was asked for, which the next such command finds."""

    def description(self, run: dict[str, Any]) -> dict[str, str]:
        """Return metadata of the results."""
        output = self.options.output
        asked = {key: json.dumps(getattr(output, key)) for key in ("min_confidence", "split")}
        return description(self.path, run | asked, self.model.metadata)

    def execute(
        self,
        working: WorkingFolder,
        earlier: Earlier,
        progress: Callable[[int, int], None],
        cluster: Cluster | None,
    ) -> Summary:
        """Compute and write all outputs, in place of those of earlier runs."""
        scene, model, options, output = self.scene, self.model, self.options, self.options.output
        timer, stem, classes = StageTimer(), scene_stem(self.path), model.metadata.classes
        with ExitStack() as stack:
            total = stack.enter_context(ExitStack())
            total.enter_context(timer.stage("total"))
            plan = make_plan(scene, model.metadata, options)
            cluster_run, computing = None, model.options
            if options.compute.scheduler is not None:
                connected = stack.enter_context(open_cluster(cluster, options.compute.scheduler))
                cluster_run = connected.open(plan, model, options.compute.tiles_per_block)
                plan = cluster_run.plan
                computing = {**computing, **cluster_run.computing}
            run = blocks_fingerprint(self.run, scene, computing)
            store = stack.enter_context(BlockStore(working.path, run))
            staging = stack.enter_context(
                Staging(output.folder, stem, earlier.obsolete, within=working)
            )
            extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
            refuse_shortage(output, extent.width * extent.height, working.path)
            grid = plan.decode_grid
            with Outputs(grid, classes, output, staging.new, stem, scene) as outputs:
                threads = options.compute.workers or options.compute.threads + model.waiting_threads
                run_blocks(plan, model, threads, store, outputs, timer, progress, cluster_run)
                if outputs.damaged and not (output.keep_going and outputs.valid_pixels):
                    raise damage_error(self.path, scene, tuple(outputs.damaged))
                if not outputs.valid_pixels:
                    store.discard()
                    raise emptiness_error(scene, in_aoi=plan.aoi is not None)
                written = outputs.complete(timer, self.description(run))
            total.close()
            if earlier.mosaic:
                name = f"{stem}.vrt"
                shutil.copyfile(scene.path, staging.new / name)
                written = replace(written, names=written.names | {"mosaic": name})
            if not output.overwrite:
                refuse_clashes(staging.new, output.folder)
            summary = summarize(self.path, plan, written, timer, model, options, computing)
            record = Record(self.results, written.names, summary.as_dict())
            record.write(staging.new / written.names["classes"])
        return summary
