"""Progress for programs that run the commands: lines of JSON on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from geoseg.errors import OptionError

VARIABLE = "GEOSEG_PROGRESS"
EVERY = 0.5
"""Seconds between lines."""


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
