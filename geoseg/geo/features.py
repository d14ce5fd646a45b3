"""Polygons as a table on the ground."""

from __future__ import annotations

import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoseg.classes import LabelClass
from geoseg.geo.flat import Polygons
from geoseg.geo.geobox import GeoBox
from geoseg.geo.measure import measure


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
    crs = None if geobox.crs is None else geobox.crs.to_wkt()
    return geopandas.GeoDataFrame(table, geometry=placed, crs=crs)
