"""What runs on a worker of a cluster: one step of a block, once the worker has shown it is fit.

Only bytes travel between client, scheduler and workers, and only here are they opened. So the
scheduler needs no geoseg, and a worker with another one is told before it computes anything.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from geoseg.errors import ClusterError, GeosegError, SceneError
from geoseg.geo.raster.source import Mark
from geoseg.model.devices import DeviceOptions, choose_device, choose_dtype
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory, refused_memory
from geoseg.pipeline.execution.tasks import Plan, decode_block, halo, infer_block
from geoseg.version import build

T = TypeVar("T")
_KEPT = 4
"""Parcels that a process keeps open: the model, and the plans of a few scenes."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A plan, and what a worker must see to take part in it."""

    plan: Plan
    shape: tuple[int, int]
    """Of the scene's file, rows and columns."""
    marks: Mapping[str, Mark]
    """Of the scene's local files, by absolute path."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes under a name, opened once a process."""

    name: str
    content: bytes


class _Opened:
    """What the latest parcels hold."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.things: OrderedDict[str, Any] = OrderedDict()

    def get(self, parcel: Parcel, loads: Callable[[bytes], Any]) -> Any:
        """What `loads` finds in the parcel; errors are not kept."""
        with self.lock:
            if parcel.name not in self.things:
                self.things[parcel.name] = loads(parcel.content)
                while len(self.things) > _KEPT:
                    self.things.popitem(last=False)
            self.things.move_to_end(parcel.name)
            return self.things[parcel.name]


_OPENED = _Opened()


def inspect(
    address: str, client: str, name: str, content: bytes, asked: DeviceOptions
) -> tuple[str, str]:
    """The device and precision that this worker would use, once it has shown that it is fit.

    Args:
        address: of this worker.
        client: the client's `build()`.
        name: of the `Parcel` of a `Demand`.
        content: the `Demand`, pickled.
        asked: of the model.

    Raises:
        ClusterError: it has another geoseg, or not the scene.
        OptionError: it lacks the device that is asked for.
    """

    def look() -> tuple[str, str]:
        _refuse_other_build(client)
        _OPENED.get(Parcel(name, content), _load_demand)
        device = choose_device(asked["device"])
        return str(device), str(choose_dtype(asked["precision"], device)).removeprefix("torch.")

    return _answer(address, look)


def run(client: str, step: bytes, demand: bytes, model: bytes, *made: bytes) -> bytes:
    """One step of a block; what it makes, pickled. Called by dask on a worker.

    Args:
        client: the client's `build()`.
        step: names of `demand` and `model`, name of the step, and its arguments; pickled.
        demand: a `Demand`, pickled.
        model: a `TileModel`, pickled.
        made: what the steps before returned.

    Raises GeosegError of every kind.
    """
    from distributed import get_worker

    worker = get_worker()

    def compute() -> bytes:
        _refuse_other_build(client)
        demand_name, model_name, name, arguments = pickle.loads(step)
        plan = _OPENED.get(Parcel(demand_name, demand), _load_demand).plan
        inputs = [pickle.loads(one) for one in made]
        result: object
        if name == "infer":
            cores = worker.state.nthreads
            parcel = Parcel(model_name, model)
            network = _OPENED.get(parcel, lambda content: _load_model(content, cores))
            result = infer_block(plan, *arguments, network)
        elif name == "halo":
            result = halo(*inputs, *arguments)
        else:
            number, block = arguments
            result = decode_block(plan, number, block, inputs[0], inputs[1:])
        return pickle.dumps(result, protocol=5)

    return _answer(worker.address, compute)


def _answer(address: str, work: Callable[[], T]) -> T:
    """What `work` returns. Errors as the client can show them: with the worker's address where it
    is to blame, and without causes, some of which cannot be unpickled where they arrive."""
    try:
        with refused_memory():
            return work()
    except _UnfitError as error:
        told: GeosegError = ClusterError(f"worker {address} {error}")
    except SceneError as error:
        told = error
    except GeosegError as error:
        told = type(error)(f"worker {address}: {error}")
    told.__cause__ = told.__context__ = None
    raise told  # here, where no other error is in flight that would become its context


class _UnfitError(GeosegError):
    """This worker cannot take part; the message goes on after its name."""


def _refuse_other_build(client: str) -> None:
    if client != (own := build()):
        raise _UnfitError(
            f"has geoseg {own}, but this machine has {client}; install the same there"
        )


def _load_demand(content: bytes) -> Demand:
    demand: Demand = pickle.loads(content)
    for path, mark in demand.marks.items():
        try:
            if not mark.fits(path):
                raise _UnfitError(f"has another {path} than this machine; give it the same file")
        except OSError as error:
            raise _UnfitError(
                f"cannot read {path} ({error.strerror}); put the scene where all workers see it, "
                "at the same path"
            ) from error
    source = demand.plan.view.scene.source
    try:
        with source.dataset() as dataset:
            shape = dataset.shape
    except SceneError as error:
        raise _UnfitError(f"cannot use the scene: {error}") from error
    if shape != demand.shape:
        raise _UnfitError(f"sees another {source.path} than this machine; give it the same file")
    return demand


def _load_model(content: bytes, cores: int) -> TileModel:
    keep_free_memory()
    torch.set_num_threads(cores)  # the model divides them among its own threads
    model: TileModel = pickle.loads(content)
    return model
