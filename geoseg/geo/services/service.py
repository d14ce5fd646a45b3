"""A tile or map service as a scene: the rectangle of its pixels around an area of interest."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from xml.etree.ElementTree import tostring

import shapely
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import OutputError, SceneError
from geoseg.geo.failures import vector_errors
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.aoi import Aoi, read_aoi
from geoseg.geo.raster.resampled import suitable_gsd
from geoseg.geo.raster.source import Source
from geoseg.geo.services.cache import cache_folder, drop_truncated
from geoseg.geo.services.description import described, described_tiles
from geoseg.geo.services.failures import explained, lacks_tiles
from geoseg.geo.services.template import MAX_ZOOM, TileTemplate
from geoseg.geo.services.view import view_vrt
from geoseg.tiling.grid import Window, round_up

_CONNECTION = re.compile(r"(?:WMS|WMTS|AGS|IIP):")
_DESCRIPTION = re.compile(
    r"\s*<(?:[?!][^>]*>\s*<)*(?:GDAL_WMT?S|WMS_Tile_Service|(?:\w+:)?Capabilities)[\s>]"
)
"""The beginning of what GDAL's drivers for services read."""
_HEAD = 4096
"""Characters of a file in which it is looked for."""
_MAX_WHOLE = 2**30
"""Pixels of a service that is read without an area of interest: some 16,000 tiles."""
_REFERENCE = 20
"""Zoom level on which an area is located before its level is chosen."""
_MAX_COARSER = 6
"""Zoom levels below the wanted one that are tried."""
_LOG = logging.getLogger("geoseg")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The part of a service that a prediction reads."""

    aoi: str | None
    """As `read_aoi` takes it."""
    gsd: float | None
    """Meters a pixel at which the model shall see it; None = as the weights like it."""
    known: tuple[float, float] | None
    """Finest and coarsest GSD of the weights' training."""
    overlap: int
    """Pixels that the model shall see around the area."""
    requests_per_second: float | None = None
    """Limit of requests; None = no limit."""

    def margin(self, own: float | None) -> int:
        """Return `overlap` in pixels of the service, whose side is `own` meters."""
        seen = self.gsd or suitable_gsd(own, self.known)
        factor = 1.0 if own is None or seen is None else max(1.0, seen / own)
        return ceil(self.overlap * factor)


