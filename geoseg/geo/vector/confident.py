"""Polygons that are kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.polygons import Polygons


def confident(polygons: Polygons, limits: Mapping[int, float]) -> NDArray[np.bool_]:
    """Return (P,) whether the mean probability is at least the limit of the class id."""
    if not any(limits.values()) or polygons.confidence is None:
        return np.ones(len(polygons), bool)
    table = np.zeros(max(limits) + 1)
    table[list(limits)] = list(limits.values())
    return polygons.confidence >= table[polygons.class_id]
