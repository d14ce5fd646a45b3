"""A mosaic equals the file that its parts were cut from."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from geoseg.errors import OutputError, SceneError
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window

TRANSFORM = Affine(0.3, 0, 5e5, 0, -0.3, 4e6)
RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


def picture(count: int = 3, height: int = 200, width: int = 300) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(20, 230, (count, height, width), np.uint8)


def cut(
    folder: Path,
    bands: NDArray,
    windows: list[Window],
    *,
    transform: Affine = TRANSFORM,
    colors: Any = None,
    **profile: Any,
) -> list[str]:
    paths = []
    for number, window in enumerate(windows):
        path = folder / f"{number}.tif"
        piece = bands[:, *window.slices]
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=len(bands),
            height=window.height,
            width=window.width,
            dtype=bands.dtype,
            transform=transform @ Affine.translation(window.col_off, window.row_off),
            **{"crs": "EPSG:32632", **profile},
        ) as raster:
            raster.write(piece)
            if colors:
                raster.colorinterp = colors
        paths.append(str(path))
    return paths


QUARTERS = [
    Window(150, 0, 150, 110),
    Window(0, 0, 160, 110),
    Window(0, 100, 160, 100),
    Window(140, 100, 160, 100),
]


def opened(paths: list[str], tmp_path: Path) -> Scene:
    target = tmp_path / "town.vrt"
    write_mosaic(paths, target)
    assert [item for item in tmp_path.iterdir() if "town" in item.name] == [target]
    return Scene.open(str(target), collar="off")


@pytest.mark.parametrize("turn", [0, 20])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_mosaic_equals_the_file_that_was_cut(tmp_path: Path, turn: int, dtype: Any) -> None:
    bands = picture().astype(dtype)
    transform = TRANSFORM @ Affine.rotation(turn)
    scene = opened(cut(tmp_path, bands, QUARTERS, transform=transform), tmp_path)
    assert scene.geobox.shape == (200, 300)
    assert scene.geobox.transform.almost_equals(transform, 1e-6)
    pixels = scene.read(scene.geobox.extent)
    assert pixels.valid.all()
    if dtype == np.uint8:
        assert (pixels.image == bands).all()
    assert scene.stem == "town"


def test_gaps_are_empty(tmp_path: Path) -> None:
    bands = picture()
    bands[:, :50, 150:] = 0  # black pixels in a file are pixels
    scene = opened(cut(tmp_path, bands, [QUARTERS[0], QUARTERS[2]]), tmp_path)
    pixels = scene.read(scene.geobox.extent)
    expected = np.zeros((200, 300), bool)
    for window in (QUARTERS[0], QUARTERS[2]):
        expected[window.slices] = True
    assert (pixels.valid == expected).all()
    assert (pixels.image == bands)[:, expected].all()


def test_empty_pixels_do_not_cover_their_neighbors(tmp_path: Path) -> None:
    for kind in ("nodata", "alpha"):
        folder = tmp_path / kind
        folder.mkdir()
        left, right = Window(0, 0, 200, 200), Window(100, 0, 200, 200)
        bands = picture(4)
        bands[3] = 255
        paths = cut(
            folder,
            bands if kind == "alpha" else bands[:3],
            [left, right],
            colors=RGBA if kind == "alpha" else None,
            **({"nodata": 0} if kind == "nodata" else {}),
        )
        with rasterio.open(paths[1], "r+") as raster:  # the upper one is empty where they overlap
            blank = raster.read()
            blank[:, :, :60] = 0
            raster.write(blank)
        scene = opened(paths, folder)
        pixels = scene.read(scene.geobox.extent)
        assert pixels.valid.all(), kind
        assert (pixels.image == bands[:3]).all(), kind


def test_near_infrared_flagged_as_alpha_stays_a_band(tmp_path: Path) -> None:
    bands = picture(4)
    bands[3, ::3] = 0
    scene = opened(cut(tmp_path, bands, QUARTERS, colors=RGBA), tmp_path)
    assert scene.read(scene.geobox.extent).valid.all()
    infrared = Scene.open(scene.path, bands=(4, 1, 2), collar="off")
    assert (infrared.read(scene.geobox.extent).image == bands[[3, 0, 1]]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": "EPSG:32633"}, r"b.0\.tif: CRS EPSG:32633, but .*a.0\.tif has EPSG:32632"),
        ({"transform": TRANSFORM @ Affine.scale(2)}, "warp the files to one grid"),
        ({"nodata": 0}, "nodata value 0.0, but .* has None"),
        ({"dtype": "uint16", "photometric": "rgb"}, "dtype uint16, but"),
        ({"count": 1}, "bands .*gray.*, but .*red"),
    ],
)
def test_incompatible_files_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    bands = picture(change.pop("count", 3)).astype(change.pop("dtype", "uint8"))
    paths = cut(folders[0], picture(), QUARTERS[:1]) + cut(
        folders[1], bands, QUARTERS[1:2], **change
    )
    with pytest.raises(SceneError, match=message):
        write_mosaic(paths, tmp_path / "a.vrt")
    assert not (tmp_path / "a.vrt").exists()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    paths = cut(tmp_path, picture(), QUARTERS)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file cannot be written"):
        write_mosaic(paths, tmp_path / "file" / "a.vrt")


def test_another_file_of_that_name_is_kept(tmp_path: Path) -> None:
    paths, target = cut(tmp_path, picture(), QUARTERS), tmp_path / "new" / "a.vrt"
    for _ in range(2):  # its own earlier work is no obstacle
        write_mosaic(paths, target)
    with pytest.raises(OutputError, match="--overwrite"):
        write_mosaic(paths[:1], target)
    write_mosaic(paths[:1], target, overwrite=True)


def test_files_in_an_archive(tmp_path: Path) -> None:
    bands = picture()
    paths = cut(tmp_path, bands, QUARTERS)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in paths:
            archive.write(path, Path(path).name)
            Path(path).unlink()
    names = [f"zip://{tmp_path}/a.zip!{Path(path).name}" for path in paths]
    write_mosaic(names, tmp_path / "mosaic.vrt")
    scene = Scene.open(str(tmp_path / "mosaic.vrt"))
    assert (scene.read(scene.geobox.extent).image == bands).all()
