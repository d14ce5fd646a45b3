"""A scene at another GSD: positions and values are right, whatever the windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from geoseg.errors import SceneError
from geoseg.geo.raster.resampled import ResampledScene
from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """300 × 500 px of 0.25 × 0.2 m, a gradient, with nodata in one corner."""
    path = tmp_path_factory.mktemp("view") / "a.tif"
    y, x = np.mgrid[:300, :500]
    bands = np.stack([40 + x * 0.3, 40 + y * 0.4, 90 + 50 * np.sin(x / 9)]).astype(np.uint8)
    bands[:, 200:, 400:] = 0
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=300,
        width=500,
        dtype="uint8",
        crs="EPSG:25832",
        transform=Affine(0.2, 0, 5e5, 0, -0.25, 5e6),
        nodata=0,
    ) as raster:
        raster.write(bands)
    return Scene.open(str(path))


@pytest.mark.parametrize("gsd", [0.1, 0.33, 0.8])
def test_resampled_pixels_are_square_on_the_ground_and_cover_the_scene(
    scene: Scene, gsd: float
) -> None:
    view = ResampledScene.of(scene, gsd=gsd)
    assert view.geobox.pixel_size == pytest.approx((gsd, gsd), rel=2e-3)
    left, bottom, right, top = scene.geobox.bounds
    bounds = view.geobox.bounds
    assert (bounds[0], bounds[3]) == pytest.approx((left, top))
    assert right <= bounds[2] < right + gsd
    assert bottom - gsd < bounds[1] <= bottom


@pytest.mark.parametrize("gsd", [0.1, 0.33, 0.8])
def test_pixels_are_those_of_a_warp(scene: Scene, gsd: float) -> None:
    view = ResampledScene.of(scene, gsd=gsd)
    box = view.geobox
    pixels = view.read(box.extent)
    resampling = Resampling.cubic
    with (
        rasterio.open(scene.path) as raster,
        WarpedVRT(
            raster,
            crs=box.crs,
            transform=box.transform,
            height=box.height,
            width=box.width,
            resampling=resampling,
        ) as warped,
    ):
        expected = warped.read().astype(int)
        declared = warped.dataset_mask() > 0
    inner = pixels.valid & declared
    for axis in (0, 1):  # away from nodata, where the kernels' reach differs
        inner &= np.roll(inner, 4, axis) & np.roll(inner, -4, axis)
    assert inner.mean() > 0.6
    assert np.abs(pixels.image - expected)[:, inner].max() <= 3
    assert (pixels.valid != declared).mean() < 0.02


@settings(max_examples=40, deadline=None)
@given(
    gsd=st.floats(0.03, 3),
    scale=st.sampled_from([1.0, 0.7, 2.0]),
    data=st.data(),
)
def test_windows_make_no_difference(scene: Scene, gsd: float, scale: float, data) -> None:
    view = ResampledScene.of(scene, gsd=gsd, scale=scale)
    box = view.geobox
    height, width = min(box.height, 120), min(box.width, 120)
    top = data.draw(st.integers(0, box.height - height))
    left = data.draw(st.integers(0, box.width - width))
    large = Window(left, top, width, height)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    small = Window(
        left + x,
        top + y,
        data.draw(st.integers(1, width - x)),
        data.draw(st.integers(1, height - y)),
    )
    whole, part = view.read(large), view.read(small)
    where = small.relative_to(large).slices
    assert (part.image == whole.image[:, *where]).all()
    assert (part.valid == whole.valid[where]).all()


@settings(max_examples=60, deadline=None)
@given(gsd=st.floats(0.01, 5), block=st.integers(1, 400))
def test_windows_of_the_resampled_scene_partition_the_scene(
    scene: Scene, gsd: float, block: int
) -> None:
    view = ResampledScene.of(scene, gsd=gsd)
    count = np.zeros(scene.geobox.shape, int)
    box = view.geobox
    block = max(block, box.width // 20, box.height // 20)
    for top in range(0, box.height, block):
        for left in range(0, box.width, block):
            part = Window(left, top, min(block, box.width - left), min(block, box.height - top))
            owned = view.to_scene(part)
            if owned is not None:
                count[owned.slices] += 1
                x = (owned.col_off + 0.5) / view.step[0]
                assert left <= x < left + part.width
    assert (count == 1).all()


def test_equal_grids_are_not_resampled(scene: Scene) -> None:
    assert ResampledScene.of(scene).read(Window(3, 5, 20, 30)).image.tolist() == (
        scene.read(Window(3, 5, 20, 30)).image.tolist()
    )
    assert ResampledScene.of(scene).geobox == scene.geobox
    assert ResampledScene.of(scene).to_scene(Window(3, 5, 20, 30)) == Window(3, 5, 20, 30)


def test_scale_enlarges(scene: Scene) -> None:
    assert ResampledScene.of(scene, scale=2).geobox.shape == (600, 1000)


def test_an_unknown_gsd_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with rasterio.open(
        path, "w", driver="PNG", count=3, height=9, width=9, dtype="uint8"
    ) as raster:
        raster.write(np.ones((3, 9, 9), np.uint8))
    with pytest.raises(SceneError, match="leave --gsd out"):
        ResampledScene.of(Scene.open(str(path)), gsd=0.3)


@pytest.mark.parametrize("gsd", [1e-4, 1e3])
def test_absurd_factors_are_refused(scene: Scene, gsd: float) -> None:
    with pytest.raises(SceneError, match="give another --gsd"):
        ResampledScene.of(scene, gsd=gsd)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2)])
@pytest.mark.parametrize("gsd", [0.02, 0.3, 2.9])
def test_tiny_scenes(tmp_path: Path, shape: tuple[int, int], gsd: float) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=shape[0],
        width=shape[1],
        dtype="uint8",
        crs="EPSG:25832",
        transform=Affine(0.1, 0, 5e5, 0, -0.1, 5e6),
    ) as raster:
        raster.write(np.full((3, *shape), 77, np.uint8))
    view = ResampledScene.of(Scene.open(str(path)), gsd=gsd)
    pixels = view.read(view.geobox.extent)
    assert (pixels.image == 77).all()
    assert pixels.valid.all()
    assert view.to_scene(view.geobox.extent) == view.scene.geobox.extent
