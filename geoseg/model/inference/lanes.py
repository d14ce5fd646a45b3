"""Lanes: a device each, which computes the batches that it is given."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from geoseg.model.inference.batches import Tile
from geoseg.model.inference.forward import Forward
from geoseg.model.inference.staging import Slot
from geoseg.model.inference.streams import Event, Stream

SLOTS = 3
"""Batches on the way over a device: one is uploaded, one computed, one downloaded."""


class Lane(Protocol):
    """Computes batches, one after the other."""

    forward: Forward

    def compute(self, tiles: Sequence[Tile], size: int) -> None:
        """Compute the logits of a batch, or queue that; they arrive in the tiles' futures.

        After an error it has not touched the futures.

        Args:
            tiles: at most `size`, all of one shape.
            size: tiles of a full batch.
        """


class HostLane:
    """Computes on a CPU, in the calling thread."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    def compute(self, tiles: Sequence[Tile], size: int) -> None:
        start = time.perf_counter()
        with torch.inference_mode():
            pixels, valid = stack([tile.pixels for tile in tiles]), stack([t.valid for t in tiles])
            logits = self.forward(pixels, valid).float().numpy()
        seconds = time.perf_counter() - start
        for tile, values in zip(tiles, logits, strict=True):
            tile.seconds = seconds / len(tiles)
            # A copy, since a view would keep the arena that the logits were computed in.
            tile.logits.set_result(np.array(values))


def stack(arrays: Sequence[np.ndarray]) -> Tensor:
    """Stack arrays; a single one is not copied."""
    first, *others = arrays
    return torch.from_numpy(np.stack(arrays) if others else first[None])


class StagedLane:
    """Computes on an accelerator: copies to it, work on it and copies back overlap.

    Nothing here waits for a tile. A batch is queued as soon as one of `SLOTS` is free, and a thread
    hands out the logits of the oldest one when they have arrived.

    Args:
        streams: for uploads, kernels and downloads.
        fixed: see `Slot`.
    """

    def __init__(
        self, forward: Forward, streams: tuple[Stream, Stream, Stream], *, fixed: bool
    ) -> None:
        self.forward = forward
        self.uploads, self.kernels, self.downloads = streams
        self._free = queue.SimpleQueue[Slot]()
        for _ in range(SLOTS):
            self._free.put(Slot(forward, fixed=fixed))
        self._finisher = ThreadPoolExecutor(1, "geoseg-finish")
        self._ended = 0.0
        """When the latest batch arrived."""

    def compute(self, tiles: Sequence[Tile], size: int) -> None:
        slot, start = self._free.get(), time.perf_counter()
        slot.tiles = list(tiles)
        try:
            with torch.inference_mode():
                uploaded = self.uploads.run(lambda: slot.upload(size))
                computed = self.kernels.run(slot.compute, uploaded)
                downloaded = self.downloads.run(slot.download, computed)
        except BaseException:
            self._free.put(slot)
            raise
        self._finisher.submit(self._finish, slot, downloaded, start)

    def _finish(self, slot: Slot, downloaded: Event, start: float) -> None:
        """Hand out the logits of a batch."""
        tiles = slot.tiles
        try:
            downloaded.synchronize()
            now = time.perf_counter()
            seconds, self._ended = now - max(start, self._ended), now
            for tile, values in zip(tiles, slot.host, strict=True):
                tile.seconds = seconds / len(tiles)
                tile.logits.set_result(values.to(torch.float32, copy=True).numpy())
        except BaseException as error:  # raised in the threads that wait for the tiles
            for tile in tiles:
                if not tile.logits.done():
                    tile.logits.set_exception(error)
        finally:
            slot.tiles = []
            self._free.put(slot)
