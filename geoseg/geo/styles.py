"""How QGIS draws a layer: its QML, and the table of a GeoPackage that QGIS looks it up in."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

FILL_ALPHA = 96
"""Of 255: the picture under a polygon stays readable."""

TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
    f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)
"""
"""As QGIS makes it itself."""


def qml(label: str, color: tuple[int, int, int]) -> str:
    """A QGIS style: one translucent fill with an outline, called `label` in the legend."""
    red, green, blue = color
    options = {
        "color": f"{red},{green},{blue},{FILL_ALPHA}",
        "outline_color": f"{red},{green},{blue},255",
        "outline_style": "solid",
        "outline_width": "0.4",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
        "style": "solid",
    }
    rows = "".join(
        f'<Option name="{name}" type="QString" value={quoteattr(value)}/>'
        for name, value in options.items()
    )
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
        '<qgis version="3.22.0" styleCategories="Symbology">'
        '<renderer-v2 type="RuleRenderer" symbollevels="0" enableorderby="0">'
        '<rules key="rules">'
        f'<rule key="all" symbol="0" label={quoteattr(label)}/>'
        "</rules><symbols>"
        '<symbol name="0" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">'
        f'<layer class="SimpleFill" enabled="1" locked="0" pass="0">'
        f'<Option type="Map">{rows}</Option></layer></symbol></symbols>'
        "</renderer-v2></qgis>"
    )
