"""The QGIS plugin where it needs no QGIS: commands, progress, finding, installing, the zip."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import stat
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import click
import fake_geoseg
import pytest
from geoseg_qgis import child, commands, install
from geoseg_qgis.catalog import COMMANDS, installation, objects, training
from geoseg_qgis.commands import Progress, arguments, last_json, parse_progress, shell_line

from geoseg.cli.main import main
from geoseg.geo.layers.formats import FORMATS
from geoseg.model.checkpoint import read_metadata
from geoseg.model.hub import PUBLIC_WEIGHTS
from geoseg.model.load import locate_weights
from geoseg.train.recipe import load_recipe
from geoseg.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN = REPOSITORY / "qgis" / "geoseg_qgis"
BY_NAME = {command.name: command for command in COMMANDS}
RUNNING = [command for command in COMMANDS if command.words]
VALUES = {
    **{"raster": "scene.tif", "layer": "area.gpkg", "layers": "drawn.gpkg", "field": "class"},
    **{"extent": "-10.5,1,2,3.25", "crs": "EPSG:25832", "file": "a file", "folder": "data"},
    **{"text": "1,2,3", "flag": True, "integer": 64, "number": 0.25, "words": "", "load": True},
    **{"new folder": "out", "new file": "out.png"},
}


def values_of(command):
    """A value for every parameter that can be given together."""
    values = {
        each.name: each.choices[0] if each.kind == "choice" else VALUES[each.kind]
        for each in command.parameters
    }
    if command.name == "predict":
        values |= {"AREA": None, "RESCALE": "0,255"}
    return values


# -- Commands ---------------------------------------------------------------------------------


def parsed(words):
    """The options and arguments that click finds; files need not exist."""
    ctx = click.Context(main)
    while isinstance(ctx.command, click.Group):
        ctx = click.Context(ctx.command.get_command(ctx, words[0]), parent=ctx)
        words = words[1:]
    values, extra, _ = ctx.command.make_parser(ctx).parse_args(list(words))
    assert not extra
    for param in ctx.command.params:
        if isinstance(values.get(param.name), str) and not isinstance(param.type, click.Path):
            param.type_cast_value(ctx, values[param.name])
    return values


@pytest.mark.parametrize("command", RUNNING, ids=lambda command: command.name)
def test_the_command_takes_every_parameter(command):
    words = arguments(command, values_of(command))
    assert parsed(words)
    flags = {each.flag for each in command.parameters if each.flag}
    assert flags <= set(words), flags - set(words)


@pytest.mark.parametrize("command", RUNNING, ids=lambda command: command.name)
def test_the_command_takes_the_defaults(command):
    values = {
        each.name: (each.default or (each.choices or [VALUES[each.kind]])[0])
        if each.default is not None or not each.optional
        else None
        for each in command.parameters
    }
    assert parsed(arguments(command, values))


def test_arguments_are_what_a_user_would_type():
    words = arguments(
        BY_NAME["predict"],
        {
            "SCENE": "-strange.tif",
            "EXTENT": "-1,2,3,4",
            "MIN_AREA": 0.1 + 0.2,
            "TTA": True,
            "NO_SMOOTH": False,
            "EXTRA": "--workers 2 --collar off",
            "OUTPUT": "my results",
            "LOAD": True,
        },
    )
    assert shell_line(["geoseg", *words]) == (
        "geoseg predict --json --aoi -1,2,3,4 --min-area 0.3 --tta --workers 2 --collar off "
        '--output "my results" -- -strange.tif'
    )
    found = parsed(words)
    assert (found["aoi"], found["scenes"]) == ("-1,2,3,4", ("-strange.tif",))


def test_zero_is_a_value():
    words = arguments(BY_NAME["predict"], {"SCENE": "a.tif", "MIN_AREA": 0.0})
    assert words[words.index("--min-area") + 1] == "0"


def test_training_starts_from_weights_of_the_recipes_network():
    defaults = {each.name: each.default for each in BY_NAME["train"].parameters}
    assert defaults["RECIPE"] == "lite2_own"
    known = read_metadata(locate_weights(defaults["PRETRAINED"]))
    assert load_recipe(defaults["RECIPE"]).model.variant == known.variant


def test_steps_become_a_setting_of_the_recipe():
    words = arguments(BY_NAME["train"], {"RECIPE": "lite2_own", "STEPS": 90})
    settings = ["stages.0.steps=90", "optimizer.warmup_steps=9", "val_every=15"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert words == ["train", *options, "--", "lite2_own"]


@pytest.mark.parametrize("steps", [20, 50, 300, 1500])
def test_a_run_of_any_length_warms_up_and_is_validated(steps):
    changes = dict(each.split("=") for each in training.shortened(steps))
    recipe = load_recipe("lite2_own", **{key: int(value) for key, value in changes.items()})
    assert recipe.optimizer.warmup_steps < steps
    assert 4 <= recipe.steps // recipe.val_every <= 6
    if steps == 1500:
        assert recipe == load_recipe("lite2_own")


def test_a_rectangle_and_polygons_exclude_each_other():
    with pytest.raises(ValueError, match="one of these only: Only in this rectangle, Only within"):
        arguments(BY_NAME["predict"], {"SCENE": "a.tif", "EXTENT": "0,0,1,1", "AREA": "a.gpkg"})


def test_choices_are_those_of_geoseg():
    assert [entry.name for entry in PUBLIC_WEIGHTS] == list(installation.PUBLIC_WEIGHTS)
    assert set(FORMATS) == set(objects.FORMATS)


def test_results_are_read_from_what_the_commands_print():
    assert last_json('a note\n{"a": 1}\n{"a": 2}\n') == {"a": 2}
    with pytest.raises(ValueError, match="printed no result"):
        last_json("nothing")
    row = '{"objects": {"ship": {"found": 4, "truth": 2, "matched": 1}}}'
    assert BY_NAME["evaluateobjects"].report(row) == ["ship: found 4, truth 2, matched 1"]
    assert BY_NAME["evaluateobjects"].results({}, row) == {"PRECISION": 0.25, "RECALL": 0.5}


def test_messages_name_what_the_dialog_has():
    labels = {each.flag: each.label for each in BY_NAME["predict"].parameters if each.flag}
    said = commands.in_words_of_the_dialog(
        "a-b.tif exists; give --overwrite or another folder (-o), --gsd 0.1 or --mask-out x", labels
    )
    assert said == (
        "a-b.tif exists; give “Replace earlier results” or another folder (“Folder of the "
        "results”), “Pixel size for the model, m” 0.1 or --mask-out x"
    )


# -- Progress ---------------------------------------------------------------------------------


def test_progress_is_parsed():
    line = '{"progress": "scene.tif", "done": 3, "total": 4, "unit": "px"}'
    assert parse_progress(line).percent == 75
    for other in ("Warning: x", '{"progress": 1}', '{"progress"', '{"state": "done"}'):
        assert parse_progress(other) is None


def test_the_time_left_is_told_now_and_then():
    clock, told = commands.Clock(), {}
    at_start = Progress("train", 100, 300, "step")  # a run that was continued
    assert clock.is_new(at_start, 1000)
    for second in range(200):
        progress = Progress("train", 100 + second // 2, 300, "step")
        assert not clock.is_new(progress, 1000 + second)
        if (left := clock.left(progress, 1000 + second)) is not None:
            told[second] = left
    assert told == {20: 380, 80: 320, 140: 260}
    assert clock.is_new(Progress("predict", 0, 9, "px"), 1300)
    assert clock.left(Progress("predict", 0, 9, "px"), 1400) is None  # nothing is done yet


# -- The child --------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A command geoseg that prints what the real one would."""
    monkeypatch.setenv("FAKE_GEOSEG_LOG", str(tmp_path / "log"))
    return [sys.executable, fake_geoseg.__file__]


