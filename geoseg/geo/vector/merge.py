"""Merge polygons of neighboring blocks into those of the whole raster.

Where an outline runs along a seam and the class is the same on both sides, the edge is removed and
the two polygons become one. The cost grows with the corners of polygons at seams, however many
blocks a region spans.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from geoseg.geo.vector.edges import (
    NO_POLYGON,
    Edges,
    SharedEdges,
    connected_components,
    link_edges,
)
from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons


def merge(blocks: Iterable[BlockPolygons]) -> Polygons:
    """Return the polygons of all blocks, equal to those of the uncut raster.

    Blocks must not overlap; they may come in any order.
    """
    blocks = sorted(blocks, key=lambda block: (block.window.row_off, block.window.col_off))
    closed = [block.closed for block in blocks]
    return Polygons.concatenate([*closed, _merge_across_seams(blocks)]).sort()


def _merge_across_seams(blocks: list[BlockPolygons]) -> Polygons:
    parts = Polygons.concatenate(block.open for block in blocks)
    edges = Edges.from_polygons(parts)
    # Left, top, right and bottom of the block of each edge.
    borders = np.array(
        [(w.col_off, w.row_off, w.col_end, w.row_end) for w in (b.window for b in blocks)]
    ).reshape(-1, 4)
    border = np.repeat(borders, [len(block.open) for block in blocks], axis=0)[edges.polygon]
    vertical = edges.is_vertical
    line = np.where(vertical, edges.start[:, 0], edges.start[:, 1])[:, None]
    on_seam = (line == np.where(vertical[:, None], border[:, ::2], border[:, 1::2])).any(axis=1)

    seams = SharedEdges.from_edges(edges[on_seam])
    joins = (seams.sides != NO_POLYGON).all(axis=0)
    joins &= parts.class_id[seams.sides[0]] == parts.class_id[seams.sides[1]]
    root = connected_components(len(parts), seams.sides[:, joins])
    remaining = Edges.concatenate(edges[~on_seam], seams.edges(~joins))
    return link_edges(remaining.relabel(root), parts.sum_by_group(root))
