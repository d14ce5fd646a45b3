"""Choose objects by class, length, area, confidence, and outside of a mask: polygons that become
features, or features."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.classes import LabelClass
from geoseg.errors import DataError, OptionError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.by_class import EVERY, as_given, by_id, check_known, unknown_class
from geoseg.geo.layers.features import features
from geoseg.geo.layers.regular import regular_outlines
from geoseg.geo.overlay import overlay
from geoseg.geo.vector.polygons import Polygons, segment_sum
from geoseg.geo.vector.regularize import Regularized
from geoseg.geo.vector.spool import PolygonSpool
from geoseg.geo.vector_file import read_vector_file

Bools = NDArray[np.bool_]
ByClass = float | Mapping[str, float]
"""One number for all classes, or numbers by class name or id; other classes have no limit."""

MASKED = 0.5
"""Share of its area from which an object lies inside a mask."""
_BATCH = 500_000
"""Corners that are measured at a time."""
_SIDE = 2**20
"""Columns and rows of a grid over features."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are wanted, as users say it. Limits are inclusive."""

    only: tuple[str, ...] = ()
    """Names or ids of classes; empty = all."""
    min_length: ByClass | None = None
    """Meters, or pixels without a CRS."""
    max_area: ByClass | None = None
    """Square meters, or pixels."""
    mask_out: str | None = None
    """A vector file. Objects of which at least `MASKED` lies inside its polygons are left out, the
    others stay whole."""

    def __post_init__(self) -> None:
        for flag, limit in (("--min-length", self.min_length), ("--max-area", self.max_area)):
            for value in _limits(limit).values():
                if math.isnan(value) or value < 0:
                    raise OptionError(f"{flag} is {value}; give 0 or more")

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    @property
    def settings(self) -> dict[str, str]:
        """The options that are set, as users give them."""
        return {
            name: as_given(value)
            for name in ("only", "min_length", "max_area", "mask_out")
            if (value := getattr(self, name)) not in ((), None)
        }

    def open(
        self, geobox: GeoBox, classes: Sequence[LabelClass], ids: Collection[int] = ()
    ) -> Filters:
        """Return the filters for a scene.

        Args:
            ids: classes that may occur and that `classes` may lack.

        Raises:
            OptionError: there is no such class.
            DataError: the mask cannot be read, or not be placed on the scene.
        """
        for flag, keys in (
            ("--only", self.only),
            ("--min-length", _limits(self.min_length)),
            ("--max-area", _limits(self.max_area)),
        ):
            check_known(keys, flag, classes, ids)
        mask = None if self.mask_out is None else _read_mask(self.mask_out, geobox)
        return Filters(self, geobox, tuple(classes), mask)


@dataclass(frozen=True, slots=True)
class Filters:
    """A selection on one scene."""

    selection: Selection
    geobox: GeoBox
    classes: tuple[LabelClass, ...]
    mask: shapely.STRtree | None
    """Disjoint polygons in pixels."""

    def __call__(
        self, polygons: Polygons, outlines: Regularized | None = None
    ) -> tuple[Polygons, Regularized | None]:
        """Return the polygons that are wanted, in their order, with their new outlines."""
        selection = self.selection
        if selection.is_everything:
            return polygons, outlines
        ids, kind = np.unique(polygons.class_id, return_inverse=True)

        def value_of(values: Mapping[str, float], default: float) -> NDArray[np.float64]:
            found = by_id(values, ids, self.classes)
            return np.array([found.get(int(i), default) for i in ids], float)[kind]

        wanted = dict.fromkeys(selection.only or [EVERY], 1.0)
        kept = value_of(wanted, 0.0) > 0
        shortest = value_of(_limits(selection.min_length), 0.0)
        largest = value_of(_limits(selection.max_area), np.inf)
        limited = (shortest > 0) | np.isfinite(largest)
        for batch in _batches(polygons, np.flatnonzero(kept & limited)):
            part = None if outlines is None else outlines.take(batch)
            table = features(polygons.take(batch), self.geobox, self.classes, part)
            kept[batch] = table["length_m"].to_numpy() >= shortest[batch]
            kept[batch] &= table["area_m2"].to_numpy() <= largest[batch]
        if self.mask is not None:
            for batch in _batches(polygons, np.flatnonzero(kept)):
                kept[batch] = _shares(polygons.take(batch).geometry, self.mask) < MASKED
        return polygons.select(kept), None if outlines is None else outlines.take(
            np.flatnonzero(kept)
        )


def choose(spool: PolygonSpool, filters: Filters, forms: Mapping[str, str]) -> Regularized | None:
    """Regularize sorted polygons, leave those out that are not wanted, and return the new outlines.

    Without forms and filters nothing is read. Else all polygons are in memory at once, since
    outlines in their forms give way to each other.
    """
    if not forms and filters.selection.is_everything:
        return None
    polygons, outlines = spool.load(), None
    if forms:
        outlines = regular_outlines(polygons, filters.geobox, filters.classes, forms)
    polygons, outlines = filters(polygons, outlines)
    spool.replace(polygons)
    return outlines


