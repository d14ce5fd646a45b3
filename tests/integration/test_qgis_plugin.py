"""The QGIS plugin inside QGIS, where that is installed, with a command that takes no time.

QGIS belongs to the Python of the system, so it runs in a process of its own: all algorithms in one
session, and two runs of qgis_process. QGIS_PYTHON names another Python that has QGIS.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyogrio
import pytest
from fakes import Colors, write_discs

from geoseg.analysis.sampling import draw_sample
from geoseg.classes import ISAID
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
PLUGINS = REPOSITORY / "qgis"
PYTHON = os.environ.get("QGIS_PYTHON", "/usr/bin/python3")
QGIS_PROCESS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")


def has_qgis() -> bool:
    command = [PYTHON, "-c", "import qgis.core"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return (
        Path(PYTHON).exists()
        and subprocess.run(command, capture_output=True, check=False, env=environment).returncode
        == 0
    )


pytestmark = pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene and a prediction of it."""
    folder = tmp_path_factory.mktemp("qgis")
    scene = write_discs(folder / "scene.tif", 300, 300)
    model = TileModel(Colors(), device="cpu")
    predict(scene, model, OutputOptions(folder), TilingOptions(128, 32))
    draw_sample(folder / "scene.classes.tif", folder / "sample.gpkg", size=20, minimum=2)
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """Variables of a fresh profile, with the fake command first on the PATH."""
    bin_ = folder / "bin"
    bin_.mkdir()
    command = bin_ / "geoseg"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {FIXTURES / "fake_geoseg.py"} "$@"\n')
    command.chmod(0o755)
    (folder / "runtime").mkdir(mode=0o700)
    return {
        "PATH": f"{bin_}:/usr/bin:/bin",
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "runtime"),
        "LANG": "C.UTF-8",
        "QT_QPA_PLATFORM": "offscreen",
        "FAKE_GEOSEG_LOG": str(folder / "log"),
        "FAKE_GEOSEG_RESULTS": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        **{
            name: os.environ[name]
            for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "QGIS_PREFIX_PATH")
            if name in os.environ and "QGIS_PYTHON" in os.environ
        },
    }


