"""Laws of polygons: blocks do not matter, polygons equal the raster, coverages stay coverages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from shapely.affinity import rotate, scale, translate
from shapely.geometry import shape

from geoseg.classes import IGNORE
from geoseg.errors import OutputError
from geoseg.geo.vector import cleanup, rows, spool
from geoseg.geo.vector import polygonize as polygonize_module
from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup, independent_groups
from geoseg.geo.vector.merge import merge
from geoseg.geo.vector.outlines import Outlines
from geoseg.geo.vector.polygonize import BlockPolygons, polygonize_block
from geoseg.geo.vector.polygons import PROBABILITY_UNIT, Polygons
from geoseg.geo.vector.rows import RowMerger
from geoseg.geo.vector.sieve import sieve
from geoseg.geo.vector.simplify import insert_nodes, simplify
from geoseg.geo.vector.spool import PolygonSpool
from geoseg.tiling.grid import Window

ClassMap = NDArray[np.uint8]

RING = np.pad(np.pad(np.pad(np.ones((1, 1), np.uint8), 1), 1, constant_values=1), 1)
HAND_MADE = {
    "checkerboard": np.indices((9, 10)).sum(axis=0) % 2,
    "rings in rings": np.pad(np.pad(RING, 1, constant_values=1), 1, constant_values=2),
    "pinched corners": np.array([[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 1]]),
    "hole touching its shell": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]]),
    "two holes touching": np.pad(np.array([[0, 1], [1, 0]]), 1, constant_values=1),
    "connected far away, pinched here": np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1]]),
    "lines": np.arange(64).reshape(8, 8) // 8 % 2,
    "spiral": np.array(
        [
            [1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 1],
            [1, 1, 1, 1, 0, 1],
            [1, 0, 0, 1, 0, 1],
            [1, 0, 1, 1, 0, 1],
            [1, 0, 0, 0, 0, 1],
            [1, 1, 1, 1, 1, 1],
        ]
    ),
    "one pixel": np.ones((1, 1)),
    "nothing": np.full((3, 4), IGNORE),
}


@st.composite
def class_maps(draw: st.DrawFn) -> ClassMap:
    """Noise, noise of larger pixels, and speckled plains."""
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 10)))
    values = st.sampled_from([0, 1, 2, IGNORE])
    noise = draw(arrays(np.uint8, shape, elements=values))
    zoom = draw(st.sampled_from([(1, 1), (2, 3), (3, 1), (5, 5)]))
    coarse = np.kron(noise, np.ones(zoom, np.uint8))
    specks = draw(
        st.lists(
            st.tuples(
                st.integers(0, coarse.shape[0] - 1), st.integers(0, coarse.shape[1] - 1), values
            ),
            max_size=12,
        )
    )
    for row, column, value in specks:
        coarse[row, column] = value
    return coarse


skips = st.sampled_from([(), (0,)])
sides = st.tuples(st.integers(3, 17), st.integers(3, 17)) | st.sampled_from([(1, 99), (99, 1)])


def whole(class_ids: ClassMap, skip: tuple[int, ...]) -> Polygons:
    return polygons_of(class_ids, class_ids.shape, skip)


def polygons_of(
    class_ids: ClassMap, block: tuple[int, int], *how: object, **specks: float
) -> Polygons:
    """Return the polygons of a map that is cut into blocks; arguments of `blocks_of`."""
    return merge(blocks_of(class_ids, block, *how, **specks))


def blocks_of(
    class_ids: ClassMap,
    block: tuple[int, int],
    skip: tuple[int, ...],
    confidence: NDArray[np.float32] | None = None,
    **specks: float,
) -> list[BlockPolygons]:
    """Return the polygons of each block, the last block first."""
    blocks = []
    for top in range(0, class_ids.shape[0], block[0]):
        for left in range(0, class_ids.shape[1], block[1]):
            part = slice(top, top + block[0]), slice(left, left + block[1])
            height, width = class_ids[part].shape
            blocks.append(
                polygonize_block(
                    class_ids[part],
                    Window(left, top, width, height),
                    skip=skip,
                    confidence=None if confidence is None else confidence[part],
                    **specks,
                )
            )
    return blocks[::-1]


def assert_same(one: Polygons, other: Polygons) -> None:
    for field in fields(Polygons):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def reference(class_ids: ClassMap, skip: tuple[int, ...]) -> list[tuple[int, bytes]]:
    """GDAL's polygons, as sorted pairs of class and normalized WKB."""
    wanted = ~np.isin(class_ids, [*skip, IGNORE])
    found = list(rasterio.features.shapes(class_ids, mask=wanted, connectivity=4))
    geometry = np.array([shape(item) for item, _ in found], object)
    return pairs(np.array([value for _, value in found], int), shapely.simplify(geometry, 0))