def test_lines_arrive_from_both_streams(fake):
    lines = []
    ended = child.run(
        [*fake, "weights", "fetch", "--", "tiny"], lambda *line: lines.append(line), lambda: False
    )
    assert (ended.code, ended.stopped) == (0, False)
    assert ended.stdout.splitlines()[0] == "/cache/tiny.pkl"
    told = [parse_progress(line).done for line, is_error in lines if is_error]
    assert told == [1, 2, 3, 4]


def test_a_stopped_command_ends_by_itself(fake, tmp_path):
    lines = []
    words = [*fake, "predict", "--slow", "--output", str(tmp_path)]
    ended = child.run(words, lambda *line: lines.append(line), lambda: len(lines) > 2)
    assert ended.stopped
    assert ended.code != 0
    if sys.platform != "win32":
        assert (ended.code, lines[-1]) == (143, ("Terminated", True))
        assert (tmp_path / "scene.unfinished").is_dir()


def test_a_command_that_does_not_stop_is_killed(monkeypatch):
    monkeypatch.setattr(child, "GRACE", 0.2)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on'); time.sleep(60)"
    lines, start = [], time.monotonic()
    ended = child.run(
        [sys.executable, "-u", "-c", stubborn], lambda *each: lines.append(each), lambda: lines
    )
    assert ended.stopped
    assert time.monotonic() - start < 20


