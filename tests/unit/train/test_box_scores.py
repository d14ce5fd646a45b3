"""Objects counted by their bounding boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.classes import ISAID
from geoseg.cli.evaluate import table
from geoseg.datasets.layout import Patch, write_classes, write_patch, write_split, write_table
from geoseg.errors import DataError
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.tiling.decoding import Decoded
from geoseg.train.box_scores import BoxCounts, box_iou, count_pairs, region_boxes
from geoseg.train.dataset import LabeledFolder
from geoseg.train.evaluate import evaluate

SHIP, PLANE = ISAID[1], ISAID[14]
NOTHING = np.zeros(len(ISAID), bool)


def mask_of(*boxes: tuple[int, int, int, int], class_id: int = SHIP.id) -> np.ndarray:
    mask = np.zeros((60, 80), np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = class_id
    return mask


def sure(mask: np.ndarray, confidence: float = 1.0) -> Decoded:
    return Decoded(mask, np.full(mask.shape, confidence, np.float32))


def scored(mask: np.ndarray, boxes: dict[str, list], hidden: np.ndarray = NOTHING) -> dict:
    counts = BoxCounts(ISAID)
    truth = {name: np.array(each, float).reshape(-1, 4) for name, each in boxes.items()}
    counts.add("g", sure(mask), truth, hidden)
    return {s.name: (s.truth, s.found, s.matched) for s in counts.scores(0.3)}


def test_regions_have_the_boxes_that_were_drawn():
    boxes = [(3, 4, 20, 9), (30, 10, 44, 50)]
    (found,) = region_boxes(sure(mask_of(*boxes)), ISAID, {}).values()
    assert sorted(map(tuple, found)) == boxes


def test_specks_and_uncertain_regions_are_no_objects():
    mask = mask_of((3, 4, 20, 9), (40, 10, 42, 14))
    assert len(region_boxes(sure(mask), ISAID, {})["ship"]) == 1
    assert len(region_boxes(sure(mask, 0.6), ISAID, {"ship": 0.55, "plane": 1})["ship"]) == 1
    assert not region_boxes(sure(mask, 0.6), ISAID, {"ship": 0.65})


def test_found_missed_and_invented_objects_are_told_apart():
    mask = mask_of((3, 4, 20, 9), (60, 40, 70, 50))
    truth = {"ship": [(4, 4, 21, 9), (40, 4, 50, 9)]}
    assert scored(mask, truth) == {"ship": (2, 2, 1)}


def test_merged_objects_count_once_at_most():
    assert scored(mask_of((0, 0, 40, 10)), {"ship": [(0, 0, 20, 10), (20, 0, 40, 10)]}) == {
        "ship": (2, 1, 1)
    }


def test_what_a_group_does_not_label_is_not_counted():
    hidden = NOTHING.copy()
    hidden[PLANE.id] = True
    mask = mask_of((0, 0, 9, 9), class_id=PLANE.id)
    assert scored(mask, {}, hidden) == {}
    assert scored(mask, {}) == {"plane": (0, 1, 0)}


def test_a_region_on_what_does_not_count_is_no_error():
    mask = mask_of((3, 4, 20, 9), (60, 40, 70, 50))
    truth = {"ship": [(3, 4, 20, 9)], "ignore": [(59, 41, 70, 50)]}
    assert scored(mask, truth) == {"ship": (1, 1, 1)}


boxes = st.lists(
    st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 15)] * 2).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=6,
)


@settings(deadline=None)
@given(boxes, boxes)
def test_pairs_are_those_of_a_plain_loop(one, other):
    a, b = (np.array(each, float).reshape(-1, 4) for each in (one, other))
    iou = box_iou(a, b)
    for i, p in enumerate(one):
        for j, q in enumerate(other):
            width = max(0, min(p[2], q[2]) - max(p[0], q[0]))
            height = max(0, min(p[3], q[3]) - max(p[1], q[1]))
            sizes = [(r[2] - r[0]) * (r[3] - r[1]) for r in (p, q)]
            common = width * height
            assert iou[i, j] == pytest.approx(common / (sum(sizes) - common))
    pairs = count_pairs(iou, 0.3)
    assert pairs <= min(len(one), len(other))
    assert (pairs > 0) == bool((iou >= 0.3).any())
    assert count_pairs(box_iou(a, a), 1.0) == len(one)


def test_evaluate_counts_objects_where_the_data_has_boxes(tmp_path):
    """Bright squares, found by a model that calls bright pixels ships."""
    image = np.full((96, 128, 3), 20, np.uint8)
    for left in (8, 56):
        image[24:48, left : left + 24] = 250
    patch = Patch("port", "a", "val")
    write_patch(tmp_path, patch, image, np.zeros((96, 128), np.uint8))
    write_classes(tmp_path, ISAID)
    write_split(tmp_path, [patch])
    columns = ("group", "name", "class", *(f"{a}{i}" for i in range(1, 5) for a in "xy"))
    rows = [
        ("port", "a", "ship", *["8", "24", "32", "24", "32", "48", "8", "48"]),
        ("port", "a", "ship", *["100", "60", "120", "60", "120", "80", "100", "80"]),
    ]
    write_table(tmp_path / "boxes.csv", columns, rows)
    model = TileModel(Bright(), device="cpu", precision="float32")
    data = LabeledFolder.open(tmp_path)
    evaluation = evaluate(model, data, data.split("val"))
    found = evaluation.objects
    assert found is not None
    (score,) = found.scores(0.3)
    assert (score.name, score.truth, score.found, score.matched) == ("ship", 2, 2, 1)
    told = found.as_dict()["0.5"]
    assert told["all"] == told["groups"]["port"]
    assert told["all"]["ship"]["precision"] == 0.5
    assert evaluation.as_dict()["objects"] == found.as_dict()
    row = "ship                     0.500   0.500  0.500       2       2       1"
    assert table(evaluation, by_group=False).count(row) == 2  # a table for each IoU
    assert table(evaluation, by_group=True).split("group port\n")[1].count(row) == 2
    write_table(
        tmp_path / "boxes.csv",
        columns,
        [("port", "a", "boat", *["0", "0", "1", "0", "1", "1", "0", "1"])],
    )
    with pytest.raises(DataError, match=r"boxes\.csv, line 2: the data has no class 'boat'"):
        evaluate(model, data, data.split("val"))


class Bright(torch.nn.Module):
    """Calls bright pixels ships."""

    metadata = Metadata("T", ISAID)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = torch.nn.functional.avg_pool2d(x.mean(dim=1, keepdim=True), 8)
        others = torch.full_like(bright, -99.0).expand(-1, len(ISAID) - 2, -1, -1)
        return torch.cat([-bright, bright, others], dim=1)