def pairs(class_id: NDArray, geometry: NDArray) -> list[tuple[int, bytes]]:
    return sorted(zip(class_id.tolist(), shapely.to_wkb(shapely.normalize(geometry)), strict=True))


def burn(class_id: NDArray, geometry: NDArray, shape: tuple[int, int]) -> ClassMap:
    if len(geometry) == 0:
        return np.full(shape, IGNORE, np.uint8)
    items = zip(geometry, class_id.tolist(), strict=True)
    return rasterio.features.rasterize(items, shape, fill=IGNORE, dtype="uint8")


@settings(max_examples=25, deadline=None)
@given(class_maps(), sides, skips)
def test_polygons_of_blocks_are_those_of_gdal(class_ids, block, skip):
    found = polygons_of(class_ids, block, skip)
    assert_same(found, whole(class_ids, skip))
    assert shapely.is_valid(found.geometry).all()
    assert pairs(found.class_id, found.geometry) == reference(class_ids, skip)
    np.testing.assert_array_equal(found.pixels, shapely.area(found.geometry))


@pytest.mark.parametrize("name", HAND_MADE)
@pytest.mark.parametrize("block", [(1, 1), (1, 99), (99, 1), (2, 3), (4, 4), (99, 99)])
def test_hand_made_maps(name, block):
    class_ids = np.asarray(HAND_MADE[name], np.uint8)
    found = polygons_of(class_ids, block, ())
    assert shapely.is_valid(found.geometry).all()
    assert pairs(found.class_id, found.geometry) == reference(class_ids, ())


@settings(max_examples=25, deadline=None)
@given(class_maps(), sides, skips)
def test_rasterized_polygons_are_the_raster(class_ids, block, skip):
    found = polygons_of(class_ids, block, skip)
    wanted = np.where(np.isin(class_ids, skip), IGNORE, class_ids)
    np.testing.assert_array_equal(burn(found.class_id, found.geometry, class_ids.shape), wanted)


@settings(max_examples=25, deadline=None)
@given(class_maps(), sides, st.integers(0, 2**32 - 1))
def test_confidence_is_the_mean_over_the_pixels(class_ids, block, seed):
    confidence = np.random.default_rng(seed).random(class_ids.shape, np.float32)
    found = polygons_of(class_ids, block, (), confidence)
    assert_same(found, polygons_of(class_ids, class_ids.shape, (), confidence))
    if len(found) == 0:
        return  # a map of nothing but ignored pixels
    for polygon, mean in zip(found.geometry, found.confidence, strict=True):
        inside = rasterio.features.rasterize([polygon], class_ids.shape, dtype="uint8") == 1
        assert mean == pytest.approx(confidence[inside].mean(), abs=2e-5)


@pytest.mark.parametrize("height", [1, 63, 64, 65, 200])
def test_confidence_is_the_same_with_and_without_c_code_and_in_bands(monkeypatch, height):
    confidence = np.random.default_rng(0).random((height, 47), np.float32)
    found = polygonize_module._integrate(confidence)
    y, x = (axis.ravel() for axis in np.indices(found.shape))
    assert (polygonize_module._sums_above(confidence, y, x) == found.ravel()).all()
    monkeypatch.setattr(polygonize_module, "library", lambda: None)
    assert (found == polygonize_module._integrate(confidence)).all()
    assert found[-1, -1] == np.rint(confidence * np.float32(PROBABILITY_UNIT)).sum(dtype=np.int64)


