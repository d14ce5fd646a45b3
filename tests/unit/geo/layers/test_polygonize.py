"""Polygons of arrays in memory: those of `vectorize`, of any integers, in any blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.features
from affine import Affine
from geopandas import GeoDataFrame
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, integer_dtypes, unsigned_integer_dtypes
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.classes import LabelClass
from geoseg.errors import DataError, OptionError
from geoseg.geo.layers.edited import FIELDS
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.layers.polygonize import polygonize
from geoseg.geo.vector import blocks
from geoseg.pipeline.vectorize import vectorize

UTM = Affine(0.3, 0, 4e5, 0, -0.3, 5.5e6)
EXACT = {"simplify": 0, "min_area": 0, "skip": (), "nodata": None}


def noisy_map(values: list[int], dtype: str = "uint8") -> NDArray:
    """Squares of 5 × 5 pixels with specks on them."""
    rng = np.random.default_rng(0)
    ids = np.kron(rng.choice(values, (12, 16)), np.ones((5, 5), int))
    is_speck = rng.random(ids.shape) < 0.02
    ids[is_speck] = rng.choice(values, is_speck.sum())
    return ids.astype(dtype)


def vectorized(folder: Path, ids: NDArray, crs: str | None, **how: object) -> GeoDataFrame:
    height, width = ids.shape
    profile = {"height": height, "width": width, "count": 1, "dtype": ids.dtype, "crs": crs}
    path = folder / "map.tif"
    with rasterio.open(path, "w", driver="GTiff", transform=UTM, **profile) as raster:
        raster.write(ids, 1)
    vectorize(path, folder / "map.gpkg", **how)
    return read_layers(folder / "map.gpkg")


@pytest.mark.parametrize("crs", ["EPSG:32633", None])
@pytest.mark.parametrize(
    ("values", "dtype", "how"),
    [
        ([0, 8, 9, 14], "uint8", {}),
        ([0, 8, 9, 14], "uint8", {"smooth": False, "simplify": 0.6, "min_area": 2.0}),
        ([0, 1, 2], "uint8", {"skip": (1, 2)}),
        ([-7, 0, 100_000], "int32", {"skip": ()}),
    ],
)
def test_the_result_is_that_of_vectorize(tmp_path, crs, values, dtype, how):
    ids = noisy_map(values, dtype)
    found = polygonize(ids, UTM, crs, **how)
    assert len(found) > 10
    assert_geodataframe_equal(found, vectorized(tmp_path, ids, crs, **how), check_dtype=False)


@st.composite
def class_arrays(draw: st.DrawFn) -> NDArray:
    """Arrays of any integers that 64 bits with a sign can hold."""
    dtype = draw(integer_dtypes() | unsigned_integer_dtypes())
    limits = np.iinfo(dtype)
    values = st.integers(0, 3) | st.integers(limits.min, min(limits.max, 2**63 - 1))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return draw(arrays(dtype, shape, elements=values))


@settings(max_examples=60, deadline=None)
@given(class_arrays(), st.integers(2, 9))
def test_polygons_cover_the_pixels_of_their_class(ids, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        frame = polygonize(ids, Affine.identity(), **EXACT)
    burnt = rasterio.features.rasterize(
        zip(frame.geometry, frame["object_id"], strict=True), ids.shape, dtype="int32"
    )
    assert (burnt > 0).all()
    np.testing.assert_array_equal(frame["class_id"].to_numpy()[burnt - 1], ids)
    np.testing.assert_array_equal(frame["area_m2"], np.bincount(burnt.ravel())[1:])


@settings(max_examples=15, deadline=None)
@given(arrays(np.uint8, (14, 17), elements=st.sampled_from([0, 1, 2, 255])), st.integers(12, 40))
def test_more_classes_change_nothing_elsewhere(ids, block):
    """300 other classes need internal codes of more than a byte."""
    confidence = np.linspace(0, 1, ids.size).reshape(ids.shape)
    expected = polygonize(ids, UTM, 32633, confidence=confidence)
    others = np.kron(np.arange(1000, 1300).reshape(20, 15), np.ones((3, 3), int))
    below = (0, len(others) + 2), (0, len(others.T) - ids.shape[1])
    both = np.pad(ids.astype(np.int64), below)
    both[-len(others) :] = others
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        found = polygonize(both, UTM, 32633, confidence=np.pad(confidence, below))
    assert found["class_id"].nunique() == expected["class_id"].nunique() + 300
    assert found["class_id"].max() == 1299
    assert_geodataframe_equal(found[found["class_id"] < 255], expected, check_dtype=False)


def test_confidence_is_the_mean_over_the_object():
    ids, confidence = np.zeros((6, 9), bool), np.zeros((6, 9))
    ids[1:5, 1:5] = True
    confidence[1:5, 1:3], confidence[1:5, 3:5] = 0.5, 0.75
    (mean,) = polygonize(ids, UTM, confidence=confidence)["confidence"]
    assert mean == pytest.approx(0.625, abs=2e-5)


def test_classes_are_named_by_a_dict_or_by_labels():
    ids = np.kron([[3, 4]], np.ones((5, 5), np.uint8))
    labels = (LabelClass(3, "ship", (1, 2, 3)),)
    for classes in (labels, [*labels], {3: "ship"}):
        assert polygonize(ids, UTM, classes=classes)["class"].tolist() == ["ship", "class_4"]
    assert polygonize(ids, UTM)["class"].tolist() == ["class_3", "class_4"]


def test_a_crs_can_be_spelled_in_many_ways():
    ids = np.ones((5, 5), np.uint8)
    code = 32633
    spellings = [
        code,
        np.int64(code),
        f"EPSG:{code}",
        pyproj.CRS(code),
        CRS.from_epsg(code),
        CRS.from_epsg(code).wkt,
    ]
    first, *others = (polygonize(ids, UTM, crs) for crs in spellings)
    assert first.crs == code
    assert first["area_m2"][0] == pytest.approx(first.area[0], rel=1e-3)
    for other in others:
        assert_geodataframe_equal(other, first)
    assert polygonize(ids, UTM, CRS()).crs is None


@pytest.mark.parametrize(
    "ids", [np.zeros((4, 5), int), np.full((4, 5), 255), np.zeros((0, 5), int)]
)
def test_without_an_object_the_columns_are_the_same(ids):
    frame = polygonize(ids, UTM, "EPSG:32633")
    assert len(frame) == 0
    assert list(frame.columns) == [*FIELDS, "geometry"]
    assert frame.crs == 32633


ONES = np.ones((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"class_ids": np.ones(4, int)}, DataError, r"class_ids has the shape \(4,\)"),
        ({"class_ids": np.ones((4, 4))}, DataError, "class_ids is of dtype float64; give whole"),
        ({"class_ids": np.ma.masked_equal(ONES, 1)}, DataError, r"give class_ids.filled\(255\)"),
        ({"class_ids": np.full((4, 4), 2**63, np.uint64)}, DataError, "more than 63 bits"),
        (
            {"confidence": np.ones((2, 4))},
            DataError,
            r"confidence has the shape \(2, 4\), class_id",
        ),
        ({"confidence": 100 * ONES}, DataError, "values from 100 to 100; give probabilities, 0-1"),
        ({"confidence": np.full((4, 4), np.nan)}, DataError, "give probabilities, 0-1"),
        (
            {"transform": (1, 0, 0, 0, 1, 0)},
            OptionError,
            r"transform is \(1, 0, .*give an affine.Affine",
        ),
        ({"transform": Affine.scale(0)}, OptionError, "which gives pixels no area"),
        ({"crs": 1}, OptionError, "crs EPSG:1: PROJ knows no such"),
        ({"crs": "nonsense"}, OptionError, "crs nonsense: PROJ knows no such"),
        ({"crs": "EPSG:4978"}, OptionError, "has no coordinates on a map"),
        ({"classes": ["ship"]}, OptionError, "classes has the item 'ship'; give LabelClass items"),
        ({"simplify": -1}, OptionError, "simplify is -1; give 0 or more"),
        ({"min_area": float("nan")}, OptionError, "min_area is nan; give 0 or more"),
    ],
)
def test_errors_speak_of_arguments(arguments, kind, says):
    with pytest.raises(kind, match=says) as raised:
        polygonize(**{"class_ids": ONES, "transform": UTM, **arguments})
    assert "--" not in str(raised.value)
    assert "\n" not in str(raised.value)
