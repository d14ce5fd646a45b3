"""Layers of a GeoPackage in the formats that other programs ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import shapely
from geopandas import GeoDataFrame
from pyogrio.errors import DataLayerError, DataSourceError

from geoseg.errors import DataError, OptionError, OutputError
from geoseg.geo.layers import read_layers, write_polygons
from geoseg.geo.reproject import in_wanted_crs

_SHAPEFILE_LIMIT = 2 * 1024**3
_LOG = logging.getLogger("geoseg")


@dataclass(frozen=True, slots=True)
class Format:
    """One vector format."""

    suffix: str
    write: Callable[[GeoDataFrame, Path, str], None]
    """(features, file, layer)"""
    per_class: bool = False
    """A file of each class instead of one of all."""
    wgs84: bool = False
    """Longitude and latitude by its standard, whatever the scene's CRS."""
    sidecars: tuple[str, ...] = ()
    """Suffixes of further files that belong to it."""


def _by_gdal(driver: str, **options: str) -> Callable[[GeoDataFrame, Path, str], None]:
    return lambda frame, path, layer: write_polygons(frame, path, layer, driver, **options)


def _shapefile(frame: GeoDataFrame, path: Path, layer: str) -> None:
    names = short_names(frame.columns.drop(frame.geometry.name))
    if changed := [f"{name} = {short}" for name, short in names.items() if name != short]:
        _LOG.warning("%s: fields are called %s", path.name, ", ".join(changed))
    frame = frame.rename(columns=names)
    size = shapefile_size(frame)
    if size > _SHAPEFILE_LIMIT * 0.9:
        _LOG.warning(
            "%s: about %.1f GB of shapes, and shapefiles end at 2 GB; use gpkg or flatgeobuf",
            path.name,
            size / 1024**3,
        )
    write_polygons(frame, path, layer, "ESRI Shapefile", ENCODING="UTF-8")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Names of fields in shapefiles, which have ten bytes for them.

    All that geoseg writes stay as they are. Of longer ones the first ten count; where another
    field is called so, the first seven and _2, _3 and so on.
    """
    short: dict[str, str] = {}
    for name in names:
        tries = [_cut(name, 10), *(f"{_cut(name, 7)}_{number}" for number in range(2, 100))]
        taken = {each.lower() for each in short.values()}
        short[name] = next(each for each in tries if each.lower() not in taken)
    return short


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore")


def shapefile_size(frame: GeoDataFrame) -> int:
    """Bytes of the .shp file, by its specification: 16 a point, 4 a ring, 52 a record."""
    points = shapely.get_num_coordinates(frame.geometry.array).sum()
    rings = len(frame) + shapely.get_num_interior_rings(frame.geometry.array).sum()
    return int(100 + 16 * points + 4 * rings + 52 * len(frame))


def _geoparquet(frame: GeoDataFrame, path: Path, layer: str) -> None:
    try:
        frame.to_parquet(path, schema_version="1.1.0", write_covering_bbox=True, index=False)
    except ImportError as error:
        raise OptionError(
            "--format geoparquet needs pyarrow; install it: pip install 'geoseg[parquet]'"
        ) from error


def _kml(frame: GeoDataFrame, path: Path, layer: str) -> None:
    # What Google Earth writes beside an object is the field Name.
    write_polygons(frame.assign(Name=frame["class"]), path, layer, "LIBKML")


def _csv(frame: GeoDataFrame, path: Path, layer: str) -> None:
    table = frame.drop(columns=frame.geometry.name)
    # Under this name GDAL and QGIS find the geometry.
    table.insert(0, "WKT", shapely.to_wkt(frame.geometry.array, rounding_precision=-1))
    table.to_csv(path, index=False, encoding="utf-8")


FORMATS = {
    "shapefile": Format(
        ".shp", _shapefile, per_class=True, sidecars=(".dbf", ".shx", ".prj", ".cpg")
    ),
    "flatgeobuf": Format(".fgb", _by_gdal("FlatGeobuf")),
    "geojson": Format(
        ".geojson", _by_gdal("GeoJSON", RFC7946="YES", COORDINATE_PRECISION="9"), wgs84=True
    ),
    "geoparquet": Format(".parquet", _geoparquet),
    "kml": Format(".kml", _kml, wgs84=True),
    "csv": Format(".csv", _csv),
}
"""By name. csv holds the geometry as WKT in a column WKT."""


def export(
    path: Path,
    folder: Path,
    kind: str,
    *,
    target_crs: str | None = None,
    layers: Collection[str] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Write the features of a GeoPackage, all or those of some `layers`, in another format.

    Returns the files, without sidecars; see `write_format`.

    Raises:
        DataError: no such file or layer. OptionError: CRS and format do not go together.
        OutputError: a file exists already or cannot be written.
    """
    frame = read_layers(path)
    if layers:
        known = {*frame["class"]}
        if missing := [layer for layer in layers if layer not in known]:
            raise DataError(
                f"{path} has no layer {missing[0]}; it has {', '.join(sorted(known)) or 'none'}"
            )
        frame = frame[frame["class"].isin(list(layers))]
    return write_format(frame, folder, path.stem, kind, target_crs=target_crs, overwrite=overwrite)


def write_format(
    frame: GeoDataFrame,
    folder: Path,
    stem: str,
    kind: str,
    *,
    target_crs: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write features as `<stem>.<suffix>`, or as `<stem>_<class>.<suffix>` for each class.

    Files appear once they are complete. Raises as `export` does.
    """
    style = FORMATS[kind]
    frame = in_wanted_crs(frame, kind, target_crs, wgs84=style.wgs84, prj=".prj" in style.sidecars)
    groups = dict(tuple(frame.groupby("class"))) if style.per_class else {stem: frame}
    names = {f"{stem}_{key}" if style.per_class else stem: rows for key, rows in groups.items()}
    paths = [folder / f"{name}{style.suffix}" for name in names]
    if not overwrite and (there := [path for path in paths if path.exists()]):
        raise OutputError(f"{there[0]} exists; give --overwrite or another folder (-o)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=f".{stem}.") as working:
            for (name, rows), path in zip(names.items(), paths, strict=True):
                style.write(rows, Path(working) / path.name, name)
                for suffix in (*style.sidecars, style.suffix):
                    part = Path(working) / f"{name}{suffix}"
                    if part.exists():  # without a CRS there is no .prj
                        part.replace(folder / part.name)
    except (OSError, DataSourceError, DataLayerError) as error:
        raise OutputError(f"{folder} cannot be written: {error}") from error
    return paths
