"""Changes between two dates: objects that are new, gone or changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from geoseg.analysis.layer_file import check_layer_file, read_metadata, write_layer
from geoseg.analysis.shift import NONE, Shift, estimate_shift
from geoseg.analysis.style import Category, layer_qml
from geoseg.errors import DataError, OptionError
from geoseg.geo.crs import Ground, axis_unit
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.layers.filters import check_confidence
from geoseg.geo.paths import printable
from geoseg.geo.planes import Planes
from geoseg.geo.reproject import reproject

LAYER = "change"
KINDS = ("new", "gone", "changed", "same")
"""Values of the field `change`."""
_COLORS = ((40, 170, 60), (220, 40, 40), (240, 150, 20), (130, 130, 130))
_LIKE = 0.5
"""Least ratio of areas of two objects that lie apart, but within the tolerance."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Changes:
    """Summary of a comparison."""

    output: Path
    counts: dict[str, int]
    """Objects by kind of change."""
    shift: tuple[float, float]
    """Meters east and north by which the new objects lay off, and that were taken back."""
    agreeing: int
    """Pairs of objects from which the shift was estimated; 0 = none was found."""
    tolerance: float
    """Meters that an object may be off after that."""
    outside: int
    """Objects where the other date has no scene; they are left out."""


def find_changes(
    old_path: Path,
    new_path: Path,
    output: Path,
    *,
    min_iou: float = 0.5,
    max_shift: float = 10.0,
    tolerance: float | None = None,
    min_confidence: float = 0.0,
    unchanged: bool = False,
    overwrite: bool = False,
) -> Changes:
    """Compare the objects of two dates, and write those that differ as one layer.

    Objects of the two dates are paired one to one: those that overlap, and those of one class
    whose centers lie within the tolerance. A pair is `changed` if its classes differ, or if its
    IoU is below `min_iou` although it is farther apart than the tolerance explains.

    Args:
        old_path, new_path: GeoPackages of `geoseg predict`, in any CRS.
        min_iou: least intersection over union of an object that is the same, 0-1.
        max_shift: greatest shift between the two to look for, m; 0 = they fit.
        tolerance: meters that an object may be off; None = as the pairs show.
        min_confidence: objects count that have it at one of the dates, or were drawn; at the other
            date they may be less sure (hysteresis).
        unchanged: also write objects that are the same.

    Raises:
        DataError, OutputError: a file cannot be read, or the output cannot be written.
        OptionError: an option is impossible.
    """
    _check_options(min_iou, max_shift, tolerance, min_confidence)
    check_layer_file(output, [old_path, new_path], overwrite=overwrite)
    old, new = (read_edited(path).features for path in (old_path, new_path))
    if (old.crs is None) != (new.crs is None):
        raise DataError(f"only one of {old_path} and {new_path} has a CRS; give both one")
    if old.crs is not None and old.crs != new.crs:
        new = reproject(new, old.crs, str(new_path))
    scale = meters_per_unit(old if len(old) else new)
    old, new = (_in_meters(frame, scale) for frame in (old, new))
    shift = _shift(old, new, max_shift) if max_shift > 0 else NONE
    new["meters"] = shapely.transform(new["meters"].to_numpy(), lambda xy: xy - (shift.x, shift.y))
    allowed = shift.residual if tolerance is None else tolerance
    pairs = match(old, new, allowed)
    frame = _table(old, new, pairs, allowed, min_iou)
    lost = _outside(frame, _extent(new_path, scale), _extent(old_path, scale), shift)
    frame = frame[~lost & is_sure(frame, min_confidence)]
    counts = frame["change"].value_counts()
    written = frame if unchanged else frame[frame["change"] != "same"]
    result = Changes(
        output=output,
        counts={kind: int(counts.get(kind, 0)) for kind in KINDS},
        shift=(shift.x, shift.y),
        agreeing=shift.objects,
        tolerance=allowed,
        outside=int(lost.sum()),
    )
    metadata = {
        "old": printable(old_path),
        "new": printable(new_path),
        "shift_m": [*result.shift],
        "tolerance_m": allowed,
        "min_iou": min_iou,
        "min_confidence": min_confidence,
        "objects": result.counts,
    }
    columns = written.drop(columns="meters").reset_index(drop=True)
    write_layer(output, columns, LAYER, "MultiPolygon", _style(), metadata)
    return result


