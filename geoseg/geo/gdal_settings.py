"""Settings of pyogrio's GDAL, which is separate from rasterio's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyogrio

READING = {"GDAL_PAM_ENABLED": "NO"}
"""Otherwise GDAL 3.12 writes an .aux.xml beside a GeoPackage that it only reads."""
WRITING = {"OGR_SQLITE_SYNCHRONOUS": "OFF", "OGR_SQLITE_JOURNAL": "OFF"}
"""No flush at every step, as there is one at the end, and no rollback, as an incomplete file is
removed."""


@contextmanager
def vector_settings(options: dict[str, str]) -> Iterator[None]:
    """Set options of pyogrio's GDAL, and restore them afterwards."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)
