"""Blocks computed on a dask.distributed cluster.

The cluster gets as many blocks at a time as its threads can take, so that memory on the scheduler
and the workers does not grow with the scene. Tasks refer to the standard library only, and their
data is bytes, which `geoseg.pipeline.execution.worker` unpickles.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import queue
import time
from asyncio import to_thread
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dask

from geoseg.errors import ClusterError, OptionError, SchedulerError
from geoseg.geo.raster.files import FileSignature
from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution.block_store import BlockStore
from geoseg.pipeline.execution.flight import Flight
from geoseg.pipeline.execution.local import start_local
from geoseg.pipeline.execution.serialization import unpack_result
from geoseg.pipeline.execution.tasks import BlockResult, Plan
from geoseg.pipeline.execution.worker import Demand, Parcel, inspect
from geoseg.tiling.schedule import Job
from geoseg.version import build

_WAIT = 60.0
"""Seconds to wait for a worker."""
_LOOK = 1.0
"""Seconds without a result after which the connection is checked."""
_CONNECT = 30.0
"""Seconds to wait for the scheduler."""
_LOG = logging.getLogger("geoseg")


class Cluster:
    """A connection to a scheduler, used for one scene after the other. A context."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: of a scheduler; local:N = start one and N worker processes on this machine.

        Raises:
            OptionError: dask.distributed is not installed, or the address is malformed.
            SchedulerError: no scheduler answers.
            ClusterError: the processes cannot be started.
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
        self._local = None
        if address.startswith("local:"):
            self._local = start_local(int(address.removeprefix("local:")))
            address = self._local.scheduler_address
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
        if self._local is not None:
            self._local.close(timeout=10)
        self._logger.setLevel(self._level)

    def open(self, plan: Plan, model: TileModel, tiles_per_block: int | None) -> ClusterRun:
        """Check all workers and return a run on them.

        Args:
            tiles_per_block: side of a block; None = what suits the workers' devices.

        Raises:
            SchedulerError: there is no worker within a minute.
            ClusterError: a worker has another geoseg, or not the scene.
        """
        with self.connected():
            model_name, model_future = self._ship_model(model)
            self.wait_for_workers()  # adaptive clusters start them on demand
            workers = len(self.client.nthreads()) or 1
            parcel = _parcel(plan, workers)
            while not (found := self._inspect(parcel, model)):
                self.wait_for_workers()
            columns = zip(*found, strict=True)
            devices, precisions, sides = (sorted(set(values)) for values in columns)
            side = tiles_per_block or sides[0]
            if side != plan.grid.tiles_per_block:
                plan = replace(plan, grid=replace(plan.grid, tiles_per_block=side))
                parcel = _parcel(plan, workers)
            computing = {
                "device": ", ".join(devices),
                "precision": ", ".join(precisions),
                "tiles_per_block": side,
            }
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

    def _inspect(self, demand: Parcel, model: TileModel) -> list[tuple[str, str, int]]:
        """Return what `inspect` does, of each worker that is still there. Raises what it raises."""
        inspector, client, asked = pickle.dumps(inspect), build(), dict(model.requested)
        name, content = demand.name, demand.content

        async def look(dask_worker: Any) -> Any:
            # On a thread, to keep the worker's event loop free.
            def call() -> Any:
                return pickle.loads(inspector)(dask_worker.address, client, name, content, asked)

            return await to_thread(call)

        found, left = self.client.run(look, on_error="return"), self.client.nthreads()
        for address, answer in list(found.items()):
            if isinstance(answer, OSError) and address not in left:
                del found[address]
            elif isinstance(answer, BaseException):
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
        """Devices and precisions of the workers, as in `TileModel.options`, and side of a block."""

    def results(self, todo: Iterator[Job], store: BlockStore) -> Iterator[BlockResult]:
        """Yield the blocks in order, and keep them in the store.

        Raises:
            SchedulerError: the connection is lost, or no worker is left.
            ClusterError: a worker is unfit, or several died of the same block.
            GeosegError: raised on a worker.
        """
        flight = Flight(
            self.cluster.client, self.plan, self.names, self.shipped, todo, store.digest
        )
        try:
            while True:
                with self.cluster.connected():
                    flight.advance()
                    if not flight.pending:
                        return
                    job = flight.pending[0]
                    content = self._wait(job.number, flight) if job.sources else None
                    flight.commit()
                if content is None:
                    yield store.result(job.number, job.block)
                else:
                    yield _unpack(content, job, store)
        finally:
            flight.release()

    def _wait(self, number: int, flight: Flight) -> bytes:
        """Wait for a block and return what the worker made, while others go on."""
        while number not in flight.finished:
            try:
                flight.finished.add(flight.landed.get(timeout=_LOOK))
            except queue.Empty:
                if self.cluster.client.status != "running":
                    raise self.cluster.lost() from None
                self.cluster.wait_for_workers()
            flight.advance()
        future = flight.decoded[number]
        if (error := future.exception()) is not None:
            raise _readable(error)
        content: bytes = future.result()
        return content


def _unpack(content: bytes, job: Job, store: BlockStore) -> BlockResult:
    archive, timer, intact = pickle.loads(content)
    if intact:
        store.keep_archive(job.number, archive)
    result = unpack_result(archive, job.number, job.block)
    return replace(result, timer=timer, intact=intact)


def _parcel(plan: Plan, workers: int) -> Parcel:
    """Pack the plan, what identifies the scene's files, and the number of workers."""
    scene = plan.view.scene
    with scene.source.dataset() as dataset:
        shape = dataset.shape
    return _named("plan", cloudpickle.dumps(Demand(plan, shape, _marks(scene), workers)))


def _marks(scene: Scene) -> dict[str, FileSignature]:
    files = [Path(name).absolute() for name in scene.files if Path(name).is_file()]
    return {str(path): FileSignature.of(path) for path in files}


def _named(kind: str, content: bytes) -> Parcel:
    return Parcel(f"geoseg-{kind}-{hashlib.sha256(content).hexdigest()}", content)