def _check_options(
    min_iou: float, max_shift: float, tolerance: float | None, min_confidence: float
) -> None:
    check_confidence(min_confidence)
    for flag, size in (("--max-shift", max_shift), ("--tolerance", tolerance)):
        if size is not None and not 0 <= size < 1e6:
            raise OptionError(f"{flag} is {size}; give meters, 0 or more")
    if not 0 < min_iou <= 1:
        raise OptionError(f"--min-iou is {min_iou}; give more than 0, at most 1")


def _style() -> str:
    categories = [
        Category(kind, f"\"change\" = '{kind}'", color)
        for kind, color in zip(KINDS, _COLORS, strict=True)
    ]
    return layer_qml("polygon", categories)


def meters_per_unit(frame: GeoDataFrame) -> tuple[float, float]:
    """Return the meters of a unit of x and of y, in the middle of the features; 1 without a CRS."""
    if frame.crs is None or not len(frame):
        return 1.0, 1.0
    if (ground := Ground.of(frame.crs)) is None:
        return axis_unit(frame.crs), axis_unit(frame.crs)
    left, bottom, right, top = frame.total_bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    step = 1e-4 if frame.crs.is_geographic else 10 / axis_unit(frame.crs)
    lonlat = ground.lonlat(np.array([x, x + step, x]), np.array([y, y, y + step]))
    plane = Planes.at(lonlat[:, :1], ground.ellipsoid)
    points = plane.project(lonlat, np.zeros(3, np.intp)).T
    across, up = (float(np.hypot(*(points[i] - points[0])) / step) for i in (1, 2))
    return across, up


def _in_meters(frame: GeoDataFrame, scale: tuple[float, float]) -> GeoDataFrame:
    shapes = shapely.transform(frame.geometry.to_numpy(), lambda xy: xy * scale)
    return frame.assign(meters=shapes)


def _shift(old: GeoDataFrame, new: GeoDataFrame, most: float) -> Shift:
    """Return the shift of the new objects, at most so many meters."""
    kinds = pd.factorize(pd.concat([old["class"], new["class"]]))[0]
    shapes = old["meters"].to_numpy(), new["meters"].to_numpy()
    return estimate_shift(*shapes, kinds[: len(old)], kinds[len(old) :], most)


def match(old: GeoDataFrame, new: GeoDataFrame, tolerance: float) -> NDArray[np.float64]:
    """Pair objects one to one. Returns (P, 4): indices of old and new, IoU and distance.

    The pairs of one class come first, then the others, each by their overlap. Objects that do not
    overlap pair if they have one class, similar areas, and centers within `tolerance`.
    """
    one, other = old["meters"].to_numpy(), new["meters"].to_numpy()
    j, i = shapely.STRtree(one).query(other, "dwithin", distance=max(tolerance, 0.0))
    areas = shapely.area(one)[i], shapely.area(other)[j]
    common = shapely.area(shapely.intersection(one[i], other[j]))
    iou = common / (areas[0] + areas[1] - common)
    apart = shapely.distance(shapely.centroid(one[i]), shapely.centroid(other[j]))
    same = old["class"].to_numpy()[i] == new["class"].to_numpy()[j]
    like = np.minimum(*areas) >= _LIKE * np.maximum(*areas)
    possible = (iou > 0) | (same & like & (apart <= tolerance))
    order = np.lexsort((apart, -iou, ~same))
    order = order[possible[order]]
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for k in order.tolist():
        if i[k] not in taken[0] and j[k] not in taken[1]:
            taken[0].add(i[k])
            taken[1].add(j[k])
            pairs.append((i[k], j[k], iou[k], apart[k]))
    return np.array(pairs, np.float64).reshape(-1, 4)


