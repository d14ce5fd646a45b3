"""Scenes: what is read does not depend on windows, threads or processes; emptiness is exact."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.rpc import RPC

from geoseg.errors import OptionError, SceneError
from geoseg.geo.raster.scene import Pixels, Scene
from geoseg.tiling.grid import Window

PLACE = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 4e6)}

RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


def save(path: Path | str, bands: NDArray, *, colors: Any = None, **profile: Any) -> str:
    profile = {"driver": "GTiff", **PLACE, **profile}
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as raster:
        raster.write(bands)
        if colors is not None:
            raster.colorinterp = colors
    return str(path)


def picture(count: int, height: int, width: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).integers(20, 230, (count, height, width)).astype(dtype)


def everything(scene: Scene) -> Pixels:
    return scene.read(scene.geobox.extent)


# --- Bands ----------------------------------------------------------------------------------


def test_color_interpretation_decides(tmp_path: Path) -> None:
    order = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
    bands = picture(4, 30, 40)
    scene = Scene.open(save(tmp_path / "planet.tif", bands, colors=order))
    assert scene.bands.color == (3, 2, 1)
    assert (everything(scene).image == bands[[2, 1, 0]]).all()


@pytest.mark.parametrize(
    ("count", "wanted", "color"),
    [(1, None, (1, 1, 1)), (5, None, (1, 2, 3)), (5, (4, 3, 2), (4, 3, 2)), (5, (5,), (5, 5, 5))],
)
def test_bands_by_number(tmp_path: Path, count, wanted, color) -> None:
    bands = picture(count, 8, 9)
    path = save(tmp_path / "a.tif", bands, photometric="minisblack")
    scene = Scene.open(path, bands=wanted)
    assert (everything(scene).image == bands[np.array(color) - 1]).all()


@pytest.mark.parametrize("wanted", [(1, 2), (0, 1, 2), (1, 2, 9)])
def test_bands_that_are_not_there_are_refused(tmp_path: Path, wanted) -> None:
    with pytest.raises(SceneError, match="name one or three of 1 to 3"):
        Scene.open(save(tmp_path / "a.tif", picture(3, 8, 8)), bands=wanted)


def test_a_palette_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    index = np.array([[0, 1], [2, 3]], np.uint8)
    table = {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (0, 0, 255, 255), 3: (9, 8, 7, 255)}
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=2, width=2, dtype="uint8", nodata=3, **PLACE
    ) as raster:
        raster.write(index, 1)
        raster.write_colormap(1, table)
    pixels = everything(Scene.open(str(path)))
    assert pixels.valid.tolist() == [[True, True], [True, False]]
    for value, (row, column) in zip(range(3), ((0, 0), (0, 1), (1, 0)), strict=True):
        assert tuple(pixels.image[:, row, column]) == table[value][:3]


def test_near_infrared_flagged_as_alpha_is_no_mask(tmp_path: Path) -> None:
    bands = picture(4, 30, 30)
    bands[3, :5] = 0
    scene = Scene.open(save(tmp_path / "naip.tif", bands, colors=RGBA))
    assert scene.bands.validity.alpha is None
    assert everything(scene).valid.all()
    assert any("alpha" in note for note in scene.notes)


# --- Emptiness ------------------------------------------------------------------------------


def test_alpha_with_soft_edges_is_a_mask(tmp_path: Path) -> None:
    bands = picture(4, 100, 100)
    bands[3] = 255
    bands[3, :10] = 0
    bands[3, 10] = 99
    scene = Scene.open(save(tmp_path / "drone.tif", bands, colors=RGBA))
    assert (everything(scene).valid == (bands[3] > 0)).all()


@pytest.mark.parametrize("internal", [True, False])
def test_mask_bands_count(tmp_path: Path, internal: bool) -> None:
    path = tmp_path / "a.tif"
    mask = np.arange(900).reshape(30, 30) % 7 > 0
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(
            path, "w", driver="GTiff", count=3, height=30, width=30, dtype="uint8", **PLACE
        ) as raster,
    ):
        raster.write(picture(3, 30, 30))
        raster.write_mask(mask)
    assert path.with_name("a.tif.msk").exists() != internal
    assert (everything(Scene.open(str(path))).valid == mask).all()


def test_not_a_number_is_empty_and_does_not_spoil_the_stretch(tmp_path: Path) -> None:
    bands = picture(3, 40, 40, np.float32) / 1000
    bands[0, 3, 4], bands[1, 5, 6], bands[2, 7, 8] = np.nan, np.inf, -np.inf
    scene = Scene.open(save(tmp_path / "a.tif", bands))
    assert (everything(scene).valid == np.isfinite(bands).all(axis=0)).all()
    assert scene.rescale is not None
    assert 0.02 <= min(scene.rescale.low) < max(scene.rescale.high) <= 0.23


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64", "uint32"])
def test_the_stretch_is_that_of_scene_percentiles(tmp_path: Path, dtype) -> None:
    bands = (picture(3, 300, 200, np.float64) * [[[10]], [[20]], [[3]]]).astype(dtype)
    bands[:, :50] = 0
    scene = Scene.open(save(tmp_path / "a.tif", bands, nodata=0))
    low, high = np.percentile(bands[:, 50:].reshape(3, -1), (2, 98), axis=1)
    expected = np.rint((bands - low[:, None, None]) / (high - low)[:, None, None] * 255)
    pixels = everything(scene)
    off = np.abs(pixels.image.astype(int) - expected.clip(0, 255))[:, pixels.valid]
    assert off.max() <= 1
    assert (pixels.valid == (bands != 0).any(axis=0)).all()
    top = scene.read(Window(20, 60, 9, 9))
    assert (top.image == pixels.image[:, 60:69, 20:29]).all()


def test_a_given_range_is_used(tmp_path: Path) -> None:
    bands = np.full((1, 4, 4), 600, np.uint16)
    scene = Scene.open(save(tmp_path / "a.tif", bands), rescale=(100, 1100))
    assert (everything(scene).image == 128).all()


@pytest.mark.parametrize("wanted", [(5, 5), (9, 1), (0, float("nan"))])
def test_an_empty_range_is_refused(tmp_path: Path, wanted: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match="smaller one first"):
        Scene.open(save(tmp_path / "a.tif", picture(3, 4, 4)), rescale=wanted)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    count=st.integers(1, 5),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "uint32", "float32", "float64"]),
    nodata=st.sampled_from([None, 0, 255, -9999, 7.5, float("nan")]),
    coefficients=st.tuples(*[st.floats(-1e3, 1e3, allow_subnormal=False) for _ in range(6)]),
    crs=st.sampled_from([None, "EPSG:32632", "EPSG:4326", "EPSG:3857", "EPSG:2056"]),
    tiled=st.booleans(),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_any_raster(shape, count, dtype, nodata, coefficients, crs, tiled, seed, data) -> None:
    """Output grid = scene grid; empty exactly where declared; windows make no difference."""
    transform = Affine(*coefficients)
    rng = np.random.default_rng(seed)
    bands = rng.integers(0, 4, (count, *shape)).astype(dtype)
    fits = nodata is not None and (np.dtype(dtype).kind == "f" or 0 <= nodata == int(nodata or 0))
    fits = fits or (dtype == "int16" and nodata == -9999)
    profile: dict[str, Any] = {"nodata": nodata} if fits else {}
    if tiled:
        profile |= {"tiled": True, "blockxsize": 16, "blockysize": 32}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=count,
            height=shape[0],
            width=shape[1],
            dtype=dtype,
            crs=crs,
            transform=transform,
            photometric="minisblack",
            **profile,
        ) as raster:
            raster.write(bands)
        with memory.open() as raster:
            transform = raster.transform  # GDAL does not store one of zeros
        if crs is None and transform.is_identity:
            transform = Affine.scale(1, -1)  # as GIS programs show it
        if transform.is_degenerate:
            with pytest.raises(SceneError, match="no area"):
                Scene.open(memory.name)
            return
        scene = Scene.open(memory.name, collar="off")
        assert scene.geobox.shape == shape
        assert scene.geobox.transform == transform
        whole = everything(scene)
        used = bands[np.array(scene.bands.color) - 1]
        valid = np.ones(shape, bool)
        if fits and not np.isnan(nodata):
            valid = (used != np.dtype(dtype).type(nodata)).any(axis=0)
        assert (whole.valid == valid).all()
        if dtype == "uint8":
            assert (whole.image == used).all()
        left, top = (data.draw(st.integers(0, size - 1)) for size in (shape[1], shape[0]))
        window = Window(
            left,
            top,
            data.draw(st.integers(1, shape[1] - left)),
            data.draw(st.integers(1, shape[0] - top)),
        )
        part = scene.read(window)
        assert (part.image == whole.image[:, *window.slices]).all()
        assert (part.valid == whole.valid[window.slices]).all()
        assert (scene.valid(window) == part.valid).all()
        scene.close()


# --- Placement, files, faults ---------------------------------------------------------------


def test_control_points_give_a_grid(tmp_path: Path) -> None:
    points = [
        GroundControlPoint(0, 0, 500000, 4000000),
        GroundControlPoint(0, 100, 500010, 4000002),
        GroundControlPoint(80, 0, 500002, 3999992),
        GroundControlPoint(80, 100, 500012, 3999994),
    ]
    path = tmp_path / "gcp.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=100,
        height=80,
        count=3,
        dtype="uint8",
        gcps=points,
        crs="EPSG:32632",
    ) as raster:
        raster.write(picture(3, 80, 100))
    scene = Scene.open(str(path))
    assert scene.geobox.crs == CRS.from_epsg(32632)
    assert scene.geobox.gsd == pytest.approx(0.1, rel=0.05)
    pixels = everything(scene)
    x, y = ~scene.geobox.transform @ (500006, 3999997)  # the center of the picture
    assert pixels.valid[int(y), int(x)]
    assert not pixels.valid[0, 0]
    assert 0.6 < pixels.valid.mean() < 0.9


def test_rational_polynomials_alone_are_refused(tmp_path: Path) -> None:
    ones = [1.0] + [0.0] * 19
    rpcs = RPC(0, 1, 10, 0.1, ones, ones, 5, 5, 20, 0.1, ones, ones, 5, 5)
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=9, width=9, dtype="uint8", rpcs=rpcs
    ) as raster:
        raster.write(picture(1, 9, 9))
    with pytest.raises(SceneError, match="orthorectify it first"):
        Scene.open(str(path))


@pytest.mark.parametrize(
    "transform",
    [Affine(0.5, 0, 5e5, 0, 0.5, 4e6), Affine(0.4, 0.3, 5e5, 0.3, -0.4, 4e6)],
    ids=["south-up", "rotated"],
)
def test_any_affine_grid_is_kept(tmp_path: Path, transform: Affine) -> None:
    bands = picture(3, 20, 30)
    scene = Scene.open(save(tmp_path / "a.tif", bands, transform=transform))
    assert scene.geobox.transform.almost_equals(transform, 1e-9)
    assert scene.geobox.gsd == pytest.approx(0.5, rel=1e-3)
    assert (everything(scene).image == bands).all()


def test_without_georeferencing_a_note_says_so(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    bands = picture(3, 20, 30)
    with rasterio.open(
        path, "w", driver="PNG", count=3, height=20, width=30, dtype="uint8"
    ) as raster:
        raster.write(bands)
    scene = Scene.open(str(path))
    assert any("pixel coordinates" in note for note in scene.notes)
    assert scene.geobox.crs is None
    assert (everything(scene).image == bands).all()
    assert scene.stem == "photo"


def test_a_world_file_gives_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    with rasterio.open(
        path, "w", driver="PNG", count=3, height=20, width=30, dtype="uint8"
    ) as raster:
        raster.write(picture(3, 20, 30))
    path.with_suffix(".pgw").write_text("0.5\n0\n0\n-0.5\n1000.25\n1999.75\n")
    assert Scene.open(str(path)).geobox.transform == Affine(0.5, 0, 1000, 0, -0.5, 2000)


@pytest.mark.parametrize("driver", ["JP2OpenJPEG", "COG", "GTiff"])
def test_formats(tmp_path: Path, driver: str) -> None:
    bands = picture(3, 70, 90)
    options = {"JP2OpenJPEG": {"QUALITY": "100", "REVERSIBLE": "YES"}}.get(driver, {})
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=3, height=70, width=90, dtype="uint8", **PLACE
        ) as raster:
            raster.write(bands)
        path = tmp_path / "a.bin"
        with memory.open() as raster:
            rasterio.shutil.copy(raster, path, driver=driver, **options)
    scene = Scene.open(str(path))
    assert (everything(scene).image == bands).all()
    assert scene.geobox.transform.almost_equals(PLACE["transform"], 1e-6)


def test_threads_and_processes_read_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", picture(3, 600, 600), tiled=True, compress="deflate")
    scene = Scene.open(path)
    whole = everything(scene).image
    windows = [Window(x, y, 150, 150) for x in range(0, 450, 90) for y in range(0, 450, 90)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda window: scene.read(window).image, windows * 3))
    for window, part in zip(windows * 3, parts, strict=True):
        assert (part == whole[:, *window.slices]).all()
    copy = pickle.loads(pickle.dumps(scene))
    assert (everything(copy).image == whole).all()
    assert copy.geobox == scene.geobox
    scene.close()
    assert (everything(scene).image == whole).all(), "a closed scene opens again"


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"absent\.tif: cannot open"):
        Scene.open(str(tmp_path / "absent.tif"))


def test_a_text_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("not a raster")
    with pytest.raises(SceneError, match=r"cannot open.*not recognized"):
        Scene.open(str(path))


@pytest.mark.parametrize("compress", ["jpeg", "deflate", "lzw", "zstd"])
def test_a_damaged_block_is_named(tmp_path: Path, compress: str) -> None:
    path = Path(
        save(
            tmp_path / "a.tif",
            picture(3, 256, 256),
            tiled=True,
            blockxsize=128,
            blockysize=128,
            compress=compress,
            photometric="ycbcr" if compress == "jpeg" else "rgb",
            interleave="pixel",
        )
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    scene = Scene.open(str(path), collar="off")
    assert scene.read(Window(0, 0, 128, 128)).valid.all()
    with pytest.raises(SceneError, match=r"a\.tif: cannot read Window\(col_off=128, row_off=128"):
        scene.read(Window(128, 128, 128, 128))


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="complex"):
        Scene.open(save(tmp_path / "sar.tif", np.ones((1, 4, 4), np.complex64)))


def test_a_huge_sparse_file_is_opened_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=1_000_000,
        width=1_000_000,
        dtype="uint8",
        tiled=True,
        blockxsize=1024,
        blockysize=1024,
        SPARSE_OK=True,
        BIGTIFF="YES",
        compress="deflate",
        **PLACE,
    ):
        pass
    scene = Scene.open(str(path))
    assert scene.geobox.shape == (1_000_000, 1_000_000)
    assert any("too large to look for collars" in note for note in scene.notes)
    assert scene.read(Window(999_000, 999_000, 1000, 1000)).image.max() == 0


def test_blocks_too_large_to_decode_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    side = 65_536
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=side,
        width=side,
        dtype="uint8",
        tiled=True,
        blockxsize=side,
        blockysize=side,
        SPARSE_OK=True,
        compress="deflate",
        **PLACE,
    ):
        pass
    with pytest.raises(SceneError, match="blocks of 65536 × 65536 px"):
        Scene.open(str(path))


@pytest.mark.parametrize("fault", ["missing", "broken", "cut"])
def test_lost_pixels_of_a_vrt_are_never_invented(tmp_path: Path, fault: str) -> None:
    """GDAL forgets errors of a VRT's sources: on several threads, and after the first one."""
    side = 400
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    sources = ""
    for number in range(3):
        save(tmp_path / f"{number}.tif", np.ones((1, side, side), np.uint8), **tiles)
        sources += (
            f'<SimpleSource><SourceFilename relativeToVRT="1">{number}.tif</SourceFilename>'
            f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>'
            f'<DstRect xOff="{number * side}" yOff="0" xSize="{side}" ySize="{side}"/>'
            "</SimpleSource>"
        )
    path, bad = tmp_path / "a.vrt", tmp_path / "1.tif"
    path.write_text(
        f'<VRTDataset rasterXSize="{3 * side}" rasterYSize="{side}">'
        f'<VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>'
    )
    content = bad.read_bytes()
    bad.unlink()
    if fault != "missing":
        bad.write_bytes(b"nonsense" if fault == "broken" else content[: len(content) // 2])
    scene = Scene.open(str(path), collar="off", skip_damage=True)
    windows = [Window(left, 0, side, side) for left in range(0, 2 * side + 1, side // 4)]
    with ThreadPoolExecutor(3) as pool:
        for window, pixels in zip(windows, pool.map(scene.read, windows), strict=True):
            assert (pixels.image[:, pixels.valid] == 1).all()
            columns = np.arange(window.col_off, window.col_end)
            sound = (columns < side) | (columns >= 2 * side)  # which no blocks of a VRT end at
            assert pixels.valid[:, sound].all()
            assert pixels.damaged or not (columns[-1] > side and columns[0] < 2 * side)
    scene.close()
