"""The dask graph of one scene, computed strip by strip.

A block takes three tasks: *infer* (read, run the model, overlap-add), *decode* (blend with the
logits of its neighbors, decode, polygonize, clean) and *done* (write). Logits do not pass through
the graph: they wait in `RecentLogits`. A cluster returns its blocks
(`geoseg.pipeline.execution.cluster`), which are written here. Blocks are written in order.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Protocol

import dask.threaded

from geoseg.interrupts import threads
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution.block_store import BlockStore, RecentLogits
from geoseg.pipeline.execution.tasks import BlockResult, Plan, decode_block, halo, infer_block
from geoseg.tiling.grid import Block
from geoseg.tiling.schedule import Job, jobs
from geoseg.timing import StageTimer

if TYPE_CHECKING:
    from geoseg.pipeline.execution.cluster import ClusterRun

Graph = dict[Any, Any]
Key = tuple[Any, ...]
"""Of a task: its kind, and the number of the block."""
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
    steps = _Steps(plan, model, store, write, RecentLogits(store, _in_use(workers)))
    strip = list(islice(todo, STRIP))
    try:
        with threads(workers) as pool, model.cancelled_on_error():
            while strip:
                following = list(islice(todo, STRIP))
                new = to_infer(strip, steps.logits)
                steps.to_infer, steps.is_last_strip = set(new), not following
                graph, done = build_graph(strip, new, workers, steps)
                dask.threaded.get(graph, done, pool=pool)
                strip = following
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
        logits: RecentLogits,
    ) -> None:
        self.plan, self.model, self.store, self.write = plan, model, store, write
        self.logits = logits
        self.ended = threading.Event()
        self.to_infer: set[int] = set()
        """Blocks of the strip that are not yet inferred."""
        self.is_last_strip = False

    def _refuse_after_end(self) -> None:
        """Keep threads that hung in C from writing to the store of a run that has ended."""
        if self.ended.is_set():
            raise CancelledError

    def infer(self, number: int, block: Block, *after: None) -> None:
        """Compute the logits of a block, unless the store has them. `after` orders the graph."""
        inferred = self.store.inferred(number)
        if inferred is None or inferred.damaged:  # what failed then may be readable now
            inferred = infer_block(self.plan, block, self.model)
            self._refuse_after_end()
            self.store.keep_inferred(number, inferred)
        self.logits.add(number, inferred)
        self.to_infer.discard(number)
        if self.is_last_strip and not self.to_infer:  # decoding the last blocks needs this memory
            self.model.release_memory()

    def decode(self, job: Job, *after: None) -> BlockResult:
        cells = self.plan.cells(job.block)
        others = (source for source in job.sources if source != job.number)
        pieces = [halo(self.logits.get(source), cells) for source in others]
        result = decode_block(self.plan, job.number, job.block, self.logits.get(job.number), pieces)
        self._refuse_after_end()
        if result.intact:
            self.store.keep_result(result)
        return result

    def load(self, job: Job, *after: None) -> BlockResult:
        """Return a block from the store."""
        return self.store.result(job.number, job.block)

    def finish(self, job: Job, result: BlockResult, *after: None) -> None:
        """Write a block, and drop logits that were needed for the last time."""
        self.write(result)
        for source in job.last:
            self.logits.drop(source)


def _in_use(workers: int) -> int:
    """Return how many blocks' logits the blocks in progress need: those of three rows."""
    return 3 * (2 * workers + 3)


def to_infer(strip: Sequence[Job], inferred: Container[int]) -> dict[int, Block]:
    """Return the blocks whose logits the jobs need, and that are not `inferred`, by number."""
    return {i: block for job in strip for i, block in job.sources.items() if i not in inferred}


def build_graph(
    strip: Sequence[Job], new: dict[int, Block], ahead: int, steps: _Steps
) -> tuple[Graph, list[Any]]:
    """Return the dask graph of some jobs, and the keys of their `finish`.

    Args:
        new: blocks to be inferred.
        ahead: number of threads: blocks that are in progress at once.
    """
    graph: Graph = {}
    # Blocks finish in order. A block starts only when all but the last 2 × `ahead` of the blocks
    # that do not depend on it are finished: memory grows neither with the width of a scene nor its
    # area.
    # Job strip[k] can finish once block ready[k] is inferred.
    ready = list(accumulate((max(job.sources, default=-1) for job in strip), max))

    def may_start(waiting: int) -> list[Any]:
        """Return what must be done before a step for which `waiting` jobs need not wait."""
        latest = waiting - 1 - 2 * ahead
        return [("done", strip[latest].number)] if latest >= 0 else []

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
            sources = [("infer", source) for source in job.sources if source in new]
            graph["decode", i] = (steps.decode, job, *sources)
        else:
            graph["decode", i] = (steps.load, job, *may_start(k))
        graph["done", i] = (steps.finish, job, ("decode", i), *previous)
    return graph, [("done", job.number) for job in strip]
