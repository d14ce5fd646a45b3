"""A GeoPackage of features: a layer per class, styled and described."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import geopandas
import pyogrio

from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.styles import TABLE, qml


def write_layers(
    path: Path,
    frame: geopandas.GeoDataFrame,
    classes: tuple[LabelClass, ...],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write a GeoPackage and return the features in each of its layers.

    There is a layer for every class that occurs, the one with the largest objects first, so that
    small objects are drawn over large ones. A table layer_styles gives QGIS the classes' colours.
    The file appears at `path` once it is complete, in place of one that was there.

    Args:
        frame: from `features`.
        metadata: written to the file's gpkg_metadata, and to that of each layer.

    Raises:
        OutputError: the file cannot be written.
    """
    colors = {label.name: label.color for label in classes}
    counts: dict[str, int] = {}
    extras = dict(metadata or {})
    partial = path.with_name(f".{path.name}.partial.gpkg")
    typical = frame.groupby("class")["area_m2"].median().sort_values(ascending=False, kind="stable")
    try:
        partial.unlink(missing_ok=True)
        for name in typical.index:
            rows = frame[frame["class"] == name]
            _write(rows, partial, name, extras)
            counts[name] = len(rows)
        if not counts:
            _write(frame, partial, "objects", extras)
        _add_styles(partial, [(name, colors.get(name, (128, 128, 128))) for name in counts])
        partial.replace(path)
    except (OSError, sqlite3.Error, pyogrio.errors.DataSourceError) as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return counts


def _write(frame: geopandas.GeoDataFrame, path: Path, layer: str, metadata: dict[str, str]) -> None:
    with warnings.catch_warnings():
        # A picture without a place on the ground has no CRS, and the user knows.
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.write_dataframe(
            frame,
            path,
            layer=layer,
            driver="GPKG",
            geometry_type="Polygon",
            promote_to_multi=False,
            append=path.exists(),
            dataset_metadata=metadata,
            layer_metadata=metadata,
        )


def _add_styles(path: Path, layers: list[tuple[str, tuple[int, int, int]]]) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(TABLE)
        file.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles', 0)"
        )
        file.executemany(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, 'geom', ?, ?, '', 1, ?, '')",
            [(name, name, qml(name, color), f"geoseg: {name}") for name, color in layers],
        )
