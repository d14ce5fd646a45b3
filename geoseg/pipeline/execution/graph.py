"""The dask graph of one scene, computed strip by strip.

A block takes three tasks: *infer* (read, run the model, overlap-add), *halo* (cut out what another
block needs) and *decode* (blend, decode, polygonize, clean). On this machine a fourth, *done*,
writes the block; a cluster returns its blocks (`geoseg.pipeline.execution.cluster`), which are
written here. Blocks are written in order.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Protocol

import dask.threaded

from geoseg.interrupts import threads
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution.block_store import BlockStore
from geoseg.pipeline.execution.tasks import (
    BlockLogits,
    BlockResult,
    Halo,
    Plan,
    decode_block,
    halo,
    infer_block,
)
from geoseg.tiling.grid import Block
from geoseg.tiling.schedule import Job, jobs
from geoseg.timing import StageTimer

if TYPE_CHECKING:
    from geoseg.pipeline.execution.cluster import ClusterRun

Graph = dict[Any, Any]
Key = tuple[Any, ...]
"""Of a task: its kind, and the numbers of one or two blocks."""
Carried = BlockLogits | Halo
"""What one strip leaves to the next."""
STRIP = 512
"""Blocks of one graph: enough that the pause between two graphs does not show, and few enough that
neither planning nor memory grows with the scene."""


class Sink(Protocol):
    """Writes finished blocks; see `geoseg.pipeline.outputs.Outputs`."""

    def write(self, result: BlockResult) -> None: ...


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
    """Write every block of the plan in order; those in the store are not computed again."""
    part = plan.decode_grid.part
    windows = (plan.output_window(block) for block in plan.grid.blocks(part))
    total, done = sum(w.width * w.height for w in windows if w), 0

    def write(result: BlockResult) -> None:
        nonlocal done
        with result.timer.stage("write"):
            sink.write(result)
        timer.seconds.update(result.timer.seconds)
        done += result.class_ids.size
        progress(done, total)

    todo = jobs(plan.grid, plan.output_window, store.has_result, plan.cells, part)
    if cluster is not None:
        for result in cluster.results(todo, store):
            write(result)
    else:
        compute_here(plan, todo, model, workers, store, write)


def compute_here(
    plan: Plan,
    todo: Iterator[Job],
    model: TileModel,
    workers: int,
    store: BlockStore,
    write: Callable[[BlockResult], None],
) -> None:
    """Compute all jobs on threads of this process."""
    steps = _Steps(plan, model, store, write)
    carried: dict[Key, Carried] = {}
    strip = list(islice(todo, STRIP))
    try:
        with threads(workers) as pool, model.cancelled_on_error():
            while strip:
                following = list(islice(todo, STRIP))
                steps.to_infer = set(to_infer(strip, carried))
                steps.is_last_strip = not following
                kept = to_carry(strip, following, carried)
                asked = set(kept)
                graph, done = build_graph(plan, strip, carried, workers, steps)
                for job in following:
                    add_halos(graph, plan, job, asked)
                wanted: list[Any] = [done, kept]
                _, values = dask.threaded.get(graph, wanted, pool=pool)
                carried, strip = dict(zip(kept, values, strict=True)), following
                del values  # else they would all stay until the next strip ends
    finally:
        steps.ended.set()


class _Steps:
    """The tasks of the graph, which share the store and know when the run has ended."""

    def __init__(
        self,
        plan: Plan,
        model: TileModel,
        store: BlockStore,
        write: Callable[[BlockResult], None],
    ) -> None:
        self.plan, self.model, self.store, self.write = plan, model, store, write
        self.ended = threading.Event()
        self.to_infer: set[int] = set()
        """Blocks of the strip that are not yet inferred."""
        self.is_last_strip = False

    def _refuse_after_end(self) -> None:
        """Keep threads that hung in C from writing to the store of a run that has ended."""
        if self.ended.is_set():
            raise CancelledError

    def infer(self, number: int, block: Block, *after: object) -> BlockLogits:
        """Return the logits of a block, from the store or computed. `after` orders the graph."""
        if (inferred := self.store.inferred(number)) is None:
            inferred = infer_block(self.plan, block, self.model)
            self._refuse_after_end()
            if not inferred.damaged:
                self.store.keep_inferred(number, inferred)
        self.to_infer.discard(number)
        if self.is_last_strip and not self.to_infer:  # decoding the last blocks needs this memory
            self.model.release_memory()
        return inferred

    def decode(self, job: Job, inferred: BlockLogits, pieces: list[Halo]) -> BlockResult:
        result = decode_block(self.plan, job.number, job.block, inferred, pieces)
        self._refuse_after_end()
        if result.intact:
            self.store.keep_result(result)
        return result

    def load(self, job: Job, *after: object) -> BlockResult:
        """Return a block from the store."""
        return self.store.result(job.number, job.block)

    def finish(self, job: Job, result: BlockResult, *after: None) -> None:
        """Write a block, and drop logits that were needed for the last time."""
        self.write(result)
        for source in job.last:
            self.store.drop_inferred(source)


def to_infer(strip: Sequence[Job], carried: Container[Key]) -> dict[int, Block]:
    """Return the blocks whose logits the jobs need, and that are not `carried`, by number."""
    return {
        i: block
        for job in strip
        for i, block in job.sources.items()
        if ("infer", i) not in carried and ("halo", i, job.number) not in carried
    }


def to_carry(strip: Sequence[Job], following: Sequence[Job], carried: Collection[Key]) -> list[Key]:
    """Return the keys of what the jobs after a strip need of its results, and of what it carries.

    Of blocks that are decoded that is only what they give to others: else two rows of blocks would
    be in memory when a strip ends, instead of one.
    """
    known = {i for job in strip for i in job.sources} | {key[1] for key in carried}
    known -= {i for job in strip for i in job.last}
    ending = {i for job in following for i in job.last if i <= strip[-1].number}
    keys: list[Key] = [("infer", i) for i in sorted(known - ending)]
    keys += [
        ("halo", i, job.number) for job in following for i in job.sources if i in known & ending
    ]
    return keys


def build_graph(
    plan: Plan,
    strip: Sequence[Job],
    carried: dict[Key, Carried],
    ahead: int,
    steps: _Steps,
) -> tuple[Graph, list[Any]]:
    """Return the dask graph of some jobs, and the keys of their `finish`.

    Args:
        carried: logits and halos from earlier strips, which the graph takes out.
        ahead: number of threads: blocks that are in progress at once.
    """
    # As an argument the key would be a dependency.
    graph: Graph = {key: (partial(carried.pop, key),) for key in carried}
    # Blocks finish in order. A block starts only when all but the last 2 × `ahead` of the blocks
    # that do not depend on it are finished: memory grows with the width of a scene, not its area.
    # Job strip[k] can finish once block ready[k] is inferred.
    ready = list(accumulate((max(job.sources, default=-1) for job in strip), max))

    def may_start(waiting: int) -> list[Any]:
        """Return what must be done before a step for which `waiting` jobs need not wait."""
        latest = waiting - 1 - 2 * ahead
        return [("done", strip[latest].number)] if latest >= 0 else []

    new = to_infer(strip, carried)
    numbers = sorted(new)
    for position, i in enumerate(numbers):
        after = may_start(bisect_left(ready, i))
        if position >= ahead:
            # Dask alone may postpone a block that many others wait for.
            after.append(("infer", numbers[position - ahead]))
        graph["infer", i] = (steps.infer, i, new[i], *after)
    for k, job in enumerate(strip):
        i, previous = job.number, [("done", strip[k - 1].number)] if k else []
        if job.sources:
            pieces = [("halo", source, i) for source in job.sources if source != i]
            add_halos(graph, plan, job, pieces)
            graph["decode", i] = (steps.decode, job, ("infer", i), pieces)
        else:
            graph["decode", i] = (steps.load, job, *may_start(k))
        graph["done", i] = (steps.finish, job, ("decode", i), *previous)
    return graph, [("done", job.number) for job in strip]


def add_halos(graph: Graph, plan: Plan, job: Job, keys: Collection[Key]) -> None:
    """Add the tasks among `keys` that cut out what a job needs of other blocks."""
    cells = plan.cells(job.block)
    for source in job.sources:
        if (key := ("halo", source, job.number)) in keys and key not in graph:
            graph[key] = (halo, ("infer", source), cells)
