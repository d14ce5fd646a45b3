"""Reading leaves the process as it was."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoseg.errors import SceneError
from geoseg.geo.raster.source import Source


def test_imports_change_no_warning_filters_and_no_log_handlers() -> None:
    code = """
import logging, warnings
import pandas, pyogrio, pyproj, rasterio, shapely
def state():
    loggers = [logging.getLogger(name) for name in ("", "rasterio", "rasterio._err", "geoseg")]
    return list(warnings.filters), [list(logger.handlers) for logger in loggers]
before = state()
import geoseg.geo.reproject, geoseg.geo.raster.mosaic, geoseg.geo.raster.resampled
import geoseg.geo.raster.aoi, geoseg.geo.raster.class_raster, geoseg.geo.raster.cog_writer
assert state() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def corrupt(tmp_path: Path) -> Path:
    """A GeoTIFF with a truncated JPEG block."""
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (1, 64, 64), np.uint8)
    profile = {"driver": "GTiff", "count": 1, "height": 64, "width": 64, "dtype": "uint8"}
    grid = {"transform": Affine(0.5, 0, 5e5, 0, -0.5, 4e6), "crs": "EPSG:32632"}
    with rasterio.open(path, "w", compress="jpeg", **profile, **grid) as raster:
        raster.write(pixels)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    return path


def test_warnings_of_libjpeg_are_heard_only_while_reading(corrupt: Path) -> None:
    logger = logging.getLogger("rasterio")
    before = list(logger.handlers)
    source = Source(str(corrupt))
    with source.dataset() as outer, source.dataset() as inner:
        assert inner is outer
        assert len(logger.handlers) == len(before) + 1
    assert logger.handlers == before
    with pytest.raises(SceneError, match=r"a\.tif: cannot read"), source.dataset("read") as dataset:
        dataset.read()
    assert logger.handlers == before


def test_a_warning_in_a_nested_use_reaches_only_that_use(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 8, "width": 8, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(np.ones((1, 8, 8), np.uint8))
    source = Source(str(path))
    gdal = logging.getLogger("rasterio._err")
    with source.dataset("read"):
        with (
            pytest.raises(SceneError, match=r"look: .*Premature end"),
            source.dataset("look"),
        ):
            gdal.warning("CPLE_AppDefined in JPEGLib:Premature end of JPEG file")
        with source.dataset("look again"):
            gdal.warning("CPLE_AppDefined in JPEGLib:Corrupt JPEG data: 2 extraneous bytes")


def test_pixel_coordinates_are_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = {"driver": "PNG", "count": 1, "height": 8, "width": 8, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(np.ones((1, 8, 8), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Source(str(path)).dataset() as dataset:
            assert dataset.shape == (8, 8)
