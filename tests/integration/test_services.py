"""Tile and map services: the same objects as in a file, by no more requests than needed."""

from __future__ import annotations

import logging
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import fakes
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from PIL import Image, ImageDraw
from results import assert_same_outputs
from tile_server import HALF, SIZE, TileServer, serving

import geoseg
from geoseg.classes import IGNORE
from geoseg.cli.main import main
from geoseg.errors import OptionError, SceneError
from geoseg.geo.raster import source
from geoseg.geo.raster.scene import Scene
from geoseg.geo.services.cache import cache_folder
from geoseg.geo.services.service import Service, Wanted
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import ComputeOptions, OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict

ZOOM, COLUMN, ROW, TILES = 18, 138_352, 75_632, 6
"""A picture of 6 × 6 tiles at 60.4° N."""
GSD = 0.296
"""Meters a pixel at that zoom and latitude, as the ellipsoid has it."""
SMALL = TilingOptions(tile_size=256, overlap=32)
RATE = 20.0
"""Requests per second where they are limited."""


@pytest.fixture(scope="module")
def picture():
    """Colored discs on gray."""
    rng, side = np.random.default_rng(5), TILES * SIZE
    image = Image.new("RGB", (side, side), (110, 110, 110))
    for _ in range(80):
        x, y, radius = *rng.integers(side, size=2), rng.integers(5, 40)
        color = tuple(np.roll((220, 60, 60), rng.integers(3)).tolist())
        ImageDraw.Draw(image).circle((int(x), int(y)), int(radius), color)
    return np.asarray(image)


