"""How many threads torch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in this thread alone, so that OpenMP makes no team of threads for it.

    Teams stay until their thread ends. Where the threads of all teams are more than the cores, they
    no longer spin at barriers but sleep, and whatever they compute takes half as long again.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
