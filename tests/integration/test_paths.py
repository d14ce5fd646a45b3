"""Any legal name: of files, folders and classes, from a class raster to every format and back."""

from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path

import geopandas
import pyogrio
import pytest
import rasterio
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from maps import labels, write_map

from geoseg.cli.main import main
from geoseg.errors import OutputError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.export import export, planned_files
from geoseg.geo.layers.names import LONGEST, LayerNames, clean_name, distinct_names
from geoseg.geo.layers.object_scores import score_objects
from geoseg.geo.paths import raster_path, vector_path
from geoseg.geo.raster.address import scene_stem
from geoseg.geo.raster.aoi import read_aoi
from geoseg.geo.raster.scene import Scene
from geoseg.pipeline.vectorize import vectorize

STRANGE = "!;#?%:'\"\\ \n\t\r-.|*[]{}<>&=~$,@+"
letters = st.one_of(
    st.sampled_from(STRANGE), st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
)
file_names = (
    st.text(letters, min_size=1, max_size=20)
    .filter(lambda name: name not in (".", ".."))
    .filter(lambda name: not (name.startswith(".") and Path(name).suffix == ""))
)
class_names = st.text(st.one_of(letters, st.just("/")), max_size=40)


def read_back(kind: str, paths: list[Path]) -> list[str]:
    if kind == "csv":
        with paths[0].open(newline="", encoding="utf-8") as file:
            return [row["class"] for row in csv.DictReader(file)]
    read = geopandas.read_parquet if kind == "geoparquet" else pyogrio.read_dataframe
    sources = [path.open("rb") if kind == "geoparquet" else vector_path(path) for path in paths]
    return [name for source in sources for name in read(source)["class"]]


