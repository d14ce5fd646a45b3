"""Turn polygons of pixels into features: placed, named and measured on the ground."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoseg.classes import LabelClass
from geoseg.geo.crs import WritableCRS, to_pyproj
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.measure import measure
from geoseg.geo.vector.polygons import Polygons, segment_sum
from geoseg.geo.vector.regularize import Regularized

_BATCH = 500_000
"""Corners per batch of tables; bounds the memory for geometry."""
_TYPICAL_AREA = {
    "ground_track_field": 12_000.0,
    "harbor": 8_000.0,
    "soccer_ball_field": 6_000.0,
    "baseball_diamond": 4_000.0,
    "bridge": 3_000.0,
    "roundabout": 1_500.0,
    "plane": 600.0,
    "storage_tank": 450.0,
    "basketball_court": 420.0,
    "tennis_court": 260.0,
    "ship": 150.0,
    "helicopter": 80.0,
    "swimming_pool": 40.0,
    "large_vehicle": 30.0,
    "small_vehicle": 9.0,
}
"""m². Layers are in this order in every file, whatever the sizes in a scene."""


def tables(
    polygons: Polygons,
    geobox: GeoBox,
    classes: tuple[LabelClass, ...],
    apply: Callable[..., Iterable[geopandas.GeoDataFrame]] = map,
    outlines: Regularized | None = None,
) -> Iterator[geopandas.GeoDataFrame]:
    """Yield the rows of `features` in tables of bounded size, each of one class.

    Classes are in `drawing_order`.

    Args:
        outlines: see `features`.
        apply: `map`, or one with threads that does not compute far ahead.
    """

    def table(indices: NDArray[np.intp]) -> geopandas.GeoDataFrame:
        regular = None if outlines is None else outlines.take(indices)
        frame = features(polygons.take(indices), geobox, classes, regular)
        return frame.assign(object_id=indices + 1)

    ids, kind = np.unique(polygons.class_id, return_inverse=True)
    names = {label.id: label.name for label in classes}
    pixel = (geobox.gsd or 1.0) ** 2
    sizes = [float(np.median(polygons.pixels[kind == i])) * pixel for i in range(len(ids))]
    rank = np.argsort(drawing_order([names.get(int(i), "") for i in ids], sizes))
    order = np.argsort(rank[kind], kind="stable")
    corners = segment_sum(polygons.ring_sizes, polygons.ring_counts)
    batch = np.cumsum(corners[order]) // _BATCH
    for frame in apply(table, np.split(order, np.flatnonzero(np.diff(batch)) + 1)):
        yield from (part for _, part in frame.groupby("class_id", sort=False))


def drawing_order(names: Sequence[str], areas: Sequence[float]) -> NDArray[np.intp]:
    """Return indices of classes in the order of their layers: small objects over large ones.

    Args:
        areas: typical areas in this scene, m², for classes that are not built in.
    """
    typical = [_TYPICAL_AREA.get(name, area) for name, area in zip(names, areas, strict=True)]
    return np.argsort(-np.array(typical, float), kind="stable")


def empty_features(geobox: GeoBox, *, regular: bool = False) -> geopandas.GeoDataFrame:
    """Return the table of no polygons, with all columns and the CRS.

    Args:
        regular: the table has the column of that name.
    """
    nothing = Regularized(np.zeros(0, object), np.zeros(0, bool)) if regular else None
    return features(Polygons.concatenate([]), geobox, (), nothing)


def features(
    polygons: Polygons,
    geobox: GeoBox,
    classes: tuple[LabelClass, ...],
    outlines: Regularized | None = None,
) -> geopandas.GeoDataFrame:
    """Return one row per polygon, in their order.

    Columns: object_id (1, 2, …), class_id, class, area_m2, confidence (mean probability, NaN if
    unknown), length_m, width_m, angle_deg (see `Sizes`), and geometry in the CRS with
    counterclockwise shells. A class that `classes` lacks is called class_<id>.

    Args:
        outlines: new outlines, for which there is a column `regular`, 1 or 0.
    """
    a, b, c, d, e, f = tuple(geobox.transform)[:6]
    shapes = polygons.geometry
    if outlines is not None:
        changed = ~shapely.is_missing(outlines.shapes)
        shapes[changed] = outlines.shapes[changed]
    placed = shapely.transform(shapes, lambda xy: xy @ np.array([[a, d], [b, e]]) + (c, f))
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
            "class_id": _narrow(ids),
            "class": pd.Series(names[kind], dtype="str"),
            "area_m2": sizes.area,
            "confidence": np.full(len(ids), np.nan) if confidence is None else confidence,
            "length_m": sizes.length,
            "width_m": sizes.width,
            "angle_deg": sizes.angle,
        }
    )
    if outlines is not None:
        table["regular"] = outlines.regular.astype(np.int32)
    crs = None if geobox.crs is None else WritableCRS(to_pyproj(geobox.crs))
    return geopandas.GeoDataFrame(table, geometry=placed, crs=crs)


def _narrow(ids: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return ids as int32 if all of them fit, else as int64."""
    limits = np.iinfo(np.int32)
    fits = not len(ids) or (limits.min <= ids.min() and ids.max() <= limits.max)
    return ids.astype(np.int32 if fits else np.int64)
