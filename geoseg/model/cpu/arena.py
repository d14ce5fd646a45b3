"""An arena for the feature maps of a tile, reused tile after tile.

The system's heap puts small, long-lived objects between large ones: the maps of two tiles of
1120² px, at most 42 MB each, made it grow by 190 MB. In an arena large maps lie side by side.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

BUFFER_SIZE = 2**26
"""Float32 values of a buffer: 256 MiB, of which the system provides the pages that are written."""
MIN_SIZE = 2**17
"""Values of the smallest tensor that an arena holds; the heap holds smaller ones."""
CACHE_LINE = 16
"""Float32 values of a cache line; every tensor begins with one."""


class Arena:
    """An allocator for one thread at a time. Its tensors may be held, and freed, by any thread."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def new_empty(self, like: Tensor, *shape: int) -> Tensor:
        """Return ``like.new_empty(shape)``, in the arena if it is large, float32 and on the CPU."""
        size = math.prod(shape)
        if size < MIN_SIZE or like.dtype != torch.float32 or like.device.type != "cpu":
            return like.new_empty(shape)
        for buffer in self.buffers:
            if (found := buffer.allocate(size)) is not None:
                return found.view(shape)
        self.buffers.append(Buffer(max(size, BUFFER_SIZE)))
        return self.new_empty(like, *shape)


class Buffer:
    """Contiguous memory. A part is free again when the last reference to it is gone."""

    def __init__(self, size: int) -> None:
        self._memory = np.empty(-(-size // CACHE_LINE) * CACHE_LINE, np.float32)
        self._ends: dict[int, int] = {}
        """End of each allocated part, by its start."""
        self._freed = deque[int]()
        """Starts of parts that were freed but are still in `_ends`."""

    def allocate(self, size: int) -> Tensor | None:
        """Return the first free part of `size` values, or None if there is none."""
        while self._freed:  # any thread appends to it, at any time; only this one changes `_ends`
            del self._ends[self._freed.popleft()]
        length = -(-size // CACHE_LINE) * CACHE_LINE
        parts = [(0, 0), *sorted(self._ends.items()), (len(self._memory), 0)]
        gaps = ((left[1], right[0]) for left, right in pairwise(parts))
        start = next((begin for begin, end in gaps if end - begin >= length), None)
        if start is None:
            return None
        self._ends[start] = start + length
        part = self._memory[start : start + size]
        weakref.finalize(part, self._freed.append, start).atexit = False
        return torch.from_numpy(part)
