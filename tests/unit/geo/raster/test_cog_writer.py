"""The class raster: exact, on the scene's grid, all or nothing."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from geoseg.atomic import Staging
from geoseg.classes import IGNORE, ISAID
from geoseg.errors import OutputError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.tiling.grid import Window

UTM = CRS.from_epsg(32632)
PLACES = {
    "north-up": (Affine(0.1, 0, 5e5, 0, -0.1, 4e6), UTM),
    "south-up": (Affine(0.1, 0, 5e5, 0, 0.1, 4e6), UTM),
    "rotated": (Affine(0.1, 0.05, 5e5, 0.06, -0.1, 4e6), UTM),
    "degrees": (Affine(1e-6, 0, 5, 0, -1e-6, 45), CRS.from_epsg(4326)),
    "no CRS": (Affine(0.1, 0, 5e5, 0, -0.1, 4e6), None),
    "pixels": (Affine.identity(), None),
}


def pieces(height: int, width: int, side: int) -> list[Window]:
    return [
        Window(left, top, min(side, width - left), min(side, height - top))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", [(1, 1), (611, 1300)])
def test_pixels_are_read_back_on_the_same_grid(tmp_path: Path, place: str, shape) -> None:
    geobox = GeoBox(*shape, *PLACES[place])
    ids = np.random.default_rng(0).integers(0, 16, shape, np.uint8)
    path = tmp_path / "scene.classes.tif"
    with CogWriter.for_classes(path, geobox, ISAID) as raster:
        windows = pieces(*shape, 200)[::-1]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda window: raster.write(window, ids[window.slices]), windows))
        assert not path.exists()
    beside = tmp_path / f"{path.name}.aux.xml"
    assert set(tmp_path.iterdir()) == {path, beside, tmp_path / "scene.classes.qml"}
    names = [item.text for item in ElementTree.parse(beside).iter("Category")]
    assert names == [item.name for item in ISAID]
    with rasterio.open(path) as written:
        assert (written.read(1) == ids).all()
        assert (written.transform, written.crs) == (geobox.transform, geobox.crs)
        assert written.nodata == IGNORE
        assert written.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert bool(written.overviews(1)) == (max(shape) > 512)
        for item in ISAID:
            assert written.tags(1)[f"CLASS_{item.id}"] == item.name
            assert written.colormap(1)[item.id][:3] == item.color


def test_the_order_of_windows_leaves_no_trace(tmp_path: Path) -> None:
    geobox = GeoBox(900, 700, *PLACES["north-up"])
    ids = np.random.default_rng(1).integers(0, 3, geobox.shape, np.uint8)
    files = []
    for order in (1, -1):
        path = tmp_path / f"{order}.tif"
        with CogWriter.for_classes(path, geobox, ISAID) as raster:
            for window in pieces(*geobox.shape, 300)[::order]:
                raster.write(window, ids[window.slices])
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_unwritten_pixels_are_nodata(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with CogWriter.for_classes(path, GeoBox(600, 600, *PLACES["pixels"]), ISAID) as raster:
        raster.write(Window(5, 7, 3, 2), np.ones((2, 3), np.uint8))
    with rasterio.open(path) as written:
        ids = written.read(1)
    assert (ids[7:9, 5:8] == 1).all()
    assert (ids == IGNORE).sum() == ids.size - 6


def test_an_error_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("before")
    writer = CogWriter.for_classes(path, GeoBox(9, 9, *PLACES["pixels"]), ISAID)
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent.a\.tif cannot be written"):
        CogWriter(tmp_path / "absent" / "a.tif", GeoBox(9, 9, *PLACES["pixels"]))


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """A function that limits the size of files in bytes, so that writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 100, 3_000, 600_000, 1_000_000, 1_100_000, 1_300_000])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, small_disk: Callable[[int], None], room: int
) -> None:
    ids = np.random.default_rng(2).integers(0, 16, (1500, 1500), np.uint8)
    path = tmp_path / "a.tif"

    def write() -> None:
        geobox = GeoBox(*ids.shape, *PLACES["pixels"])
        with (
            Staging(tmp_path, "a") as staging,
            CogWriter.for_classes(staging.new / "a.tif", geobox, ISAID) as raster,
        ):
            for window in pieces(*ids.shape, 500):
                raster.write(window, ids[window.slices])

    small_disk(room)
    with pytest.raises(OutputError, match="cannot be written"):
        write()
    assert list(tmp_path.iterdir()) == []
    small_disk(20_000_000)
    write()
    with rasterio.open(path) as written:
        assert (written.read(1) == ids).all()


def test_remains_of_a_killed_run_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    (tmp_path / ".a.tif.working.tif").write_bytes(b"II*\0half a file")
    with CogWriter(path, GeoBox(9, 9, *PLACES["pixels"])):
        pass
    assert list(tmp_path.iterdir()) == [path]
