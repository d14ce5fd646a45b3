"""The snippets of docs/python-api.md on results, run as they stand there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from fakes import Colors, write_discs

import geoseg
from geoseg.analysis.layer_file import read_metadata

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python-api.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.fixture
def results(tmp_path, monkeypatch) -> geoseg.Prediction:
    """Two dates of a scene and two districts, in the current folder."""
    monkeypatch.chdir(tmp_path)
    model = geoseg.TileModel(Colors(), device="cpu")
    scene = write_discs(tmp_path / "scene.tif", 300, 400)
    found = geoseg.predict(
        scene, out="results", model=model, tile_size=128, overlap=32, logits=True
    )
    shutil.copytree("results", "later")
    left, bottom, right, top = found.objects.total_bounds
    middle = (left + right) / 2
    halves = [shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)]
    districts = geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs=32633)
    districts.to_file("districts.gpkg")
    return found


def snippet(name: str) -> str:
    (found,) = [each for each in SNIPPETS if f"geoseg.{name}(" in each]
    return found


def label_half_of_the_ships_as_planes(path: Path) -> None:
    """Label the points of a sample as somebody would who finds other things on the ground."""
    frame, metadata = pyogrio.read_dataframe(path, layer="sample"), read_metadata(path)
    ships = frame["stratum"] == "ship"
    wrong = ships & (ships.cumsum() % 2 == 0)
    frame["reference"] = np.where(wrong, "plane", frame["stratum"])
    path.unlink()
    pyogrio.write_dataframe(frame, path, layer="sample", driver="GPKG", dataset_metadata=metadata)


def test_results_are_shown_exported_decoded_and_compared(results, capsys):
    exec(snippet("change"), {})
    assert capsys.readouterr().out.startswith("{'new': 0, 'gone': 0, 'changed': 0, 'same': ")
    ships = results.objects[results.objects["class"] == "ship"]
    exported = pyogrio.read_dataframe("scene.geojson")
    assert len(exported) == (ships["confidence"] >= 0.8).sum() > 0
    assert Path("report.html").is_file()


def test_objects_are_counted_and_derived(results):
    names: dict = {}
    exec(snippet("count"), names)
    ships = (results.objects["class"] == "ship").sum()
    assert names["districts"]["ship_count"].sum() == ships > 0
    assert names["squares"]["objects"].sum() == len(results.objects)
    assert {*pyogrio.list_layers("derived.gpkg")[:, 0]} >= {"centroids", "heatmap"}


def test_a_sample_says_how_good_the_map_is(results, capsys):
    draw, judge = re.split(r"^#.*$", snippet("accuracy"), flags=re.M)
    names: dict = {}
    exec(draw, names)
    label_half_of_the_ships_as_planes(Path("sample.gpkg"))
    exec(judge, names)
    by_name = {item.name: item for item in names["found"].classes}
    assert by_name["ship"].users.value == pytest.approx(0.5, abs=0.03)
    assert by_name["plane"].users.value == 1
    assert "ship 0.5" in capsys.readouterr().out
