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
from geoseg.geo.vector.spool import PolygonSpool

_BATCH = 50_000
"""Corners per batch of tables; each takes some 400 bytes while objects are measured."""
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
    polygons: PolygonSpool,
    geobox: GeoBox,
    classes: tuple[LabelClass, ...],
    apply: Callable[..., Iterable[geopandas.GeoDataFrame]] = map,
    outlines: Regularized | None = None,
) -> Iterator[geopandas.GeoDataFrame]:
    """Yield the rows of `features` in tables of bounded size, each of one class.

    Classes are in `drawing_order`.

    Args:
        polygons: sorted.
        apply: `map`, or one with threads, see `geoseg.lookahead`.
        outlines: see `features`.
    """

    def table(part: tuple[NDArray[np.intp], Polygons]) -> geopandas.GeoDataFrame:
        indices, chosen = part
        regular = None if outlines is None else outlines.take(indices)
        return features(chosen, geobox, classes, regular).assign(object_id=indices + 1)

    names = {label.id: label.name for label in classes}
    ids = polygons.class_ids
    known = [names.get(class_id, "") for class_id in ids]
    pixel = (geobox.gsd or 1.0) ** 2
    areas = [
        0.0 if name in _TYPICAL_AREA else _median_pixels(polygons, class_id) * pixel
        for class_id, name in zip(ids, known, strict=True)
    ]
    order = drawing_order(known, areas)
    return iter(apply(table, _batches(polygons, [ids[i] for i in order])))


def _median_pixels(polygons: PolygonSpool, class_id: int) -> float:
    return float(np.median(np.concatenate([p.pixels for _, p in polygons.of_class(class_id)])))


def _batches(
    polygons: PolygonSpool, class_ids: Iterable[int]
) -> Iterator[tuple[NDArray[np.intp], Polygons]]:
    """Yield numbers and polygons, of one class and at most about `_BATCH` corners at a time."""
    before, current, held = 0, 0, list[tuple[NDArray[np.intp], Polygons]]()
    for class_id in class_ids:
        for indices, part in polygons.of_class(class_id):
            corners = before + np.cumsum(segment_sum(part.ring_sizes, part.ring_counts))
            before = int(corners[-1])
            batch = corners // _BATCH
            for which in np.split(np.arange(len(part)), np.flatnonzero(np.diff(batch)) + 1):
                if held and batch[which[0]] > current:
                    yield _joined(held)
                    held = []
                current = batch[which[0]]
                held.append((indices[which], part.take(which)))
        if held:
            yield _joined(held)
            held = []


def _joined(
    parts: Iterable[tuple[NDArray[np.intp], Polygons]],
) -> tuple[NDArray[np.intp], Polygons]:
    indices, polygons = zip(*parts, strict=True)
    return np.concatenate(indices), Polygons.concatenate(polygons)


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
