"""Boxes around objects, as the public formats store them: DOTA, YOLO, COCO and plain CSV."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from geoseg.classes import IGNORE, ISAID
from geoseg.errors import DataError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
VALIDATION = {"val", "valid", "validation"}
CSV_COLUMNS = ("image", "class", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")


@dataclass(frozen=True, slots=True)
class Box:
    """One object."""

    name: str
    """Its class, as the source spells it."""
    outline: NDArray[np.float64]
    """(K,2) column and row, px: four corners in order, or more for an exact outline."""
    oriented: bool = False
    """Whether the box is rotated with the object; else its sides are parallel to the image's."""
    exact: bool = False
    """Whether `outline` is that of the object itself."""
    ignored: bool = False
    """Whether the source excludes it from scores: a crowd, or too difficult."""


@dataclass(frozen=True, slots=True)
class BoxedImage:
    """An image and its boxes."""

    path: Path
    split: str | None
    """train or val, if the folders of the source tell."""
    boxes: tuple[Box, ...]
    relative: bool = False
    """Whether outlines are in fractions of width and height instead of pixels."""


def read_boxes(source: Path, form: str) -> tuple[list[BoxedImage], list[str]]:
    """Read all images of a data set with their boxes, and a sentence for each unusable one.

    Args:
        source: a folder, or the JSON or CSV file in the folder of the images.
        form: a key of `FORMATS`.

    Raises:
        DataError: nothing can be read.
    """
    images, problems = FORMATS[form](source)
    if not images:
        raise DataError(
            f"{source} has no image with labels of the format {form}"
            + (f": {problems[0]}" if problems else "")
        )
    return sorted(images, key=lambda image: str(image.path)), sorted(problems)


def read_dota(source: Path) -> tuple[list[BoxedImage], list[str]]:
    """Read `images/P0001.png` and `labelTxt/P0001.txt`: eight coordinates, class, difficult.

    Xia et al., "DOTA" (CVPR 2018). Files may begin with lines `imagesource:` and `gsd:`.
    """

    def boxes_of(path: Path) -> Iterator[Box]:
        for where, words in numbered_lines(path):
            if words[0].startswith(("imagesource:", "gsd:")):
                continue
            if len(words) < 9:
                raise DataError(f"{where} has {len(words)} words; a line is x1 y1 … x4 y4 class")
            difficult = len(words) > 9 and words[9] not in ("0", "0.0")
            yield Box(words[8], corners(words[:8], where), oriented=True, ignored=difficult)

    images, labels = pair_files(source, lambda part: part.lower().startswith("label"))
    return join_labels(images, labels, boxes_of, source)


def read_yolo(source: Path) -> tuple[list[BoxedImage], list[str]]:
    """Read `images/a.jpg` and `labels/a.txt`: class number, then relative coordinates.

    Four numbers are center and size, eight the corners of an oriented box, more an outline. An
    image without a label file has no object. Names come from `data.yaml` or `classes.txt`.
    """
    names = yolo_names(source)

    def boxes_of(path: Path) -> Iterator[Box]:
        for where, words in numbered_lines(path):
            if not words[0].isdecimal() or len(words) < 5 or len(words) % 2 == 0:
                raise DataError(
                    f"{where} is neither class x y width height, nor class x1 y1 … x4 y4, nor "
                    "class and an outline"
                )
            number = int(words[0])
            if names and number not in names:
                raise DataError(f"{where} has class {number}; the named ones are 0-{max(names)}")
            name = names.get(number, str(number))
            values = corners(words[1:], where)
            if len(words) == 5:
                (x, y), (width, height) = values
                yield Box(name, rectangle(x, y, width, height, 0.5))
            else:
                four = len(values) == 4
                yield Box(name, values, oriented=four, exact=not four)

    images, labels = pair_files(source, lambda part: part.lower() == "labels")
    return join_labels(images, labels, boxes_of, source, relative=True, empty=True)


