"""Tiles in, logits out: normalization, device, precision, batches, test-time augmentation."""

from __future__ import annotations

import copy
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
from geoseg.model.backends import Backend, open_backend
from geoseg.model.checkpoint import weights_hash
from geoseg.model.cpu.kernels import normalize
from geoseg.model.cpu.parallel import WorkerPool, single_threaded
from geoseg.model.devices import (
    DeviceOptions,
    Precision,
    choose_device,
    choose_dtype,
    computes_bfloat16,
)
from geoseg.model.fused import FusedSegNeXt, fuse
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.native.malloc import idle_bytes, keep_free_memory
from geoseg.timing import StageTimer

LOG = logging.getLogger("geoseg")
MAX_STREAMS = 8
"""Tiles that a CPU computes side by side; each takes memory."""


class TileModel:
    """A segmentation network, ready to be fed with tiles from several threads.

    The device computes in threads of its own, for which others wait: one, but on a CPU one for
    each core, up to `MAX_STREAMS`. Tiles side by side need no barriers, as the parts of one would.
    Picklable: where it arrives, it finds the device, precision and cores of that machine.

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
        consume: nobody needs `model` any more, which saves copying it.

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
        """What was asked for; what it becomes depends on the machine."""
        self.tta, self.backend = tta, backend
        self._choose()
        metadata = model.metadata
        assert isinstance(metadata, Metadata), "load_model attaches it"
        self.metadata = metadata
        self.weights_hash = weights_hash(model)
        with single_threaded():
            self._settle(
                fuse(model, consume=consume) if isinstance(model, SegNeXt) else model.eval()
            )

    def _choose(self) -> None:
        """Find the device of this machine, and how it computes."""
        keep_free_memory()
        self.device = choose_device(self.requested["device"])
        self.dtype = choose_dtype(self.requested["precision"], self.device)
        on_cpu = self.device.type == "cpu"
        imitated = self.dtype == torch.bfloat16 and not computes_bfloat16(self.device)
        if imitated and on_cpu and self.backend == "torch":
            LOG.warning("this processor only imitates bfloat16: float32 is many times faster")
        self.batch_size = self.requested["batch_size"] or (1 if on_cpu else 8)
        self.cores = torch.get_num_threads()
        self.streams = min(self.cores, MAX_STREAMS if on_cpu and self.backend == "torch" else 1)
        self.threads = self.cores // self.streams
        self.idle_bytes = 0
        """Heap that a call leaves idle and the next one needs again."""

    def _settle(self, module: nn.Module) -> None:
        """Give the device its network."""
        self.module = module
        self.network: Callable[[Tensor], Tensor] = (
            module.to(self.device)
            if self.backend == "torch"
            else open_backend(self.backend, module, self.device, self.dtype, self.threads)
        )
        self.pool = WorkerPool(self.streams, self.cores)
        self.cancelled = False
        self.batch_lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """What is the same on every machine."""
        parts = ("requested", "tta", "backend", "metadata", "weights_hash")
        on_cpu = self.device.type == "cpu"
        module = self.module if on_cpu else copy.deepcopy(self.module).cpu()
        return {"module": module, **{part: getattr(self, part) for part in parts}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        module = state.pop("module")
        self.__dict__.update(state)
        self._choose()
        with single_threaded():
            self._settle(module)

    @property
    def options(self) -> dict[str, object]:
        """How it computes, for a summary."""
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
        """Logits (C,H/8,W/8) of each tile, in order. The time on the device counts as "model".

        Args:
            images: (3,H,W) each, on the 0-255 scale; all of one size, sides multiples of 32.
            valid: (H,W) each; where False the model sees the channel mean.
        """
        if not images:
            return []
        pixels, mask = self.stack_pinned(images), self.stack_pinned(valid)
        batches = [slice(i, i + self.batch_size) for i in range(0, len(pixels), self.batch_size)]
        jobs = [self.pool.submit(self.run_batch, pixels[b], mask[b]) for b in batches]
        found = []
        for queued, seconds in [job.result() for job in jobs]:
            timer.seconds["model"] += seconds  # type: ignore[assignment]
            # A GPU is still computing, and the next thread queues its tiles behind.
            with timer.stage("model"):
                # Copies: who keeps logits must not keep the memory that they were computed in.
                found += [np.array(tile) for logits in queued for tile in logits.cpu().numpy()]
        self.idle_bytes = self.idle_bytes or idle_bytes()
        return found

    def stack_pinned(self, arrays: Sequence[NDArray[np.generic]]) -> Tensor:
        """Stacked, in memory from which the device copies without waiting; one alone is enough for
        a batch of one."""
        first, *others = arrays
        tensor = torch.from_numpy(np.stack(arrays) if others else first[None])
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def run_batch(self, pixels: Tensor, mask: Tensor) -> tuple[list[Tensor], float]:
        """Logits of a batch, on a CPU computed, on a GPU perhaps not yet; and the seconds taken.

        In parts where the device's memory is too small for all of it. For the workers' threads
        only: no others may have teams of threads, see `single_threaded`.

        Args:
            pixels: (N,3,H,W) uint8.
            mask: (N,H,W) bool.
        """
        # Sums are split by threads, so their number decides the last bits of the logits.
        torch.set_num_threads(self.threads)
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
        """After a batch of `tried` tiles was too much for the device.

        Threads that ran out of memory with the same batch halve it once.

        Raises OptionError where one tile of `side` px is too much already.
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
        """An error that leaves it, Ctrl-C too, ends what other threads compute or wait for."""
        self.cancelled = False
        try:
            yield
        except BaseException:
            self.cancelled = True
            raise

    def release_memory(self) -> None:
        """Give back what tiles took; the next one takes it anew."""
        self.pool.arenas.clear()

    def normalize(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """(N,3,H,W), zero mean and unit deviation, 0 where there is no data."""
        pixels, mask = (
            tensor.contiguous().to(self.device, non_blocking=tensor.is_pinned())
            for tensor in (pixels, mask)
        )
        mean, std = (
            torch.tensor(values, device=self.device)
            for values in (self.metadata.mean, self.metadata.std)
        )
        return normalize(pixels, mask, mean, std)

    def logits(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Logits of tiles, (N,3,H,W) and (N,H,W); log-probabilities with test-time augmentation."""
        if self.tta:
            return self.augmented(self.normalize(pixels, mask))
        if self.device.type == "cpu" and isinstance(self.network, FusedSegNeXt):

            def rows(top: int, bottom: int) -> Tensor:
                return self.normalize(pixels[:, :, top:bottom], mask[:, top:bottom])

            with self.autocast():
                return self.network.by_rows(rows, pixels.shape[2])
        return self.forward(self.normalize(pixels, mask))

    def augmented(self, x: Tensor) -> Tensor:
        """Logarithms of the mean probabilities of normalized tiles over all `symmetries`."""
        probs = sum(
            back(self.forward(turn(x)).float().softmax(dim=1)) for turn, back in symmetries()
        )
        assert isinstance(probs, Tensor)
        return (probs / 8).log()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalized tiles."""
        with self.autocast():
            return self.network(x)

    def autocast(self) -> torch.autocast:
        half = self.backend == "torch" and self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if half else None, enabled=half)


class Dihedral:
    """A symmetry of the square on (N,C,H,W), or its inverse."""

    def __init__(self, quarters: int, mirror: bool, inverse: bool = False) -> None:
        self.quarters, self.mirror, self.inverse = quarters, mirror, inverse

    def __call__(self, x: Tensor) -> Tensor:
        if self.inverse:
            x = torch.rot90(x, -self.quarters, (2, 3))
            return x.flip(3) if self.mirror else x
        x = x.flip(3) if self.mirror else x
        return torch.rot90(x, self.quarters, (2, 3))


def symmetries() -> list[tuple[Dihedral, Dihedral]]:
    """The 8 symmetries of the square, each with its inverse."""
    return [
        (Dihedral(quarters, mirror), Dihedral(quarters, mirror, inverse=True))
        for mirror in (False, True)
        for quarters in range(4)
    ]
