"""Scenes on a web server: only needed blocks are fetched, and failures are retried."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from PIL import Image
from ranges import send_range_headers
from rasterio.io import MemoryFile

from geoseg.errors import SceneError
from geoseg.geo.raster import source
from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window

SIDE, BLOCK = 3072, 512


class Server:
    """Serves one file by ranges over loopback and counts."""

    def __init__(self, content: bytes) -> None:
        self.sent = 0
        self.requests: list[str] = []
        self.failures = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.respond(body=False)

            def do_GET(self) -> None:
                self.respond(body=True)

            def respond(self, *, body: bool) -> None:
                server.requests.append(self.path)
                if server.failures:
                    server.failures -= 1
                    self.send_error(503)
                    return
                if not self.path.endswith("/scene.tif"):
                    self.send_error(404)
                    return
                piece = send_range_headers(self, content)
                if body:
                    server.sent += len(piece)
                    self.wfile.write(piece)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, folder: str) -> str:
        """An address of its own for each test: GDAL remembers what it fetched."""
        return f"http://127.0.0.1:{self.http.server_port}/{folder}/scene.tif"


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "scene.tif"
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(30, 226, (SIDE // 4, SIDE // 4, 3), np.uint8))
    bands = np.asarray(rough.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=3,
            height=SIDE,
            width=SIDE,
            dtype="uint8",
            crs="EPSG:32632",
            transform=Affine(0.5, 0, 5e5, 0, -0.5, 4e6),
        ) as raster:
            raster.write(bands)
        with memory.open() as raster:
            rasterio.shutil.copy(raster, path, driver="COG", compress="JPEG", blocksize=BLOCK)
    return path


@pytest.fixture
def server(cog: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(cog.read_bytes())
    yield server
    server.http.shutdown()
    server.http.server_close()


def block_bytes(path: Path, window: Window) -> int:
    """Size of the compressed blocks that `window` touches."""
    with rasterio.open(path) as raster:
        return sum(
            raster.block_size(1, row, column)
            for column in range(window.col_off // BLOCK, -(-window.col_end // BLOCK))
            for row in range(window.row_off // BLOCK, -(-window.row_end // BLOCK))
        )


def test_the_whole_scene_is_fetched_once(server: Server, cog: Path) -> None:
    scene = Scene.open(server.url("whole"))  # looks for collars, too
    step = 768  # a block is needed by several windows, and by several threads
    windows = [
        Window(x, y, min(step + 128, SIDE - x), min(step + 128, SIDE - y))
        for y in range(0, SIDE, step)
        for x in range(0, SIDE, step)
    ]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda window: scene.read(window).image, windows))
    needed = block_bytes(cog, scene.geobox.extent)
    assert needed > 1e6
    assert server.sent <= 1.2 * needed, f"{server.sent / needed:.2f} times the blocks needed"
    with rasterio.open(cog) as raster:
        whole = raster.read()
    for window, image in zip(windows, images, strict=True):
        assert (image == whole[:, *window.slices]).all()
    assert all(path.endswith("/scene.tif") for path in server.requests), "no guessing at sidecars"


def test_a_part_fetches_its_blocks(server: Server, cog: Path) -> None:
    scene = Scene.open(server.url("part"), collar="off")
    window = Window(600, 1100, 1300, 900)
    scene.read(window)
    needed = block_bytes(cog, window)
    assert server.sent <= 1.2 * needed, f"{server.sent / needed:.2f} times the blocks needed"


def test_a_busy_server_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(source._GDAL_REMOTE, "GDAL_HTTP_RETRY_DELAY", 0.05)
    server.failures = 2
    assert Scene.open(server.url("busy"), collar="off").geobox.width == SIDE


def test_a_missing_file_is_reported(server: Server) -> None:
    url = server.url("missing").replace("scene.tif", "absent.tif")
    with pytest.raises(SceneError, match=r"absent\.tif: cannot open.*404"):
        Scene.open(url)


def test_the_name_of_an_address(server: Server) -> None:
    assert Scene.open(server.url("name") + "?", collar="off").stem == "scene"
