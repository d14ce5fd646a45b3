"""Files of a run appear together, with their sidecars, and replace nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from layers import made_by_geoseg, write_layers
from maps import labels, write_map
from PIL import Image

from geoseg.classes import LabelClass
from geoseg.cli.main import main
from geoseg.errors import GeosegError, OptionError, OutputError
from geoseg.geo.layers.export import earlier_files, export, write_format
from geoseg.geo.layers.formats import FORMATS, Format
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.layers.preview import write_preview
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.scene import Scene
from geoseg.pipeline.vectorize import vectorize


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shapefiles(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.shp")}


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    return made_by_geoseg(tmp_path / "town.gpkg")


def remove_class(layers: Path, name: str) -> None:
    """Write the layers of a later run that no longer finds a class."""
    frame = read_layers(layers)
    write_layers(layers, frame[frame["class"] != name], labels(["ship"]))


def test_files_of_missing_classes_are_removed(layers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(layers, out, "shapefile")
    (out / "town_Grassland_Herbaceous.qix").touch()
    remove_class(layers, "Grassland/Herbaceous")
    before = contents(out)
    with pytest.raises(OutputError, match="exists; give --overwrite"):
        export(layers, out, "shapefile")
    assert contents(out) == before
    export(layers, out, "shapefile", overwrite=True)
    assert shapefiles(out) == {"town_ship"}
    assert not [each for each in out.iterdir() if "Grassland" in each.name]


def test_files_of_others_stay(layers: Path, tmp_path: Path) -> None:
    """Files of a scene with a similar name, of the user, and of a partial export."""
    out = tmp_path / "out"
    export(layers, out, "shapefile")
    export(layers.rename(tmp_path / "town_2.gpkg"), out, "shapefile")
    (tmp_path / "town_2.gpkg").rename(layers)
    for name in ("town_ship", "town_Grassland_Herbaceous"):
        for part in [each for each in out.iterdir() if each.stem == name]:
            copy = out / f"{name}_backup{part.suffix}"
            copy.write_bytes(part.read_bytes())
    (out / "town_notes.shp").write_text("of the user")
    (out / "town_ship.txt").write_text("of the user")
    (out / "t[o]wn_ship.shp").write_text("of the user")
    kept = {name: content for name, content in contents(out).items()
            if not name.startswith(("town_ship.", "town_Grassland_Herbaceous."))}  # fmt: skip
    assert len(kept) > 20
    remove_class(layers, "Grassland/Herbaceous")
    export(layers, out, "shapefile", overwrite=True)
    after = contents(out)
    assert {name: after[name] for name in kept} == kept
    assert "town_Grassland_Herbaceous.shp" not in after
    assert after["town_ship.txt"] == b"of the user"


def test_a_part_replaces_its_own_files_only(layers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (ship,) = export(layers, out, "shapefile", layers=["ship"])
    before = contents(out)
    (grass,) = export(layers, out, "shapefile", layers=["Grassland/Herbaceous"])
    assert grass.name == "town_Grassland_Herbaceous.shp"
    export(layers, out, "shapefile", layers=["Grassland_Herbaceous"], overwrite=True)
    assert {name: content for name, content in contents(out).items() if name in before} == before
    with pytest.raises(OutputError, match="exists"):
        export(layers, out, "shapefile", layers=["ship"])
    assert ship.exists()


def test_a_stem_is_no_pattern(tmp_path: Path) -> None:
    for stem in ("t*", "t?", "[t]", "t"):
        made_by_geoseg(tmp_path / f"{stem}.gpkg")
        export(tmp_path / f"{stem}.gpkg", tmp_path, "shapefile")
    found = {path.name for path in earlier_files(tmp_path, "t*", "shapefile", [])}
    assert found == {"t*_ship.shp", "t*_Grassland_Herbaceous.shp"}


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_fails_leaves_everything(
    kind: str, layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(layers, out, kind)
    before = contents(tmp_path)
    style, calls = FORMATS[kind], []

    def half(frame: object, path: Path, layer: str) -> None:
        style.write(frame, path, layer)
        calls.append(path)
        if len(calls) == (2 if style.per_class else 1):
            raise OSError(28, "No space left on device")

    broken = {field: getattr(style, field) for field in ("suffix", "per_class", "wgs84", "losses")}
    monkeypatch.setitem(FORMATS, kind, Format(write=half, **broken))
    with pytest.raises(OutputError, match="No space left"):
        export(layers, out, kind, overwrite=True)
    assert contents(tmp_path) == before
    calls.clear()
    with pytest.raises(OutputError, match="No space left"):
        export(layers, tmp_path / "new" / "deep", kind)
    assert not (tmp_path / "new").exists()


def test_results_never_replace_a_folder(layers: Path, tmp_path: Path) -> None:
    (tmp_path / "town.csv").mkdir()
    (tmp_path / "town.csv" / "thesis.doc").write_text("precious")
    (tmp_path / "town_ship.shp").mkdir()
    before = contents(tmp_path)
    for kind in ("csv", "shapefile"):
        with pytest.raises(OutputError, match="is a folder"):
            export(layers, tmp_path, kind, overwrite=True)
    assert contents(tmp_path) == before


def test_an_existing_result_is_refused_before_reading(
    layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoseg.geo.layers.export.read_edited", None)
    for kind in ("csv", "shapefile"):
        name = "town_ship.shp" if kind == "shapefile" else "town.csv"
        (tmp_path / name).symlink_to("nowhere")
        with pytest.raises(OutputError, match="exists"):
            export(layers, tmp_path, kind)


def same_files(path: Path) -> list[Path]:
    """Return other paths of a file."""
    hard, soft = path.with_name(f"hard_{path.name}"), path.with_name(f"soft_{path.name}")
    hard.hardlink_to(path)
    soft.symlink_to(path.name)
    return [path, hard, soft, path.parent / "." / path.name]


def test_an_output_is_never_an_input(tmp_path: Path) -> None:
    scene = write_map(tmp_path / "map.tif")
    raster = tmp_path / "raster.gpkg"
    with (
        rasterio.open(scene) as source,
        rasterio.open(raster, "w", **{**source.profile, "driver": "GPKG"}) as target,
    ):
        target.write(source.read())
    vrt = tmp_path / "town.vrt"
    write_mosaic([str(scene)], vrt)
    inputs = {str(scene): scene, str(raster): raster, str(vrt): scene}
    names = {path: same_files(path) for path in (scene, raster)}
    before = contents(tmp_path)
    for given, read in inputs.items():
        for output in names[read]:
            with pytest.raises(OptionError, match="is the input"):
                vectorize(given, output, overwrite=True)
    with pytest.raises(OptionError, match="is the input"):
        write_mosaic([str(scene), str(vrt)], vrt, overwrite=True)
    with pytest.raises(OptionError, match="is the input"):
        write_preview(scene, Scene.open(str(scene), bands=(1,)), read_layers_of(tmp_path), [])
    assert contents(tmp_path) == before


def read_layers_of(folder: Path):
    path = folder.parent / f"{folder.name}.gpkg"
    return read_layers(made_by_geoseg(path))


def test_an_export_never_replaces_its_source(layers: Path, tmp_path: Path) -> None:
    (file,) = export(layers, tmp_path, "geojson")
    source = file.rename(tmp_path / "again.geojson")
    (tmp_path / "town.csv").hardlink_to(layers)
    (tmp_path / "town_ship.shp").symlink_to(layers.name)
    before = contents(tmp_path)
    for path, kind in ((source, "geojson"), (layers, "csv"), (layers, "shapefile")):
        with pytest.raises(OptionError, match="is the input"):
            export(path, tmp_path, kind, overwrite=True)
    assert contents(tmp_path) == before


def test_vectorize_writes_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, output = write_map(tmp_path / "map.tif"), tmp_path / "map.gpkg"
    vectorize(scene, output)
    for name in ("map.gpkg-wal", "map.gpkg-shm", "map.gpkg-journal", "map_2.gpkg-wal"):
        (tmp_path / name).write_text("of what was there")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="exists"):
        vectorize(scene, output)
    with monkeypatch.context() as patch:
        patch.setattr("geoseg.pipeline.vectorize.tables", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vectorize(scene, output, overwrite=True)
    assert contents(tmp_path) == before
    with pytest.raises(OptionError, match=r"ends in \.gpkg"):
        vectorize(scene, tmp_path / "map.shp")
    vectorize(scene, output, overwrite=True)
    assert {each.name for each in tmp_path.iterdir()} == {"map.tif", "map.gpkg", "map_2.gpkg-wal"}
    vectorize(scene, tmp_path / "new" / "folder" / "map.gpkg")
    assert len(read_layers(tmp_path / "new" / "folder" / "map.gpkg")) == 3


def test_a_preview_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    layers = made_by_geoseg(tmp_path / "town.gpkg")
    scene = Scene.open(str(write_map(tmp_path / "map.tif")), bands=(1,))
    write_preview(tmp_path / "p.png", scene, read_layers(layers), ())
    before = contents(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_preview(tmp_path / "p.png", scene, read_layers(layers), ())
    assert contents(tmp_path) == before


def test_a_mosaic_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    scenes, vrt = [str(write_map(tmp_path / "map.tif"))], tmp_path / "town.vrt"
    write_mosaic(scenes, vrt)
    made = vrt.stat().st_mtime_ns
    write_mosaic(scenes, vrt)
    assert vrt.stat().st_mtime_ns == made
    (tmp_path / "town.vrt.ovr").write_text("of another mosaic")
    write_map(tmp_path / "other.tif")
    with pytest.raises(OutputError, match="exists"):
        write_mosaic([str(tmp_path / "other.tif")], vrt)
    write_mosaic([str(tmp_path / "other.tif")], vrt, overwrite=True)
    assert not (tmp_path / "town.vrt.ovr").exists()


def test_formats_of_a_prediction_are_called_as_its_layers(layers: Path, tmp_path: Path) -> None:
    frame = read_layers(layers).iloc[:2].assign(class_id=np.array([3, 4]))
    frame["class"] = ["ship", "Ship"]
    classes = (LabelClass(2, "SHIP", (1, 2, 3)), *labels(["a"]))
    classes = (*classes, LabelClass(3, "ship", (1, 2, 3)), LabelClass(4, "Ship", (4, 5, 6)))
    paths = write_format(frame, tmp_path / "o", "t", "shapefile", classes=classes)
    assert [path.name for path in paths] == ["t_ship_2.shp", "t_Ship_3.shp"]
    counts = write_layers(tmp_path / "t.gpkg", frame, classes)
    assert {*counts} == {"ship_2", "Ship_3"}


def test_errors_of_the_commands_are_one_line(layers: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    for arguments, says in (
        (["export", layers, "--format", "kml", "--t-srs", "nonsense"], "PROJ knows no such"),
        (["export", layers, "--format", "kml", "--t-srs", "EPSG:25832"], "leave out"),
        (
            ["export", layers, "--format", "csv", "--t-srs", 'LOCAL_CS["x",UNIT["m",1]]'],
            "no transformation",
        ),
        (["export", layers, "--format", "csv", "--layer", "x"], "it has Grassland_Herbaceous"),
        (["vectorize", layers, "-o", tmp_path / "x.gpkg"], "cannot open"),
    ):
        before = contents(tmp_path)
        extra = [] if arguments[0] == "vectorize" else ["-o", tmp_path / "out"]
        done = runner.invoke(main, [str(each) for each in (*arguments, *extra)])
        assert done.exit_code in (1, 2), done.output
        assert isinstance(done.exception, SystemExit), done.exception
        assert says in done.stderr
        assert len([line for line in done.stderr.splitlines() if line]) == 1, done.stderr
        assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    scene, closed = write_map(tmp_path / "map.tif"), tmp_path / "closed"
    closed.mkdir(mode=0o500)
    progress: list[int] = []
    with pytest.raises(GeosegError, match="cannot be written"):
        vectorize(scene, closed / "map.gpkg", progress=lambda done, total: progress.append(done))
    assert not progress
