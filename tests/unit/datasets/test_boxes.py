"""Boxes of every format, and the masks that they become."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize

from geoseg.classes import IGNORE, ISAID
from geoseg.cli.main import main
from geoseg.datasets.box_masks import SHAPES, Shape, core, paint_boxes, polygon, rim
from geoseg.datasets.boxes import Box, decode_runs, read_boxes
from geoseg.datasets.from_boxes import choose_splits, prepare_boxes
from geoseg.datasets.layout import Patching
from geoseg.errors import DataError
from geoseg.train.box_scores import read_box_table
from geoseg.train.dataset import LabeledFolder

IDS = {item.name: item.id for item in ISAID}
SIZE = (120, 160)
"""Rows and columns of the images."""
IMAGES = ("a", "b")
OBJECTS = {"small_vehicle": (20, 30, 24, 10), "storage_tank": (80, 60, 30, 30)}
"""Left, top, width, height."""


def upright(left: float, top: float, width: float, height: float) -> NDArray[np.float64]:
    return np.array(
        [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
    )


def write_dota(folder: Path) -> None:
    (folder / "labelTxt").mkdir()
    lines = ["imagesource:GoogleEarth", "gsd:0.2"]
    for name, place in OBJECTS.items():
        numbers = " ".join(f"{v:.1f}" for v in upright(*place).ravel())
        lines.append(f"{numbers} {name.replace('_', '-')} 0")
    for name in IMAGES:
        (folder / "labelTxt" / f"{name}.txt").write_text("\n".join(lines))


def write_yolo(folder: Path, kind: str) -> None:
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": list(OBJECTS)}))
    lines, (rows, columns) = [], SIZE
    for number, (left, top, width, height) in enumerate(OBJECTS.values()):
        outline = upright(left, top, width, height)
        if kind == "yolo":
            center = (left + width / 2) / columns, (top + height / 2) / rows
            values = [*center, width / columns, height / rows]
        elif kind == "yolo-obb":
            values = (outline / (columns, rows)).ravel()
        else:
            outline = np.insert(outline, 1, outline[:2].mean(axis=0), axis=0)
            values = (outline / (columns, rows)).ravel()
        lines.append(f"{number} " + " ".join(f"{v:.8f}" for v in values))
    for name in IMAGES:
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines))


def write_coco(folder: Path, kind: str) -> None:
    annotations = []
    for image in range(len(IMAGES)):
        for number, place in enumerate(OBJECTS.values()):
            item = {"image_id": image, "category_id": number, "bbox": place, "iscrowd": 0}
            if kind == "coco-rle":
                mask = rasterize([polygon(upright(*place))], SIZE)
                item["segmentation"] = {"size": SIZE, "counts": encoded(mask)}
            annotations.append(item)
    content = {
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(IMAGES)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(OBJECTS)],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(content))


def write_csv(folder: Path) -> None:
    lines = ["image,class,x1,y1,x2,y2,x3,y3,x4,y4,kind"]
    for image in IMAGES:
        for name, place in OBJECTS.items():
            numbers = ",".join(map(str, upright(*place).ravel()))
            lines.append(f"{image}.png,{name},{numbers},H")
    (folder / "boxes.csv").write_text("\n".join(lines))


@pytest.fixture(params=["dota", "yolo", "yolo-obb", "yolo-outline", "coco", "coco-rle", "csv"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The same images and objects in each of the formats."""
    kind = request.param
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    for name in IMAGES:
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    if kind == "dota":
        write_dota(tmp_path)
    elif kind.startswith("yolo"):
        write_yolo(tmp_path, kind)
    elif kind.startswith("coco"):
        write_coco(tmp_path, kind)
    else:
        write_csv(tmp_path)
    return tmp_path, kind.partition("-")[0]


