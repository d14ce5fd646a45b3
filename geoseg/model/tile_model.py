"""Tiles in, logits out: devices, threads and batches around a network."""

from __future__ import annotations

import logging
import math
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.errors import OptionError
from geoseg.model.checkpoint import weights_hash
from geoseg.model.cpu.convolutions import can_fuse, fuse_activations
from geoseg.model.cpu.parallel import WorkerPool, single_threaded
from geoseg.model.devices import (
    DeviceOptions,
    Precision,
    choose_block_side,
    choose_devices,
    choose_dtype,
    computes_bfloat16,
    is_out_of_memory,
    release_cache,
)
from geoseg.model.engines.backends import Backend, BackendOption, open_backend, supports
from geoseg.model.engines.choice import choose_backend, same_again
from geoseg.model.engines.quantized import QuantizedNetwork
from geoseg.model.fused import fuse
from geoseg.model.inference.batches import BatchQueue, BatchSize, Tile
from geoseg.model.inference.forward import Forward
from geoseg.model.inference.lanes import SLOTS, HostLane, Lane, StagedLane
from geoseg.model.inference.prepare import prepare
from geoseg.model.inference.staging import TileBuffers
from geoseg.model.inference.streams import open_stream
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid, fold_norms
from geoseg.model.segnext import SegNeXt
from geoseg.timing import StageTimer

LOG = logging.getLogger("geoseg")
STREAM_BYTES = 2**29
"""Memory of the machine for each tile that a CPU computes beside others: a few times of what it
needs."""


