"""Vector files from users: geometries in any format, layer and encoding."""

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
"""Formats of which GDAL reads no geometries unless it reads all fields."""


@dataclass(frozen=True, slots=True)
class VectorLayer:
    """One layer of a file."""

    name: str
    """The layer's name in the file."""
    crs: pyproj.CRS | None
    """Horizontal; None if the file declares none, or an undefined one."""
    geometry: NDArray[np.object_]
    """(N,) geometries of any kind; None if missing, or if GEOS cannot read it."""
    values: NDArray[np.object_]
    """(N,) values of the requested field as text; empty if missing."""


def read_vector_file(
    path: str | Path, *, layer: str | None = None, field: str | None = None
) -> Iterator[VectorLayer]:
    """Yield one layer of a vector file, or all that have geometries.

    Raises DataError: unreadable file, unknown layer or field, unsupported kind of geometry.
    """
    for name in _layers(path, layer):
        what = f"{path}, layer {name},"
        meta, geometry, values = _read(path, name, field, what)
        names = np.array([_as_text(value) for value in values], dtype=object)
        if field is not None:
            _warn_of_encoding(path, names, meta["encoding"])
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
    """Return GDAL's metadata of the layer, geometries as WKB, and values of the field."""
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
    """Convert errors of GDAL and pyogrio to DataError, and drop irrelevant warnings."""
    errors = vector_errors(f"{what} cannot be read as vector data", DataError)
    with errors, warnings.catch_warnings(), vector_settings(READING):
        # Measures (M) and the declared geometry type do not matter here.
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
    # PROJ's name for the srs_id -1, 0 or 99999 of a GeoPackage.
    return None if crs.name.startswith("Undefined ") else crs


def _warn_of_encoding(path: str | Path, names: NDArray[np.object_], encoding: str | None) -> None:
    """Warn if names of classes are not ASCII and GDAL guessed their encoding.

    A shapefile without .cpg may be in any; GDAL reads ISO-8859-1.
    """
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


def _as_text(value: Any) -> str:
    """Return the value of a field of any type as the name of a class; empty if missing."""
    if pd.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
