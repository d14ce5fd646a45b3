"""Reading a file of which parts are damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil, floor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SceneError
from geoseg.geo.raster.bands import Bands
from geoseg.geo.raster.source import Source
from geoseg.tiling.grid import Window

_SEQUENTIAL = {"PNG", "JPEG"}
"""Drivers that decode an image from its top: after the first row that fails, none can be had."""
Place = tuple[float, float, float, float]
"""Left, top, width and height, px."""
_LOG = logging.getLogger("geoseg")


def read_around_damage(
    source: Source, bands: Bands, window: Window
) -> tuple[NDArray, NDArray[np.bool_], tuple[Window, ...]]:
    """Colours (3, H, W) and validity (H, W) under `window`, and the blocks that could not be read.

    The file is asked for each of its own blocks, the least that can be lost; those that cannot be
    read are not valid. A VRT's blocks are parted where its files meet: one that is damaged takes
    nothing from its neighbors.
    """
    color = np.zeros((3, window.height, window.width), bands.dtype)
    valid = np.zeros((window.height, window.width), bool)

    def is_read(area: Window) -> bool:
        if (piece := area.intersection(window)) is None:
            return True  # who needs it will see
        rows, columns = piece.relative_to(window).slices
        try:
            color[:, rows, columns], valid[rows, columns] = source.read(
                f"read {piece}", partial(bands.read, window=piece)
            )
        except SceneError as error:
            _LOG.info("%s", error)
            return False
        return True

    damaged: list[Window] = []
    places = [part.place for part in parts_of(source)]
    with source.dataset() as dataset:
        is_sequential = dataset.driver in _SEQUENTIAL
    for block in _own_blocks(source, window):
        if damaged and is_sequential:
            damaged.append(block)
        elif not is_read(block):
            pieces = _parted(block, places)
            damaged += pieces if len(pieces) == 1 else [p for p in pieces if not is_read(p)]
    return color, valid, tuple(damaged)


def _parted(block: Window, places: Sequence[Place]) -> list[Window]:
    """The block, cut along the borders of the files that lie in it."""
    columns, rows = {block.col_off, block.col_end}, {block.row_off, block.row_end}
    for left, top, width, height in places:
        right, bottom = left + width, top + height
        beside = left >= block.col_end or right <= block.col_off
        if beside or top >= block.row_end or bottom <= block.row_off:
            continue
        # A border between pixels, or the two sides of the pixels that it crosses.
        columns |= {side(x) for x in (left, right) for side in (floor, ceil)}
        rows |= {side(y) for y in (top, bottom) for side in (floor, ceil)}
    xs = sorted(x for x in columns if block.col_off <= x <= block.col_end)
    ys = sorted(y for y in rows if block.row_off <= y <= block.row_end)
    return [
        Window(x, y, right - x, bottom - y)
        for y, bottom in pairwise(ys)
        for x, right in pairwise(xs)
    ]


def look_around_damage(
    source: Source, bands: Bands, window: Window, shape: tuple[int, int]
) -> tuple[NDArray, NDArray[np.bool_]]:
    """A decimated picture of `window`, as `Bands.read` gives; what cannot be read is not valid."""
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(int)
        for count, length in zip(shape, (window.height, window.width), strict=True)
    )
    color = np.zeros((3, *shape), bands.dtype)
    valid = np.zeros(shape, bool)
    with source.dataset() as dataset:
        strip = max(1, min(dataset.block_shapes[0][0], window.height))
        is_sequential = dataset.driver in _SEQUENTIAL
    for top in range(0, window.height, strip):
        height = min(strip, window.height - top)
        part = Window(window.col_off, window.row_off + top, window.width, height)
        here = (rows >= top) & (rows < top + height)
        if here.any():
            colors, validity, damaged = read_around_damage(source, bands, part)
            color[:, here] = colors[:, rows[here] - top][..., columns]
            valid[here] = validity[rows[here] - top][:, columns]
            if damaged and is_sequential:
                break
    return color, valid


def _own_blocks(source: Source, window: Window) -> Iterator[Window]:
    """The file's blocks that meet `window`."""
    with source.dataset() as dataset:
        height, width = dataset.block_shapes[0]
        extent = Window(0, 0, dataset.width, dataset.height)
    for top in range(window.row_off // height * height, window.row_end, height):
        for left in range(window.col_off // width * width, window.col_end, width):
            block = Window(left, top, width, height).intersection(extent)
            assert block is not None
            yield block


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
