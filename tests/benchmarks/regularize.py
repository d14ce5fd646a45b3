"""How close do regular outlines come to the true ones, and at what cost?

    python tests/benchmarks/regularize.py [--seed 0] [--picture FILE.png]

Shapes with known outlines are burned into class rasters: boxes, L, U and T in any direction; the
same with the outlines that a model draws, rounded and wavy by a pixel or two; and the courts,
fields, pools and vehicles of rendered scenes. Printed for the outlines of `geoseg vectorize`, for
`--regularize`, and for the package buildingregulariser (pip install buildingregulariser; left out
if it is not there), with a tolerance of two pixels as its documentation advises: the error of the
area in percent (mean of its absolute value), corners an object, IoU and Hausdorff distance (px)
with the true outline, the share of right angles, and milliseconds an object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity

from geoseg.classes import ISAID
from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup
from geoseg.geo.vector.forms import BUILT_AS, Form
from geoseg.geo.vector.polygonize import polygonize_block
from geoseg.geo.vector.polygons import Polygons
from geoseg.geo.vector.regularize import regularize
from geoseg.synthetic import render_scene
from geoseg.tiling.grid import Window

Shapes = NDArray[np.object_]
Truth = list[tuple[shapely.Polygon, Form]]
CELL, SIDE = 110, 12
"""Pixels of a cell of the test sheet, and cells a side."""


def buildings(seed: int, *, diagonal: bool) -> Truth:
    """Return boxes, L, U and T of random sizes, one in each cell of a sheet."""
    rng = np.random.default_rng(seed)
    found: Truth = []
    for number in range(SIDE * SIDE):
        w, h = rng.uniform(24, 60), rng.uniform(20, 50)
        a, b = rng.uniform(0.3, 0.6) * w, rng.uniform(0.35, 0.6) * h
        box = shapely.box(0, 0, w, h)
        shape = [
            box,
            box - shapely.box(a, b, w, h),
            box - shapely.box(w / 4, b, 3 * w / 4, h),
            shapely.box(0, 0, w, b) | shapely.box(w / 4, 0, w / 4 + a, h),
        ][number % 4].simplify(0)
        turn = rng.uniform(0, 90) if diagonal else 0
        shape = affinity.rotate(shape, turn + 90 * rng.integers(4))
        x, y = shape.centroid.coords[0]
        column, row = number % SIDE, number // SIDE
        center = (np.array([column, row]) + 0.5) * CELL + rng.uniform(-0.5, 0.5, 2)
        found.append((affinity.translate(shape, center[0] - x, center[1] - y), "angles"))
    return found


def rendered(seed: int) -> Truth:
    """Return the objects of a rendered scene that are built in a form, and lie inside it."""
    names = {item.id: item.name for item in ISAID}
    forms: dict[str, Form] = {**BUILT_AS, "small_vehicle": "box", "large_vehicle": "box"}
    size = SIDE * CELL
    inside = shapely.box(0, 0, size, size)
    return [
        (shape, forms[names[each.class_id]])
        for each in render_scene(size, size, gsd=0.3, seed=seed).objects
        if names[each.class_id] in forms and inside.contains(shape := shapely.Polygon(each.polygon))
    ]


def burn(truth: Truth, *, seed: int | None = None) -> NDArray[np.int32]:
    """Return the numbers of the shapes, from 1; with a seed, with outlines as a model draws."""
    size = SIDE * CELL
    numbered = [(shape, number) for number, (shape, _) in enumerate(truth, 1)]
    labels = rasterize(numbered, (size, size), dtype="int32")
    if seed is None:
        return labels
    rng = np.random.default_rng(seed)
    waves = ndimage.gaussian_filter(rng.normal(size=(size, size)), 4)
    signed = ndimage.gaussian_filter((labels > 0).astype(float), 3) - 0.5
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    return np.where(signed + 0.12 * waves / waves.std() > 0, labels[tuple(nearest)], 0)


def trace(labels: NDArray[np.int32]) -> Polygons:
    """Return the outlines of `geoseg vectorize`, with the default options."""
    window = Window(0, 0, labels.shape[1], labels.shape[0])
    cleanup = Cleanup(9, tolerance=0.5)
    # 255 is no class.
    blocks = [polygonize_block(np.where(labels >= 255, labels + 1, labels), window)]
    return CleanPolygons.concatenate(cleanup.merge_above(blocks)[1]).polygons


def ours(polygons: Polygons, forms: list[Form]) -> Shapes:
    found = regularize(polygons, forms, np.tile(np.eye(2), (len(polygons), 1, 1)))
    return np.where(shapely.is_missing(found.shapes), polygons.geometry, found.shapes)


def theirs(polygons: Polygons, forms: list[Form]) -> Shapes:
    from buildingregulariser import regularize_geodataframe

    frame = geopandas.GeoDataFrame(geometry=polygons.geometry, crs=32633)
    done = regularize_geodataframe(
        frame,
        parallel_threshold=1.0,
        simplify_tolerance=2.0,
        allow_45_degree=False,
        allow_circles="circle" in forms,
        num_cores=1,
    )
    return np.asarray(done.geometry.reindex(frame.index).values, object)


def right_angles(shape: shapely.Polygon) -> tuple[int, int]:
    """Return how many corners are right to a degree, and how many there are."""
    x, y = np.diff(shapely.get_coordinates(shape.exterior), axis=0).T
    direction = np.degrees(np.arctan2(y, x))
    turn = (np.diff(np.append(direction, direction[0])) + 180) % 360 - 180
    return int((np.abs(np.abs(turn) - 90) < 1).sum()), len(turn)


def score(truth: Truth, owner: NDArray[np.intp], shapes: Shapes, seconds: float) -> str:
    """Return a row of the table."""
    errors, corners, ious, distances, right, all_corners = [], [], [], [], 0, 0
    for index, shape in zip(owner, shapes, strict=True):
        if shape is None or shape.geom_type != "Polygon" or not shape.is_valid:
            continue
        true = truth[index][0]
        errors.append(abs(shape.area / true.area - 1) * 100)
        corners.append(len(shape.exterior.coords) - 1)
        ious.append(shape.intersection(true).area / shape.union(true).area)
        distances.append(shape.hausdorff_distance(true))
        square, count = right_angles(shape)
        right, all_corners = right + square, all_corners + count
    columns = [np.mean(errors), np.mean(corners), np.mean(ious), np.mean(distances)]
    numbers = "{:.2f} | {:.1f} | {:.3f} | {:.2f}".format(*columns)
    per_object = f"{seconds / len(shapes) * 1e3:.1f}" if seconds else ""
    return f"{len(ious)} | {numbers} | {right / all_corners:.0%} | {per_object}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="draw some outlines into this PNG")
    options = parser.parse_args()
    ways: dict[str, Callable[[Polygons, list[Form]], Shapes]] = {"geoseg --regularize": ours}
    if find_spec("buildingregulariser"):
        ways["buildingregulariser"] = theirs
    sets = {
        "upright buildings": (upright := buildings(options.seed, diagonal=False), burn(upright)),
        "buildings in any direction": (
            turned := buildings(options.seed, diagonal=True),
            burn(turned),
        ),
        "the same, as models draw": (turned, burn(turned, seed=options.seed)),
        "rendered scene": (scene := rendered(options.seed + 3), burn(scene)),
    }
    print("| shapes | outlines | n | area % | corners | IoU | Hausdorff px | right angles | ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (truth, labels) in sets.items():
        polygons = trace(labels)
        owner = (polygons.class_id - (polygons.class_id > 255)).astype(np.intp) - 1
        forms = [truth[index][1] for index in owner]
        print(f"| {name} | geoseg | {score(truth, owner, polygons.geometry, 0.0)} |")
        drawn = {"geoseg": polygons.geometry}
        for way, run in ways.items():
            start = time.process_time()
            shapes = run(polygons, forms)
            seconds = time.process_time() - start
            print(f"| | {way} | {score(truth, owner, shapes, seconds)} |", flush=True)
            drawn[way] = shapes
        if options.picture and "models" in name:
            draw(options.picture, labels, drawn)


def draw(path: Path, labels: NDArray[np.int32], drawn: dict[str, Shapes], zoom: int = 2) -> None:
    """Draw the upper left of the sheet once for each way."""
    size, step = 4 * CELL, 2 * CELL * zoom + 30
    sheet = Image.new("RGB", (size * zoom, step * len(drawn)), "white")
    ground = np.where(labels[: 2 * CELL, :size, None] > 0, (222, 222, 214), (250, 250, 247))
    picture = Image.fromarray(ground.astype(np.uint8)).resize(
        (size * zoom, 2 * CELL * zoom), Image.Resampling.NEAREST
    )
    pen = ImageDraw.Draw(sheet)
    for number, (name, shapes) in enumerate(drawn.items()):
        top = number * step + 30
        sheet.paste(picture, (0, top))
        pen.text((8, top - 24), name, fill="black", font_size=18)
        for shape in shapes:
            if shape is None or shape.bounds[2] > size or shape.bounds[3] > 2 * CELL:
                continue
            points = shapely.get_coordinates(shape.exterior) * zoom + np.array([0, top])
            pen.line([tuple(point) for point in points], fill=(200, 30, 30), width=2)
            for x, y in points:
                pen.rectangle((x - 2, y - 2, x + 2, y + 2), fill=(20, 60, 160))
    sheet.save(path)


if __name__ == "__main__":
    main()
