"""Draw a stratified random sample of the pixels of a class raster, to be labeled by people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
from numpy.typing import NDArray

from geoseg.analysis.allocation import ALLOCATIONS, Allocation, allocate, sample_size
from geoseg.analysis.layer_file import check_layer_file, write_layer
from geoseg.analysis.style import Category, layer_qml
from geoseg.classes import IGNORE
from geoseg.errors import DataError, OptionError
from geoseg.geo.crs import WritableCRS, to_pyproj
from geoseg.geo.geobox import GeoBox
from geoseg.geo.paths import printable
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.tiling.grid import Window

LAYER = "sample"
"""Name of the layer of points."""
ROWS = 512
"""Rows of the raster that are read at once."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Summary of a drawn sample."""

    output: Path
    pixels: dict[str, int]
    """Pixels of each stratum."""
    points: dict[str, int]
    """Sample points of each stratum."""


def draw_sample(
    path: Path,
    output: Path,
    *,
    size: int | None = None,
    standard_error: float = 0.01,
    allocation: Allocation = "proportional",
    users_accuracy: Mapping[str, float] | None = None,
    default_accuracy: float = 0.85,
    minimum: int = 50,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Drawn:
    """Write a stratified random sample of pixels as points; the strata are the classes.

    The layer has the fields point_id, reference (empty), note and stratum. Its form in QGIS offers
    the classes for `reference` and hides the stratum, which would bias whoever labels. Points are
    in random order, so that any first part of them is a sample, too. Memory does not depend on the
    size of the raster.

    Args:
        size: number of points; None = as many as `standard_error` takes.
        standard_error: wanted for the overall accuracy; see `sample_size`.
        users_accuracy: expected by class, for the size and the Neyman allocation.
        default_accuracy: expected of classes that `users_accuracy` lacks.
        minimum: least points of a class that occurs.

    Raises:
        SceneError: the raster cannot be used.
        DataError: the raster has no valid pixel.
        OptionError: an option is impossible.
        OutputError: the output cannot be written.
    """
    check_layer_file(output, [path], overwrite=overwrite)
    _check_options(size, standard_error, allocation, minimum)
    raster = ClassRaster.open(path, skip=())
    with closing(raster.source):
        counts = _count(raster, progress)  # (strips, codes)
        sizes = counts.sum(axis=0)
        if not sizes.any():
            raise DataError(f"{path} has no valid pixel to draw")
        names = _names(raster)
        expected = _expected(names, sizes, users_accuracy or {}, default_accuracy)
        count = sample_size(sizes, expected, standard_error) if size is None else size
        if size is None:
            count = max(count, int(np.minimum(sizes, minimum).sum()))
        points = allocate(sizes, count, allocation, users_accuracy=expected, minimum=minimum)
        random = np.random.default_rng(seed)
        code, column, row = _draw(raster, counts, points, random)
    order = random.permutation(len(code))
    frame = _frame(raster.geobox, names[code[order]], column[order], row[order])
    occurring = np.flatnonzero(sizes)
    pixels = {str(names[i]): int(sizes[i]) for i in occurring}
    known = [item.name for item in raster.classes] or list(pixels)
    pixel = raster.geobox.gsd or 1.0
    metadata = {
        "source": printable(path),
        "strata": pixels,
        "pixel_area_m2": pixel**2,
        "unit": "px²" if raster.geobox.gsd is None else "m²",
        "classes": known,
        "allocation": allocation,
        "seed": seed,
    }
    write_layer(output, frame, LAYER, "Point", _style(known), metadata)
    return Drawn(output, pixels, {str(names[i]): int(points[i]) for i in occurring})


def _check_options(size: int | None, standard_error: float, allocation: str, minimum: int) -> None:
    if size is not None and size < 1:
        raise OptionError(f"--size is {size}; give at least 1")
    if not 0 < standard_error < 0.5:
        raise OptionError(f"--standard-error is {standard_error}; give more than 0, below 0.5")
    if allocation not in ALLOCATIONS:
        raise OptionError(f"--allocation is {allocation}; choose from {', '.join(ALLOCATIONS)}")
    if minimum < 2:
        raise OptionError(
            f"--min-per-class is {minimum}; give at least 2, for a variance needs two points"
        )


def _strips(geobox: GeoBox) -> Iterator[Window]:
    for top in range(0, geobox.height, ROWS):
        yield Window(0, top, geobox.width, min(ROWS, geobox.height - top))


def _count(raster: ClassRaster, progress: Callable[[int, int], None]) -> Ints:
    """Count the pixels of each code (K) in each strip."""
    counts, total = [], raster.geobox.width * raster.geobox.height
    for window in _strips(raster.geobox):
        counts.append(np.bincount(raster.read(window).ravel(), minlength=256)[:IGNORE])
        progress(window.row_end * window.width, total)
    return np.array(counts, np.int64)[:, : len(raster.values)]


def _draw(
    raster: ClassRaster, counts: Ints, points: Ints, random: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Return code, column and row of the drawn pixels.

    Pixels of a class are numbered in the order of the raster, and numbers are drawn.
    """
    drawn = {
        code: np.sort(random.choice(counts[:, code].sum(), points[code], replace=False))
        for code in np.flatnonzero(points).tolist()
    }
    before, found = np.zeros(counts.shape[1], np.int64), []
    for window, inside in zip(_strips(raster.geobox), counts, strict=True):
        wanted = {
            code: numbers[slice(*np.searchsorted(numbers, [before[code], before[code] + n]))]
            for code, numbers in drawn.items()
            if (n := inside[code])
        }
        if any(len(numbers) for numbers in wanted.values()):
            pixels = raster.read(window).ravel()
            for code, numbers in wanted.items():
                chosen = np.flatnonzero(pixels == code)[numbers - before[code]]
                row, column = np.divmod(chosen, window.width)
                found.append((np.full(len(chosen), code), column, row + window.row_off))
        before += inside
    codes, columns, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((columns, rows))  # whatever the strips
    return codes[order], columns[order], rows[order]


def _names(raster: ClassRaster) -> NDArray[np.object_]:
    known = {item.id: item.name for item in raster.classes}
    return np.array([known.get(int(v), f"class_{v}") for v in raster.values], object)


def _expected(
    names: NDArray[np.object_], sizes: Ints, given: Mapping[str, float], default: float
) -> NDArray[np.float64]:
    """Return the expected user's accuracies. Raises OptionError."""
    if unknown := [name for name in given if name not in set(names)]:
        occurring = ", ".join(names[sizes > 0])
        raise OptionError(f"--expect {unknown[0]}: there is no such class; there are {occurring}")
    for name, value in {**given, "of other classes": default}.items():
        if not 0 < value < 1:
            raise OptionError(f"--expect {name}={value}: give an accuracy between 0 and 1")
    return np.array([given.get(name, default) for name in names], np.float64)


def _frame(
    geobox: GeoBox, strata: NDArray[np.object_], column: Ints, row: Ints
) -> geopandas.GeoDataFrame:
    x, y = geobox.to_xy(column.astype(np.float64) + 0.5, row.astype(np.float64) + 0.5)
    empty = np.full(len(strata), None, object)
    return geopandas.GeoDataFrame(
        {
            "point_id": np.arange(1, len(strata) + 1),
            "reference": empty,
            "note": empty,
            "stratum": strata,
        },
        geometry=geopandas.points_from_xy(x, y),
        crs=None if geobox.crs is None else WritableCRS(to_pyproj(geobox.crs)),
    )


def _style(classes: list[str]) -> str:
    empty = '"reference" IS NULL OR "reference" = \'\''
    return layer_qml(
        "point",
        [
            Category("to be labeled", empty, (230, 30, 30)),
            Category("labeled", f"NOT ({empty})", (40, 160, 60)),
        ],
        choices={"reference": classes},
        hidden=["fid", "stratum"],
        aliases={"reference": "Class on the ground", "note": "Note", "point_id": "Point"},
    )
