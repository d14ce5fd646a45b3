"""A QGIS style that colors units by a number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from geoseg.geo.styles import add_symbol

_COLORS = ("255,245,224", "253,212,158", "252,141,89", "215,48,31", "127,0,0")
"""ColorBrewer's OrRd, for five steps."""


def choropleth_qml(values: Sequence[float], field: str) -> str:
    """Return a QGIS style of units in steps that hold about as many units each."""
    limits = np.zeros(0)
    if values:
        limits = np.unique(np.quantile(values, np.linspace(0, 1, len(_COLORS) + 1)))
        limits = np.repeat(limits, 2) if len(limits) == 1 else limits
    root = Element("qgis", version="3.22.0", styleCategories="Symbology", labelsEnabled="0")
    renderer = SubElement(
        root,
        "renderer-v2",
        type="graduatedSymbol",
        attr=field,
        graduatedMethod="GraduatedColor",
        symbollevels="0",
    )
    ranges, symbols = SubElement(renderer, "ranges"), SubElement(renderer, "symbols")
    for number, (low, high) in enumerate(pairwise(limits)):
        label = f"{low:g} - {high:g}"
        SubElement(
            ranges,
            "range",
            symbol=str(number),
            lower=f"{low:g}",
            upper=f"{high:g}",
            label=label,
            render="true",
        )
        color = _COLORS[round(number * (len(_COLORS) - 1) / max(len(limits) - 2, 1))]
        line = {"outline_color": "90,90,90,255", "outline_width": "0.2"}
        fill = {"color": f"{color},255", **line, "style": "solid"}
        add_symbol(symbols, "fill", fill, name=str(number), alpha="0.8")
    SubElement(root, "layerGeometryType").text = "2"
    return tostring(root, encoding="unicode")
