"""One palette: seen on the ground, told apart, and never mixed up with the colors of masks."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from rasterio.crs import CRS

from geoseg.classes import ISAID, ISAID_MASK_COLORS, PALETTE, LabelClass, class_color, display_color
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.class_raster import declared_classes
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.model.metadata import HEADER_KEY, Metadata
from geoseg.train.figures import sample_sheet

GROUNDS = {"asphalt": (90, 90, 95), "dark water": (40, 60, 70), "grass": (90, 110, 70)}
OLD = tuple(LabelClass(i, *item) for i, item in enumerate(ISAID_MASK_COLORS.items()))


def linear(colors: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(colors, float) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(colors: ArrayLike) -> NDArray[np.float64]:
    """Björn Ottosson's space, in which equal distances look equally different."""
    cones = np.cbrt(
        linear(colors)
        @ np.array(
            [
                [0.4122214708, 0.2119034982, 0.0883024619],
                [0.5363325363, 0.6806995451, 0.2817188376],
                [0.0514459929, 0.1073969566, 0.6299787005],
            ]
        )
    )
    return cones @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


def contrast(one: ArrayLike, other: ArrayLike) -> float:
    """WCAG's ratio of luminances."""
    low, high = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def distance(one: ArrayLike, other: ArrayLike) -> float:
    return float(np.linalg.norm(oklab(one) - oklab(other)))


def test_the_measure_is_right():
    assert oklab((255, 255, 255)) == pytest.approx([1, 0, 0], abs=1e-4)
    assert oklab((255, 0, 0)) == pytest.approx([0.628, 0.225, 0.126], abs=1e-3)


def test_colors_are_told_apart():
    objects = [item.color for item in ISAID if item.id]
    assert min(distance(*pair) for pair in combinations(objects, 2)) > 0.15
    assert min(distance(*pair) for pair in combinations(PALETTE, 2)) > 0.1
    assert len({class_color(i) for i in range(255)}) > 250


@pytest.mark.parametrize("ground", GROUNDS)
def test_colors_are_seen_on_the_ground(ground):
    for color in PALETTE:
        assert distance(color, GROUNDS[ground]) > 0.15
        assert contrast(color, GROUNDS[ground]) > 1.25
    masks = list(ISAID_MASK_COLORS.values())[1:]
    assert min(distance(color, GROUNDS[ground]) for color in masks) < 0.15  # why there are two


def test_checkpoints_of_old_show_the_palette():
    text = json.dumps({"format": 1, **asdict(Metadata("T", OLD))})
    assert Metadata.from_header({HEADER_KEY: text}).classes == ISAID


def test_only_the_colors_of_masks_give_way():
    assert display_color("ship", (0, 0, 63)) == ISAID[1].color
    assert display_color("ship", (1, 2, 3)) == (1, 2, 3)
    assert display_color("boat", (0, 0, 63)) == (0, 0, 63)


def test_class_rasters_of_old_show_the_palette(tmp_path):
    path = tmp_path / "old.tif"
    geobox = GeoBox(2, 2, Affine(1, 0, 0, 0, -1, 0), CRS.from_epsg(32633))
    with CogWriter.for_classes(path, geobox, OLD):
        pass
    with rasterio.open(path) as raster:
        assert declared_classes(raster) == ISAID


def test_pictures_of_training_are_in_the_colors_of_the_classes():
    classes = (LabelClass(0, "background", (0, 0, 0)), LabelClass(1, "roof", (10, 200, 30)))
    image, ids = np.zeros((40, 40, 3), np.uint8), np.ones((40, 40), np.uint8)
    sheet = sample_sheet([(image, ids, ids)], classes)
    drawn = {color for _, color in sheet.getcolors(2**20)}
    assert (10, 200, 30) in drawn  # the legend
    veiled = tuple(int(value * 0.55) for value in (10, 200, 30))
    assert any(np.abs(np.subtract(color, veiled)).max() <= 1 for color in drawn)
    assert isinstance(sheet, Image.Image)
