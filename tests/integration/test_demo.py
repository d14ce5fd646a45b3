"""What the demo counts, on a scene and a class raster that are known."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.crs
from rasterio.transform import from_origin

from geoseg.classes import ISAID, LabelClass
from geoseg.cli.demo import report
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.object_scores import score_objects
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.pipeline.demo import CORNER, CRS, GSD, Demo, count_covered, write_truth
from geoseg.synthetic import render_scene
from geoseg.tiling.grid import Window

SIDE = 512


@pytest.fixture(scope="module")
def town():
    return render_scene(SIDE, SIDE, gsd=GSD, seed=5)


def test_a_perfect_raster_covers_every_object_and_half_of_it_half(town):
    covered = count_covered(town, town.class_ids)
    assert sum(item.known for item in covered) > 20
    assert all(item.covered == item.known for item in covered)
    assert not sum(item.covered for item in count_covered(town, town.class_ids * 0))
    turned = tuple(LabelClass(c.id, ISAID[15 - c.id].name, c.color) for c in ISAID)
    assert count_covered(town, 15 - town.class_ids, turned) == covered


def test_polygons_are_counted_with_the_false_ones(town, tmp_path):
    """A strip across the scene in place of all ships and cars: one polygon, false."""
    ids = town.class_ids.copy()
    ids[np.isin(ids, (1, 9))] = 0
    ids[200:204] = 9
    geobox = GeoBox(SIDE, SIDE, from_origin(*CORNER, GSD, GSD), rasterio.crs.CRS.from_string(CRS))
    raster, truth = tmp_path / "scene.classes.tif", tmp_path / "truth.gpkg"
    with CogWriter.for_classes(raster, geobox, ISAID) as file:
        file.write(Window(0, 0, SIDE, SIDE), ids)
    write_truth(truth, town)
    scores = {score.name: score for score in score_objects(raster, truth)}
    cars = scores["small_vehicle"]
    assert (cars.found, cars.matched) == (1, 0)
    assert cars.truth > 10
    others = [s for name, s in scores.items() if name not in ("small_vehicle", "ship") and s.truth]
    assert sum(score.matched for score in others) >= 0.7 * sum(score.truth for score in others)
    demo = Demo(count_covered(town, ids), [*scores.values()], 1.0, *[raster] * 5)
    text = report(demo)
    false = sum(score.found - score.matched for score in scores.values())
    found = sum(score.found for score in scores.values())
    assert f"{false} of the {found} found are false" in text
    assert f"0 of {cars.truth} " in text