@pytest.fixture
def windows(monkeypatch):
    """The plugin's modules as on Windows, where a process opens a console by default."""
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(child, "WINDOWS", True)
    yield importlib.reload(install)
    monkeypatch.undo()
    importlib.reload(install)


def test_commands_open_no_console_on_windows(windows, monkeypatch):
    started = []

    def start(words, **options):
        started.append(options)
        raise OSError("no such program")

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(OSError, match="no such program"):
        child.run(["geoseg"], lambda *line: None, lambda: False)
    assert not windows.usable("python")
    assert [each["creationflags"] for each in started] == [0x08000200, 0x08000000]
    assert not started[0]["start_new_session"]


def test_paths_of_windows(windows, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / windows.STAMP).write_text("")
    found = Path(windows.find_command("", tmp_path / "environment"))
    assert found == tmp_path / "environment" / "Scripts" / "geoseg.exe"
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "Python312"))
    launcher, inside = program(tmp_path / "py"), program(tmp_path / "Python312" / "python.exe")
    assert [*windows.pythons()] == [str(inside), str(launcher)]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no sessions")
def test_a_grandchild_that_stays_does_not_hold_the_algorithm(monkeypatch):
    monkeypatch.setattr(child, "IDLE", 2)
    start = time.monotonic()
    ended = child.run(["sh", "-c", "sleep 30 & echo done"], lambda *line: None, lambda: False)
    assert ended.stdout == "done"
    assert time.monotonic() - start < 20


def test_an_error_in_qgis_ends_the_command(fake, tmp_path):
    def fail(line, is_error):
        raise RuntimeError(line)

    with pytest.raises(RuntimeError):
        child.run([*fake, "predict", "--slow", "--output", str(tmp_path)], fail, lambda: False)


def test_the_child_does_not_inherit_the_libraries_of_qgis(fake, tmp_path, monkeypatch):
    for name in ("PYTHONHOME", "GDAL_DATA"):
        monkeypatch.setenv(name, "of QGIS")
    child.run([*fake, "--version"], lambda *line: None, lambda: False)
    log = (tmp_path / "log").read_text()
    assert '{"PYTHONHOME": null, "GDAL_DATA": null, "GEOSEG_PROGRESS": "json"}' in log


# -- Finding and installing -------------------------------------------------------------------


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="programs have suffixes")
def test_the_command_is_found_by_setting_then_path_then_environment(tmp_path, monkeypatch):
    own, environment = tmp_path / "own", tmp_path / "environment"
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(install.MissingError, match="run the algorithm “Set up geoseg”"):
        install.find_command("", environment)
    inside = program(environment / "bin" / "geoseg")
    with pytest.raises(install.MissingError):  # an installation that was not finished
        install.find_command("", environment)
    (environment / install.STAMP).write_text("")
    assert install.find_command("", environment) == str(inside)
    on_path = program(tmp_path / "path" / "geoseg")
    assert install.find_command("", environment) == str(on_path)
    assert install.find_command(str(program(own)), environment) == str(own)
    with pytest.raises(install.MissingError, match="is not a program"):
        install.find_command(str(tmp_path / "gone"), environment)


