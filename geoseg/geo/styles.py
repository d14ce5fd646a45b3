"""QGIS styles of layers and class rasters (QML), and the table of GeoPackages for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement, tostring

from geoseg.classes import Color, LabelClass

FILL_ALPHA = 96
"""0-255: the image under a polygon stays visible."""

TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
    f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)
"""
"""QGIS's own definition."""

_FIELDS: dict[str, tuple[str, int | None]] = {
    "object_id": ("Object", None),
    "class_id": ("Class number", None),
    "class": ("Class", None),
    "area_m2": ("Area ({unit}²)", 2),
    "confidence": ("Confidence", 2),
    "length_m": ("Length ({unit})", 2),
    "width_m": ("Width ({unit})", 2),
    "angle_deg": ("Angle (°)", 1),
}
"""Alias and displayed decimals of each field."""
_TIP = """<b>[% "class" %]</b> [% "object_id" %]<br>
[% format_number("area_m2", 1) %] {unit}², [% format_number("length_m", 1) %] × \
[% format_number("width_m", 1) %] {unit}\
[% coalesce('<br>confidence ' || format_number("confidence", 2), '') %]"""
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def layer_qml(color: Color, *, unit: str = "m") -> str:
    """Return a QGIS style for a layer of polygons: a translucent fill, an outline, field names
    with units, and no more decimals than are significant.

    Args:
        unit: unit of lengths; "px" without a CRS.
    """
    root = Element(
        "qgis",
        version="3.22.0",
        styleCategories="Symbology|Fields|Forms|MapTips",
        labelsEnabled="0",
    )
    renderer = SubElement(
        root, "renderer-v2", type="singleSymbol", symbollevels="0", enableorderby="0"
    )
    outline = ",".join(map(str, color))
    add_symbol(
        SubElement(renderer, "symbols"),
        "fill",
        {
            "color": f"{outline},{FILL_ALPHA}",
            "outline_color": f"{outline},255",
            "outline_style": "solid",
            "outline_width": "0.4",
            "outline_width_unit": "MM",
            "joinstyle": "miter",
            "style": "solid",
        },
    )
    fields, aliases = SubElement(root, "fieldConfiguration"), SubElement(root, "aliases")
    for name, (alias, decimals) in _FIELDS.items():
        SubElement(aliases, "alias", field=name, name=alias.format(unit=unit))
        if decimals is not None:
            widget = SubElement(SubElement(fields, "field", name=name), "editWidget", type="Range")
            add_options(
                SubElement(widget, "config"),
                {"Precision": decimals, "AllowNull": True, "Style": "SpinBox"},
            )
    SubElement(root, "previewExpression").text = '"class" || \' \' || "object_id"'
    SubElement(root, "mapTip").text = _TIP.format(unit=unit)
    SubElement(root, "layerGeometryType").text = "2"  # polygons
    return _document(root)


def raster_qml(classes: Sequence[LabelClass]) -> bytes:
    """Return a QGIS style for a class raster: a legend entry for each class, class 0 transparent.

    QGIS reads it from a file beside the raster, with the suffix .qml instead of the raster's.
    """
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    drawing = {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1"}
    renderer = SubElement(SubElement(root, "pipe"), "rasterrenderer", drawing)
    palette = SubElement(renderer, "colorPalette")
    for item in classes:
        SubElement(
            palette,
            "paletteEntry",
            value=str(item.id),
            label=item.name,
            color="#" + bytes(item.color).hex(),
            alpha=str(opacity(item)),
        )
    return _document(root).encode()


def opacity(item: LabelClass) -> int:
    """Return the alpha of a class in rasters, 0-255: background is transparent."""
    return 255 if item.id else 0


def fill_color(qml: str) -> Color | None:
    """Return the fill color of a style of any QGIS version; None if there are several or none."""
    try:
        layers = [*ElementTree.fromstring(qml).iterfind("renderer-v2//symbol/layer")]
    except ElementTree.ParseError:  # edited by hand
        return None
    texts = [
        option.get("value") or option.get("v") or ""
        for layer in layers
        for option in layer.iter()
        if "color" in (option.get("name"), option.get("k"))
    ]
    found = {
        (int(match[1]), int(match[2]), int(match[3]))
        for text in texts
        if (match := re.match(r"(\d+),(\d+),(\d+)", text))
    }
    return found.pop() if len(found) == 1 else None


def add_symbol(
    symbols: Element,
    kind: Literal["fill", "marker"],
    options: Mapping[str, str],
    *,
    name: str = "0",
    alpha: str = "1",
) -> None:
    """Add a symbol of one simple layer, with QGIS's options of it."""
    drawn = {"fill": "SimpleFill", "marker": "SimpleMarker"}[kind]
    attributes = {"name": name, "type": kind, "alpha": alpha}
    symbol = SubElement(symbols, "symbol", {**attributes, "clip_to_extent": "1", "force_rhr": "0"})
    layer = {"class": drawn, "enabled": "1", "locked": "0", "pass": "0"}
    add_options(SubElement(symbol, "layer", layer), options)


def add_options(parent: Element, options: Mapping[str, str | int | bool]) -> None:
    """Add options by name, in the types that QGIS gives them."""
    rows = SubElement(parent, "Option", type="Map")
    for name, value in options.items():
        kind = {str: "QString", bool: "bool", int: "int"}[type(value)]
        text = str(value).lower() if kind == "bool" else str(value)
        SubElement(rows, "Option", name=name, type=kind, value=text)


def _document(root: Element) -> str:
    return _DOCTYPE + tostring(root, encoding="unicode")
