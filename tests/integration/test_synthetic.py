"""Rendered scenes: the mask shows what was painted, at the right position and size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize as gdal_rasterize

from geoseg.classes import ISAID
from geoseg.synthetic import RenderedScene, render_scene
from geoseg.synthetic.canvas import SUPERSAMPLING, Canvas
from geoseg.synthetic.geometry import Frame, rasterize
from geoseg.synthetic.sports import basketball_court, soccer_field, tennis_court, track_field
from geoseg.synthetic.structures import bridge, tank
from geoseg.synthetic.vehicles import car, plane, ship, truck

Painter = Callable[[Canvas, Frame], bool]
CASES = [(0.12, 11), (0.3, 4), (0.5, 6), (1.1, 3)]
"""Pixel sizes in meters, and seeds."""


@pytest.fixture(scope="module", params=CASES, ids=[f"{gsd} m" for gsd, _ in CASES])
def scene(request: pytest.FixtureRequest) -> RenderedScene:
    gsd, seed = request.param
    return render_scene(500, 640, gsd=gsd, seed=seed)


def test_shapes_and_types(scene: RenderedScene) -> None:
    assert scene.image.shape == (500, 640, 3)
    assert scene.image.dtype == np.uint8
    assert scene.class_ids.shape == (500, 640)
    assert scene.class_ids.dtype == np.uint8
    assert scene.image.std() > 10


def test_the_mask_is_what_gdal_makes_of_the_polygons(scene: RenderedScene) -> None:
    shapes = [(shapely.Polygon(thing.polygon), thing.class_id) for thing in scene.objects]
    assert len(shapes) >= 5
    # GDAL, too, takes the pixels whose centers lie inside.
    expected = gdal_rasterize(shapes, out_shape=scene.class_ids.shape, fill=0, dtype="uint8")
    np.testing.assert_array_equal(scene.class_ids, expected)


def test_objects_have_pixels_and_share_none(scene: RenderedScene) -> None:
    pixels = 0
    for thing in scene.objects:
        rows, columns, inside = rasterize(np.array(thing.polygon), *scene.class_ids.shape)
        assert inside.any()
        assert (scene.class_ids[rows, columns][inside] == thing.class_id).all()
        pixels += int(inside.sum())
    assert pixels == np.count_nonzero(scene.class_ids)


def test_outlines_are_valid(scene: RenderedScene) -> None:
    assert shapely.is_valid([shapely.Polygon(thing.polygon) for thing in scene.objects]).all()


def test_a_seed_determines_the_scene() -> None:
    first, again, other = (render_scene(160, 200, gsd=0.4, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.class_ids, again.class_ids)
    assert first.objects == again.objects
    assert (first.image != other.image).any()


def test_every_class_but_two_occurs() -> None:
    expected, found = {c.id for c in ISAID} - {0, 10, 12}, set()
    for seed in range(5):
        found |= {thing.class_id for thing in render_scene(640, 640, gsd=0.9, seed=seed).objects}
        if found >= expected:
            break
    assert found == expected


@pytest.mark.parametrize(
    "paint",
    [
        pytest.param(car, id="car"),
        pytest.param(lambda c, f: truck(c, f, bus=False), id="truck"),
        pytest.param(lambda c, f: plane(c, f, 38), id="plane"),
        pytest.param(lambda c, f: plane(c, f, 60), id="airliner"),
        pytest.param(lambda c, f: plane(c, f, 10), id="light aircraft"),
        pytest.param(lambda c, f: ship(c, f, 12), id="boat"),
        pytest.param(lambda c, f: ship(c, f, 90), id="ship"),
        pytest.param(lambda c, f: tank(c, f, 15), id="tank"),
        pytest.param(lambda c, f: bridge(c, f, 90, 14), id="bridge"),
        pytest.param(track_field, id="track"),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_the_picture_is_painted_where_the_mask_says(paint: Painter, seed: int) -> None:
    canvas = Canvas(400, 400, 0.5, np.random.default_rng(seed))
    canvas.shadow_alpha = 0
    canvas.polygon(np.array([(0, 0), (200, 0), (200, 200), (0, 200)]), (255, 0, 255))
    assert paint(canvas, Frame(101.3, 98.2, angle=0.7 + seed))
    bare = np.array((255, 0, 255))
    samples = (np.asarray(canvas.image) != bare).any(axis=2)
    painted = samples.reshape(400, SUPERSAMPLING, 400, SUPERSAMPLING).mean(axis=(1, 3))
    mask = canvas.class_ids > 0
    # A pixel belongs to the object that covers its center; nearly full or empty ones are certain.
    assert mask[painted > 0.97].mean() > 0.99
    assert (painted[mask] > 0.1).mean() > 0.97
    assert abs(painted.sum() - mask.sum()) < 0.3 * shapely.Polygon(canvas.objects[0][1]).length


@pytest.mark.parametrize("gsd", [0.2, 0.5])
@pytest.mark.parametrize(
    ("paint", "length", "width"),
    [
        pytest.param(car, (4.0, 5.2), (1.75, 2.0), id="car"),
        pytest.param(lambda c, f: truck(c, f, bus=True), (8, 13), (2.4, 2.65), id="bus"),
        pytest.param(lambda c, f: plane(c, f, 40), (39.9, 43), (34, 43), id="plane"),
        pytest.param(lambda c, f: tank(c, f, 15), (29.8, 30), (29.8, 30), id="tank"),
        pytest.param(
            lambda c, f: tennis_court(c, f, (60, 100, 70)), (23.77,) * 2, (10.97,) * 2, id="tennis"
        ),
        pytest.param(
            lambda c, f: basketball_court(c, f, (60, 100, 70), (90, 90, 90)),
            (28, 28),
            (15, 15),
            id="basketball",
        ),
        pytest.param(soccer_field, (95, 108), (60, 70), id="soccer"),
        pytest.param(track_field, (171, 177), (87, 93), id="track"),
    ],
)
def test_sizes_are_true_to_the_ground(
    paint: Painter, length: tuple[float, float], width: tuple[float, float], gsd: float
) -> None:
    canvas = Canvas(int(200 / gsd), int(200 / gsd), gsd, np.random.default_rng(1))
    assert paint(canvas, Frame(100, 100, angle=0.4))
    ((_, outline),) = canvas.objects
    measured = np.ptp(Frame(0, 0, angle=-0.4)(outline), axis=0) * gsd
    area = shapely.Polygon(outline).area
    for size, (least, most) in zip(measured, (length, width), strict=True):
        assert least - 1e-6 <= size <= most + 1e-6
    # A mask half a pixel too large would exceed this.
    border = shapely.Polygon(outline).length
    assert abs(np.count_nonzero(canvas.class_ids) - area) < 0.1 * border + 2


def test_a_claim_is_refused_where_something_stands() -> None:
    canvas = Canvas(100, 100, 0.5, np.random.default_rng(0))
    assert car(canvas, Frame(25, 25))
    before = canvas.class_ids.copy()
    assert not truck(canvas, Frame(26, 25.5, 0.7), bus=False)
    assert not car(canvas, Frame(-30, 25))
    np.testing.assert_array_equal(canvas.class_ids, before)
    assert len(canvas.objects) == 1
    assert car(canvas, Frame(25, 35))


@pytest.mark.parametrize("seed", range(30))
def test_rasterize_equals_gdal(seed: int) -> None:
    """Also for stars that cross themselves and extend beyond the image."""
    rng = np.random.default_rng(seed)
    polygon = rng.uniform(-15, 60, (int(rng.integers(3, 9)), 2))
    rows, columns, inside = rasterize(polygon, 40, 50)
    ours = np.zeros((40, 50), bool)
    ours[rows, columns] = inside
    ring = [*polygon.tolist(), polygon[0].tolist()]
    shape = {"type": "Polygon", "coordinates": [ring]}
    np.testing.assert_array_equal(ours, gdal_rasterize([shape], out_shape=(40, 50)) == 1)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 33)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    scene = render_scene(*size, gsd=0.3, seed=2)
    assert scene.image.shape == (*size, 3)
    assert scene.class_ids.shape == size


def test_needs_neither_gdal_nor_torch() -> None:
    code = (
        "import sys; from geoseg.synthetic import render_scene; render_scene(64, 64, seed=1); "
        "print(*{'torch', 'rasterio', 'shapely', 'scipy'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert loaded.strip() == ""
