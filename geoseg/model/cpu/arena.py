"""Memory for the maps of a tile, used for tile after tile.

In the heap small things that stay lie between them: for the maps of two tiles of 1120², at most
42 MB each, it grew by 190 MB. Here they lie side by side, from the bottom up.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

SLAB = 2**26
"""Numbers in a slab: 256 MiB, of which the system gives what has been written to."""
SMALL = 2**17
"""Numbers of a map that the heap may have."""
LINE = 16
"""Numbers in a line of the cache."""


class Arena:
    """For one thread at a time; others may hold maps that it made."""

    def __init__(self) -> None:
        self.slabs: list[Slab] = []

    def new_empty(self, x: Tensor, *shape: int) -> Tensor:
        """What ``x.new_empty(shape)`` returns; where that is large and float32, in this memory."""
        size = math.prod(shape)
        if size < SMALL or x.dtype != torch.float32 or x.device.type != "cpu":
            return x.new_empty(shape)
        for slab in self.slabs:
            if (found := slab.take(size)) is not None:
                return found.view(shape)
        self.slabs.append(Slab(max(size, SLAB)))
        return self.new_empty(x, *shape)


class Slab:
    """Parts of it are taken, and free again when nobody holds them any more."""

    def __init__(self, size: int) -> None:
        self._memory = np.empty(-(-size // LINE) * LINE, np.float32)
        self._taken: dict[int, int] = {}
        """Where parts begin and end."""
        self._returned = deque[int]()
        """Beginnings of parts that are free, but still in `taken`."""

    def take(self, size: int) -> Tensor | None:
        """(size,), the lowest part that is free; None = there is none."""
        while self._returned:  # whoever lets go of a part, and when: this alone changes `taken`
            del self._taken[self._returned.popleft()]
        length = -(-size // LINE) * LINE
        borders = [(0, 0), *sorted(self._taken.items()), (len(self._memory), 0)]
        gaps = ((left[1], right[0]) for left, right in pairwise(borders))
        start = next((begin for begin, end in gaps if end - begin >= length), None)
        if start is None:
            return None
        self._taken[start] = start + length
        part = self._memory[start : start + size]
        weakref.finalize(part, self._returned.append, start).atexit = False
        return torch.from_numpy(part)
