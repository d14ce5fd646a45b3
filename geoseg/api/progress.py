"""Progress of the functions that take long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None] | bool | None
"""A callable that gets the finished and the total number; True = a bar, False = nothing, None = a
bar in notebooks and on terminals."""


@contextmanager
def reporting(progress: Progress, label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a `progress(done, total)` callback as the user wants it."""
    if callable(progress):
        yield progress
        return
    shown = progress
    if shown is None:
        shown = "ipykernel" in sys.modules or sys.stderr.isatty()
    if not shown:
        yield lambda done, total: None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=label, unit=unit, unit_scale=unit == "px") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