@pytest.fixture
def server(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GDAL_DEFAULT_WMS_CACHE_PATH", str(tmp_path / "wmts"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(source, "_PAUSES_REMOTE", (0.01, 0.01, 0.01, 0.01))
    with serving(picture, ZOOM, COLUMN, ROW) as server:
        yield server


def area(server: TileServer, path: Path, *pixels: tuple[int, int, int, int]) -> str:
    """A file with rectangles: first column and row, last column and row in the picture."""
    transform = server.transform(ZOOM)
    boxes = []
    for left, top, right, bottom in pixels:
        (west, north), (east, south) = transform @ (left, top), transform @ (right, bottom)
        boxes.append(shapely.box(west, south, east, north))
    geopandas.GeoSeries(boxes, crs=3857).to_crs(4326).to_file(path)
    return str(path)


def run(scene, folder, aoi, *, gsd: float | None = GSD, rate: float | None = None, **options):
    return predict(
        str(scene),
        TileModel(fakes.Colors(), device="cpu"),
        OutputOptions(Path(folder)),
        SMALL,
        SceneOptions(aoi=aoi, gsd=gsd, **options),
        ComputeOptions(workers=2, tiles_per_block=1, requests_per_second=rate),
    )


def all_but_a_border(server: TileServer, tmp_path: Path) -> str:
    """An area whose surroundings are the whole picture."""
    return area(server, tmp_path / "all.gpkg", (60, 60, TILES * SIZE - 60, TILES * SIZE - 60))


def descriptions(server: TileServer) -> dict[str, str]:
    """The service in the notations of GDAL."""
    side = SIZE * 2**ZOOM
    window = (
        f"<DataWindow><UpperLeftX>{-HALF}</UpperLeftX><UpperLeftY>{HALF}</UpperLeftY>"
        f"<LowerRightX>{HALF}</LowerRightX><LowerRightY>{-HALF}</LowerRightY>"
    )
    rest = (
        "<Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX>"
        "<BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount></GDAL_WMS>"
    )
    return {
        "tms": f'<GDAL_WMS><Service name="TMS"><ServerUrl>{server.root}/${{z}}/${{x}}/${{y}}.png'
        f"</ServerUrl></Service>{window}<TileLevel>{ZOOM}</TileLevel><TileCountX>1</TileCountX>"
        f"<TileCountY>1</TileCountY><YOrigin>top</YOrigin></DataWindow>{rest}",
        "wms": f'<?xml version="1.0"?>\n<!-- a note -->\n<GDAL_WMS><Service name="WMS"><Version>'
        f"1.3.0</Version><ServerUrl>{server.root}/wms?</ServerUrl><CRS>EPSG:3857</CRS>"
        f"<ImageFormat>image/png</ImageFormat><Layers>aerial</Layers></Service>{window}"
        f"<SizeX>{side}</SizeX><SizeY>{side}</SizeY></DataWindow>{rest}",
    }


def test_a_service_gives_the_objects_of_a_file(server, tmp_path):
    aoi = all_but_a_border(server, tmp_path)
    local = server.write_geotiff(tmp_path / "scene.tif", ZOOM)
    expected = run(local, tmp_path / "file", aoi, collar="off")
    assert expected.objects > 40
    begun = time.monotonic()
    found = run(server.url, tmp_path / "xyz", aoi)
    assert_same_outputs(found, expected)
    assert time.monotonic() - begun < 10
    tiles = {(ZOOM, COLUMN + i, ROW + j) for i in range(TILES) for j in range(TILES)}
    assert server.requests.keys() == tiles
    assert set(server.requests.values()) == {1}
    assert all(agent.startswith("geoseg/") for agent in server.agents)
    assert not list((tmp_path / "xyz").glob("*.unfinished"))
    for name, text in descriptions(server).items():
        path = tmp_path / f"{name}.xml"
        path.write_text(text)
        assert_same_outputs(run(path, tmp_path / name, aoi), expected)
    wmts = f"WMTS:{server.root}/wmts?REQUEST=GetCapabilities,layer=aerial"
    assert_same_outputs(run(wmts, tmp_path / "wmts-results", aoi), expected)


def test_only_tiles_near_the_area_are_asked_for_and_only_once(server, tmp_path):
    last = TILES * SIZE
    corners = area(
        server,
        tmp_path / "a.gpkg",
        (40, 40, 200, 200),
        (last - 200, last - 200, last - 40, last - 40),
    )
    run(server.url, tmp_path / "one", corners)
    asked = dict(server.requests)
    assert {(ZOOM, COLUMN, ROW), (ZOOM, COLUMN + 5, ROW + 5)} <= asked.keys()
    assert len(asked) <= 2 * 3**2, "a block and its neighbors at each corner"
    run(server.url, tmp_path / "two", corners)
    assert server.requests == asked, "the second run takes all from the cache"


def test_a_busy_server_is_asked_again(server, tmp_path):
    aoi = area(server, tmp_path / "a.gpkg", (300, 300, 900, 900))
    expected = run(server.url, tmp_path / "one", aoi)
    busy = (ZOOM, COLUMN + 2, ROW + 2)
    with serving(*server.origin) as other:
        other.failures[busy] = [503, 503, *[429] * 8]
        assert_same_outputs(run(other.url, tmp_path / "two", aoi), expected)
        assert other.requests[busy] == 11


def assert_held(times: list[float]) -> None:
    """In no half second more than half of the rate, and the two that GDAL sends together.

    Three more: the server notes a request when its thread gets its turn.
    """
    for begin in times:
        assert sum(begin <= each < begin + 0.5 for each in times) <= RATE / 2 + 2 + 3
    assert max(times) - min(times) >= (len(times) - 3) / RATE - 0.1


def test_a_limit_of_requests_holds_and_changes_nothing_else(server, tmp_path):
    aoi = all_but_a_border(server, tmp_path)
    expected = run(server.write_geotiff(tmp_path / "a.tif", ZOOM), tmp_path / "a", aoi)
    server.failures[ZOOM, COLUMN + 2, ROW + 2] = [503, 429]
    assert_same_outputs(run(server.url, tmp_path / "b", aoi, rate=RATE), expected)
    assert_held(server.times)
    asked = len(server.times)
    cached = run(server.url, tmp_path / "c", aoi, rate=0.1)
    assert cached.seconds["total"] < 5, "a single request would wait for 10 s"
    assert len(server.times) == asked
    assert run(server.url, tmp_path / "c", aoi, rate=5.0).state == "skipped"


@pytest.mark.parametrize("kind", ["wms", "wmts"])
def test_a_limit_holds_for_other_services(server, tmp_path, kind):
    wmts = f"WMTS:{server.root}/wmts?REQUEST=GetCapabilities,layer=aerial"
    service = Service.find(wmts if kind == "wmts" else descriptions(server)[kind])
    view = tmp_path / "view.vrt"
    wanted = Wanted(all_but_a_border(server, tmp_path), None, None, 32, RATE)
    with (
        service.view(view, wanted),
        Scene.open(view, collar="off", requests_per_second=RATE) as scene,
    ):
        scene.read(replace(scene.geobox.extent, height=TILES * SIZE // 2))
    assert_held(server.times)
    assert len(server.times) >= TILES**2 / 2


def test_a_tile_that_fails_for_good_ends_the_run_which_goes_on_later(server, tmp_path):
    aoi = all_but_a_border(server, tmp_path)
    broken = (ZOOM, COLUMN + 4, ROW + 5)
    server.failures[broken] = [503] * 99
    url = f"{server.root}/{ZOOM}/{COLUMN + 4}/{ROW + 5}.png"
    with pytest.raises(SceneError, match=rf"cannot fetch {url}: the server answered 503; try .*"):
        run(server.url, tmp_path / "out", aoi)
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".unfinished"]
    server.failures.clear()
    before = server.requests.copy()
    resumed = run(server.url, tmp_path / "out", aoi)
    new = server.requests - before
    assert new[broken] == 1
    assert set(new) <= {(ZOOM, COLUMN + i, ROW + j) for i in range(2, 6) for j in (4, 5)}
    assert_same_outputs(resumed, run(server.url, tmp_path / "again", aoi))


@pytest.mark.parametrize(
    ("codes", "said"), [([403], "answered 403; check"), ([401], "answered 401; check")]
)
def test_a_refusal_is_not_repeated(server, tmp_path, codes, said):
    aoi = area(server, tmp_path / "a.gpkg", (10, 10, 200, 200))
    server.failures[ZOOM, COLUMN, ROW] = codes * 9
    with pytest.raises(SceneError, match=said) as caught:
        run(server.url, tmp_path / "out", aoi)
    assert "\n" not in str(caught.value)
    assert server.requests[ZOOM, COLUMN, ROW] == 1


def test_there_is_no_data_where_the_server_has_no_tile(server, tmp_path):
    aoi = area(server, tmp_path / "a.gpkg", (-400, 700, 300, 1000))
    found = run(server.url, tmp_path / "out", aoi)
    with rasterio.open(found.outputs["classes"]) as raster:
        classes = raster.read(1)
        left = round((server.transform(ZOOM).c - raster.transform.c) / raster.transform.a)
    assert 395 <= left <= 405
    assert (classes[:, :left] == IGNORE).all()
    assert (classes[5:-5, left:-5] != IGNORE).all()


def test_the_zoom_follows_the_ground_and_ends_where_the_service_does(server, tmp_path, caplog):
    aoi = area(server, tmp_path / "a.gpkg", (300, 300, 900, 900))
    # A pixel of zoom 17 has 1.19 m at the equator, and 0.59 m here.
    for gsd, zoom in ((0.59, 17), (0.5, 18), (0.2, 18)):
        with caplog.at_level(logging.INFO, "geoseg"):
            summary = run(server.url, tmp_path / f"{gsd}", aoi, gsd=gsd)
        assert f"zoom level {zoom}" in caplog.text
        assert summary.gsd == pytest.approx(GSD * 2 ** (ZOOM - zoom), rel=0.02)
        caplog.clear()
    absent = {zoom for zoom, _, _ in server.requests} - {17, 18}
    assert absent == {19}, "0.2 m would be zoom 19"


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("{root}/{{z}}/{{x}}/{{y}}.png", "whole world.*--aoi"),
        ("{root}/{{z}}/{{x}}/{{q}}.png", "{{q}} is not known"),
        ("{root}/{{z}}/{{x}}.png", "tiles need"),
        ("tms.xml", r"67,108,864 × 67,108,864 px is too large.*--aoi"),
    ],
)
def test_impossible_services_are_refused_before_any_request(server, tmp_path, scene, message):
    (tmp_path / "tms.xml").write_text(descriptions(server)["tms"])
    path = scene.format(root=server.root) if "root" in scene else tmp_path / scene
    with pytest.raises(SceneError, match=message.format()):
        run(path, tmp_path / "out", None)
    assert not server.requests