@settings(max_examples=25, deadline=None)
@given(class_maps(), sides, skips, st.sampled_from([0.3, 0.5, 1, 1.5, 3, 30]), st.booleans())
def test_simplified_coverages_have_neither_overlaps_nor_gaps(
    class_ids, block, skip, tolerance, smooth
):
    exact = polygons_of(class_ids, block, skip)
    assert shapely.equals(insert_nodes(exact).geometry, exact.geometry).all()
    simple = simplify(exact, tolerance, smooth=smooth)
    geometry = simple.geometry
    assert shapely.is_valid(geometry).all()
    if len(geometry):
        assert shapely.coverage_is_valid(geometry)
    assert_same(simple, simplify(whole(class_ids, skip), tolerance, smooth=smooth))
    if not skip and (class_ids != IGNORE).all():
        covered = shapely.coverage_union_all(geometry)
        assert len(shapely.get_rings(covered)) == 1
        assert shapely.area(covered) == pytest.approx(shapely.area(geometry).sum())


@settings(max_examples=25, deadline=None)
@given(class_maps(), skips, st.sampled_from([0.5, 1, 2, 8]))
def test_outlines_stay_within_the_tolerance(class_ids, skip, tolerance):
    exact = whole(class_ids, skip)
    for smooth in (False, True):
        simple = simplify(exact, tolerance, smooth=smooth).geometry
        apart = shapely.hausdorff_distance(
            shapely.boundary(exact.geometry), shapely.boundary(simple), densify=0.1
        )
        # Cutting a corner by a pixel on both sides moves it by half of √2.
        assert apart.max(initial=0) <= tolerance + smooth * 0.7072 + 1e-6


@pytest.mark.parametrize("slope", [(1, 1), (3, 1), (1, 3), (2, 3), (-3, 2), (5, 2), (-7, 3)])
def test_long_slopes_are_simplified_in_few_rounds(slope, monkeypatch):
    """All steps of a slope tie; if one was removed at a time, each would take a round."""
    rise, run = slope
    y, x = np.mgrid[:600, :600]
    stripes = (x * rise - y * run) // (40 * (abs(rise) + run)) % 2
    polygons = whole(stripes.astype(np.uint8), ())
    rounds, remove = [], Outlines._remove

    def counted(self: Outlines, corner: NDArray) -> None:
        rounds.append(len(corner))
        remove(self, corner)

    monkeypatch.setattr(Outlines, "_remove", counted)
    simple = simplify(polygons, 0.5)
    assert len(simple.corners) < 0.2 * len(polygons.corners)
    assert len(rounds) < 50


