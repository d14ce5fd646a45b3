"""Tiles to label next: uncertain ones, different ones."""

from __future__ import annotations

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from commands import command, refused
from geopandas import GeoDataFrame
from rasterio.crs import CRS

from geoseg.analysis.suggest import most_useful, suggest_tiles
from geoseg.classes import ISAID
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.geo.raster.logits import DecodeGrid, LogitsWriter
from geoseg.tiling.grid import Grid, Window
from geoseg.tiling.resample import Resampler

SIDE, TILE = 512, 128
GEOBOX = GeoBox(SIDE, SIDE, Affine(0.5, 0, 448_000, 0, -0.5, 5_412_000), CRS.from_epsg(32633))
UNSURE = {(0, 1): 14, (0, 2): 14, (3, 3): 1}
"""Class that a tile (row, column) is torn between, with background."""


def write_logits(path):
    """16 tiles: certain background, but for three of `UNSURE` and one that has no data."""
    grid = DecodeGrid(
        GEOBOX, GEOBOX.extent, Resampler.of(SIDE, SIDE, 1, 1), Grid(SIDE, SIDE, 128, 32)
    )
    writer = LogitsWriter(path, grid, ISAID)
    logits = np.zeros((SIDE // 8, SIDE // 8, 16), np.float16)
    logits[..., 0] = 9
    for number, ((row, column), class_id) in enumerate(UNSURE.items()):
        cells = logits[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        cells[..., class_id] = 9 - 0.2 * number
    valid = np.ones((SIDE, SIDE), bool)
    valid[:TILE, :TILE] = False
    writer.write(Window(0, 0, SIDE // 8, SIDE // 8), logits)
    writer.write_valid(GEOBOX.extent, valid)
    return path


def suggested(path):
    return pyogrio.read_dataframe(path, layer="suggested")


def tile_of(shape):
    x, y = shape.centroid.x, shape.centroid.y
    column, row = ~GEOBOX.transform @ (x, y)
    return int(row // TILE), int(column // TILE)


def test_variety_goes_before_a_second_of_the_same_kind(tmp_path):
    logits = write_logits(tmp_path / "town.logits.zarr")
    done = command("suggest", logits, "-o", tmp_path / "s.gpkg", "--size", TILE, "--count", 4)
    assert done.exit_code == 0, done.output
    assert "4 of 15 tiles" in done.stdout
    frame = suggested(tmp_path / "s.gpkg")
    tiles = [tile_of(shape) for shape in frame.geometry]
    assert tiles[:3] == [(0, 1), (3, 3), (0, 2)]
    assert frame["uncertainty"][2] > frame["uncertainty"][1]  # it is the less certain of the two
    assert frame["variety"][1] > frame["variety"][2]
    assert frame["rank"].tolist() == [1, 2, 3, 4]
    assert not frame["reviewed"].any()
    assert np.allclose(frame.area, (TILE / 2) ** 2)
    assert (0, 0) not in tiles


def test_tiles_that_the_scene_cuts_off_are_left_out(tmp_path):
    logits = write_logits(tmp_path / "town.logits.zarr")
    done = suggest_tiles(logits, tmp_path / "s.gpkg", size=240, count=99)  # 32 px remain
    assert done.tiles == 4
    assert suggest_tiles(logits, tmp_path / "t.gpkg", size=5000).tiles == 1


def test_labeled_tiles_are_not_suggested_again(tmp_path):
    logits = write_logits(tmp_path / "town.logits.zarr")
    suggest_tiles(logits, tmp_path / "a.gpkg", size=TILE, count=2)
    suggest_tiles(logits, tmp_path / "b.gpkg", size=TILE, count=15, labeled=tmp_path / "a.gpkg")
    first, second = (suggested(tmp_path / f"{name}.gpkg") for name in "ab")
    assert len(second) == 13
    tiles = {tile_of(shape) for shape in first.geometry}
    assert not tiles & {tile_of(shape) for shape in second.geometry}


@pytest.mark.parametrize("with_classes", [True, False])
def test_a_raster_of_confidence_will_do(tmp_path, with_classes):
    percent, ids = np.full((SIDE, SIDE), 100, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    for number, ((row, column), class_id) in enumerate(UNSURE.items()):
        part = np.s_[TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
        percent[part], ids[part] = 50 + 12 * number, class_id
    path = tmp_path / "town.confidence.tif"
    with CogWriter.for_confidence(path, GEOBOX) as raster:
        raster.write(GEOBOX.extent, percent)
    if with_classes:
        with CogWriter.for_classes(tmp_path / "town.classes.tif", GEOBOX, ISAID) as raster:
            raster.write(GEOBOX.extent, ids)
    suggest_tiles(path, tmp_path / "s.gpkg", size=TILE, count=3)
    tiles = [tile_of(shape) for shape in suggested(tmp_path / "s.gpkg").geometry]
    assert tiles == [(0, 1), (3, 3), (0, 2)] if with_classes else set(tiles) == {*UNSURE}


def test_each_choice_is_the_best_of_the_rest():
    rng = np.random.default_rng(0)
    uncertainty, mix = rng.random(30), rng.dirichlet(np.ones(5), 30)
    order, variety = most_useful(uncertainty, mix, 30)
    assert sorted(order) == list(range(30))
    assert order[0] == uncertainty.argmax()
    assert (np.diff(variety[1:]) < 0.5).all()
    nearest = [
        min(np.sqrt(((np.sqrt(mix[i]) - np.sqrt(mix[j])) ** 2).sum() / 2) for j in order[:n])
        for n, i in enumerate(order)
        if n
    ]
    assert np.allclose(variety[1:], nearest)


def test_what_cannot_be_used_is_refused(tmp_path):
    logits = write_logits(tmp_path / "town.logits.zarr")
    out = tmp_path / "s.gpkg"
    refused("suggest", logits, "-o", out, "--count", 0, says="--count is 0")
    refused("suggest", logits, "-o", out, "--size", 8, says="--size is 8; give at least 32")
    all_of_it = GeoDataFrame(geometry=[shapely.box(*GEOBOX.bounds)], crs=32633)
    all_of_it.to_file(tmp_path / "all.gpkg")
    labeled = ("--labeled", tmp_path / "all.gpkg")
    refused("suggest", logits, "-o", out, *labeled, says="has no tile of 512 px")
    photo = tmp_path / "photo.tif"
    with rasterio.open(photo, "w", driver="GTiff", width=9, height=9, count=3, dtype="uint8") as f:
        f.write(np.zeros((3, 9, 9), np.uint8))
    refused("suggest", photo, "-o", out, says="is no raster of confidence")
    assert not out.exists()