@dataclass(frozen=True, slots=True)
class Service:
    """A tile or map service."""

    path: str
    """As given: an address of tiles, GDAL's description of a service, or its name of one."""
    template: TileTemplate | None
    """None = GDAL knows what to ask."""

    @classmethod
    def find(cls, path: str) -> Service | None:
        """Return the service at a path; None for an ordinary scene.

        Raises SceneError for addresses of tiles with unknown placeholders.
        """
        if os.path.lexists(path):
            if not Path(path).is_file():
                return None
            with Path(path).open(encoding="utf-8", errors="replace") as file:
                return cls(path, None) if _DESCRIPTION.match(file.read(_HEAD)) else None
        if _CONNECTION.match(path) or _DESCRIPTION.match(path):
            return cls(path, None)
        template = TileTemplate.parse(path)
        return None if template is None else cls(path, template)

    @contextmanager
    def view(self, target: Path, wanted: Wanted) -> Iterator[None]:
        """Write a VRT of the part around the area of interest to `target`, for this context.

        The part ends where tiles of the service do. To write it asks for the service's description
        or, of a template, for one tile at each zoom level that is tried. Errors of the service in
        the context say which tile failed and what to do.

        Raises:
            SceneError: there is no area, or it lies outside; the service does not answer.
            OutputError: the VRT cannot be written.
        """
        if self.template is not None and wanted.aoi is None:
            raise self._too_large("the whole world")
        drop_truncated(cache_folder())
        zoom = 0 if self.template is None else self._choose_zoom(self.template, wanted)
        name = described_tiles(self.template, zoom) if self.template else described(self.path)
        opened = closing(Source(name, wanted.requests_per_second))
        with self._explained(), opened as source, source.dataset() as dataset:
            geobox, (height, width) = GeoBox.of(dataset), dataset.block_shapes[0]
            window = self._window(geobox, (width, height), wanted)
            content = tostring(view_vrt(name, dataset, window), encoding="utf-8")
        with vector_errors(f"{target} cannot be written", OutputError):
            target.write_bytes(content)
        try:
            with self._explained(zoom, window):
                yield
        finally:
            target.unlink(missing_ok=True)

    def _window(self, geobox: GeoBox, tile: tuple[int, int], wanted: Wanted) -> Window:
        """Return the pixels of all tiles that the area and its surroundings touch."""
        if wanted.aoi is None:
            if geobox.width * geobox.height > _MAX_WHOLE:
                raise self._too_large(f"{geobox.width:,} × {geobox.height:,} px")
            return geobox.extent
        area = read_aoi(wanted.aoi, geobox).window
        margin = wanted.margin(geobox.crop(area).gsd)
        left = max(0, area.col_off - margin) // tile[0] * tile[0]
        top = max(0, area.row_off - margin) // tile[1] * tile[1]
        right = min(geobox.width, round_up(area.col_end + margin, tile[0]))
        bottom = min(geobox.height, round_up(area.row_end + margin, tile[1]))
        return Window(left, top, right - left, bottom - top)

    def _too_large(self, size: str) -> SceneError:
        return SceneError(
            f"{self.path}: {size} is too large to be predicted; give the area that you want "
            "(--aoi area.gpkg)"
        )

    def _choose_zoom(self, template: TileTemplate, wanted: Wanted) -> int:
        """Return the coarsest zoom level that is fine enough, else the finest that exists.

        Whether a level exists is asked of one tile in the area.
        """
        assert wanted.aoi is not None
        geobox, target = template.geobox(_REFERENCE), wanted.gsd or (wanted.known or (None,))[0]
        if target is None:
            raise SceneError(f"{self.path}: the weights know no GSD; give --gsd METERS")
        area = read_aoi(wanted.aoi, geobox)
        own = geobox.crop(area.window).gsd
        assert own is not None, "Web Mercator lies on the Earth"
        finest = template.zoom(own / 2 ** (MAX_ZOOM - _REFERENCE), target)
        tried = []
        for point in _points(area):
            for zoom in range(finest, max(-1, finest - _MAX_COARSER), -1):
                scale = 2.0 ** (zoom - _REFERENCE)
                pixel = Window(int(point.x * scale), int(point.y * scale), 1, 1)
                if self._has(template, zoom, pixel, wanted.requests_per_second):
                    told = self.path, zoom, own / scale, target
                    _LOG.info("%s: zoom level %d, %.3g m a pixel where %.3g m are wanted", *told)
                    return zoom
                tried.append(self._tile_url(zoom, pixel))
        raise SceneError(
            f"{self.path}: the server has no tile {tried[0]}, nor {len(tried) - 1} others of the "
            "area and coarser; check the address, and give an area that it covers (--aoi: a file, "
            "or bounds in meters of EPSG:3857)"
        )

    def _has(self, template: TileTemplate, zoom: int, pixel: Window, limit: float | None) -> bool:
        """Whether the service has the tile of a pixel. Raises SceneError if it does not answer."""
        name = described_tiles(template, zoom, empty="")
        area = RasterioWindow.from_slices(*pixel.slices)
        with self._explained(zoom, pixel), closing(Source(name, limit)) as source:
            try:
                source.read("look for tiles", lambda dataset: dataset.read(1, window=area))
            except SceneError as error:
                if lacks_tiles(error):
                    return False
                raise
        return True

    def _explained(
        self, zoom: int = 0, window: Window | None = None
    ) -> AbstractContextManager[None]:
        """Let errors say what failed; with addresses of tiles in a window at a zoom level."""

        def url(column: int, row: int) -> str | None:
            if self.template is None or window is None:
                return None
            size = self.template.tile_size
            for coarser in range(zoom + 1):  # reading an overview may have failed
                side = size << coarser
                tile = Window(column * side, row * side, side, side)
                if tile.intersection(window):
                    return self.template.url(zoom - coarser, column, row)
            return None

        return explained(self.path, url)

    def _tile_url(self, zoom: int, pixel: Window) -> str:
        assert self.template is not None
        size = self.template.tile_size
        return self.template.url(zoom, pixel.col_off // size, pixel.row_off // size)


def _points(area: Aoi) -> Iterator[shapely.Point]:
    """Yield points inside an area: one near its middle, and one in each quarter of its bounds."""
    yield area.shape.representative_point()
    left, top, right, bottom = area.shape.bounds
    x, y = (left + right) / 2, (top + bottom) / 2
    for box in ((left, top, x, y), (x, top, right, y), (left, y, x, bottom), (x, y, right, bottom)):
        part = shapely.intersection(area.shape, shapely.box(*box))
        if part.area:
            yield part.representative_point()
