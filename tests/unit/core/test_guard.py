"""Files that a command reads, or that are of others, are never replaced: in every command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import torch
from commands import command, contents, refused
from fakes import write_discs
from maps import write_map
from PIL import Image

from geoseg.geo.layers.geopackage import read_layers
from geoseg.model.load import load_model


def test_a_table_of_classes_is_not_replaced(tmp_path: Path) -> None:
    raster, table = write_map(tmp_path / "map.tif"), tmp_path / "classes.gpkg"
    table.write_text("id,name,color\n1,a,#ff0000\n")
    before = contents(tmp_path)
    asked = ("vectorize", raster, "--classes", table, "-o", table, "--overwrite")
    refused(*asked, says="is the input")
    assert contents(tmp_path) == before


def test_imported_weights_are_not_replaced(tmp_path: Path) -> None:
    weights, link = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save({"state_dict": load_model().state_dict()}, weights)
    link.symlink_to(weights.name)
    before = contents(tmp_path)
    for target in (weights, link):
        asked = ("weights", "import", weights, target, "--classes", "isaid", "--overwrite")
        refused(*asked, says="is the input")
    assert contents(tmp_path) == before


def test_a_confusion_picture_replaces_nothing_that_is_scored(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "mask.png")
    rows = [f"g,{split},{split},image.png,mask.png" for split in ("train", "val")]
    (tmp_path / "split.csv").write_text("\n".join(["group,name,split,image,mask", *rows]))
    before = contents(tmp_path)
    asked = ("evaluate", "default", tmp_path, "--confusion")
    for name in ("image.png", "mask.png"):
        done = command(*asked, tmp_path / name)
        assert done.exit_code == 2
        assert "is the input" in done.stderr
    assert "ends in .png" in command(*asked, tmp_path / "split.csv").stderr
    assert contents(tmp_path) == before
    scene = ("--scene", tmp_path / "image.png", "--truth", tmp_path / "split.csv")
    done = command("evaluate", *scene, "--confusion", tmp_path / "c.png")
    assert "--confusion goes with WEIGHTS" in done.stderr


def test_a_recipe_is_not_replaced_by_its_run(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {root: nowhere}\nstages: [{steps: 1}]  # mine\n")
    refused("train", recipe, "-o", tmp_path, says="is the input")
    assert recipe.read_text().endswith("# mine\n")


@pytest.mark.parametrize("name", ["scene.tif", "scene.gpkg", "preview.png"])
def test_a_demo_replaces_only_a_demo(tmp_path: Path, name: str) -> None:
    write_discs(tmp_path / name, 64, 64, driver="PNG" if name.endswith("png") else "GTiff")
    before = contents(tmp_path)
    refused("demo", "-o", tmp_path, says=f"{name} exists and is not of a demo")
    assert contents(tmp_path) == before


def test_an_export_through_a_link_never_replaces_its_source(tmp_path: Path) -> None:
    layers = tmp_path / "map.gpkg"
    for asked in (
        ("vectorize", write_map(tmp_path / "map.tif"), "-o", layers),
        ("export", layers, "--format", "csv", "-o", tmp_path),
    ):
        assert command(*asked).exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    link, table = tmp_path / "elsewhere" / "map.csv", tmp_path / "map.csv"
    link.symlink_to(table)
    (tmp_path / "there").symlink_to("elsewhere")
    before = contents(tmp_path)
    for source, folder in ((table, "elsewhere"), (link, "."), (table, "there"), (link, "there")):
        asked = ("export", source, "--format", "csv", "-o", tmp_path / folder, "--overwrite")
        refused(*asked, says="is the input")
    assert contents(tmp_path) == before
    assert link.is_symlink()


def test_what_a_vrt_names_is_its_input(tmp_path: Path) -> None:
    table, vrt = tmp_path / "town.csv", tmp_path / "town.vrt"
    scene = write_discs(tmp_path / "town.tif", 140, 140)
    with rasterio.open(scene) as file:
        outline = shapely.box(*file.bounds).wkt
    table.write_text(f'class,WKT\nroof,"{outline}"\n')
    vrt.write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="town"><SrcDataSource relativeToVRT="1">town.csv'
        "</SrcDataSource><LayerSRS>EPSG:32633</LayerSRS>"
        '<GeometryField encoding="WKT" field="WKT"/></OGRVRTLayer></OGRVRTDataSource>'
    )
    before = contents(tmp_path)
    options = ("--format", "csv", "-o", tmp_path, "--overwrite")
    refused("export", vrt, *options, says="is the input")
    refused("predict", scene, "--aoi", vrt, *options, says="is the input")
    assert contents(tmp_path) == before


def test_what_belongs_to_a_class_raster_is_its_input(tmp_path: Path) -> None:
    raster = write_map(tmp_path / "map.tif")
    with rasterio.Env(TIFF_USE_OVR=True, GDAL_TIFF_INTERNAL_MASK=False):
        with rasterio.open(raster, "r+") as file:
            file.build_overviews([2])
        with rasterio.open(raster, "r+") as file:
            file.write_mask(np.arange(50)[None] < 25 + np.zeros((20, 1)))
    before = contents(tmp_path)
    for beside in ("map.tif.ovr", "map.tif.msk"):
        assert str(tmp_path / beside) in before
        refused("vectorize", raster, "-o", tmp_path / beside, "--overwrite", says="is the input")
    assert contents(tmp_path) == before
    asked = ("vectorize", raster, "-o", tmp_path / "o.gpkg", "--simplify", 0, "--min-area", 0)
    assert command(*asked, "--no-smooth").exit_code == 0
    areas = read_layers(tmp_path / "o.gpkg").area
    assert sorted(areas) == [50, 100]  # of three squares, the mask leaves one and a half
