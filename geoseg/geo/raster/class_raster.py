"""Class rasters of any origin: the class of each value, and its color."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from geoseg.classes import IGNORE, Color, LabelClass, class_color, display_color
from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.source import Source
from geoseg.geo.raster.validity import Validity, real_dtype
from geoseg.tiling.grid import Window

_NAME, _MIN, _VALUE, _RGB = "2", "3", "5", ("6", "7", "8")
"""GDALRATFieldUsage: the purpose of a column of an attribute table."""
_REAL, _TEXT = "1", "2"
"""GDALRATFieldType: the type of a column."""
_SCAN_ROWS = 1024
"""Rows read at once to find the values of a raster."""
SPECK = 9.0
"""Regions with fewer pixels, as the model saw them, are specks by default."""


def declared_classes(dataset: DatasetReader) -> tuple[LabelClass, ...]:
    """Return the classes of a raster's band.

    Names come from the first of these that has any: tags CLASS_<value> of the band or the file; the
    raster attribute table or the category names in GDAL's .aux.xml beside the file. Colors come
    from the attribute table, then the color table, then `class_color`.

    Raises SceneError if the .aux.xml is damaged.
    """
    names, colors = _tagged(dataset), _color_table(dataset)
    if not names:
        names, more_colors = _from_aux_xml(dataset)
        colors |= more_colors
    if names:
        return tuple(
            LabelClass(value, name or f"class_{value}", _color(value, name, colors))
            for value, name in sorted(names.items())
        )
    return tuple(
        LabelClass(value, f"class_{value}", color)
        for value, color in sorted(colors.items())
        if any(color)  # GDAL fills unused entries with black
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
    except ValueError:  # there is none
        return {}
    return {value: color[:3] for value, color in table.items()}


def _from_aux_xml(dataset: DatasetReader) -> tuple[dict[int, str], dict[int, Color]]:
    """Return names and colors that GDAL keeps beside the raster and rasterio does not expose."""
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
    """Return names and colors of a raster attribute table. Raises ValueError, IndexError."""
    columns = [
        {part: field.findtext(part, "") for part in ("Name", "Type", "Usage")}
        for field in table.iterfind("FieldDefn")
    ]
    usages = [column["Usage"] for column in columns]
    types = [column["Type"] for column in columns]
    titles = [column["Name"].lower() for column in columns]

    def first(*searches: tuple[list[str], str]) -> int | None:
        return next((found.index(item) for found, item in searches if item in found), None)

    value_column = first((usages, _VALUE), (usages, _MIN), (titles, "value"))
    name_column = first((usages, _NAME), (types, _TEXT))
    color_columns = [usages.index(usage) for usage in _RGB if usage in usages]
    names: dict[int, str] = {}
    colors: dict[int, Color] = {}
    if value_column is None:
        return names, colors
    for row in table.iterfind("Row"):
        cells = [cell.text or "" for cell in row.iterfind("F")]
        if not float(cells[value_column]).is_integer():
            continue  # a bin of a histogram
        value = int(float(cells[value_column]))
        if name_column is not None:
            names[value] = cells[name_column]
        if len(color_columns) == len(_RGB):
            red, green, blue = (
                round(float(cells[column]) * (255 if types[column] == _REAL else 1))
                for column in color_columns
            )
            colors[value] = red, green, blue
    return names, colors


@dataclass(frozen=True, slots=True)
class ClassRaster:
    """A raster with one band of integers, read as 8-bit codes of its classes."""

    source: Source
    """The file."""
    geobox: GeoBox
    """The raster's grid."""
    band: int
    """The band of the classes, from 1; another may be an alpha band."""
    validity: Validity
    """What declares pixels to be empty; these have no class."""
    classes: tuple[LabelClass, ...]
    """Known classes, which need not occur. Ids are values of the raster and may exceed 255."""
    values: NDArray[np.int64]
    """(K,) value of each code, ascending; K ≤ 255."""
    skip: tuple[int, ...]
    """Codes that are not classes, in addition to IGNORE."""
    direct: bool
    """Whether values are their own codes."""
    model_gsd: float | None
    """Meters a pixel at which the model saw the scene; None if unknown."""

    @property
    def speck(self) -> float:
        """Regions with fewer pixels of this raster are specks by default."""
        gsd = self.geobox.gsd or 1.0
        model_pixel = max(1.0, (self.model_gsd or 0.0) / gsd)
        return round(SPECK * model_pixel**2, 2)

    @classmethod
    def open(
        cls,
        path: str | Path,
        skip: Collection[int] = (0,),
        classes: tuple[LabelClass, ...] | None = None,
    ) -> ClassRaster:
        """Open a raster and find its values: from the header if 8-bit, else by reading all pixels.

        Args:
            skip: values that are not classes, in addition to those declared empty.
            classes: names and colors; None uses `declared_classes`.

        Raises:
            SceneError: not readable, not one band of integers, more than 255 classes, or a value
                beyond signed 64 bits.
        """
        source = Source(str(path))
        with source.dataset() as dataset:
            band, alpha = _class_band(str(path), dataset)
            dtype = real_dtype(str(path), dataset, band)
            validity = Validity.of(dataset, [band], alpha)
            not_classes = {*skip, *_integers(validity.nodata)}
            direct = dtype == np.uint8 and IGNORE in not_classes
            if direct:
                values = np.arange(IGNORE)
            elif dtype == np.uint8 and not_classes & {*range(256)}:
                values = np.setdiff1d(np.arange(256), [*not_classes])
            else:
                found = _distinct(str(path), dataset, band, validity)
                values = np.array(sorted(found - not_classes), np.int64)
            if len(values) > IGNORE:
                raise SceneError(
                    f"{path}: more than 255 different values; give a raster of at most 255 classes"
                )
            known = declared_classes(dataset) if classes is None else classes
            gsd = re.fullmatch(r"\d+(\.\d+)?", dataset.tags().get("MODEL_GSD", ""))
        return cls(
            source=source,
            geobox=GeoBox.of(dataset),
            band=band,
            validity=validity,
            classes=known,
            values=values.astype(np.int64),
            skip=tuple(value for value in sorted(not_classes) if 0 <= value < IGNORE)
            if direct
            else (),
            direct=direct,
            model_gsd=float(gsd[0]) if gsd else None,
        )

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Return codes (H, W); IGNORE where there is no class.

        Raises SceneError if the file is damaged.
        """
        area = RasterioWindow.from_slices(*window.slices)
        with self.source.dataset("read") as dataset:
            stored = dataset.read(self.band, window=area)
            if self.direct and not self.validity.has_mask:
                return stored  # the nodata value is in `skip`
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
    """Return the band of classes and the alpha band, from 1. Raises SceneError."""
    kinds = dict(zip(dataset.indexes, dataset.colorinterp, strict=True))
    alphas = [band for band, kind in kinds.items() if kind == ColorInterp.alpha]
    others = [band for band in kinds if band not in alphas]
    if len(others) != 1 or len(alphas) > 1:
        raise SceneError(
            f"{path}: {dataset.count} bands; give a raster of one band of whole numbers, each of "
            "them a class (gdal_translate -b takes one out)"
        )
    return others[0], alphas[0] if alphas else None


def _integers(nodata: tuple[float | None, ...]) -> set[int]:
    return {int(value) for value in nodata if value is not None and float(value).is_integer()}


def _distinct(path: str, dataset: DatasetReader, band: int, validity: Validity) -> set[int]:
    """Return the values of valid pixels, or more than twice as many as are allowed."""
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
