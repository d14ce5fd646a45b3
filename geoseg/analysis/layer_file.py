"""GeoPackages of one styled layer, the results of analyses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyogrio
from geopandas import GeoDataFrame

from geoseg.atomic import Staging
from geoseg.errors import DataError, OptionError, OutputError
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import READING, WRITING, vector_settings
from geoseg.geo.layers.geopackage import add_styles
from geoseg.geo.paths import vector_path
from geoseg.guard import check_outputs
from geoseg.version import VERSION


def check_layer_file(path: Path, inputs: Iterable[str | Path], *, overwrite: bool) -> None:
    """Check, before any work, that a layer can be written to `path`.

    Raises OptionError and OutputError.
    """
    if path.suffix.lower() != ".gpkg":
        raise OptionError(f"-o {path}: a GeoPackage is written; give a name that ends in .gpkg")
    check_outputs([path], inputs, overwrite=overwrite)


def write_layer(
    path: Path,
    frame: GeoDataFrame,
    layer: str,
    geometry: str,
    qml: str,
    metadata: Mapping[str, Any],
) -> None:
    """Write features as the only layer of a GeoPackage, complete or not at all.

    Args:
        geometry: type of the layer, such as "Point".
        metadata: what the file records of its origin; values that are not text become JSON.

    Raises OutputError.
    """
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    texts |= {"geoseg": VERSION, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    with Staging(path.parent, path.name) as staging, _errors(path):
        new = staging.new / path.name
        with vector_settings(WRITING):
            pyogrio.write_dataframe(
                frame,
                vector_path(new),
                layer=layer,
                driver="GPKG",
                geometry_type=geometry,
                promote_to_multi=geometry.startswith("Multi"),
                VERSION="1.3",
                dataset_metadata=texts,
                layer_metadata=texts,
            )
        add_styles(new, {layer: (layer, qml)})


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a vector file records of its origin; empty if nothing. Raises DataError."""
    with vector_errors(f"{path} cannot be read", DataError), vector_settings(READING):
        source = vector_path(path)
        first = str(pyogrio.list_layers(source)[0, 0])
        return dict(pyogrio.read_info(source, layer=first).get("dataset_metadata") or {})


def _errors(path: Path) -> AbstractContextManager[None]:
    return vector_errors(f"{path} cannot be written", OutputError)
