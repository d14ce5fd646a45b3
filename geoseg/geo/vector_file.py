"""Vector files that users bring: polygons of all formats, layers and encodings, as they are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import pyogrio.errors
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError

from geoseg.errors import DataError
from geoseg.geo.crs import horizontal
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import READING, vector_settings
from geoseg.geo.paths import vector_path

_LOG = logging.getLogger("geoseg")
_SHAPE_IN_FIELDS = {"CSV", "OGR_VRT"}
"""Formats of which GDAL reads no shapes where it is told to leave out fields."""


@dataclass(frozen=True, slots=True)
class VectorLayer:
    """One layer of a file."""

    name: str
    crs: pyproj.CRS | None
    """Horizontal; None where the file says nothing of it, or that it is undefined."""
    geometry: NDArray[np.object_]
    """(N,) of any kind; None where there is none, or none that GEOS can read."""
    values: NDArray[np.object_]
    """(N,) of the field that was asked for, as text; empty where there is none."""


def read_vector_file(
    path: str | Path, *, layer: str | None = None, field: str | None = None
) -> Iterator[VectorLayer]:
    """One layer of a vector file, or all that have geometries.

    Raises:
        DataError: unreadable, no such layer or field, or geometries that no polygons come of.
    """
    for name in _layers(path, layer):
        what = f"{path}, layer {name},"
        meta, geometry, values = _read(path, name, field, what)
        names = np.array([spelled(value) for value in values], dtype=object)
        if field is not None:
            _doubt_encoding(path, names, meta["encoding"])
        shapes = shapely.from_wkb(geometry, on_invalid="fix")
        yield VectorLayer(name, _crs(meta["crs"], what), shapes, names)


def _layers(path: str | Path, layer: str | None) -> list[str]:
    with _failures(str(path)):
        found = pyogrio.list_layers(vector_path(path))
    layers = [str(name) for name, kind in found if kind is not None]
    if not layers:
        raise DataError(f"{path} has no layer with geometries")
    if layer is None:
        return layers
    if layer not in layers:
        raise DataError(f"{path} has no layer {layer!r}; it has {', '.join(layers)}")
    return [layer]


def _read(
    path: str | Path, layer: str, field: str | None, what: str
) -> tuple[dict[str, Any], NDArray[np.object_], NDArray[Any]]:
    """GDAL's description of the layer, its geometries as WKB, and the values of the field."""
    with _failures(what):
        info = pyogrio.read_info(vector_path(path), layer=layer)
        fields = list(info["fields"])
        if field is not None and field not in fields:
            raise DataError(f"{what} has no field {field!r}; it has {', '.join(fields) or 'none'}")
        wanted = None if info["driver"] in _SHAPE_IN_FIELDS else [field] if field else []
        source = vector_path(path)
        meta, _, geometry, columns = pyogrio.raw.read(source, layer=layer, columns=wanted)
    if field is None:
        return meta, geometry, np.full(len(geometry), "", object)
    return meta, geometry, columns[list(meta["fields"]).index(field)]


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """What GDAL and pyogrio raise, as DataError; what they merely mention, not at all."""
    unreadable = vector_errors(f"{what} cannot be read as vector data", DataError)
    with unreadable, warnings.catch_warnings(), vector_settings(READING):
        # Heights and measures do not matter here, nor which kind of polygon is declared.
        warnings.filterwarnings("ignore", message="Measured|geometry column type")
        try:
            yield
        except pyogrio.errors.GeometryError as error:
            raise DataError(
                f"{what} holds shapes of a kind that is not read, such as triangles of a surface "
                f"({error}); make polygons of them (ogr2ogr -nlt MULTIPOLYGON)"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{what} is not in the encoding that it declares ({error.encoding}); correct its "
                ".cpg"
            ) from error


def _crs(text: str | None, what: str) -> pyproj.CRS | None:
    if not text:
        return None
    try:
        crs = horizontal(pyproj.CRS.from_user_input(text))
    except CRSError as error:
        raise DataError(f"{what} is in a CRS that PROJ does not understand: {error}") from error
    # What a GeoPackage calls -1, 0 or 99999.
    return None if crs.name.startswith("Undefined ") else crs


def _doubt_encoding(path: str | Path, names: NDArray[np.object_], encoding: str | None) -> None:
    """A shapefile without .cpg may be in any encoding, of which GDAL takes the Western one."""
    if encoding != "ISO-8859-1" or Path(path).with_suffix(".cpg").exists():
        return
    if strange := sorted({name for name in names if not name.isascii()}):
        _LOG.warning(
            "%s does not say its encoding; read as %s, its classes are %s. If they are not, write "
            "the right one, such as CP1251 or GBK, into %s",
            path,
            encoding,
            ", ".join(strange[:5]),
            Path(path).with_suffix(".cpg").name,
        )


def spelled(value: Any) -> str:
    """A class's name from a field of any type; empty where there is no value."""
    if pd.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
