"""Lanes: a device each, which computes the batches that it is given."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

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

        After an error the futures of a batch of several tiles are as they were.

        Args:
            tiles: at most `size`, all of one shape.
            size: tiles of a full batch.
        """


class HostLane:
    """Computes tiles one by one on a CPU, in the calling thread."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    def compute(self, tiles: Sequence[Tile], size: int) -> None:
        for tile in tiles:
            start = time.perf_counter()
            with torch.inference_mode():
                pixels, valid = (torch.from_numpy(each[None]) for each in (tile.pixels, tile.valid))
                (logits,) = self.forward(pixels, valid).float().numpy()
            tile.seconds = time.perf_counter() - start
            # A copy, since a view would keep the arena that the logits were computed in.
            tile.logits.set_result(np.array(logits))


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
