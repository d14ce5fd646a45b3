"""Scores: pixels against torchmetrics and scikit-learn, objects against a scene known exactly."""

from __future__ import annotations

import json
import math

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from click.testing import CliRunner
from fakes import Colors, write_discs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import from_origin
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from geoseg.classes import IGNORE, ISAID, LabelClass
from geoseg.cli.main import main
from geoseg.datasets.images import read_image
from geoseg.datasets.layout import Patch, write_patch, write_split
from geoseg.errors import DataError, SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.object_scores import ObjectScore, count_matches, score_objects
from geoseg.geo.raster.cog_writer import CogWriter
from geoseg.model.checkpoint import save_checkpoint
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.tiling.grid import Window
from geoseg.train.dataset import LabeledFolder
from geoseg.train.evaluate import evaluate, predict_pixels
from geoseg.train.metrics import Confusion, Scores, ignore_hidden


def class_list(count: int) -> list[LabelClass]:
    return [LabelClass(i, f"class {i}", (0, 0, 0)) for i in range(count)]


@st.composite
def predictions(draw: st.DrawFn) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Classes, truth with IGNORE, and prediction; often with classes that do not occur."""
    count = draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 80))
    truth = rng.choice(draw(st.integers(1, count)), size)
    found = np.where(rng.random(size) < 0.5, truth, rng.integers(0, count, size))
    truth = np.where(rng.random(size) < 0.2, IGNORE, truth)
    return count, torch.from_numpy(truth), torch.from_numpy(found)


@settings(max_examples=80, deadline=None)
@given(predictions())
def test_scores_equal_torchmetrics(case):
    count, truth, found = case
    confusion = Confusion(count)
    for part in torch.arange(len(truth)).chunk(3):  # as image after image
        confusion.update(found[part], truth[part])
    scores = Scores.of(confusion.compute(), class_list(count))
    known = truth != IGNORE
    iou, f1 = (
        metric(count, average=None, ignore_index=IGNORE, zero_division=math.nan)(found, truth)
        if metric is MulticlassJaccardIndex
        else metric(count, average=None, ignore_index=IGNORE)(found, truth)
        for metric in (MulticlassJaccardIndex, MulticlassF1Score)
    )
    for row, one, other in zip(scores.classes, iou.tolist(), f1.tolist(), strict=True):
        if row.pixels:
            assert row.iou == pytest.approx(one, abs=1e-6)
            assert row.f1 == pytest.approx(other, abs=1e-6)
    assert [r.pixels for r in scores.classes] == truth[known].bincount(minlength=count).tolist()
    present = [row.iou for row in scores.classes if row.pixels]
    if present:
        assert scores.miou == pytest.approx(np.mean(present))
        assert scores.accuracy == pytest.approx((truth == found)[known].double().mean().item())
    json.dumps(scores.as_dict(), allow_nan=False)


@settings(max_examples=80, deadline=None)
@given(predictions())
def test_scores_equal_scikit_learn(case):
    sklearn = pytest.importorskip("sklearn.metrics")
    count, truth, found = case
    known = (truth != IGNORE).numpy()
    if not known.any():
        return
    confusion = Confusion(count)
    confusion.update(found, truth)
    scores = Scores.of(confusion.compute(), class_list(count))
    pair = truth.numpy()[known], found.numpy()[known]
    labels = list(range(count))
    assert scores.confusion == tuple(map(tuple, sklearn.confusion_matrix(*pair, labels=labels)))
    for name, expected in {
        "iou": sklearn.jaccard_score(*pair, labels=labels, average=None, zero_division=0),
        "precision": sklearn.precision_score(*pair, labels=labels, average=None, zero_division=0),
        "recall": sklearn.recall_score(*pair, labels=labels, average=None, zero_division=0),
        "f1": sklearn.f1_score(*pair, labels=labels, average=None, zero_division=0),
    }.items():
        for row, value in zip(scores.classes, expected, strict=True):
            if row.pixels and not math.isnan(getattr(row, name)):
                assert getattr(row, name) == pytest.approx(value)


def test_hidden_classes_are_neither_right_nor_wrong_on_background():
    truth = torch.tensor([0, 0, 0, 1, 1, IGNORE])
    found = torch.tensor([0, 2, 1, 1, 2, 2])
    hidden = torch.tensor([False, False, True])
    assert ignore_hidden(found, truth, hidden).tolist() == [0, IGNORE, 0, 1, 1, IGNORE]


@pytest.fixture(scope="module")
def network() -> SegNeXt:
    torch.manual_seed(0)
    model = SegNeXt("T", 16).eval()
    model.metadata = Metadata("T", ISAID)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory, network):
    """Two images, and masks that agree with the network in the upper half."""
    root = tmp_path_factory.mktemp("data")
    patches = [Patch("one", "a", "val"), Patch("two", "b", "val")]
    model = TileModel(network, device="cpu")
    for i, patch in enumerate(patches):
        image = np.random.default_rng(i).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        mask = predict_pixels(model, image, np.ones((96, 128), bool), tile_size=64, overlap=32)
        mask[48:] = (mask[48:] + 1) % 16
        mask[:, :8] = IGNORE
        write_patch(root, patch, image, mask)
    write_split(root, patches)
    return root


def test_whole_images_are_scored_by_the_tiling_of_predict(network, data, tmp_path):
    folder = LabeledFolder.open(data)
    items = folder.split("val")
    seen = []
    evaluation = evaluate(
        TileModel(network, device="cpu"),
        folder,
        items,
        tile_size=64,
        overlap=32,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert evaluation.scores.accuracy == 0.5
    assert np.sum(evaluation.scores.confusion) == 2 * 96 * 120
    assert evaluation.groups.keys() == {"one", "two"}
    parts = [np.array(scores.confusion) for scores in evaluation.groups.values()]
    assert (sum(parts) == np.array(evaluation.scores.confusion)).all()
    assert seen == [(1, 2), (2, 2)]
    weights = tmp_path / "w.safetensors"
    save_checkpoint(weights, network, network.metadata, dtype=torch.float32)
    arguments = ["evaluate", str(weights), str(data), "--tile-size", "64", "--overlap", "32"]
    drawn = tmp_path / "confusion.png"
    more = ["--device", "cpu", "--json", "--confusion", str(drawn)]
    result = CliRunner().invoke(main, [*arguments, *more], catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads(json.dumps(evaluation.as_dict()))
    with Image.open(drawn) as picture:
        assert min(picture.size) > 16 * 40
    turned = CliRunner().invoke(main, [*arguments, "--tta"], catch_exceptions=False)
    assert "mIoU" in turned.stdout
    assert "one    " in turned.stdout
    grouped = CliRunner().invoke(main, [*arguments, "--groups"], catch_exceptions=False)
    for group, scores in evaluation.groups.items():
        part = grouped.stdout.split(f"group {group}\n")[1].split("\n\n")[0].strip()
        assert f"mIoU {scores.miou:.4f} over" in part
        assert part.count("\n") == 1 + sum(row.pixels > 0 for row in scores.classes)
    assert "has no classes.csv: ids are taken for iSAID's (0 background, 1 ship" in turned.stderr


@pytest.mark.parametrize("scale", [0.6, 1.01, 1.5, 3.0])
def test_weights_of_another_scale_see_images_as_predict_shows_scenes(tmp_path, scale):
    """Pixel by pixel, from what the model sees to the classes; with nodata."""
    path = write_discs(tmp_path / "town.tif", 150, 211)
    network = Colors()
    network.metadata = Metadata("T", ISAID, scale=scale)
    model = TileModel(network, device="cpu")
    picture = read_image(path)
    assert not picture.valid.all()
    tiles = {"tile_size": 128, "overlap": 64}
    found = predict_pixels(model, picture.image, picture.valid, **tiles)
    summary = predict(path, model, OutputOptions(tmp_path / "out"), TilingOptions(**tiles))
    with rasterio.open(summary.outputs["classes"]) as raster:
        expected = raster.read(1)
    known = expected != IGNORE
    assert known.mean() > 0.5
    assert (found[known] == expected[known]).all()
    assert len(np.unique(found[known])) > 2


# -- objects -----------------------------------------------------------------------------------

PLACE = from_origin(500_000, 5_400_000, 0.5, 0.5)
CLASSES = tuple(class_list(4))


def on_ground(shape: shapely.Geometry) -> shapely.Geometry:
    return shapely.transform(shape, lambda xy: np.column_stack(PLACE @ (xy[:, 0], xy[:, 1])))


@pytest.fixture
def town(tmp_path):
    """A class raster over two blocks, and the truth, in another CRS: see the test."""
    found = [
        (shapely.box(10, 10, 30, 30), 1),
        (shapely.box(2040, 50, 2060, 70), 1),  # across the border of two blocks
        (shapely.box(100, 10, 120, 30), 1),
        (shapely.box(200, 10, 220, 30), 2),
    ]
    truth = [
        (shapely.box(10, 10, 30, 32), "class 1"),
        (shapely.box(2040, 50, 2060, 70), "class 1"),
        (shapely.box(111, 10, 131, 30), "class 1"),  # IoU 9 / 31
        (shapely.box(200, 10, 220, 30), "class 3"),  # found as class 2
        (shapely.box(300, 10, 320, 30), "tree"),  # not a class of the raster
        (shapely.box(9000, 10, 9020, 30), "class 1"),  # off the raster
    ]
    geobox = GeoBox(100, 2100, PLACE, rasterio.crs.CRS.from_epsg(32633))
    raster = tmp_path / "town.classes.tif"
    with CogWriter.for_classes(raster, geobox, CLASSES) as file:
        ids = rasterize(found, (100, 2100), dtype="uint8")
        ids[90:] = IGNORE
        file.write(Window(0, 0, 2100, 100), ids)
    shapes, names = zip(*truth, strict=True)
    frame = gpd.GeoDataFrame(
        {"class": names}, geometry=[on_ground(s) for s in shapes], crs="EPSG:32633"
    )
    frame.to_crs("EPSG:4326").to_file(tmp_path / "truth.gpkg")
    return tmp_path


def test_objects_are_matched_by_class_and_overlap(town):
    scores = score_objects(town / "town.classes.tif", town / "truth.gpkg")
    assert scores == [
        ObjectScore("class 1", truth=3, found=3, matched=2),
        ObjectScore("class 2", truth=0, found=1, matched=0),
        ObjectScore("class 3", truth=1, found=0, matched=0),
        ObjectScore("tree", truth=1, found=0, matched=0),
    ]
    assert scores[0].precision == scores[0].recall == scores[0].f1 == 2 / 3
    assert math.isnan(scores[1].recall)
    loose = score_objects(town / "town.classes.tif", town / "truth.gpkg", min_iou=0.25)
    assert loose[0].matched == 3
    paths = ["--scene", str(town / "town.classes.tif"), "--truth", str(town / "truth.gpkg")]
    result = CliRunner().invoke(main, ["evaluate", *paths, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["objects"]["class 1"]["matched"] == 2
    table = CliRunner().invoke(main, ["evaluate", *paths], catch_exceptions=False)
    assert "0.667" in table.stdout
    assert CliRunner().invoke(main, ["evaluate", *paths[:2]]).exit_code == 2


def test_truth_that_does_not_fit_is_refused(town):
    frame = gpd.read_file(town / "truth.gpkg")
    frame.assign(**{"class": "tree"}).to_file(town / "trees.gpkg")
    with pytest.raises(DataError, match="found tree, known are"):
        score_objects(town / "town.classes.tif", town / "trees.gpkg")
    with rasterio.open(
        town / "plain.tif", "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8"
    ):
        pass
    with pytest.raises(SceneError, match="names no classes"):
        score_objects(town / "plain.tif", town / "truth.gpkg")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 8))
def test_greedy_matching_equals_one_pair_after_another(seed, found_count, truth_count):
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner, size = rng.uniform(0, 6, (2, count)), rng.uniform(1, 5, (2, count))
        return shapely.box(*corner, *(corner + size))

    found, truth = boxes(found_count), boxes(truth_count)
    pairs = sorted(
        (
            -one.intersection(other).area / one.union(other).area,
            i,
            j,
        )
        for i, one in enumerate(found)
        for j, other in enumerate(truth)
    )
    used_found, used_truth = set(), set()
    for iou, i, j in pairs:
        if -iou >= 0.3 and i not in used_found and j not in used_truth:
            used_found.add(i)
            used_truth.add(j)
    assert count_matches(found, truth, 0.3) == len(used_found)
