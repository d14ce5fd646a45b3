"""Buffers between the threads that read tiles and a device that computes them."""

from __future__ import annotations

import math
import queue

import torch
from torch import Tensor

from geoseg.model.inference.batches import Tile
from geoseg.model.inference.forward import Forward


class TileBuffers:
    """A ring of host memory for `count` tiles, page-locked where the device is CUDA.

    Threads fill it side by side. Allocating such memory is slow, so it is kept.
    """

    def __init__(self, count: int, *, pinned: bool) -> None:
        self.pinned = pinned
        self._free = queue.SimpleQueue[Tensor]()
        for _ in range(count):
            self._free.put(torch.empty(0, dtype=torch.uint8))

    def stage(self, tile: Tile) -> None:
        """Copy a tile into a buffer, which is free again when its logits are there.

        Waits for a free one.
        """
        buffer, size = self._free.get(), 4 * math.prod(tile.shape)
        if len(buffer) < size:
            try:
                buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)
            except BaseException:
                self._free.put(buffer)
                raise
        tile.logits.add_done_callback(lambda _: self._free.put(buffer))
        tile.staged = buffer[:size].view(4, *tile.shape)
        values = tile.staged.numpy()
        values[:3], values[3] = tile.pixels, tile.valid


class Slot:
    """The buffers of one batch on its way over a device.

    Args:
        fixed: compute batches of a constant size, whose last samples may be stale. A GPU chooses
            its kernels by shape, and with them the last bits of results.
    """

    def __init__(self, forward: Forward, *, fixed: bool) -> None:
        self.forward, self.fixed = forward, fixed
        self.asynchronous = forward.device.type == "cuda"
        half = forward.dtype != torch.float32
        self.transferred = torch.float16 if half else torch.float32
        """The type of logits on the way back; float16 holds every logit of bfloat16 above 6e-5."""
        self.tiles: list[Tile] = []
        self.batch = self.host = torch.empty(0)
        self.logits: Tensor | None = None

    def upload(self, size: int) -> None:
        """Copy `tiles` to the device, as the first of a batch of `size`."""
        count = size if self.fixed else len(self.tiles)
        shape = (count, 4, *self.tiles[0].shape)
        if self.batch.shape != shape:
            self.batch = torch.zeros(shape, dtype=torch.uint8, device=self.forward.device)
        for sample, tile in zip(self.batch, self.tiles, strict=False):
            assert tile.staged is not None
            sample.copy_(tile.staged, non_blocking=self.asynchronous)

    def compute(self) -> None:
        """Normalize the batch and run the network."""
        logits = self.forward(self.batch[:, :3], self.batch[:, 3])
        self.logits = logits[: len(self.tiles)].to(self.transferred).contiguous()

    def download(self) -> None:
        """Copy the logits to the host."""
        assert self.logits is not None
        if self.host.shape != self.logits.shape:
            pinned = self.asynchronous
            self.host = torch.empty(self.logits.shape, dtype=self.transferred, pin_memory=pinned)
        self.host.copy_(self.logits, non_blocking=self.asynchronous)
