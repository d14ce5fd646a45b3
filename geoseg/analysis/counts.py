"""Count objects, and add up their area, class by class in each of many units."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from geoseg.analysis.count_style import choropleth_qml
from geoseg.analysis.layer_file import check_layer_file, write_layer
from geoseg.analysis.units import grid_units, read_units
from geoseg.errors import DataError, OptionError
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.layers.export import measured
from geoseg.geo.paths import printable
from geoseg.geo.raster.files import vector_files
from geoseg.geo.reproject import reproject

_LOG = logging.getLogger("geoseg")

TOTALS = ("objects", "area_m2")
"""Fields of all classes together."""


def count(
    path: Path,
    output: Path,
    *,
    units: Path | None = None,
    layer: str | None = None,
    grid: str | None = None,
    classes: Iterable[str] = (),
    overwrite: bool = False,
) -> GeoDataFrame:
    """Write a GeoPackage of units with the objects in each, and return its table.

    Args:
        path: a GeoPackage of geoseg, edited or not.
        units: polygons of any vector file; all of them are written, with their fields.
        layer: layer of `units`; None = the only one.
        grid: instead of units, cells that have objects; see `grid_units`.
        classes: layers or classes to count; none = all.

    Raises:
        OptionError: units and a grid, or neither, or an impossible grid; the output is an input.
        DataError: one of the files cannot be used.
        OutputError: the output cannot be written.
    """
    if (units is None) == (grid is None):
        raise OptionError("give either UNITS, a file of polygons, or --grid, not both")
    inputs = [file for each in (path, units) if each is not None for file in vector_files(each)]
    check_layer_file(output, inputs, overwrite=overwrite)
    objects = measured(read_edited(path, [*classes]).features, str(path))
    if units is None:
        assert grid is not None
        cells = grid_units(objects, grid)
    else:
        cells = read_units(units, layer)
    counted = count_by_unit(objects, cells)
    if units is None:
        counted = counted[(counted["objects"] > 0) | (counted["area_m2"] > 0)]
        counted = counted.reset_index(drop=True)
    metadata = {"source": printable(path), "units": grid or printable(units or "")}
    qml = choropleth_qml(counted["objects"].tolist(), "objects")
    write_layer(output, counted, "counts", "MultiPolygon", qml, metadata)
    return counted


def count_by_unit(objects: GeoDataFrame, units: GeoDataFrame) -> GeoDataFrame:
    """Return the units, with CLASS_count and CLASS_area_m2 of each class, `objects` and `area_m2`.

    An object counts once, where a point inside it lies; one on a boundary counts in the first unit.
    Its area is split among units by what lies in each, so over units that cover everything, counts
    and areas add up to the totals. Units that overlap each count what they hold.

    Args:
        objects: with class, class_id and area_m2, the area on the ground.

    Raises DataError if only one of the two has a CRS, or one cannot go to that of the other.
    """
    if (objects.crs is None) != (units.crs is None) and len(objects):
        which, other = ("units", "objects") if units.crs is None else ("objects", "units")
        raise DataError(f"the {which} have no CRS, but the {other} have one; assign one to both")
    if objects.crs is not None and len(objects):
        # Objects are small, so that they keep their form; sides of units may be long.
        objects = reproject(objects, units.crs, "the objects")
    order = np.argsort(objects["class_id"].to_numpy("float64"), kind="stable")
    names = pd.unique(objects["class"].iloc[order])
    kind = pd.Categorical(objects["class"], names).codes.astype(np.intp)
    shapes = np.asarray(objects.geometry.values, object)
    cells = np.asarray(units.geometry.values, object)
    counts = np.zeros((len(cells), len(names)), np.int64)
    areas = np.zeros((len(cells), len(names)))
    unit, one = _units_of_points(shapely.point_on_surface(shapes), cells)
    np.add.at(counts, (unit, kind[one]), 1)
    unit, one, share = _shares(shapes, cells)
    np.add.at(areas, (unit, kind[one]), share * objects["area_m2"].to_numpy()[one])
    table: dict[str, NDArray[np.number]] = {}
    for index, name in enumerate(names):
        table |= {f"{name}_count": counts[:, index], f"{name}_area_m2": areas[:, index]}
    table |= dict(zip(TOTALS, (counts.sum(axis=1), areas.sum(axis=1)), strict=True))
    if earlier := [name for name in units.columns if name in table]:
        _LOG.warning("fields of the units are replaced: %s", ", ".join(earlier))
    kept = units.drop(columns=earlier).reset_index(drop=True)
    return GeoDataFrame(pd.concat([kept, pd.DataFrame(table)], axis=1), crs=units.crs)


def _units_of_points(
    points: NDArray[np.object_], cells: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return pairs (n,) of unit and point. Points on boundaries are in the first unit only."""
    tree = shapely.STRtree(points)
    inner_unit, inner = tree.query(cells, predicate="contains_properly")
    unit, point = tree.query(cells, predicate="intersects")
    at_edge = ~np.isin(point, inner)
    unit, point = unit[at_edge], point[at_edge]
    order = np.lexsort((unit, point))
    first = order[np.diff(point[order], prepend=-1) != 0]
    return np.concatenate([inner_unit, unit[first]]), np.concatenate([inner, point[first]])


def _shares(
    shapes: NDArray[np.object_], cells: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return triples (n,) of unit, object, and the share of the object's area in the unit."""
    tree = shapely.STRtree(shapes)
    inside = tree.query(cells, predicate="contains")
    touched = tree.query(cells, predicate="intersects")
    count = max(len(shapes), 1)
    crossing = touched[:, ~np.isin(touched[0] * count + touched[1], inside[0] * count + inside[1])]
    common = shapely.area(shapely.intersection(cells[crossing[0]], shapes[crossing[1]]))
    share = common / shapely.area(shapes[crossing[1]])
    unit, one = np.concatenate([inside, crossing], axis=1)
    return unit, one, np.concatenate([np.ones(inside.shape[1]), share])
