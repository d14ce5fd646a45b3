"""Units in which objects are counted: polygons of a file, squares, or hexagons of H3."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import shapely
from geopandas import GeoDataFrame
from rasterio.crs import CRS

from geoseg.errors import DataError, OptionError
from geoseg.geo.antimeridian import cut_at_antimeridian
from geoseg.geo.crs import WGS84, parse_crs
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import READING, vector_settings
from geoseg.geo.layers.measure import ground_axes
from geoseg.geo.paths import vector_path
from geoseg.geo.reproject import reproject
from geoseg.geo.vector.polygons import concat_ranges

MAX_CELLS = 2_000_000
"""Cells that objects may touch."""
_DISTORTION = 0.01
"""Difference between meters of a map and on the ground at which squares lie in another CRS."""


def read_units(path: Path, layer: str | None = None) -> GeoDataFrame:
    """Return the polygons of a vector file with their fields. Raises DataError."""
    what = f"{path} cannot be read as vector data"
    with vector_errors(what, DataError), vector_settings(READING):
        names = [str(name) for name, kind in pyogrio.list_layers(vector_path(path)) if kind]
        if layer is None and len(names) > 1:
            raise DataError(f"{path} has several layers: {', '.join(names)}; choose one (--layer)")
        if not names or (layer is not None and layer not in names):
            raise DataError(f"{path} has no layer {layer or 'with polygons'}")
        frame = pyogrio.read_dataframe(
            vector_path(path), layer=layer or names[0], on_invalid="ignore"
        )
    shapes = shapely.force_2d(np.asarray(frame.geometry.values, object))
    polygonal = (shapely.get_dimensions(shapes) == 2) & ~shapely.is_empty(shapes)
    if not polygonal.all():
        raise DataError(
            f"{path}: {int((~polygonal).sum())} of {len(frame)} features are no polygon"
        )
    shapes = shapely.make_valid(shapes, method="structure", keep_collapsed=False)
    return frame.set_geometry(shapes, crs=frame.crs)


def grid_units(objects: GeoDataFrame, grid: str) -> GeoDataFrame:
    """Return the cells of a grid that the boxes around objects touch.

    Args:
        grid: 500m or 2km, squares whose corners are multiples of their side; or h3:9, the cells of
            that resolution of H3.

    Squares are in the CRS of the objects, or in UTM where its meters are not those of the ground.
    Raises OptionError.
    """
    if match := re.fullmatch(r"h3:(\d{1,2})", grid):
        return _h3_units(objects, int(match[1]))
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(m|km|)", grid)
    if match is None or float(match[1]) == 0:
        raise OptionError(f"--grid is {grid}; give the side of squares, such as 500m, or h3:9")
    side = float(match[1]) * (1000 if match[2] == "km" else 1)
    if not _is_true(objects):
        utm = objects.estimate_utm_crs()
        objects = reproject(objects, utm, "--grid")
    low, high = (
        np.floor(part / side).astype(np.int64)
        for part in np.split(objects.bounds.to_numpy(float), 2, axis=1)
    )
    size = high - low + 1
    if (total := int(size.prod(axis=1).sum())) > MAX_CELLS:
        raise OptionError(
            f"--grid {grid}: the objects touch some {total} cells; choose larger ones"
        )
    rows = np.repeat(np.arange(len(low)), size[:, 0])
    columns = concat_ranges(low[:, 0], size[:, 0])
    cells = np.stack(
        [np.repeat(columns, size[rows, 1]), concat_ranges(low[rows, 1], size[rows, 1])], axis=1
    )
    x, y = np.unique(cells, axis=0).T * side if len(cells) else np.zeros((2, 0))
    names = [f"{left:.10g}_{bottom:.10g}" for left, bottom in zip(x, y, strict=True)]
    return geopandas.GeoDataFrame(
        {"cell": names}, geometry=shapely.box(x, y, x + side, y + side), crs=objects.crs
    )


def _is_true(objects: GeoDataFrame) -> bool:
    """Whether the units of the map are meters on the ground, or there are no others."""
    if objects.crs is None or not len(objects):
        return True
    axes = ground_axes(objects.total_bounds[None], CRS.from_wkt(objects.crs.to_wkt()))[0]
    return bool(np.allclose(np.linalg.svd(axes, compute_uv=False), 1, atol=_DISTORTION))


def _h3_units(objects: GeoDataFrame, resolution: int) -> GeoDataFrame:
    if find_spec("h3") is None:
        raise OptionError("--grid h3 needs the package h3; install it: pip install 'h3>=4.2'")
    import h3

    if resolution > 15:
        raise OptionError(f"--grid h3:{resolution}: resolutions end at 15")
    if objects.crs is None:
        raise OptionError("--grid h3: the objects have no CRS; choose squares, such as 500m")
    found: set[str] = set()
    for shape in shapely.get_parts(
        np.asarray(reproject(objects, parse_crs(WGS84, "--grid"), "--grid").geometry)
    ):
        box = h3.geo_to_h3shape(shapely.box(*shape.bounds))
        found.update(h3.h3shape_to_cells_experimental(box, resolution, contain="overlap"))
        if len(found) > MAX_CELLS:
            raise OptionError(f"--grid h3:{resolution}: too many cells; choose larger ones")
    cells = sorted(found)
    shapes = []
    for cell in cells:
        ring = np.array(h3.cell_to_boundary(cell))[:, ::-1]
        if np.ptp(ring[:, 0]) > 180:
            ring[:, 0] %= 360
        shapes.append(cut_at_antimeridian(shapely.Polygon(ring), 360.0))
    return geopandas.GeoDataFrame({"h3": cells}, geometry=shapes, crs=WGS84)
