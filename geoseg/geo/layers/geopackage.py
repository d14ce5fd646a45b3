"""Write features as a GeoPackage: a layer per class, with its style and metadata."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import pyogrio
from geopandas import GeoDataFrame

from geoseg.classes import Color, LabelClass, class_color
from geoseg.errors import OutputError
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import WRITING, vector_settings
from geoseg.geo.layers.edited import read_edited
from geoseg.geo.layers.names import LayerNames
from geoseg.geo.paths import vector_path
from geoseg.geo.styles import TABLE, layer_qml

NO_OBJECTS = "objects"
"""Name of the one layer in a file without features."""
_LOG = logging.getLogger("geoseg")
_GRAY = (128, 128, 128)
_LONGEST = 500
"""Bytes of the longest path that SQLite opens, less some for its own suffixes."""


def read_layers(path: Path) -> GeoDataFrame:
    """Return the features of all layers of a GeoPackage, in the order of object_id.

    Raises OutputError or DataError; see `read_edited`.
    """
    return read_edited(path).features


def write_polygons(
    frame: GeoDataFrame,
    path: Path,
    layer: str,
    driver: str,
    **options: Any,
) -> None:
    """Write features with GDAL, and log its warnings. Raises pyogrio's errors."""
    # Polygons that were cut at the edge of a map have several parts.
    several = bool((frame.geom_type == "MultiPolygon").any())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pyogrio.write_dataframe(
            frame,
            vector_path(path),
            layer=layer,
            driver=driver,
            geometry_type="MultiPolygon" if several else "Polygon",
            promote_to_multi=several,
            **options,
        )
    for message in dict.fromkeys(str(each.message) for each in caught):
        if "'crs' was not provided" not in message:  # scenes without a CRS are allowed
            _LOG.warning("%s: %s", path.name, message)


class GeoPackageWriter:
    """Writer of a GeoPackage with a layer per class, in the order of their first features.

    A table layer_styles gives QGIS the classes' colors, and names and units of fields. A context
    manager: the file is complete once the context ends without an error. Write into a `Staging`
    if a failure must leave no file. Raises OutputError if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        classes: tuple[LabelClass, ...],
        empty: GeoDataFrame,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        empty: a table with the fields and the CRS; it is written if there are no features.
        metadata: written to gpkg_metadata of the file and of each layer.
        """
        self.path = path
        self.counts: dict[str, int] = {}
        """Features by layer."""
        self._empty = empty
        self._classes = {label.id: label for label in classes}
        self._names = LayerNames(classes)
        self._legend: dict[str, tuple[str, Color]] = {}
        """Class name, as the class spells it, and color by layer."""
        self._metadata = dict(metadata or {})

    def append(self, frame: GeoDataFrame) -> None:
        """Add features, all of one class."""
        class_id, name = int(frame["class_id"].iloc[0]), str(frame["class"].iloc[0])
        layer = self._names.of(class_id, name)
        known = self._classes.get(class_id)
        self._legend[layer] = name, class_color(class_id) if known is None else known.color
        with self._errors():
            self._write(frame, layer)
        self.counts[layer] = self.counts.get(layer, 0) + len(frame)

    def _write(self, frame: GeoDataFrame, layer: str) -> None:
        with vector_settings(WRITING):
            write_polygons(
                frame,
                self._file,
                layer,
                "GPKG",
                append=bool(self.counts),
                VERSION="1.3",  # what GDAL 3.3 to 3.6, and QGIS with them, know
                dataset_metadata=self._metadata,
                layer_metadata=self._metadata,
            )

    def __enter__(self) -> GeoPackageWriter:
        with self._errors(), ExitStack() as opening:
            self.path.unlink(missing_ok=True)
            self._file = self.path
            if len(os.fsencode(self.path.resolve())) > _LONGEST:
                folder = opening.enter_context(TemporaryDirectory(prefix="geoseg-"))
                self._file = Path(folder) / "layers.gpkg"
            self._closing = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._errors(), self._closing:
            if kind is None:
                self._complete()

    def _complete(self) -> None:
        if not self.counts:  # a GeoPackage needs a layer to be one
            self._write(self._empty, NO_OBJECTS)
            self._legend[NO_OBJECTS] = NO_OBJECTS, _GRAY
        unit = "px" if self._empty.crs is None else "m"
        styles = {
            layer: (name, layer_qml(color, unit=unit))
            for layer, (name, color) in self._legend.items()
        }
        add_styles(self._file, styles)
        _verify(self._file, self.counts)
        if self._file != self.path:
            shutil.move(self._file, self.path)

    def _errors(self) -> AbstractContextManager[None]:
        return vector_errors(f"{self.path} cannot be written", OutputError)


def _verify(path: Path, counts: Mapping[str, int]) -> None:
    """Raise sqlite3.Error unless all features are there: on a full disk GDAL reports no error."""
    with closing(sqlite3.connect(path)) as file:
        (state,) = file.execute("PRAGMA quick_check(1)").fetchone()
        for name, count in counts.items():
            quoted = name.replace('"', '""')
            (found,) = file.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()
            if state == "ok" and found != count:
                state = f"{found} of {count} features of {name} arrived"
    if state != "ok":
        raise sqlite3.DatabaseError(state)


def add_styles(path: Path, styles: Mapping[str, tuple[str, str]]) -> None:
    """Add the table layer_styles; `styles` has class name and QML by layer."""
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
            [(layer, layer, style, f"geoseg: {name}") for layer, (name, style) in styles.items()],
        )
