"""Reads that fail for a while, for good, or never end."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes import Colors, write_discs
from ranges import send_range_headers
from results import assert_same_outputs

from geoseg.errors import GeosegError, MachineError, OptionError, SceneError
from geoseg.geo.raster import source as source_module
from geoseg.geo.raster.address import absolute, check_local_folder, is_remote, refers_to_server
from geoseg.geo.raster.bands import Bands
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.source import ReadError, Source
from geoseg.interrupts import GRACE, threads
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import refused_memory
from geoseg.pipeline.options import ComputeOptions, OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict

TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
TILING = {
    "tiling": TilingOptions(tile_size=128, overlap=32),
    "compute": ComputeOptions(tiles_per_block=1, workers=2),
}
SCENE_OPTIONS = SceneOptions(collar="off")


class Server:
    """Serves one file by ranges; some answers go wrong."""

    def __init__(self, content: bytes, fault: str) -> None:
        self.asked, self.spoiled = 0, 0
        self.is_spoiled: Callable[[int], bool] = lambda number: False
        """Of the number of a request, from 1."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                server.asked += 1
                spoiled = server.is_spoiled(server.asked)
                server.spoiled += spoiled
                if spoiled and fault != "truncated":
                    self.close_connection = True
                    if fault == "stalled":
                        time.sleep(60)
                    else:
                        off = struct.pack("ii", 1, 0)
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
                        self.connection.close()
                    return
                piece = send_range_headers(self, content)
                if self.command == "GET":
                    self.wfile.write(piece[: len(piece) // 2] if spoiled else piece)
                if spoiled:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/town.tif"


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., Server]]:
    servers = []
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setitem(source_module._GDAL, "GDAL_HTTP_RETRY_DELAY", 0.01)
    monkeypatch.setattr(source_module, "_PAUSES_REMOTE", (0.0, 0.01, 0.01, 0.01))

    def start(content: bytes, fault: str) -> Server:
        servers.append(Server(content, fault))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Larger than what GDAL fetches at once."""
    return write_discs(tmp_path_factory.mktemp("scene") / "town.tif", 400, 400, **TILED, seed=3)


@pytest.fixture(scope="module")
def reference(scene, tmp_path_factory):
    return run(scene, tmp_path_factory.mktemp("reference"))


def run(scene, folder, **output):
    model = TileModel(Colors(), device="cpu")
    return predict(
        scene, model, OutputOptions(Path(folder), **output), scene=SCENE_OPTIONS, **TILING
    )


@pytest.mark.parametrize("fault", ["reset", "truncated"])
def test_a_server_that_stumbles_is_asked_again(serve, scene, reference, tmp_path, fault):
    server = serve(scene.read_bytes(), fault)
    server.is_spoiled = lambda number: number in (1, 3, 4, 6)
    assert_same_outputs(reference, run(server.url, tmp_path))
    assert server.spoiled >= 2


@pytest.mark.parametrize("fault", ["reset", "truncated"])
def test_what_a_server_does_not_answer_is_no_damage(serve, scene, reference, tmp_path, fault):
    """Behind a local VRT, too: the run fails, and goes on when the server is back."""
    server = serve(scene.read_bytes(), fault)
    vrt = tmp_path / "town.vrt"
    write_mosaic([server.url], vrt)
    server.is_spoiled = lambda number: True
    for keep_going in (False, True):
        with pytest.raises(SceneError, match=r"cannot (read|open|look)"):
            run(vrt, tmp_path / "out", keep_going=keep_going)
    server.is_spoiled = lambda number: False
    found = run(vrt, tmp_path / "out")
    with (
        rasterio.open(found.outputs["classes"]) as a,
        rasterio.open(reference.outputs["classes"]) as b,
    ):
        assert np.array_equal(a.read(), b.read())


@pytest.fixture
def failing(monkeypatch) -> dict[str, int]:
    """The disk fails: `left` reads of the scene's lower right corner."""
    state, real = {"left": 0, "tries": 0}, Bands.read

    def read(self, dataset, window, *rest, **more):
        if window.col_end > 380 and window.row_end > 380:
            state["tries"] += 1
            if state["left"] > 0:
                state["left"] -= 1
                raise rasterio.errors.RasterioIOError("Input/output error")
        return real(self, dataset, window, *rest, **more)

    monkeypatch.setattr(Bands, "read", read)
    monkeypatch.setattr(source_module, "_PAUSES", (0.0, 0.01, 0.01))
    return state


