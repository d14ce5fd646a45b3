"""Colors in KML files, for which GDAL's driver has no place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from geoseg.classes import Color

_QUOTED = re.compile(r"<!\[CDATA\[.*?(\]\]>|$)", re.DOTALL)
_FILL, _LINE = "60", "ff"
"""Opacity, hexadecimal: the picture under a polygon stays readable."""


def paint(path: Path, colors: Sequence[Color]) -> None:
    """Give the placemarks of a file that GDAL's LIBKML wrote, in their order, these colors.

    Every placemark must have a name. Raises OSError.
    """
    painted = path.with_name(f"{path.name}.painted")
    todo = iter(colors)
    style, styled, in_text = "", False, False
    with (
        path.open(encoding="utf-8", newline="") as source,
        painted.open("w", encoding="utf-8", newline="") as target,
    ):
        for line in source:
            target.write(line)
            markup, in_text = _without_text(line, in_text)
            if not styled and markup.startswith("<Document") and not markup.endswith("/>"):
                target.writelines(_style(color) for color in dict.fromkeys(colors))
                styled = True
            elif markup.startswith("<Placemark"):
                style = _name(next(todo))
            if style and markup.endswith("</name>"):
                target.write(f"<styleUrl>#{style}</styleUrl>\n")
                style = ""
    painted.replace(path)


def _without_text(line: str, in_text: bool) -> tuple[str, bool]:
    """The markup of a line, and whether the next line begins within quoted text."""
    if in_text:
        line = f"<![CDATA[{line}"
    ends_in_text = line.rfind("<![CDATA[") > line.rfind("]]>")
    return _QUOTED.sub("", line).strip(), ends_in_text


def _name(color: Color) -> str:
    return "color-{:02x}{:02x}{:02x}".format(*color)


def _style(color: Color) -> str:
    red, green, blue = color
    bgr = f"{blue:02x}{green:02x}{red:02x}"
    return (
        f'<Style id="{_name(color)}"><LineStyle><color>{_LINE}{bgr}</color><width>2</width>'
        f"</LineStyle><PolyStyle><color>{_FILL}{bgr}</color></PolyStyle></Style>\n"
    )
