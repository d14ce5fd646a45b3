"""Labeled images: any kind of file, pixels as predict sees them, and sets that teach nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from fakes import Colors
from PIL import Image
from rasterio.enums import ColorInterp
from torch.utils.data import DataLoader, Dataset
from training_sets import RGB, SIDE, TWO, folder_of, mask_of, png, recipe_of

from geoseg.classes import IGNORE, LabelClass
from geoseg.cli.main import main
from geoseg.datasets.images import read_image
from geoseg.datasets.layout import write_classes
from geoseg.errors import DataError
from geoseg.geo.raster.scene import Scene
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions
from geoseg.pipeline.predict import predict
from geoseg.train.crops import load_cached
from geoseg.train.dataset import (
    Item,
    LabeledFolder,
    check_training,
    check_validation,
    inspect_items,
)
from geoseg.train.evaluate import evaluate, predict_pixels
from geoseg.train.fit import fit
from geoseg.train.recipe import load_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def write_tiff(path: Path, planes: np.ndarray, **profile: object) -> Path:
    count, height, width = planes.shape
    profile = {"driver": "GTiff", "dtype": planes.dtype.name} | profile
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as file:
        file.write(planes)
    return path


def alpha_tiff(path: Path) -> Path:
    alpha = np.full((1, SIDE, SIDE), 255, np.uint8)
    alpha[:, :20] = 0
    write_tiff(path, np.concatenate([RGB, alpha]), photometric="rgb")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:3], ColorInterp.alpha]
    return path


def palette_png(path: Path) -> Path:
    picture = Image.fromarray(RGB[0] % 7)
    picture.putpalette([value for i in range(7) for value in (30 * i, 255 - 30 * i, 99)])
    picture.save(path)
    return path


def collar_tiff(path: Path) -> Path:
    return write_tiff(path, np.where(np.arange(SIDE) < 40, 0, RGB.astype(np.uint16) * 9 + 300))


def nodata_tiff(path: Path) -> Path:
    return write_tiff(path, np.where(np.arange(SIDE) < 9, np.uint8(7), RGB), nodata=7)


IMAGES = {
    "rgb.png": lambda p: png(p, RGB.transpose(1, 2, 0)),
    "gray.png": lambda p: png(p, RGB[0]),
    "palette.png": palette_png,
    "transparent.png": lambda p: png(p, np.concatenate([RGB, RGB[:1]]).transpose(1, 2, 0)),
    "gray16.png": lambda p: png(p, RGB[0].astype(np.uint16) * 200 + 3000),
    "rgb.jpg": lambda p: png(p, RGB.transpose(1, 2, 0), quality=80),
    "rgb16.tif": lambda p: write_tiff(p, RGB.astype(np.uint16) * 10 + 300),
    "collar16.tif": collar_tiff,
    "int16.tif": lambda p: write_tiff(p, RGB.astype(np.int16) * 100 - 9000),
    "float.tif": lambda p: write_tiff(p, RGB.astype(np.float32) / 255),
    "four.tif": lambda p: write_tiff(p, np.concatenate([RGB, RGB[:1]]), photometric="rgb"),
    "five.tif": lambda p: write_tiff(p, np.concatenate([RGB, RGB[:2]])),
    "white.tif": lambda p: write_tiff(p, RGB[:1], photometric="miniswhite"),
    "alpha.tif": alpha_tiff,
    "nodata.tif": nodata_tiff,
}
MORE_BANDS = ("four.tif", "five.tif", "transparent.png")
"""The fourth holds a picture, so it is no mask."""


class Images(Dataset[np.ndarray]):
    """The pixels of files."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index]).image


