"""A GeoPackage of features: a layer per class, styled and described."""

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
from geoseg.geo.layers.features import drawing_order
from geoseg.geo.layers.names import LayerNames
from geoseg.geo.paths import vector_path
from geoseg.geo.styles import TABLE, layer_qml

NO_OBJECTS = "objects"
"""The layer of a file without a feature."""
_LOG = logging.getLogger("geoseg")
_GRAY = (128, 128, 128)
_LONGEST = 500
"""Bytes of the path of a file that SQLite opens, less some for its own suffixes."""


def write_layers(
    path: Path,
    frame: GeoDataFrame,
    classes: tuple[LabelClass, ...],
    metadata: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write `frame`, from `features`, as one GeoPackage; see `Layers`.

    Layers come in `drawing_order`. Returns the features in each layer.
    """
    typical = frame.groupby("class")["area_m2"].median()
    with Layers(path, classes, frame.iloc[:0], metadata) as layers:
        for name in typical.index[drawing_order(list(typical.index), list(typical))]:
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
    **options: Any,
) -> None:
    """Hand features to GDAL, and log what it warns of. Raises what pyogrio raises."""
    # What was cut at the edge of a map has several parts.
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
    for said in dict.fromkeys(str(each.message) for each in caught):
        if "'crs' was not provided" not in said:  # of a picture without a place on the ground
            _LOG.warning("%s: %s", path.name, said)


class Layers:
    """A GeoPackage under construction: a layer per class, in the order of their first features.

    A table layer_styles gives QGIS the classes' colors, and names and units of fields. A context:
    once it is left without an error, the file at `path` is whole; see `Staging` for one that is to
    be whole or absent. Raises OutputError where it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        classes: tuple[LabelClass, ...],
        nothing: GeoDataFrame,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`metadata` goes to the file's gpkg_metadata, and to that of each layer.

        `nothing` has the fields and the CRS, and becomes a layer where no feature comes.
        """
        self.path = path
        self.counts: dict[str, int] = {}
        self._nothing = nothing
        self._classes = {label.id: label for label in classes}
        self._names = LayerNames(classes)
        self._shown: dict[str, tuple[str, Color]] = {}
        """By layer: its class, in the class's own spelling, and color."""
        self._metadata = dict(metadata or {})

    def append(self, frame: GeoDataFrame) -> None:
        """Add features, all of one class."""
        class_id, name = int(frame["class_id"].iloc[0]), str(frame["class"].iloc[0])
        layer = self._names.of(class_id, name)
        known = self._classes.get(class_id)
        self._shown[layer] = name, class_color(class_id) if known is None else known.color
        with self._failures():
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

    def __enter__(self) -> Layers:
        with self._failures(), ExitStack() as opening:
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
        with self._failures(), self._closing:
            if kind is None:
                self._complete()

    def _complete(self) -> None:
        if not self.counts:  # a GeoPackage needs a layer to be one
            self._write(self._nothing, NO_OBJECTS)
            self._shown[NO_OBJECTS] = NO_OBJECTS, _GRAY
        unit = "px" if self._nothing.crs is None else "m"
        styles = {
            layer: (name, layer_qml(color, unit=unit))
            for layer, (name, color) in self._shown.items()
        }
        _add_styles(self._file, styles)
        _verify(self._file, self.counts)
        if self._file != self.path:
            shutil.move(self._file, self.path)

    def _failures(self) -> AbstractContextManager[None]:
        return vector_errors(f"{self.path} cannot be written", OutputError)


def _verify(path: Path, counts: Mapping[str, int]) -> None:
    """On a full disk GDAL closes a file without a word: see that all is there.

    Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(path)) as file:
        (told,) = file.execute("PRAGMA quick_check(1)").fetchone()
        for name, count in counts.items():
            quoted = name.replace('"', '""')
            (there,) = file.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()
            if told == "ok" and there != count:
                told = f"{there} of {count} features of {name} arrived"
    if told != "ok":
        raise sqlite3.DatabaseError(told)


def _add_styles(path: Path, styles: Mapping[str, tuple[str, str]]) -> None:
    """Class and QML of layers by name."""
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
