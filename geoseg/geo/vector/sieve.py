"""Remove specks: regions that are too small to be kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.edges import (
    NO_POLYGON,
    Edges,
    SharedEdges,
    connected_components,
    link_edges,
)
from geoseg.geo.vector.polygons import Polygons

Ints = NDArray[np.integer]

_OUTSIDE = np.iinfo(np.int32).max
"""Class of what has none; the largest, so that it loses against a class of equal border length."""


def sieve(polygons: Polygons, min_pixels: float, *, fill: bool = True) -> Polygons:
    """Remove regions of fewer than `min_pixels` pixels.

    With `fill` they take the class around them. First, holes of fewer pixels are closed, whatever
    they contain. Then each remaining speck takes the class that borders on most of its outline (of
    equals the lower id), or is removed where more of the outline borders on no polygon. Specks
    among specks wait until their neighbors have a class. Without `fill` all specks are removed and
    leave holes.

    Only whole regions count, so the result does not depend on how the raster was cut into blocks.
    `pixels` and `confidence` remain those of the pixels that had the class before.
    """
    small = polygons.pixels < min_pixels
    if not fill:
        return polygons.select(~small)
    areas = polygons.ring_areas
    all_polygons = np.ones(len(polygons), bool)
    polygons = polygons.select(all_polygons, (areas > 0) | (areas <= -min_pixels))
    if not small.any():
        return polygons
    edges = Edges.from_polygons(polygons)
    at_specks = edges.overlaps(edges[small[edges.polygon]])
    affected = small.copy()
    affected[edges.polygon[at_specks]] = True
    shared = SharedEdges.from_edges(edges[at_specks])
    class_id = _new_classes(shared, polygons.class_id, small)

    has_class = np.append(class_id != NO_POLYGON, False)  # the last one is that of NO_POLYGON
    left, right = shared.sides
    joins = has_class[left] & has_class[right] & (class_id[left] == class_id[right])
    root = connected_components(len(polygons), shared.sides[:, joins])
    unshared = edges[affected[edges.polygon] & ~at_specks]
    remaining = Edges.concatenate(unshared, shared.edges(~joins))
    remaining = remaining[has_class[remaining.polygon]].relabel(root)
    merged = link_edges(remaining, _reclassify(polygons, class_id, small).sum_by_group(root))
    return Polygons.concatenate([polygons.select(~affected), merged]).sort()


def _new_classes(shared: SharedEdges, class_id: Ints, is_speck: NDArray[np.bool_]) -> Ints:
    """Return (P,) classes after the sieve; NO_POLYGON for specks that are removed."""
    # The last element is that of NO_POLYGON, which indexes it as -1.
    result = np.append(np.where(is_speck, NO_POLYGON, class_id.astype(np.int64)), _OUTSIDE)
    own, other = np.concatenate([shared.sides, shared.sides[::-1]], axis=1)
    own_is_speck = np.append(is_speck, False)[own]
    own, other = own[own_is_speck], other[own_is_speck]
    length = np.tile(shared.lengths, 2)[own_is_speck]
    while True:
        undecided = (result[own] == NO_POLYGON) & (result[other] != NO_POLYGON)
        keys = (own[undecided] << 32) + result[other[undecided]]
        key, index = np.unique(keys, return_inverse=True)
        border = np.bincount(index, length[undecided])
        speck, neighbor = key >> 32, key & 0xFFFFFFFF
        order = np.lexsort((neighbor, -border, speck))
        best = order[np.diff(speck[order], prepend=-1) != 0]
        best = best[neighbor[best] != _OUTSIDE]
        if len(best) == 0:
            return result[:-1]
        result[speck[best]] = neighbor[best]


def _reclassify(polygons: Polygons, class_id: Ints, is_speck: NDArray[np.bool_]) -> Polygons:
    probability = polygons.probability
    return replace(
        polygons,
        class_id=class_id.astype(polygons.class_id.dtype),
        pixels=np.where(is_speck, 0, polygons.pixels),
        probability=None if probability is None else np.where(is_speck, 0, probability),
    )
