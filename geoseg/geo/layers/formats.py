"""The vector formats besides GeoPackage, and how features are written in each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import shapely
from geopandas import GeoDataFrame

from geoseg.classes import Color
from geoseg.errors import OptionError
from geoseg.geo.layers.geopackage import write_polygons
from geoseg.geo.layers.kml import color_placemarks
from geoseg.geo.layers.names import truncate

_SHAPEFILE_LIMIT = 2 * 1024**3
_DBF_TEXT = 254
"""Maximum bytes of a text in a shapefile."""
_DBF_NAME = 10
"""Maximum bytes of a field's name in a shapefile."""
_COUNTED = {"_count": "n_", "_area_m2": "m2_"}
"""Endings of the fields of `geoseg count`, and what stands for them in front of the class."""
_LOG = logging.getLogger("geoseg")


@dataclass(frozen=True, slots=True)
class Format:
    """One vector format."""

    suffix: str
    write: Callable[[GeoDataFrame, Path, str], None]
    """(features, file, layer)"""
    per_class: bool = False
    """One file per class instead of one for all."""
    wgs84: bool = False
    """Its standard requires longitude and latitude, whatever the scene's CRS."""
    losses: Callable[[GeoDataFrame], list[str]] = lambda frame: []
    """Returns what is lost of features, one sentence each."""
    color: Callable[[Path, Sequence[Color]], None] | None = None
    """Sets the colors of the features in a complete file, in its order."""

    @property
    def prj(self) -> bool:
        """The CRS must be expressible in ESRI's WKT 1."""
        return self.suffix == ".shp"


def _by_gdal(driver: str, **options: Any) -> Callable[[GeoDataFrame, Path, str], None]:
    return lambda frame, path, layer: write_polygons(frame, path, layer, driver, **options)


def _shapefile(frame: GeoDataFrame, path: Path, layer: str) -> None:
    frame = frame.rename(columns=short_names(frame.columns.drop(frame.geometry.name)))
    size = shapefile_size(frame)
    if size > _SHAPEFILE_LIMIT * 0.9:
        _LOG.warning(
            "%s: about %.1f GB of shapes, and shapefiles end at 2 GB; use gpkg or flatgeobuf",
            path.name,
            size / 1024**3,
        )
    plain = path.with_name("shapes.shp")  # sidecars would be named after a link of `vector_path`
    write_polygons(frame, plain, plain.stem, "ESRI Shapefile", ENCODING="UTF-8")
    for part in [each for each in path.parent.iterdir() if each.stem == plain.stem]:
        part.rename(path.with_name(path.stem + part.suffix))


def _shapefile_losses(frame: GeoDataFrame) -> list[str]:
    table = frame.drop(columns=frame.geometry.name)
    changed = [f"{name} → {short}" for name, short in short_names(table).items() if name != short]
    notes = [f"field names shortened: {', '.join(changed)}"] if changed else []
    for name in table.select_dtypes(["object", "string"]):
        texts = (each for each in table[name] if isinstance(each, str))
        if any(len(each.encode()) > _DBF_TEXT for each in texts):
            notes.append(f"texts of field {name} end after {_DBF_TEXT} bytes")
    return notes


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names of fields in a shapefile, of ten bytes at most.

    The fields of objects keep their names. Of longer names, CLASS_count and CLASS_area_m2 become
    n_CLASS and m2_CLASS, and all are cut to ten bytes; if another field has that name, to six and
    _2, _3 and so on.
    """
    short: dict[str, str] = {}
    for name in names:
        brief = name
        if len(name.encode()) > _DBF_NAME:
            for ending, prefix in _COUNTED.items():
                if name.endswith(ending):
                    brief = prefix + name.removesuffix(ending)
        tries = [truncate(brief, _DBF_NAME)]
        tries += [f"{truncate(brief, 6)}_{number}" for number in range(2, 1000)]
        taken = {each.lower() for each in short.values()}
        short[name] = next(each for each in tries if each.lower() not in taken)
    return short


def shapefile_size(frame: GeoDataFrame) -> int:
    """Return the bytes of the .shp file: 16 per point, 4 per ring, 52 per record, 100 of header.

    See the ESRI Shapefile Technical Description (1998).
    """
    points = shapely.get_num_coordinates(frame.geometry.array).sum()
    rings = len(frame) + shapely.get_num_interior_rings(frame.geometry.array).sum()
    return int(100 + 16 * points + 4 * rings + 52 * len(frame))


def _geoparquet(frame: GeoDataFrame, path: Path, layer: str) -> None:
    with path.open("wb") as file:
        frame.to_parquet(file, schema_version="1.1.0", write_covering_bbox=True, index=False)


def _kml(frame: GeoDataFrame, path: Path, layer: str) -> None:
    # Google Earth labels objects with the field Name.
    fields = {field.lower(): field for field in frame.columns}
    own = frame[fields.get("name", "class")].astype("str")
    named = frame.drop(columns=fields.get("name", []))
    named = named.assign(Name=own.where(own.notna() & (own.str.strip() != ""), frame["class"]))
    texts = named.select_dtypes(["object", "string"]).columns.drop(named.geometry.name, "ignore")
    # XML does not allow control characters.
    named = named.assign(
        **{
            field: named[field]
            .astype("str")
            .where(named[field].notna())
            .str.replace(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", " ", regex=True)
            for field in texts
        }
    )
    write_polygons(named, path, layer, "LIBKML")


def _csv(frame: GeoDataFrame, path: Path, layer: str) -> None:
    shapes = frame.geometry.array
    # GDAL and QGIS look for the geometry in a column WKT.
    added = {"x": None, "y": None, "WKT": shapely.to_wkt(shapes, rounding_precision=-1)}
    points = shapely.point_on_surface(shapes)
    added |= {"x": shapely.get_x(points), "y": shapely.get_y(points)}
    table = frame.drop(columns=frame.geometry.name)
    clashes = {name: f"{name}_2" for name in table.columns if name.lower() in ("x", "y", "wkt")}
    if clashes:
        _LOG.warning("%s: fields renamed: %s", path.name, ", ".join(clashes))
    table.rename(columns=clashes).assign(**added).to_csv(path, index=False, encoding="utf-8")


FORMATS = {
    "shapefile": Format(".shp", _shapefile, per_class=True, losses=_shapefile_losses),
    "flatgeobuf": Format(".fgb", _by_gdal("FlatGeobuf")),
    "geojson": Format(
        ".geojson", _by_gdal("GeoJSON", RFC7946="YES", COORDINATE_PRECISION="9"), wgs84=True
    ),
    "geoparquet": Format(".parquet", _geoparquet),
    "kml": Format(".kml", _kml, wgs84=True, color=color_placemarks),
    "csv": Format(".csv", _csv),
}
"""Formats by name. csv has a point on each surface as x and y, and the geometry as WKT."""


def check_installed(kind: str) -> None:
    """Raise OptionError if the package that writes a format is not installed."""
    if kind == "geoparquet" and find_spec("pyarrow") is None:
        raise OptionError(
            "--format geoparquet needs pyarrow; install it: pip install 'geoseg[parquet]'"
        )