@pytest.mark.parametrize("name", IMAGES)
def test_training_evaluation_and_prediction_see_the_same_pixels(name, tmp_path):
    path = IMAGES[name](tmp_path / name)
    picture = read_image(path)
    scene = Scene.open(str(path))
    seen = scene.read(scene.geobox.extent)
    assert (picture.image == seen.image.transpose(1, 2, 0)).all()
    if not scene.collars:  # which only a whole scene can have
        assert (picture.valid == seen.valid).all()
    assert picture.image.std() > 20
    png(tmp_path / "mask.png", mask_of(0, 1))
    item = Item("g", "a", path, tmp_path / "mask.png", 2)
    image, mask, valid = item.load()
    assert (image == picture.image).all()
    assert ((mask == IGNORE) == ~valid).all()
    drawn, ids = load_cached(item, (1.0, 2.0, 3.0))
    assert (drawn[valid] == image[valid]).all()
    assert (drawn[~valid] == (1, 2, 3)).all()
    assert (ids == mask).all()
    told = []
    inspect_items([item], report=told.append)
    assert bool(told) == (scene.rescale is not None or name in MORE_BANDS)


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "rgb16.tif", "alpha.tif", "white.tif"])
def test_evaluation_finds_what_prediction_finds(name, tmp_path):
    path = IMAGES[name](tmp_path / name)
    model = TileModel(Colors(), device="cpu")
    summary = predict(path, model, OutputOptions(tmp_path / "out"))
    with rasterio.open(summary.outputs["classes"]) as file:
        expected = file.read(1)
    picture = read_image(path)
    found = predict_pixels(model, picture.image, picture.valid, tile_size=1024, overlap=128)
    assert (found[picture.valid] == expected[picture.valid]).all()
    assert (expected[~picture.valid] == IGNORE).all()
    assert len(np.unique(found)) > 1


