"""Polygons of any CRS on a scene, however far they extend beyond it."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from geoseg.errors import DataError, SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.labels import read_labels
from geoseg.geo.overlay import overlay
from geoseg.geo.raster.aoi import read_aoi
from geoseg.tiling.grid import Window

ROTATED = "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +o_lon_p=0 +lon_0=18"


def scene(crs: str, lon: float, lat: float, *, size: float = 0.5, turn: float = 0.0) -> GeoBox:
    """300 × 200 px of about `size` meters around a point."""
    map_ = pyproj.CRS.from_user_input(crs)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", map_, always_xy=True).transform(lon, lat)
    unit = map_.axis_info[0].unit_conversion_factor * (6.378e6 if map_.is_geographic else 1)
    step = size / unit
    place = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(step, -step)
    return GeoBox(200, 300, place @ Affine.translation(-150, -100), CRS.from_user_input(crs))


SCENES = {
    "utm": scene("EPSG:32633", 14.3, 48.9),
    "turned": scene("EPSG:32633", 14.3, 48.9, turn=30),
    "degrees": scene("EPSG:4326", 14.3, 48.9),
    "web": scene("EPSG:3857", 14.3, 48.9),
    "Paris, grads": scene("EPSG:4807", 14.3, 48.9),
    "large": scene("EPSG:3035", 14.3, 48.9, size=800),
    "west of 180": scene("EPSG:32660", 180, 65),
    "degrees over 180": scene("EPSG:4326", 180, -17),
    "web over 180": scene("EPSG:3832", 180, -17),
    "turned pole": scene(ROTATED, 14.3, 48.9),
    "near the north pole": scene("EPSG:3413", 100, 89.5, size=5),
    "north pole": scene("EPSG:3413", 0, 90, size=30),
    "south pole": scene("EPSG:3031", 0, -90, size=30),
}
FILES = ["EPSG:4326", "EPSG:3857", "EPSG:3035", "EPSG:32633", "EPSG:4807", "EPSG:2056", ROTATED]
WORLDS = {
    "world": shapely.box(-180, -90, 180, 90),
    "from 0": shapely.box(0, -90, 360, 90),
    "hemispheres": shapely.MultiPolygon(
        [shapely.box(-180, -90, 20, 90), shapely.box(20, -90, 180, 90)]
    ),
    "north and south": shapely.MultiPolygon(
        [shapely.box(-180, 3, 180, 90), shapely.box(-180, -90, 180, 3)]
    ),
}
WGS84 = pyproj.CRS("EPSG:4326")


def pixels_to(box: GeoBox, crs: str, shape: shapely.Geometry) -> shapely.Geometry:
    """A densified polygon in pixels, transformed to a CRS vertex by vertex."""
    way = pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(box.crs.to_wkt()), crs, always_xy=True)
    dense = shapely.segmentize(shape, 0.5)
    return shapely.transform(
        dense, lambda x, y: way.transform(*(box.transform @ (x, y))), interleaved=False
    )


def one(shape: shapely.Geometry) -> np.ndarray:
    return np.array([shape], object)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("world", WORLDS)
def test_the_world_is_exactly_the_scene(name: str, world: str) -> None:
    box = SCENES[name]
    (found,) = overlay(one(WORLDS[world]), WGS84, box)
    assert found.area == pytest.approx(300 * 200, rel=1e-9)
    assert shapely.bounds(found) == pytest.approx([0, 0, 300, 200], abs=1e-6)


@pytest.mark.parametrize(
    "name", ["utm", "degrees", "Paris, grads", "degrees over 180", "web over 180"]
)
def test_the_world_of_other_maps_is_the_scene(name: str) -> None:
    edge = 20037508.342789244
    for crs, world in (
        ("EPSG:3857", shapely.box(-edge, -edge, edge, edge)),
        ("EPSG:6933", shapely.box(-17367530.44516137, -7314540.83, 17367530.44516137, 7314540.83)),
    ):
        (found,) = overlay(one(world), pyproj.CRS(crs), SCENES[name])
        assert found.area == pytest.approx(300 * 200, rel=1e-6)


@st.composite
def polygons(draw: st.DrawFn) -> shapely.Polygon:
    """Stars well inside the scene, some with a hole."""
    x, y = draw(st.floats(60, 240)), draw(st.floats(60, 140))
    count = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(5, 50), min_size=count, max_size=count))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    star = shapely.Polygon(
        np.column_stack([x + radii * np.cos(angles), y + radii * np.sin(angles)])
    )
    hole = shapely.Point(x, y).buffer(1, quad_segs=2)
    return star.difference(hole) if draw(st.booleans()) else star


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([*SCENES]), st.sampled_from(FILES), polygons())
def test_a_polygon_on_the_scene_comes_out_equal(name: str, crs: str, star) -> None:
    box, file = SCENES[name], pyproj.CRS(crs)
    if name not in ("utm", "turned", "degrees", "web", "Paris, grads", "large", "turned pole"):
        file = WGS84  # the others end before
    if file == WGS84 and "pole" in name and name != "turned pole":
        return  # test_a_circle_about_a_pole
    drawn = pixels_to(box, file.to_wkt(), star)
    if "180" in name:
        drawn = shapely.transform(
            drawn, lambda x, y: (np.where(x < 0, x + 360, x), y), interleaved=False
        )
    (found,) = overlay(one(drawn), file, box)
    # Transformations of the datum there and back move a corner by up to a millimeter or two.
    allowed = max(1e-3 * star.area, 5e-3 * star.length)
    assert found.symmetric_difference(star).area <= allowed
    alone, _ = overlay(np.array([drawn, shapely.box(1e5, 1e5, 2e5, 2e5)], object), file, box)
    assert alone.equals(found)


@pytest.mark.parametrize(("name", "pole"), [("north pole", 90), ("south pole", -90)])
def test_a_circle_about_a_pole(name: str, pole: int) -> None:
    box = SCENES[name]
    near = np.sign(pole) * 89.99  # 1.1 km, of 3 km to the scene's border
    cap = shapely.box(-180, min(near, pole), 180, max(near, pole))
    (found,) = overlay(one(cap), WGS84, box)
    radius = np.sqrt(found.area / np.pi) * 30
    assert radius == pytest.approx(1117, rel=0.04)  # the map's own scale
    assert shapely.get_coordinates(found.centroid)[0] == pytest.approx([150, 100], abs=0.1)


def test_both_sides_of_180_degrees() -> None:
    box = SCENES["west of 180"]
    sides = [shapely.box(179, 60, 180, 70), shapely.box(-180, 60, -179, 70)]
    left, right = overlay(np.array(sides, object), WGS84, box)
    both = overlay(one(shapely.box(179, 60, 181, 70)), WGS84, box)[0]
    assert left.area + right.area == pytest.approx(60_000, rel=1e-6)
    assert both.area == pytest.approx(60_000, rel=1e-6)
    assert left.area > 20_000 < right.area
    text = "179.999,-17.001,-179.999,-16.999"  # as RFC 7946 writes a box across
    assert read_aoi(text, SCENES["degrees over 180"]).window.width > 250


def test_invalid_and_distant_features_are_no_error() -> None:
    box = SCENES["utm"]
    good = pixels_to(box, "EPSG:4326", shapely.box(50, 50, 90, 80))
    bow = pixels_to(box, "EPSG:4326", shapely.box(0, 0, 1, 1))
    ring = shapely.Polygon([(14.2, 48), (14.4, 48), (14.2, 50), (14.4, 50)])
    shapes = [
        good,
        None,
        shapely.Polygon(),
        shapely.Point(14.3, 48.9),
        shapely.transform(good, lambda xy: xy * np.inf),
        shapely.box(-178, -15, -176, -13),
        shapely.box(0, 95, 10, 99),
        shapely.GeometryCollection([good, shapely.Point(14.3, 48.9), bow]),
        ring,
        shapely.force_3d(good, 12.5),
    ]
    found = overlay(np.array(shapes, object), WGS84, box)
    areas = shapely.area(found)
    assert areas[[0, 9]] == pytest.approx(1200, rel=1e-6)
    assert areas[7] == pytest.approx(1201, rel=1e-6)
    assert not areas[1:7].any()
    assert areas[8] == pytest.approx(60_000)
    assert shapely.is_valid(found).all()


def test_meters_declared_as_degrees_are_reported() -> None:
    meters = shapely.box(448_160, 5_411_830, 448_170, 5_411_840)
    with pytest.raises(DataError, match=r"448165, 5411835, which are no longitude.* WGS 84"):
        overlay(one(meters), WGS84, SCENES["utm"])


def test_an_engineering_crs_matches_only_itself(tmp_path: Path) -> None:
    wkt = 'LOCAL_CS["{}",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    box = GeoBox(200, 300, Affine(0.3, 0, 1000, 0, -0.3, 5000), CRS.from_wkt(wkt.format("Site")))
    shape = shapely.box(1003, 4990, 1009, 4997)
    for name in ("Site", "Other site"):
        frame = geopandas.GeoDataFrame({"class": ["a"]}, geometry=[shape], crs=wkt.format(name))
        frame.to_file(tmp_path / f"{name}.gpkg")
    labels = read_labels(tmp_path / "Site.gpkg", box, field="class")
    assert labels.geometry[0].area == pytest.approx(42 / 0.09)
    for crs in ("EPSG:32633", wkt.format("Other site")):
        with pytest.raises(DataError, match="no transformation to Site"):
            overlay(one(shape), pyproj.CRS(crs), box)
    with pytest.raises(SceneError, match="no transformation to Site"):
        read_aoi(str(tmp_path / "Other site.gpkg"), box)


UNPLACED = GeoBox(20, 30, Affine.scale(1, -1), None)


def test_scenes_in_pixel_coordinates_lie_below_the_axis() -> None:
    square = shapely.box(2, 3, 7, 9)
    hung = shapely.transform(square, lambda xy: xy * (1, -1))
    for drawn in (square, hung):  # counted downwards, or as GIS programs show it
        (found,) = overlay(one(drawn), None, UNPLACED)
        assert found.equals(square)
    for text in ("2,3,7,9", "2,-9,7,-3"):
        assert read_aoi(text, UNPLACED).window == Window(2, 3, 5, 6)


def test_a_world_file_without_crs_gives_coordinates() -> None:
    box = GeoBox(20, 30, Affine(0.5, 0, 1000, 0, -0.5, 2000), None)
    (found,) = overlay(one(shapely.box(1001, 1991, 1004, 1999)), None, box)
    assert found.equals(shapely.box(2, 2, 8, 18))
