"""Polygons as a table on the ground."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoseg.classes import LabelClass
from geoseg.geo.crs import spelled_out, system
from geoseg.geo.flat import Polygons, sum_runs
from geoseg.geo.geobox import GeoBox
from geoseg.geo.measure import measure

_BATCH = 500_000
"""Corners that exist as geometry at a time."""


def tables(
    polygons: Polygons,
    geobox: GeoBox,
    classes: tuple[LabelClass, ...],
    apply: Callable[..., Iterable[geopandas.GeoDataFrame]] = map,
) -> Iterator[geopandas.GeoDataFrame]:
    """Tables of bounded size, each of one class, from that with the largest objects on.

    Together they are what `features` makes of the polygons' own geometry.

    Args:
        apply: `map`, or one that uses threads and is not far ahead of who asks for the tables.
    """

    def table(places: NDArray[np.intp]) -> geopandas.GeoDataFrame:
        batch = polygons.take(places)
        frame = features(batch, batch.geometry, geobox, classes)
        return frame.assign(object_id=places + 1)

    ids, kind = np.unique(polygons.class_id, return_inverse=True)
    sizes = [np.median(polygons.pixels[kind == i]) for i in range(len(ids))]
    rank = np.argsort(np.argsort(sizes, kind="stable")[::-1])
    order = np.argsort(rank[kind], kind="stable")
    corners = sum_runs(polygons.ring_sizes, polygons.ring_counts)
    batch = np.cumsum(corners[order]) // _BATCH
    for frame in apply(table, np.split(order, np.flatnonzero(np.diff(batch)) + 1)):
        yield from (part for _, part in frame.groupby("class_id", sort=False))


def features(
    polygons: Polygons,
    geometry: NDArray[np.object_],
    geobox: GeoBox,
    classes: tuple[LabelClass, ...],
) -> geopandas.GeoDataFrame:
    """One row per polygon, in the order of their first pixels; `geometry` in pixel coordinates.

    Columns: object_id (1, 2, … in that order), class_id, class, area_m2, confidence (mean
    probability, NaN if unknown), length_m, width_m, angle_deg (see `Sizes`), geometry in the CRS
    with counter-clockwise shells. A class that `classes` lacks is called class_<id>.
    """
    a, b, c, d, e, f = tuple(geobox.transform)[:6]
    placed = shapely.transform(geometry, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
    placed = shapely.orient_polygons(placed)
    sizes = measure(placed, geobox.crs)
    ids = polygons.class_id
    known = {label.id: label.name for label in classes}
    occurring, kind = np.unique(ids, return_inverse=True)
    names = np.array([known.get(int(i), f"class_{i}") for i in occurring], object)
    confidence = polygons.confidence
    table = pd.DataFrame(
        {
            "object_id": np.arange(1, len(ids) + 1),
            "class_id": ids.astype(np.int32),
            "class": pd.Series(names[kind], dtype="str"),
            "area_m2": sizes.area,
            "confidence": np.full(len(ids), np.nan) if confidence is None else confidence,
            "length_m": sizes.length,
            "width_m": sizes.width,
            "angle_deg": sizes.angle,
        }
    )
    crs = None if geobox.crs is None else spelled_out(system(geobox.crs))
    return geopandas.GeoDataFrame(table, geometry=placed, crs=crs)
