"""The C code of this package, compiled by the installation where it found a compiler."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.util import find_spec

from geoseg.errors import MachineError, OptionError

VARIABLE = "GEOSEG_NATIVE"


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled C code, whose functions release the GIL, or None to do without it.

    The environment variable GEOSEG_NATIVE turns it off with 0 and requires it with 1.

    Raises:
        MachineError: it is required, but was not compiled.
        OptionError: GEOSEG_NATIVE has another value.
    """
    setting = os.environ.get(VARIABLE, "")
    if setting not in ("", "0", "1"):
        raise OptionError(f"{VARIABLE} is {setting!r:.20}; set it to 0 (off) or 1 (required)")
    if setting == "0":
        return None
    spec = find_spec("geoseg.native._compiled")
    if spec and spec.origin:
        return ctypes.CDLL(spec.origin)
    if setting == "1":
        raise MachineError(
            f"{VARIABLE} is 1, but this installation of geoseg has no compiled code; install a C "
            "compiler and then geoseg anew, or unset the variable"
        )
    return None