def _table(
    old: GeoDataFrame, new: GeoDataFrame, pairs: Floats, tolerance: float, min_iou: float
) -> GeoDataFrame:
    """Return a row for each pair, and for each object without a partner."""
    i, j = pairs[:, :2].astype(np.intp).T
    iou, apart = pairs[:, 2:].T
    left, right = old.iloc[i].reset_index(drop=True), new.iloc[j].reset_index(drop=True)
    areas = shapely.area(left["meters"].to_numpy()), shapely.area(right["meters"].to_numpy())
    like = np.minimum(*areas) >= _LIKE * np.maximum(*areas)
    same = (left["class"] == right["class"]) & ((iou >= min_iou) | (like & (apart <= tolerance)))
    gone = old.drop(old.index[i]).reset_index(drop=True)
    fresh = new.drop(new.index[j]).reset_index(drop=True)
    parts = [
        _rows(right, left, right, np.where(same, "same", "changed"), iou),
        _rows(fresh, None, fresh, np.full(len(fresh), "new"), np.full(len(fresh), np.nan)),
        _rows(gone, gone, None, np.full(len(gone), "gone"), np.full(len(gone), np.nan)),
    ]
    table = pd.concat(parts, ignore_index=True)
    return GeoDataFrame(table, geometry="geometry", crs=old.crs)


def _rows(
    where: GeoDataFrame,
    old: GeoDataFrame | None,
    new: GeoDataFrame | None,
    change: NDArray[np.str_],
    iou: Floats,
) -> GeoDataFrame:
    """Return rows with the geometry of `where` and the attributes of both dates."""
    columns: dict[str, object] = {"change": change.astype(object)}
    for date, frame in (("old", old), ("new", new)):
        for field in ("class", "confidence", "area_m2", "object_id"):
            name = field.replace("_m2", "")
            empty = pd.Series(
                [None] * len(where),
                dtype={"class": "object", "object_id": "Int64"}.get(field, "float64"),
            )
            values = empty if frame is None else frame[field].astype(empty.dtype)
            columns[f"{name}_{date}" + ("_m2" if field == "area_m2" else "")] = values
    columns["iou"] = iou
    columns["meters"] = where["meters"]
    return GeoDataFrame(columns, geometry=where.geometry.to_numpy(), crs=where.crs)


def is_sure(frame: GeoDataFrame, limit: float) -> NDArray[np.bool_]:
    """Return which rows have an object of at least this confidence, or a drawn one, at one date."""
    sure = np.zeros(len(frame), bool)
    for date in ("old", "new"):
        there = frame[f"object_id_{date}"].notna().to_numpy()
        sure |= there & ~(frame[f"confidence_{date}"].to_numpy(float) < limit)
    return sure


def _extent(path: Path, scale: tuple[float, float]) -> shapely.Polygon | None:
    """Return the outline in meters of the scene that results are of; None if it is not known."""
    try:
        width, height, *transform = json.loads(read_metadata(path).get("grid", "[]"))
    except ValueError:
        return None
    corners: Sequence[tuple[float, float]] = [(0, 0), (width, 0), (width, height), (0, height)]
    placed = [Affine(*transform[:6]) @ corner for corner in corners]
    return shapely.Polygon([(x * scale[0], y * scale[1]) for x, y in placed])


def _outside(
    frame: GeoDataFrame,
    new_extent: shapely.Polygon | None,
    old_extent: shapely.Polygon | None,
    shift: Shift,
) -> NDArray[np.bool_]:
    """Return which objects are gone, or new, only because the other date has no scene there."""
    centers = shapely.centroid(frame["meters"].to_numpy())
    lost = np.zeros(len(frame), bool)
    for kind, extent, moved in (("gone", new_extent, shift), ("new", old_extent, NONE)):
        if extent is not None:
            there = shapely.transform(extent, lambda xy, by=moved: xy - (by.x, by.y))
            lost |= (frame["change"] == kind).to_numpy() & ~shapely.contains(there, centers)
    return lost
