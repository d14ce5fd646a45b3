"""The list of classes that a person writes: `classes.csv`, or the same as JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geoseg.classes import IGNORE, LabelClass, fault_of_name, hue
from geoseg.errors import DataError

BLACK = (0, 0, 0)
FORM = "the first line is id,name,color and the next, say, 0,background,#000000"
SEPARATORS = ",;\t"
"""Spreadsheets of many countries write semicolons."""


def read_class_list(path: Path) -> tuple[LabelClass, ...]:
    """Classes from a CSV table or a JSON list of objects with id, name and, if wanted, color.

    Ids count from 0 without gaps, in any order of the lines: they are channels of the model.
    A color is `#rrggbb`, in JSON also `[r, g, b]`; without one a class gets a hue of its own.

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
        item = parsed(f"{path}, {where}", row)
        if item.id in found:
            raise DataError(f"{path}, {where}: id {item.id} is that of {lines[item.id]}, too")
        for other in found.values():
            if other.name.casefold() == item.name.casefold():
                raise DataError(
                    f"{path}, {where}: the name {item.name!r} is that of {lines[other.id]}, too "
                    "(upper and lower case count as one); rename one of them"
                )
        found[item.id], lines[item.id] = item, where
    check_ids(path, found, lines)
    return tuple(found[i] for i in sorted(found))


def csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with the line that it is on."""
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
    """Each object with its number."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {str(error)[:80]}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a list of objects with id, name and color")
    for number, row in enumerate(rows, start=1):
        yield f"class {number}", row


def parsed(where: str, row: dict[str, Any]) -> LabelClass:
    """One class. Raises DataError."""
    value, name, color = row.get("id"), row.get("name"), row.get("color")
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if type(value) is not int or value < 0:
        raise DataError(f"{where}: the id is {value!r:.40}; give a whole number from 0")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}: class {value} has no name; give one")
    name = name.strip()
    if fault := fault_of_name(name):
        raise DataError(f"{where}: the name {name!r:.80} {fault}")
    if color is None or color == "":
        return LabelClass(value, name, hue(value) if value else BLACK)
    if isinstance(color, str) and re.fullmatch(r"\s*#[0-9a-fA-F]{6}\s*", color):
        color = list(bytes.fromhex(color.strip()[1:]))
    is_rgb = isinstance(color, list) and len(color) == 3
    if not is_rgb or not all(type(part) is int and 0 <= part <= 255 for part in color):
        raise DataError(f"{where}: the color is {color!r:.40}; give it as #rrggbb, say #ff8000")
    return LabelClass(value, name, (color[0], color[1], color[2]))


def check_ids(path: Path, found: dict[int, LabelClass], lines: dict[int, str]) -> None:
    """Raises DataError unless the ids are 0, 1, 2 and so on, fewer than IGNORE."""
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
