"""Features in other CRSs: cut at the edge of the map, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from fakes import Colors, write_discs
from rasterio.crs import CRS

from geoseg.cli.main import main
from geoseg.errors import OptionError
from geoseg.geo.crs import parse_crs
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.export import export
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.reproject import reproject
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.predict import predict
from geoseg.pipeline.vectorize import vectorize

LOCAL = 'LOCAL_CS["Site grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
ROTATED = "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +o_lon_p=0 +lon_0=18 +datum=WGS84"


def three_dimensional() -> str:
    return pyproj.CRS("EPSG:32633").to_3d().to_wkt()


def class_raster(path: Path, crs: str, transform: Affine) -> Path:
    """A road left of the middle, one across it, and a house right of it."""
    ids = np.zeros((100, 200), np.uint8)
    ids[20:60, 20:50], ids[20:60, 85:115], ids[20:60, 150:180] = 1, 1, 2
    profile = {"driver": "GTiff", "height": 100, "width": 200, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(ids, 1)
        file.update_tags(1, CLASS_1="road", CLASS_2="house")
    return path


def at_180(crs: str) -> Affine:
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(180, -16.8)
    return Affine(1, 0, x - 100, 0, -1, y + 50)


TAVEUNI = {
    "EPSG:32760": at_180("EPSG:32760"),
    "EPSG:3460": at_180("EPSG:3460"),
    "EPSG:3832": at_180("EPSG:3832"),
    "EPSG:4326": Affine(1e-5, 0, 180 - 1e-3, 0, -1e-5, -16.8),
    "OGC:CRS84": Affine(1e-5, 0, -180 - 1e-3, 0, -1e-5, -16.8),
}


MAPS = ["EPSG:4326", "EPSG:3857", "EPSG:6933", "EPSG:4807", "EPSG:32701", ROTATED]
"""Targets; the first three end at the 180th meridian."""
PAIRS = [
    *(("EPSG:32760", target) for target in MAPS),
    *((source, target) for source in list(TAVEUNI)[1:] for target in ("EPSG:4326", ROTATED)),
]
"""Each target from one source, and each source to a target that cuts and one that does not."""


@pytest.fixture(scope="module", params=TAVEUNI)
def taveuni(request, tmp_path_factory) -> Path:
    """Layers of a raster that lies across the 180th meridian."""
    folder = tmp_path_factory.mktemp("taveuni")
    raster = class_raster(folder / "map.tif", request.param, TAVEUNI[request.param])
    vectorize(raster, folder / "map.gpkg", simplify=0, smooth=False, min_area=0)
    return folder / "map.gpkg"


def test_sizes_do_not_jump_at_180_degrees(taveuni: Path) -> None:
    frame = read_layers(taveuni)
    assert len(frame) == 3
    assert frame["length_m"].max() < 45
    assert np.ptp(frame["area_m2"]) < 0.01 * frame["area_m2"].max()


@pytest.mark.parametrize(("taveuni", "target"), PAIRS, indirect=["taveuni"])
def test_no_polygon_spans_the_globe(taveuni: Path, target: str, tmp_path: Path) -> None:
    (path,) = export(taveuni, tmp_path, "flatgeobuf", target_crs=target)
    frame = pyogrio.read_dataframe(path).sort_values("object_id")
    assert frame.is_valid.all()
    parts = shapely.get_parts(np.asarray(frame.geometry.values, object))
    cut = 1 if target in MAPS[:3] else 0
    assert len(parts) == 3 + cut
    geod = pyproj.Geod(ellps="WGS84")
    lonlat = frame.to_crs(frame.crs.geodetic_crs if target != ROTATED else 4326).to_crs(4326)
    areas = [
        sum(abs(geod.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(shape))
        for shape in lonlat.geometry
    ]
    # Half a meter of 30 or so may be missing at the edge of a map.
    np.testing.assert_allclose(areas, frame["area_m2"], rtol=5e-3)


def test_geojson_keeps_to_its_range_and_its_features(taveuni: Path, tmp_path: Path) -> None:
    (path,) = export(taveuni, tmp_path, "geojson")
    features = json.loads(path.read_text())["features"]
    assert len(features) == 3
    frame = geopandas.read_file(path)
    assert sorted(shapely.get_num_geometries(frame.geometry.array)) == [1, 1, 2]
    assert frame.total_bounds[[0, 2]].tolist() == [-180, 180]
    assert frame.is_valid.all()
    for shape in shapely.get_parts(np.asarray(frame.geometry.values, object)):
        assert np.ptp(shapely.bounds(shape)[[0, 2]]) < 1e-3


def test_a_polygon_around_a_pole_includes_it() -> None:
    ring = shapely.Point(0, 0).buffer(1000).difference(shapely.Point(0, 0).buffer(500))
    cap = shapely.Point(0, 0).buffer(300)
    frame = geopandas.GeoDataFrame(geometry=[ring, cap], crs=3413)
    found = reproject(frame, parse_crs("EPSG:4326", "--t-srs"), "--t-srs")
    assert found.is_valid.all()
    bounds = found.bounds
    assert (bounds["minx"] == -180).all()
    assert (bounds["maxx"] == 180).all()
    assert bounds["maxy"].tolist() == [pytest.approx(90 - 0.00445, abs=3e-4), 90]
    # Where there is no edge there is no cut: the pole is in the middle of this map.
    back = reproject(frame, parse_crs("EPSG:3995", "--t-srs"), "--t-srs")
    assert (back.geom_type == "Polygon").all()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nonsense", "PROJ knows no such"),
        ("EPSG:999999", "PROJ knows no such"),
        ("EPSG:5773", "a Vertical CRS"),
        ("EPSG:4978", "a Geocentric CRS"),
        (LOCAL, "no transformation from WGS 84 / UTM zone 33N"),
        ("IAU_2015:30100", "no transformation"),
    ],
)
def test_impossible_targets_are_refused(target: str, words: str, tmp_path: Path) -> None:
    raster = class_raster(tmp_path / "map.tif", "EPSG:32633", Affine(1, 0, 4e5, 0, -1, 5e6))
    vectorize(raster, tmp_path / "map.gpkg")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    asked = ["export", str(tmp_path / "map.gpkg"), "--format", "shapefile", "--t-srs", target]
    done = CliRunner().invoke(main, [*asked, "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert words in done.output
    assert done.output.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_heights_of_a_target_do_not_matter(tmp_path: Path) -> None:
    raster = class_raster(tmp_path / "map.tif", "EPSG:32633", Affine(1, 0, 4e5, 0, -1, 5e6))
    vectorize(raster, tmp_path / "map.gpkg")
    (path,) = export(tmp_path / "map.gpkg", tmp_path, "flatgeobuf", target_crs="EPSG:25832+5783")
    assert pyogrio.read_info(path)["crs"] == "EPSG:25832"


def test_a_site_grid_does_not_go_to_wgs84(tmp_path: Path) -> None:
    scene = write_discs(tmp_path / "site.tif", 64, 64, crs=LOCAL)
    request = OutputOptions(folder=tmp_path / "out", formats=("geojson",))
    with pytest.raises(OptionError, match="geojson: PROJ has no transformation from Site"):
        predict(scene, TileModel(Colors(), device="cpu"), request)
    assert not (tmp_path / "out").exists()


KINDS = {
    "three axes": (three_dimensional(), Affine(1, 0, 4e5, 0, -1, 5e6), "EPSG:32633"),
    "compound": ("EPSG:25832+5783", Affine(1, 0, 4e5, 0, -1, 5e6), "EPSG:25832"),
    "geographic, three axes": ("EPSG:4979", Affine(1e-5, 0, 9, 0, -1e-5, 50), "EPSG:4326"),
    "turned pole": (ROTATED, Affine(1e-5, 0, 1, 0, -1e-5, 2), ROTATED),
    "from space": (
        "+proj=nsper +h=300000 +lat_0=40 +lon_0=10 +datum=WGS84",
        Affine(1, 0, 5, 0, -1, 7),
        "+proj=nsper +h=300000 +lat_0=40 +lon_0=10 +datum=WGS84",
    ),
    "grads": ("EPSG:4807", Affine(1e-5, 0, 0, 0, -1e-5, 54), "EPSG:4807"),
    "site": (LOCAL, Affine(1, 0, 5, 0, -1, 7), LOCAL),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_class_raster_and_layers_keep_the_horizontal_part(kind: str, tmp_path: Path) -> None:
    crs, transform, expected = KINDS[kind]
    given = tmp_path / "in"
    given.mkdir()
    place = {"crs": CRS.from_user_input(crs), "transform": transform}
    scene = write_discs(given / "scene.tif", 200, 200, **place)
    # What GeoTIFF cannot hold stands beside the scene, too.
    out = tmp_path / "out"
    request = OutputOptions(folder=out, confidence=True)
    predict(scene, TileModel(Colors(), device="cpu"), request)
    horizontal = pyproj.CRS.from_user_input(expected)
    for name in ("scene.classes.tif", "scene.confidence.tif"):
        with rasterio.open(out / name) as file:
            found = pyproj.CRS.from_wkt(file.crs.to_wkt())
            assert found.equals(horizontal, ignore_axis_order=True) or kind == "site"
            assert file.transform == transform
    frame = read_layers(out / "scene.gpkg")
    assert frame.crs.equals(horizontal, ignore_axis_order=True) or kind == "site"
    assert frame.crs.name == horizontal.name
    assert len(frame) > 10
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    # And it reads what it wrote.
    vectorize(out / "scene.classes.tif", tmp_path / "again.gpkg")
    assert read_layers(tmp_path / "again.gpkg").crs == frame.crs
    if kind != "site":
        export(out / "scene.gpkg", tmp_path / "to", "geojson")
    export(out / "scene.gpkg", tmp_path / "to", "csv")
    if kind == "turned pole":
        with pytest.raises(OptionError, match="shapefile cannot store"):
            export(out / "scene.gpkg", tmp_path / "to", "shapefile")


def test_polygons_lie_on_a_scene_in_pixel_coordinates(tmp_path: Path) -> None:
    """GIS programs show such a picture, and its class raster, at x 0..W and y -H..0."""
    scene = write_discs(tmp_path / "photo.png", 200, 300, driver="PNG", crs=None, transform=None)
    (tmp_path / "photo.png.aux.xml").unlink(missing_ok=True)
    out = tmp_path / "out"
    request = OutputOptions(folder=out, simplify=0, smooth=False, formats=("gpkg", "flatgeobuf"))
    predict(scene, TileModel(Colors(), device="cpu"), request)
    frame = read_layers(out / "photo.gpkg")
    left, bottom, right, top = frame.total_bounds
    assert -200 <= bottom < top <= 0 <= left < right <= 300
    np.testing.assert_allclose(frame["area_m2"], frame.area)
    with rasterio.open(out / "photo.classes.tif") as file:
        assert file.transform.is_identity  # none is stored
        assert GeoBox.of(file).transform == Affine.scale(1, -1)
        ids = file.read(1)
    drawn = rasterio.features.rasterize(
        zip(frame.geometry, frame["class_id"], strict=True),
        ids.shape,
        transform=Affine.scale(1, -1),
    )
    np.testing.assert_array_equal(drawn, np.where(ids == 255, 0, ids))
    truth = ["evaluate", "--scene", str(out / "photo.classes.tif"), "--json", "--truth"]
    done = CliRunner().invoke(main, [*truth, str(out / "photo.gpkg")])
    scores = json.loads(done.stdout)["objects"]
    assert [score["f1"] for score in scores.values()] == [1.0] * 3
    again = ["prepare", "labels", str(scene), str(out / "photo.gpkg"), str(tmp_path / "patches")]
    done = CliRunner().invoke(main, [*again, "--field", "class", "--patch", "64"])
    assert done.exit_code == 0, done.output
