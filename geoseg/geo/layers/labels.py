"""Read labels, polygons that people drew, in the pixel coordinates of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.errors import DataError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.overlay import overlay
from geoseg.geo.vector_file import VectorLayer, read_vector_file

_POLYGONAL = 2
"""Dimensions of geometry with an area."""


@dataclass(frozen=True, slots=True)
class Labels:
    """N polygons on the scene, and their classes."""

    geometry: NDArray[np.object_]
    """(N,) valid (multi)polygons, x = column and y = row of the scene, clipped at its border."""
    names: NDArray[np.object_]
    """(N,) class names as in the file."""
    area: NDArray[np.float64]
    """(N,) pixels that the unclipped polygons cover; approximate if the CRSs differ."""
    outside: int
    """Count of polygons in the file that do not touch the scene."""
    problems: tuple[str, ...]
    """Unusable features, one sentence each."""

    def __len__(self) -> int:
        return len(self.geometry)


def read_labels(
    path: str | Path, geobox: GeoBox, *, field: str | None, layer: str | None = None
) -> Labels:
    """Read the polygons of a vector file, of one layer or of all.

    Args:
        field: attribute that names the class; None = names are not needed and stay empty.

    Raises:
        DataError: the file cannot be read, has no such layer or field, or cannot be placed on the
            scene.
    """
    parts = [
        _read_layer(part, geobox, f"{path}, layer {part.name},", field)
        for part in read_vector_file(path, layer=layer, field=field)
    ]
    return Labels(
        geometry=np.concatenate([part.geometry for part in parts]),
        names=np.concatenate([part.names for part in parts]),
        area=np.concatenate([part.area for part in parts]),
        outside=sum(part.outside for part in parts),
        problems=tuple(problem for part in parts for problem in part.problems),
    )


def _read_layer(part: VectorLayer, geobox: GeoBox, what: str, field: str | None) -> Labels:
    shapes = part.geometry
    parts, owner = shapely.get_parts(shapes, return_index=True)
    usable = np.zeros(len(shapes), bool)
    usable[owner[(shapely.get_dimensions(parts) == _POLYGONAL) & ~shapely.is_empty(parts)]] = True
    named = part.values != "" if field is not None else np.ones(len(shapes), bool)
    problems = []
    for row in np.flatnonzero(~(usable & named)):
        lack = f"no {field}" if usable[row] else "no polygon"
        problems.append(f"feature {row + 1} of layer {part.name} has {lack}")
    shapes, names = shapes[usable & named], part.values[usable & named]
    try:
        clipped = overlay(shapes, part.crs, geobox)
    except DataError as error:
        raise DataError(f"{what} {error}") from error
    on_scene = ~shapely.is_empty(clipped)
    return Labels(
        geometry=clipped[on_scene],
        names=names[on_scene],
        area=_unclipped_areas(shapes[on_scene], clipped[on_scene]),
        outside=int((~on_scene).sum()),
        problems=tuple(problems),
    )


def _unclipped_areas(
    shapes: NDArray[np.object_], clipped: NDArray[np.object_]
) -> NDArray[np.float64]:
    """Return areas, in pixels of the scene, of shapes, of which `clipped` are the parts on it."""
    area, unclipped = shapely.area(clipped), shapely.area(shapes)
    if not (unclipped > 0).any():
        return area
    # The greatest ratio is that of a shape that is not clipped, so it is the scale.
    scale = np.max(area[unclipped > 0] / unclipped[unclipped > 0])
    return np.maximum(unclipped * scale, area)