def test_a_forked_loader_reads_tiles_that_its_parent_has_read(tmp_path):
    """GDAL's threads stay behind in the parent."""
    planes = np.random.default_rng(0).integers(0, 4000, (3, 300, 300), dtype=np.uint16)
    path = write_tiff(
        tmp_path / "a.tif", planes, tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    expected = read_image(path).image
    (found,) = DataLoader(Images([path]), batch_size=None, num_workers=1, timeout=60)
    assert (np.asarray(found) == expected).all()


def test_masks_of_other_depths_are_ids_too(tmp_path):
    image = png(tmp_path / "a.png", RGB.transpose(1, 2, 0))
    ids = mask_of(0, 1)
    path = tmp_path / "m.png"
    item = Item("g", "a", image, path, 2)
    for picture in (
        Image.fromarray(ids),
        Image.fromarray(ids.astype(np.uint16)),
        Image.fromarray(ids.astype(bool)),
    ):
        picture.save(path)
        assert (item.load()[1] == ids).all()
    png(path, ids.astype(np.uint16) * 300)
    with pytest.raises(DataError, match="holds 300"):
        item.load()
    png(path, np.dstack([ids] * 3))
    with pytest.raises(DataError, match="mode RGB; a mask is one channel of class ids"):
        item.load()


# -- sets that teach nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ([mask_of(255)], "none of the 1 training masks labels a pixel"),
        ([mask_of(0, 255)], "every labeled training pixel is background.*0 and 255"),
        ([mask_of(1, 255)], "every labeled training pixel is roof.*as background"),
        ([mask_of(0, 1), mask_of(255)], "none of the 1 val masks labels a pixel"),
    ],
)
def test_a_set_that_teaches_or_tells_nothing_is_refused(tmp_path, masks, words):
    root = folder_of(tmp_path, png(tmp_path / "a.png", RGB.transpose(1, 2, 0)), masks)
    recipe = load_recipe(recipe_of(root, tmp_path / "r.yaml"))
    with pytest.raises(DataError, match=words):
        fit(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_set_without_background_is_refused_unless_that_is_meant(tmp_path):
    classes = (*TWO, LabelClass(2, "road", (0, 255, 0)))
    image = png(tmp_path / "a.png", RGB.transpose(1, 2, 0))
    root = folder_of(tmp_path, image, [mask_of(1, 2)], classes)
    recipe = recipe_of(root, tmp_path / "r.yaml")
    command = ["train", str(recipe), "-o", str(tmp_path / "run"), "--device", "cpu"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "no training pixel is background" in result.output
    assert "--area" in result.output
    items, counts, _ = inspect_items(LabeledFolder.open(root).split("train"))
    check_training(load_recipe(recipe), items, counts, classes, without_background=True)
    # Rendered scenes bring theirs.
    mixed = load_recipe(recipe, **{"data.rendered_share": 0.5})
    check_training(mixed, items, counts, classes, without_background=False)


def test_one_class_in_val_tiny_images_and_missing_names_are_told(tmp_path):
    lines = []
    check_validation(np.array([[9, 0], [5, 0]]), TWO, lines.append)
    assert "every labeled val pixel is background" in lines[0]
    check_validation(np.array([[9, 0], [0, 5]]), TWO, lines.append)
    assert len(lines) == 1
    with pytest.raises(DataError, match="2 val images are too few for 3 devices"):
        check_validation(np.array([[9, 0], [0, 5]]), TWO, lines.append, devices=3)
    small = png(tmp_path / "small.png", RGB[:, :20, :20].transpose(1, 2, 0))
    root = folder_of(tmp_path, small, [mask_of(0, 1)[:20, :20]])
    recipe = load_recipe(recipe_of(root, tmp_path / "r.yaml"))
    with pytest.raises(DataError, match="is 20×20 px"):
        fit(recipe, tmp_path / "run", device="cpu")
    (root / "classes.csv").unlink()
    with pytest.raises(DataError, match=r"has no classes\.csv"):
        fit(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# -- weights and their scores ------------------------------------------------------------------


def test_scores_on_the_terminal_and_in_the_log_are_those_of_the_file(small_network, tmp_path):
    """The averaged weights, as stored, computed as evaluate computes."""
    image = png(tmp_path / "a.png", RGB.transpose(1, 2, 0))
    root = folder_of(tmp_path, image, [mask_of(0, 1, 0, 1)])
    recipe = recipe_of(
        root,
        tmp_path / "r.yaml",
        stages=[{"steps": 6, "batch": 2, "crop": 64, "scale": [1, 1]}],
        optimizer={"lr": 3e-3, "warmup_steps": 0, "ema_decay": 0.9},
        val_every=3,
    )
    lines = []
    fit(load_recipe(recipe), tmp_path / "run", device="cpu", report=lines.append)
    with next((tmp_path / "run").glob("logs/*/metrics.csv")).open() as file:
        logged = [float(row["val_miou"]) for row in csv.DictReader(file) if row["val_miou"]]
    said = [line for line in lines if line.startswith("step")]
    assert len(said) == len(logged) == 2
    weights = {name: tmp_path / "run" / f"{name}.safetensors" for name in ("best", "last")}
    scores = {}
    for name, path in weights.items():
        command = ["evaluate", str(path), str(root), "--device", "cpu"]
        result = CliRunner().invoke(main, command, catch_exceptions=False)
        scores[name] = float(result.stdout.split("mIoU ")[1].split()[0])
        assert (
            path.stat().st_mode & 0o777 == (tmp_path / "run" / "recipe.yaml").stat().st_mode & 0o777
        )
    assert said[-1].startswith(f"step 6: val mIoU {scores['last']:.4f}, loss ")
    assert logged[-1] == pytest.approx(scores["last"], abs=1e-4)
    assert scores["best"] == pytest.approx(max(logged), abs=1e-4)


def test_classes_are_scored_by_name(tmp_path):
    image = png(tmp_path / "a.png", RGB.transpose(1, 2, 0))
    model = TileModel(Colors(), device="cpu")
    found = predict_pixels(
        model, RGB.transpose(1, 2, 0).copy(), np.ones((SIDE, SIDE), bool), tile_size=1024, overlap=0
    )
    assert {1, 9, 14} & set(np.unique(found))
    names = ["background", "plane", "ship"]  # 0, 14 and 1 of the weights
    classes = tuple(LabelClass(i, name, (i, i, i)) for i, name in enumerate(names))
    mask = np.zeros_like(found)
    mask[found == 14], mask[found == 1] = 1, 2
    data = LabeledFolder.open(folder_of(tmp_path, image, [mask], classes))
    evaluation = evaluate(model, data, data.split("val"))
    rows = {row.name: row for row in evaluation.scores.classes if row.pixels}
    assert set(rows) <= set(names)
    # What is found of classes that the data does not list is not held against its background.
    assert evaluation.scores.accuracy == 1
    assert "small_vehicle" in evaluation.unlisted
    other = (*classes[:2], LabelClass(2, "roof", (2, 2, 2)))
    write_classes(tmp_path, other)
    with pytest.raises(DataError, match="do not know roof"):
        evaluate(model, LabeledFolder.open(tmp_path), data.split("val"))


def test_the_hash_of_weights_is_one(tmp_path):
    model = load_model()
    shown = CliRunner().invoke(main, ["weights", "show", "default"], catch_exceptions=False)
    assert f"sha256      {TileModel(model, device='cpu').weights_hash}\n" in shown.stdout
