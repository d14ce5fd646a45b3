"""One step of a block on a worker of a cluster, after checks that the worker is fit for it.

Client, scheduler and workers exchange bytes only, and only this module unpickles them. So the
scheduler needs no geoseg, and a worker with another version fails before it computes anything.
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
from geoseg.geo.raster.files import FileSignature
from geoseg.model.devices import DeviceOptions, choose_block_side, choose_devices, choose_dtype
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory, refused_memory
from geoseg.pipeline.execution.serialization import pack_result
from geoseg.pipeline.execution.tasks import Plan, decode_block, halo, infer_block
from geoseg.version import build

T = TypeVar("T")
_KEPT = 4
"""Parcels that a process keeps unpickled: the model, and the plans of a few scenes."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A plan, and the files that a worker must see to take part in it."""

    plan: Plan
    shape: tuple[int, int]
    """Rows and columns of the scene's file."""
    marks: Mapping[str, FileSignature]
    """Marks of the scene's local files, by absolute path."""
    workers: int
    """Processes that share a limit of requests."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes under a name, unpickled once a process."""

    name: str
    content: bytes


class _Opened:
    """The contents of the latest parcels."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.things: OrderedDict[str, Any] = OrderedDict()

    def get(self, parcel: Parcel, loads: Callable[[bytes], Any]) -> Any:
        """Return the parcel's content, unpickled by `loads` once. Errors are not kept."""
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
) -> tuple[str, str, int]:
    """Check this worker and return the devices, precision and side of a block that it would use.

    Args:
        address: address of this worker.
        client: `build()` of the client.
        name: name of the demand's parcel.
        content: a `Demand`, pickled.
        asked: `TileModel.requested`.

    Raises:
        ClusterError: it has another geoseg, or not the scene.
        OptionError: it lacks the device.
    """

    def look() -> tuple[str, str, int]:
        _refuse_other_build(client)
        _OPENED.get(Parcel(name, content), _load_demand)
        devices = choose_devices(asked["device"])
        dtype = choose_dtype(asked["precision"], devices[0])
        precision = str(dtype).removeprefix("torch.")
        return ", ".join(map(str, devices)), precision, choose_block_side(devices[0])

    return _answer(address, look)


def run(client: str, step: bytes, demand: bytes, model: bytes, *made: bytes) -> bytes:
    """Compute one step of a block, called by dask, and return the result pickled.

    Args:
        client: `build()` of the client.
        step: names of `demand` and `model`, name of the step, and its arguments; pickled.
        demand: a `Demand`, pickled.
        model: a `TileModel`, pickled.
        made: results of earlier steps.

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
            (block,) = arguments
            result = infer_block(plan, block, network)
        elif name == "halo":
            result = halo(*inputs, *arguments)
        else:
            number, block, digest = arguments
            decoded = decode_block(plan, number, block, inputs[0], inputs[1:])
            result = (pack_result(decoded, digest), decoded.timer, decoded.intact)
        return pickle.dumps(result, protocol=5)

    return _answer(worker.address, compute)


def _answer(address: str, work: Callable[[], T]) -> T:
    """Return what `work` returns, and raise errors as the client can show them.

    They name the worker unless the scene is at fault, and have no causes, some of which cannot be
    unpickled on the client.
    """
    try:
        with refused_memory():
            return work()
    except _UnfitError as error:
        shown: GeosegError = ClusterError(f"worker {address} {error}")
    except SceneError as error:
        shown = error
    except GeosegError as error:
        shown = type(error)(f"worker {address}: {error}")
    shown.__cause__ = shown.__context__ = None
    raise shown  # outside the handlers, where no other error becomes its context


class _UnfitError(GeosegError):
    """This worker cannot take part; the message is preceded by its name."""


def _refuse_other_build(client: str) -> None:
    if client != (own := build()):
        raise _UnfitError(
            f"has geoseg {own}, but this machine has {client}; install the same there"
        )


def _load_demand(content: bytes) -> Demand:
    demand: Demand = pickle.loads(content)
    for path, mark in demand.marks.items():
        try:
            if not mark.matches(path):
                raise _UnfitError(f"has another {path} than this machine; give it the same file")
        except OSError as error:
            raise _UnfitError(
                f"cannot read {path} ({error.strerror}); put the scene where all workers see it, "
                "at the same path"
            ) from error
    source = demand.plan.view.scene.source
    source.share_limit(demand.workers)
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
    torch.set_num_threads(cores)  # the model divides these among its streams
    model: TileModel = pickle.loads(content)
    return model
