"""Blocks computed on a dask.distributed cluster.

The cluster gets as many blocks at a time as its threads can take, so that memory on the scheduler
and the workers does not grow with the scene. Tasks refer to the standard library only, and their
data is bytes, which `geoseg.pipeline.execution.worker` unpickles.
"""

from __future__ import annotations

import hashlib
import logging
import operator
import pickle
import queue
import time
import uuid
from asyncio import to_thread
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dask

from geoseg.errors import ClusterError, OptionError, SchedulerError
from geoseg.geo.raster.files import FileSignature
from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution.tasks import BlockResult, Plan, Schedule
from geoseg.pipeline.execution.worker import Demand, Parcel, inspect, run
from geoseg.tiling.decoding import cells_around
from geoseg.version import build

_WAIT = 60.0
"""Seconds to wait for a worker."""
_LOOK = 1.0
"""Seconds without a result after which the connection is checked."""
_CONNECT = 30.0
"""Seconds to wait for the scheduler."""
_LOG = logging.getLogger("geoseg")
_RUN = (pickle.loads, pickle.dumps(run))
"""A task that unpickles `run` on the worker. The scheduler, which has no geoseg, unpickles the task
but does not run it."""


class Cluster:
    """A connection to a scheduler, used for one scene after the other. A context."""

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            OptionError: dask.distributed is not installed, or the address is malformed.
            SchedulerError: no scheduler answers.
        """
        try:
            from distributed import Client
        except ImportError as error:
            raise OptionError(
                "--scheduler needs dask.distributed; install it: pip install 'geoseg[cluster]'"
            ) from error
        # It logs a lost connection as tracebacks; `connected` says the same in one line.
        self._logger = logging.getLogger("distributed")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)
        self.address = address
        try:
            self.client = Client(address, timeout=_CONNECT, set_as_default=False)
        except ValueError as error:
            raise OptionError(f"--scheduler {address} is no address: {error}") from error
        except OSError as error:
            raise SchedulerError(
                f"the scheduler {address} does not answer; start `dask scheduler` there, or leave "
                "out --scheduler to compute on this machine"
            ) from error
        self._models: dict[int, tuple[TileModel, str, Any]] = {}
        """Models that were sent: each with its name and the future of its bytes, by `id`."""

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close(timeout=2)
        self._logger.setLevel(self._level)

    def open(self, plan: Plan, model: TileModel) -> ClusterRun:
        """Check all workers and return a run on them.

        Raises:
            SchedulerError: there is no worker within a minute.
            ClusterError: a worker has another geoseg, or not the scene.
        """
        parcel = _parcel(plan)
        with self.connected():
            model_name, model_future = self._ship_model(model)
            self.wait_for_workers()  # adaptive clusters start them on demand
            found = self._inspect(parcel, model)
            devices, precisions = (sorted(set(values)) for values in zip(*found, strict=True))
            computing = {"device": ", ".join(devices), "precision": ", ".join(precisions)}
            shipped = (self._ship(parcel), model_future)
        return ClusterRun(self, plan, (parcel.name, model_name), shipped, computing)

    def _ship_model(self, model: TileModel) -> tuple[str, Any]:
        """Send a model once for all scenes; return its name and the future of its bytes."""
        if id(model) not in self._models:
            parcel = _named("model", cloudpickle.dumps(model))
            self._models[id(model)] = (model, parcel.name, self._ship(parcel))
        return self._models[id(model)][1:]

    def _ship(self, parcel: Parcel) -> Any:
        """Return a future of the bytes: a task's result, which survives the worker holding it."""
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}):
            return self.client.submit(bytes, parcel.content, key=parcel.name)

    def _inspect(self, demand: Parcel, model: TileModel) -> list[tuple[str, str]]:
        """Return device and precision of each worker. Raises what `inspect` raises on one."""
        inspector, client, asked = pickle.dumps(inspect), build(), dict(model.requested)
        name, content = demand.name, demand.content

        async def look(dask_worker: Any) -> Any:
            # On a thread, to keep the worker's event loop free.
            def call() -> Any:
                return pickle.loads(inspector)(dask_worker.address, client, name, content, asked)

            return await to_thread(call)

        found = self.client.run(look, on_error="return")
        for address, answer in found.items():
            if isinstance(answer, BaseException):
                raise _readable(answer, f"worker {address}")
        return list(found.values())

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Raise SchedulerError if the connection is lost, ClusterError if the run is."""
        if self.client.status != "running":
            raise self.lost()
        try:
            yield
        except OSError as error:
            raise self.lost() from error
        except CancelledError as error:
            if self.client.status != "running":
                raise self.lost() from error
            raise ClusterError(
                f"the scheduler {self.address} dropped the run: it was restarted, or somebody "
                "cancelled it; the same command goes on"
            ) from error

    def lost(self) -> SchedulerError:
        """Return the error of a lost connection."""
        return SchedulerError(
            f"the scheduler {self.address} does not answer any more; start it again, and the same "
            "command goes on"
        )

    def wait_for_workers(self) -> None:
        """Raise SchedulerError if none comes."""
        deadline, warned = time.monotonic() + _WAIT, False
        while not self.client.nthreads():
            if time.monotonic() > deadline:
                raise SchedulerError(
                    f"the scheduler {self.address} has had no worker for {_WAIT:.0f} s; start one: "
                    f"dask worker {self.address}"
                )
            if not warned:
                _LOG.warning("%s has no worker; waiting %.0f s for one", self.address, _WAIT)
                warned = True
            time.sleep(min(_LOOK, _WAIT / 4))


def _readable(error: BaseException, who: str = "a worker") -> BaseException:
    """Return what a worker raised, or how it died, as an error for the user."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        last = error.last_worker.address if error.last_worker else "unknown"
        return ClusterError(
            f"{error.allowed_failures + 1} workers died, one after the other, of the same block "
            f"(the last one: {last}), perhaps of too little memory; give them more (dask worker "
            "--memory-limit), or a smaller --tile-size"
        )
    if isinstance(error, ImportError | AttributeError | pickle.UnpicklingError):
        return ClusterError(
            f"{who} has no geoseg like this machine's ({error}); install geoseg {build()} there"
        )
    if isinstance(error, OSError):
        return ClusterError(f"{who} failed: {error}; its own log says more")
    return error