def yolo_names(source: Path) -> dict[int, str]:
    """Return class names by number; empty if no file has them."""
    for path in sorted([*source.glob("*.yaml"), *source.glob("*.yml")]):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            return {int(number): str(name) for number, name in names.items()}
        if isinstance(names, list):
            return {number: str(name) for number, name in enumerate(names)}
    for path in (source / "classes.txt", source / "obj.names"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return {}


def read_coco(source: Path) -> tuple[list[BoxedImage], list[str]]:
    """Read COCO's JSON: boxes, and outlines or masks where there are any.

    Images are searched beside the file and in all folders below; a file with "val" in its name
    is the validation split.
    """
    files = [source] if source.is_file() else sorted(source.rglob("*.json"))
    root = source.parent if source.is_file() else source
    there = {path.name: path for path in images_below(root)}
    found, problems = [], []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            names = {item["id"]: str(item["name"]) for item in content["categories"]}
            listed = {item["id"]: Path(item["file_name"]).name for item in content["images"]}
            boxes: dict[Any, list[Box]] = defaultdict(list)
            for item in content["annotations"]:
                boxes[item["image_id"]] += coco_boxes(item, names[item["category_id"]])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{file} is not a COCO file: {type(error).__name__} {error}") from error
        split = "val" if "val" in file.stem.lower() else "train" if len(files) > 1 else None
        for number, name in listed.items():
            if name in there:
                found.append(BoxedImage(there[name], split, tuple(boxes[number])))
            else:
                problems.append(f"{name}, listed in {file}, is not in {root}")
    return found, problems


def coco_boxes(item: dict[str, Any], name: str) -> list[Box]:
    """Return the boxes of one annotation: one for each of its outlines."""
    crowd, shape = bool(item.get("iscrowd")), item.get("segmentation")
    if isinstance(shape, dict):
        mask = decode_runs(shape["counts"], *shape["size"])
        return [Box(name, ring, exact=True, ignored=crowd) for ring in outer_rings(mask)]
    if shape:
        rings = [np.array(ring, float).reshape(-1, 2) for ring in shape]
        return [Box(name, ring, exact=True, ignored=crowd) for ring in rings if len(ring) >= 3]
    x, y, width, height = map(float, item["bbox"])
    return [Box(name, rectangle(x, y, width, height, 0.0), ignored=crowd)]


def decode_runs(counts: str | Sequence[int], height: int, width: int) -> NDArray[np.uint8]:
    """Decode COCO's column-major run lengths, zeros first, to a mask (H,W).

    A string holds five bits a character, lowest first, and from the third length on the
    difference to the last but one (`maskApi.c` of cocoapi).
    """
    if isinstance(counts, str):
        lengths: list[int] = []
        value = shift = 0
        for letter in counts.encode():
            bits = letter - 48
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                if bits & 16:
                    value -= 1 << shift
                lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
                value = shift = 0
    else:
        lengths = [int(count) for count in counts]
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
        raise ValueError(f"run lengths of {sum(lengths)} px for a mask of {height} × {width} px")
    values = np.arange(len(lengths)) % 2
    return np.repeat(values, lengths).astype(np.uint8).reshape(width, height).T


def outer_rings(mask: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Return the outer rings of the regions of a mask; COCO's outlines have no holes either."""
    import rasterio.features

    shapes = rasterio.features.shapes(mask, mask=mask.astype(bool))
    return [np.array(shape["coordinates"][0], float) for shape, _ in shapes]


def read_csv(source: Path) -> tuple[list[BoxedImage], list[str]]:
    """Read `boxes.csv` with the columns of `CSV_COLUMNS`; `kind` H marks axis-aligned boxes.

    A column `isaid_id` overrides the class; 255 and the class `ignore` mark boxes that do not
    count. Images of the folder without a row have no object.
    """
    path = source if source.is_file() else source / "boxes.csv"
    by_number = {str(c.id): c.name for c in ISAID} | {str(IGNORE): "ignore"}
    boxes: dict[str, list[Box]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [c for c in CSV_COLUMNS if c not in (reader.fieldnames or ())]:
                raise DataError(
                    f"{path} lacks the column {missing[0]}; needed are {', '.join(CSV_COLUMNS)}"
                )
            for number, row in enumerate(reader, start=2):
                outline = corners([row[c] for c in CSV_COLUMNS[2:]], f"{path}, line {number}")
                name = by_number.get(row.get("isaid_id", ""), row["class"])
                ignored, oriented = name == "ignore", row.get("kind") != "H"
                boxes[row["image"]].append(Box(name, outline, oriented, ignored=ignored))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    there = {image.name: image for image in images_below(path.parent)}
    problems = [f"{name}, listed in {path}, does not exist" for name in boxes if name not in there]
    found = [BoxedImage(image, None, tuple(boxes[name])) for name, image in there.items()]
    return found, problems


FORMATS: dict[str, Callable[[Path], tuple[list[BoxedImage], list[str]]]] = {
    "dota": read_dota,
    "yolo": read_yolo,
    "coco": read_coco,
    "csv": read_csv,
}
"""Readers by format."""


def images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def pair_files(
    source: Path, is_label_folder: Callable[[str], bool]
) -> tuple[dict[tuple[str, ...], Path], dict[tuple[str, ...], Path]]:
    """Return images and label files by what their paths share: split and name, in any order."""

    def key(path: Path) -> tuple[str, ...]:
        parts = path.relative_to(source).with_suffix("").parts
        return (
            *sorted(p for p in parts[:-1] if p.lower() != "images" and not is_label_folder(p)),
            parts[-1],
        )

    labels = [
        path
        for path in sorted(source.rglob("*.txt"))
        if any(map(is_label_folder, path.relative_to(source).parts[:-1]))
    ]
    return {key(p): p for p in images_below(source)}, {key(p): p for p in labels}


def join_labels(
    images: dict[tuple[str, ...], Path],
    labels: dict[tuple[str, ...], Path],
    boxes_of: Callable[[Path], Iterator[Box]],
    source: Path,
    *,
    relative: bool = False,
    empty: bool = False,
) -> tuple[list[BoxedImage], list[str]]:
    """Combine images with the boxes of their label files.

    Args:
        relative: see `BoxedImage`.
        empty: an image without a label file has no object; else it is a problem.
    """
    found = []
    problems = [f"{labels[key]} has no image" for key in sorted(labels.keys() - images.keys())]
    for key, path in images.items():
        if key not in labels and not empty:
            problems.append(f"{path} has no labels")
            continue
        try:
            boxes = tuple(boxes_of(labels[key])) if key in labels else ()
        except DataError as error:
            problems.append(str(error))
        else:
            words = {part.lower() for part in path.relative_to(source).parts[:-1]}
            split = "val" if words & VALIDATION else "train" if "train" in words else None
            found.append(BoxedImage(path, split, boxes, relative))
    return found, problems


def numbered_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the words of every line that is not blank, after its file and number for messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if words := line.split():
            yield f"{path}, line {number}", words


def corners(words: Sequence[str], where: str) -> NDArray[np.float64]:
    """Parse 2·K numbers to (K,2)."""
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where} holds a number that is not finite")
    return np.array(values).reshape(-1, 2)


def rectangle(
    x: float, y: float, width: float, height: float, anchor: float
) -> NDArray[np.float64]:
    """Return corners (4,2); (x, y) is the top left one for `anchor` 0, the center for 0.5."""
    left, top = x - anchor * width, y - anchor * height
    right, bottom = left + width, top + height
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def translate(box: Box, left: float, top: float) -> Box:
    """Return the box in coordinates with the origin (left, top)."""
    return replace(box, outline=box.outline - (left, top))
