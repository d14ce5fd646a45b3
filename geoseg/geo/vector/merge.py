"""Polygons of neighbouring blocks become those of the whole raster.

Where an outline runs along a seam and the class is the same on both sides, the edge goes and the
two polygons are one. This costs as much as the polygons at seams have corners, however many blocks
a region spans.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from geoseg.geo.vector.edges import NO_POLYGON, Edges, SharedEdges, connected, linked
from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons


def merge(blocks: Iterable[BlockPolygons]) -> Polygons:
    """The polygons of all blocks, united across seams; equal to those of the uncut raster.

    Blocks must not overlap; their order is of no importance.
    """
    blocks = sorted(blocks, key=lambda block: (block.window.row_off, block.window.col_off))
    closed = [block.closed for block in blocks]
    return Polygons.concatenate([*closed, _united(blocks)]).in_order()


def _united(blocks: list[BlockPolygons]) -> Polygons:
    parts = Polygons.concatenate(block.open for block in blocks)
    edges = Edges.of(parts)
    # Left, top, right and bottom of the block that each edge is from.
    borders = np.array(
        [(w.col_off, w.row_off, w.col_end, w.row_end) for w in (b.window for b in blocks)]
    ).reshape(-1, 4)
    border = np.repeat(borders, [len(block.open) for block in blocks], axis=0)[edges.polygon]
    upright = edges.is_upright
    line = np.where(upright, edges.start[:, 0], edges.start[:, 1])[:, None]
    on_seam = (line == np.where(upright[:, None], border[:, ::2], border[:, 1::2])).any(axis=1)

    seams = SharedEdges.of(edges[on_seam])
    joins = (seams.sides != NO_POLYGON).all(axis=0)
    joins &= parts.class_id[seams.sides[0]] == parts.class_id[seams.sides[1]]
    root = connected(len(parts), seams.sides[:, joins])
    remaining = Edges.concatenate(edges[~on_seam], seams.edges(~joins))
    return linked(remaining.renamed(root), parts.sum_by_group(root))
