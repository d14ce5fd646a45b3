"""Two dates compared: shifts, and what is new, gone or changed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from commands import command, contents, refused
from geopandas import GeoDataFrame
from layers import write_layers

from geoseg.analysis.change import find_changes
from geoseg.analysis.shift import estimate_shift
from geoseg.classes import LabelClass

CLASSES = (LabelClass(1, "ship", (10, 20, 30)), LabelClass(2, "car", (40, 50, 60)))
CORNER = 448_000.0, 5_411_000.0
GRID = [400, 400, 1.0, 0.0, CORNER[0], 0.0, -1.0, CORNER[1] + 400, 0.0, 0.0, 1.0]


def rectangles(count=60, seed=0):
    """Scattered in 400 × 400 m, none near another: (left, bottom, width, height, class)."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(100)[:count]
    left, bottom = (
        40 * (cells % 10) + rng.uniform(5, 15, count),
        40 * (cells // 10) + rng.uniform(5, 15, count),
    )
    sizes = rng.uniform(4, 16, (count, 2))
    return np.column_stack([left, bottom, sizes, rng.integers(1, 3, count)])


def write(path, boxes, shift=(0.0, 0.0), crs=32633, grid=GRID, confidence=None):
    left, bottom, width, height, kind = boxes.T
    left, bottom = left + CORNER[0] + shift[0], bottom + CORNER[1] + shift[1]
    shapes = shapely.box(left, bottom, left + width, bottom + height)
    kind = kind.astype(int)
    frame = GeoDataFrame(
        {
            "object_id": np.arange(1, len(boxes) + 1),
            "class_id": kind.astype(np.int32),
            "class": np.array(["", "ship", "car"], object)[kind],
            "area_m2": width * height,
            "confidence": np.linspace(0.3, 0.9, len(boxes)) if confidence is None else confidence,
            "length_m": width,
            "width_m": height,
            "angle_deg": 0.0,
        },
        geometry=shapes,
        crs=32633,
    )
    if crs != 32633:
        frame = frame.to_crs(crs)
    metadata = {"grid": json.dumps(grid)} if grid else {}
    write_layers(path, frame, CLASSES, metadata)
    return path


def table(path):
    return pyogrio.read_dataframe(path, layer="change")


@pytest.fixture
def dates(tmp_path):
    """60 objects; ten go, six come, five change their class, and all lie 3.2 m, -1.7 m off."""
    old = rectangles(70)
    new = np.concatenate([old[10:60], old[64:]])
    new[:5, 4] = 3 - new[:5, 4]
    jitter = np.random.default_rng(1).normal(0, 0.1, (len(new), 2))
    new = new + np.column_stack([jitter, np.zeros((len(new), 3))])
    return write(tmp_path / "old.gpkg", old[:60]), write(tmp_path / "new.gpkg", new, (3.2, -1.7))


def test_changes_are_found_across_a_shift(dates, tmp_path):
    done = command("change", *dates, "-o", tmp_path / "c.gpkg", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["shift"] == pytest.approx([3.2, -1.7], abs=0.05)
    assert found["agreeing"] == 45
    assert found["tolerance"] < 0.4
    assert found["counts"] == {"new": 6, "gone": 10, "changed": 5, "same": 45}
    frame = table(tmp_path / "c.gpkg")
    assert len(frame) == 21
    by_kind = dict(iter(frame.groupby("change")))
    assert sorted(by_kind["gone"]["object_id_old"]) == list(range(1, 11))
    assert by_kind["gone"]["confidence_new"].isna().all()
    assert by_kind["gone"]["confidence_old"].notna().all()
    assert by_kind["new"]["class_old"].isna().all()
    changed = by_kind["changed"]
    assert (changed["class_old"] != changed["class_new"]).all()
    assert (changed["iou"] > 0.9).all()
    assert changed[["confidence_old", "confidence_new"]].notna().all(axis=None)
    # Objects keep their place in the file that they come from.
    assert by_kind["gone"].total_bounds[0] >= CORNER[0]


def test_without_the_shift_more_seems_to_change(dates, tmp_path):
    fitted = find_changes(*dates, tmp_path / "a.gpkg")
    taken = find_changes(*dates, tmp_path / "b.gpkg", max_shift=0)
    assert taken.shift == (0, 0)
    assert taken.counts["same"] < fitted.counts["same"]
    allowed = find_changes(*dates, tmp_path / "c.gpkg", max_shift=0, tolerance=4, unchanged=True)
    assert allowed.counts["same"] == fitted.counts["same"]
    assert len(table(tmp_path / "c.gpkg")) == sum(allowed.counts.values())


def test_a_layer_in_degrees_fits_one_in_meters(tmp_path):
    boxes = rectangles()
    old = write(tmp_path / "old.gpkg", boxes, crs=4326, grid=None)
    new = write(tmp_path / "new.gpkg", boxes, (2.0, 5.0), grid=None)
    found = find_changes(old, new, tmp_path / "c.gpkg")
    assert found.counts == {"new": 0, "gone": 0, "changed": 0, "same": 60}
    assert found.shift == pytest.approx([2.0, 5.0], abs=0.1)


def test_nothing_is_new_where_there_was_no_scene(tmp_path):
    boxes = rectangles()
    half = [*GRID]
    half[0] = 200
    west = boxes[boxes[:, 0] + boxes[:, 2] / 2 < 200]
    old = write(tmp_path / "old.gpkg", west, grid=half)
    new = write(tmp_path / "new.gpkg", boxes)
    found = find_changes(old, new, tmp_path / "c.gpkg")
    assert found.counts["new"] == 0
    assert found.outside == len(boxes) - len(west)
    back = find_changes(new, old, tmp_path / "d.gpkg")
    assert back.counts["gone"] == 0
    assert back.outside == found.outside


@pytest.mark.parametrize("shift", [(0.0, 0.0), (-6.0, 4.0), (0.3, 9.0)])
def test_shifts_are_found_among_strangers(shift):
    """With as many objects that have no partner as have one."""
    boxes = rectangles(100, 3)
    left, bottom, width, height, kind = boxes.T
    old = shapely.box(left, bottom, left + width, bottom + height)
    left, bottom = left + shift[0], bottom + shift[1]
    new = shapely.box(left, bottom, left + width, bottom + height)
    stranger = rectangles(50, 4)
    x, y, w, h, other = stranger.T
    found = estimate_shift(
        old[:50],
        np.concatenate([new[:50], shapely.box(x, y, x + w, y + h)]),
        kind[:50],
        np.concatenate([kind[:50], other]),
        10.0,
    )
    assert (found.x, found.y) == pytest.approx(shift, abs=0.2)


def test_few_objects_tell_no_shift(tmp_path):
    boxes = rectangles(3)
    old = write(tmp_path / "old.gpkg", boxes)
    new = write(tmp_path / "new.gpkg", boxes, (1.0, 0.0))
    done = command("change", old, new, "-o", tmp_path / "c.gpkg")
    assert done.exit_code == 0, done.output
    assert "too few objects agree on a shift" in done.stderr
    assert "same           3" in done.stdout


def test_empty_layers_compare(tmp_path):
    boxes = rectangles(8)
    full = write(tmp_path / "full.gpkg", boxes)
    frame = pd.DataFrame(boxes[:0])
    assert len(frame) == 0
    empty = write(tmp_path / "empty.gpkg", boxes[:0])
    assert find_changes(full, empty, tmp_path / "a.gpkg").counts["gone"] == 8
    assert find_changes(empty, full, tmp_path / "b.gpkg").counts["new"] == 8
    assert sum(find_changes(empty, empty, tmp_path / "c.gpkg").counts.values()) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--min-iou", 0), "--min-iou is 0.0; give more than 0"),
        (("--tolerance", -1), "--tolerance is -1.0; give meters"),
        (("-o", "c.shp"), "give a name that ends in .gpkg"),
    ],
)
def test_impossible_options_are_refused(dates, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    refused("change", *dates, *options, says=says)
    refused("change", *dates, "-o", dates[0], "--overwrite", says="is the input")
    assert contents(tmp_path) == before


def test_what_is_unsure_at_one_date_is_neither_new_nor_gone(tmp_path):
    boxes = rectangles(50)
    sure, unsure, drawn = [0.7] * 10, [0.5] * 10, [np.nan] * 10
    one = write(tmp_path / "a.gpkg", boxes, confidence=[*sure, *sure, *unsure, *unsure, *drawn])
    other = write(tmp_path / "b.gpkg", boxes[10:30], confidence=[*unsure, *sure])
    # Ten sure and ten drawn ones are gone; of the unsure ones nothing is known.
    options = {"min_confidence": 0.6, "unchanged": True, "max_shift": 0.0}
    gone = find_changes(one, other, tmp_path / "gone.gpkg", **options)
    assert gone.counts == {"new": 0, "gone": 20, "changed": 0, "same": 20}
    assert len(table(tmp_path / "gone.gpkg")) == 40
    new = find_changes(other, one, tmp_path / "new.gpkg", **options)
    assert new.counts == {"new": 20, "gone": 0, "changed": 0, "same": 20}
    everything = find_changes(one, other, tmp_path / "all.gpkg", max_shift=0.0)
    assert everything.counts == {"new": 0, "gone": 30, "changed": 0, "same": 20}