def test_a_disk_that_stumbles_is_read_again(scene, reference, tmp_path, failing):
    failing["left"] = 3
    assert_same_outputs(reference, run(scene, tmp_path))
    assert failing["left"] == 0


def test_a_block_that_could_not_be_read_is_read_by_the_next_run(
    scene, reference, tmp_path, failing
):
    """Nor is what its neighbors made of it kept; what is far from it is."""
    failing["left"] = 10**9
    with pytest.raises(SceneError, match=r"cannot be read: 128×128 px at .*reads it again"):
        run(scene, tmp_path)
    kept = set(tmp_path.glob("town.unfinished/*.result.npz"))
    assert len(kept) == 12  # of 16
    failing["left"] = 0
    assert_same_outputs(reference, run(scene, tmp_path))


def test_hopeless_reads_are_not_waited_for_again_and_again(scene, failing, monkeypatch):
    monkeypatch.setattr(source_module, "_PATIENCE", 0.05)
    monkeypatch.setattr(source_module, "_PAUSES", (0.1, 0.1, 0.1))
    source, tries = Source(str(scene)), []

    def fail(dataset):
        tries.append(dataset)
        raise rasterio.errors.RasterioIOError("Input/output error")

    for _ in range(3):
        with pytest.raises(ReadError, match="cannot read: Input/output error"):
            source.read("read", fail)
    assert len(tries) == 2 + 1 + 1


@pytest.mark.parametrize(
    "name",
    [
        "/vsigs/b/k.tif", "/vsiaz/b/k.tif", "/vsiadls/b/k.tif", "/vsioss/b/k.tif",
        "/vsiswift/b/k.tif", "/vsihdfs/h/k.tif", "/vsis3/b/k.tif", "/vsicurl/http://h/k.tif",
        "/vsis3_streaming/b/k.tif", "/vsicurl?max_retry=2&url=http://h/k.tif",
        "s3://b/k.tif", "gs://b/k.tif", "az://b/k.tif", "oss://b/k.tif", "http://h/k.tif",
        "HTTPS://h/k.tif", "/vsizip//vsicurl/https://h/k.zip/k.tif", "zip+https://h/k.zip!k.tif",
        "/vsizip/{/vsis3/b/k.zip}/k.tif", "/vsizip/vsicurl/https://h/k.zip/k.tif",
        'NETCDF:"/vsicurl/http://h/k.nc":v', "WMS:https://h/wms?layers=a",
    ],
)  # fmt: skip
def test_servers_are_remote(name):
    assert is_remote(name)
    assert absolute(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "k.tif", "/data/k.tif", "file:///data/k.tif", "zip:///data/k.zip!k.tif", "s3/k.tif",
        "/vsizip//data/k.zip/k.tif", "/vsimem/k.tif", 'NETCDF:"/data/k.nc":v', "gs:k.tif",
        "/data/vsicurl.tif", "/data/http/k.tif",
    ],
)  # fmt: skip
def test_files_are_not_remote(name):
    assert not is_remote(name)


def test_a_folder_may_be_called_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_discs((tmp_path / "s3:" / "b").mkdir(parents=True) or tmp_path / "s3:/b/k.tif", 64, 64)
    assert not is_remote("s3://b/k.tif")
    assert absolute("s3://b/k.tif") == str(tmp_path / "s3:/b/k.tif")
    check_local_folder(Path("s3://b"))


def test_names_that_hold_relative_files_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k.nc").touch()
    here = str(tmp_path)
    assert absolute("k.nc") == f"{here}/k.nc"
    assert absolute('NETCDF:"k.nc":v') == f'NETCDF:"{here}/k.nc":v'
    assert absolute("/vsizip/k.zip/k.tif") == f"/vsizip/{here}/k.zip/k.tif"
    assert absolute("/vsitar/{k.tar}/k.tif") == f"/vsitar/{{{here}/k.tar}}/k.tif"
    assert absolute("zip://k.zip!k.tif") == f"zip://{here}/k.zip!k.tif"
    vrt = '<VRTDataset><SourceFilename relativeToVRT="0">k.nc</SourceFilename></VRTDataset>'
    assert absolute(vrt) == vrt.replace("k.nc", f"{here}/k.nc")


