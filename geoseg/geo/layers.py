"""A GeoPackage of features: a layer per class, styled and described."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pyogrio
from geopandas import GeoDataFrame
from pyogrio.errors import DataLayerError, DataSourceError

from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.features import drawing_order
from geoseg.geo.styles import TABLE, layer_qml
from geoseg.whole import put_in_place

NO_OBJECTS = "objects"
"""The layer of a file without a feature."""
_GRAY = (128, 128, 128)


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
    """The features of all layers that `write_layers` wrote, in its order of object_id.

    Raises OutputError where there is no such file.
    """
    try:
        names = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        frames = [pyogrio.read_dataframe(path, layer=name) for name in names]
    except DataSourceError as error:
        raise OutputError(f"{path} cannot be read: {error}") from error
    frames = [frame for frame in frames if len(frame)] or frames[:1]
    together = pd.concat(frames, ignore_index=True)
    return together.sort_values("object_id", ignore_index=True) if len(together) else together


def write_polygons(
    frame: GeoDataFrame, path: Path, layer: str, driver: str, **options: Any
) -> None:
    """Hand features to GDAL. Raises what pyogrio raises."""
    with warnings.catch_warnings():
        # A picture without a place on the ground has no CRS, and the user knows.
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.write_dataframe(
            frame,
            path,
            layer=layer,
            driver=driver,
            geometry_type="Polygon",
            promote_to_multi=False,
            **options,
        )


class Layers:
    """A GeoPackage under construction: a layer per class, in the order of their first features.

    A table layer_styles gives QGIS the classes' colors, and names and units of fields. Used as a
    context: the file appears at `path` once the context is left in peace, in place of one that was
    there. Raises OutputError where it cannot be written.
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
        self._partial = path.with_name(f".{path.name}.partial.gpkg")
        self._colors = {label.name: label.color for label in classes}
        self._nothing = nothing
        self._metadata = dict(metadata or {})

    def append(self, frame: GeoDataFrame) -> None:
        """Add features, all of one class."""
        layer = frame["class"].iloc[0]
        with self._failures():
            self._write(frame, layer)
        self.counts[layer] = self.counts.get(layer, 0) + len(frame)

    def _write(self, frame: GeoDataFrame, layer: str) -> None:
        with _without_waiting():
            write_polygons(
                frame,
                self._partial,
                layer,
                "GPKG",
                append=bool(self.counts),
                VERSION="1.3",  # what GDAL 3.3 to 3.6, and QGIS with them, know
                dataset_metadata=self._metadata,
                layer_metadata=self._metadata,
            )

    def __enter__(self) -> Layers:
        with self._failures():
            self._partial.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._failures():
            try:
                if kind is None:
                    if not self.counts:  # a GeoPackage needs a layer to be one
                        self._write(self._nothing, NO_OBJECTS)
                    unit = "px" if self._nothing.crs is None else "m"
                    _add_styles(
                        self._partial,
                        {
                            name: layer_qml(self._colors.get(name, _GRAY), unit=unit)
                            for name in self.counts or [NO_OBJECTS]
                        },
                    )
                    put_in_place(self._partial, self.path)
            finally:
                self._partial.unlink(missing_ok=True)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, DataSourceError, DataLayerError) as error:
            raise OutputError(f"{self.path} cannot be written: {error}") from error


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Let GDAL neither wait for the disk at every step, for `put_in_place` does in the end, nor be
    ready to take steps back: a file that was not completed is removed."""
    options = {"OGR_SQLITE_SYNCHRONOUS": "OFF", "OGR_SQLITE_JOURNAL": "OFF"}
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


def _add_styles(path: Path, styles: Mapping[str, str]) -> None:
    """Of layers by name."""
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
            [(name, name, style, f"geoseg: {name}") for name, style in styles.items()],
        )