@pytest.fixture(scope="module")
def session(folder: Path, environment: dict[str, str]) -> dict:
    """What came of a session in which every algorithm ran."""
    done = subprocess.run(
        [PYTHON, str(FIXTURES / "qgis_session.py"), str(PLUGINS), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=500,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"menu"')]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def words(session: dict, folder: Path) -> list[list[str]]:
    """The commands that ran, in order."""
    return [json.loads(line)["words"] for line in (folder / "log").read_text().splitlines()]


def test_all_algorithms_are_listed_with_icon_and_help(session):
    from geoseg_qgis.catalog import COMMANDS

    assert set(session["algorithms"]) == {command.name for command in COMMANDS}
    for command in COMMANDS:
        title, group, parameters, has_icon, text = session["algorithms"][command.name]
        assert (title, group, has_icon) == (command.title, command.group, True)
        assert parameters == [each.name for each in command.parameters]
        assert all(each.help in text for each in command.parameters)
    assert session["menu"] == [f"{command.title}…" for command in COMMANDS]
    assert session["left"] == [True, 0]


def test_predict_returns_its_results_and_reports(session, folder, words):
    done = session["predict"]
    assert done["ok"]
    assert done["results"]["CLASSES"] == str(folder / "out" / "scene.classes.tif")
    assert done["results"]["COUNT"] == 3
    assert done["shares"][-4:] == [25, 50, 75, 100]
    assert "warning: scene.tif: the stretch is a guess" in done["lines"]
    assert words[0][:2] == ["predict", "--json"]
    assert words[0][-2:] == ["--", str(folder / "scene.tif")]


def test_results_are_loaded_styled_in_one_group_over_the_scene(session, folder):
    ((title, layers),) = session["tree"]
    classes = [name for name, shape in pyogrio.list_layers(folder / "scene.gpkg") if shape]
    assert title == "scene"
    assert [layer[0] for layer in layers] == [*reversed(classes), "scene.classes", "scene"]
    by_name = {layer[0]: layer for layer in layers}
    colors = {label.name: label.color for label in ISAID}
    for name in classes:
        assert by_name[name][3] == "#{:02x}{:02x}{:02x}".format(*colors[name])
    assert by_name["scene.classes"][1:3] == [False, "paletted"]
    assert session["tree again"] == session["tree"]


def test_files_that_are_open_are_not_replaced(session):
    assert not session["overwrite"]["ok"]
    assert "scene.gpkg is open in this project: remove its" in session["overwrite"]["lines"][-1]


def test_a_rectangle_is_given_in_the_crs_of_the_scene(session, words):
    (given,) = [each for each in words if "--aoi" in each]
    assert given[given.index("--aoi") + 1] == "448010,5411900,448060.5,5411950"
    output = given[given.index("--output") + 1]
    assert output != "TEMPORARY_OUTPUT"
    assert session["extent"]["results"]["OUTPUT"] == output


def test_errors_of_the_command_are_those_of_the_algorithm(session):
    assert not session["fail"]["ok"]
    assert session["fail"]["lines"][-1] == "Error: scene.tif is no raster; give a GeoTIFF"
    assert not session["service"]["ok"]
    assert "map is not a file but a service" in session["service"]["lines"][-1]


def test_a_run_that_is_stopped_ends_cleanly_and_says_how_to_continue(session, folder):
    assert session["stop"]["ok"]
    assert session["stop"]["results"] == {}
    assert session["stop"]["lines"][-1].startswith("Run it again with the same output folder")
    assert [path.name for path in (folder / "stopped").iterdir()] == ["scene.unfinished"]


def test_predict_works_in_models(session, folder):
    assert session["model"]["ok"]
    assert (folder / "of model" / "scene.gpkg").is_file()


def test_labels_are_written_with_unsaved_edits_and_the_names_of_layers(session, folder, words):
    assert session["preparelabels"]["ok"]
    (given,) = [each for each in words if each[0] == "prepare"]
    scene, _, patches = given[given.index("--") + 1 :]
    assert (scene, patches) == (str(folder / "scene.tif"), str(folder / "patches"))
    assert given[given.index("--field") + 1] == "class"
    kept = pyogrio.read_dataframe(folder / "patches" / "labels.gpkg")
    assert sorted(kept["class"]) == ["plane", "ship"]
    assert "--update" in given
    assert kept.set_index("class")["confidence"].dropna().to_dict() == {"ship": 0.5}
    assert kept.crs == "EPSG:32633"
    assert kept.area.tolist() == [100, 100]


def test_the_other_commands_return_their_results(session, folder, words):
    assert session["vectorize"]["results"]["COUNT"] == 3
    assert session["export"]["results"] == {"OUTPUT": str(folder / "exported")}
    assert session["train"]["results"]["WEIGHTS"] == str(folder / "run" / "best.safetensors")
    confusion = str(folder / "confusion.png")
    assert session["evaluate"]["results"] == {"CONFUSION": confusion, "MIOU": 0.5, "ACCURACY": 0.75}
    assert session["evaluate"]["lines"][-1] == "ship: iou 0.500, pixels 1,200"
    assert session["evaluateobjects"]["results"] == {"PRECISION": 0.25, "RECALL": 0.5}
    assert session["fetchweights"]["results"]["WEIGHTS"] == "/cache/segnext_s_isaid.pkl"
    by_name = {each[0]: each for each in words}
    assert {"--set", "stages.0.steps=300", "--pretrained", "default"} <= set(by_name["train"])
    assert {"--format", "geojson", "--t-srs", "EPSG:4326"} <= set(by_name["export"])


def test_what_follows_a_prediction_runs_and_is_loaded(session, folder, words):
    by_name = {each[0]: each for each in words}
    objects = str(folder / "scene.gpkg")
    for name in ("count", "derive", "change", "sample", "suggest"):
        output = str(folder / f"new {name}.gpkg")
        assert session[name]["results"] == {"OUTPUT": output, "OBJECTS": output}
    assert session["report"]["results"] == {"OUTPUT": str(folder / "new report.html")}
    assert session["tree of results"][:5] == ["sample"] * 5  # each wrote a copy of the sample
    assert by_name["count"][-2] == objects  # and the units, which are polygons of a layer
    assert by_name["count"][-1].endswith("polygons.gpkg")
    assert by_name["change"][-2:] == [objects, objects]
    assert session["accuracy"]["results"] == {"OVERALL": 0.75}
    assert session["accuracy"]["lines"][-2:] == [
        "overall accuracy 0.750 ± 0.125",
        "ship: user's 0.750 ± 0.125, producer's -, area 1,200 ± - m²",
    ]


def test_the_form_of_a_sample_offers_all_classes_and_hides_the_map(session):
    form, names = session["sample form"], [label.name for label in ISAID]
    assert form["widgets"]["reference"] == "ValueMap"
    assert form["widgets"]["stratum"] == "Hidden"
    assert form["map"] == [{name: name} for name in names]
    assert any(set(names) <= set(box) for box in form["boxes"])
    assert form["label"] == "Class on the ground"
    assert form["rules"] == ["to be labeled", "labeled"]


def test_setting_up_needs_a_plugin_that_was_built(session):
    assert not session["setup"]["ok"]
    assert "make qgis-plugin makes the zip" in session["setup"]["lines"][-1]


@pytest.mark.skipif(QGIS_PROCESS is None, reason="there is no qgis_process")
def test_the_commands_of_the_page_run_through_qgis_process(folder, environment):
    profile = Path(environment["HOME"], ".local/share/QGIS/QGIS3/profiles/default/python/plugins")
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "geoseg_qgis").symlink_to(PLUGINS / "geoseg_qgis")

    output = folder / "of process"
    page = (REPOSITORY / "docs" / "qgis.md").read_text("utf-8")
    commands = re.findall(r"^qgis_process (.*)$", page, re.M)
    assert len(commands) == 2
    for command in commands:
        filled = command.replace("ortho.tif", shlex.quote(str(folder / "scene.tif")))
        filled = filled.replace("results", shlex.quote(str(output)))
        done = subprocess.run(
            [QGIS_PROCESS, *shlex.split(filled)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"OBJECTS:\t{output / 'scene.gpkg'}" in done.stdout
