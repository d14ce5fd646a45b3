"""Scene in, polygons and class raster out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.atomic import Staging, WorkingFolder
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.naming import scene_stem
from geoseg.geo.raster.resampled import suitable_gsd
from geoseg.geo.raster.scene import Scene
from geoseg.geo.raster.source import files_of, vector_files_of
from geoseg.guard import refuse_inputs
from geoseg.interrupts import interruptible
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import refused_memory
from geoseg.pipeline.earlier import Earlier, Record
from geoseg.pipeline.execution.block_store import Store
from geoseg.pipeline.execution.graph import run_blocks
from geoseg.pipeline.fingerprint import blocks_identity, identity, results_identity
from geoseg.pipeline.options import Reading, Request, Tiling
from geoseg.pipeline.outputs import Outputs, refuse_clashes, refuse_shortage
from geoseg.pipeline.plan import (
    damage_error,
    description,
    emptiness_error,
    make_plan,
    open_scene,
)
from geoseg.pipeline.summary import Summary, summarize
from geoseg.timing import Clock

if TYPE_CHECKING:
    from geoseg.pipeline.execution.cluster import Cluster


@refused_memory()
def predict(
    path: str | Path,
    model: TileModel,
    request: Request,
    tiling: Tiling | None = None,
    reading: Reading | None = None,
    *,
    parts: Sequence[str] = (),
    inputs: Iterable[str | Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    cluster: Cluster | None = None,
) -> Summary:
    """Find the objects of one scene and write what `request` asks for.

    Results appear together, when all are complete. They depend on tile size and overlap, not on
    workers or the scheduler. Where they are there already, of the same scene, weights and options,
    nothing is done (see `Record`). A run that was killed leaves its finished blocks (see `Store`),
    and the next one with the same arguments goes on from there.

    Args:
        parts: files of a mosaic, which is to be called `path`.
        inputs: further files that no result may replace.
        progress: called with pixels done and in all, after every block.
        cluster: a connection to `tiling.scheduler`, for several scenes; None = one of its own.

    Raises:
        SceneError: the scene cannot be opened, or parts of it could not be read.
        ClusterError: no scheduler or worker is there, or one is not fit.
        MachineError: the machine has too little memory.
        OutputError: an output exists already or cannot be written.
        OptionError: options that contradict each other or the machine.
    """
    tiling, reading = tiling or Tiling(), reading or Reading()
    if tiling.tiles_per_block is None:
        tiling = replace(tiling, tiles_per_block=model.tiles_at_once)
    stem = scene_stem(path)
    with WorkingFolder(request.folder, stem) as working, ExitStack() as stack:
        opened = str(path)
        if parts:
            opened = str(working.path / f"{stem}.vrt")
            stack.callback(Path(opened).unlink, missing_ok=True)
            write_mosaic(parts, Path(opened), overwrite=True)
        header = interruptible(partial(open_scene, opened, reading, look=False))
        stack.enter_context(closing(header))
        if reading.gsd is None:
            seen = suitable_gsd(header.geobox.gsd, model.metadata.gsd_range)
            reading = replace(reading, gsd=seen)
        run = identity(header, model, reading, tiling, request)
        earlier = Earlier.find(request, stem, model.metadata.classes, mosaic=bool(parts))
        area = vector_files_of(Path(reading.aoi)) if reading.aoi else ()
        files = [*files_of(opened), *inputs, *area]
        refuse_inputs(earlier.possible, files)
        asked = results_identity(run, request)
        if (told := earlier.summary(str(path), request, asked)) is not None:
            return told
        scene = interruptible(partial(open_scene, opened, reading))
        stack.enter_context(closing(scene))
        job = Job(str(path), scene, model, request, tiling, reading, run)
        return job.carry_out(working, earlier, progress, cluster)


def connection(cluster: Cluster | None, address: str) -> AbstractContextManager[Cluster]:
    """`cluster`, which stays open, or one of its own."""
    from geoseg.pipeline.execution.cluster import Cluster

    return Cluster(address) if cluster is None else nullcontext(cluster)


@dataclass(frozen=True, slots=True)
class Job:
    """One prediction, of which nothing is done yet."""

    path: str
    """Of the scene, as given."""
    scene: Scene
    model: TileModel
    request: Request
    tiling: Tiling
    reading: Reading
    run: dict[str, Any]
    """See `identity`."""

    def carry_out(
        self,
        working: WorkingFolder,
        earlier: Earlier,
        progress: Callable[[int, int], None],
        cluster: Cluster | None,
    ) -> Summary:
        """Compute and write everything, in place of what is there of earlier runs."""
        scene, model, request, tiling = self.scene, self.model, self.request, self.tiling
        clock, stem, classes = Clock(), scene_stem(self.path), model.metadata.classes
        with ExitStack() as stack:
            total = stack.enter_context(ExitStack())
            total.enter_context(clock.stage("total"))
            plan = make_plan(scene, model.metadata, request, tiling, self.reading)
            remote, computing = None, model.options
            if tiling.scheduler is not None:
                connected = stack.enter_context(connection(cluster, tiling.scheduler))
                remote = connected.open(plan, model)
                computing = {**computing, **remote.computing}
            run = blocks_identity(self.run, scene, computing)
            store = stack.enter_context(Store(working.path, run))
            staging = stack.enter_context(
                Staging(request.folder, stem, earlier.obsolete, within=working)
            )
            extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
            refuse_shortage(request, extent.width * extent.height, working.path)
            with Outputs(plan, classes, request, staging.new, stem) as outputs:
                run_blocks(plan, model, tiling.threads, store, outputs, clock, progress, remote)
                if outputs.damaged and not (request.keep_going and outputs.valid_pixels):
                    raise damage_error(self.path, scene, tuple(outputs.damaged))
                if not outputs.valid_pixels:
                    store.discard()
                    raise emptiness_error(scene, in_aoi=plan.aoi is not None)
                written = outputs.finish(clock, description(self.path, run))
            total.close()
            if earlier.mosaic:
                name = f"{stem}.vrt"
                shutil.copyfile(scene.path, staging.new / name)
                written = replace(written, names=written.names | {"mosaic": name})
            if not request.overwrite:
                refuse_clashes(staging.new, request.folder)
            asked = self.reading, tiling, request
            summary = summarize(self.path, plan, written, clock, model, asked, computing)
            record = Record(results_identity(self.run, request), written.names, summary.as_dict())
            record.write(staging.new / written.names["classes"])
        return summary
