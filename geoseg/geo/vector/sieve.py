"""Specks: regions too small to be kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.edges import NO_POLYGON, Edges, SharedEdges, connected, linked
from geoseg.geo.vector.polygons import Polygons

Ints = NDArray[np.integer]


def sieve(polygons: Polygons, min_pixels: float, *, fill: bool = True) -> Polygons:
    """Without regions of fewer than `min_pixels` pixels.

    With `fill` they take the class around them. First holes of fewer pixels are closed, whatever
    they hold. Then each speck that is left takes the class that borders on most of its outline
    (of equals the lower id), but vanishes where the outline borders on no polygon for longer.
    Specks among specks wait until their neighbours have a class. Without `fill` all specks vanish
    and leave holes.

    Because it looks at whole regions only, the result does not depend on how the raster was cut.
    `pixels` and `confidence` remain those of the pixels that had the class before.
    """
    small = polygons.pixels < min_pixels
    if not fill:
        return polygons.select(~small)
    areas = polygons.ring_areas
    everybody = np.ones(len(polygons), bool)
    polygons = polygons.select(everybody, (areas > 0) | (areas <= -min_pixels))
    if not small.any():
        return polygons
    edges = Edges.of(polygons)
    beside = edges.beside(edges[small[edges.polygon]])
    near = small.copy()
    near[edges.polygon[beside]] = True
    stretches = SharedEdges.of(edges[beside])
    class_id = _classes(stretches, polygons.class_id, small)

    settled = np.append(class_id != NO_POLYGON, False)  # the place -1 is NO_POLYGON's
    left, right = stretches.sides
    joins = settled[left] & settled[right] & (class_id[left] == class_id[right])
    root = connected(len(polygons), stretches.sides[:, joins])
    remaining = Edges.concatenate(edges[near[edges.polygon] & ~beside], stretches.edges(~joins))
    remaining = remaining[settled[remaining.polygon]].renamed(root)
    united = linked(remaining, _reclassified(polygons, class_id, small).sum_by_group(root))
    return Polygons.concatenate([polygons.select(~near), united]).in_order()


def _classes(stretches: SharedEdges, class_id: Ints, speck: NDArray[np.bool_]) -> Ints:
    """(P,) classes after the sieve; NO_POLYGON for specks that vanish."""
    nothing = np.iinfo(np.int32).max  # loses against a class that borders for as long
    result = np.append(
        np.where(speck, NO_POLYGON, class_id.astype(np.int64)), nothing
    )  # the place -1 is NO_POLYGON's
    mine, other = np.concatenate([stretches.sides, stretches.sides[::-1]], axis=1)
    mine_is_speck = np.append(speck, False)[mine]
    mine, other = mine[mine_is_speck], other[mine_is_speck]
    length = np.tile(stretches.lengths, 2)[mine_is_speck]
    while True:
        asks = (result[mine] == NO_POLYGON) & (result[other] != NO_POLYGON)
        key, place = np.unique((mine[asks] << 32) + result[other[asks]], return_inverse=True)
        total = np.bincount(place, length[asks])
        who, what = key >> 32, key & 0xFFFFFFFF
        order = np.lexsort((what, -total, who))
        best = order[np.diff(who[order], prepend=-1) != 0]
        best = best[what[best] != nothing]
        if len(best) == 0:
            return result[:-1]
        result[who[best]] = what[best]


def _reclassified(parts: Polygons, class_id: Ints, speck: NDArray[np.bool_]) -> Polygons:
    return replace(
        parts,
        class_id=class_id.astype(parts.class_id.dtype),
        pixels=np.where(speck, 0, parts.pixels),
        probability=None if parts.probability is None else np.where(speck, 0, parts.probability),
    )
