"""Results that people corrected as labels: only what was looked at counts.

A prediction that nobody looked at is no label: a model that trained on it would learn its own
mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.errors import DataError
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import READING, vector_settings
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.layers.labels import Labels, read_labels
from geoseg.geo.layers.measure import measure
from geoseg.geo.overlay import overlay
from geoseg.geo.paths import vector_path
from geoseg.geo.vector_file import read_vector_file

REVIEWED = "reviewed"
"""Field of areas that says whether somebody has gone through them; see `geoseg suggest`."""
_TRUE = {"true", "1", "yes"}
_EQUAL = 1e-4
"""Relative error of a stored area; an outline that was moved deviates more."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """The labels in results that were corrected."""

    labels: Labels
    inside: int
    """Polygons in the area that was looked at."""
    edited: int
    """Polygons elsewhere that somebody drew, reshaped or renamed."""
    ignored: int
    """Polygons that nobody looked at, which are no labels."""

    @property
    def note(self) -> str:
        """The counts, for the user."""
        return (
            f"{self.inside} polygons lie in the area that was looked at, {self.edited} elsewhere "
            f"were drawn or changed by hand, and {self.ignored} that nobody looked at are left out"
        )


def read_area(path: Path, geobox: GeoBox) -> Labels:
    """Read the area in which everything is labeled.

    Of a file with the field `reviewed`, as `geoseg suggest` writes it, only polygons count in which
    it is true.

    Raises DataError.
    """
    with vector_errors(f"{path} cannot be read", DataError), vector_settings(READING):
        fields = pyogrio.read_info(vector_path(path))["fields"]
    if REVIEWED not in fields:
        return read_labels(path, geobox, field=None)
    (layer, *_) = read_vector_file(path, field=REVIEWED)
    seen = np.array([value.lower() in _TRUE for value in layer.values], bool)
    if not seen.any():
        raise DataError(
            f"no polygon of {path} is {REVIEWED}; tick those that you have gone through"
        )
    shapes = _placed(path, layer.geometry[seen], layer.crs, geobox)
    shapes = shapes[~shapely.is_empty(shapes)]
    empty = np.full(len(shapes), "", object)
    return Labels(shapes, empty, shapely.area(shapes), int(seen.sum()) - len(shapes), ())


def read_corrected(
    path: Path, geobox: GeoBox, *, field: str, layer: str | None, area: Labels | None
) -> Corrected:
    """Read results of `geoseg predict` that were corrected in QGIS.

    Inside `area`, all polygons count. Elsewhere, those count that somebody touched: drawn anew
    (without a confidence), reshaped (the stored area is another), or renamed (the class is not
    that of their layer).

    Raises DataError and OutputError.
    """
    found = read_edited(path, [layer] if layer else ())
    frame = found.features
    if field not in frame:
        names = ", ".join(frame.columns.drop(frame.geometry.name))
        raise DataError(f"{path} has no field {field!r}; it has {names}")
    shapes = _placed(path, frame.geometry.to_numpy(), frame.crs, geobox)
    touched = is_touched(frame, found.layers, geobox.crs)
    here = ~shapely.is_empty(shapes)
    seen = np.zeros(len(frame), bool)
    if area is not None and len(area):
        looked_at = shapely.union_all(area.geometry)
        within = shapely.intersection(shapes, looked_at)
        seen = here & (shapely.area(within) > 0)
        only_seen = seen & ~touched
        shapes = shapes.copy()
        shapes[only_seen] = within[only_seen]
    touched &= here
    kept = seen | touched
    names = frame[field].astype("str").to_numpy(object)
    return Corrected(
        labels=Labels(
            geometry=shapes[kept],
            names=names[kept],
            area=shapely.area(shapes[kept]),
            outside=int((~here).sum()),
            problems=found.notes,
        ),
        inside=int(seen.sum()),
        edited=int((touched & ~seen).sum()),
        ignored=int((here & ~kept).sum()),
    )


def is_touched(
    frame: GeoDataFrame, layers: NDArray[np.object_], crs: CRS | None
) -> NDArray[np.bool_]:
    """Return which features somebody drew, reshaped or renamed since they were predicted."""
    new = frame["confidence"].isna().to_numpy() | frame["area_m2"].isna().to_numpy()
    stored = frame["area_m2"].to_numpy(float, na_value=np.nan)
    actual = measure(frame.geometry.to_numpy().copy(), crs).area
    with np.errstate(invalid="ignore"):
        reshaped = np.abs(actual - stored) > _EQUAL * np.maximum(actual, stored)
    names = frame["class"].to_numpy(object)
    usual = {layer: frame["class"][layers == layer].mode().iloc[0] for layer in np.unique(layers)}
    renamed = names != np.array([usual[layer] for layer in layers], object)
    return new | reshaped | renamed


def _placed(
    path: Path, shapes: NDArray[np.object_], crs: object, geobox: GeoBox
) -> NDArray[np.object_]:
    try:
        return overlay(shapes, crs, geobox)  # type: ignore[arg-type]
    except DataError as error:
        raise DataError(f"{path} {error}") from error
