"""Pixel grids: their size on the ground, and parts of them."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.warp
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod
from rasterio.crs import CRS

from geoseg.geo.geobox import GeoBox
from geoseg.tiling.grid import Window


@pytest.mark.parametrize(
    ("crs", "x", "y", "step"),
    [
        (32632, 5e5, 5e6, 0.3),  # meters
        (3857, 4e6, 6e6, 0.3),  # stretched by 1 / cos(latitude)
        (3395, 13467532, 1632019, 0.1),
        (2263, 1e6, 2e5, 1.0),  # feet
        (4326, 20.0, 60.0, 1e-5),  # degrees, twice as tall as wide
    ],
)
@pytest.mark.parametrize("rotation", [0, 30])
def test_gsd_is_the_distance_on_the_ellipsoid(crs, x, y, step, rotation) -> None:
    transform = Affine.translation(x, y) @ Affine.rotation(rotation) @ Affine.scale(step, -step)
    box = GeoBox(100, 100, transform, CRS.from_epsg(crs))
    corners = [transform @ point for point in ((50, 50), (60, 50), (50, 60))]
    lons, lats = rasterio.warp.transform(box.crs, "EPSG:4326", *zip(*corners, strict=True))
    _, _, (across, down) = Geod(ellps="WGS84").inv([lons[0]] * 2, [lats[0]] * 2, lons[1:], lats[1:])
    assert box.pixel_size == pytest.approx((across / 10, down / 10), rel=1e-3)
    assert box.gsd == pytest.approx(np.sqrt(across * down) / 10, rel=1e-3)


def test_gsd_is_unknown_without_crs() -> None:
    assert GeoBox(9, 9, Affine.scale(0.1), None).gsd is None


def test_gsd_of_a_local_crs_is_in_its_units() -> None:
    site = CRS.from_wkt('LOCAL_CS["site",UNIT["foot",0.3048]]')
    assert GeoBox(9, 9, Affine.scale(2, -2), site).gsd == pytest.approx(0.6096)


@given(
    st.tuples(*[st.floats(-10, 10) for _ in range(6)]),
    st.integers(1, 50),
    st.integers(1, 50),
    st.data(),
)
def test_crop_and_resize_keep_coordinates(coefficients, height, width, data) -> None:
    box = GeoBox(height, width, Affine(*coefficients), None)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    part = box.crop(Window(left, top, width - left, height - top))
    assert part.transform @ (0, 0) == pytest.approx(box.transform @ (left, top), abs=1e-9)
    corner = box.resized(7, 5).transform @ (5, 7)
    assert corner == pytest.approx(box.transform @ (width, height), abs=1e-9)
    xs, ys = [box.bounds[0], box.bounds[2]], [box.bounds[1], box.bounds[3]]
    x, y = box.transform @ (width / 2, height / 2)
    assert xs[0] - 1e-9 <= x <= xs[1] + 1e-9
    assert ys[0] - 1e-9 <= y <= ys[1] + 1e-9
