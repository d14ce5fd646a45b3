"""The dask graph of one scene.

A block takes three tasks: *infer* (read, run the model, overlap-add), *halo* (cut out what another
block needs) and *decode* (blend, decode, polygonize). On this machine a fourth, *done*, writes the
block; a cluster returns its blocks (`geoseg.pipeline.execution.cluster`), which are written here.
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
from geoseg.pipeline.execution.tasks import (
    BlockLogits,
    BlockResult,
    Halo,
    Plan,
    Schedule,
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
    """Writes finished blocks; see `geoseg.pipeline.outputs.Outputs`."""

    def clean_interior(self, result: BlockResult) -> tuple[BlockResult, CleanPolygons]: ...

    def write(self, result: BlockResult, clean: CleanPolygons) -> None: ...


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
    """Write every block of the plan: first those in the store, then the others."""
    schedule = Schedule.of(plan)
    windows = [plan.output_window(schedule.blocks[i]) for i in schedule.sources]
    total, done = sum(w.width * w.height for w in windows if w), 0

    def write(result: BlockResult, clean: CleanPolygons) -> None:
        nonlocal done
        with result.timer.stage("write"):
            sink.write(result, clean)
        timer.seconds.update(result.timer.seconds)
        done += result.class_ids.size
        progress(done, total)

    kept = []
    for i in schedule.sources:
        if (result := store.result(i, schedule.blocks[i])) is not None:
            kept.append(i)
            write(*sink.clean_interior(result))
    schedule = schedule.without(kept)
    if cluster is not None:
        for result in cluster.results(schedule):
            if result.intact:
                store.keep_result(result)
            write(*sink.clean_interior(result))
    else:
        compute_here(plan, schedule, model, workers, store, sink, write)


def compute_here(
    plan: Plan,
    schedule: Schedule,
    model: TileModel,
    workers: int,
    store: BlockStore,
    sink: Sink,
    write: Callable[[BlockResult, CleanPolygons], None],
) -> None:
    """Compute all blocks of `schedule` on threads of this process."""
    uses = Counter(source for needed in schedule.sources.values() for source in needed)
    to_infer, ended = list(schedule.blocks), threading.Event()

    def refuse_after_end() -> None:
        """Keep threads that hung in C from writing to the store of a run that has ended."""
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
        if not to_infer:  # decoding the last blocks needs this memory
            model.release_memory()
        return inferred

    def decode_once(
        plan: Plan, number: int, block: Block, inferred: BlockLogits, pieces: list[Halo]
    ) -> tuple[BlockResult, CleanPolygons]:
        result = decode_block(plan, number, block, inferred, pieces)
        refuse_after_end()
        if result.intact:
            store.keep_result(result)
        return sink.clean_interior(result)

    def finish(decoded: tuple[BlockResult, CleanPolygons], *after: None) -> None:
        """Write a block, and drop logits that were needed for the last time."""
        result, clean = decoded
        write(result, clean)
        uses.subtract(schedule.sources[result.number])
        for source in schedule.sources[result.number]:
            if uses[source] == 0:
                store.drop_inferred(source)

    graph, done_keys = build_graph(plan, schedule, model, workers, infer_once, decode_once, finish)
    try:
        with threads(workers) as pool, model.cancelled_on_error():
            dask.threaded.get(graph, done_keys, pool=pool)
    finally:
        ended.set()


def build_graph(
    plan: Plan,
    schedule: Schedule,
    model: TileModel,
    ahead: int,
    infer: Callable[..., BlockLogits],
    decode: Callable[..., object],
    finish: Callable[..., None],
) -> tuple[Graph, list[Any]]:
    """Return the dask graph, and the keys of `finish` for its blocks.

    Args:
        ahead: number of threads: blocks that are in progress at once.
    """

    def key(name: str, *where: int) -> tuple[Any, ...]:
        return (name, *where)

    plan_key, model_key = key("plan"), key("model")
    graph: Graph = {plan_key: plan, model_key: model}
    wanted = sorted(schedule.sources)
    # Blocks finish in order. A block starts only when all but the last 2 × `ahead` of the blocks
    # that do not depend on it are finished: memory grows with the width of a scene, not its area.
    # Block wanted[k] can finish once block ready[k] is inferred.
    ready = list(accumulate((max(schedule.sources[i]) for i in wanted), max))
    numbers = list(schedule.blocks)
    for position, (i, block) in enumerate(schedule.blocks.items()):
        latest = bisect_left(ready, i) - 1 - 2 * ahead
        after = [key("done", wanted[latest])] if latest >= 0 else []
        if position >= ahead:
            # Dask alone may postpone a block that many others wait for.
            after.append(key("infer", numbers[position - ahead]))
        graph[key("infer", i)] = (infer, plan_key, i, block, model_key, *after)
    for i in wanted:
        cells = cells_around(schedule.blocks[i].core, plan.grid.extent)
        pieces = []
        for source in schedule.sources[i]:
            if source != i:
                pieces.append(key("halo", source, i))
                graph[pieces[-1]] = (halo, key("infer", source), cells)
        inferred = key("infer", i)
        graph[key("decode", i)] = (decode, plan_key, i, schedule.blocks[i], inferred, pieces)
    for k, i in enumerate(wanted):
        after = [key("done", wanted[k - 1])] if k else []
        graph[key("done", i)] = (finish, key("decode", i), *after)
    return graph, [key("done", i) for i in wanted]
