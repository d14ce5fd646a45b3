"""Scene in, polygons and class raster out.

A block takes three tasks: *infer* (read, model, overlap-add), *halo* (what another block needs
of it) and *decode* (blend, decode, polygonize). In this process a fourth, *done*, hands the block
to the outputs; from a cluster the blocks are fetched (`geoseg.pipeline.cluster.client`) and written here.
"""

from __future__ import annotations

import shutil
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.threaded

from geoseg.atomic import Staging, WorkingFolder
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.naming import scene_stem
from geoseg.geo.raster.resampled import suitable_gsd
from geoseg.geo.raster.scene import Scene
from geoseg.geo.raster.source import files_of, vector_files_of
from geoseg.geo.vector.cleanup import Finished
from geoseg.guard import refuse_inputs
from geoseg.interrupts import interruptible, threads
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import refused_memory
from geoseg.pipeline.block_store import Store
from geoseg.pipeline.earlier import Earlier, Record
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
from geoseg.pipeline.schedule import Order
from geoseg.pipeline.summary import Summary, summarize
from geoseg.pipeline.tasks import BlockResult, Halo, Inferred, Plan, decode_block, halo, infer_block
from geoseg.tiling.decoding import cells_around
from geoseg.tiling.grid import Block
from geoseg.timing import Clock

if TYPE_CHECKING:
    from geoseg.pipeline.cluster.client import Cluster, ClusterRun

Graph = dict[Any, Any]


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
    from geoseg.pipeline.cluster.client import Cluster

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
                compute(plan, model, tiling, store, outputs, clock, progress, remote)
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


def compute(
    plan: Plan,
    model: TileModel,
    tiling: Tiling,
    store: Store,
    outputs: Outputs,
    clock: Clock,
    progress: Callable[[int, int], None],
    cluster: ClusterRun | None,
) -> None:
    """Hand every wanted block to the outputs: those that the store has, then the others."""
    order = Order.of(plan)
    targets = [plan.target(order.blocks[i]) for i in order.sources]
    total, done = sum(w.width * w.height for w in targets if w), 0

    def write(result: BlockResult, finished: Finished) -> None:
        nonlocal done
        with result.clock.stage("write"):
            outputs.write(result, finished)
        clock.seconds.update(result.clock.seconds)
        done += result.class_ids.size
        progress(done, total)

    kept = []
    for i in order.sources:
        if (result := store.result(i, order.blocks[i])) is not None:
            kept.append(i)
            write(*outputs.settle(result))
    order = order.without(kept)
    if cluster is not None:
        for result in cluster.results(order):
            if result.whole:
                store.keep_result(result)
            write(*outputs.settle(result))
    else:
        compute_here(plan, order, model, tiling, store, outputs, write)


def compute_here(
    plan: Plan,
    order: Order,
    model: TileModel,
    tiling: Tiling,
    store: Store,
    outputs: Outputs,
    write: Callable[[BlockResult, Finished], None],
) -> None:
    """All blocks of `order`, by threads of this process."""
    uses = Counter(source for needed in order.sources.values() for source in needed)
    to_infer, ended = list(order.blocks), threading.Event()

    def refuse_late() -> None:
        """Of a run that was given up, threads that hung must leave the store alone."""
        if ended.is_set():
            raise CancelledError

    def infer_once(
        plan: Plan, number: int, block: Block, model: TileModel, *after: object
    ) -> Inferred:
        if (inferred := store.inferred(number)) is None:
            inferred = infer_block(plan, number, block, model, *after)
            refuse_late()
            if not inferred.damaged:
                store.keep_inferred(number, inferred)
        to_infer.remove(number)
        if not to_infer:  # the last blocks are decoded in this memory
            model.release_memory()
        return inferred

    def decode_once(
        plan: Plan, number: int, block: Block, inferred: Inferred, pieces: list[Halo]
    ) -> tuple[BlockResult, Finished]:
        result = decode_block(plan, number, block, inferred, pieces)
        refuse_late()
        if result.whole:
            store.keep_result(result)
        return outputs.settle(result)

    def finish(settled: tuple[BlockResult, Finished], *after: None) -> None:
        """One block after the other."""
        result, finished = settled
        write(result, finished)
        uses.subtract(order.sources[result.number])
        for source in order.sources[result.number]:
            if uses[source] == 0:
                store.drop_inferred(source)

    graph, done_keys = build_graph(
        plan, order, model, tiling.threads, infer_once, decode_once, finish
    )
    try:
        with threads(tiling.threads) as pool, model.cancelled_on_error():
            dask.threaded.get(graph, done_keys, pool=pool)
    finally:
        ended.set()


def build_graph(
    plan: Plan,
    order: Order,
    model: TileModel,
    ahead: int,
    infer: Callable[..., Inferred],
    decode: Callable[..., object],
    finish: Callable[..., None],
) -> tuple[Graph, list[Any]]:
    """The dask graph, and the keys of `finish` called on its blocks.

    Args:
        ahead: threads, which are that many blocks ahead of each other.
    """

    def key(name: str, *where: int) -> tuple[Any, ...]:
        return (name, *where)

    plan_key, model_key = key("plan"), key("model")
    graph: Graph = {plan_key: plan, model_key: model}
    wanted = sorted(order.sources)
    # Blocks are done in order, and one starts only when all but the latest of those that need no
    # later block are done: what is in flight follows the width of the scene, not its area.
    needs = accumulate((max(order.sources[i]) for i in wanted), max)
    ready = list(needs)  # block wanted[k] can be finished once block ready[k] is inferred
    numbers = list(order.blocks)
    for place, (i, block) in enumerate(order.blocks.items()):
        latest = bisect_left(ready, i) - 1 - 2 * ahead
        after = [key("done", wanted[latest])] if latest >= 0 else []
        if place >= ahead:
            # Left to dask, a block that many wait for may come late, and threads wait with it.
            after.append(key("infer", numbers[place - ahead]))
        graph[key("infer", i)] = (infer, plan_key, i, block, model_key, *after)
    for i in wanted:
        cells = cells_around(order.blocks[i].core, plan.grid.extent)
        pieces = []
        for source in order.sources[i]:
            if source != i:
                pieces.append(key("halo", source, i))
                graph[pieces[-1]] = (halo, key("infer", source), cells)
        inferred = key("infer", i)
        graph[key("decode", i)] = (decode, plan_key, i, order.blocks[i], inferred, pieces)
    for k, i in enumerate(wanted):
        after = [key("done", wanted[k - 1])] if k else []
        graph[key("done", i)] = (finish, key("decode", i), *after)
    return graph, [key("done", i) for i in wanted]