def test_a_world_at_zoom_20_is_opened_at_once(server, tmp_path):
    """268 million pixels a side: nothing may have the size of the world."""
    aoi = area(server, tmp_path / "a.gpkg", (300, 300, 900, 900))
    world = tmp_path / "world.xml"
    text = descriptions(server)["tms"].replace(f"<TileLevel>{ZOOM}<", "<TileLevel>20<")
    world.write_text(text)
    service = Service.find(str(world))
    tracemalloc.start()
    begun = time.monotonic()
    with service.view(tmp_path / "view.vrt", Wanted(aoi, None, None, 128)):
        with Scene.open(tmp_path / "view.vrt", collar="off") as scene:
            assert max(scene.geobox.shape) < 4000
        taken, (_, peak) = time.monotonic() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1
    assert peak < 20e6
    assert not server.requests
    assert not (tmp_path / "view.vrt").exists()


def test_a_truncated_file_of_the_cache_is_fetched_again(server, tmp_path):
    aoi = area(server, tmp_path / "a.gpkg", (300, 300, 900, 900))
    expected = run(server.url, tmp_path / "one", aoi)
    files = [path for path in cache_folder().rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) == len(server.requests)
    for path in files[::2]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_same_outputs(run(server.url, tmp_path / "two", aoi), expected)
    assert sorted(server.requests.values())[-1] == 2


