"""A GeoPackage of features: a layer per class, styled and described."""

from __future__ import annotations

import os
import re
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
from geopandas import GeoDataFrame
from pyogrio.errors import DataLayerError, DataSourceError

from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.geo.styles import TABLE, qml

_ADDRESS = re.compile(r"[!;?\t\r\n]|^[^/]*:" + ("" if os.name == "nt" else r"|\\"))
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


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """Another path to a file that is about to be written, which pyogrio leaves as it is.

    pyogrio reads paths as addresses, in which `!`, `;`, `?` and `:` mean something and line breaks
    nothing; to GDAL a backslash separates folders. Where there is one, the file is written through
    a link to its folder and gets its name in the end, with the files that GDAL puts beside it.
    Raises OSError.
    """
    if not _ADDRESS.search(str(path.absolute())):
        yield path.absolute()
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as links:
        link = Path(links) / "folder"
        link.symlink_to(path.parent.absolute(), target_is_directory=True)
        stem = token_hex(8)
        try:
            yield link / f"{stem}{path.suffix}"
        finally:
            for part in path.parent.iterdir():
                if part.name.startswith(stem):
                    part.replace(path.with_name(path.stem + part.name.removeprefix(stem)))


def write_polygons(
    frame: GeoDataFrame, path: Path, layer: str, driver: str, **options: Any
) -> None:
    """Hand features to GDAL. Raises what pyogrio raises, and OSError."""
    with warnings.catch_warnings(), plain_path(path) as plain:
        # A picture without a place on the ground has no CRS, and the user knows.
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.write_dataframe(
            frame,
            plain,
            layer=layer,
            driver=driver,
            geometry_type="Polygon",
            promote_to_multi=False,
            **options,
        )


class Layers:
    """A GeoPackage under construction: a layer per class, in the order of their first features.

    A table layer_styles gives QGIS the classes' colours. A context: once it is left without an
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
        self._colors = {label.name: label.color for label in classes}
        self._metadata = dict(metadata or {})

    def append(self, frame: GeoDataFrame) -> None:
        """Add features, all of one class."""
        layer = frame["class"].iloc[0]
        with self._failures(), _without_waiting():
            write_polygons(
                frame,
                self._plain,
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
            with ExitStack() as opening:
                self._plain = opening.enter_context(plain_path(self.path))
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
                if not self.counts:
                    self._write_nothing()
                colors = [(name, self._colors.get(name, _GREY)) for name in self.counts]
                _add_styles(self._plain, colors)
                _verify(self._plain, self.counts)

    def _write_nothing(self) -> None:
        """A GeoPackage needs a layer to be one."""
        pyogrio.write_dataframe(
            GeoDataFrame({"class": np.zeros(0, str)}, geometry=[], crs="EPSG:4326"),
            self._plain,
            layer="objects",
            driver="GPKG",
            geometry_type="Polygon",
            dataset_metadata=self._metadata,
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, DataSourceError, DataLayerError) as error:
            raise OutputError(f"{self.path} cannot be written: {error}") from error


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


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Let GDAL neither wait for the disk at every step, for `Staging` does in the end, nor be
    ready to take steps back: a file that was not completed is removed."""
    options = {"OGR_SQLITE_SYNCHRONOUS": "OFF", "OGR_SQLITE_JOURNAL": "OFF"}
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


def _add_styles(path: Path, layers: list[tuple[str, tuple[int, int, int]]]) -> None:
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
            [(name, name, qml(name, color), f"geoseg: {name}") for name, color in layers],
        )
