"""Samples of class rasters: who is drawn, what the file says, and the way to an accuracy."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pyogrio
import pytest
import rasterio
from commands import command, contents, refused
from maps import write_map

from geoseg.analysis import sampling
from geoseg.analysis.layer_file import read_metadata
from geoseg.analysis.sampling import draw_sample

PIXELS = {"class_0": 700, "1": 100, "2": 100, "3": 100}


@pytest.fixture
def raster(tmp_path):
    return write_map(tmp_path / "map.tif")


def points_of(path):
    return pyogrio.read_dataframe(path, layer="sample")


def label(path, wrong=()):
    """Give every point the class of the map, except some."""
    frame = points_of(path)
    frame["reference"] = [
        "1" if number in wrong else name
        for number, name in zip(frame["point_id"], frame["stratum"], strict=True)
    ]
    with sqlite3.connect(path) as file:  # as QGIS does it: in place
        triggers = [row[0] for row in file.execute("SELECT name FROM sqlite_master "
                                                   "WHERE type = 'trigger'")]  # fmt: skip
        for name in triggers:
            file.execute(f'DROP TRIGGER "{name}"')
        file.executemany(
            "UPDATE sample SET reference = ? WHERE point_id = ?",
            zip(frame["reference"], frame["point_id"].tolist(), strict=True),
        )


def test_points_lie_on_pixels_of_their_stratum(raster, tmp_path):
    drawn = draw_sample(raster, tmp_path / "s.gpkg", size=80, minimum=10)
    assert drawn.pixels == PIXELS
    assert sum(drawn.points.values()) == 80
    frame = points_of(tmp_path / "s.gpkg")
    assert frame.groupby("stratum").size().to_dict() == drawn.points
    assert frame.geometry.is_unique
    assert frame["point_id"].tolist() == list(range(1, 81))
    assert frame["reference"].isna().all()
    with rasterio.open(raster) as file:
        values = [v[0] for v in file.sample(zip(frame.geometry.x, frame.geometry.y, strict=True))]
        column, _ = ~file.transform @ (frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy())
    assert [f"class_{v}" if v == 0 else str(v) for v in values] == frame["stratum"].tolist()
    assert np.allclose(column % 1, 0.5)


def test_the_sample_depends_on_the_seed_only(raster, tmp_path, monkeypatch):
    options = {"size": 60, "minimum": 10}
    draw_sample(raster, tmp_path / "a.gpkg", **options)
    monkeypatch.setattr(sampling, "ROWS", 3)
    draw_sample(raster, tmp_path / "b.gpkg", **options)
    draw_sample(raster, tmp_path / "c.gpkg", **options, seed=1)
    a, b, c = (points_of(tmp_path / f"{name}.gpkg") for name in "abc")
    assert a.equals(b)
    assert not a.geometry.equals(c.geometry)


def test_every_pixel_of_a_stratum_has_the_same_chance(raster, tmp_path, monkeypatch):
    hits, frames = np.zeros(100), []
    monkeypatch.setattr(sampling, "write_layer", lambda path, frame, *rest: frames.append(frame))
    for seed in range(40):
        options = {"size": 100, "minimum": 20, "allocation": "equal", "seed": seed}
        draw_sample(raster, tmp_path / "s.gpkg", **options)
        points = frames[-1][frames[-1]["stratum"] == "2"].geometry
        column = (points.x - 448_000).astype(int) - 20
        row = (5_412_000 - points.y).astype(int) - 5
        np.add.at(hits, (row * 10 + column).to_numpy(), 1)
    assert hits.sum() == 40 * 25
    assert abs(hits - 10).max() < 4.5 * np.sqrt(40 * 0.25 * 0.75)


def test_the_form_offers_classes_and_hides_the_map(raster, tmp_path):
    draw_sample(raster, tmp_path / "s.gpkg", size=60, minimum=10)
    with sqlite3.connect(tmp_path / "s.gpkg") as file:
        ((style,),) = file.execute("SELECT styleQML FROM layer_styles")
    assert '<field name="reference"><editWidget type="ValueMap">' in style
    assert 'name="3" type="QString" value="3"' in style
    assert '<field name="stratum"><editWidget type="Hidden">' in style
    recorded = read_metadata(tmp_path / "s.gpkg")
    assert json.loads(recorded["strata"]) == PIXELS
    assert float(recorded["pixel_area_m2"]) == pytest.approx(1, rel=1e-3)


def test_from_sample_to_accuracy(raster, tmp_path):
    points = tmp_path / "s.gpkg"
    done = command("sample", raster, "-o", points, "--size", 80, "--min-per-class", 10, "--json")
    assert done.exit_code == 0, done.output
    refused("accuracy", points, says="no point of")
    frame = points_of(points)
    wrong = frame[frame["stratum"] == "class_0"]["point_id"].head(5).tolist()
    label(points, wrong)
    found = command("accuracy", points, "--json")
    assert found.exit_code == 0, found.output
    assert "Warning: no interval where all points of a class agree" in found.stderr
    scores = json.loads(found.stdout)
    background = int((frame["stratum"] == "class_0").sum())
    missed = 5 / background * 700
    assert scores["overall"]["value"] == pytest.approx(1 - missed / 1000)
    one = scores["classes"]["1"]
    assert one["users_accuracy"] == {"value": 1.0, "standard_error": None, "ci95": None}
    assert one["producers_accuracy"]["value"] == pytest.approx(100 / (100 + missed))
    assert one["area"]["value"] == pytest.approx(100 + missed, rel=1e-3)
    assert one["area"]["ci95"] > 0
    text = command("accuracy", points).stdout
    assert "overall accuracy 0." in text
    # Strata from a table, and the class on the map from another raster, which is wrong throughout.
    table = tmp_path / "strata.csv"
    table.write_text("stratum,pixels\n" + "".join(f"{k},{v}\n" for k, v in PIXELS.items()))
    again = json.loads(command("accuracy", points, "--strata", table, "--json").stdout)
    assert again["overall"] == scores["overall"]
    other = tmp_path / "other.tif"
    with rasterio.open(raster) as file:
        profile, ids = file.profile, file.read(1)
    with rasterio.open(other, "w", **profile) as file:
        file.write(np.where(ids == 1, 2, ids).astype(np.uint8), 1)
        file.update_tags(1, CLASS_0="class_0", CLASS_1="1", CLASS_2="2", CLASS_3="3")
    judged = json.loads(command("accuracy", points, "--map", other, "--json").stdout)
    assert judged["classes"]["2"]["users_accuracy"]["value"] == pytest.approx(0.5)
    assert judged["classes"]["1"]["producers_accuracy"]["value"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--size", 20), "--min-per-class 50 takes 200 points for 4 classes"),
        (("--min-per-class", 1), "--min-per-class is 1; give at least 2"),
        (("--expect", "ship=0.5"), "--expect ship: there is no such class; there are"),
        (("--expect", "1=1"), "give an accuracy between 0 and 1"),
        (("--standard-error", 0), "--standard-error is 0"),
        (("-o", "points.shp"), "give a name that ends in .gpkg"),
    ],
)
def test_impossible_options_are_refused(raster, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    refused("sample", raster, *options, says=says)
    assert contents(tmp_path) == before
