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
from geoseg.geo.raster.address import scene_stem
from geoseg.geo.raster.files import raster_files, vector_files
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.resampled import suitable_gsd
from geoseg.geo.raster.scene import Scene
from geoseg.guard import refuse_inputs
from geoseg.interrupts import interruptible
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import refused_memory
from geoseg.pipeline.earlier import Earlier, Record
from geoseg.pipeline.execution.block_store import BlockStore
from geoseg.pipeline.execution.graph import run_blocks
from geoseg.pipeline.fingerprint import blocks_fingerprint, results_fingerprint, run_fingerprint
from geoseg.pipeline.options import (
    ComputeOptions,
    OutputOptions,
    PredictOptions,
    SceneOptions,
    TilingOptions,
)
from geoseg.pipeline.outputs import Outputs, refuse_clashes, refuse_shortage
from geoseg.pipeline.plan import (
    damage_error,
    description,
    emptiness_error,
    make_plan,
    open_scene,
)
from geoseg.pipeline.summary import Summary, summarize
from geoseg.timing import StageTimer

if TYPE_CHECKING:
    from geoseg.pipeline.execution.cluster import Cluster


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
    """Find the objects of one scene and write what `output` asks for.

    Results appear together, when all are complete. They depend on tile size and overlap, not on
    workers or the scheduler. Where they are there already, of the same scene, weights and options,
    nothing is done (see `Record`). A run that was killed leaves its finished blocks (see
    `BlockStore`), and the next one with the same arguments goes on from there.

    Args:
        parts: files of a mosaic, which is to be called `path`.
        inputs: further files that no result may replace.
        progress: called with pixels done and in all, after every block.
        cluster: a connection to `compute.scheduler`, for several scenes; None = one of its own.

    Raises:
        SceneError: the scene cannot be opened, or parts of it could not be read.
        ClusterError: no scheduler or worker is there, or one is not fit.
        MachineError: the machine has too little memory.
        OutputError: an output exists already or cannot be written.
        OptionError: options that contradict each other or the machine.
    """
    compute = compute or ComputeOptions()
    if compute.tiles_per_block is None:
        compute = replace(compute, tiles_per_block=model.tiles_at_once)
    scene = scene or SceneOptions()
    stem = scene_stem(path)
    with WorkingFolder(output.folder, stem) as working, ExitStack() as stack:
        opened = str(path)
        if parts:
            opened = str(working.path / f"{stem}.vrt")
            stack.callback(Path(opened).unlink, missing_ok=True)
            write_mosaic(parts, Path(opened), overwrite=True)
        header = interruptible(partial(open_scene, opened, scene, look=False))
        stack.enter_context(closing(header))
        if scene.gsd is None:
            seen = suitable_gsd(header.geobox.gsd, model.metadata.gsd_range)
            scene = replace(scene, gsd=seen)
        options = PredictOptions(output, scene, tiling or TilingOptions(), compute)
        run = run_fingerprint(header, model, options)
        earlier = Earlier.find(output, stem, model.metadata.classes, mosaic=bool(parts))
        area = vector_files(Path(scene.aoi)) if scene.aoi else ()
        files = [*raster_files(opened), *inputs, *area]
        refuse_inputs(earlier.possible, files)
        asked = results_fingerprint(run, output)
        if (told := earlier.summary(str(path), output, asked)) is not None:
            return told
        job = Job(str(path), interruptible(partial(open_scene, opened, scene)), model, options, run)
        stack.enter_context(closing(job.scene))
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
    options: PredictOptions
    run: dict[str, Any]
    """See `run_fingerprint`."""

    def carry_out(
        self,
        working: WorkingFolder,
        earlier: Earlier,
        progress: Callable[[int, int], None],
        cluster: Cluster | None,
    ) -> Summary:
        """Compute and write everything, in place of what is there of earlier runs."""
        scene, model, options, output = self.scene, self.model, self.options, self.options.output
        timer, stem, classes = StageTimer(), scene_stem(self.path), model.metadata.classes
        with ExitStack() as stack:
            total = stack.enter_context(ExitStack())
            total.enter_context(timer.stage("total"))
            plan = make_plan(scene, model.metadata, options)
            remote, computing = None, model.options
            if options.compute.scheduler is not None:
                connected = stack.enter_context(connection(cluster, options.compute.scheduler))
                remote = connected.open(plan, model)
                computing = {**computing, **remote.computing}
            run = blocks_fingerprint(self.run, scene, computing)
            store = stack.enter_context(BlockStore(working.path, run))
            staging = stack.enter_context(
                Staging(output.folder, stem, earlier.obsolete, within=working)
            )
            extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
            refuse_shortage(output, extent.width * extent.height, working.path)
            with Outputs(plan, classes, output, staging.new, stem) as outputs:
                run_blocks(
                    plan, model, options.compute.threads, store, outputs, timer, progress, remote
                )
                if outputs.damaged and not (output.keep_going and outputs.valid_pixels):
                    raise damage_error(self.path, scene, tuple(outputs.damaged))
                if not outputs.valid_pixels:
                    store.discard()
                    raise emptiness_error(scene, in_aoi=plan.aoi is not None)
                written = outputs.finish(timer, description(self.path, run))
            total.close()
            if earlier.mosaic:
                name = f"{stem}.vrt"
                shutil.copyfile(scene.path, staging.new / name)
                written = replace(written, names=written.names | {"mosaic": name})
            if not output.overwrite:
                refuse_clashes(staging.new, output.folder)
            summary = summarize(self.path, plan, written, timer, model, options, computing)
            record = Record(results_fingerprint(self.run, output), written.names, summary.as_dict())
            record.write(staging.new / written.names["classes"])
        return summary
