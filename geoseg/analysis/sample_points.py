"""Read a sample that people labeled, with the sizes of its strata."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray

from geoseg.analysis.accuracy import Sample
from geoseg.analysis.layer_file import read_metadata
from geoseg.analysis.sampling import LAYER
from geoseg.classes import IGNORE
from geoseg.errors import DataError
from geoseg.geo.crs import to_pyproj
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import READING, vector_settings
from geoseg.geo.paths import vector_path
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.tiling.grid import Window


@dataclass(frozen=True, slots=True)
class LabeledPoints:
    """A labeled sample, and the map it tells of."""

    sample: Sample
    unlabeled: int
    """Points without a class on the ground, which are left out."""
    pixel_area: float
    """Area of a pixel of the strata."""
    unit: str
    """m², or px² where the map has no place on the ground."""
    classes: tuple[str, ...]
    """Known classes, in the order of the map."""


def read_points(
    path: Path,
    *,
    reference: str = "reference",
    stratum: str = "stratum",
    map_field: str | None = None,
    map_raster: Path | None = None,
    strata: Path | None = None,
) -> LabeledPoints:
    """Read the points of `draw_sample`, or of another file, after people have labeled them.

    Args:
        reference: field with the class on the ground.
        stratum: field with the stratum, whose size in pixels the file of `draw_sample` records.
        map_field: field with the class on the map; None = the stratum is that class.
        map_raster: class raster to read the class on the map from, where it is not the one that
            the sample was drawn from; instead of `map_field`.
        strata: CSV with the columns stratum and pixels, and optionally area_m2.

    Raises DataError and SceneError.
    """
    frame, metadata = _read(path), read_metadata(path)
    for field in (reference, stratum, *([map_field] if map_field else [])):
        if field not in frame:
            fields = ", ".join(frame.columns.drop(frame.geometry.name)) or "none"
            raise DataError(f"{path} has no field {field}; it has {fields}")
    truth = _texts(frame[reference])
    labeled = truth != ""
    if not labeled.any():
        raise DataError(
            f"no point of {path} has a class in the field {reference}; label them first, in QGIS "
            "for instance"
        )
    frame, truth = frame[labeled], truth[labeled]
    sizes, pixel_area, unit = _sizes(path, metadata, strata)
    strata_of_points = _texts(frame[stratum])
    known = tuple(json.loads(metadata.get("classes", "[]")))
    if map_raster is not None:
        mapped, known = _classes_at(map_raster, frame)
    else:
        mapped = _texts(frame[map_field]) if map_field else strata_of_points
    return LabeledPoints(
        sample=Sample(strata_of_points, mapped, truth, sizes),
        unlabeled=int((~labeled).sum()),
        pixel_area=pixel_area,
        unit=unit,
        classes=known,
    )


def _read(path: Path) -> geopandas.GeoDataFrame:
    with vector_errors(f"{path} cannot be read", DataError), vector_settings(READING):
        source = vector_path(path)
        layers = [str(name) for name, kind in pyogrio.list_layers(source) if kind is not None]
        if not layers:
            raise DataError(f"{path} has no layer with points")
        frame = pyogrio.read_dataframe(source, layer=LAYER if LAYER in layers else layers[0])
    if not (shapely.get_type_id(frame.geometry.to_numpy()) == shapely.GeometryType.POINT).all():
        raise DataError(f"{path} holds geometry that is no point; give a layer of points")
    return frame


def _texts(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return values as text without blanks; empty if missing."""
    return column.astype("object").where(column.notna(), "").map(str).str.strip().to_numpy(object)


def _sizes(
    path: Path, metadata: dict[str, str], strata: Path | None
) -> tuple[dict[str, float], float, str]:
    """Return the pixels of each stratum, the area of a pixel, and its unit."""
    if strata is None:
        if "strata" not in metadata:
            raise DataError(
                f"{path} does not record the sizes of its strata, as geoseg sample writes them; "
                "give them as --strata FILE, a CSV with the columns stratum and pixels"
            )
        area = float(metadata.get("pixel_area_m2", 1.0))
        return json.loads(metadata["strata"]), area, metadata.get("unit", "px²")
    try:
        with strata.open(newline="", encoding="utf-8-sig") as file:
            rows = [*csv.DictReader(file)]
        sizes = {row["stratum"].strip(): float(row["pixels"]) for row in rows}
        areas = [float(row["area_m2"]) for row in rows if row.get("area_m2")]
    except (OSError, UnicodeDecodeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(
            f"{strata} is no CSV with the columns stratum and pixels ({error})"
        ) from error
    total = sum(sizes.values())
    return (sizes, sum(areas) / total, "m²") if areas and total else (sizes, 1.0, "px²")


def _classes_at(
    path: Path, frame: geopandas.GeoDataFrame
) -> tuple[NDArray[np.object_], tuple[str, ...]]:
    """Return the class of a raster at each point, and the raster's classes."""
    raster = ClassRaster.open(path, skip=())
    with closing(raster.source):
        geobox = raster.geobox
        points = frame.geometry
        if geobox.crs is not None and frame.crs is not None:
            points = points.to_crs(to_pyproj(geobox.crs))
        elif (geobox.crs is None) != (frame.crs is None):
            raise DataError(f"{path} or the points lack a coordinate reference system; give both")
        column, row = ~geobox.transform @ (points.x.to_numpy(), points.y.to_numpy())
        column, row = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
        inside = (column >= 0) & (row >= 0) & (column < geobox.width) & (row < geobox.height)
        codes = np.full(len(frame), IGNORE, np.uint8)
        for i in np.flatnonzero(inside).tolist():
            codes[i] = raster.read(Window(int(column[i]), int(row[i]), 1, 1))[0, 0]
    if (codes == IGNORE).any():
        raise DataError(f"{path} has no class at {int((codes == IGNORE).sum())} of the points")
    known = {item.id: item.name for item in raster.classes}
    names = [known.get(int(v), f"class_{v}") for v in raster.values[codes]]
    return np.array(names, object), tuple(item.name for item in raster.classes)