class ClusterRun:
    """The prediction of one scene on a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        names: tuple[str, str],
        shipped: tuple[Any, Any],
        computing: Mapping[str, object],
    ) -> None:
        self.cluster, self.plan = cluster, plan
        self.names, self.shipped = names, shipped
        """Names of plan and model, and futures of their bytes."""
        self.computing = computing
        """Devices and precisions of the workers, as in `TileModel.options`."""

    def results(self, schedule: Schedule) -> Iterator[BlockResult]:
        """Yield the blocks of `schedule` as they are finished.

        Raises:
            SchedulerError: the connection is lost, or no worker is left.
            ClusterError: a worker is unfit, or several died of the same block.
            GeosegError: raised on a worker.
        """
        flight = _Flight(self, schedule)
        try:
            with self.cluster.connected():
                flight.advance()
            while flight.pending:
                with self.cluster.connected():
                    number, content = self._next(flight.landed)
                    flight.land(number)
                    flight.advance()
                yield pickle.loads(content)
        finally:
            flight.release()

    def _next(self, landed: queue.SimpleQueue[tuple[int, Any]]) -> tuple[int, bytes]:
        """Wait for a block; return its number and its pickled result."""
        while True:
            try:
                number, future = landed.get(timeout=_LOOK)
                break
            except queue.Empty:
                if self.cluster.client.status != "running":
                    raise self.cluster.lost() from None
                self.cluster.wait_for_workers()
        if (error := future.exception()) is not None:
            raise _readable(error)
        return number, future.result()


class _Flight:
    """The blocks in flight on the cluster.

    Blocks begin in order. One begins only when all but the last few of the blocks that do not
    depend on it are finished: what is in flight grows with the cluster and the width of the scene.
    """

    def __init__(self, run: ClusterRun, schedule: Schedule) -> None:
        self.run, self.schedule = run, schedule
        self.name = uuid.uuid4().hex[:12]  # a cluster may have several runs at once
        self.numbers = list(schedule.blocks)
        self.wanted = sorted(schedule.sources)
        self.ready = list(accumulate((max(schedule.sources[i]) for i in self.wanted), max))
        """Block wanted[k] can finish once block ready[k] is inferred."""
        self.uses = Counter(source for needed in schedule.sources.values() for source in needed)
        self.inferred: dict[int, Any] = {}
        """Futures of logits that are still needed."""
        self.pending: dict[int, Any] = {}
        """Futures of blocks that are being decoded."""
        self.landed: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.begun = self.decoding = self.done = 0
        """Counts: of `numbers` begun, of `wanted` requested, of `wanted` finished without a gap."""
        self.finished: set[int] = set()

    def advance(self) -> None:
        """Submit as many blocks as the cluster can take."""
        client = self.run.cluster.client
        ahead = 2 * sum(client.nthreads().values()) or 2
        graph: dict[str, tuple[Any, ...]] = {}
        first = self.begun
        while self.begun < len(self.numbers) and self._may_begin(self.numbers[self.begun], ahead):
            i = self.numbers[self.begun]
            graph[self._key("infer", i)] = self._task("infer", (i, self.schedule.blocks[i]))
            self.begun += 1
        begun = self.numbers[first : self.begun]
        requested = []
        last = self.numbers[self.begun - 1] if self.begun else -1
        while self.decoding < len(self.wanted) and self.ready[self.decoding] <= last:
            requested.append(self.wanted[self.decoding])
            self._decode(graph, requested[-1])
            self.decoding += 1
        if not graph:
            return
        keys = [self._key("infer", i) for i in begun] + [self._key("decode", i) for i in requested]
        futures = client.get(graph, keys, sync=False)
        self.inferred |= dict(zip(begun, futures, strict=False))
        for i, future in zip(requested, futures[len(begun) :], strict=True):
            self.pending[i] = future
            future.add_done_callback(lambda done, i=i: self.landed.put((i, done)))

    def land(self, number: int) -> None:
        """Note that a block has arrived, and release logits that are no longer needed."""
        del self.pending[number]
        self.finished.add(number)
        while self.done < len(self.wanted) and self.wanted[self.done] in self.finished:
            self.done += 1
        for source in self.schedule.sources[number]:
            self.uses[source] -= 1
            if not self.uses[source]:
                del self.inferred[source]

    def release(self) -> None:
        """Release everything in flight."""
        for future in (*self.inferred.values(), *self.pending.values()):
            future.release()

    def _may_begin(self, number: int, ahead: int) -> bool:
        return bisect_left(self.ready, number) - ahead <= self.done

    def _decode(self, graph: dict[str, tuple[Any, ...]], i: int) -> None:
        block = self.schedule.blocks[i]
        cells = cells_around(block.core, self.run.plan.grid.extent)
        pieces = []
        for source in self.schedule.sources[i]:
            if source != i:
                pieces.append(self._key(f"halo-{source}", i))
                graph[pieces[-1]] = self._task("halo", (cells,), self._made(source))
        graph[self._key("decode", i)] = self._task("decode", (i, block), self._made(i), *pieces)

    def _made(self, i: int) -> Any:
        """Return the logits of a block: a future, or a key of the graph under construction."""
        return self.inferred.get(i, self._key("infer", i))

    def _task(self, name: str, arguments: tuple[Any, ...], *made: Any) -> tuple[Any, ...]:
        step = pickle.dumps((*self.run.names, name, arguments))
        return (operator.call, _RUN, build(), step, *self.run.shipped, *made)

    def _key(self, name: str, i: int) -> str:
        return f"geoseg-{name}-{i}-{self.name}"


def _parcel(plan: Plan) -> Parcel:
    """Pack the plan, and what identifies the scene's files."""
    scene = plan.view.scene
    with scene.source.dataset() as dataset:
        shape = dataset.shape
    return _named("plan", cloudpickle.dumps(Demand(plan, shape, _marks(scene))))


def _marks(scene: Scene) -> dict[str, FileSignature]:
    files = [Path(name).absolute() for name in scene.files if Path(name).is_file()]
    return {str(path): FileSignature.of(path) for path in files}


def _named(kind: str, content: bytes) -> Parcel:
    return Parcel(f"geoseg-{kind}-{hashlib.sha256(content).hexdigest()}", content)
