"""Addresses of map tiles with placeholders, such as `https://tile.example/{z}/{x}/{y}.png`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from affine import Affine
from rasterio.crs import CRS

from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox

MAX_ZOOM = 24
"""Two centimeters a pixel at the equator; no service goes further."""
_HALF = math.pi * 6_378_137
"""Meters from the center of Web Mercator (EPSG:3857) to each of its sides."""
_PLACEHOLDER = re.compile(r"\$?\{([^{}]*)\}")
_KNOWN = {"z", "x", "y", "-y"}
_CLOSE = 1.02
"""Pixels this much larger than wanted are not too large."""


@dataclass(frozen=True, slots=True)
class TileTemplate:
    """The address of the tiles of a service in Web Mercator."""

    text: str
    """As given. `{-y}` counts rows from the south (TMS); `@2x` means tiles of 512 px."""

    @classmethod
    def parse(cls, text: str) -> TileTemplate | None:
        """Return a template; None if the text has none of the placeholders.

        Raises SceneError for unknown or missing placeholders.
        """
        names = set(_PLACEHOLDER.findall(text))
        if "://" not in text or not names & _KNOWN:
            return None
        if unknown := sorted(names - _KNOWN):
            raise SceneError(
                f"{text}: {{{unknown[0]}}} is not known; write its value instead, and leave only "
                "{z}, {x} and {y} (or {-y})"
            )
        if not {"z", "x"} <= names or not names & {"y", "-y"}:
            raise SceneError(
                f"{text}: an address of tiles needs {{z}}, {{x}} and {{y}} (or {{-y}})"
            )
        return cls(text)

    @property
    def tile_size(self) -> int:
        """Pixels a side of a tile."""
        return 512 if "@2x" in self.text else 256

    def url(self, zoom: int, column: int, row: int) -> str:
        """Return the address of one tile; rows count from the north."""
        values = {"z": zoom, "x": column, "y": row, "-y": 2**zoom - 1 - row}
        return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), self.text)

    def geobox(self, zoom: int) -> GeoBox:
        """Return the grid of the world at a zoom level."""
        side = self.tile_size * 2**zoom
        step = 2 * _HALF / side
        transform = Affine(step, 0, -_HALF, 0, -step, _HALF)
        return GeoBox(side, side, transform, CRS.from_epsg(3857))

    def zoom(self, finest: float, gsd: float) -> int:
        """Return the coarsest zoom level whose pixels are not larger than wanted.

        Args:
            finest: meters on the ground of a pixel at `MAX_ZOOM`, at the latitude of interest.
            gsd: wanted meters a pixel.
        """
        coarser = math.floor(math.log2(_CLOSE * gsd / finest))
        return min(max(MAX_ZOOM - coarser, 0), MAX_ZOOM)

    def description(self, zoom: int) -> Element:
        """Return GDAL's description of the world at a zoom level, red, green, blue and alpha.

        Tiles without alpha are opaque, and gray ones and palettes become colors.
        """
        values = {"z": "${z}", "x": "${x}", "y": "${y}", "-y": "${y}"}
        root = Element("GDAL_WMS")
        service = SubElement(root, "Service", name="TMS")
        address = _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)
        SubElement(service, "ServerUrl").text = address
        window = SubElement(root, "DataWindow")
        corners = {
            "UpperLeftX": -_HALF,
            "UpperLeftY": _HALF,
            "LowerRightX": _HALF,
            "LowerRightY": -_HALF,
        }
        for name, value in corners.items():
            SubElement(window, name).text = repr(value)
        SubElement(window, "TileLevel").text = str(zoom)
        SubElement(window, "TileCountX").text = SubElement(window, "TileCountY").text = "1"
        SubElement(window, "YOrigin").text = "bottom" if "{-y}" in self.text else "top"
        SubElement(root, "Projection").text = "EPSG:3857"
        for name in ("BlockSizeX", "BlockSizeY"):
            SubElement(root, name).text = str(self.tile_size)
        SubElement(root, "BandsCount").text = "4"
        return root
