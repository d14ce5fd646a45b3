"""Names and colours of classes, as a raster declares them or a table lists them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from rasterio.io import DatasetReader

from geoseg.classes import Color, LabelClass, display_color, hue
from geoseg.errors import DataError, SceneError

_NAME, _MIN, _VALUE, _RGB = "2", "3", "5", ("6", "7", "8")
"""What columns of an attribute table are for: GDALRATFieldUsage."""
_REAL, _TEXT = "1", "2"
"""What they hold: GDALRATFieldType."""


def declared_classes(dataset: DatasetReader) -> tuple[LabelClass, ...]:
    """The classes of a raster's band.

    Names are from the first of these that has any: tags CLASS_<value> of the band or the file; the
    raster attribute table, then the category names, that GDAL keeps beside the file (.aux.xml).
    Colours are from the attribute table, else the colour table, else of our own.

    Raises SceneError where the file beside is damaged.
    """
    names, colors = _tagged(dataset), _color_table(dataset)
    if not names:
        names, own = _beside(dataset)
        colors |= own
    if names:
        return tuple(
            LabelClass(value, name or f"class_{value}", _color(value, name, colors))
            for value, name in sorted(names.items())
        )
    return tuple(
        LabelClass(value, f"class_{value}", color)
        for value, color in sorted(colors.items())
        if any(color)  # GDAL fills unused entries up with black
    )


def _color(value: int, name: str, colors: dict[int, Color]) -> Color:
    return display_color(name, colors[value]) if value in colors else hue(value)


def _tagged(dataset: DatasetReader) -> dict[int, str]:
    tags = dataset.tags() | dataset.tags(1)
    return {
        int(match[1]): name
        for key, name in tags.items()
        if (match := re.match(r"CLASS_(-?\d+)$", key))
    }


def _color_table(dataset: DatasetReader) -> dict[int, Color]:
    try:
        table = dataset.colormap(1)
    except ValueError:  # rasterio's way to say that there is none
        return {}
    return {value: color[:3] for value, color in table.items()}


def _beside(dataset: DatasetReader) -> tuple[dict[int, str], dict[int, Color]]:
    """Names and colours in GDAL's file for what the raster's format has no place for; rasterio
    does not show them."""
    for path in (Path(name) for name in dataset.files if name.endswith(".aux.xml")):
        if not path.exists():
            continue
        try:
            band = ElementTree.parse(path).find("PAMRasterBand[@band='1']")
            if band is None:
                return {}, {}
            table = band.find("GDALRasterAttributeTable")
            names, colors = ({}, {}) if table is None else _attributes(table)
        except (ElementTree.ParseError, ValueError, IndexError) as error:
            raise SceneError(
                f"{path} is damaged: {error}; remove it, or give --classes FILE"
            ) from error
        categories = (category.text or "" for category in band.iterfind("CategoryNames/Category"))
        return names or {value: name for value, name in enumerate(categories) if name}, colors
    return {}, {}


def _attributes(table: ElementTree.Element) -> tuple[dict[int, str], dict[int, Color]]:
    columns = [
        {part: field.findtext(part, "") for part in ("Name", "Type", "Usage")}
        for field in table.iterfind("FieldDefn")
    ]
    usages = [column["Usage"] for column in columns]
    types = [column["Type"] for column in columns]
    titles = [column["Name"].lower() for column in columns]

    def first(*searches: tuple[list[str], str]) -> int | None:
        return next((have.index(want) for have, want in searches if want in have), None)

    value_at = first((usages, _VALUE), (usages, _MIN), (titles, "value"))
    name_at = first((usages, _NAME), (types, _TEXT))
    color_at = [usages.index(usage) for usage in _RGB if usage in usages]
    names: dict[int, str] = {}
    colors: dict[int, Color] = {}
    if value_at is None:
        return names, colors
    for row in table.iterfind("Row"):
        cells = [cell.text or "" for cell in row.iterfind("F")]
        if not float(cells[value_at]).is_integer():
            continue  # a range of a histogram
        value = int(float(cells[value_at]))
        if name_at is not None:
            names[value] = cells[name_at]
        if len(color_at) == len(_RGB):
            red, green, blue = (
                round(float(cells[place]) * (255 if types[place] == _REAL else 1))
                for place in color_at
            )
            colors[value] = red, green, blue
    return names, colors


def read_classes(path: Path) -> tuple[LabelClass, ...]:
    """Classes from a CSV file with the columns id, name and, if wanted, color as #rrggbb.

    Raises DataError, naming the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return tuple(_parsed(path, csv.DictReader(file)))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _parsed(path: Path, rows: csv.DictReader[str]) -> Iterator[LabelClass]:
    if not {"id", "name"} <= {*(rows.fieldnames or ())}:
        raise DataError(f"{path}: its first line is not a header with the columns id and name")
    seen: set[int] = set()
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        try:
            value = int(row["id"])
        except (TypeError, ValueError):
            raise DataError(f"{where}: id {row['id']!r} is no whole number") from None
        if value in seen:
            raise DataError(f"{where}: id {value} occurs twice")
        seen.add(value)
        color = hue(value)
        if code := (row.get("color") or "").strip():
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", code):
                raise DataError(f"{where}: color {code!r} is not of the form #rrggbb")
            red, green, blue = bytes.fromhex(code[1:])
            color = (red, green, blue)
        yield LabelClass(value, row["name"] or f"class_{value}", color)