def check_confidence(limit: ByClass | None) -> None:
    """Raise OptionError for a limit that is no probability."""
    for value in _limits(limit).values():
        if not 0 <= value <= 1:
            raise OptionError(f"--min-confidence is {value}; give a probability, 0 to 1")


def wanted_features(
    frame: GeoDataFrame, selection: Selection, min_confidence: ByClass | None = None
) -> Bools:
    """Return which features (N,) of a table are wanted.

    Args:
        frame: with class, class_id, confidence, area_m2 and length_m, which are up to date.
        min_confidence: objects of a lower confidence are not wanted; those without one, such as
            drawn ones, are.

    Raises:
        OptionError: there is no such class.
        DataError: the mask cannot be read, or not be placed on the features.
    """
    table = frame[["class_id", "class"]]
    kinds = [(str(i), str(name)) for i, name in table.drop_duplicates().to_numpy(object)]
    kind = table.groupby(["class_id", "class"], dropna=False, sort=False).ngroup().to_numpy()

    def by_row(flag: str, values: Mapping[str, float], default: float) -> NDArray[np.float64]:
        known = {EVERY, *(key for keys in kinds for key in keys)}
        if unknown := [key for key in values if key not in known]:
            raise unknown_class(flag, unknown[0], [name for _, name in kinds])
        found = [
            next((values[key] for key in (*keys, EVERY) if key in values), default)
            for keys in kinds
        ]
        return np.array(found, float)[kind]

    kept = by_row("--only", dict.fromkeys(selection.only or [EVERY], 1.0), 0.0) > 0
    shortest = by_row("--min-length", _limits(selection.min_length), 0.0)
    largest = by_row("--max-area", _limits(selection.max_area), np.inf)
    surest = by_row("--min-confidence", _limits(min_confidence), 0.0)
    kept &= ~(frame["length_m"].to_numpy(float) < shortest)
    kept &= ~(frame["area_m2"].to_numpy(float) > largest)
    kept &= ~(frame["confidence"].to_numpy(float) < surest)
    if selection.mask_out is not None and kept.any():
        grid = _grid_over(frame[kept])
        mask = _read_mask(selection.mask_out, grid)
        shapes = shapely.transform(
            frame.geometry.to_numpy()[kept],
            lambda xy: np.column_stack(~grid.transform @ (xy[:, 0], xy[:, 1])),
        )
        kept[kept] = _shares(shapes, mask) < MASKED
    return kept


def _grid_over(frame: GeoDataFrame) -> GeoBox:
    """Return a fine grid that covers all features, on which a mask can be placed."""
    left, bottom, right, top = frame.total_bounds
    across, down = (right - left) / _SIDE, (top - bottom) / _SIDE
    transform = Affine(across, 0, left, 0, -down, top)
    crs = None if frame.crs is None else CRS.from_wkt(frame.crs.to_wkt())
    return GeoBox(_SIDE, _SIDE, transform, crs)


def _limits(limit: ByClass | None) -> dict[str, float]:
    if limit is None:
        return {}
    if isinstance(limit, Mapping):
        return {str(key): float(value) for key, value in limit.items()}
    return {EVERY: float(limit)}


def _batches(polygons: Polygons, indices: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    corners = segment_sum(polygons.ring_sizes, polygons.ring_counts)[indices]
    batch = np.cumsum(corners) // _BATCH
    yield from (each for each in np.split(indices, np.flatnonzero(np.diff(batch)) + 1) if len(each))


def _read_mask(path: str, geobox: GeoBox) -> shapely.STRtree:
    """Return the polygons of a vector file on a scene. Raises DataError."""
    parts = []
    for layer in read_vector_file(Path(path)):
        try:
            parts.append(overlay(layer.geometry, layer.crs, geobox))
        except DataError as error:
            raise DataError(f"{path}, layer {layer.name}, {error}") from error
        if not (shapely.get_dimensions(layer.geometry) == 2).any():
            raise DataError(f"{path}, layer {layer.name}, has no polygons, so it masks nothing out")
    return shapely.STRtree(shapely.get_parts(shapely.union_all(np.concatenate(parts))))


def _shares(shapes: NDArray[np.object_], mask: shapely.STRtree) -> NDArray[np.float64]:
    """Return the share of the area of each shape (N,) that lies inside a mask."""
    shape, part = mask.query(shapes, predicate="intersects")
    inside = shapely.area(shapely.intersection(shapes[shape], mask.geometries[part]))
    covered: NDArray[np.float64] = np.bincount(shape, inside, len(shapes)) / shapely.area(shapes)
    return covered
