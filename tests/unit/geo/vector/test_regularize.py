"""Laws of outlines in the forms in which things are built, on shapes whose outlines are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from shapely import affinity

import geoseg
from geoseg.classes import LabelClass
from geoseg.errors import OptionError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.regular import parse_forms, regular_outlines
from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup
from geoseg.geo.vector.forms import MIN_IOU, fit_form
from geoseg.geo.vector.polygonize import polygonize_block
from geoseg.geo.vector.regularize import regularize
from geoseg.tiling.grid import Window

SIZE = 160
CLEANUP = Cleanup(9, tolerance=0.5)
BUILDINGS = {
    "box": shapely.box(0, 0, 44, 26),
    "L": shapely.Polygon([(0, 0), (60, 0), (60, 20), (25, 20), (25, 50), (0, 50)]),
    "U": shapely.box(0, 0, 60, 40) - shapely.box(18, 16, 42, 40),
    "T": shapely.box(0, 0, 60, 18) | shapely.box(20, 0, 40, 50),
}


def iou(one, other):
    return one.intersection(other).area / one.union(other).area


def burn(*shapes, size=SIZE):
    """Ids 1, 2, … of the pixels whose centers lie in each shape."""
    return rasterize(zip(shapes, range(1, len(shapes) + 1), strict=True), (size, size)).astype("u1")


def trace(class_ids, cleanup=CLEANUP, block=None):
    """The polygons of a raster, from one block or from several."""
    height, width = class_ids.shape
    block = block or max(height, width)
    windows = [
        Window(x, y, min(block, width - x), min(block, height - y))
        for y in range(0, height, block)
        for x in range(0, width, block)
    ]
    blocks = [polygonize_block(class_ids[window.slices], window) for window in windows]
    return CleanPolygons.concatenate(cleanup.merge_above(blocks)[1]).polygons


def fit(polygons, form="angles"):
    """Outlines of all polygons, in pixels, and which are regular."""
    metric = np.tile(np.eye(2), (len(polygons), 1, 1))
    found = regularize(polygons, [form] * len(polygons), metric)
    shapes = polygons.geometry
    changed = ~shapely.is_missing(found.shapes)
    shapes[changed] = found.shapes[changed]
    return shapes, found.regular


def angles_of(shape):
    """Angles between consecutive sides, degrees."""
    x, y = np.diff(shapely.get_coordinates(shape.exterior), axis=0).T
    direction = np.degrees(np.arctan2(y, x))
    return np.abs((np.diff(np.append(direction, direction[0])) + 180) % 360 - 180)


@pytest.mark.parametrize("name", BUILDINGS)
@given(turn=st.floats(0, 90), x=st.floats(0, 1), y=st.floats(0, 1))
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_buildings_in_any_direction_get_their_outline_back(name, turn, x, y):
    true = affinity.rotate(BUILDINGS[name], turn, origin=(30, 25))
    true = affinity.translate(true, 50 + x, 50 + y)
    polygons = trace(burn(true))
    (shape,), (regular,) = fit(polygons)
    assert regular
    assert angles_of(shape) == pytest.approx(90, abs=1e-6)
    assert len(shape.exterior.coords) == len(BUILDINGS[name].simplify(0).exterior.coords)
    assert shape.hausdorff_distance(true) < 2
    # The raster alone loses 0.05 where thin wings lie half a pixel off its grid.
    raw = polygons.geometry[0]
    assert iou(shape, true) > max(0.94, iou(raw, true) - 0.01)


@pytest.mark.parametrize("turn", [1.5, 22, 45, 71])
def test_a_scene_that_is_rotated_gives_the_rotated_outlines(turn):
    scene = [
        affinity.translate(BUILDINGS["L"], 40, 40),
        affinity.translate(BUILDINGS["box"], 85, 85),
    ]
    rotated = [affinity.rotate(shape, turn, origin=(80, 80)) for shape in scene]
    before, _ = fit(trace(burn(*scene, size=180)))
    after, regular = fit(trace(burn(*rotated, size=180)))
    assert regular.all()
    for shape in before:
        expected = affinity.rotate(shape, turn, origin=(80, 80))
        assert max(iou(expected, each) for each in after) > 0.93


@pytest.mark.parametrize(("dx", "dy", "turns"), [(13, 0, 0), (0, 7, 1), (5, 21, 2), (1, 2, 3)])
def test_pixels_that_are_moved_or_turned_give_the_same_outlines(dx, dy, turns):
    """The raster is the same, only ties are broken in another way."""
    scene = [
        affinity.rotate(affinity.translate(BUILDINGS["L"], 20, 20), 33),
        affinity.rotate(shapely.box(95, 20, 130, 42), 71),
    ]
    class_ids = burn(*scene)
    before, _ = fit(trace(class_ids))
    after, _ = fit(trace(np.rot90(np.roll(class_ids, (dy, dx), (0, 1)), turns)))
    for shape in before:
        x, y = shapely.get_coordinates(shape.exterior).T + np.array([[dx], [dy]])
        for _ in range(turns):
            x, y = y, SIZE - x
        expected = shapely.Polygon(np.stack([x, y], axis=1))
        assert max(iou(expected, each) for each in after) > 0.97


@pytest.fixture(scope="module")
def town():
    """Boxes in rows, some of which touch, courts in fields, and roads around them."""
    rng = np.random.default_rng(0)
    class_ids = np.zeros((400, 400), np.uint8)
    shapes = []
    for row, column in itertools.product(range(6), range(6)):
        shape = affinity.rotate(shapely.box(0, 0, *rng.uniform(14, 52, 2)), rng.uniform(0, 90))
        shapes.append(affinity.translate(shape, 12 + 62 * column, 12 + 62 * row))
    for number, shape in enumerate(shapes):
        burned = rasterize([shape], (400, 400)).astype(bool)
        class_ids[burned] = 1 + number % 3
    ring = shapely.Point(300, 60).buffer(50).difference(shapely.Point(300, 60).buffer(20))
    class_ids[rasterize([ring], (400, 400)).astype(bool)] = 4
    class_ids[rasterize([shapely.Point(300, 60).buffer(20)], (400, 400)).astype(bool)] = 5
    return class_ids


def test_polygons_never_overlap(town):
    for class_ids in (town, np.where(town == 0, 6, town)):  # all but the background, and all
        polygons = trace(class_ids)
        metric = np.tile(np.eye(2), (len(polygons), 1, 1))
        forms = [
            {4: "circle", 5: "circle", 6: None}.get(int(i), "angles") for i in polygons.class_id
        ]
        found = regularize(polygons, forms, metric[: sum(form is not None for form in forms)])
        assert found.regular.sum() > 15
        raw = polygons.geometry
        changed = ~shapely.is_missing(found.shapes)
        shapes = np.where(changed, found.shapes, raw)
        assert shapely.is_valid(shapes).all()
        one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
        common = shapely.area(shapely.intersection(shapes[one], shapes[other]))
        assert common[one != other].max(initial=0) < 1e-6
        # Whatever gave way kept most of its area, and what is regular fits.
        for i in np.flatnonzero(changed):
            assert iou(raw[i], shapes[i]) > (0.84 if found.regular[i] else 0.89)


def test_neither_blocks_nor_order_matter(town):
    expected, regular = fit(trace(town))
    shapes, same = fit(trace(town, block=150))
    assert (same == regular).all()
    assert shapely.equals_exact(shapes, expected, 0).all()
    polygons = trace(town)
    order = np.random.default_rng(1).permutation(len(polygons))
    shapes, same = fit(polygons.take(order))
    assert (same == regular[order]).all()
    assert shapely.equals_exact(
        shapely.normalize(shapes), shapely.normalize(expected[order]), 1e-9
    ).all()


@pytest.mark.parametrize(
    ("form", "true"),
    [
        ("circle", shapely.Point(80.3, 79.6).buffer(7, 32)),
        ("circle", shapely.Point(80.3, 79.6).buffer(40, 32)),
        ("oval", affinity.rotate(shapely.LineString([(50, 80), (110, 80)]).buffer(25, 32), 37)),
        ("box", affinity.rotate(shapely.box(70, 70, 88, 79), 28)),
    ],
)
def test_forms_of_single_objects(form, true):
    polygons = trace(burn(true))
    (shape,), (regular,) = fit(polygons, form)
    assert regular
    assert iou(shape, true) > 0.93
    assert abs(shape.area / polygons.geometry[0].area - 1) < 0.02


def test_what_does_not_fit_stays_as_it_is():
    triangle = shapely.Polygon([(20, 20), (140, 30), (60, 130)])
    polygons = trace(burn(triangle))
    round_ = trace(burn(shapely.Point(80, 80).buffer(14)))
    assert not fit(round_, "angles")[1].any()  # no steps around a circle
    for form in MIN_IOU:
        (shape,), (regular,) = fit(polygons, form)
        assert not regular
        assert shape.equals_exact(polygons.geometry[0], 0)


@pytest.mark.parametrize("angle", [0, 20, 45, 70])
def test_cars_that_are_drawn_as_ellipses_become_boxes(angle):
    car = affinity.rotate(affinity.scale(shapely.Point(80, 80).buffer(1, 32), 12, 6), angle)
    (shape,), (regular,) = fit(trace(burn(car)), "box")
    assert regular
    assert len(shape.exterior.coords) == 5
    assert shape.area == pytest.approx(car.area, rel=0.2)


def test_touching_containers_are_all_regular_and_do_not_overlap():
    row = [affinity.translate(shapely.box(0, 0, 12, 40), 20 + 12 * i, 40) for i in range(6)]
    row = [affinity.rotate(each, 31, origin=(60, 60)) for each in row]
    polygons = trace(burn(*row))
    assert len(polygons) == 6
    shapes, regular = fit(polygons)
    assert regular.all()
    union = shapely.union_all(shapes)
    assert union.area == pytest.approx(shapely.area(shapes).sum(), rel=1e-9)


def test_specks_give_way_but_objects_do_not_disappear():
    tank = shapely.Point(80, 80).buffer(40)
    for width, regular in ((4, True), (30, False)):  # a speck at the rim, and a shed in it
        left = 116 if regular else 112
        beside = shapely.box(left, 80 - width / 2, left + max(width, 12), 80 + width / 2)
        class_ids = burn(tank - beside, beside)
        polygons = trace(class_ids)
        shapes, found = fit(polygons, "circle")
        (tank_id,) = np.flatnonzero(polygons.class_id == 1)
        assert found[tank_id] == regular
        assert shapes[0].intersection(shapes[1]).area < 1e-6


def test_courtyards_are_built_like_the_house():
    house = shapely.box(0, 0, 60, 50).difference(shapely.box(20, 15, 44, 35))
    true = affinity.rotate(affinity.translate(house, 40, 40), 24)
    (shape,), (regular,) = fit(trace(burn(true)))
    assert regular
    assert len(shape.interiors) == 1
    assert len(shape.interiors[0].coords) == 5
    assert iou(shape, true) > 0.95


@given(seed=st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_any_region_gives_valid_polygons(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (6, 6), np.uint8)
    class_ids = coarse.repeat(6, 0).repeat(6, 1)
    polygons = trace(class_ids)
    for form in MIN_IOU:
        shapes, regular = fit(polygons, form)
        assert shapely.is_valid(shapes).all()
        raw = polygons.geometry
        least = MIN_IOU[form] - 0.05  # some give way to others
        assert all(iou(a, b) >= least for a, b in zip(raw[regular], shapes[regular], strict=True))


def test_forms_are_true_on_the_ground():
    """At 60° north, a pixel of equal degrees is half as wide as it is high."""
    degrees = 5e-6
    width, height = degrees * 111_412 * math.cos(math.radians(60)), degrees * 111_412
    house = affinity.rotate(affinity.translate(BUILDINGS["L"], 60, 60), 33)
    tank = shapely.Point(170, 100).buffer(20)
    burned = [affinity.scale(each, 1 / width, 1 / height, origin=(0, 0)) for each in (house, tank)]
    class_ids = rasterize(zip(burned, (1, 2), strict=True), (400, 800)).astype("u1")
    frame = geoseg.polygonize(
        class_ids,
        Affine(degrees, 0, 20, 0, -degrees, 60),
        "EPSG:4326",
        classes={1: "building", 2: "Storage Tank"},
        regularize="all",
    )
    assert frame["regular"].tolist() == [1, 1]
    frame = frame.set_index("class")
    assert frame.loc["Storage Tank", "length_m"] == pytest.approx(40, rel=0.01)
    assert frame.loc["Storage Tank", "width_m"] == pytest.approx(40, rel=0.01)
    assert len(frame.loc["building"].geometry.exterior.coords) == 7
    plane = frame.to_crs(frame.estimate_utm_crs()).loc["building"].geometry
    assert angles_of(plane) == pytest.approx(90, abs=0.1)
    assert plane.area == pytest.approx(house.area, rel=0.01)


def test_forms_are_parsed_and_refused():
    assert parse_forms("all,small_vehicle=box, 3=none") == {
        "all": "built",
        "small_vehicle": "box",
        "3": "none",
    }
    assert parse_forms({"Shipping Container": "built", 7: "oval"}) == {
        "Shipping Container": "built",
        "7": "oval",
    }
    for text, says in (
        ("ship", "ship: objects of this class are built in no one form"),
        ("ship=round", "ship=round: choose one of angles, box, circle, oval, or none"),
        ("all,,ship=box", "has an empty part"),
    ):
        with pytest.raises(OptionError, match=says):
            parse_forms(text)


def test_classes_keep_their_outlines_unless_asked(caplog):
    class_ids = burn(shapely.Point(40, 40).buffer(15), shapely.Point(110, 110).buffer(15))
    labels = (LabelClass(1, "storage_tank", (1, 2, 3)), LabelClass(2, "ship", (1, 2, 3)))
    polygons = trace(class_ids)
    geobox = GeoBox(SIZE, SIZE, Affine.scale(1, -1), None)
    for forms, expected in (
        ("all", [True, False]),
        ("ship=circle", [False, True]),
        ("all=circle", [True, True]),
        ("all,storage_tank=none,2=circle", [False, True]),
    ):
        caplog.clear()
        found = regular_outlines(polygons, geobox, labels, forms)
        assert ("no form is known for ship, whose" in caplog.text) == (forms == "all")
        assert found.regular.tolist() == expected, forms
        assert (~shapely.is_missing(found.shapes)).tolist() == expected


def test_rings_without_corners_in_all_directions_have_no_right_angles():
    assert fit_form(np.array([(0.0, 0), (10, 0), (10, 10)]), "angles") is None