def test_the_command_line_asks_for_an_area(server, tmp_path):
    refused = CliRunner().invoke(main, ["predict", server.url, "-o", str(tmp_path / "no")])
    assert refused.exit_code == 1
    assert "--aoi" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_a_limit_is_for_services_only(server, tmp_path):
    scene = server.write_geotiff(tmp_path / "a.tif", ZOOM)
    for rate, path, said in (
        ("5", scene, f"{scene}: --requests-per-second limits tile and map services"),
        ("0", server.url, "--requests-per-second is 0.0; give 0.1 or more"),
        ("nan", server.url, "--requests-per-second is nan; give 0.1 or more"),
    ):
        words = ["predict", str(path), "--requests-per-second", rate, "-o", str(tmp_path / "no")]
        refused = CliRunner().invoke(main, words)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"Error: {said}")
        assert refused.stderr.count("\n") == 1
        assert not (tmp_path / "no").exists()
    with pytest.raises(SceneError, match="whole world"):
        geoseg.predict(server.url, out=tmp_path / "no", requests_per_second=5)
    with pytest.raises(OptionError, match=r"^requests_per_second is -1; give"):
        geoseg.predict(server.url, out=tmp_path / "no", requests_per_second=-1)
    assert not server.times


def test_rows_may_count_from_the_south(server, tmp_path):
    """The server counts from the north, so that it has no such tiles."""
    aoi = area(server, tmp_path / "a.gpkg", (300, 300, 400, 400))
    with pytest.raises(SceneError, match="nor 29 others"):
        run(server.url.replace("{y}", "{-y}"), tmp_path / "out", aoi)
    assert (ZOOM, COLUMN + 1, 2**ZOOM - 1 - (ROW + 1)) in server.requests


def test_pictures_of_another_size_are_no_tiles(server, tmp_path):
    aoi = area(server, tmp_path / "a.gpkg", (300, 300, 400, 400))
    with pytest.raises(SceneError, match=r"what the server sent for http\S+ is no tile"):
        run(f"{server.url}?@2x", tmp_path / "out", aoi)
