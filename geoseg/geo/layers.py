"""A GeoPackage of features: a layer per class, styled and described."""

from __future__ import annotations

import logging
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyogrio
from geopandas import GeoDataFrame

from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.edited import read_edited
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import WRITING, vector_settings
from geoseg.geo.names import LayerNames
from geoseg.geo.paths import vector_path
from geoseg.geo.styles import TABLE, qml

_LOG = logging.getLogger("geoseg")
_GREY = (128, 128, 128)


def write_layers(
    path: Path,
    frame: GeoDataFrame,
    classes: tuple[LabelClass, ...],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write `frame`, from `features`, as one GeoPackage; see `Layers`.

    The layer with the largest objects comes first. Returns the features in each layer.
    """
    typical = frame.groupby("class")["area_m2"].median().sort_values(ascending=False, kind="stable")
    with Layers(path, classes, metadata) as layers:
        for name in typical.index:
            layers.append(frame[frame["class"] == name])
        return layers.counts


def read_layers(path: Path) -> GeoDataFrame:
    """The features of all layers of a GeoPackage, in the order of object_id; see `read_edited`.

    Raises what `read_edited` raises.
    """
    return read_edited(path).features


def write_polygons(
    frame: GeoDataFrame,
    path: Path,
    layer: str,
    driver: str,
    *,
    geometry_type: str = "Polygon",
    promote_to_multi: bool = False,
    **options: Any,
) -> None:
    """Hand features to GDAL, and log what it warns of. Raises what pyogrio raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pyogrio.write_dataframe(
            frame,
            vector_path(path),
            layer=layer,
            driver=driver,
            geometry_type=geometry_type,
            promote_to_multi=promote_to_multi,
            **options,
        )
    for said in dict.fromkeys(str(each.message) for each in caught):
        if "'crs' was not provided" not in said:  # of a picture without a place on the ground
            _LOG.warning("%s: %s", path.name, said)


class Layers:
    """A GeoPackage under construction: a layer per class, in the order of their first features.

    A table layer_styles gives QGIS the classes' colors. A context: once it is left without an
    error, the file at `path` is whole; see `Staging` for one that is to be whole or absent. Raises
    OutputError where it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        classes: tuple[LabelClass, ...],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`metadata` goes to the file's gpkg_metadata, and to that of each layer."""
        self.path = path
        self.counts: dict[str, int] = {}
        self._classes = {label.id: label for label in classes}
        self._names = LayerNames(classes)
        self._shown: dict[str, tuple[str, tuple[int, int, int]]] = {}
        """By layer: its class, in the class's own spelling, and color."""
        self._metadata = dict(metadata or {})

    def append(self, frame: GeoDataFrame) -> None:
        """Add features, all of one class."""
        class_id, name = int(frame["class_id"].iloc[0]), str(frame["class"].iloc[0])
        layer = self._names.of(class_id, name)
        known = self._classes.get(class_id)
        self._shown[layer] = name, _GREY if known is None else known.color
        with self._failures(), vector_settings(WRITING):
            write_polygons(
                frame,
                self.path,
                layer,
                "GPKG",
                append=bool(self.counts),
                VERSION="1.3",  # what GDAL 3.3 to 3.6, and QGIS with them, know
                dataset_metadata=self._metadata,
                layer_metadata=self._metadata,
            )
        self.counts[layer] = self.counts.get(layer, 0) + len(frame)

    def __enter__(self) -> Layers:
        with self._failures():
            self.path.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            with self._failures():
                if not self.counts:
                    self._write_nothing()
                _add_styles(self.path, self._shown)

    def _write_nothing(self) -> None:
        """A GeoPackage needs a layer to be one."""
        pyogrio.write_dataframe(
            GeoDataFrame({"class": np.zeros(0, str)}, geometry=[], crs="EPSG:4326"),
            vector_path(self.path),
            layer="objects",
            driver="GPKG",
            geometry_type="Polygon",
            dataset_metadata=self._metadata,
        )

    def _failures(self) -> AbstractContextManager[None]:
        return vector_errors(f"{self.path} cannot be written", OutputError)


def _add_styles(path: Path, layers: Mapping[str, tuple[str, tuple[int, int, int]]]) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("PRAGMA synchronous = OFF")
        file.execute(TABLE)
        file.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles', 0)"
        )
        file.executemany(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, 'geom', ?, ?, '', 1, ?, '')",
            [
                (layer, layer, qml(name, color), f"geoseg: {name}")
                for layer, (name, color) in layers.items()
            ],
        )
