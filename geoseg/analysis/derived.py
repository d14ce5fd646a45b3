"""Layers derived from objects: a point in each, the box around each, a heat map."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import pyogrio
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.analysis.layer_file import check_layer_file
from geoseg.atomic import Staging
from geoseg.errors import OptionError, OutputError
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import WRITING, vector_settings
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.layers.export import measured
from geoseg.geo.layers.geopackage import add_styles
from geoseg.geo.layers.measure import ground_axes
from geoseg.geo.paths import vector_path
from geoseg.geo.raster.files import vector_files
from geoseg.geo.styles import add_options, add_symbol, layer_qml

Shapes = NDArray[np.object_]
_GRAY = (90, 90, 90)


def derive(
    path: Path,
    output: Path,
    *,
    layers: Collection[str] = ("centroids", "boxes"),
    classes: Collection[str] = (),
    overwrite: bool = False,
) -> dict[str, int]:
    """Write a GeoPackage with layers of `DERIVED`, styled for QGIS; return their feature counts.

    Every feature has the fields of its object.

    Args:
        path: a GeoPackage of geoseg, edited or not.
        classes: layers or classes; empty = all.

    Raises:
        OptionError: an unknown layer, or the output is an input.
        DataError: the objects cannot be used.
        OutputError: a file cannot be read or written.
    """
    if unknown := [name for name in layers if name not in DERIVED]:
        raise OptionError(f"--layers {unknown[0]} is not known; choose from {', '.join(DERIVED)}")
    check_layer_file(output, vector_files(path), overwrite=overwrite)
    objects = measured(read_edited(path, classes).features, str(path))
    styles = dict[str, tuple[str, str]]()
    with (
        Staging(output.parent, output.name) as staging,
        vector_errors(f"{output} cannot be written", OutputError),
    ):
        new = staging.new / output.name
        for name in dict.fromkeys(layers):
            make, geometry, qml = DERIVED[name]
            shapes = make(np.asarray(objects.geometry.values, object), objects)
            with vector_settings(WRITING):
                pyogrio.write_dataframe(
                    objects.set_geometry(shapes, crs=objects.crs),
                    vector_path(new),
                    layer=name,
                    driver="GPKG",
                    geometry_type=geometry,
                    append=bool(styles),
                    VERSION="1.3",
                )
            styles[name] = name, qml()
        add_styles(new, styles)
    return dict.fromkeys(styles, len(objects))


def _points(shapes: Shapes, objects: GeoDataFrame) -> Shapes:
    """Return centroids; where one lies outside of its object, a point inside."""
    points: Shapes = shapely.centroid(shapes)
    outside = ~shapely.contains(shapes, points)
    points[outside] = shapely.point_on_surface(shapes[outside])
    return points


def _boxes(shapes: Shapes, objects: GeoDataFrame) -> Shapes:
    """Return the smallest rectangles around objects, right-angled on the ground: those whose sides
    are length_m and width_m."""
    if not len(shapes):
        return shapes
    bounds = shapely.bounds(shapes)
    crs = None if objects.crs is None else CRS.from_wkt(objects.crs.to_wkt())
    axes = ground_axes(bounds, crs)
    center = (bounds[:, :2] + bounds[:, 2:]) / 2
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    flat = np.einsum("nab,nb->na", axes[owner], points - center[owner])
    boxes = shapely.oriented_envelope(shapely.set_coordinates(shapes.copy(), flat))
    points, owner = shapely.get_coordinates(boxes, return_index=True)
    placed = np.einsum("nab,nb->na", np.linalg.inv(axes)[owner], points) + center[owner]
    result: Shapes = shapely.set_coordinates(boxes, placed)
    return result


def _point_qml() -> str:
    root = Element("qgis", version="3.22.0", styleCategories="Symbology", labelsEnabled="0")
    renderer = SubElement(root, "renderer-v2", type="singleSymbol", symbollevels="0")
    circle = {"name": "circle", "size": "2", "color": "215,48,31,255"}
    line = {"outline_color": "255,255,255,255"}
    add_symbol(SubElement(renderer, "symbols"), "marker", circle | line)
    SubElement(root, "layerGeometryType").text = "0"
    return tostring(root, encoding="unicode")


def _heat_qml() -> str:
    """Return QGIS's heat map of points, with a radius of 10 mm on the screen."""
    root = Element("qgis", version="3.22.0", styleCategories="Symbology", labelsEnabled="0")
    renderer = SubElement(
        root,
        "renderer-v2",
        type="heatmapRenderer",
        radius="10",
        radius_unit="0",
        max_value="0",
        quality="2",
        weight_expression="",
    )
    ramp = SubElement(renderer, "colorramp", type="gradient", name="[source]")
    colors = {"color1": "255,245,224,0", "color2": "127,0,0,255"}
    stops = {"stops": "0.25;253,212,158,160:0.6;252,141,89,220"}
    add_options(ramp, {**colors, "discrete": "0", "rampType": "gradient", **stops})
    SubElement(root, "layerGeometryType").text = "0"
    return tostring(root, encoding="unicode")


DERIVED: dict[str, tuple[Callable[[Shapes, GeoDataFrame], Shapes], str, Callable[[], str]]] = {
    "centroids": (_points, "Point", _point_qml),
    "boxes": (_boxes, "Polygon", lambda: layer_qml(_GRAY)),
    "heatmap": (_points, "Point", _heat_qml),
}
"""Layers by name: geometry of objects, its type, and a style."""
