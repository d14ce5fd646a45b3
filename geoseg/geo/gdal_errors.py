"""Errors and warnings of rasterio and its GDAL."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# rasterio lets some of GDAL's own errors through, as when it copies, but exports no class for them.
from rasterio._err import CPLE_BaseError, CPLE_OutOfMemoryError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

GDAL_ERRORS = (RasterioError, CPLE_BaseError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether GDAL was refused memory."""
    return isinstance(error, CPLE_OutOfMemoryError)


@contextmanager
def without_georeference() -> Iterator[None]:
    """Accept rasters in pixel coordinates, of which rasterio warns at every opening."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
