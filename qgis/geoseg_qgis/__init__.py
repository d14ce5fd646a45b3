"""Find objects in aerial scenes: runs the commands of geoseg from QGIS."""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Return the plugin, for QGIS."""
    from .plugin import GeosegPlugin

    return GeosegPlugin(iface)
