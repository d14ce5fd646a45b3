"""Colors in KML, which GDAL's driver writes only for features that carry a style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from geoseg.geo.styles import FILL_ALPHA
from geoseg.hues import Color


def color_placemarks(path: Path, colors: Mapping[str, Color]) -> None:
    """Give the placemarks of a KML file as GDAL writes it the colors of their classes.

    Args:
        colors: by the placemarks' names. Others stay as they are.

    Raises OSError.
    """
    numbers = {
        f"<name>{spelled}</name>": number
        for number, name in enumerate(colors)
        for spelled in (escape(name), f"<![CDATA[{name}]]>")
    }
    colored = path.with_name(f"{path.name}.colored")
    with path.open(encoding="utf-8") as source, colored.open("w", encoding="utf-8") as target:
        is_first, is_title = True, False
        for line in source:
            target.write(line)
            if is_first and line.lstrip().startswith("<Document"):
                target.writelines(_styles(colors))
                is_first = False
            if is_title and (number := numbers.get(line.strip())) is not None:
                target.write(f"<styleUrl>#class-{number}</styleUrl>\n")
            is_title = line.lstrip().startswith("<Placemark")
    colored.replace(path)


def _styles(colors: Mapping[str, Color]) -> Iterator[str]:
    for number, (red, green, blue) in enumerate(colors.values()):
        shade = f"{blue:02x}{green:02x}{red:02x}"  # KML counts from alpha down
        yield (
            f'<Style id="class-{number}">'
            f"<LineStyle><color>ff{shade}</color><width>2</width></LineStyle>"
            f"<PolyStyle><color>{FILL_ALPHA:02x}{shade}</color></PolyStyle></Style>\n"
        )