def test_a_python_that_is_too_old_is_refused(tmp_path, monkeypatch):
    assert install.find_python(sys.executable) == sys.executable
    monkeypatch.setattr(install, "OLDEST", (3, 99))
    monkeypatch.setattr(install, "pythons", lambda: [sys.executable])
    with pytest.raises(install.MissingError, match=r"is no Python 3\.99 or newer"):
        install.find_python(sys.executable)
    with pytest.raises(install.MissingError, match=r"no Python 3\.99 or newer"):
        install.find_python("")


def test_setting_up_runs_pinned_steps_and_is_done_once(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "HERE", tmp_path)
    with pytest.raises(install.MissingError, match="make qgis-plugin"):
        install.set_up(tmp_path / "environment", sys.executable, lambda *step: None)
    source = tmp_path / "geoseg-0.1.0.tar.gz"
    source.write_bytes(b"source")
    steps = []

    def run(words, title, start, end):
        steps.append((words, start, end))
        (tmp_path / "environment").mkdir(exist_ok=True)

    for _ in range(2):
        command = install.set_up(tmp_path / "environment", sys.executable, run)
    assert [step[1:] for step in steps] == [(0, 3), (3, 90), (90, 97), (97, 100)]
    assert steps[0][0][1:3] == ["-m", "venv"]
    assert steps[1][0][-3:] == ["--require-hashes", "-r", str(install.LOCK)]
    assert steps[2][0][-3:] == ["--no-deps", "--no-build-isolation", str(source)]
    assert steps[3][0] == [command, "--version"]
    install.set_up(tmp_path / "environment", sys.executable, run, again=True)
    assert len(steps) == 8


def test_the_lock_pins_what_geoseg_needs():
    lock = (PLUGIN / "requirements.lock").read_text()
    assert install.packages(lock) > 50
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", lock, re.M)}
    text = (REPOSITORY / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)[1]
    needed += re.search(r"^train = \[(.*?)^\]", text, re.S | re.M)[1]
    names = {name.lower() for name in re.findall(r'"([\w-]+)', needed)}
    assert names <= pinned
    entries = re.split(r"^(?=\S)", lock, flags=re.M)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    assert (
        "torch==" + re.search(r"torch==(\S+)", lock)[1]
        in (REPOSITORY / "constraints.txt").read_text().split()
    )
    assert install.collected("Collecting torch==2.13.0 (from -r lock)") == "torch"
    assert install.collected("Downloading torch") is None


# -- The sources and the zip ------------------------------------------------------------------

OLD_PYTHONS = [
    str(path)
    for path in (
        *Path.home().glob(".pyenv/versions/3.9.*/bin/python"),
        *Path("/usr/bin").glob("python3.9"),
    )
]
SOURCES = sorted(PLUGIN.rglob("*.py"))
FREE = {"child", "commands", "install"}
HEAVY = {"numpy", "torch", "osgeo", "geoseg", "rasterio", "shapely", "PyQt5", "PyQt6"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_sources_are_python_3_9_and_import_nothing_heavy(path):
    text = path.read_text("utf-8")
    tree = ast.parse(text, feature_version=(3, 9))
    assert not any(type(node).__name__ == "Match" for node in ast.walk(tree))
    if len(tree.body) > 1 and path.parent.name != "catalog":
        assert "from __future__ import annotations" in text
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    others = imported - set(sys.stdlib_module_names)
    assert not imported & HEAVY
    free = path.stem in FREE or path.parent.name == "catalog"
    assert others <= (set() if free else {"qgis", "processing"})
    assert text.count("\n") <= 380


QGIS_CLASS = re.compile(r"Q[a-zA-Z0-9]+")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_enums_are_spelled_as_qt_6_wants_them(path):
    """`QgsProcessing.SourceType.TypeVectorPolygon`: PyQt6 has no `QgsProcessing.TypeVectorPolygon`.

    What is no enum begins with a small letter, or is called at once.
    """
    tree = ast.parse(path.read_text("utf-8"))
    scopes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    bare = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and QGIS_CLASS.fullmatch(node.value.id)
        and node.attr[0].isupper()
        and id(node) not in scopes | called
    ]
    assert set(bare) <= {"QgsVectorFileWriter.ActionOnExistingFile"}  # the enum itself