class TileModel:
    """A segmentation network that threads feed with tiles.

    Callers wait while the tiles of all threads are computed, in batches, by threads of the model's
    own: one for each accelerator, or on a CPU one for each core. Tiles side by side need no
    barriers, unlike the parts of one tile. Pickling drops the devices, precision and threads;
    unpickling chooses those of that machine.

    A process that predicts much on a CPU calls `geoseg.native.malloc.keep_free_memory` first.

    Args:
        model: normalized pixels (N,3,H,W) to logits (N,C,H/8,W/8), with `metadata` (`mean`
            and `std` per channel on the 0-255 scale, `classes`). A network of geoseg's is copied
            in its inference form, as its weights are now; another module is used as it is on a CPU,
            and copied on accelerators.
        device: ``auto`` (CUDA where there is one, then Apple's MPS, else the CPU) or a name
            that torch knows; several, separated by commas, share the tiles.
        precision: ``auto`` is bfloat16 where the device has instructions for it (an x86 CPU or
            CUDA), else float16 on CUDA and float32 elsewhere.
        batch_size: tiles that an accelerator computes at once; None = 8. Halved, for good,
            whenever one runs out of memory. A CPU computes tiles one by one: a batch is no faster
            and changes the last bits.
        tta: average the probabilities over the 8 flips and right-angle rotations.
        backend: the engine; others than ``torch`` compute on a CPU. ``auto`` is torch until
            `settle` finds a faster one.
        consume: take `model` apart instead of a copy; the caller no longer uses it.
        compile_mode: mode of `torch.compile` for the network on accelerators; None = eager.
        remote: the workers of a cluster compute, each on its own device. Here the model only waits
            on the CPU, to be pickled.

    Raises:
        OptionError: the device, precision or backend is not there, or they exclude each other.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
        tta: bool = False,
        backend: BackendOption = "auto",
        consume: bool = False,
        compile_mode: str | None = None,
        remote: bool = False,
    ) -> None:
        if isinstance(model, QuantizedNetwork):
            backend = backend_of_quantized(backend)
        if backend not in ("auto", "torch") and device == "auto":
            device = "cpu"
        self.requested: DeviceOptions = {
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
        }
        """The arguments; what they resolve to depends on the machine."""
        self.tta, self.compile_mode = tta, compile_mode
        self.settled = backend != "auto" or remote  # the machines of a cluster compute alike
        """Whether the engine is not to be chosen by `settle`."""
        self.backend: Backend = "torch" if backend == "auto" else backend
        self.pixels = 0
        """That `settle` was told of."""
        self._resolve_options("cpu" if remote else device)
        metadata = model.metadata
        assert isinstance(metadata, Metadata), "load_model attaches it"
        self.metadata = metadata
        self.weights_hash = weights_hash(model)
        with single_threaded():
            if isinstance(model, SegNeXt):
                self._place(fuse(model, consume=consume))
            elif isinstance(model, EfficientNetPyramid):
                self._place(fold_norms(model, consume=consume))
            else:
                self._place(model.eval())

    def _resolve_options(self, device: str) -> None:
        """Choose this machine's devices, precision, batch size and threads."""
        self.devices = choose_devices(device)
        self.device = self.devices[0]
        self.dtype = choose_dtype(self.requested["precision"], self.device)
        if self.requested["precision"] == "auto" and not supports(self.backend, self.dtype):
            self.dtype = torch.float32
        self.staged = is_accelerator(self.device)
        """Whether tiles travel to the device in buffers."""
        emulated = self.dtype == torch.bfloat16 and not computes_bfloat16(self.device)
        if emulated and not self.staged and self.backend == "torch":
            LOG.warning("this processor only emulates bfloat16: float32 is many times faster")
        self.batch = BatchSize((self.requested["batch_size"] or 8) if self.staged else 1)
        self.cores = torch.get_num_threads()
        if self.staged:
            self.streams = len(self.devices)
        else:
            self.streams = streams_on_cpu(self.cores)

    def settle(self, pixels: int, earlier: Backend | None = None) -> None:
        """Choose the engine for this many pixels more, where it was left to ``auto``.

        Args:
            earlier: the engine of earlier results, or of blocks of a run that was stopped.

        Raises:
            OptionError: that one is not installed any more.
        """
        if self.settled:
            return
        self.pixels += pixels
        if earlier is not None and not self.staged:
            choice = same_again(earlier)
        else:
            how = {"pixels": self.pixels, "threads": self.cores}
            choice = choose_backend(self.module, self.device, self.dtype, **how)
        LOG.info("engine: %s, %s", *choice)
        if choice.backend != self.backend:
            self.backend = choice.backend
            self._place(self.module)

    def _place(self, module: nn.Module) -> None:
        """Put the network on the devices and start the threads that feed them."""
        self.module = module
        self.pool = WorkerPool(self.streams, max(self.cores, self.streams))
        self.queue, self.lanes = BatchQueue(), queue.SimpleQueue[Lane]()
        self.buffers: TileBuffers | None = None
        if self.staged:
            self._open_lanes(module)
        else:
            lane = HostLane(self._on_cpu(module))
            self.forward = lane.forward
            for _ in range(self.streams):
                self.lanes.put(lane)
        self.cancelled = False

    def _on_cpu(self, module: nn.Module) -> Forward:
        network: Callable[[Tensor], Tensor]
        pixels = torch.float32
        if self.backend != "torch":
            network = open_backend(
                self.backend, module, self.device, self.dtype, self.streams, self.pool.share
            )
        elif isinstance(module, EfficientNetPyramid) and can_fuse(self.dtype):
            network, pixels = fuse_activations(module, self.dtype), self.dtype
        else:
            return Forward(module, self.metadata, self.device, self.dtype, tta=self.tta)
        return Forward(network, self.metadata, self.device, pixels=pixels, tta=self.tta)

    def _open_lanes(self, module: nn.Module) -> None:
        """Copy the network to each accelerator, and open a lane to it."""
        if self.backend != "torch":  # says which options exclude each other
            open_backend(self.backend, module, self.device, self.dtype)
        on_cuda = self.device.type == "cuda"
        # For batches on the way, and one that waits, for each device.
        count = (SLOTS + 1) * self.batch_size * len(self.devices)
        self.buffers = TileBuffers(count, pinned=on_cuda)
        for device in reversed(self.devices):
            network: Callable[..., Any] = prepare(module, device, self.dtype)
            if self.compile_mode is not None:
                network = torch.compile(network, mode=self.compile_mode, dynamic=False)
            self.forward = Forward(network, self.metadata, device, self.dtype, tta=self.tta)
            release_cache(device)  # the weights are there before another stream reads them
            streams = (open_stream(device), open_stream(device), open_stream(device))
            self.lanes.put(StagedLane(self.forward, streams, fixed=has_fixed_shapes(device)))

    def __getstate__(self) -> dict[str, object]:
        """Return what does not depend on the machine."""
        parts = (
            *("requested", "tta", "backend", "settled", "pixels", "compile_mode"),
            *("metadata", "weights_hash"),
        )
        return {"module": self.module, **{part: getattr(self, part) for part in parts}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        module = state.pop("module")
        self.__dict__.update(state)
        self._resolve_options(self.requested["device"])
        with single_threaded():
            self._place(module)

    @property
    def batch_size(self) -> int:
        """Tiles that a device computes at once."""
        return self.batch.tiles

    @property
    def options(self) -> dict[str, object]:
        """How the model computes, for a summary."""
        precision = str(self.dtype).removeprefix("torch.")
        if isinstance(self.module, QuantizedNetwork):
            precision = f"int8, {precision}"
        return {
            "device": ", ".join(map(str, self.devices)),
            "precision": precision,
            "backend": self.backend,
            "batch_size": self.batch_size,
            "tta": self.tta,
        }

    @property
    def tiles_per_block(self) -> int:
        """Side of a block that suits the device, tiles."""
        return choose_block_side(self.device)

    @property
    def waiting_threads(self) -> int:
        """Threads that wait while accelerators have enough to do, beside those that work."""
        if not self.staged:
            return 0
        return math.ceil(2 * self.batch_size * len(self.devices) / self.tiles_per_block**2)

    @property
    def num_classes(self) -> int:
        return len(self.metadata.classes)

    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]],
        valid: Sequence[NDArray[np.bool_]],
        timer: StageTimer,
    ) -> list[NDArray[np.float32]]:
        """Return the logits (C,H/8,W/8) of each tile, in order.

        Args:
            images: (3,H,W) each, on the 0-255 scale; sides are multiples of 32.
            valid: (H,W) each; where False the model sees the channel mean.
            timer: its stage "model" gets the time on the device.

        Raises:
            TileMemoryError: a device has no memory for one of the tiles.
            CancelledError: another thread failed; see `cancelled_on_error`.
        """
        tiles = [Tile(*each) for each in zip(images, valid, strict=True)]
        jobs = []
        for tile in tiles:
            if self.buffers is not None:
                with timer.stage("stage"):
                    self.buffers.stage(tile)
            self.queue.put(tile)
            jobs.append(self.pool.submit(self.compute_batch))
        logits = [tile.logits.result() for tile in tiles]
        if not self.staged:
            wait(jobs)  # then the memory that they computed in is free for the next ones
        timer.seconds["model"] += sum(tile.seconds for tile in tiles)  # type: ignore[assignment]
        return logits

    def compute_batch(self) -> None:
        """Compute the next batch, if other threads have left one, on the next free device.

        One that exceeds the device's memory is computed in parts. Runs in the pool's threads only,
        which alone may start OpenMP teams; see `single_threaded`.
        """
        lane = self.lanes.get()
        tiles = self.queue.take(self.batch_size)
        try:
            while tiles:
                if self.cancelled:
                    raise CancelledError
                size = self.batch_size
                try:
                    lane.compute(tiles[:size], size)
                    tiles = tiles[size:]
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    release_cache(lane.forward.device)
                    self.batch.halve(size, max(tiles[0].shape), lane.forward.device)
        except BaseException as error:  # raised in the threads that wait for the tiles
            for tile in tiles:
                tile.logits.set_exception(error)
        finally:
            self.lanes.put(lane)

    @contextmanager
    def cancelled_on_error(self) -> Iterator[None]:
        """Cancel the batches of all threads if the block is left by an error or Ctrl-C."""
        self.cancelled = False
        try:
            yield
        except BaseException:
            self.cancelled = True
            raise

    def release_memory(self) -> None:
        """Free the memory of tiles; the next one allocates it again."""
        self.pool.arenas.clear()


def backend_of_quantized(backend: BackendOption) -> Backend:
    """Return the engine of quantized weights. Raises OptionError if another was chosen."""
    if backend not in ("auto", "openvino"):
        raise OptionError(
            f"these weights are quantized for OpenVINO, not for --backend {backend}; leave it out, "
            "or give the weights that they were made from"
        )
    return "openvino"


def is_accelerator(device: torch.device) -> bool:
    """Return whether a device has memory and a queue of its own."""
    return device.type != "cpu"


def has_fixed_shapes(device: torch.device) -> bool:
    """Return whether all batches on a device have one size, and so the same kernels.

    The last bits of results then do not depend on which threads had tiles when.
    """
    return device.type == "cuda"


def streams_on_cpu(cores: int) -> int:
    """Return how many tiles a CPU computes side by side: one a core, as far as memory goes."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return cores
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // STREAM_BYTES))
