"""The polygons of blocks become those of the scene: united, sieved, simplified."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.flat import Polygons
from geoseg.geo.groups import independent
from geoseg.geo.polygons import BlockPolygons
from geoseg.geo.seams import merge
from geoseg.geo.sieve import sieve
from geoseg.geo.simplify import reach, thinned

Ints = NDArray[np.integer]


def finished(
    blocks: Iterable[BlockPolygons],
    *,
    min_pixels: float = 0,
    fill: bool = True,
    tolerance: float = 0,
    smooth: bool = True,
    apply: Callable[..., Iterable[tuple[Ints, Polygons]]] = map,
) -> Polygons:
    """Polygons in the order of their first pixels: `merge`, then `sieve`, then `thinned`.

    The last two see groups of polygons that lie apart, so that several threads share them and
    memory holds little beside the corners, at eight bytes each. Results are those of the whole.

    Args:
        min_pixels, fill: see `sieve`. tolerance, smooth: see `thinned`.
        apply: the `map` of a pool of threads.
    """
    polygons = merge(blocks)
    if len(polygons) == 0 or (min_pixels <= 1 and tolerance <= 0):
        return polygons

    def outlined(members: Ints) -> tuple[Ints, Polygons]:
        kept = sieve(polygons.take(members), min_pixels, fill=fill)
        return kept.first_corners, thinned(kept, tolerance, smooth=smooth)

    groups = independent(polygons, reach(tolerance))
    first, parts = zip(*apply(outlined, groups), strict=True)
    x, y = np.concatenate(first).T
    return Polygons.concatenate(parts).take(np.lexsort((x, y)))
