"""Sizes on the ground, in every kind of CRS, against geodesics on the ellipsoid."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from pyproj.database import query_crs_info
from pyproj.enums import PJType
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.measure import measure

GEOD = pyproj.Geod(ellps="WGS84")
WITHIN = 5e-3
LENGTH, WIDTH, BEARING = 110.0, 70.0, 25.0
"""Length, width and bearing of a rectangle: meters, and degrees clockwise from true north."""

GOOGLE = (
    'PROJCS["unnamed",GEOGCS["unnamed ellipse",DATUM["unknown",SPHEROID["unnamed",6378137,0],'
    'EXTENSION["PROJ4_GRIDS","@null"]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
    'PROJECTION["Mercator_2SP"],PARAMETER["standard_parallel_1",0],'
    'PARAMETER["central_meridian",0],PARAMETER["false_easting",0],PARAMETER["false_northing",0],'
    'UNIT["Meter",1]]'
)
ROTATED = (
    'GEOGCRS["Rotated",BASEGEOGCRS["WGS 84",DATUM["World Geodetic System 1984",'
    'ELLIPSOID["WGS 84",6378137,298.257223563]]],DERIVINGCONVERSION["rot",'
    'METHOD["PROJ ob_tran o_proj=longlat"],PARAMETER["o_lat_p",39.25,'
    'ANGLEUNIT["degree",0.0174532925199433]],PARAMETER["o_lon_p",0,'
    'ANGLEUNIT["degree",0.0174532925199433]],PARAMETER["lon_0",18,'
    'ANGLEUNIT["degree",0.0174532925199433]]],CS[ellipsoidal,2],AXIS["longitude",east],'
    'AXIS["latitude",north],ANGLEUNIT["degree",0.0174532925199433]]'
)
BY_HAND = {
    "EPSG:3857+5773": (9, 60),  # compound
    "EPSG:25832+5783": (9, 50),
    "EPSG:4979": (9, 60),  # three axes
    "EPSG:9895": (6.1, 49.8),
    GOOGLE: (9, 60),  # bound
    "+proj=merc +datum=WGS84 +towgs84=0,0,0": (9, 60),
    "+proj=utm +zone=33 +south +ellps=intl +towgs84=-87,-98,-121": (15, -20),
    "EPSG:4807": (2.5, 48.8),  # grads from Paris
    "EPSG:27572": (2.5, 48.8),
    "EPSG:4901": (2.5, 48.8),
    "+proj=longlat +datum=WGS84 +pm=ferro": (14, 50),
    ROTATED: (11, 52),
    "+proj=ob_tran +o_proj=eqc +o_lat_p=30 +o_lon_p=10 +lon_0=-10": (5, 48),
    "+proj=nsper +h=300000 +lat_0=40 +lon_0=10": (10.2, 40.1),
    "EPSG:4326": (180, -17),
    "+proj=longlat +datum=WGS84 +lon_wrap=180": (180, 40),
    "EPSG:32601": (-179.99999, 60),
    "EPSG:32660": (180, 65),
    "EPSG:32760": (-179.99999, -17),
    "EPSG:3832": (180, -17),
    "EPSG:3413": (0, 90),
    "EPSG:3031": (0, -90),
    "EPSG:5041": (170, 89.999),
    "EPSG:6931": (10, 89.9),
    "EPSG:2222": (-110, 33),  # feet
    "EPSG:2263": (-74, 40.7),
    "EPSG:2053": (29, -26),  # westings and southings
    "ESRI:53004": (20, 0),  # a sphere
}


def one_of_each_kind() -> dict[str, tuple[float, float]]:
    """One CRS per projection method and axis unit in PROJ's database, with a point it covers."""
    found: dict[str, tuple[float, float]] = {}
    seen: set[str] = set()
    for authority in ("EPSG", "ESRI", "IGNF"):
        for info in query_crs_info(authority, [PJType.PROJECTED_CRS]):
            name = f"{info.auth_name}:{info.code}"
            unit = next((word for word in UNITS if word in info.name), "")
            if info.area_of_use is None or any(body in info.name for body in ELSEWHERE):
                continue
            if not {info.projection_method_name, unit} <= seen:
                seen |= {info.projection_method_name, unit}
                west, south, east, north = info.area_of_use.bounds
                east += 360 if east < west else 0
                # Off the middle, where the global ones are true by design.
                lon = west + 0.6 * (east - west)
                found[name] = (lon + 180) % 360 - 180, south + 0.6 * (north - south)
    return found


UNITS = ("(ft)", "(ftUS)", "(ftCla)", "(ch)", "(ftSe)", "link", "Ghana", "Kilometer", "yards")
ELSEWHERE = ("Mars", "Moon", "Venus", "Mercury_", "Jupiter", "Saturn", "Pluto")
CASES = one_of_each_kind() | BY_HAND


def test_the_database_has_many_kinds() -> None:
    assert len(CASES) > 70


