"""What users of such programs reported, where no other test has the right value.

tests/reported.md lists all of it with the tests.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from commands import command, refused
from fakes import TRANSFORM, Colors, write_discs
from maps import write_map
from PIL import Image
from rasterio.crs import CRS
from shapely.affinity import translate

from geoseg.atomic import Staging
from geoseg.errors import OptionError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.raster.aoi import read_aoi
from geoseg.geo.raster.mosaic import write_mosaic
from geoseg.geo.raster.scene import Scene
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.predict import predict


def run(scene: Path, folder: Path, **how: object) -> dict[str, str]:
    return predict(scene, TileModel(Colors(), device="cpu"), OutputOptions(folder, **how)).outputs


# --- files that others have open, or left behind ---------------------------------------------

KILLED = """
import os, sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA cache_size = 5")
base.execute("BEGIN")
for _ in range(30):
    base.execute("INSERT INTO layer_styles (styleQML) VALUES (?)", ("x" * 20_000,))
base.execute("UPDATE layer_styles SET styleQML = styleQML || 'y'")
os._exit(9)
"""


def test_a_journal_of_a_killed_program_goes_with_the_old_file(tmp_path: Path) -> None:
    scene = write_discs(tmp_path / "town.tif", 100, 120)
    layers = Path(run(scene, tmp_path / "out")["gpkg"])
    subprocess.run([sys.executable, "-c", KILLED, str(layers)], check=False)
    journal = layers.with_name("town.gpkg-journal")
    assert journal.stat().st_size > 500
    run(scene, tmp_path / "out", overwrite=True)
    assert not journal.exists()
    with closing(sqlite3.connect(layers)) as base:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(read_layers(layers)) > 3


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("t.classes.tif", "t.classes.tif.vat.dbf"),
        ("t.classes.tif", "t.classes.tif.xml"),
        ("t_ship.shp", "t_ship.fbn"),
        ("t_ship.shp", "t_ship.mxs"),
    ],
)
def test_tables_and_indexes_of_arcgis_go_with_the_old_file(
    tmp_path: Path, name: str, extra: str
) -> None:
    (tmp_path / name).write_text("old")
    (tmp_path / extra).write_text("of the old")
    with Staging(tmp_path, "t") as staging:
        (staging.new / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "new"}


def test_two_commands_at_once_in_one_folder(tmp_path: Path) -> None:
    names = ("a", "b")
    start = [sys.executable, "-m", "geoseg", "predict", "-o", tmp_path / "new" / "out"]
    scenes = [write_discs(tmp_path / f"{name}.tif", 140, 140) for name in names]
    runs = [subprocess.Popen([*start, scene], stderr=subprocess.PIPE) for scene in scenes]
    for process in runs:
        said = process.communicate(timeout=100)[1].decode()
        assert process.returncode == 0, said
    for name in names:
        assert (tmp_path / "new" / "out" / f"{name}.gpkg").exists()
    assert not list(tmp_path.rglob("*.unfinished"))


# --- names ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="many of these are no names there")
@pytest.mark.parametrize(
    "name", ["a|layername=x", "100%", "trail.", "🏠 a!b;c", "1,2,3,4", "x.shp"]
)
def test_labels_and_areas_of_any_name(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    scene = write_discs(home / f"{name}.tif", 128, 128)
    with rasterio.open(scene) as file:
        outline = shapely.box(*file.bounds).buffer(-10)
    frame = geopandas.GeoDataFrame({"class": ["roof"]}, geometry=[outline], crs=32633)
    for suffix in (".gpkg", ".geojson", ".shp"):
        frame.to_crs(4326).to_file(tmp_path / f"plain{suffix}")
        for part in tmp_path.glob("plain.*"):
            part.rename(home / f"{name}{part.suffix}")
        drawn, data = home / f"{name}{suffix}", tmp_path / f"set{suffix}" / name
        options = ("--field", "class", "--patch", 64, "--area", drawn)
        done = command("prepare", "labels", scene, drawn, data, *options)
        assert done.exit_code == 0, done.output
        assert (data / "split.csv").exists()
        with rasterio.open(scene) as file:
            geobox = GeoBox(128, 128, file.transform, file.crs)
        assert abs(read_aoi(str(drawn), geobox).shape.area - 88**2) < 100
    assert {path.name for path in tmp_path.iterdir()} == {
        name, "set.gpkg", "set.geojson", "set.shp"
    }  # fmt: skip


# --- coordinate reference systems ------------------------------------------------------------


@pytest.mark.parametrize("code", [5030, 4979, 32767, 5773])
def test_heights_that_drones_declare(tmp_path: Path, code: int) -> None:
    """Some of these are no vertical CRS by any register, but GeoTIFFs hold them."""
    crs = CRS.from_user_input("EPSG:32633+5773")
    scene = write_discs(tmp_path / "scene.tif", 100, 120, crs=crs)
    key = struct.pack("<HHHH", 4096, 0, 1, 5773)
    content = scene.read_bytes()
    assert content.count(key) == 1
    scene.write_bytes(content.replace(key, struct.pack("<HHHH", 4096, 0, 1, code)))
    outputs = run(scene, tmp_path / "out")
    with rasterio.open(outputs["classes"]) as file:
        assert file.crs.to_epsg() == 32633
    assert read_layers(Path(outputs["gpkg"])).crs == 32633


@pytest.mark.parametrize("heights", ["", "+6360", "+5703"])
def test_feet_with_heights(tmp_path: Path, heights: str) -> None:
    crs = CRS.from_user_input(f"EPSG:2263{heights}")
    place = Affine(1, 0, 984_000, 0, -1, 200_000)
    scene = write_discs(tmp_path / "scene.tif", 100, 120, crs=crs, transform=place)
    outputs = run(scene, tmp_path / "out", formats=("gpkg", "geojson", "shapefile"))
    frame = read_layers(Path(outputs["gpkg"]))
    assert frame.crs == 2263
    np.testing.assert_allclose(frame["area_m2"], frame.area * (1200 / 3937) ** 2, rtol=5e-3)
    left, bottom, right, top = geopandas.read_file(outputs["geojson"]).total_bounds
    assert -74.01 < left < right < -73.99
    assert 40.71 < bottom < top < 40.72


def test_what_a_format_cannot_hold_is_known_before_the_work(tmp_path: Path) -> None:
    rotated = "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +o_lon_p=0 +lon_0=18 +datum=WGS84"
    place = {"crs": CRS.from_user_input(rotated), "transform": Affine(1e-5, 0, 1, 0, -1e-5, 2)}
    scene = write_discs(tmp_path / "scene.tif", 140, 140, **place)
    worked: list[int] = []
    with pytest.raises(OptionError, match="shapefile cannot store"):
        predict(
            scene,
            TileModel(Colors(), device="cpu"),
            OutputOptions(tmp_path / "out", formats=("shapefile",)),
            progress=lambda done, total: worked.append(done),
        )
    assert not worked
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_known_before_the_work(tmp_path: Path, monkeypatch) -> None:
    scene = write_discs(tmp_path / "scene.tif", 140, 140)
    layers = Path(run(scene, tmp_path / "layers")["gpkg"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"pip install 'geoseg\[parquet\]'"):
        run(scene, tmp_path / "out", formats=("geoparquet",))
    arguments = ("export", layers, "--format", "geoparquet", "-o", tmp_path / "out")
    refused(*arguments, says="pip install 'geoseg[parquet]'")
    assert not (tmp_path / "out").exists()


def test_an_empty_target_is_no_target(tmp_path: Path) -> None:
    """What a script with an unset variable asks for."""
    layers = tmp_path / "map.gpkg"
    assert command("vectorize", write_map(tmp_path / "map.tif"), "-o", layers).exit_code == 0
    arguments = ("export", layers, "--format", "csv", "-o", tmp_path / "out", "--t-srs", "")
    refused(*arguments, says="PROJ knows no such")
    assert not (tmp_path / "out").exists()


# --- polygons far larger than the scene, and stranger ----------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [("EPSG:3413", -30, 30), ("EPSG:3031", -30, 30), ("EPSG:6931", -30, 30),
     ("EPSG:6932", 9e5, 9e5), ("EPSG:32661", 2e6 - 40, 2e6 + 40), ("EPSG:3995", 5e5, -8e5)],
)  # fmt: skip
def test_the_world_is_all_of_a_polar_scene(tmp_path: Path, crs: str, x: float, y: float) -> None:
    geobox = GeoBox(200, 300, Affine(0.3, 0, x, 0, -0.3, y), CRS.from_user_input(crs))
    for world in (shapely.box(-180, -90, 180, 90), shapely.box(0, -90, 360, 90)):
        geopandas.GeoDataFrame(geometry=[world], crs=4326).to_file(tmp_path / "world.geojson")
        assert read_aoi(str(tmp_path / "world.geojson"), geobox).mask(geobox.extent).all()


def test_the_world_as_area_and_far_polygons_among_labels_and_truth(tmp_path: Path) -> None:
    scene = write_discs(tmp_path / "town.tif", 128, 128)
    found = run(scene, tmp_path / "out")
    frame = read_layers(Path(found["gpkg"]))[["class", "geometry"]].to_crs(4326)
    far = [
        shapely.box(-178, -15, -176, -13),
        shapely.box(0, -90, 1, -89),
        translate(frame.geometry[0], -100, -60),
    ]
    more = geopandas.GeoDataFrame({"class": ["plane"] * 3}, geometry=far, crs=4326)
    labels, world = tmp_path / "labels.gpkg", tmp_path / "world.geojson"
    both = pd.concat([frame, more], ignore_index=True)
    both.to_file(labels)
    geopandas.GeoDataFrame(geometry=[shapely.box(-180, -90, 180, 90)], crs=4326).to_file(world)
    options = ("--field", "class", "--patch", 128, "--val-share", 0, "--area", world)
    done = command("prepare", "labels", scene, labels, tmp_path / "data", *options)
    assert done.exit_code == 0, done.output
    (mask,) = (tmp_path / "data" / "masks").rglob("*.png")
    with rasterio.open(scene) as file:
        valid = file.dataset_mask() > 0
    assert ((np.asarray(Image.open(mask)) != 255) == valid).all()
    done = command("evaluate", "--scene", found["classes"], "--truth", labels, "--json")
    assert done.exit_code == 0, done.output
    counts = frame["class"].value_counts().to_dict()
    scores = json.loads(done.stdout)["objects"]
    assert {name: score["matched"] for name, score in scores.items() if score["found"]} == counts


def test_labels_of_mixed_geometry(tmp_path: Path) -> None:
    """Empty, of points and lines, with Z and M, curved: what is a polygon counts, once."""
    scene = write_discs(tmp_path / "town.tif", 128, 128, nodata=None)
    x, y = TRANSFORM @ (100, 100)
    square = f"{x} {y}{{0}}, {x + 8} {y}{{0}}, {x + 8} {y + 8}{{0}}, {x} {y + 8}{{0}}, {x} {y}{{0}}"
    shapes = [
        f"POLYGON ZM (({square.format(' 1 2')}))",
        f"POLYGON M (({square.format(' 1')}))",
        f"GEOMETRYCOLLECTION (POLYGON (({square.format('')})), POINT ({x} {y}))",
        f"CURVEPOLYGON (COMPOUNDCURVE (({square.format('')})))",
        "POLYGON EMPTY",
        "MULTIPOLYGON Z EMPTY",
        "GEOMETRYCOLLECTION EMPTY",
        f"POINT ZM ({x} {y} 1 2)",
        "",
    ]
    table = "\n".join(["class,WKT", *(f'roof,"{shape}"' for shape in shapes)])
    (tmp_path / "labels.csv").write_text(table)
    vrt = tmp_path / "labels.vrt"
    vrt.write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="labels"><SrcDataSource relativeToVRT="1">labels.csv'
        "</SrcDataSource><LayerSRS>EPSG:32633</LayerSRS>"
        '<GeometryField encoding="WKT" field="WKT"/></OGRVRTLayer></OGRVRTDataSource>'
    )
    arguments = ("prepare", "labels", scene, vrt, tmp_path / "data", "--field", "class")
    refused(*arguments, says="5 of 9 features cannot be used")
    assert not (tmp_path / "data").exists()
    done = command(*arguments, "--patch", 128, "--val-share", 0, "--skip-bad")
    assert done.exit_code == 0, done.output
    (mask,) = (tmp_path / "data" / "masks").rglob("*.png")
    assert (np.asarray(Image.open(mask)) == 1).sum() == 16 * 16


# --- pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("float32", np.nan), ("float64", np.nan), ("int64", 7), ("uint64", 0), ("int64", -9999)],
)
def test_a_mosaic_of_several_bands_is_as_empty_as_its_files(
    tmp_path: Path, dtype: str, nodata: float
) -> None:
    planes = np.random.default_rng(0).integers(20, 230, (3, 40, 60)).astype(dtype)
    planes[:, 10:20, 5:50] = nodata
    planes[0, 30] = nodata  # one band only: not empty but for what is not a number
    profile = {"driver": "GTiff", "height": 40, "count": 3, "dtype": dtype, "nodata": nodata}
    parts = []
    for name, first, last in (("whole", 0, 60), ("left", 0, 35), ("right", 30, 60)):
        place = TRANSFORM @ Affine.translation(first, 0)
        parts.append(str(tmp_path / f"{name}.tif"))
        with rasterio.open(
            parts[-1], "w", crs=32633, transform=place, width=last - first, **profile
        ) as file:
            file.write(planes[:, :, first:last])
    write_mosaic(parts[1:], tmp_path / "mosaic.vrt")
    read = []
    for path in (parts[0], str(tmp_path / "mosaic.vrt")):
        scene = Scene.open(path, rescale=(20, 230), collar="off")
        read.append(scene.read(scene.geobox.extent))
        scene.close()
    whole, mosaic = read
    assert not whole.valid.all()
    assert whole.valid.any()
    np.testing.assert_array_equal(mosaic.valid, whole.valid)
    everywhere = np.arange(40) != 30
    here = whole.valid & everywhere[:, None]
    np.testing.assert_array_equal(mosaic.image[:, here], whole.image[:, here])


@pytest.mark.parametrize(("ids", "warned"), [((0, 255), True), ((0, 14), False)])
def test_scores_of_one_class_are_no_praise(tmp_path: Path, ids: tuple[int, ...], warned) -> None:
    """Masks of 0 and 255 hold no object, so nothing was right about objects."""
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "image.png")
    mask = np.repeat(np.array(ids, np.uint8), 32)[:, None].repeat(64, axis=1)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "split.csv").write_text("group,name,split,image,mask\ng,a,val,image.png,mask.png")
    done = command("evaluate", "default", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)
    assert ("a mask of 0 and 255 holds none" in done.stderr) == warned


# --- the table ------------------------------------------------------------------------------


def test_the_tests_of_the_table_exist() -> None:
    tests = Path(__file__).resolve().parents[1]
    files = {path.name: path.read_text("utf-8") for path in tests.rglob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (tests / "reported.md").read_text("utf-8"))
    assert len(named) > 50
    missing = [name for file, name in named if f"def {name}(" not in files[file]]
    assert not missing
