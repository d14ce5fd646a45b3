"""Settings of the GDAL that pyogrio brings, which is not rasterio's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyogrio

READING = {"GDAL_PAM_ENABLED": "NO"}
"""Else GDAL 3.12 puts the metadata of a GeoPackage that it reads into an .aux.xml beside it."""
WRITING = {"OGR_SQLITE_SYNCHRONOUS": "OFF", "OGR_SQLITE_JOURNAL": "OFF"}
"""GDAL neither waits for the disk at every step, for that is done in the end, nor is ready to take
steps back: a file that was not completed is removed."""


@contextmanager
def vector_settings(options: dict[str, str]) -> Iterator[None]:
    """Let pyogrio's GDAL work under `options` for a while."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)