@pytest.mark.parametrize("name", CASES, ids=lambda name: name[:60])
def test_sizes_are_those_on_the_ellipsoid(name: str) -> None:
    lon, lat = CASES[name]
    crs = pyproj.CRS.from_user_input(name)
    flat = (crs.sub_crs_list[0] if crs.is_compound else crs).to_2d()
    stored = CRS.from_user_input(crs.to_wkt())
    try:
        to_map = pyproj.Transformer.from_crs("EPSG:4326", flat, always_xy=True)
        to_ground = pyproj.Transformer.from_crs(flat, "EPSG:4326", always_xy=True)
        x, y = to_map.transform(lon, lat)
        there_and_back = GEOD.inv(lon, lat, *to_ground.transform(x, y))[2] < 1
    except ProjError:
        there_and_back = False
    if not there_and_back:
        # PROJ's database knows more methods than PROJ: nothing is known but the map.
        assert measure(np.array([shapely.box(0, 0, 2, 3)]), stored).area[0] > 0
        pytest.skip("PROJ has no way there and back")

    corners = []
    for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        turn = BEARING + np.degrees(np.arctan2(across * WIDTH, along * LENGTH))
        corners.append(GEOD.fwd(lon, lat, turn, np.hypot(LENGTH, WIDTH) / 2)[:2])
    placed = np.array([to_map.transform(*corner) for corner in corners])
    if circle := {"EPSG:4326": 360}.get(name):
        placed[:, 0] = x + (placed[:, 0] - x + circle / 2) % circle - circle / 2
    rectangle = np.array([shapely.Polygon(placed)])
    sizes = measure(rectangle, stored)
    assert sizes.area[0] == pytest.approx(LENGTH * WIDTH, rel=WITHIN)
    assert sizes.length[0] == pytest.approx(LENGTH, rel=WITHIN)
    assert sizes.width[0] == pytest.approx(WIDTH, rel=WITHIN)

    # A pixel of about a meter: steps in x and y, as long as they are on the ground here.
    unit = np.hypot(*np.ptp(placed, axis=0)) / np.hypot(LENGTH, WIDTH)
    east = to_ground.transform([x - 9 * unit, x + 9 * unit], [y, y])
    north = to_ground.transform([x, x], [y - 9 * unit, y + 9 * unit])
    across, down = (GEOD.inv(p[0][0], p[1][0], p[0][1], p[1][1])[2] / 18 for p in (east, north))
    box = GeoBox(64, 64, Affine(unit, 0, x - 32 * unit, 0, -unit, y + 32 * unit), stored)
    assert box.pixel_size == pytest.approx((across, down), rel=WITHIN)

    if abs(lat) < 89:
        convergence = GEOD.inv(north[0][0], north[1][0], north[0][1], north[1][1])[0]
        off = (sizes.angle[0] + convergence - BEARING + 90) % 180 - 90
        assert off == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("side", [3e3, 1e5])
@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        ("EPSG:4326", 10, 60),
        ("EPSG:4326", 180, -70),
        ("EPSG:3857", 10, 60),
        ("EPSG:3413", 100, 89),
        ("EPSG:3413", 0, 90),
        ("EPSG:32633", 19, 60),
        ("ESRI:54008", 120, 50),
    ],
)
def test_large_objects_are_as_bent_as_the_earth(crs: str, lon: float, lat: float, side: float):
    map_ = pyproj.CRS.from_user_input(crs)
    geographic = map_.is_geographic
    x, y = pyproj.Transformer.from_crs("EPSG:4326", map_, always_xy=True).transform(lon, lat)
    half = side / 2 / (111e3 if geographic else 1)
    squares = [shapely.box(x - half, y - half, x + half, y + half)]
    squares.append(squares[0].difference(shapely.Point(x, y).buffer(half / 2)))
    sizes = measure(np.array(squares, object), CRS.from_user_input(crs))
    way = pyproj.Transformer.from_crs(map_, "EPSG:4326", always_xy=True)
    for square, area in zip(squares, sizes.area, strict=True):
        dense = shapely.segmentize(square, half / 200)
        rings = [dense.exterior, *dense.interiors]
        areas = [
            abs(GEOD.polygon_area_perimeter(*way.transform(*np.array(ring.coords).T))[0])
            for ring in rings
        ]
        assert area == pytest.approx(areas[0] - sum(areas[1:]), rel=WITHIN)


def test_many_objects_are_measured_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    centers = np.column_stack([rng.uniform(2e5, 8e5, 300), rng.uniform(1e6, 8e6, 300)])
    shapes = np.array(
        [
            shapely.Point(c).buffer(r, quad_segs=3)
            for c, r in zip(centers, rng.uniform(1, 9e4, 300), strict=True)
        ],
        object,
    )
    crs = CRS.from_epsg(32633)
    together = measure(shapes, crs)
    for place in range(0, 300, 37):
        alone = measure(shapes[place : place + 1], crs)
        for name in ("area", "length", "width", "angle"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[place])
    assert len(measure(shapes[:0], crs).area) == 0


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857", "EPSG:4978"])
def test_coordinates_off_the_globe_lose_nothing(crs: str) -> None:
    far = np.array([shapely.box(1e8, 1e8, 1e8 + 2, 1e8 + 3)], object)
    sizes = measure(far, CRS.from_user_input(crs))
    assert np.isfinite([sizes.area[0], sizes.length[0], sizes.width[0], sizes.angle[0]]).all()
