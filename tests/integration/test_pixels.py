"""Pixels mean what their file declares: emptiness and brightness."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from fakes import Colors
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from geoseg.errors import SceneError
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.layers.object_scores import read_objects
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.predict import predict
from geoseg.pipeline.vectorize import vectorize

TRANSFORM = Affine(0.3, 0, 5e5, 0, -0.3, 4e6)
RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
EDGE = np.ones((40, 60), bool)
EDGE[:, :25] = False
HOLE = np.ones((40, 60), bool)
HOLE[10:20, 30:50] = False


def picture(count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(20, 230, (count, 40, 60), np.uint8)


def write(
    path: Path,
    bands: NDArray,
    *,
    mask: NDArray[np.bool_] | None = None,
    internal: bool = True,
    colors: Any = None,
    gcps: bool = False,
    transform: Affine = TRANSFORM,
    **profile: Any,
) -> Path:
    count, height, width = bands.shape
    place: dict[str, Any] = {} if gcps else {"transform": transform, "crs": "EPSG:32632"}
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(path, "w", driver="GTiff", **shape, **place, **profile) as raster,
    ):
        raster.write(bands)
        if colors:
            raster.colorinterp = colors
        if mask is not None:
            raster.write_mask(mask)
        if gcps:
            corners = [(row, col) for row in (0, height) for col in (0, width)]
            points = [GroundControlPoint(r, c, *(transform @ (c, r))) for r, c in corners]
            raster.gcps = (points, rasterio.CRS.from_epsg(32632))
    return path


def with_nodata(path: Path, dtype: str, nodata: tuple[Any, ...]) -> str:
    """A VRT over `path` that declares values which TIFF writers would not."""
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{number}"><NoDataValue>{value}</NoDataValue>'
        f'<SimpleSource><SourceFilename relativeToVRT="0">{path}</SourceFilename>'
        f"<SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
        for number, value in enumerate(nodata, start=1)
    )
    size = 'rasterXSize="60" rasterYSize="40"'
    place = "<GeoTransform>5e5,0.3,0,4e6,0,-0.3</GeoTransform>"
    return f"<VRTDataset {size}>{place}{bands}</VRTDataset>"


def read(path: Path | str, **options: Any) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    scene = Scene.open(str(path), collar="off", **options)
    pixels = scene.read(scene.geobox.extent)
    assert (scene.valid(scene.geobox.extent) == pixels.valid).all()
    scene.close()
    return pixels.image, pixels.valid


TINY = 2.0**-149
NODATA = [
    ("uint8", "Byte", [0, 1, 254, 255], (0, 255, -1, 256, 0.5, 255.4, "nan")),
    ("int8", "Int8", [-128, -1, 0, 127], (-128, -129, 127)),
    ("int16", "Int16", [-32768, -2, -1, 0], (-32768, -1.5, -32769, -1)),
    ("uint16", "UInt16", [0, 1, 2, 65535], (65535, 65536, 1.7)),
    ("int32", "Int32", [-(2**31), 0, 7, 2**31 - 1], (-(2**31), 2**31)),
    ("uint32", "UInt32", [0, 7, 2**31, 2**32 - 1], (2**32 - 1, 2**31)),
    ("int64", "Int64", [2**53, 2**53 + 1, -(2**63), 0], (2**53 + 1, -(2**63), 2**53)),
    ("uint64", "UInt64", [2**64 - 1, 2**64 - 2, 2**53 + 1, 0], (2**64 - 1, 2**53 + 1)),
    ("float32", "Float32", [0.1, 0.2, -9999, 0], (0.1, -9999, 1e300, 0)),
    ("float32", "Float32", [-3.4028235e38, -3.4028230607e38, 1, TINY], (-3.40282346638529e38,)),
    ("float64", "Float64", [0.1, 1e20, -1.7976931348623157e308, 0], (0.1, 1e20)),
]


@pytest.mark.parametrize(
    ("dtype", "name", "values", "nodata"),
    [(d, n, v, each) for d, n, v, several in NODATA for each in several],
)
def test_nodata_is_compared_as_gdal_does(tmp_path, dtype, name, values, nodata):
    stored = np.random.default_rng(0).choice(np.array(values, dtype), (3, 40, 60))
    stored[:, :5] = stored[0, :5]  # where all bands agree
    for bands in (stored[:1], stored):
        path = write(tmp_path / f"{len(bands)}.tif", bands)
        text = with_nodata(path, name, (nodata,) * len(bands))
        with rasterio.open(text) as raster:
            expected = raster.dataset_mask() > 0
        assert (read(text)[1] == expected).all()


def test_each_band_has_its_own_nodata_value(tmp_path):
    bands = picture().astype(np.float32)
    bands[:, 5:9], bands[:2, 20:30] = [[[-1]], [[-2]], [[-3]]], [[[-1]], [[-2]]]
    text = with_nodata(write(tmp_path / "a.tif", bands), "Float32", (-1, -2, -3))
    valid = read(text)[1]
    assert not valid[5:9].any()
    assert valid.sum() == 36 * 60  # two of three are not enough


def test_bands_of_several_dtypes_are_read(tmp_path):
    bands = picture().astype(np.float32)
    bands[:, ~HOLE] = np.float32(0.1)
    path = write(tmp_path / "a.tif", bands)
    text = with_nodata(path, "Float32", (0.1,) * 3).replace("Float32", "Float64", 1)
    valid = read(text)[1]
    assert (valid == HOLE).all()


def test_not_a_number_is_no_data_whether_declared_or_not(tmp_path):
    bands = picture().astype(np.float32)
    bands[:, ~HOLE] = np.nan
    bands[0, 0, 0] = np.inf
    expected = HOLE.copy()
    expected[0, 0] = False
    for nodata in (None, np.nan, -9999):
        assert (read(write(tmp_path / "a.tif", bands, nodata=nodata))[1] == expected).all()


def test_scale_and_offset_leave_pixels_as_they_are(tmp_path):
    bands = picture()
    path = write(tmp_path / "a.tif", bands, nodata=20)
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = (0.5,) * 3, (3.0,) * 3
    image, valid = read(path)
    assert (image == bands).all()
    assert (valid == (bands != 20).any(axis=0)).all()


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_pixels_are_refused(tmp_path, dtype):
    path = tmp_path / "a.tif"
    shape = {"count": 1, "height": 40, "width": 60, "dtype": dtype, "transform": TRANSFORM}
    with rasterio.open(path, "w", driver="GTiff", **shape) as raster:
        raster.write(picture(1).astype(np.complex64))
    for attempt in (Scene.open, ClassRaster.open):
        with pytest.raises(SceneError, match=f"holds complex numbers .{dtype}.; convert it"):
            attempt(str(path))
    with pytest.raises(SceneError, match="complex"):
        write_mosaic([str(path), str(path)], tmp_path / "a.vrt")


@pytest.mark.parametrize(
    ("dtype", "filling"),
    [("float32", -9999), ("int16", -32768), ("uint16", 65535), ("float64", 1e20)],
)
def test_an_undeclared_fill_value_does_not_spoil_the_stretch(tmp_path, dtype, filling):
    bands = picture().astype(dtype)
    bands[:, ~HOLE] = filling
    path = write(tmp_path / "a.tif", bands)
    scene = Scene.open(str(path), collar="off")
    assert any(f"many pixels hold {filling:g}, far from all others" in note for note in scene.notes)
    pixels = scene.read(scene.geobox.extent)
    assert pixels.valid.all()  # as GDAL has it
    declared, _ = read(write(tmp_path / "b.tif", bands, nodata=filling))
    assert (pixels.image == declared)[:, HOLE].all()


def test_a_few_bright_pixels_are_no_fill_value(tmp_path):
    bands = picture().astype(np.uint16)
    bands[:, 0, :3] = 60_000
    assert not any(
        "far from" in note for note in Scene.open(str(write(tmp_path / "a.tif", bands))).notes
    )


MASKS: dict[str, tuple[dict[str, Any], bool]] = {
    "internal": ({"mask": EDGE}, False),
    "msk": ({"mask": EDGE, "internal": False}, False),
    "alpha": ({}, True),
    "alpha and internal": ({"mask": HOLE}, True),
    "nodata": ({"nodata": 0}, False),
    "nodata and internal": ({"nodata": 0, "mask": HOLE}, False),
}


def masked_file(path: Path, kind: str, bands: NDArray) -> tuple[Path, NDArray[np.bool_]]:
    options, has_alpha = MASKS[kind]
    mask = options.get("mask", EDGE)
    valid = EDGE & mask
    if "nodata" in kind:
        bands = np.where(EDGE, bands, 0).astype(bands.dtype)
    if has_alpha:
        bands = np.concatenate([bands, np.where(EDGE, 255, 0).astype(bands.dtype)[None]])
        options = options | {"alpha": "YES"}
        if len(bands) == 4:
            options |= {"photometric": "rgb"}
    return write(path, bands, **options), valid


@pytest.mark.parametrize("kind", MASKS)
def test_scenes_and_class_rasters_are_empty_alike(tmp_path, kind):
    bands = picture()
    path, valid = masked_file(tmp_path / "scene.tif", kind, bands)
    image, found = read(path)
    assert (found == valid).all()
    assert (image[:, valid] == bands[:, valid]).all()

    ids = np.ones((1, 40, 60), np.uint8)
    ids[:, 22:35, 40:55] = 2
    for dtype in ("uint8", "uint16", "int16", "float32"):
        path, _ = masked_file(tmp_path / f"{dtype}.tif", kind, ids.astype(dtype))
        raster = ClassRaster.open(path)
        codes = raster.read(raster.geobox.extent)
        assert (raster.values[codes[valid]] == ids[0][valid]).all(), dtype
        assert (codes[~valid] == 255).all() or set(codes[~valid]) <= {*raster.skip, 255}, dtype
        if dtype not in ("uint8", "float32"):  # codes of one and of several bytes
            continue
        vectorize(path, tmp_path / "o.gpkg", simplify=0, min_area=0, overwrite=True)
        layers = read_layers(tmp_path / "o.gpkg")
        areas = layers.area.groupby(layers["class_id"]).sum() / 0.3**2  # on the map, so in pixels
        assert areas.to_dict() == pytest.approx({i: (ids[0][valid] == i).sum() for i in (1, 2)})

    path, _ = masked_file(tmp_path / "named.tif", kind, ids)
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(1, CLASS_1="one", CLASS_2="two")
    names, _, shapes, class_ids = read_objects(path)
    assert names == {1: "one", 2: "two"}
    assert sum(shape.area for shape in shapes) == valid.sum()
    assert {*class_ids} == {1, 2}


def test_a_second_band_that_is_no_alpha_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", picture(2), photometric="minisblack", alpha="NO")
    with pytest.raises(SceneError, match="2 bands; give a raster of one band"):
        ClassRaster.open(path)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint32", (4_000_000_000, 4_294_967_295)),
        ("int64", (2**53 + 1, -(2**40))),
        ("uint64", (2**53 + 1, 2**63 - 1)),
        ("float64", (2**40 + 1, 7)),
    ],
)
def test_class_values_keep_all_their_digits(tmp_path, dtype, values):
    stored = np.where(HOLE, *values).astype(object).astype(dtype)
    path = write(tmp_path / "a.tif", stored[None])
    vectorize(path, tmp_path / "a.gpkg", simplify=0)
    assert {*read_layers(tmp_path / "a.gpkg")["class_id"]} == {*values}
    with sqlite3.connect(tmp_path / "a.gpkg") as file:
        for value in values:
            (found,) = file.execute(f'SELECT class_id FROM "class_{value}"').fetchone()
            assert found == value


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("uint64", 2**63, "the value 9223372036854775808 needs more than 63 bits"),
        ("float32", 1e30, "needs more than 63 bits"),
        ("float32", 0.5, r"holds 0\.5, but classes are whole numbers; round it first"),
    ],
)
def test_values_beyond_signed_64_bits_are_refused(tmp_path, dtype, value, message):
    path = write(tmp_path / "a.tif", np.where(HOLE, 1, value).astype(dtype)[None])
    with pytest.raises(SceneError, match=message):
        vectorize(path, tmp_path / "a.gpkg")
    assert not (tmp_path / "a.gpkg").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("gcps", [False, True])
def test_zero_is_white_if_declared(tmp_path, gcps, dtype):
    gray = np.tile(np.arange(10, 130, 2, dtype=np.uint8), (1, 40, 1))
    stored = np.iinfo(dtype).max - gray.astype(dtype) * dtype(1 if dtype == np.uint8 else 200)
    image, valid = read(write(tmp_path / "a.tif", stored, gcps=gcps, photometric="MINISWHITE"))
    assert valid.mean() > 0.9
    assert (np.diff(image[0, 20, 2:-2].astype(int)) > 0).all()  # brighter to the right
    if dtype == np.uint8 and not gcps:
        assert (image == gray).all()


def test_a_range_is_of_stored_values_even_where_zero_is_white(tmp_path):
    gray = np.tile(np.arange(60, dtype=np.uint8) * 4, (1, 40, 1))
    for dtype in (np.uint8, np.uint16):
        stored = (np.iinfo(dtype).max - gray.astype(dtype)).astype(dtype)
        path = write(tmp_path / "a.tif", stored, photometric="MINISWHITE")
        low, high = sorted(map(float, stored[0, 0, [10, 50]]))
        image, _ = read(path, rescale=(low, high))
        expected = ((gray.astype(float) - 40) / 160 * 255).round().clip(0, 255)
        assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 5])
def test_few_bits_span_all_brightness(tmp_path, bits):
    top = 2**bits - 1
    samples = np.random.default_rng(0).integers(0, top + 1, (3, 40, 60), np.uint8)
    image, valid = read(write(tmp_path / "a.tif", samples, nbits=bits))
    assert (image == np.rint(samples * (255 / top))).all()
    assert valid.all()


@pytest.mark.parametrize("wanted", [None, (1,)])
def test_palettes_are_applied(tmp_path, wanted):
    path = tmp_path / "a.tif"
    index = np.random.default_rng(0).integers(0, 4, (1, 40, 60), np.uint8)
    colors = {0: (1, 2, 3, 255), 1: (250, 0, 9, 255), 2: (0, 200, 0, 255), 3: (9, 9, 9, 255)}
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=40, width=60, dtype="uint8", nodata=3
    ) as raster:
        raster.write(index)
        raster.write_colormap(1, colors)
    image, valid = read(path, bands=wanted)
    assert (valid == (index[0] != 3)).all()
    table = np.array([colors[i][:3] for i in range(4)])
    assert (image == np.moveaxis(table[index[0]], -1, 0))[:, valid].all()


def halves(folder: Path, bands: NDArray, **options: Any) -> list[str]:
    left = write(folder / "left.tif", bands[:, :, :40], **options)
    place = TRANSFORM @ Affine.translation(30, 0)
    return [
        str(left),
        str(write(folder / "right.tif", bands[:, :, 30:], transform=place, **options)),
    ]


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("int64", {}),
        ("uint64", {}),
        ("int64", {"nodata": -9999}),
        ("int8", {}),
        ("uint8", {"photometric": "MINISWHITE"}),
        ("uint16", {"photometric": "MINISWHITE"}),
        ("uint8", {"nbits": 4}),
    ],
)
def test_a_mosaic_equals_the_file_that_was_cut(tmp_path, dtype, options):
    bands = (picture(1) // 16).astype(dtype)
    if "nodata" in options:
        bands[:, ~HOLE] = -9999
    whole = read(write(tmp_path / "whole.tif", bands, **options), rescale=(0, 15))
    write_mosaic(halves(tmp_path, bands, **options), tmp_path / "mosaic.vrt")
    parts = read(tmp_path / "mosaic.vrt", rescale=(0, 15))
    assert (parts[1] == whole[1]).all()
    assert (parts[0] == whole[0])[:, whole[1]].all()


def test_a_mosaic_heeds_masks_beside_nodata_values(tmp_path):
    bands = picture()
    bands[:, :, 55:] = 0
    left, right = halves(tmp_path, bands, nodata=0)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(left, "r+") as raster:
        raster.write_mask(EDGE[:, :40])
    write_mosaic([left, right], tmp_path / "mosaic.vrt")
    expected = EDGE.copy()
    expected[:, 55:] = False
    assert (read(tmp_path / "mosaic.vrt")[1] == expected).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nbits": 4}, "bits a sample 8, but .* has 4"),
        ({"photometric": "MINISWHITE"}, "bands .*, but .* has"),
        ({"nodata": 0, "alpha": "YES"}, "both an alpha band and the nodata value 0"),
    ],
)
def test_files_with_different_encodings_are_refused(tmp_path, options, message):
    bands = picture(2 if "alpha" in options else 1) // 16
    if "alpha" in options:
        bands[1] = 255
    first = str(write(tmp_path / "first.tif", bands, **options))
    second = str(write(tmp_path / "second.tif", picture(1)))
    with pytest.raises(SceneError, match=message):
        write_mosaic([first, second], tmp_path / "mosaic.vrt")
    assert not (tmp_path / "mosaic.vrt").exists()


@pytest.mark.parametrize("kind", ["alpha band 4", "mask", "nodata value 0", "not-a-number pixels"])
def test_a_scene_without_a_pixel_is_an_error(tmp_path, kind):
    path, bands, nothing = tmp_path / "scene.tif", picture(), np.zeros((40, 60), np.uint8)
    if kind.startswith("alpha"):
        write(path, np.concatenate([bands, nothing[None]]), colors=RGBA)
    elif kind == "mask":
        write(path, bands, mask=nothing.astype(bool))
    elif kind.startswith("nodata"):
        write(path, 0 * bands, nodata=0)
    else:
        write(path, np.full((3, 40, 60), np.nan, np.float32))
    with pytest.raises(SceneError, match=f"nothing to predict, .* declared empty by its {kind};"):
        predict(path, TileModel(Colors(), device="cpu"), OutputOptions(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["scene.tif"]
