"""The C code of this package, where the installation could compile it."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec


@cache
def library() -> ctypes.CDLL | None:
    """What the C files became, or None. Calls into it release the GIL."""
    spec = find_spec("geoseg.native._compiled")
    return ctypes.CDLL(spec.origin) if spec and spec.origin else None
