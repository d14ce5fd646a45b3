"""The blocks in flight on a cluster: which are begun, which have arrived, what is still needed."""

from __future__ import annotations

import math
import operator
import pickle
import queue
import time
import uuid
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoseg.pipeline.execution.tasks import Plan
from geoseg.pipeline.execution.worker import run
from geoseg.tiling.schedule import Job
from geoseg.version import build

if TYPE_CHECKING:
    from distributed import Client

COUNT = 1.0
"""Seconds after which the threads of the cluster are counted again."""
_RUN = (pickle.loads, pickle.dumps(run))
"""A task that unpickles `run` on the worker. The scheduler, which has no geoseg, unpickles the task
but does not run it."""


class Flight:
    """The blocks in flight on the cluster, begun in order and committed in order.

    There are as many as the threads of all workers can take, and as many again, which are read or
    wait to be committed. So neither memory nor results that wait grow with the scene.
    """

    def __init__(
        self,
        client: Client,
        plan: Plan,
        parcels: tuple[str, str],
        shipped: tuple[Any, Any],
        todo: Iterator[Job],
        digest: NDArray[np.uint8],
    ) -> None:
        """Args:
        parcels: names of plan and model.
        shipped: futures of their bytes.
        digest: `BlockStore.digest`.
        """
        self.client, self.plan, self.todo, self.digest = client, plan, todo, digest
        self.parcels, self.shipped = parcels, shipped
        self.name = uuid.uuid4().hex[:12]  # a cluster may have several runs at once
        self.pending: deque[Job] = deque()
        """Jobs that were begun and not yet committed."""
        self.inferred: dict[int, Any] = {}
        """Futures of logits that are still needed."""
        self.decoded: dict[int, Any] = {}
        """Futures of the pending jobs."""
        self.landed: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.finished: set[int] = set()
        """Numbers of pending jobs whose futures have ended."""
        self.slots, self.counted = 0, -math.inf
        """Threads of all workers, and when they were counted."""

    def advance(self) -> None:
        """Submit as many blocks as the cluster can take."""
        now = time.monotonic()
        if now - self.counted > COUNT:  # workers join and leave
            self.slots, self.counted = sum(self.client.nthreads().values()), now
        room = (2 * self.slots or 2) - len(self.pending)
        if room < self.slots / 4:  # a graph for several blocks takes hardly longer than for one
            return
        graph: dict[str, tuple[Any, ...]] = {}
        new, inferred = list(islice(self.todo, room)), list[int]()
        for job in new:
            for i, block in job.sources.items():
                if i not in self.inferred and self._key("infer", i) not in graph:
                    graph[self._key("infer", i)] = self._task("infer", (block,))
                    inferred.append(i)
            if job.sources:
                self._decode(graph, job)
        self.pending.extend(new)
        if not graph:
            return
        decoded = [job.number for job in new if job.sources]
        keys = [self._key("infer", i) for i in inferred]
        keys += [self._key("decode", i) for i in decoded]
        futures = self.client.get(graph, keys, sync=False)
        self.inferred |= dict(zip(inferred, futures, strict=False))
        for i, future in zip(decoded, futures[len(inferred) :], strict=True):
            self.decoded[i] = future
            future.add_done_callback(lambda done, i=i: self.landed.put(i))

    def commit(self) -> None:
        """Note that the first pending job has arrived, and release what no later one needs."""
        job = self.pending.popleft()
        self.decoded.pop(job.number, None)
        self.finished.discard(job.number)
        for source in job.last:
            del self.inferred[source]

    def release(self) -> None:
        """Release everything in flight."""
        for future in (*self.inferred.values(), *self.decoded.values()):
            future.release()

    def _decode(self, graph: dict[str, tuple[Any, ...]], job: Job) -> None:
        cells = self.plan.cells(job.block)
        pieces = []
        for source in job.sources:
            if source != job.number:
                pieces.append(self._key(f"halo-{source}", job.number))
                graph[pieces[-1]] = self._task("halo", (cells,), self._logits(source))
        arguments = (job.number, job.block, self.digest)
        own = self._logits(job.number)
        graph[self._key("decode", job.number)] = self._task("decode", arguments, own, *pieces)

    def _logits(self, i: int) -> Any:
        """Return the logits of a block: a future, or a key of the graph under construction."""
        return self.inferred.get(i, self._key("infer", i))

    def _task(self, name: str, arguments: tuple[Any, ...], *made: Any) -> tuple[Any, ...]:
        step = pickle.dumps((*self.parcels, name, arguments))
        return (operator.call, _RUN, build(), step, *self.shipped, *made)

    def _key(self, name: str, i: int) -> str:
        return f"geoseg-{name}-{i}-{self.name}"