@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(
    folder=file_names,
    stem=file_names,
    kind=st.sampled_from(["flatgeobuf", "geojson", "kml", "csv", "geoparquet"]),
    names=st.lists(class_names, min_size=3, max_size=3),
)
@example(folder="proj!2024", stem="S2A:tile#1", kind="flatgeobuf", names=["Ship", "ship", "ship_2"])
@example(folder="a;b", stem="semi;colon!", kind="geojson", names=["", "/", "gpkg_contents"])
@example(folder="x?", stem="-q?", kind="geoparquet", names=["CON", "a\nb", "x" * 300])
@example(folder="back\\slash", stem="50%41\\", kind="csv", names=["rtree_a_geom", " a", "trail ."])
@example(
    folder="~",
    stem=" $HOME",
    kind="geoparquet",
    names=["layer_styles", "'; DROP TABLE a;--", "<![CDATA[a]]>"],
)
def test_any_name(folder: str, stem: str, kind: str, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / folder
        home.mkdir()
        scene = write_map(home / f"{stem}.tif")
        assert scene_stem(scene) == Scene.open(str(scene), bands=(1,)).stem == scene.stem
        layers = home / f"{stem}.gpkg"
        done = vectorize(scene, layers, classes=labels(names), simplify=0, min_area=0)
        assert sorted(done.features) == sorted(distinct_names(names))
        assert {each.name for each in home.iterdir()} == {scene.name, layers.name}
        (home / "out").mkdir()
        for each in ("shapefile", kind):
            paths = export(layers, home / "out", each)
            expected = planned_files(home / "out", layers.stem, each, distinct_names(names))
            assert sorted(paths) == sorted(expected)
            assert all(path.is_file() and not path.is_symlink() for path in paths)
            found = read_back(each, paths)
            if each in ("flatgeobuf", "geojson", "geoparquet"):
                assert sorted(found) == sorted(
                    name if name.strip() else clean_name(name) or name
                    for name in map(shown, names, distinct_names(names))
                )
            else:  # DBF has 254 bytes, XML no control characters
                assert len(found) == 3
            if each in ("shapefile", "flatgeobuf", "geojson"):
                scores = score_objects(scene, paths[0], field="class_id")
                assert sum(score.matched for score in scores) == 3 / len(paths)
        # By every name of the class a file of an earlier run is known, and replaced.
        again = export(layers, home / "out", "shapefile", overwrite=True)
        assert len([each for each in (home / "out").iterdir() if each.suffix == ".shp"]) == 3
        assert len(again) == 3


def shown(name: str, layer: str) -> str:
    """A class without a name in a field is filled up from its layer."""
    return name if name.strip() else layer


@settings(max_examples=100, deadline=None)
@given(st.lists(class_names, max_size=8))
def test_layer_names_are_clean_distinct_and_stable(names: list[str]) -> None:
    found = distinct_names(names)
    assert len({name.casefold() for name in found}) == len(names)
    for name, layer in zip(names, found, strict=True):
        assert clean_name(layer) == layer
        assert 0 < len(layer.encode()) <= LONGEST
        assert layer == name or clean_name(name) != name or layer.startswith(name[: LONGEST - 20])
    assert distinct_names(found) == found
    assert (
        distinct_names([*names, "a class more"])[: len(names)] == found or "a class more" in found
    )
    layers = LayerNames(labels(names))
    asked = [*enumerate(names, 1)]
    assert [layers.of(i, name) for i, name in asked] == found
    assert layers.of(999, names[0] if names else "x").casefold() not in {
        name.casefold() for name in found
    }


def test_names_that_are_clean_stay() -> None:
    for name in ("ship", "Open Water", "Developed, Open Space", "水体", "a.b.c", "O'Brien", "7"):
        assert clean_name(name) == name
    assert distinct_names(["Ship", "ship", "ship_2"]) == ["Ship", "ship_3", "ship_2"]
    assert distinct_names(["Grassland/Herbaceous", "gpkg_contents", "..", "CON"]) == [
        "Grassland_Herbaceous",
        "class_gpkg_contents",
        "unnamed",
        "class_CON",
    ]


def test_a_path_that_needs_no_link_has_none(tmp_path: Path) -> None:
    for name in ("a.gpkg", "tile#1.gpkg", "50%41.gpkg", "x:y.gpkg", "a?b.gpkg", "ä b.gpkg"):
        (tmp_path / name).touch()
        assert vector_path(tmp_path / name) == str(tmp_path / name)
        assert raster_path(str(tmp_path / name)) == tmp_path / name
    for address in ("https://host/a.gpkg", "/vsizip/a.zip/a.gpkg", "zip://a.zip!b.shp"):
        assert vector_path(address) == raster_path(address) == address
    assert scene_stem("https://host/folder/a.tif?token=x/y") == "a"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    scene = write_map(tmp_path / "map.tif").rename(tmp_path / f"{name}.tif")
    runner = CliRunner()
    for arguments in (
        ["vectorize", str(scene), "-o", str(tmp_path / f"{name}.gpkg"), "--json"],
        ["export", str(tmp_path / f"{name}.gpkg"), "--format", "csv", "-o", str(tmp_path)],
        ["export", str(tmp_path / f"{name}.gpkg"), "--format", "shapefile", "-o", str(tmp_path)],
    ):
        done = runner.invoke(main, arguments)
        assert done.exit_code == 0, done.output
    assert (tmp_path / f"{name}.csv").exists()


def test_a_name_that_is_too_long_is_one_sentence(tmp_path: Path) -> None:
    scene = write_map(tmp_path / "map.tif")
    with pytest.raises(OutputError, match="too long"):
        vectorize(scene, tmp_path / f"{'x' * 250}.gpkg")
    assert [each.name for each in tmp_path.iterdir()] == ["map.tif"]


def test_an_area_of_interest_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a!b;c"
    folder.mkdir()
    vectorize(write_map(tmp_path / "map.tif"), folder / "area;1.gpkg")
    with rasterio.open(tmp_path / "map.tif") as raster:
        geobox = GeoBox(20, 50, raster.transform, raster.crs)
    assert read_aoi(str(folder / "area;1.gpkg"), geobox).window.width >= 10
