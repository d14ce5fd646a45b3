"""Progress on stderr where there is no terminal: JSON for programs, or plain lines now and then."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from geoseg.errors import OptionError

VARIABLE = "GEOSEG_PROGRESS"
EVERY = 0.5
"""Seconds between lines of JSON."""
LINE_AFTER, LINE_EVERY = 5.0, 20.0
"""Seconds before the first plain line, and between the following ones."""


def json_progress(label: str, unit: str) -> Callable[[int, int], None] | None:
    """Return a `progress(done, total)` callback; None unless the environment asks for it.

    With GEOSEG_PROGRESS=json it prints lines such as
    {"progress": "scene.tif", "done": 4096, "total": 8192, "unit": "px"}.

    Raises:
        OptionError: GEOSEG_PROGRESS has another value.
    """
    chosen = os.environ.get(VARIABLE, "")
    if not chosen:
        return None
    if chosen != "json":
        raise OptionError(f"{VARIABLE} is {chosen!r}; it can be json, or unset")
    reported = float("-inf")

    def progress(done: int, total: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= EVERY or done == total:
            reported = now
            line = {"progress": label, "done": int(done), "total": int(total), "unit": unit}
            print(json.dumps(line), file=sys.stderr, flush=True)

    return progress


def line_progress(label: str, unit: str) -> Callable[[int, int, str], None]:
    """Return a `progress(done, total, note)` callback that prints a line now and then.

    For example "train: 40 of 1500 steps, loss 0.831, 0:43:10 left".
    """
    due = time.monotonic() + LINE_AFTER
    first: tuple[float, int] | None = None

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal due, first
        now = time.monotonic()
        first = first or (now, done)
        if now < due:
            return
        due = now + LINE_EVERY
        line = f"{label}: {done} of {total} {unit}s{note}"
        if done > first[1]:
            seconds = (now - first[0]) / (done - first[1]) * (total - done)
            line += f", {timedelta(seconds=round(seconds))} left"
        print(line, file=sys.stderr, flush=True)

    return progress
