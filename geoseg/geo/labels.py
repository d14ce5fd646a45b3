"""Polygons that somebody drew, read into a scene's pixel coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import pyogrio.errors
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from geoseg.errors import DataError
from geoseg.geo.geobox import GeoBox

_POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@dataclass(frozen=True, slots=True)
class Labels:
    """Polygons that touch the scene, each with its class."""

    geometry: NDArray[np.object_]
    """(N,) valid (multi)polygons, x = column and y = row of the scene."""
    names: NDArray[np.object_]
    """(N,) classes as the file spells them."""
    outside: int
    """Polygons of the file that do not touch the scene, and were left out."""
    problems: tuple[str, ...]
    """Features that cannot be used, one sentence each."""

    def __len__(self) -> int:
        return len(self.geometry)


def read_labels(
    path: str | Path, geobox: GeoBox, *, field: str | None, layer: str | None = None
) -> Labels:
    """The polygons of a vector file, of one layer or of all, reprojected.

    Args:
        field: attribute that names the class; None = names do not matter and stay empty.

    Raises:
        DataError: unreadable, no such layer or field, or a CRS that the scene does not share.
    """
    geometry: list[NDArray[np.object_]] = []
    names: list[NDArray[np.object_]] = []
    problems: list[str] = []
    for name in _layers(path, layer):
        frame = _in_scene(_read(path, name, field), geobox, f"{path}, layer {name}")
        shapes = _pixels(np.asarray(frame.geometry.values, dtype=object), geobox)
        labels = np.array([""] * len(frame), dtype=object)
        if field is not None:
            labels = np.array([_spelled(value) for value in frame[field]], dtype=object)
        usable = np.isin(shapely.get_type_id(shapes), _POLYGONAL) & ~shapely.is_empty(shapes)
        named = (labels != "") if field is not None else np.ones(len(frame), bool)
        for row in np.flatnonzero(~(usable & named)):
            lack = f"no {field}" if usable[row] else "no polygon"
            problems.append(f"feature {row + 1} of layer {name} has {lack}")
        geometry.append(shapes[usable & named])
        names.append(labels[usable & named])
    shapes, labels = np.concatenate(geometry), np.concatenate(names)
    touching = shapely.intersects(shapes, shapely.box(0, 0, geobox.width, geobox.height))
    return Labels(shapes[touching], labels[touching], int((~touching).sum()), tuple(problems))


def _layers(path: str | Path, layer: str | None) -> list[str]:
    try:
        found = pyogrio.list_layers(path)
    except (pyogrio.errors.DataSourceError, OSError) as error:
        raise DataError(f"{path} cannot be read as vector data: {error}") from error
    layers = [str(name) for name, kind in found if kind is not None]
    if not layers:
        raise DataError(f"{path} has no layer with geometries")
    if layer is None:
        return layers
    if layer not in layers:
        raise DataError(f"{path} has no layer {layer!r}; it has {', '.join(layers)}")
    return [layer]


def _read(path: str | Path, layer: str, field: str | None) -> GeoDataFrame:
    fields = list(pyogrio.read_info(path, layer=layer)["fields"])
    if field is not None and field not in fields:
        raise DataError(
            f"{path}, layer {layer}, has no field {field!r}; it has {', '.join(fields) or 'none'}"
        )
    try:
        return pyogrio.read_dataframe(path, layer=layer, columns=[field] if field else [])
    except (pyogrio.errors.DataLayerError, pyogrio.errors.GeometryError) as error:
        raise DataError(f"{path}, layer {layer}, cannot be read: {error}") from error


def _in_scene(frame: GeoDataFrame, geobox: GeoBox, what: str) -> GeoDataFrame:
    if (frame.crs is None) != (geobox.crs is None):
        which = "the scene has one" if frame.crs is None else "the scene has none"
        state = "no coordinate reference system" if frame.crs is None else f"CRS {frame.crs.name}"
        raise DataError(f"{what} has {state} but {which}; assign one to both, or to neither")
    return frame if geobox.crs is None else frame.to_crs(geobox.crs.to_wkt())


def _pixels(shapes: NDArray[np.object_], geobox: GeoBox) -> NDArray[np.object_]:
    """From the scene's CRS to its pixel grid; outlines that cross themselves are repaired."""
    inverse = ~geobox.transform

    def to_pixels(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(inverse @ (xy[:, 0], xy[:, 1]))

    moved = shapely.transform(shapely.force_2d(shapes), to_pixels)
    broken = ~shapely.is_valid(moved)
    moved[broken] = shapely.make_valid(moved[broken], method="structure", keep_collapsed=False)
    return moved


def _spelled(value: Any) -> str:
    """A class's name from a field of any type; empty where there is no value."""
    if pd.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
