"""Suggest tiles to label next: those where the model is unsure, and that differ from each other.

Uncertainty is that of margin sampling (Settles 2009, "Active Learning Literature Survey", section
3.1): one minus the difference between the two highest probabilities. Variety is the distance to
the tiles chosen before, as in the greedy k-center of Sener and Savarese (2018), "Active Learning
for Convolutional Neural Networks: A Core-Set Approach", over the mix of classes of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from geoseg.analysis.layer_file import check_layer_file, write_layer
from geoseg.analysis.style import Category, layer_qml
from geoseg.classes import IGNORE
from geoseg.datasets.corrected import REVIEWED
from geoseg.errors import DataError, OptionError
from geoseg.geo.crs import WritableCRS, to_pyproj
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.labels import read_labels
from geoseg.geo.paths import printable
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.geo.raster.logits import KeptLogits
from geoseg.geo.raster.source import Source
from geoseg.tiling.grid import CELL, Window

LAYER = "suggested"
_SAME = 0.02
"""Distance at which a tile like an earlier one still counts."""
_LEAST_VALID = 0.5
"""Share of a tile that must hold data."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tiles:
    """T tiles of a scene, and what a model says about them."""

    windows: list[Window]
    uncertainty: Floats
    """(T,) mean over the tile, 0-1."""
    mix: Floats
    """(T, C) shares of classes, or of levels of confidence; rows add up to 1."""


@dataclass(frozen=True, slots=True)
class Suggested:
    """Summary of a suggestion."""

    output: Path
    tiles: int
    """Tiles to choose from."""
    chosen: int


def suggest_tiles(
    path: Path,
    output: Path,
    *,
    count: int = 20,
    size: int = 512,
    labeled: Path | None = None,
    overwrite: bool = False,
) -> Suggested:
    """Write the most useful tiles to label as polygons, the most useful first.

    The layer has the fields rank, uncertainty, variety and `reviewed`, which is false: whoever has
    gone through a tile sets it, and `prepare_labels` takes the reviewed tiles as its area.

    Args:
        path: kept logits (STEM.logits.zarr), or a raster of confidence (STEM.confidence.tif).
        count: number of tiles.
        size: side of a tile, px of the scene; the default is that of patches.
        labeled: polygons of what is labeled already; tiles that touch them are not suggested.

    Raises:
        DataError, SceneError: the input cannot be used, or has no tile with enough data.
        OptionError, OutputError: an option is impossible, or the output cannot be written.
    """
    if count < 1:
        raise OptionError(f"--count is {count}; give at least 1")
    if size < 32:
        raise OptionError(f"--size is {size}; give at least 32")
    inputs = [path / "zarr.json" if path.is_dir() else path, *([labeled] if labeled else [])]
    check_layer_file(output, inputs, overwrite=overwrite)
    geobox, tiles = _read(path, size)
    if labeled is not None:
        tiles = _without(tiles, read_labels(labeled, geobox, field=None).geometry)
    if not tiles.windows:
        raise DataError(
            f"{path} has no tile of {size} px of which half holds data and is not labeled; give "
            "a smaller --size"
        )
    order, variety = most_useful(tiles.uncertainty, tiles.mix, count)
    shapes = [_outline(geobox, tiles.windows[i]) for i in order]
    frame = GeoDataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "uncertainty": tiles.uncertainty[order].round(4),
            "variety": variety.round(4),
            REVIEWED: np.zeros(len(order), bool),
        },
        geometry=shapes,
        crs=None if geobox.crs is None else WritableCRS(to_pyproj(geobox.crs)),
    )
    metadata = {"source": printable(path), "tile_px": size, "tiles": len(tiles.windows)}
    write_layer(output, frame, LAYER, "Polygon", _style(), metadata)
    return Suggested(output, len(tiles.windows), len(order))


def most_useful(uncertainty: Floats, mix: Floats, count: int) -> tuple[NDArray[np.intp], Floats]:
    """Choose tiles one by one, each by its uncertainty times its distance to those before.

    Args:
        uncertainty: (T,).
        mix: (T, C) shares.

    Returns:
        Indices (k,) in the order of the choice, and the distance of each when it was chosen.
    """
    roots = np.sqrt(mix)
    distance = np.ones(len(mix))
    chosen: list[int] = []
    variety: list[float] = []
    for _ in range(min(count, len(mix))):
        score = uncertainty * (distance + _SAME)
        score[chosen] = -1
        best = int(score.argmax())
        chosen.append(best)
        variety.append(float(distance[best]))
        # Hellinger's distance, 0-1.
        apart = np.sqrt(((roots - roots[best]) ** 2).sum(axis=1) / 2)
        distance = np.minimum(distance, apart)
    return np.array(chosen, np.intp), np.array(variety)


