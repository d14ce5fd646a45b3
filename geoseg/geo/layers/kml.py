"""Color the placemarks of KML files, which GDAL's driver cannot do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from geoseg.classes import Color

_CDATA = re.compile(r"<!\[CDATA\[.*?(\]\]>|$)", re.DOTALL)
_FILL, _LINE = "60", "ff"
"""Opacity, hexadecimal: the image under a polygon stays visible."""


def color_placemarks(path: Path, colors: Sequence[Color]) -> None:
    """Color the placemarks of a file that GDAL's LIBKML wrote, in their order.

    Every placemark must have a name. Raises OSError.
    """
    colored = path.with_name(f"{path.name}.colored")
    remaining = iter(colors)
    style, has_styles, in_text = "", False, False
    with (
        path.open(encoding="utf-8", newline="") as source,
        colored.open("w", encoding="utf-8", newline="") as target,
    ):
        for line in source:
            target.write(line)
            markup, in_text = _strip_text(line, in_text)
            if not has_styles and markup.startswith("<Document") and not markup.endswith("/>"):
                target.writelines(_style(color) for color in dict.fromkeys(colors))
                has_styles = True
            elif markup.startswith("<Placemark"):
                style = _style_id(next(remaining))
            if style and markup.endswith("</name>"):
                target.write(f"<styleUrl>#{style}</styleUrl>\n")
                style = ""
    colored.replace(path)


def _strip_text(line: str, in_text: bool) -> tuple[str, bool]:
    """Return the markup of a line, and whether the next line begins in a CDATA section."""
    if in_text:
        line = f"<![CDATA[{line}"
    ends_in_text = line.rfind("<![CDATA[") > line.rfind("]]>")
    return _CDATA.sub("", line).strip(), ends_in_text


def _style_id(color: Color) -> str:
    return "color-{:02x}{:02x}{:02x}".format(*color)


def _style(color: Color) -> str:
    red, green, blue = color
    bgr = f"{blue:02x}{green:02x}{red:02x}"
    return (
        f'<Style id="{_style_id(color)}"><LineStyle><color>{_LINE}{bgr}</color><width>2</width>'
        f"</LineStyle><PolyStyle><color>{_FILL}{bgr}</color></PolyStyle></Style>\n"
    )
