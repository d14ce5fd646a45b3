"""Objects from aerial scenes: SegNeXt on tiles, polygons out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geoseg.classes import IGNORE, ISAID, LabelClass
from geoseg.errors import GeosegError

if TYPE_CHECKING:
    from geoseg.model.load import load_model

__all__ = ["IGNORE", "ISAID", "GeosegError", "LabelClass", "load_model"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `geoseg --help` must not pay for it.
    if name == "load_model":
        from geoseg.model.load import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
