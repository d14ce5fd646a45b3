"""Classes: iSAID's, their colors, and tables of classes."""

from __future__ import annotations

import colorsys
import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.errors import DataError

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (255, 135, 60),
    (240, 0, 15),
    (255, 225, 120),
    (0, 195, 240),
    (165, 75, 255),
    (225, 15, 150),
    (120, 255, 255),
    (255, 135, 195),
    (165, 255, 0),
    (165, 150, 255),
    (45, 120, 255),
    (180, 180, 0),
    (0, 225, 150),
    (255, 15, 255),
    (0, 165, 105),
    (0, 195, 0),
    (195, 105, 195),
    (255, 90, 120),
    (255, 180, 0),
    (165, 255, 165),
    (240, 120, 255),
    (255, 75, 195),
    (0, 240, 0),
    (210, 15, 210),
)
"""Colors of the ids 1, 2, …, visible on asphalt, water and grass. The first 15, of the built-in
classes, are at least 0.15 apart in OKLab, all of them 0.1."""
_GOLDEN = 0.618034
"""Golden ratio: its multiples spread evenly over the circle of hues."""


def class_color(class_id: int) -> Color:
    """Return the RGB color of a class, 0-255; bright for every id."""
    if 1 <= class_id <= len(PALETTE):
        return PALETTE[class_id - 1]
    strength = (0.9, 0.6, 0.75)[class_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN % 1, strength, 1)
    return round(red * 255), round(green * 255), round(blue * 255)


IGNORE = 255
"""Ignored in training and metrics, nodata in class rasters."""

LONGEST_NAME = 64
"""Characters of a class name."""


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class of a segmentation."""

    id: int
    """Value in class rasters and masks, channel in logits."""
    name: str
    color: Color
    """RGB, 0-255."""


ISAID_MASK_COLORS: dict[str, Color] = {
    "background": (0, 0, 0),
    "ship": (0, 0, 63),
    "storage_tank": (0, 63, 63),
    "baseball_diamond": (0, 63, 0),
    "tennis_court": (0, 63, 127),
    "basketball_court": (0, 63, 191),
    "ground_track_field": (0, 63, 255),
    "bridge": (0, 127, 63),
    "large_vehicle": (0, 127, 127),
    "small_vehicle": (0, 0, 127),
    "helicopter": (0, 0, 191),
    "swimming_pool": (0, 0, 255),
    "roundabout": (0, 191, 127),
    "soccer_ball_field": (0, 127, 191),
    "plane": (0, 127, 255),
    "harbor": (0, 100, 155),
}
"""Colors of iSAID's masks (Waqas Zamir et al., CVPR workshops 2019), by name in the order of ids.
Only for reading masks: they are too dark and similar to show on an image."""

ISAID = tuple(
    LabelClass(i, name, class_color(i) if i else (0, 0, 0))
    for i, name in enumerate(ISAID_MASK_COLORS)
)
"""Ids and names of iSAID, in colors of `PALETTE`."""


def ids_of(names: Collection[str], classes: Iterable[LabelClass]) -> tuple[int, ...]:
    """Return the ids of the classes that have one of these names."""
    return tuple(item.id for item in classes if item.name in names)


def name_problem(name: str) -> str:
    """Return what is wrong with the name of a class, or an empty text.

    Names of layers and files are cleaned, so a class may have any text of one line.
    """
    if not 1 <= len(name) <= LONGEST_NAME:
        return f"has {len(name)} characters; give it 1 to {LONGEST_NAME}"
    if hidden := [letter for letter in name if not letter.isprintable()]:
        return f"has the character {hidden[0]!r}; use printable ones"
    return "" if name == name.strip() else "begins or ends with a space; remove it"


def display_color(name: str, stored: Color) -> Color:
    """Return the color to draw a class in, given the one `stored` in a file.

    Older files store iSAID's classes in the colors of its masks, which are replaced.
    """
    if ISAID_MASK_COLORS.get(name) != stored:
        return stored
    return next(item.color for item in ISAID if item.name == name)


BLACK = (0, 0, 0)
FORM = "the first line is id,name,color and the next, say, 0,background,#000000"
SEPARATORS = ",;\t"
"""Separators of CSV; spreadsheets of many countries write semicolons."""


def read_class_list(path: Path, *, any_ids: bool = False) -> tuple[LabelClass, ...]:
    """Read classes from a CSV table or a JSON list of objects with id, name and optional color.

    Ids count from 0 without gaps, in any order, since they are channels of the model; names are
    unique. A color is `#rrggbb`, in JSON also `[r, g, b]`; the default is `class_color`.

    Args:
        any_ids: ids are values of a raster instead: any whole numbers. Classes may share a name or
            have none, and are then class_<id>.

    Raises:
        DataError: names the file, the line, what is wrong with it and what to do.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not UTF-8; save the "
            "file as UTF-8"
        ) from None
    rows = json_rows(path, text) if path.suffix.lower() == ".json" else csv_rows(path, text)
    lines: dict[int, str] = {}
    found: dict[int, LabelClass] = {}
    for where, row in rows:
        item = parse_class(f"{path}, {where}", row, any_id=any_ids)
        if item.id in found:
            raise DataError(f"{path}, {where}: id {item.id} is that of {lines[item.id]}, too")
        for other in found.values():
            if not any_ids and other.name.casefold() == item.name.casefold():
                raise DataError(
                    f"{path}, {where}: the name {item.name!r} is that of {lines[other.id]}, too "
                    "(upper and lower case count as one); rename one of them"
                )
        found[item.id], lines[item.id] = item, where
    if not any_ids:
        check_ids(path, found, lines)
    return tuple(found[i] for i in sorted(found))


def csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row with its line."""
    head = text.partition("\n")[0]
    separator = max(SEPARATORS, key=head.count)
    reader = csv.DictReader(
        text.splitlines(keepends=True), delimiter=separator, skipinitialspace=True
    )
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if missing := [name for name in ("id", "name") if name not in columns]:
        raise DataError(f"{path}, line 1: there is no column {missing[0]}; {FORM}")
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path}, line {reader.line_num}: more values than columns; put a name with "
                    f"{separator!r} in quotes"
                )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object with its number."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {str(error)[:80]}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a list of objects with id, name and color")
    for number, row in enumerate(rows, start=1):
        yield f"class {number}", row


def parse_class(where: str, row: dict[str, Any], *, any_id: bool) -> LabelClass:
    """Parse one class. Raises DataError."""
    value, name, color = row.get("id"), row.get("name"), row.get("color")
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,19}\s*", value):
        value = int(value)
    if type(value) is not int or not (any_id or value >= 0):
        least = "" if any_id else " from 0"
        raise DataError(f"{where}: the id is {value!r:.40}; give a whole number{least}")
    if any_id and name in (None, ""):
        name = f"class_{value}"
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}: class {value} has no name; give one")
    name = name.strip()
    if fault := name_problem(name):
        raise DataError(f"{where}: the name {name!r:.80} {fault}")
    if color is None or color == "":
        return LabelClass(value, name, class_color(value) if value or any_id else BLACK)
    if isinstance(color, str) and re.fullmatch(r"\s*#[0-9a-fA-F]{6}\s*", color):
        color = list(bytes.fromhex(color.strip()[1:]))
    is_rgb = isinstance(color, list) and len(color) == 3
    if not is_rgb or not all(type(part) is int and 0 <= part <= 255 for part in color):
        raise DataError(f"{where}: the color is {color!r:.40}; give it as #rrggbb, say #ff8000")
    return LabelClass(value, name, (color[0], color[1], color[2]))


def check_ids(path: Path, found: dict[int, LabelClass], lines: dict[int, str]) -> None:
    """Raise DataError unless the ids are 0, 1, 2 and so on, fewer than IGNORE."""
    if not found:
        raise DataError(f"{path} lists no class; {FORM}")
    for number, value in enumerate(sorted(found)):
        if value != number:
            before = f"after {number - 1} comes" if number else "the least id is"
            first = "; 0 is background: add 0,background,#000000" if number == 0 else ""
            raise DataError(
                f"{path}, {lines[value]}: {before} {value}, but ids count from 0 without gaps"
                f"{first or f'; add the class {number}, or renumber here and in the masks'}"
            )
    if len(found) > IGNORE:
        raise DataError(f"{path} lists {len(found)} classes; at most {IGNORE} are possible")
