"""The files of a VRT, and which of them cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SceneError
from geoseg.geo.raster.source import Source
from geoseg.tiling.grid import Window

_LOOKS = 64
"""Damaged windows of a VRT that are looked into."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a VRT."""

    path: str
    window: Window
    """What is used of the file."""
    place: tuple[float, float, float, float]
    """Where that lies in the VRT: left, top, width, height, px."""

    def under(self, window: Window) -> Window | None:
        """The file's pixels that `window` of the VRT shows."""
        left, top, width, height = self.place
        across, down = self.window.width / width, self.window.height / height
        first = self.window.col_off + int((window.col_off - left) * across)
        upper = self.window.row_off + int((window.row_off - top) * down)
        size = max(1, round(window.width * across)), max(1, round(window.height * down))
        return Window(first, upper, *size).intersection(self.window)


def culprits(source: Source, damaged: Sequence[Window]) -> dict[str, str]:
    """Files of a VRT that lie under its `damaged` windows and cannot be read, each with the reason.

    Empty for a file that is no VRT, and for one that is not made of files side by side.
    """
    found: dict[str, str] = {}
    for part in parts_of(source):
        windows = [part.under(window) for window in damaged[:_LOOKS]]
        if used := [window for window in windows if window is not None]:
            with closing(Source(part.path)) as file:
                if (reason := _failure(file, used)) is not None:
                    found |= culprits(file, used) or {part.path: reason}
    return found


def _failure(file: Source, windows: Sequence[Window]) -> str | None:
    for window in windows:
        area = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        try:
            with file.dataset(f"read {window}") as dataset:
                dataset.read(window=area)
        except SceneError as error:
            return str(error)
    return None


def parts_of(source: Source) -> Iterator[Part]:
    """The files that a VRT lays side by side; none for other files."""
    try:
        with source.dataset() as dataset:
            text = dataset.tags(ns="xml:VRT").get("xml:VRT") if dataset.driver == "VRT" else None
            extent = Window(0, 0, dataset.width, dataset.height)
    except SceneError:
        return
    if text is None:
        return
    seen = set()
    for element in ElementTree.fromstring(text).iter():
        name = element.find("SourceFilename")
        if name is None or not name.text:
            continue
        path = name.text
        if name.get("relativeToVRT") == "1":
            path = str(Path(source.path).parent / path)
        placed, used = element.find("DstRect"), element.find("SrcRect")
        place = _rectangle(placed) if placed is not None else _whole(extent)
        window = _rectangle(used) if used is not None else place
        part = Part(path, Window(*(int(value) for value in window)), place)
        if part not in seen:
            seen.add(part)
            yield part


def _rectangle(element: ElementTree.Element) -> tuple[float, float, float, float]:
    left, top, width, height = (
        float(element.get(k, 0)) for k in ("xOff", "yOff", "xSize", "ySize")
    )
    return left, top, width, height


def _whole(extent: Window) -> tuple[float, float, float, float]:
    return extent.col_off, extent.row_off, extent.width, extent.height
