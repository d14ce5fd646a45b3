"""Tiles that wait for a device, and the batches that devices take of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geoseg.errors import TileMemoryError

LOG = logging.getLogger("geoseg")
MAX_DELAY = 0.05
"""Seconds that a tile waits for others on an idle device, until a batch is full."""


@dataclass(eq=False, slots=True)
class Tile:
    """A tile on its way through a network."""

    pixels: NDArray[np.uint8]
    """(3,H,W), on the 0-255 scale."""
    valid: NDArray[np.bool_]
    """(H,W); where False the network sees the channel mean."""
    staged: Tensor | None = None
    """Both, as (4,H,W) uint8 in memory that a device reads asynchronously."""
    logits: Future[NDArray[np.float32]] = field(default_factory=Future)
    """(C,H/8,W/8)."""
    seconds: float = 0.0
    """Its share of the time on the device."""
    arrived: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.valid.shape


class BatchQueue:
    """One queue for all threads that have tiles and all devices that take them."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, ...], deque[Tile]] = {}
        """Tiles by shape, in the order of their arrival."""
        self._changed = threading.Condition()

    def put(self, tile: Tile) -> None:
        with self._changed:
            tile.arrived = time.monotonic()
            self._waiting.setdefault(tile.shape, deque()).append(tile)
            self._changed.notify_all()

    def take(self, size: int) -> list[Tile]:
        """Return the `size` oldest tiles of one shape.

        They are fewer if the oldest has waited `MAX_DELAY`, and none if no tile waits.
        """
        with self._changed:
            while self._waiting:
                alike = min(self._waiting.values(), key=lambda tiles: tiles[0].arrived)
                patience = alike[0].arrived + MAX_DELAY - time.monotonic()
                if len(alike) < size and patience > 0:
                    self._changed.wait(patience)
                    continue
                batch = [alike.popleft() for _ in range(min(size, len(alike)))]
                if not alike:
                    del self._waiting[batch[0].shape]
                return batch
            return []


class BatchSize:
    """The number of tiles at once, which shrinks to what the devices have memory for."""

    def __init__(self, tiles: int) -> None:
        self.tiles = tiles
        self._lock = threading.Lock()

    def halve(self, tried: int, side: int, device: object) -> None:
        """Halve it, for good, after `device` had no memory for `tried` tiles.

        Devices that ran out of memory with the same number halve it once.

        Raises:
            TileMemoryError: one tile of `side` px is already too large.
        """
        if tried == 1:
            error = TileMemoryError(
                f"{device} has too little memory for one tile of {side} px; "
                f"give a --tile-size below {side}, or --device cpu"
            )
            error.side = side
            raise error from None
        with self._lock:
            if self.tiles >= tried:
                self.tiles = tried // 2
                LOG.warning(
                    "%s is out of memory: going on with --batch-size %d", device, self.tiles
                )
