"""Scene in, polygons and class raster out.

A block takes three tasks: *infer* (read, model, overlap-add), *halo* (what another block needs
of it) and *decode* (blend, decode, polygonize). In this process a fourth, *done*, hands the block
to the outputs; from a cluster the blocks are fetched (`geoseg.cluster`) and written here.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.threaded

from geoseg.clock import Clock
from geoseg.decode import cells_around
from geoseg.errors import OptionError, SceneError
from geoseg.geo.aoi import read_aoi
from geoseg.geo.culprits import culprits
from geoseg.geo.export import FORMATS
from geoseg.geo.finish import Finished
from geoseg.geo.scene import Scene
from geoseg.geo.view import View, suitable_gsd
from geoseg.grid import Block, Grid, Window
from geoseg.heap import refused_memory
from geoseg.identity import identity
from geoseg.interrupts import interruptible, threads
from geoseg.model.inference import TileModel
from geoseg.model.metadata import Metadata
from geoseg.order import Order
from geoseg.outputs import Outputs, prepare_folder, refuse_existing
from geoseg.request import Reading, Request, Tiling
from geoseg.store import SUFFIX, Store
from geoseg.summary import Summary, summarize
from geoseg.tasks import BlockResult, Halo, Inferred, Plan, decode_block, halo, infer_block

if TYPE_CHECKING:
    from geoseg.cluster import Cluster, ClusterRun

Graph = dict[Any, Any]
LOG = logging.getLogger("geoseg")


@refused_memory()
def predict(
    path: str | Path,
    model: TileModel,
    request: Request,
    tiling: Tiling | None = None,
    reading: Reading | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cluster: Cluster | None = None,
) -> Summary:
    """Find the objects of one scene and write what `request` asks for.

    Nothing appears at a final path before it is complete. The results depend on tile size and
    overlap, not on blocks, workers or the scheduler. A run that was killed leaves its finished
    blocks (see `Store`), and the next one with the same arguments goes on from there.

    Args:
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
    scene = interruptible(
        partial(
            Scene.open,
            str(path),
            bands=reading.bands,
            collar=reading.collar,
            rescale=reading.rescale,
            skip_damage=True,  # what is lost is told in the end, when the rest is done
        )
    )
    if reading.gsd is None:
        seen = suitable_gsd(scene.geobox.gsd, model.metadata.gsd_range)
        reading = replace(reading, gsd=seen)
    clock = Clock()
    with clock.stage("total"), ExitStack() as stack:
        plan = make_plan(scene, model.metadata, request, tiling, reading)
        remote, computing = None, model.options
        if tiling.scheduler is not None:
            remote = stack.enter_context(connection(cluster, tiling.scheduler)).open(plan, model)
            computing |= remote.computing
        extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
        prepare_folder(request, extent.width * extent.height)
        run = identity(scene, model, reading, tiling, request, computing)
        with Store(request.folder / f"{scene.stem}{SUFFIX}", run) as store:
            if not (store.resumed or request.overwrite):
                refuse_existing(request, scene.stem)
            with Outputs(plan, model.metadata.classes, request) as outputs:
                compute(plan, model, tiling, store, outputs, clock, progress, remote)
                if outputs.damaged and not request.keep_going:
                    raise damage_error(scene, tuple(outputs.damaged))
                written = outputs.finish(clock, description(scene.path, run))
    scene.close()
    return summarize(plan, written, clock, model, (reading, tiling, request), computing)


def connection(cluster: Cluster | None, address: str) -> AbstractContextManager[Cluster]:
    """`cluster`, which stays open, or one of its own."""
    from geoseg.cluster import Cluster

    return Cluster(address) if cluster is None else nullcontext(cluster)


def make_plan(
    scene: Scene, metadata: Metadata, request: Request, tiling: Tiling, reading: Reading
) -> Plan:
    """Raises SceneError and OptionError for what cannot be."""
    geobox = scene.geobox
    for kind in request.formats:
        if geobox.crs is None and kind in FORMATS and FORMATS[kind].wgs84:
            raise OptionError(
                f"--format {kind} is in WGS 84, but {scene.path} has no CRS; choose another"
            )
    view = View.of(scene, gsd=reading.gsd, scale=metadata.scale)
    width, height = view.geobox.width, view.geobox.height
    assert tiling.tiles_per_block is not None
    pixel = geobox.gsd or 1.0
    return Plan(
        view=view,
        grid=Grid(width, height, tiling.tile_size, tiling.overlap, tiling.tiles_per_block),
        aoi=None if reading.aoi is None else read_aoi(reading.aoi, geobox),
        min_pixels=request.min_area / pixel**2,
        confidence=request.confidence,
        logits=request.logits,
    )


def damage_error(scene: Scene, damaged: Sequence[Window]) -> SceneError:
    """Of a mosaic, the files are named."""
    files = culprits(scene.source, damaged)
    for reason in files.values():
        LOG.info("%s", reason)
    parts = [f"{w.width}×{w.height} px at ({w.col_off}, {w.row_off})" for w in damaged]
    names = list(files) or parts
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    what = "files" if files else "blocks of the file"
    return SceneError(
        f"{scene.path}: {what} that cannot be read: {shown} (-v says why); repair what is broken, "
        "and the same command reads it again, or leave it as nodata: --keep-going"
    )


def description(path: str, run: dict[str, Any]) -> dict[str, str]:
    """What the layers say of how they were made."""
    told = {key: str(value) for key, value in run.items() if value is not None and key != "files"}
    return {**told, "scene": path, "date": datetime.now(UTC).isoformat(timespec="seconds")}


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
