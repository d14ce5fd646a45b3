"""The area of interest: the same pixels from any file in any CRS."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.aoi import read_aoi
from geoseg.tiling.grid import Window

BOX = GeoBox(200, 300, Affine(0.5, 0, 5e5, 0, -0.5, 5e6), CRS.from_epsg(32632))
TURNED = GeoBox(
    200,
    300,
    Affine.translation(5e5, 5e6) @ Affine.rotation(25) @ Affine.scale(0.5, -0.5),
    CRS.from_epsg(32632),
)


@pytest.mark.parametrize("box", [BOX, TURNED], ids=["north-up", "turned"])
@pytest.mark.parametrize(
    ("name", "crs"),
    [("a.gpkg", 32632), ("a.gpkg", 3857), ("a.shp", 25833), ("a.geojson", 4326)],
)
def test_a_file_in_any_crs(tmp_path: Path, box: GeoBox, crs: int, name: str) -> None:
    ring = shapely.Point(150, 100).buffer(70).difference(shapely.Point(150, 100).buffer(20))
    ring = shapely.union(ring, shapely.box(5, 5, 20, 10))
    ground = shapely.transform(ring, lambda x, y: box.transform @ (x, y), interleaved=False)
    frame = geopandas.GeoDataFrame(geometry=[ground], crs=box.crs).to_crs(crs)
    frame.to_file(tmp_path / name)
    aoi = read_aoi(str(tmp_path / name), box)
    rows, columns = np.mgrid[:200, :300] + 0.5
    expected = shapely.contains_xy(ring, columns, rows)
    mask = aoi.mask(box.extent)
    assert expected.sum() > 1000
    assert (mask != expected).mean() < 2e-4, "only pixels with their center on the outline"
    window = aoi.window
    assert mask.sum() == aoi.mask(window).sum()
    for part in (Window(0, 0, 60, 200), Window(140, 90, 25, 25), window):
        assert (aoi.mask(part) == mask[part.slices]).all()
        assert aoi.meets(part) == bool(mask[part.slices].any())


def test_bounds() -> None:
    aoi = read_aoi("500010,4999950,500050,4999990", BOX)
    assert aoi.window == Window(20, 20, 80, 80)
    assert aoi.mask(BOX.extent).sum() == 80 * 80


def test_bounds_are_cut_at_the_scene() -> None:
    assert read_aoi("0,0,1e7,1e7", BOX).window == BOX.extent


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4", "outside the scene"),
        ("5,5,1,1", "smaller ones first"),
        ("1,2,3", "not four numbers"),
        ("a,b,c,d", "not four numbers"),
        ("nan,0,1,1", "smaller ones first"),
        ("absent.gpkg", "cannot be read"),
    ],
)
def test_refused_areas(text: str, message: str) -> None:
    with pytest.raises(SceneError, match=message):
        read_aoi(text, BOX)


def test_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    line = shapely.LineString([(5e5, 5e6), (5e5 + 9, 5e6)])
    geopandas.GeoDataFrame(geometry=[line], crs=32632).to_file(path)
    with pytest.raises(SceneError, match="holds LineString; give a file with polygons"):
        read_aoi(str(path), BOX)


def test_a_georeferenced_file_for_a_scene_without_crs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)], crs=4326).to_file(path)
    with pytest.raises(SceneError, match="the scene has no CRS"):
        read_aoi(str(path), GeoBox(20, 20, Affine.identity(), None))


def test_pixels_of_a_scene_without_crs() -> None:
    aoi = read_aoi("2,3,7,9", GeoBox(20, 20, Affine.identity(), None))
    assert aoi.window == Window(2, 3, 5, 6)


def test_an_area_between_the_centers_of_pixels_is_refused() -> None:
    """It would be found to be empty after the work."""
    with pytest.raises(SceneError, match="no center of a pixel"):
        read_aoi("500010.3,4999950.3,500010.4,4999950.4", BOX)
    one = read_aoi("500010.2,4999950.2,500010.3,4999950.3", BOX)
    assert one.mask(BOX.extent).sum() == 1