def _read(path: Path, size: int) -> tuple[GeoBox, Tiles]:
    if path.is_dir():
        kept = KeptLogits.open(path)
        return kept.grid.geobox, _collect(_from_logits(kept, size))
    with closing(Source(str(path))) as source, source.dataset() as dataset:
        geobox = GeoBox.of(dataset)
        if dataset.count != 1 or dataset.dtypes[0] != "uint8" or dataset.nodata != IGNORE:
            raise DataError(
                f"{path} is no raster of confidence as geoseg predict --confidence writes it; "
                "give that, or kept logits (STEM.logits.zarr)"
            )
        name = path.name.replace(".confidence.", ".classes.")
        beside = path.with_name(name)
        classes = (
            ClassRaster.open(beside, skip=()) if name != path.name and beside.is_file() else None
        )

        def confidence(window: Window) -> NDArray[np.uint8]:
            return dataset.read(1, window=RasterioWindow.from_slices(*window.slices))

        try:
            return geobox, _collect(_from_confidence(geobox, confidence, classes, size))
        finally:
            if classes is not None:
                classes.source.close()


def _collect(found: Iterator[tuple[Window, float, Floats]]) -> Tiles:
    windows, uncertainty, mix = [], [], []
    for window, mean, shares in found:
        windows.append(window)
        uncertainty.append(mean)
        mix.append(shares)
    return Tiles(windows, np.array(uncertainty), np.array(mix))


def _strips(geobox: GeoBox, size: int) -> Iterator[list[Window]]:
    """Yield the tiles row by row; they are the squares of `prepare_labels`."""
    for top in range(0, geobox.height, size):
        height = min(size, geobox.height - top)
        yield [
            Window(left, top, min(size, geobox.width - left), height)
            for left in range(0, geobox.width, size)
        ]


def _least(geobox: GeoBox, size: int) -> float:
    """Return the least pixels with data; tiles that the scene cuts off have few."""
    return _LEAST_VALID * min(size, geobox.width) * min(size, geobox.height)


def _from_logits(kept: KeptLogits, size: int) -> Iterator[tuple[Window, float, Floats]]:
    """Yield window, uncertainty and mix of the tiles with enough data."""
    grid, (across, down) = kept.grid, kept.grid.resampler.step
    for tiles in _strips(grid.geobox, size):
        for window in tiles:
            if window.intersection(grid.extent) is None:
                continue
            columns = _cells(window.col_off, window.col_end, CELL * across)
            rows = _cells(window.row_off, window.row_end, CELL * down)
            cells = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
            valid = kept.read_valid(window)
            if valid.sum() < _least(grid.geobox, size):
                continue
            y = ((np.arange(cells.height) + cells.row_off + 0.5) * CELL * down).astype(int)
            x = ((np.arange(cells.width) + cells.col_off + 0.5) * CELL * across).astype(int)
            y = np.clip(y - window.row_off, 0, window.height - 1)
            x = np.clip(x - window.col_off, 0, window.width - 1)
            logits = kept.read(cells)[valid[np.ix_(y, x)]]
            if len(logits):
                odds = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
                shares = odds / odds.sum(axis=1, keepdims=True)
                second, first = np.partition(shares, -2, axis=1)[:, -2:].T
                yield window, float((1 - (first - second)).mean()), shares.mean(axis=0)


def _cells(start: int, end: int, step: float) -> tuple[int, int]:
    """Return the cells whose centers lie between two pixels, at least one."""
    first = int(np.ceil(start / step - 0.5))
    return first, max(first + 1, int(np.ceil(end / step - 0.5)))


def _from_confidence(
    geobox: GeoBox,
    confidence: Callable[[Window], NDArray[np.uint8]],
    classes: ClassRaster | None,
    size: int,
) -> Iterator[tuple[Window, float, Floats]]:
    """Yield the same from percents; without classes, the mix is that of tenths of confidence."""
    for tiles in _strips(geobox, size):
        for window in tiles:
            percent = confidence(window)
            valid = percent != IGNORE
            if valid.sum() < _least(geobox, size):
                continue
            known = percent[valid]
            if classes is None:
                counts = np.bincount(np.minimum(known // 10, 9), minlength=10)
            else:
                ids = classes.read(window)[valid]
                counts = np.bincount(ids[ids != IGNORE], minlength=IGNORE)
            yield window, float(1 - known.mean() / 100), counts / max(1, counts.sum())


def _without(tiles: Tiles, labeled: NDArray[np.object_]) -> Tiles:
    boxes = shapely.box(
        *np.array([(w.col_off, w.row_off, w.col_end, w.row_end) for w in tiles.windows]).T
    )
    free = np.ones(len(boxes), bool)
    touching = shapely.STRtree(labeled).query(boxes, "intersects")
    common = shapely.area(shapely.intersection(boxes[touching[0]], labeled[touching[1]])) > 0
    free[touching[0][common]] = False
    windows = [window for window, is_free in zip(tiles.windows, free, strict=True) if is_free]
    return Tiles(windows, tiles.uncertainty[free], tiles.mix[free])


def _outline(geobox: GeoBox, window: Window) -> shapely.Polygon:
    columns = np.array([window.col_off, window.col_off, window.col_end, window.col_end], float)
    rows = np.array([window.row_off, window.row_end, window.row_end, window.row_off], float)
    return shapely.Polygon(np.column_stack(geobox.to_xy(columns, rows)))


def _style() -> str:
    return layer_qml(
        "polygon",
        [
            Category("to be reviewed", f'NOT "{REVIEWED}"', (230, 30, 30)),
            Category("reviewed", f'"{REVIEWED}"', (40, 160, 60)),
        ],
        aliases={"rank": "Rank", "uncertainty": "Uncertainty", "variety": "Variety",
                 REVIEWED: "I have gone through all of it"},
    )  # fmt: skip
