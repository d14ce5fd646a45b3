"""Colors in KML files, for which GDAL's driver has no place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Color = tuple[int, int, int]

_FILL, _LINE = "60", "ff"
"""Opacity, hexadecimal: the picture under a polygon stays readable."""


def paint(path: Path, colors: Sequence[Color]) -> None:
    """Give the placemarks of a file that GDAL's LIBKML wrote, in their order, these colors.

    Every placemark must have a name. Raises OSError.
    """
    painted = path.with_name(f"{path.name}.painted")
    todo = iter(colors)
    style, styled, in_cdata = "", False, False
    with (
        path.open(encoding="utf-8", newline="") as source,
        painted.open("w", encoding="utf-8", newline="") as target,
    ):
        for line in source:
            target.write(line)
            ends, begins = line.rfind("]]>"), line.rfind("<![CDATA[")
            in_cdata = begins > ends or (in_cdata and ends < 0)
            if in_cdata:
                continue  # text of a field, whatever it looks like
            if not styled and "<Document" in line and not line.rstrip().endswith("/>"):
                target.writelines(_style(color) for color in dict.fromkeys(colors))
                styled = True
            elif line.lstrip().startswith("<Placemark"):
                style = _name(next(todo))
            if style and line.rstrip().endswith("</name>"):
                target.write(f"<styleUrl>#{style}</styleUrl>\n")
                style = ""
    painted.replace(path)


def _name(color: Color) -> str:
    return "color-{:02x}{:02x}{:02x}".format(*color)


def _style(color: Color) -> str:
    red, green, blue = color
    bgr = f"{blue:02x}{green:02x}{red:02x}"
    return (
        f'<Style id="{_name(color)}"><LineStyle><color>{_LINE}{bgr}</color><width>2</width>'
        f"</LineStyle><PolyStyle><color>{_FILL}{bgr}</color></PolyStyle></Style>\n"
    )
