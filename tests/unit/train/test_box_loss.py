"""Losses that learn from boxes: objects reach their sides, and pixels go with their neighbors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from geoseg.classes import ISAID
from geoseg.datasets.layout import Patch, write_patch, write_table
from geoseg.model.metadata import Metadata
from geoseg.train.augment import Placement
from geoseg.train.box_scores import BoxOutlines, read_box_table
from geoseg.train.crops import MAX_BOXES, Crops
from geoseg.train.dataset import Item
from geoseg.train.loss import pairwise, projection
from geoseg.train.recipe import DataOptions, LossOptions, Recipe, Stage

SIDE = 64
SURE = 12.0


def turned(left: float, top: float, width: float, height: float, angle: float) -> np.ndarray:
    size = [[0, 0], [width, 0], [width, height], [0, height]]
    corners = np.add(size, (left, top)).astype(float)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    center = corners.mean(axis=0)
    return (corners - center) @ turn + center


def logits_of(outline: np.ndarray, class_id: int = 1) -> torch.Tensor:
    """(1,3,S,S): sure of the class within the outline, of background elsewhere."""
    picture = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(picture).polygon([tuple(p) for p in outline], fill=1)
    inside = torch.from_numpy(np.array(picture)).bool()
    logits = torch.full((1, 3, SIDE, SIDE), -SURE)
    logits[:, 0] = torch.where(inside, -SURE, SURE)
    logits[:, class_id] = torch.where(inside, SURE, -SURE)
    return logits


def loss_of(logits: torch.Tensor, box: np.ndarray, class_id: int = 1) -> float:
    boxes = torch.zeros(1, 2, 4, 2)
    boxes[0, 0] = torch.from_numpy(box)
    return projection(logits, boxes, torch.tensor([[class_id, -1]])).item()


@pytest.mark.parametrize("angle", [0, 0.5, 1.2, 2.9])
def test_an_object_that_fills_its_box_costs_nothing(angle):
    box = turned(18, 22, 28, 20, angle)
    assert loss_of(logits_of(box), box) == pytest.approx(0, abs=0.01)
    # What lies across, from corner to corner, touches all lines, too.
    hull = np.array(
        [box[0], box[0] + (box[1] - box[0]) / 2, box[2], box[2] + (box[3] - box[2]) / 2]
    )
    assert loss_of(logits_of(hull), box) < 0.5


@pytest.mark.parametrize("angle", [0, 0.5, 1.2])
def test_the_middle_alone_does_not_reach_the_sides(angle):
    box, middle = turned(14, 18, 36, 28, angle), turned(26, 27, 12, 10, angle)
    assert loss_of(logits_of(middle), box) > SURE
    assert loss_of(logits_of(box), box, class_id=2) > SURE


def test_lines_that_leave_the_crop_are_not_counted():
    box = turned(40, 20, 60, 20, 0)
    visible = turned(40, 20, SIDE - 40, 20, 0)
    assert loss_of(logits_of(visible), box) == pytest.approx(0, abs=0.01)
    assert loss_of(logits_of(turned(0, 0, 1, 1, 0)), turned(200, 200, 9, 9, 0)) == 0


def test_without_a_box_there_is_nothing_to_learn():
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = projection(logits, torch.zeros(2, 4, 4, 2), torch.full((2, 4), -1))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_neighbors_of_one_color_belong_together():
    half = torch.zeros(1, 3, SIDE, SIDE)
    half[..., SIDE // 2 :] = 200.0
    plain, undecided = torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    logits = logits_of(turned(SIDE // 2, 0, SIDE, SIDE, 0))
    assert pairwise(logits, half, undecided).item() == pytest.approx(0, abs=0.02)
    assert pairwise(logits, plain, undecided).item() > 0.1
    assert pairwise(logits, plain, ~undecided).item() == 0


def test_boxes_lie_where_crops_show_them(tmp_path):
    """A white square on black, whose box follows it through every rotation and mirror."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[40:70, 60:110] = 255
    patch = Patch("g", "a", "train")
    write_patch(tmp_path, patch, image, (image[..., 0] > 0).astype(np.uint8))
    rows = [("g", "a", "ship", "60", "40", "110", "40", "110", "70", "60", "70")]
    columns = ("group", "name", "class", *(f"{a}{i}" for i in range(1, 5) for a in "xy"))
    write_table(tmp_path / "boxes.csv", columns, rows)
    boxes = read_box_table(tmp_path, ISAID)
    item = Item("g", "a", tmp_path / patch.image, tmp_path / patch.mask, len(ISAID))
    recipe = Recipe(
        DataOptions(str(tmp_path)),
        (Stage(1600, 1, 96, (0.5, 1.5)),),
        loss=LossOptions(projection=1.0),
    )
    counts = np.zeros((1, len(ISAID)), np.int64)
    counts[0, :2] = 1000
    crops = Crops(recipe, [item], counts, Metadata("T", ISAID), boxes)
    rng = np.random.default_rng(0)
    for angle in np.linspace(0, 6, 13):
        placement = Placement((85, 55), 0.9, float(angle), bool(angle > 3))
        found = crops.boxes_in(rng, boxes["g", "a"], placement, 96)
        assert found["boxes"].shape == (MAX_BOXES, 4, 2)
        assert found["box_classes"][0] == 1
        center = found["boxes"][0].mean(axis=0)
        assert center.tolist() == pytest.approx([48, 48], abs=0.01)
        sides = np.linalg.norm(np.diff(found["boxes"][0][[0, 1, 2]], axis=0), axis=1)
        assert sorted(sides) == pytest.approx([27, 45])
    for index in range(12):
        sample = crops[(index, recipe.stages[0])]
        for corners, class_id in zip(sample["boxes"], sample["box_classes"], strict=True):
            if class_id >= 0:
                column, row = corners.mean(axis=0).int().tolist()
                assert sample["mask"][row, column] == 1


def test_upright_boxes_hold_turned_ones():
    outlines = BoxOutlines(turned(10, 10, 20, 10, 0.7)[None], np.array([14]))
    ((left, top, right, bottom),) = outlines.axis_aligned(ISAID)["plane"]
    assert right - left > 20
    assert bottom - top > 10
