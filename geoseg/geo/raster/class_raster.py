"""Class rasters of any origin: which value is which class, and how to draw it."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from geoseg.classes import IGNORE, Color, LabelClass, class_color, display_color
from geoseg.errors import DataError, SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.source import Source
from geoseg.geo.raster.validity import Validity, real_dtype
from geoseg.tiling.grid import Window

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
    return display_color(name, colors[value]) if value in colors else class_color(value)


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
        color = class_color(value)
        if code := (row.get("color") or "").strip():
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", code):
                raise DataError(f"{where}: color {code!r} is not of the form #rrggbb")
            red, green, blue = bytes.fromhex(code[1:])
            color = (red, green, blue)
        yield LabelClass(value, row["name"] or f"class_{value}", color)


_SCAN_ROWS = 1024


SPECK = 9.0
"""Smaller regions are specks, by default: pixels as the model saw them."""


@dataclass(frozen=True, slots=True)
class ClassRaster:
    """A raster of one band of whole numbers, read as 8-bit codes of its classes."""

    source: Source
    geobox: GeoBox
    band: int
    """The one that holds the classes; another may be an alpha band."""
    validity: Validity
    """Pixels that the file declares to be empty have no class."""
    classes: tuple[LabelClass, ...]
    """Ids are values of the raster, which may be larger than 255. Not all need occur."""
    values: NDArray[np.int64]
    """(K,) value of each code, ascending; K ≤ 255."""
    skip: tuple[int, ...]
    """Codes that are no class, beside IGNORE."""
    direct: bool
    """The raster's values are the codes."""
    model_gsd: float | None
    """Meters a pixel at which a model saw what became this raster; None = not told."""

    @property
    def speck(self) -> float:
        """Regions of fewer pixels are specks, by default."""
        pixel = self.geobox.gsd or 1.0
        side = max(1.0, (self.model_gsd or 0.0) / pixel)  # of what the model saw as one
        return round(SPECK * side**2, 2)

    @classmethod
    def open(
        cls,
        path: str | Path,
        skip: Collection[int] = (0,),
        classes: tuple[LabelClass, ...] | None = None,
    ) -> ClassRaster:
        """Learn which values are classes: of 8 bits from the header, of more by reading them.

        Args:
            skip: values that are no class, beside what the file declares to be empty.
            classes: names and colors; None = see `declared_classes`.

        Raises:
            SceneError: not readable, not one band of whole numbers, of more than 255 classes, or
                with a value beyond 64 bits with a sign.
        """
        source = Source(str(path))
        with source.dataset() as dataset:
            band, alpha = _class_band(str(path), dataset)
            dtype = real_dtype(str(path), dataset, band)
            validity = Validity.of(dataset, [band], alpha)
            nothing = {*skip, *_whole(validity.nodata)}
            direct = dtype == np.uint8 and IGNORE in nothing
            if direct:
                values = np.arange(IGNORE)
            elif dtype == np.uint8 and nothing & {*range(256)}:
                values = np.setdiff1d(np.arange(256), [*nothing])
            else:
                found = _distinct(str(path), dataset, band, validity)
                values = np.array(sorted(found - nothing), np.int64)
            if len(values) > IGNORE:
                raise SceneError(
                    f"{path}: more than 255 different values; give a raster of at most 255 classes"
                )
            known = declared_classes(dataset) if classes is None else classes
            told = re.fullmatch(r"\d+(\.\d+)?", dataset.tags().get("MODEL_GSD", ""))
        return cls(
            source=source,
            geobox=GeoBox.of(dataset),
            band=band,
            validity=validity,
            classes=known,
            values=values.astype(np.int64),
            skip=tuple(value for value in sorted(nothing) if 0 <= value < IGNORE) if direct else (),
            direct=direct,
            model_gsd=float(told[0]) if told else None,
        )

    def read(self, window: Window) -> NDArray[np.uint8]:
        """(H, W) codes; IGNORE where there is no class.

        Raises SceneError where the file is damaged.
        """
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        with self.source.dataset("read") as dataset:
            stored = dataset.read(self.band, window=area)
            if self.direct and not self.validity.has_mask:
                return stored  # the nodata value is among those to be skipped
            valid = self.validity.read(dataset, [stored], area)
        return np.where(valid, self._codes(stored), np.uint8(IGNORE))

    def _codes(self, stored: NDArray) -> NDArray[np.uint8]:
        if self.direct:
            return stored
        if stored.dtype == np.uint8:
            table = np.full(256, IGNORE, np.uint8)
            table[self.values] = np.arange(len(self.values))
            return table[stored]
        values = self.values.astype(stored.dtype)  # each was found in pixels of that dtype
        code = np.searchsorted(values, stored)
        known = (code < len(values)) & (np.append(values, values.dtype.type(0))[code] == stored)
        return np.where(known, code, IGNORE).astype(np.uint8)


def _class_band(path: str, dataset: DatasetReader) -> tuple[int, int | None]:
    """The band of classes and the alpha band, from 1."""
    kinds = dict(zip(dataset.indexes, dataset.colorinterp, strict=True))
    alphas = [band for band, kind in kinds.items() if kind == ColorInterp.alpha]
    others = [band for band in kinds if band not in alphas]
    if len(others) != 1 or len(alphas) > 1:
        raise SceneError(
            f"{path}: {dataset.count} bands; give a raster of one band of whole numbers, each of "
            "them a class (gdal_translate -b takes one out)"
        )
    return others[0], alphas[0] if alphas else None


def _whole(nodata: tuple[float | None, ...]) -> set[int]:
    return {int(value) for value in nodata if value is not None and float(value).is_integer()}


def _distinct(path: str, dataset: DatasetReader, band: int, validity: Validity) -> set[int]:
    """Values of pixels that are not empty, or enough of them to see that they are too many."""
    found: set[int] = set()
    for top in range(0, dataset.height, _SCAN_ROWS):
        rows = min(_SCAN_ROWS, dataset.height - top)
        area = RasterioWindow(0, top, dataset.width, rows)
        stored = dataset.read(band, window=area)
        values = np.unique(stored[validity.read(dataset, [stored], area)])
        if stored.dtype.kind == "f" and (values != np.rint(values)).any():
            fraction = values[values != np.rint(values)][0]
            raise SceneError(
                f"{path}: holds {fraction:g}, but classes are whole numbers; round it first "
                f"(gdal_calc.py --calc='rint(A)' --type=Int32), or give the class raster "
                "that belongs to it"
            )
        limits = np.iinfo(np.int64)
        for value in map(int, values[: 2 * 256]):
            if not limits.min <= value <= limits.max:
                raise SceneError(
                    f"{path}: the value {value} needs more than 63 bits, which fields of layers "
                    "do not have; number the classes anew (gdal_calc.py)"
                )
            found.add(value)
        if len(found) > 2 * 256:
            break
    return found