def test_smooth_outlines_are_closer_to_the_truth_than_those_of_pixels():
    """Ellipses and rotated rectangles, drawn as pixels and traced."""
    rng = np.random.default_rng(0)
    shapes = []
    for index in range(64):
        plain = shapely.box(-1, -1, 1, 1) if index % 2 else shapely.Point(0, 0).buffer(1, 64)
        plain = scale(plain, rng.uniform(5, 40), rng.uniform(3, 20), origin=(0, 0))
        rotated = rotate(plain, rng.uniform(0, 180), origin=(0, 0))
        center = 50 + 100 * (index % 8) + rng.random(), 50 + 100 * (index // 8) + rng.random()
        shapes.append(translate(rotated, *center))
    truth = np.array(shapes)
    items = [(item, 1) for item in shapes]
    exact = whole(rasterio.features.rasterize(items, (800, 800), dtype="uint8"), (0,))
    found, true = shapely.STRtree(truth).query(exact.geometry, predicate="intersects")

    def error(geometry: NDArray) -> float:
        """Mean distance between outlines, px."""
        missed = shapely.area(shapely.symmetric_difference(geometry[found], truth[true]))
        return float((missed / shapely.length(truth[true])).mean())

    smooth = simplify(exact, 0.5)
    geos = shapely.coverage_simplify(insert_nodes(exact).geometry, 1)
    assert len(truth) == len(exact) == len(found)
    assert error(smooth.geometry) < 0.7 * error(exact.geometry)
    assert error(smooth.geometry) < 0.6 * error(geos)
    assert len(smooth.corners) < 0.25 * len(exact.corners)
    assert len(smooth.corners) < 0.6 * shapely.get_num_coordinates(geos).sum()


@settings(max_examples=25, deadline=None)
@given(class_maps(), sides, skips, st.integers(0, 12), st.booleans())
def test_sieve_does_not_depend_on_blocks(class_ids, block, skip, min_pixels, fill):
    expected = sieve(whole(class_ids, skip), min_pixels, fill=fill)
    found = polygons_of(class_ids, block, skip, min_pixels=min_pixels, fill=fill)
    assert_same(sieve(found, min_pixels, fill=fill), expected)
    assert shapely.is_valid(expected.geometry).all()
    # The result is again the regions of a raster.
    raster = burn(expected.class_id, expected.geometry, class_ids.shape)
    again = whole(raster, ())
    if fill:
        np.testing.assert_array_equal(again.corners, expected.corners)
        assert (again.pixels >= min_pixels).all()
    else:
        large = whole(class_ids, skip).pixels >= min_pixels
        assert len(expected) == large.sum()


@settings(max_examples=25, deadline=None)
@given(class_maps(), st.integers(2, 12))
def test_sieve_keeps_large_regions_and_leaves_no_gaps(class_ids, min_pixels):
    class_ids = np.where(class_ids == IGNORE, 3, class_ids).astype(np.uint8)
    class_ids = np.pad(class_ids, 3, constant_values=7)
    before = whole(class_ids, ())
    after = sieve(before, min_pixels)
    raster = burn(after.class_id, after.geometry, class_ids.shape)
    assert (raster != IGNORE).all()
    large = before.pixels >= min_pixels
    kept = burn(before.class_id[large], before.geometry[large], class_ids.shape)
    np.testing.assert_array_equal(raster[kept != IGNORE], kept[kept != IGNORE])


def test_sieve_gives_specks_to_the_class_along_most_of_their_outline():
    class_ids = np.array([[1, 1, 1, 2, 2], [1, 1, 3, 2, 2], [1, 1, 3, 2, 2], [1, 1, 1, 1, 2]])
    sieved = sieve(whole(class_ids.astype(np.uint8), ()), 3)
    raster = burn(sieved.class_id, sieved.geometry, class_ids.shape)
    np.testing.assert_array_equal(raster, np.where(class_ids == 3, 1, class_ids))


def test_specks_that_border_on_no_polygon_are_removed():
    class_ids = np.zeros((6, 8), np.uint8)
    class_ids[1:5, 1:5] = 1
    class_ids[2, 5] = 2  # three of its sides border on no polygon
    sieved = sieve(whole(class_ids, (0,)), 4)
    np.testing.assert_array_equal(sieved.class_id, [1])
    np.testing.assert_array_equal(sieved.pixels, [16])


@settings(max_examples=25, deadline=None)
@given(class_maps(), sides, skips, st.integers(0, 9), st.booleans(), st.sampled_from([0, 0.5, 2]))
def test_cleaned_in_blocks_is_cleaned_as_a_whole(
    class_ids, block, skip, min_pixels, fill, tolerance
):
    specks = {"min_pixels": min_pixels, "fill": fill}
    expected = simplify(sieve(whole(class_ids, skip), **specks), tolerance)
    clean = Cleanup(**specks, tolerance=tolerance)
    blocks = blocks_of(class_ids, block, skip, **specks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleanup, "_GROUP_SIZE", 1)
        patch.setattr(cleanup, "_PIECE_SIZE", 3)
        patch.setattr(rows, "_ENOUGH", 0)
        for parts in (cleaned(clean, blocks, ()), cleaned(clean, *interiors_of(clean, blocks))):
            assert_same(CleanPolygons.concatenate(parts).polygons, expected)


def interiors_of(
    clean: Cleanup, blocks: list[BlockPolygons]
) -> tuple[list[BlockPolygons], list[CleanPolygons]]:
    remaining, interiors = zip(*map(clean.clean_interior, blocks), strict=True)
    return list(remaining), list(interiors)


def cleaned(
    clean: Cleanup, blocks: list[BlockPolygons], interiors: Iterable[CleanPolygons]
) -> list[CleanPolygons]:
    """What comes out row by row; side by side, the last block comes first."""
    merger = RowMerger(clean)
    in_rows = sorted(blocks, key=lambda block: block.window.row_off)
    settled = (part for block in in_rows for part in merger.add(block))
    return [*interiors, *settled, *merger.finish()]


def test_most_polygons_are_cleaned_before_the_blocks_meet():
    class_ids = np.zeros((120, 160), np.uint8)
    for top in range(5, 110, 12):
        for left in range(4, 150, 11):
            class_ids[top : top + 7, left : left + 6] = 1 + (top + left) % 3
    clean = Cleanup(tolerance=0.5)
    blocks = blocks_of(class_ids, (60, 80), (0,))
    remaining, interiors = interiors_of(clean, blocks)
    found = CleanPolygons.concatenate(cleaned(clean, remaining, interiors)).polygons
    assert_same(found, simplify(whole(class_ids, (0,)), 0.5))
    assert sum(len(part.polygons) for part in interiors) > 0.6 * len(found)


def test_polygons_that_wait_are_bounded_by_the_width(monkeypatch):
    """However long the raster is; but those that span all of it wait for its end."""
    monkeypatch.setattr(rows, "_ENOUGH", 0)

    noise = np.random.default_rng(1).random((25, 20))
    pattern = np.kron((noise < 0.15).astype(np.uint8), np.ones((6, 6), np.uint8))

    def most_corners(times: int) -> int:
        class_ids = np.tile(pattern, (times, 1))
        merger, most = RowMerger(Cleanup(2, tolerance=0.5)), 0
        blocks = sorted(blocks_of(class_ids, (30, 40), (0,)), key=lambda b: b.window.row_off)
        for block in blocks:
            merger.add(block)
            most = max(most, merger.corners)
        assert merger.finish()
        return most

    assert most_corners(12) <= 1.2 * most_corners(2)


@settings(max_examples=25, deadline=None)
@given(class_maps(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_spool_returns_what_it_got_in_order(tmp_path_factory, class_ids, band, random):
    polygons = whole(class_ids, ())
    parts = [polygons.take(np.flatnonzero(np.arange(len(polygons)) % 3 == i)) for i in range(3)]
    random.shuffle(parts)
    with pytest.MonkeyPatch.context() as patch, PolygonSpool(tmp_path_factory.getbasetemp()) as s:
        patch.setattr(spool, "_BAND", band)
        for part in parts:
            s.append(CleanPolygons(part, part.first_corners))
        s.sort()
        assert s.class_ids == np.unique(polygons.class_id).tolist()
        for class_id in s.class_ids:
            numbers, found = zip(*s.of_class(class_id), strict=True)
            expected = np.flatnonzero(polygons.class_id == class_id)
            np.testing.assert_array_equal(np.concatenate(numbers), expected)
            assert_same(Polygons.concatenate(found), polygons.take(expected))


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    polygons = whole(np.ones((2, 2), np.uint8), ())
    with PolygonSpool(tmp_path) as s:
        monkeypatch.setattr(s, "_unsorted", open("/dev/full", "wb", buffering=0))  # noqa: PTH123, SIM115
        with pytest.raises(OutputError, match="cannot be written: No space left"):
            s.append(CleanPolygons(polygons, polygons.first_corners))
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, deadline=None)
@given(class_maps(), st.sampled_from([0, 1, 3]))
def test_groups_lie_apart(class_ids, distance):
    class_ids = np.pad(np.where(class_ids == 1, 1, 0).astype(np.uint8), 8)
    class_ids[:3, :3] = 1
    polygons = whole(class_ids, (0,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleanup, "_GROUP_SIZE", 1)
        patch.setattr(cleanup, "_PIECE_SIZE", 2)
        parts = independent_groups(polygons, distance)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(polygons)))
    assert len(parts) > 1 or len(polygons) == 1
    outlines = [shapely.union_all(shapely.boundary(polygons.geometry[part])) for part in parts]
    for number, outline in enumerate(outlines):
        assert (shapely.distance(outline, outlines[:number]) > distance).all()
