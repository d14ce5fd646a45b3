"""Polygons that are kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geoseg.geo.vector.polygons import Polygons


def confident(polygons: Polygons, limits: Mapping[int, float]) -> Polygons:
    """Return the polygons whose mean probability is at least the limit of their class id."""
    if not any(limits.values()) or polygons.confidence is None:
        return polygons
    table = np.zeros(max(limits) + 1)
    table[list(limits)] = list(limits.values())
    return polygons.select(polygons.confidence >= table[polygons.class_id])
