"""What the libraries under geoseg raise becomes geoseg's own errors, in one place."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyogrio.errors
import pyproj.exceptions
import rasterio.errors
import shapely.errors

from geoseg.errors import GeosegError


@contextmanager
def vector_errors(what: str, kind: type[GeosegError]) -> Iterator[None]:
    """Raise `kind`, "`what`: why" in one line, for what goes wrong with vector data inside.

    That is what pyogrio and its GDAL, SQLite, GEOS, PROJ, Arrow and the operating system raise,
    and text or values that a format cannot hold.
    """
    try:
        yield
    except _raised_by_libraries() as error:
        raise kind(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What a library says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = " ".join(str(error).split()).partition("; It might help")[0]  # to use another driver
    return said.rstrip(".") or type(error).__name__


def _raised_by_libraries() -> tuple[type[BaseException], ...]:
    arrow = getattr(sys.modules.get("pyarrow"), "ArrowException", None)
    return (
        OSError,
        UnicodeError,
        NotImplementedError,  # pyogrio, of a field's type
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        sqlite3.Error,
        shapely.errors.ShapelyError,
        pyproj.exceptions.ProjError,
        rasterio.errors.RasterioError,
        rasterio.errors.CRSError,
        *([arrow] if arrow is not None else []),
    )
