"""Undeclared collars: found to the pixel under a codec's noise, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window

PLACE = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 4e6)}
JPEG = {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", "tiled": True}


def ground(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A textured image (H, W, 3) with deep shadows, glare and smooth parts."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
    base = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(-15, 16, (height, width, 1), np.int16)
    return (np.asarray(base) + grain).clip(0, 255).astype(np.uint8)


def footprint(height: int, width: int, *, turn: float = 0.2) -> NDArray[np.bool_]:
    """True where a rotated flight strip has pixels."""
    shape = Image.new("1", (width, height))
    cut = turn * min(height, width)
    corners = [(cut, 0), (width, cut / 2), (width - cut, height), (0, height - cut / 2)]
    ImageDraw.Draw(shape).polygon(corners, fill=1)
    return np.asarray(shape)


def save(path: Path, image: NDArray[np.uint8], **profile: Any) -> str:
    height, width, _ = image.shape
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", **PLACE, **profile}
    with rasterio.open(path, "w", height=height, width=width, **profile) as raster:
        raster.write(np.moveaxis(image, -1, 0))
    return str(path)


def validity(path: str) -> NDArray[np.bool_]:
    scene = Scene.open(path)
    return scene.read(scene.geobox.extent).valid


def shrunk(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """True where a square of `reach` pixels to each side is; beyond the border all is True."""
    missing = np.pad(~mask, reach).astype(np.int64)
    total = np.pad(missing.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    size = 2 * reach + 1
    return (
        total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    ) == 0


def assert_found(valid: NDArray[np.bool_], inside: NDArray[np.bool_], narrow: int = 32) -> None:
    """Exact to the pixel, except for blur at the edge and in ends narrower than `narrow`."""
    wide = ~shrunk(~shrunk(~inside, narrow), narrow - 4)
    assert wide.any()
    assert not valid[wide].any(), "4 px into the collar nothing is taken for ground"
    assert valid[shrunk(inside, 2)].all(), "nor ground for collar"
    assert (valid != inside).mean() < narrow / 4 / len(inside)


@pytest.mark.parametrize(
    ("side", "quality", "value"),
    [(500, quality, value) for quality in (None, 85, 40) for value in (0, 255)] + [(900, 40, 0)],
)
def test_a_collar_is_found_to_the_pixel(tmp_path: Path, side, quality, value) -> None:
    inside = footprint(side, side + 37)
    image = ground(side, side + 37).clip(50, 205)
    image[~inside] = value
    profile = JPEG | {"JPEG_QUALITY": quality} if quality else {}
    assert_found(validity(save(tmp_path / "a.tif", image, **profile)), inside)


@pytest.mark.parametrize(("side", "overviews"), [(2300, False), (4500, True)])
def test_a_collar_of_a_large_scene(tmp_path: Path, side: int, overviews: bool) -> None:
    inside = footprint(side, 900)
    image = np.tile(ground(500, 900).clip(50), (-(-side // 500), 1, 1))[:side]
    image[~inside] = 0
    path = save(tmp_path / "a.tif", image, **JPEG)
    if overviews:
        with rasterio.open(path, "r+") as raster:
            raster.build_overviews([2, 4, 8])
    assert Scene.open(path).collars[0].cells.shape[0] <= 2048
    assert_found(validity(path), inside, narrow=64 if overviews else 32)


def test_a_collar_of_16_bits(tmp_path: Path) -> None:
    inside = footprint(400, 500)
    image = ground(400, 500).astype(np.uint16) * 40 + 100
    image[~inside] = 0
    scene = Scene.open(save(tmp_path / "a.tif", image, dtype="uint16"))
    assert_found(scene.read(scene.geobox.extent).valid, inside)
    low, high = np.percentile(image[inside], (2, 98), axis=0)
    assert scene.rescale is not None
    assert np.allclose(scene.rescale.low, low, rtol=0.1)
    assert np.allclose(scene.rescale.high, high, rtol=0.1)


def test_windows_make_no_difference(tmp_path: Path) -> None:
    inside = footprint(2500, 500)
    image = ground(2500, 500)
    image[~inside] = 0
    scene = Scene.open(save(tmp_path / "a.tif", image, **JPEG))
    assert scene.collars[0].cells.shape[0] < 2500, "the coarse picture is coarser than the scene"
    whole = scene.read(scene.geobox.extent)
    rng = np.random.default_rng(0)
    mixed = 0
    for _ in range(60):
        width, height = rng.integers(1, 300, 2).tolist()
        left, top = rng.integers(0, 500 - width), rng.integers(0, 2500 - height)
        window = Window(int(left), int(top), width, height)
        part = scene.read(window)
        mixed += part.valid.any() and not part.valid.all()
        assert (part.valid == whole.valid[window.slices]).all()
        assert (part.image == whole.image[:, *window.slices]).all()
        assert (scene.valid(window) == part.valid).all()
    assert mixed > 5


@pytest.mark.parametrize("value", [0, 255])
def test_dark_and_bright_objects_are_kept(tmp_path: Path, value: int) -> None:
    image = ground(800, 800).clip(10, 245)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 9, (200, 400, 3))
    image[:200, 100:500] = np.abs(value - noise)  # a roof, a shadow or water: dark, but textured
    image[300:360, 730:] = value  # saturated, on the border, smaller than a collar
    image[500:700, 300:600] = value  # flat and large, but inside
    image[780:, :60] = value
    assert validity(save(tmp_path / "a.tif", image))[: 800 - 20].all()
    assert validity(save(tmp_path / "b.tif", image[:780])).all()


def test_a_gutter_does_not_connect(tmp_path: Path) -> None:
    inside = footprint(600, 600)
    image = ground(600, 600).clip(10, 245)
    image[~inside] = 0
    image[200:400, 200:400] = 0  # a dark roof
    image[298:300, :300] = 0  # and a dark line from the collar to it
    valid = validity(save(tmp_path / "a.tif", image))
    assert valid[200:400, 200:400].all()
    assert not valid[:40, :40].any()


def test_declared_nodata_is_trusted(tmp_path: Path) -> None:
    image = ground(300, 300).clip(10, 245)
    image[:100] = 0
    image[-100:] = 255
    valid = validity(save(tmp_path / "a.tif", image, nodata=255))
    assert valid[:200].all()
    assert not valid[200:].any()


def test_nodata_blurred_by_jpeg_is_found_as_well(tmp_path: Path) -> None:
    inside = footprint(600, 600)
    image = ground(600, 600).clip(40, 245)
    image[~inside] = 0
    path = save(tmp_path / "a.tif", image, nodata=0, JPEG_QUALITY=50, **JPEG)
    assert_found(validity(path), inside)
    scene = Scene.open(path, collar="off")
    declared = scene.read(scene.geobox.extent).valid
    assert (declared != inside).mean() > (validity(path) != inside).mean()


def test_an_empty_scene_is_all_collar(tmp_path: Path) -> None:
    assert not validity(save(tmp_path / "a.tif", np.zeros((200, 300, 3), np.uint8))).any()


def test_off_means_off(tmp_path: Path) -> None:
    image = ground(300, 300)
    image[:100] = 0
    scene = Scene.open(save(tmp_path / "a.tif", image), collar="off")
    assert scene.read(scene.geobox.extent).valid.all()


def test_real_scenes(scenes: Path) -> None:
    """One has a black collar, one an alpha band; the other six are pictures to their borders."""
    shares = {path.name.split("_")[0]: validity(str(path)) for path in scenes.glob("*.tif")}
    collar = ~shares.pop("oamtcd")
    with rasterio.open(next(scenes.glob("oamtcd*"))) as raster:
        black = (raster.read() == 0).all(axis=0)
    assert collar[black].mean() > 0.995, "but for a crack between two strips"
    assert 0.184 < collar.mean() < 0.187
    assert collar[0, 0]
    assert not collar[-1].any()
    with rasterio.open(next(scenes.glob("pix4d*"))) as raster:
        assert (shares.pop("pix4d") == (raster.read(4) > 0)).all()
    assert len(shares) >= 4
    assert all(valid.all() for valid in shares.values())
