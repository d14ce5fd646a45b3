"""Many scenes, again and again: what is done stays done, and what is replaced goes whole."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import geopandas
import pyogrio
import pytest
import rasterio
import rasterio.shutil
from click.testing import CliRunner
from fakes import Colors, write_discs
from stopping import Counting, Stop, stop_after

from geoseg.atomic import WorkingFolder
from geoseg.classes import ISAID
from geoseg.cli.main import main
from geoseg.errors import MachineError, OptionError, OutputError
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.earlier import Record
from geoseg.pipeline.options import ComputeOptions, OutputOptions, SceneOptions, TilingOptions
from geoseg.pipeline.predict import predict

SHAPEFILE = (".dbf", ".shx", ".prj", ".cpg", ".qml")
TILING = {
    "tiling": TilingOptions(tile_size=128, overlap=32),
    "compute": ComputeOptions(tiles_per_block=1, workers=2),
}


def run(scene, folder, model=None, progress=lambda done, total: None, scene_options=None, **more):
    parts = more.pop("parts", ())
    output = OutputOptions(Path(folder), **more)
    model = TileModel(model or Counting(), device="cpu")
    return predict(
        scene, model, output, scene=scene_options, **TILING, parts=parts, progress=progress
    )


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def model(monkeypatch) -> Counting:
    """What the command line computes with."""
    stand_in = Counting()
    monkeypatch.setattr("geoseg.model.load.load_model", lambda source: stand_in)
    return stand_in


def command(*arguments) -> object:
    common = ["predict", "--tile-size", "128", "--overlap", "32"]
    return CliRunner().invoke(main, [*common, *map(str, arguments)])


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_discs(tmp_path_factory.mktemp("scene") / "town.tif", 200, 220)


# --- done is done ---------------------------------------------------------------------------


def test_eight_scenes_twice(tmp_path, model):
    scenes = [
        write_discs(tmp_path / f"scene {i}.tif", 130 + i, 150, seed=i, nodata=None)
        for i in range(8)
    ]
    first = command(*scenes, "-o", tmp_path / "out", "--json")
    assert first.exit_code == 0, first.output
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [Path(line["scene"]).name for line in lines] == [path.name for path in scenes]
    assert {line["state"] for line in lines} == {"done"}
    before, tiles = contents(tmp_path), model.tiles
    again = command(*scenes, "-o", tmp_path / "out", "--json")
    assert again.exit_code == 0
    assert model.tiles == tiles
    assert [json.loads(line) for line in again.stdout.splitlines()] == [
        line | {"state": "skipped"} for line in lines
    ]
    said = command(*scenes, "-o", tmp_path / "out")
    assert said.exit_code == 0
    assert said.stdout == "".join(f"{path}: already done\n" for path in scenes)
    assert contents(tmp_path) == before
    anew = command(*scenes, "-o", tmp_path / "out", "--overwrite", "-q")
    assert (anew.exit_code, anew.output) == (0, "")
    assert model.tiles == 2 * tiles


def test_a_batch_goes_on_after_failures(tmp_path, scene, model):
    """One that cannot be opened, one that needs too much memory, one that is done, one new."""
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no raster")
    other, huge = (write_discs(tmp_path / name, 100, 90) for name in ("other.tif", "huge.tif"))
    run(scene, tmp_path / "out")
    forward, calls = Counting.forward, []

    def hungry(self, x):
        calls.append(len(x))
        if len(calls) == 1:
            raise MemoryError("99 GB")
        return forward(self, x)

    model.forward = hungry.__get__(model)
    found = command(bad, huge, scene, other, "-o", tmp_path / "out", "--json")
    states = [json.loads(line)["state"] for line in found.stdout.splitlines()]
    assert states == ["failed", "failed", "skipped", "done"]
    assert found.exit_code == 1
    assert f"2 of 4 scenes failed: {bad}, {huge}" in found.stderr
    assert f"Error: {huge}: the machine refuses more memory" in found.stderr


def test_a_single_failure_is_one_object_too(tmp_path, model):
    found = command(tmp_path / "absent.tif", "-o", tmp_path / "out", "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["state"] == "failed"
    assert "cannot open" in json.loads(found.stdout)["error"]
    assert not (tmp_path / "out").exists()


def test_what_has_changed_is_named(tmp_path):
    town = write_discs(tmp_path / "town.tif", 130, 140)
    area = tmp_path / "area.geojson"
    with rasterio.open(town) as file:
        frame = geopandas.GeoSeries.from_wkt(
            ["POLYGON ((448000 5411930, 448070 5411930, 448070 5412000, 448000 5411930))"],
            crs=file.crs,
        ).to_frame("geometry")
    frame.to_crs(4326).to_file(area)
    scene_options = SceneOptions(aoi=str(area))
    run(town, tmp_path / "out", scene_options=scene_options)
    before = contents(tmp_path / "out")
    for said, change in (
        ("--simplify was not given and is 2.0", {"simplify": 2.0}),
        ("--format was gpkg and is csv,gpkg", {"formats": ("gpkg", "csv")}),
        ("--confidence was off and is on", {"confidence": True}),
        ("--aoi was area.geojson and is not given", {"scene_options": None}),
    ):
        with pytest.raises(OutputError, match=said):
            run(town, tmp_path / "out", **{"scene_options": scene_options, **change})
    assert run(town, tmp_path / "out", scene_options=scene_options).state == "skipped"
    frame.iloc[:0].to_file(tmp_path / "town.tif.aux.xml", driver="GeoJSON")  # QGIS was here
    assert run(town, tmp_path / "out", scene_options=scene_options).state == "skipped"
    frame.scale(0.9, 0.9).to_crs(4326).to_file(area)
    with pytest.raises(OutputError, match="has changed since; give --overwrite"):
        run(town, tmp_path / "out", scene_options=scene_options)
    write_discs(town, 130, 140, seed=8)
    with pytest.raises(OutputError, match="has changed since"):
        run(town, tmp_path / "out", scene_options=scene_options)
    assert contents(tmp_path / "out") == before
    assert run(town, tmp_path / "out", scene_options=scene_options, overwrite=True).state == "done"


def test_edits_are_kept_and_a_missing_file_is_noticed(tmp_path, scene):
    done = run(scene, tmp_path / "out", formats=("gpkg", "geojson"))
    gpkg, geojson = Path(done.outputs["gpkg"]), Path(done.outputs["geojson"])
    with closing(sqlite3.connect(gpkg)) as file, file:
        file.execute("UPDATE layer_styles SET description = 'edited'")
    with rasterio.open(done.outputs["classes"]) as raster:
        raster.stats(indexes=1)  # as QGIS does, beside the file
    edited = contents(tmp_path / "out")
    assert run(scene, tmp_path / "out", formats=("geojson", "gpkg")).state == "skipped"
    moved = (tmp_path / "out").rename(tmp_path / "archive")
    again = run(scene, moved, formats=("gpkg", "geojson"))
    assert again.state == "skipped"
    assert Path(again.outputs["gpkg"]) == moved / "town.gpkg"
    assert contents(moved) == edited
    (moved / geojson.name).unlink()
    with pytest.raises(OutputError, match=r"town\.geojson of the same run is gone"):
        run(scene, moved, formats=("gpkg", "geojson"))


def test_results_with_holes_are_done_for_those_who_wanted_them(tmp_path, scene):
    content = scene.read_bytes()
    town = tmp_path / "town.tif"
    town.write_bytes(content[: len(content) // 2])
    assert run(town, tmp_path / "out", keep_going=True).damaged
    again = run(town, tmp_path / "out", keep_going=True)
    assert (again.state, bool(again.damaged)) == ("skipped", True)
    with pytest.raises(OutputError, match="--overwrite"):
        run(town, tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["", "<a/>", '{"run": 1}', '{"run": {}, "outputs": {"a": "../b"}}']
)
def test_a_record_that_is_none(tmp_path, text):
    raster = tmp_path / "a.classes.tif"
    assert Record.read(raster) is None
    (tmp_path / "a.classes.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="GEOSEG"><MDI key="RUN">{text}</MDI></Metadata></PAMDataset>'
    )
    assert Record.read(raster) is None


# --- what is replaced goes whole ------------------------------------------------------------


def test_overwriting_takes_all_of_the_earlier_run(tmp_path, scene):
    """And nothing else: not what only looks like it."""
    run(scene, tmp_path, formats=("shapefile", "geojson"), logits=True)
    ship, bridge = tmp_path / "town_ship.shp", tmp_path / "town_2_ship.shp"
    assert ship.exists()
    for suffix in (".qix", ".qml"):
        ship.with_suffix(suffix).write_text("QGIS")
    for path in (bridge, tmp_path / "town_notes.shp", tmp_path / "town.txt"):
        path.write_text("mine")
    Path(tmp_path / "town.classes.tif.ovr").write_text("gdaladdo")
    blue = SceneOptions(bands=(1, 1, 1))  # finds other classes
    found = run(scene, tmp_path, formats=("shapefile",), scene_options=blue, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    mine = {"town_2_ship.shp", "town_notes.shp", "town.txt"}
    assert left - mine == {
        part.name
        for path in map(Path, found.outputs.values())
        for part in (path, *(path.with_suffix(s) for s in SHAPEFILE))
        if part.exists()
    } | {"town.classes.tif.aux.xml"}
    assert all(path.read_text() != "QGIS" for path in tmp_path.glob("*.qml"))
    assert bridge.read_text() == "mine"


def test_files_of_classes_are_called_as_their_layers(tmp_path, scene):
    """Before the run, too: what is in the way is seen before any work."""
    names = {14: "con", 9: "Land use."}
    model = Counting()
    model.metadata = replace(
        model.metadata,
        classes=tuple(replace(item, name=names.get(item.id, item.name)) for item in ISAID),
    )
    found = run(scene, tmp_path / "out", model, formats=("gpkg", "shapefile"))
    layers = {name for name, kind in pyogrio.list_layers(found.outputs["gpkg"]) if kind}
    assert layers == {"ship", "class_con", "Land use"}
    files = {path.stem.removeprefix("town_") for path in (tmp_path / "out").glob("*.shp")}
    assert files == layers
    clash = tmp_path / "other" / "town_class_con.shp"
    clash.parent.mkdir()
    clash.write_text("mine")
    model.tiles = 0
    with pytest.raises(OutputError, match=r"town_class_con\.shp exists"):
        run(scene, clash.parent, model, formats=("shapefile",))
    assert model.tiles == 0
    run(scene, clash.parent, model, formats=("shapefile",), min_area=1e6, overwrite=True)
    assert clash.read_text() == "mine"  # no result has its name, and no run of geoseg made it


def test_results_without_a_record_go_by_what_is_in_them(tmp_path, scene):
    first = run(scene, tmp_path, formats=("shapefile",))
    assert "shapefile:plane" in first.outputs
    (tmp_path / "town.classes.tif.aux.xml").unlink()
    run(scene, tmp_path, formats=("shapefile",), min_area=1e6, overwrite=True)
    assert not list(tmp_path.glob("town_plane.*"))


def test_names_are_not_patterns(tmp_path):
    names = ("tile[1].tif", "tile1.tif", "til*.tif")
    scenes = [write_discs(tmp_path / name, 130, 140, seed=i) for i, name in enumerate(names)]
    out = tmp_path / "out"
    for path in scenes:
        run(path, out, formats=("shapefile",))
    for path in scenes:
        before = contents(out)
        run(path, out, formats=("shapefile",), overwrite=True, min_area=1e6)
        kept = {name: data for name, data in before.items() if not name.startswith(path.stem)}
        assert {n: data for n, data in contents(out).items() if n in kept} == kept


def test_an_old_geopackage_that_qgis_has_open(tmp_path, scene):
    """In WAL mode, with changes that are not in the file itself yet."""
    old = Path(run(scene, tmp_path).outputs["gpkg"])
    with closing(sqlite3.connect(old)) as qgis:
        qgis.execute("PRAGMA journal_mode = WAL")
        with qgis:
            qgis.execute("INSERT INTO layer_styles (styleQML) VALUES (?)", ("x" * 60_000,))
        assert old.with_name("town.gpkg-wal").stat().st_size
        run(scene, tmp_path, overwrite=True)
        assert not old.with_name("town.gpkg-wal").exists()
        with closing(sqlite3.connect(old)) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        qgis.execute("SELECT count(*) FROM layer_styles").fetchall()
    with closing(sqlite3.connect(old)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert not file.execute(
            "SELECT * FROM layer_styles WHERE length(styleQML) > 50000"
        ).fetchall()
    assert len(pyogrio.list_layers(old)) > 1


def test_overwrite_cannot_be_bypassed(tmp_path, scene):
    run(scene, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(2), overwrite=True, min_area=9.0)
    kept = contents(tmp_path / "town.unfinished")
    with pytest.raises(OutputError, match="--overwrite"):
        run(scene, tmp_path, min_area=9.0)
    with pytest.raises(OutputError, match="--overwrite"):
        run(scene, tmp_path, min_area=10.0)
    assert contents(tmp_path / "town.unfinished") == kept
    assert {name: data for name, data in contents(tmp_path).items() if "/" not in name} == before
    model = Counting()
    run(scene, tmp_path, model, overwrite=True, min_area=9.0)
    whole = Counting()
    run(scene, tmp_path / "whole", whole, min_area=9.0)
    assert model.tiles < whole.tiles


# --- an output is never an input ------------------------------------------------------------


@pytest.mark.parametrize("how", ["same", "hard", "symbolic", "vrt", "nested", "mosaic", "store"])
def test_an_output_is_never_an_input(tmp_path, scene, how):
    out = tmp_path / "out"
    out.mkdir()
    target = out / "town.gpkg"
    shutil.copy(scene, target)
    path, parts = target, ()
    if how == "hard":
        path = tmp_path / "town.tif"
        os.link(target, path)
    elif how == "symbolic":
        path = tmp_path / "town.tif"
        path.symlink_to(target)
    elif how in ("vrt", "nested"):
        path = tmp_path / "town.vrt"
        rasterio.shutil.copy(target, path, driver="VRT")
        if how == "nested":
            inner = path.rename(tmp_path / "inner.vrt")
            rasterio.shutil.copy(inner, path, driver="VRT")
    elif how == "mosaic":
        path, parts = out / "mosaic.vrt", (str(target.rename(out / "mosaic.gpkg")), str(scene))
    elif how == "store":
        inside = out / "town.logits.zarr"
        inside.mkdir()
        path = target.rename(inside / "town.tif")
    before = contents(tmp_path)
    with pytest.raises(OptionError, match="is the input"):
        run(path, out, overwrite=True, logits=True, parts=parts)
    assert contents(tmp_path) == before


def test_a_scene_of_the_batch_is_no_output(tmp_path, model):
    town = write_discs(tmp_path / "town.tif", 100, 100)
    classes = write_discs(tmp_path / "town.classes.tif", 100, 100)
    before = contents(tmp_path)
    found = command(town, classes, "-o", tmp_path, "--overwrite")
    assert found.exit_code == 2
    assert "is the input" in found.stderr
    assert contents(tmp_path) == before


# --- kept blocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ["", "{", '{"sha256": "0", "run": {}}', None])
def test_blocks_outlive_a_torn_description(tmp_path, scene, torn):
    whole = Counting()
    run(scene, tmp_path / "whole", whole)
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(3))
    description = tmp_path / "town.unfinished" / "run.json"
    if torn is None:
        description.unlink()
        (description.parent / "lock").touch()
    else:
        description.write_text(torn)
    model = Counting()
    run(scene, tmp_path, model)
    assert model.tiles < whole.tiles


def test_blocks_of_another_run_are_told_without_its_description(tmp_path, scene):
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(3), min_area=50.0)
    (tmp_path / "town.unfinished" / "run.json").write_text("{")
    found = run(scene, tmp_path)
    expected = run(scene, tmp_path / "whole")
    assert Path(found.outputs["classes"]).read_bytes() == (
        Path(expected.outputs["classes"]).read_bytes()
    )
    assert found.classes == expected.classes


def test_files_of_others_survive(tmp_path, scene):
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(3))
    (tmp_path / "town.unfinished" / "notes.txt").write_text("mine")
    run(scene, tmp_path)
    assert contents(tmp_path / "town.unfinished") == {"notes.txt": b"mine"}


def test_blocks_of_a_file_that_was_damaged_are_made_again(tmp_path, monkeypatch):
    """A disk that answers again, or a share that was mounted late. The others are kept."""
    from geoseg.geo.raster.bands import Bands

    scene = write_discs(tmp_path / "town.tif", 330, 150)
    read, failing = Bands.read, [True]

    def fragile(self, dataset, window, *rest):
        if failing[0] and window.row_off > 160:
            raise rasterio.errors.RasterioIOError("Input/output error")
        return read(self, dataset, window, *rest)

    monkeypatch.setattr(Bands, "read", fragile)
    with pytest.raises(Exception, match="cannot be read"):
        run(scene, tmp_path)
    assert list((tmp_path / "town.unfinished").glob("*.result.npz"))
    failing[0] = False
    found, expected = run(scene, tmp_path), run(scene, tmp_path / "whole")
    assert found.valid_pixels == expected.valid_pixels
    assert Path(found.outputs["classes"]).read_bytes() == (
        Path(expected.outputs["classes"]).read_bytes()
    )


def test_what_is_kept_needs_no_room_again(tmp_path, scene, monkeypatch):
    with pytest.raises(Stop):
        run(scene, tmp_path, progress=stop_after(3))
    monkeypatch.setattr("geoseg.pipeline.outputs.BYTES_PER_PIXEL", 1.0)
    kept = sum(path.stat().st_size for path in (tmp_path / "town.unfinished").iterdir())
    needed = 200 * 220
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - kept // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"0\.0 MB free, but 0 Mpx take"):
        run(scene, tmp_path / "elsewhere")
    run(scene, tmp_path)


def test_memory_that_does_not_suffice(tmp_path, scene):
    class Hungry(Colors):
        def forward(self, x):
            raise MemoryError("99 GB")

    with pytest.raises(MachineError, match="--tile-size"):
        run(scene, tmp_path / "out", Hungry())
    assert not (tmp_path / "out").exists()


# --- several processes ----------------------------------------------------


def test_scenes_that_another_run_is_at_come_last(tmp_path, scene, model):
    other = write_discs(tmp_path / "other.tif", 100, 100)
    with WorkingFolder(tmp_path / "out", "town"):
        alone = command(scene, "-o", tmp_path / "out")
    assert alone.exit_code == 1
    assert "in use by another run" in alone.stderr
    held = WorkingFolder(tmp_path / "out", "town")
    held.__enter__()

    def leave() -> None:
        while not (tmp_path / "out" / "other.gpkg").exists():
            time.sleep(0.02)
        time.sleep(0.3)
        held.__exit__(None, None, None)

    thread = threading.Thread(target=leave)
    thread.start()
    found = command(scene, other, "-o", tmp_path / "out")
    thread.join()
    assert found.exit_code == 0, found.output
    assert "waiting" in found.stderr
    assert (tmp_path / "out" / "town.gpkg").exists()


def test_quiet_is_quiet(tmp_path, model):
    town = write_discs(tmp_path / "town.tif", 100, 100, crs=None)
    found = command(town, "-o", tmp_path, "-q", "-v")
    assert (found.exit_code, found.output) == (0, "")
    assert "pixel coordinates" in command(town, "-o", tmp_path, "--overwrite").stderr