def encoded(mask: NDArray[np.uint8]) -> str:
    """COCO's compressed run lengths."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    lengths = [0, *lengths] if flat[0] else lengths
    text = ""
    for i, length in enumerate(lengths):
        value = length - (lengths[i - 2] if i > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + (bits if done else bits | 32))
            if done:
                break
    return text


def test_every_format_tells_the_same_objects(data, tmp_path):
    source, form = data
    images, problems = read_boxes(source, form)
    assert [image.path.name for image in images] == ["a.png", "b.png"]
    assert not problems
    for image in images:
        size = SIZE[::-1] if image.relative else (1, 1)
        found = {box.name.replace("-", "_"): box.outline * size for box in image.boxes}
        assert found.keys() == OBJECTS.keys()
        for name, place in OBJECTS.items():
            drawn, expected = polygon(found[name]), polygon(upright(*place))
            assert drawn.symmetric_difference(expected).area < 0.01 * expected.area


def test_a_folder_of_boxes_becomes_one_that_training_reads(data, tmp_path):
    source, form = data
    target = tmp_path / "patches"
    arguments = ["prepare", "boxes", str(source), str(target), "--format", form, "--val-share"]
    result = CliRunner().invoke(main, [*arguments, "0.5"], catch_exceptions=False)
    assert "1 train and 1 val patches" in result.output
    folder = LabeledFolder.open(target)
    assert folder.classes == ISAID
    for split in ("train", "val"):
        (item,) = folder.split(split)
        mask = item.load()[1]
        for name, (left, top, width, height) in OBJECTS.items():
            assert mask[top + height // 2, left + width // 2] == IDS[name]
        assert mask[0, 0] == 0
    rows = (target / "boxes.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * len(OBJECTS)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_run_lengths_are_decoded(data):
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 70))
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits, np.uint8).reshape(height, width)
    assert (decode_runs(encoded(mask), height, width) == mask).all()


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    name = draw(st.sampled_from([item.name for item in ISAID[1:]]))
    left, top = draw(st.integers(0, 110)), draw(st.integers(0, 70))
    outline = upright(left, top, draw(st.integers(6, 50)), draw(st.integers(6, 50)))
    angle = draw(st.sampled_from([0.0, 0.4, 2.0]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = outline.mean(axis=0)
    return Box(name, (outline - center) @ turn + center, oriented=angle != 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(boxes(), max_size=5))
def test_outside_is_background_and_the_smallest_object_is_sure(found):
    mask = paint_boxes(found, IDS, SIZE)
    outlines = [rim(box, SHAPES.get(box.name, Shape.MIDDLE)) for box in found]
    outside = np.ones(SIZE, bool)
    if outlines:
        outside = rasterize([(each, 1) for each in outlines], SIZE, all_touched=True) == 0
    assert (mask[outside] == 0).all()
    assert set(np.unique(mask)) <= {0, IGNORE, *(IDS[box.name] for box in found)}
    if found:
        smallest = min(reversed(found), key=lambda box: shapely.area(polygon(box.outline)))
        inside = core(smallest, SHAPES.get(smallest.name, Shape.MIDDLE))
        inside_mask = rasterize([inside], SIZE) == 1
        assert (mask[inside_mask] == IDS[smallest.name]).all()


def test_an_exact_outline_is_painted_as_it_is():
    ring = np.array([[10, 10], [60, 20], [50, 70], [30, 40], [12, 66]], float)
    mask = paint_boxes([Box("plane", ring, exact=True)], IDS, SIZE)
    expected = rasterize([polygon(ring)], SIZE) * IDS["plane"]
    assert (mask == expected).all()


def test_parked_cars_stay_apart():
    cars = [Box("small_vehicle", upright(20 + 12 * i, 30, 12, 30)) for i in range(4)]
    mask = paint_boxes(cars, IDS, SIZE)
    between = mask[45, [32, 44, 56]]
    assert (between == 0).all()
    assert (mask[45, [26, 38, 50, 62]] == IDS["small_vehicle"]).all()


def test_what_does_not_count_is_ignored():
    crowd = Box("small_vehicle", upright(20, 30, 40, 30), ignored=True)
    car = Box("small_vehicle", upright(30, 40, 20, 8), oriented=True)
    mask = paint_boxes([crowd, car], IDS, SIZE)
    assert mask[32, 22] == IGNORE
    assert mask[44, 40] == IDS["small_vehicle"]


def test_errors_name_file_and_line(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    label = tmp_path / "labelTxt" / "a.txt"
    for line, message in (
        ("1 2 3 4 5 6 7 ship", "has 8 words"),
        ("1 2 3 4 5 6 7 x ship 0", "could not convert"),
        ("1 2 3 4 5 6 7 nan ship 0", "not finite"),
    ):
        label.write_text(f"1 1 9 1 9 9 1 9 plane 0\n{line}\n")
        with pytest.raises(DataError, match=rf"a\.txt, line 2.*{message}"):
            read_boxes(tmp_path, "dota")
    label.unlink()
    with pytest.raises(DataError, match="no image with labels"):
        read_boxes(tmp_path, "dota")


def test_classes_are_renamed_or_named_in_an_error(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    lines = ["image,class,x1,y1,x2,y2,x3,y3,x4,y4", "a.png,van,1,1,9,1,9,9,1,9"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    options = {"patching": Patching(64, 0), "val_share": 0}
    with pytest.raises(DataError, match="--map van=CLASS"):
        prepare_boxes(tmp_path, tmp_path / "x", "csv", classes=ISAID, **options)
    with pytest.raises(DataError, match="no box has the class 'car'"):
        prepare_boxes(tmp_path, tmp_path / "x", "csv", renamed={"car": "ship"}, **options)
    own = prepare_boxes(tmp_path, tmp_path / "own", "csv", **options)
    assert [c.name for c in own.classes] == ["background", "van"]
    renamed = {"van": "small_vehicle"}
    known = prepare_boxes(tmp_path, tmp_path / "known", "csv", renamed=renamed, **options)
    assert known.classes == ISAID
    assert known.pixels["small_vehicle"] > 0


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 200), st.floats(0.01, 0.5))
def test_validation_takes_about_its_share_in_runs(count, share):
    class Image:
        split = None

    splits = choose_splits([Image()] * count, share)
    held_out = splits.count("val")
    assert 1 <= held_out < count
    assert abs(held_out - share * count) <= max(1, 0.5 * share * count) + 10 * 0.5


def test_sources_share_a_folder_and_one_can_be_prepared_again(tmp_path):
    for name, count in (("east", 3), ("west", 2)):
        source = tmp_path / name
        source.mkdir()
        lines = ["image,class,x1,y1,x2,y2,x3,y3,x4,y4"]
        for i in range(count):
            Image.new("RGB", (64, 64)).save(source / f"{i}.png")
            lines.append(f"{i}.png,ship,10,10,30,10,30,20,10,20")
        (source / "boxes.csv").write_text("\n".join(lines))
    target, options = tmp_path / "all", {"patching": Patching(64, 0), "val_share": 0}
    for name in ("east", "west", "east"):
        prepare_boxes(tmp_path / name, target, "csv", **options)
    folder = LabeledFolder.open(target)
    groups = [item.group for item in folder.split("train")]
    assert sorted(groups) == ["east"] * 3 + ["west"] * 2
    boxes = read_box_table(target, folder.classes)
    assert {(item.group, item.name) for item in folder.split("train")} == boxes.keys()
    (tmp_path / "east" / "2.png").unlink()
    lines = (tmp_path / "east" / "boxes.csv").read_text().splitlines()
    (tmp_path / "east" / "boxes.csv").write_text("\n".join(lines[:-1]))
    prepare_boxes(tmp_path / "east", target, "csv", **options)
    assert len(list((target / "images" / "train").glob("east_*.png"))) == 2
    assert len(LabeledFolder.open(target).split("train")) == 4


def test_images_are_read_as_predict_reads_them(tmp_path):
    """16 bits are stretched, and what the file declares empty is not labeled."""
    pixels = np.random.default_rng(0).integers(1000, 3000, (3, 64, 64)).astype(np.uint16)
    pixels[:, :, 40:] = 0
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint16"}
    with rasterio.open(tmp_path / "a.tif", "w", nodata=0, **profile) as file:
        file.write(pixels)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.25 0.25 0.25 0.25")
    (tmp_path / "classes.txt").write_text("ship")
    options = {"patching": Patching(64, 0), "val_share": 0}
    prepared = prepare_boxes(tmp_path, tmp_path / "out", "yolo", **options)
    assert any("uint16" in note for note in prepared.notes)
    (item,) = LabeledFolder.open(tmp_path / "out").split("train")
    image, mask, _ = item.load()
    assert image[:, :40].std() > 40
    assert (mask[:, 40:] == IGNORE).all()
    assert mask[16, 16] == IDS["ship"]


def test_a_folder_keeps_its_classes(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    lines = ["image,class,x1,y1,x2,y2,x3,y3,x4,y4", "a.png,van,1,1,9,1,9,9,1,9"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    target, options = tmp_path / "out", {"patching": Patching(64, 0), "val_share": 0}
    prepare_boxes(tmp_path, target, "csv", **options)
    before = (target / "classes.csv").read_bytes()
    with pytest.raises(DataError, match="not those of --classes"):
        prepare_boxes(tmp_path, target, "csv", classes=ISAID, **options)
    assert (target / "classes.csv").read_bytes() == before
