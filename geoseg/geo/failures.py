"""Errors of the libraries for vector data, as geoseg's own."""

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
    """Raise `kind`, "`what`: reason" in one line, for errors of vector data.

    These come from pyogrio and its GDAL, SQLite, GEOS, PROJ, Arrow, the operating system, and from
    text or values that a format cannot hold.
    """
    try:
        yield
    except _library_errors() as error:
        raise kind(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return a library's message in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = " ".join(str(error).split())
    message = message.partition("; It might help")[0]  # pyogrio suggests another driver
    return message.rstrip(".") or type(error).__name__


def _library_errors() -> tuple[type[BaseException], ...]:
    # Arrow is optional, and slow to import.
    arrow = getattr(sys.modules.get("pyarrow"), "ArrowException", None)
    return (
        OSError,
        UnicodeError,
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        sqlite3.Error,
        shapely.errors.ShapelyError,
        pyproj.exceptions.ProjError,
        rasterio.errors.RasterioError,
        rasterio.errors.CRSError,
        *([arrow] if arrow is not None else []),
    )