def test_tables_of_parameters_need_no_union_at_run_time():
    """Annotations may say `X | Y`; Python 3.9 does not evaluate them."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                assert not isinstance(node.args[1], ast.BinOp), path


def test_every_algorithm_has_an_icon():
    names = {path.stem for path in (PLUGIN / "icons").glob("*.svg")}
    assert names == {"geoseg", *BY_NAME}
    for name in names:
        assert ET.parse(PLUGIN / "icons" / f"{name}.svg").getroot().get("viewBox") == "0 0 24 24"


def test_the_page_names_every_algorithm():
    page = (REPOSITORY / "docs" / "qgis.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `geoseg:(\w+)` \|", page, re.M)
    assert rows == [(command.title, command.name) for command in COMMANDS]
    assert f"geoseg_qgis-{VERSION}.zip" in page


def test_translators_get_every_text(tmp_path):
    target = tmp_path / "geoseg_de.ts"
    program = [sys.executable, str(REPOSITORY / "qgis" / "make_texts.py"), str(target)]
    subprocess.run(program, check=True)
    found = {message.findtext("source") for message in ET.parse(target).iter("message")}
    assert {command.help for command in COMMANDS} <= found
    assert {each.label for command in COMMANDS for each in command.parameters} <= found
    assert "Command geoseg (empty: on the PATH, or as set up)" in found  # in a call of tr


def test_metadata_is_that_of_geoseg():
    metadata = configparser.ConfigParser()
    metadata.read(PLUGIN / "metadata.txt", "utf-8")
    general = metadata["general"]
    assert general["version"] == VERSION
    assert general["hasProcessingProvider"] == "yes"
    assert general["supportsQt6"] == "True"
    assert (PLUGIN / general["icon"]).is_file()


def test_the_zip_has_the_plugin_and_the_source_of_geoseg(tmp_path):
    pytest.importorskip("setuptools")
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "qgis" / "make_plugin.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SETUPTOOLS_SCM_PRETEND_VERSION": VERSION},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (target,) = tmp_path.iterdir()
    assert target.stat().st_size < 25 * 2**20  # what plugins.qgis.org takes
    with zipfile.ZipFile(target) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "plugins")
    assert {name.partition("/")[0] for name in names} == {"geoseg_qgis"}
    sources = {path.relative_to(PLUGIN.parent).as_posix() for path in SOURCES}
    extra = {"metadata.txt", "requirements.lock", "LICENSE", f"geoseg-{VERSION}.tar.gz"}
    assert sources | {f"geoseg_qgis/{name}" for name in extra} <= names
    assert not any("__pycache__" in name for name in names)
    with tarfile.open(tmp_path / "plugins" / "geoseg_qgis" / f"geoseg-{VERSION}.tar.gz") as source:
        inside = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "cli/main.py", "geoseg/native/kernels.c"} <= inside
    assert "geoseg/model/weights/segnext_t_aerial.safetensors" in inside


@pytest.mark.skipif(not OLD_PYTHONS, reason="there is no Python 3.9")
def test_what_needs_no_qgis_runs_in_python_3_9():
    code = """
import sys
from geoseg_qgis import catalog, child, commands, install
ended = child.run([sys.executable, "-c", "print(1)"], lambda *line: None, lambda: False)
print(commands.arguments(catalog.COMMANDS[0], {"SCENE": "a.tif"}), ended.stdout)
"""
    done = subprocess.run(
        [OLD_PYTHONS[0], "-c", code],
        cwd=PLUGIN.parent,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "['predict', '--json', '--', 'a.tif'] 1\n", done.stderr