def test_a_vrt_of_a_vrt_of_a_server_is_remote(tmp_path):
    for name, inside in (("a", "b.vrt"), ("b", "/vsis3/b/k.tif"), ("c", "d.tif")):
        text = f'<SourceFilename relativeToVRT="1">{inside}</SourceFilename>'
        (tmp_path / f"{name}.vrt").write_text(f"<VRTDataset>{text}</VRTDataset>")
    assert refers_to_server([str(tmp_path / "a.vrt")])
    assert not refers_to_server([str(tmp_path / "c.vrt"), str(tmp_path / "d.tif")])


@pytest.mark.parametrize("folder", ["s3://b/out", "gs://b", "https://h/out", "/vsis3/b/out"])
def test_results_do_not_go_to_servers(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="is an address"):
        OutputOptions(Path(folder))
    assert list(tmp_path.iterdir()) == []


def test_a_mosaic_names_the_file_that_cannot_be_read(tmp_path):
    files = [
        write_discs(
            tmp_path / f"{name}.tif", 256, 256, seed=seed, nodata=None, **TILED,
            transform=rasterio.transform.from_origin(448_000 + 128 * seed, 5_412_000, 0.5, 0.5),
        )
        for seed, name in enumerate(("west", "middle", "east"))
    ]  # fmt: skip
    files[1].write_bytes(files[1].read_bytes()[: files[1].stat().st_size // 2])
    write_mosaic([str(path) for path in files], tmp_path / "mosaic.vrt")
    with pytest.raises(
        SceneError, match=r"files that cannot be read: \S+/middle\.tif \(-v"
    ) as caught:
        run(tmp_path / "mosaic.vrt", tmp_path / "out")
    assert "west" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError("Unable to allocate 3 GiB"), "memory"),
        (OSError(12, "Cannot allocate memory"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, what):
    error.add_note("finished blocks are kept")

    @refused_memory()
    def work() -> None:
        raise error

    with pytest.raises(MachineError, match=f"refuses more {what}; give a smaller") as caught:
        work()
    assert caught.value.__notes__ == ["finished blocks are kept"]
    assert isinstance(caught.value, GeosegError)
    with pytest.raises(RuntimeError, match="another"), refused_memory():
        raise RuntimeError("another")


def test_memory_that_gdal_is_refused_is_no_damage(scene, tmp_path, monkeypatch):
    def refused(self, dataset, window, *rest, **more):
        raise rasterio._err.CPLE_OutOfMemoryError(2, 2, "out of memory")

    monkeypatch.setattr(Bands, "read", refused)
    with pytest.raises(MachineError, match="refuses more memory"):
        run(scene, tmp_path, keep_going=True)


def test_an_error_does_not_wait_for_a_thread_that_hangs():
    hung, start = threading.Event(), time.monotonic()

    def work() -> None:
        with threads(1) as pool:
            pool.submit(hung.wait)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert time.monotonic() - start < GRACE + 15
    hung.set()


@pytest.mark.parametrize("moment", ["opening", "reading"])
def test_ctrl_c_ends_soon_while_a_server_stalls(serve, tmp_path, moment):
    """GDAL itself would wait for a minute."""
    scene = write_discs(tmp_path / "town.tif", 700, 700, **(TILED | {"compress": "none"}))
    server = serve(scene.read_bytes(), "stalled")
    least = 1 if moment == "opening" else 3  # after the file's size and its head
    server.is_spoiled = lambda number: number >= least
    code = "from geoseg.cli.main import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "predict", server.url, "-o", str(tmp_path / "out"),
         "--tile-size", "128", "--overlap", "32", "--collar", "off"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not server.spoiled:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, printed = process.communicate(timeout=50)
    finally:
        process.kill()
    assert process.returncode == 130
    assert printed.startswith("Interrupted\n")
    assert time.monotonic() - start < 30
