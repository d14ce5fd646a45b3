"""QGIS styles of layers that analyses write: a color for each category, and forms to fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, tostring

from geoseg.classes import Color
from geoseg.geo.styles import FILL_ALPHA, add_options, add_symbol

Shape = Literal["point", "polygon"]
_GEOMETRY = {"point": "0", "polygon": "2"}


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of features: those for which `rule` holds, a QGIS expression."""

    label: str
    rule: str
    color: Color


def layer_qml(
    shape: Shape,
    categories: Sequence[Category],
    *,
    choices: Mapping[str, Sequence[str]] | None = None,
    hidden: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> str:
    """Return a QGIS style with a rule for each category.

    Args:
        choices: values to choose from in the form, by field.
        hidden: fields that the form does not show.
        aliases: names of fields for people.
    """
    root = Element(
        "qgis", version="3.22.0", styleCategories="Symbology|Fields|Forms", labelsEnabled="0"
    )
    renderer = SubElement(root, "renderer-v2", type="RuleRenderer", symbollevels="0")
    rules, symbols = SubElement(renderer, "rules", key="all"), SubElement(renderer, "symbols")
    for number, item in enumerate(categories):
        name = str(number)
        SubElement(rules, "rule", key=name, symbol=name, filter=item.rule, label=item.label)
        _add_symbol(symbols, name, shape, item.color)
    fields, names = SubElement(root, "fieldConfiguration"), SubElement(root, "aliases")
    for field, values in (choices or {}).items():
        config = _widget(fields, field, "ValueMap")
        options = SubElement(SubElement(config, "Option", type="Map"), "Option")
        options.attrib.update({"name": "map", "type": "List"})
        for value in values:
            add_options(options, {value: value})
    for field in hidden:
        _widget(fields, field, "Hidden")
    for field, alias in (aliases or {}).items():
        SubElement(names, "alias", field=field, name=alias)
    SubElement(root, "layerGeometryType").text = _GEOMETRY[shape]
    return tostring(root, encoding="unicode")


def _widget(fields: Element, field: str, kind: str) -> Element:
    widget = SubElement(SubElement(fields, "field", name=field), "editWidget", type=kind)
    return SubElement(widget, "config")


def _add_symbol(symbols: Element, name: str, shape: Shape, color: Color) -> None:
    rgb = ",".join(map(str, color))
    line = {"outline_color": f"{rgb},255"}
    if shape == "point":
        cross = {"name": "cross2", "color": f"{rgb},255", "size": "4", "outline_width": "0.6"}
        add_symbol(symbols, "marker", cross | line, name=name)
    else:
        fill = {"color": f"{rgb},{FILL_ALPHA}", "outline_width": "0.5", "style": "solid"}
        add_symbol(symbols, "fill", fill | line, name=name)
