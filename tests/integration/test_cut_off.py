"""Truncated files of every format are noticed by every reader."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from PIL import Image
from rasterio.shutil import copy
from rasterio.transform import from_origin

from geoseg.cli.main import main
from geoseg.datasets.images import read_image
from geoseg.errors import DataError, SceneError
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window

SIDE = 192
PIXELS = np.random.default_rng(0).integers(1, 256, (4, SIDE, SIDE), dtype=np.uint8)


def save_png(path: Path, bands: int, dtype: str = "uint8") -> None:
    planes = PIXELS[:bands].astype(dtype)
    if bands == 4:  # opaque
        planes[3] = 255
    image = planes[0] if bands == 1 else planes.transpose(1, 2, 0)
    Image.fromarray(image).save(path)


def translate(path: Path, driver: str, bands: int = 3, **options: object) -> None:
    """Convert a GeoTIFF with GDAL."""
    source = path.with_name("source.tif")
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": bands, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 0.5, 0.5)}
    with rasterio.open(source, "w", **profile, **place) as file:
        file.write(PIXELS[:bands])
    copy(source, path, driver=driver, **options)
    source.unlink()


KINDS = {
    "gray.png": lambda p: save_png(p, 1),
    "rgb.png": lambda p: save_png(p, 3),
    "rgba.png": lambda p: save_png(p, 4),
    "gray16.png": lambda p: save_png(p, 1, "uint16"),
    "palette.png": lambda p: Image.fromarray(PIXELS[:3].transpose(1, 2, 0)).quantize(9).save(p),
    "a.jpg": lambda p: translate(p, "JPEG"),
    "progressive.jpg": lambda p: translate(p, "JPEG", progressive="ON"),
    "a.webp": lambda p: translate(p, "WEBP"),
    "a.jp2": lambda p: translate(p, "JP2OpenJPEG"),
    "a.gif": lambda p: translate(p, "GIF", bands=1),
    "a.bmp": lambda p: translate(p, "BMP"),
    "a.bil": lambda p: translate(p, "EHdr"),
    "a.envi": lambda p: translate(p, "ENVI"),
    "a.pix": lambda p: translate(p, "PCIDSK", INTERLEAVING="PIXEL"),
    "a.img": lambda p: translate(p, "HFA", USE_SPILL="YES"),
    "lerc.tif": lambda p: translate(p, "GTiff", compress="lerc"),
    "webp.tif": lambda p: translate(p, "GTiff", compress="webp"),
}


def cut(path: Path, share: float = 0.6) -> None:
    """Truncate a file; of an Imagine file, the one beside it with the pixels."""
    path = beside if (beside := path.with_suffix(".ige")).exists() else path
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("share", [0.6, 0.98])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_ends_early_is_refused_by_predict_and_training(tmp_path, name, share):
    path = tmp_path / name
    KINDS[name](path)
    window = Window(0, 0, SIDE, SIDE)
    scene = Scene.open(str(path), collar="off")
    whole = scene.read(window)
    scene.close()
    assert whole.valid.all()
    shown = read_image(path)
    assert (shown.image.transpose(2, 0, 1) == whole.image).all()
    cut(path, share)
    with pytest.raises(SceneError, match=f"{name}: "):
        Scene.open(str(path), collar="off").read(window)
    with pytest.raises(DataError, match=name):
        read_image(path)


def test_sparse_files_are_complete(tmp_path):
    """Compressed ones, and a GeoTIFF of which most blocks were never written."""
    translate(tmp_path / "a.img", "HFA", COMPRESSED="YES")
    translate(tmp_path / "a.pix", "PCIDSK", INTERLEAVING="TILED", COMPRESSION="RLE")
    profile = {"driver": "GTiff", "width": 512, "height": 512, "count": 3, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "sparse_ok": True}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, **tiles) as file:
        file.write(PIXELS[:3, :128, :128], window=rasterio.windows.Window(0, 0, 128, 128))
    for path in sorted(tmp_path.glob("a.???")):
        scene = Scene.open(str(path), collar="off")
        found = scene.read(Window(0, 0, 100, 100)).image
        assert (found == PIXELS[:3, :100, :100]).all()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_rows_above_the_cut_are_kept_and_the_rest_is_not_decoded(tmp_path, kind):
    """Every attempt below would decode all rows above."""
    pixels = np.random.default_rng(1).integers(1, 256, (900, 500, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(pixels).save(path)
    cut(path, 0.5)
    start = time.monotonic()
    scene = Scene.open(str(path), skip_damage=True)
    for left in (0, 250):
        found = scene.read(Window(left, 0, 250, 900))
        rows = found.valid.all(axis=1)
        assert 360 < rows.sum() < 470
        assert (np.diff(rows.astype(int)) <= 0).all()
        assert not found.valid[~rows].any()
        assert sum(window.height for window in found.damaged) == (~rows).sum()
        if kind == "png":
            assert (
                found.image[:, rows] == pixels[rows, left : left + 250].transpose(2, 0, 1)
            ).all()
    assert time.monotonic() - start < 15


def test_predict_reports_damage_and_continues_if_asked(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, 3)
    cut(path)
    tiles = ["--tile-size", "128", "--overlap", "32", "--device", "cpu"]
    arguments = ["predict", str(path), "-o", str(tmp_path / "out"), *tiles]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "blocks of the file that cannot be read" in refused.stderr
    told = CliRunner().invoke(main, [*arguments, "--keep-going", "--json"])
    assert told.exit_code == 3
    assert json.loads(told.stdout)["damaged"]
    with rasterio.open(tmp_path / "out" / "a.classes.tif") as raster:
        ids = raster.read(1)
    assert (ids[125:] == 255).all()
    assert (ids[:100] != 255).all()


@pytest.mark.parametrize("shift", [0, 0.5])
def test_a_damaged_file_of_a_mosaic_takes_nothing_from_its_neighbors(tmp_path, shift):
    """Files that meet within the VRT's blocks of 128 px; the last one perhaps within a pixel."""
    place = {"crs": "EPSG:32633", "count": 3, "dtype": "uint8", "driver": "GTiff"}
    files = [tmp_path / f"{number}.tif" for number in range(3)]
    for number, path in enumerate(files):
        origin = from_origin(5e5 + 50 * number, 5e6, 0.5, 0.5)
        with rasterio.open(path, "w", width=100, height=100, transform=origin, **place) as file:
            file.write(np.full((3, 100, 100), 50 + number, np.uint8))
    target = tmp_path / "mosaic.vrt"
    write_mosaic([str(path) for path in files], target)
    text = target.read_text()
    assert 'xOff="200' in text
    target.write_text(text.replace('xOff="200', f'xOff="{200 + shift}'))
    cut(files[2], 0.4)
    scene = Scene.open(str(target), collar="off", skip_damage=True)
    for window in (scene.geobox.extent, Window(150, 10, 100, 80)):
        pixels = scene.read(window)
        column = np.arange(window.col_off, window.col_end)
        assert pixels.valid[:, column < 200].all()
        assert (pixels.image[:, :, column < 100] == 50).all()
        assert (pixels.image[:, :, (column >= 100) & (column < 200)] == 51).all()
        assert not pixels.valid[:, column > 200].any()
        assert pixels.damaged
        assert all(part.col_off >= 200 for part in pixels.damaged)
    scene.close()
