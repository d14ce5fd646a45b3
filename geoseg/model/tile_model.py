"""Tiles in, logits out: normalization, batches, devices, threads, test-time augmentation."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg.errors import OptionError
from geoseg.model.checkpoint import weights_hash
from geoseg.model.cpu.parallel import WorkerPool, single_threaded
from geoseg.model.devices import (
    DeviceOptions,
    Precision,
    choose_device,
    choose_dtype,
    computes_bfloat16,
)
from geoseg.model.engines.backends import Backend, open_backend
from geoseg.model.fused import FusedSegNeXt, fuse
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.native.malloc import idle_bytes
from geoseg.timing import StageTimer

LOG = logging.getLogger("geoseg")
MAX_STREAMS = 8
"""Tiles that a CPU computes side by side, at most: each needs memory."""
DIHEDRAL_GROUP = tuple(itertools.product((False, True), range(4)))
"""The symmetries of the square: whether to mirror, then how many right angles to rotate."""


class TileModel:
    """A segmentation network that threads feed with tiles.

    Callers wait while the device computes in threads of the model's own: one, or on a CPU one per
    core, up to `MAX_STREAMS`. Tiles side by side need no barriers, unlike the parts of one tile.
    Pickling drops the device, precision and threads; unpickling chooses those of that machine.

    A process that predicts much on a CPU calls `geoseg.native.malloc.keep_free_memory` first.

    Args:
        model: normalized pixels (N,3,H,W) to logits (N,C,H/8,W/8), with `metadata` (`mean`
            and `std` per channel on the 0-255 scale, `classes`). A SegNeXt is copied in its
            inference form, as its weights are now; another module is used as it is.
        device: ``auto`` (CUDA where there is one, then Apple's MPS, else the CPU) or a name
            that torch knows.
        precision: ``auto`` is float32 on a CPU, and on CUDA bfloat16 where it is native, else
            float16.
        batch_size: tiles at once; None = 1 on a CPU, 8 elsewhere. Halved, for good, whenever
            the device runs out of memory.
        tta: average the probabilities over the 8 flips and right-angle rotations.
        backend: the engine; others than ``torch`` compute on a CPU.
        consume: take `model` apart instead of a copy; the caller no longer uses it.

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
        backend: Backend = "torch",
        consume: bool = False,
    ) -> None:
        if backend != "torch" and device == "auto":
            device = "cpu"
        self.requested: DeviceOptions = {
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
        }
        """The arguments; what they resolve to depends on the machine."""
        self.tta, self.backend = tta, backend
        self._resolve_options()
        metadata = model.metadata
        assert isinstance(metadata, Metadata), "load_model attaches it"
        self.metadata = metadata
        self.weights_hash = weights_hash(model)
        with single_threaded():
            if isinstance(model, SegNeXt):
                self._place(fuse(model, consume=consume))
            else:
                self._place(model.eval())

    def _resolve_options(self) -> None:
        """Choose this machine's device, precision, batch size and threads."""
        self.device = choose_device(self.requested["device"])
        self.dtype = choose_dtype(self.requested["precision"], self.device)
        on_cpu = self.device.type == "cpu"
        emulated = self.dtype == torch.bfloat16 and not computes_bfloat16(self.device)
        if emulated and on_cpu and self.backend == "torch":
            LOG.warning("this processor only emulates bfloat16: float32 is many times faster")
        self.batch_size = self.requested["batch_size"] or (1 if on_cpu else 8)
        self.cores = torch.get_num_threads()
        self.streams = min(self.cores, MAX_STREAMS if on_cpu and self.backend == "torch" else 1)
        self.idle_bytes = 0
        """Heap that is free between two calls, and that the next one uses again."""

    def _place(self, module: nn.Module) -> None:
        """Put the network on the device and start the threads that feed it."""
        self.module = module
        self.pool = WorkerPool(self.streams, self.cores)
        self.network: Callable[[Tensor], Tensor] = (
            module.to(self.device)
            if self.backend == "torch"
            else open_backend(self.backend, module, self.device, self.dtype, self.pool.share)
        )
        self.cancelled = False
        self.batch_lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """Return what does not depend on the machine."""
        parts = ("requested", "tta", "backend", "metadata", "weights_hash")
        on_cpu = self.device.type == "cpu"
        module = self.module if on_cpu else copy.deepcopy(self.module).cpu()
        return {"module": module, **{part: getattr(self, part) for part in parts}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        module = state.pop("module")
        self.__dict__.update(state)
        self._resolve_options()
        with single_threaded():
            self._place(module)

    @property
    def options(self) -> dict[str, object]:
        """How the model computes, for a summary."""
        return {
            "device": str(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "backend": self.backend,
            "batch_size": self.batch_size,
            "tta": self.tta,
        }

    @property
    def tiles_at_once(self) -> int:
        """Side of a square of tiles that is one batch."""
        return math.isqrt(self.batch_size)

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
            images: (3,H,W) each, on the 0-255 scale; all of one size, sides multiples of 32.
            valid: (H,W) each; where False the model sees the channel mean.
            timer: its stage "model" gets the time on the device.
        """
        if not images:
            return []
        pixels, mask = self.stack_pinned(images), self.stack_pinned(valid)
        batches = [slice(i, i + self.batch_size) for i in range(0, len(pixels), self.batch_size)]
        jobs = [self.pool.submit(self.run_batch, pixels[b], mask[b]) for b in batches]
        found = []
        for queued, seconds in [job.result() for job in jobs]:
            timer.seconds["model"] += seconds  # type: ignore[assignment]
            # A GPU may still compute them, while the next thread queues its tiles.
            with timer.stage("model"):
                # Copies, since views would keep the arena that the logits were computed in.
                found += [np.array(tile) for logits in queued for tile in logits.cpu().numpy()]
        self.idle_bytes = self.idle_bytes or idle_bytes()
        return found

    def stack_pinned(self, arrays: Sequence[NDArray[np.generic]]) -> Tensor:
        """Stack arrays in memory from which the device copies asynchronously.

        A single array is not copied.
        """
        first, *others = arrays
        tensor = torch.from_numpy(np.stack(arrays) if others else first[None])
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def run_batch(self, pixels: Tensor, mask: Tensor) -> tuple[list[Tensor], float]:
        """Return the logits of a batch and the seconds spent; a GPU may not have finished them.

        A batch that exceeds the device's memory is computed in parts. Runs in the pool's threads
        only, which alone may start OpenMP teams; see `single_threaded`.

        Args:
            pixels: (N,3,H,W) uint8.
            mask: (N,H,W) bool.

        Raises:
            CancelledError: another thread failed; see `cancelled_on_error`.
        """
        timer, queued, start = StageTimer(), list[Tensor](), 0
        with timer.stage("model"), torch.inference_mode():
            while start < len(pixels):
                if self.cancelled:
                    raise CancelledError
                size = self.batch_size
                batch = slice(start, start + size)
                try:
                    queued.append(self.logits(pixels[batch], mask[batch]).float())
                    start = batch.stop
                except torch.OutOfMemoryError:
                    self.halve_batch(size, pixels.shape[-1])
        return queued, timer.seconds["model"]

    def halve_batch(self, tried: int, side: int) -> None:
        """Halve the batch size after the device had no memory for `tried` tiles.

        Threads that ran out of memory with the same batch size halve it once.

        Raises:
            OptionError: one tile of `side` px is already too large.
        """
        if tried == 1:
            raise OptionError(
                f"{self.device} has too little memory for one tile of {side} px; "
                f"give a --tile-size below {side}, or --device cpu"
            ) from None
        with self.batch_lock:
            if self.batch_size >= tried:
                self.batch_size = tried // 2
                LOG.warning(
                    "%s is out of memory: going on with --batch-size %d",
                    self.device,
                    self.batch_size,
                )
        torch.cuda.empty_cache()

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

    def normalize(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Return (N,3,H,W) on the device, with zero mean and unit deviation, 0 where masked."""
        pixels, mask = (
            tensor.contiguous().to(self.device, non_blocking=tensor.is_pinned())
            for tensor in (pixels, mask)
        )
        mean, std = (
            torch.tensor(values, device=self.device)
            for values in (self.metadata.mean, self.metadata.std)
        )
        # Plane by plane first: with three values a pixel, channels-last order is slow to scale.
        x = pixels.to(torch.float32).sub_(mean[:, None, None]).div_(std[:, None, None])
        return x.mul_(mask[:, None]).contiguous(memory_format=torch.channels_last)

    def logits(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Return logits of tiles (N,3,H,W), (N,H,W); log-probabilities if `tta` is set."""
        if self.tta:
            return self.augmented(self.normalize(pixels, mask))
        if self.device.type == "cpu" and isinstance(self.network, FusedSegNeXt):

            def rows(top: int, bottom: int) -> Tensor:
                return self.normalize(pixels[:, :, top:bottom], mask[:, top:bottom])

            with self.autocast():
                return self.network.by_rows(rows, pixels.shape[2])
        return self.forward(self.normalize(pixels, mask))

    def augmented(self, x: Tensor) -> Tensor:
        """Return the log of the mean probabilities over the `DIHEDRAL_GROUP`."""
        probs = sum(
            invert(self.forward(transform(x, *symmetry)).float().softmax(dim=1), *symmetry)
            for symmetry in DIHEDRAL_GROUP
        )
        assert isinstance(probs, Tensor)
        return (probs / len(DIHEDRAL_GROUP)).log()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of normalized tiles."""
        with self.autocast():
            return self.network(x)

    def autocast(self) -> torch.autocast:
        half = self.backend == "torch" and self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half)


def transform(x: Tensor, mirror: bool, quarters: int) -> Tensor:
    """Apply a symmetry of the square to maps (N,C,H,W)."""
    return torch.rot90(x.flip(3) if mirror else x, quarters, (2, 3))


def invert(x: Tensor, mirror: bool, quarters: int) -> Tensor:
    """Undo `transform`."""
    x = torch.rot90(x, -quarters, (2, 3))
    return x.flip(3) if mirror else x
