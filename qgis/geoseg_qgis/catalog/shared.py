"""Parameters that several algorithms have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..commands import Parameter

HOME = Path.home() / "geoseg"
"""Where results go by default: a temporary folder could not be continued."""
Values = Mapping[str, Any]

WEIGHTS = Parameter(
    "WEIGHTS",
    "file",
    "Weights",
    "A .safetensors file, or the name of fetched weights such as "
    "segnext_t_isaid. Empty: the built-in weights.",
    "--weights",
    optional=True,
)
DEVICE = Parameter(
    "DEVICE", "text", "Device", "auto, cpu, cuda, mps …", "--device", "auto", advanced=True
)
EXTRA = Parameter(
    "EXTRA",
    "words",
    "Additional options",
    "Other options of the command, as on a command line.",
    optional=True,
    advanced=True,
)
ONLY = Parameter(
    "ONLY",
    "text",
    "Only these classes",
    "Names, joined by commas. Empty: all.",
    "--only",
    optional=True,
)
MIN_CONFIDENCE = Parameter(
    "MIN_CONFIDENCE",
    "number",
    "Least confidence, 0 to 1",
    "Objects of a lower confidence are left out.",
    "--min-confidence",
    optional=True,
)
LOAD = Parameter("LOAD", "load", "Load the results into the project", default=True)
OVERWRITE = Parameter(
    "OVERWRITE",
    "flag",
    "Replace earlier results",
    "Without this, results that are there already are kept.",
    "--overwrite",
    False,
)
