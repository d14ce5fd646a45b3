"""The dask graph of one scene.

A block takes three tasks: *infer* (read, model, overlap-add), *halo* (what another block needs
of it) and *decode* (blend, decode, polygonize). In this process a fourth, *done*, hands the block
to the outputs; from a cluster the blocks are fetched (`geoseg.pipeline.execution.cluster`) and
written here.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import dask.threaded

from geoseg.geo.vector.cleanup import CleanPolygons
from geoseg.interrupts import threads
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution.block_store import BlockStore
from geoseg.pipeline.execution.schedule import Schedule
from geoseg.pipeline.execution.tasks import (
    BlockLogits,
    BlockResult,
    Halo,
    Plan,
    decode_block,
    halo,
    infer_block,
)
from geoseg.tiling.decoding import cells_around
from geoseg.tiling.grid import Block
from geoseg.timing import StageTimer

if TYPE_CHECKING:
    from geoseg.pipeline.execution.cluster import ClusterRun

Graph = dict[Any, Any]


class Sink(Protocol):
    """Takes finished blocks; see `geoseg.pipeline.outputs.Outputs`."""

    def clean_interior(self, result: BlockResult) -> tuple[BlockResult, CleanPolygons]: ...

    def write(self, result: BlockResult, finished: CleanPolygons) -> None: ...


def run_blocks(
    plan: Plan,
    model: TileModel,
    workers: int,
    store: BlockStore,
    sink: Sink,
    timer: StageTimer,
    progress: Callable[[int, int], None],
    cluster: ClusterRun | None,
) -> None:
    """Hand every wanted block to the sink: those that the store has, then the others."""
    order = Schedule.of(plan)
    targets = [plan.target(order.blocks[i]) for i in order.sources]
    total, done = sum(w.width * w.height for w in targets if w), 0

    def write(result: BlockResult, finished: CleanPolygons) -> None:
        nonlocal done
        with result.timer.stage("write"):
            sink.write(result, finished)
        timer.seconds.update(result.timer.seconds)
        done += result.class_ids.size
        progress(done, total)

    kept = []
    for i in order.sources:
        if (result := store.result(i, order.blocks[i])) is not None:
            kept.append(i)
            write(*sink.clean_interior(result))
    order = order.without(kept)
    if cluster is not None:
        for result in cluster.results(order):
            if result.whole:
                store.keep_result(result)
            write(*sink.clean_interior(result))
    else:
        compute_here(plan, order, model, workers, store, sink, write)


def compute_here(
    plan: Plan,
    order: Schedule,
    model: TileModel,
    workers: int,
    store: BlockStore,
    sink: Sink,
    write: Callable[[BlockResult, CleanPolygons], None],
) -> None:
    """All blocks of `order`, by threads of this process."""
    uses = Counter(source for needed in order.sources.values() for source in needed)
    to_infer, ended = list(order.blocks), threading.Event()

    def refuse_after_end() -> None:
        """Of a run that was given up, threads that hung must leave the store alone."""
        if ended.is_set():
            raise CancelledError

    def infer_once(
        plan: Plan, number: int, block: Block, model: TileModel, *after: object
    ) -> BlockLogits:
        if (inferred := store.inferred(number)) is None:
            inferred = infer_block(plan, number, block, model, *after)
            refuse_after_end()
            if not inferred.damaged:
                store.keep_inferred(number, inferred)
        to_infer.remove(number)
        if not to_infer:  # the last blocks are decoded in this memory
            model.release_memory()
        return inferred

    def decode_once(
        plan: Plan, number: int, block: Block, inferred: BlockLogits, pieces: list[Halo]
    ) -> tuple[BlockResult, CleanPolygons]:
        result = decode_block(plan, number, block, inferred, pieces)
        refuse_after_end()
        if result.whole:
            store.keep_result(result)
        return sink.clean_interior(result)

    def finish(settled: tuple[BlockResult, CleanPolygons], *after: None) -> None:
        """One block after the other."""
        result, finished = settled
        write(result, finished)
        uses.subtract(order.sources[result.number])
        for source in order.sources[result.number]:
            if uses[source] == 0:
                store.drop_inferred(source)

    graph, done_keys = build_graph(plan, order, model, workers, infer_once, decode_once, finish)
    try:
        with threads(workers) as pool, model.cancelled_on_error():
            dask.threaded.get(graph, done_keys, pool=pool)
    finally:
        ended.set()


def build_graph(
    plan: Plan,
    order: Schedule,
    model: TileModel,
    ahead: int,
    infer: Callable[..., BlockLogits],
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
