"""Read a GeoPackage that people may have edited: redrawn, merged, with layers of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from geoseg.classes import Color, class_color
from geoseg.errors import DataError, OutputError
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import READING, vector_settings
from geoseg.geo.paths import vector_path
from geoseg.geo.reproject import reproject
from geoseg.geo.styles import fill_color

FIELDS = {
    "object_id": "int64",
    "class_id": "int32",
    "class": "str",
    "area_m2": "float64",
    "confidence": "float64",
    "length_m": "float64",
    "width_m": "float64",
    "angle_deg": "float64",
}
"""Fields of every layer that geoseg writes, and their types."""
_POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@dataclass(frozen=True, slots=True)
class EditedLayers:
    """The polygons of a file, in one CRS."""

    features: GeoDataFrame
    """N rows in the order of object_id: `FIELDS`, then other fields. Sizes are those in the
    file."""
    layers: NDArray[np.object_]
    """(N,) layer of each feature."""
    styles: dict[str, str]
    """QML by layer, for those with a style in the file; it may have been edited in QGIS."""
    colors: dict[str, Color]
    """Color by layer: that of its style, else of its class."""
    notes: tuple[str, ...]
    """Changes to the features, and what was left out; one sentence each."""


def layer_names(path: Path) -> list[str]:
    """Return the layers with geometry. Raises OutputError if the file cannot be read."""
    with vector_errors(f"{path} cannot be read", OutputError), vector_settings(READING):
        return [str(name) for name, kind in pyogrio.list_layers(vector_path(path)) if kind]


def read_edited(path: Path, wanted: Collection[str] = ()) -> EditedLayers:
    """Read the polygons of a GeoPackage of geoseg, or of any vector file.

    Polygons without a class, such as new ones, get that of their layer, or else the layer's name.
    Polygons without an object_id, and those that share one, get a new one. Curves are densified,
    z and m dropped, invalid polygons repaired, and other geometry is left out.

    Args:
        wanted: layers, or classes; empty = all.

    Raises:
        OutputError: the file cannot be read.
        DataError: a wanted layer is missing, or only some layers have a CRS.
    """
    names, notes = layer_names(path), list[str]()
    frames = {name: _valid_polygons(_read(path, name), name, notes) for name in names}
    classes = {name: _class_of(frame, name) for name, frame in frames.items()}
    known = {*frames, *(name for name, _ in classes.values())}
    if missing := [each for each in wanted if each not in known]:
        raise DataError(f"{path} has no layer {missing[0]}; it has {', '.join(names) or 'none'}")
    if wanted:
        kept = [name for name in names if name in wanted or classes[name][0] in wanted]
        frames = {name: frames[name] for name in kept}
    full = {
        name: _fill_class(frame, *classes[name]) for name, frame in frames.items() if len(frame)
    }
    if not full and frames:
        full = {name: _standard(frame) for name, frame in [*frames.items()][:1]}
    full = _in_one_crs(path, full, notes)
    _fill_ids(full, notes)
    features = pd.concat([*full.values()] or [_standard(GeoDataFrame(geometry=[]))])
    layers = np.repeat([*full], [len(frame) for frame in full.values()]).astype(object)
    order = np.argsort(features["object_id"].to_numpy("int64"), kind="stable")
    stored = _stored_styles(path)
    styles = {name: stored[name] for name in full if name in stored}
    return EditedLayers(
        features=features.iloc[order].reset_index(drop=True),
        layers=layers[order],
        styles=styles,
        colors={
            name: fill_color(styles.get(name, "")) or class_color(_highest_class(frame))
            for name, frame in full.items()
        },
        notes=tuple(f"{path}: {note}" for note in notes),
    )


def _read(path: Path, layer: str) -> GeoDataFrame:
    what = f"{path}, layer {layer}, cannot be read"
    with vector_errors(what, OutputError), vector_settings(READING):
        # Shapely has neither TIN nor triangles: they become None, and are counted as no polygons.
        return pyogrio.read_dataframe(vector_path(path), layer=layer, on_invalid="ignore")


def _valid_polygons(frame: GeoDataFrame, layer: str, notes: list[str]) -> GeoDataFrame:
    """Return valid, two-dimensional (multi)polygons with an area."""
    with vector_errors(f"layer {layer} holds geometry that cannot be used", DataError):
        shapes = np.asarray(frame.geometry.values, dtype=object)
        polygonal = np.isin(shapely.get_type_id(shapes), _POLYGONAL) & ~shapely.is_empty(shapes)
        flat = shapely.force_2d(shapes)
        broken = polygonal & ~shapely.is_valid(flat)
        flat[broken] = shapely.make_valid(flat[broken], method="structure", keep_collapsed=False)
        polygonal &= shapely.area(flat) > 0
        heights = int((polygonal & shapely.has_z(shapes)).sum())
    for count, what in (
        (int((~polygonal).sum()), "hold no polygon and were left out"),
        (int((polygonal & broken).sum()), "crossed themselves and were repaired"),
        (heights, "had heights, which were dropped"),
    ):
        if count:
            notes.append(f"{count} of {len(frame)} features of layer {layer} {what}")
    return frame.set_geometry(flat, crs=frame.crs)[polygonal].reset_index(drop=True)


def _class_of(frame: GeoDataFrame, layer: str) -> tuple[str, int | None]:
    """Return the class, and its id, of a layer: those of its features if all are the same."""
    names = _texts(frame, "class").dropna().unique()
    ids = _integers(frame, "class_id").dropna().unique()
    return (
        str(names[0]) if len(names) == 1 else layer,
        int(ids[0]) if len(ids) == 1 else None,
    )


def _fill_class(frame: GeoDataFrame, name: str, class_id: int | None) -> GeoDataFrame:
    frame = _standard(frame)
    is_layer_class = frame["class"].isna() | (frame["class"] == name)
    ids = frame["class_id"]
    if class_id is not None:
        ids = ids.mask(ids.isna() & is_layer_class, class_id)
    return frame.assign(**{"class": frame["class"].fillna(name).astype("str"), "class_id": ids})


def _standard(frame: GeoDataFrame) -> GeoDataFrame:
    """Return all of `FIELDS`, in their types, followed by other fields.

    A field of the same name with values of another type is kept as <name>_2.
    """
    read = {"str": _texts, "int64": _integers, "int32": _integers, "float64": _numbers}
    ours = {field: read[dtype](frame, field) for field, dtype in FIELDS.items()}
    others = frame.drop(columns=[*FIELDS, frame.geometry.name], errors="ignore")
    mistyped = {
        f"{field}_2": frame[field]
        for field, column in ours.items()
        if field in frame and (column.isna() & _texts(frame, field).notna()).any()
    }
    table = pd.concat([pd.DataFrame(ours, index=frame.index), others.assign(**mistyped)], axis=1)
    return GeoDataFrame(table, geometry=frame.geometry.array, crs=frame.crs)


def _texts(frame: GeoDataFrame, field: str) -> pd.Series[Any]:
    """Return a field as text; blank texts are missing values."""
    if field not in frame:
        return pd.Series(None, index=frame.index, dtype="object")
    column = frame[field]
    is_exact = pd.api.types.is_float_dtype(column) and column.dropna().abs().lt(2**53).all()
    if is_exact and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")  # integers, which are read as floats if some are missing
    texts = column.astype("str")
    return texts.where(column.notna() & (texts.str.strip() != ""))


def _numbers(frame: GeoDataFrame, field: str) -> pd.Series[Any]:
    column = frame[field] if field in frame else pd.Series(np.nan, index=frame.index)
    return pd.to_numeric(column, errors="coerce").astype("float64")


def _integers(frame: GeoDataFrame, field: str) -> pd.Series[Any]:
    if field in frame and pd.api.types.is_signed_integer_dtype(frame[field]):
        return frame[field].astype("Int64")  # floats cannot represent large ones
    numbers = _numbers(frame, field)
    return numbers.where((numbers % 1 == 0) & (numbers.abs() < 2**53)).astype("Int64")


def _in_one_crs(
    path: Path, frames: dict[str, GeoDataFrame], notes: list[str]
) -> dict[str, GeoDataFrame]:
    """Reproject all layers to the CRS of the first one with a class_id, or else of the first."""
    if not frames:
        return frames
    leading = next((n for n, frame in frames.items() if frame["class_id"].notna().any()), None)
    leading = leading or next(iter(frames))
    crs = frames[leading].crs
    reprojected = {}
    for name, frame in frames.items():
        if (frame.crs is None) != (crs is None):
            bare, other = (name, leading) if frame.crs is None else (leading, name)
            raise DataError(
                f"{path}: layer {bare} has no coordinate reference system, but layer {other} has "
                f"one; choose layers that go together (--layer)"
            )
        reprojected[name] = frame
        if frame.crs is not None and crs is not None and frame.crs != crs:
            with vector_errors(f"{path}: layer {name} cannot go to {crs.name}", DataError):
                reprojected[name] = reproject(frame, crs, f"{path}: layer {name}")
            notes.append(f"layer {name} was reprojected to {crs.name}, that of layer {leading}")
    return reprojected


def _fill_ids(frames: dict[str, GeoDataFrame], notes: list[str]) -> None:
    """Assign an object_id to features without one or with that of an earlier feature."""
    if not frames:
        return
    ids = pd.concat([frame["object_id"] for frame in frames.values()], ignore_index=True)
    new: NDArray[np.bool_] = (ids.isna() | ids.duplicated()).to_numpy(bool)
    last = int(ids.max()) if ids.notna().any() else 0
    ids[new] = np.arange(last + 1, last + 1 + int(new.sum()))
    counts = [len(frame) for frame in frames.values()]
    parts = np.split(ids.to_numpy("int64"), np.cumsum(counts)[:-1])
    for (name, frame), numbers in zip(frames.items(), parts, strict=True):
        is_complete = frame["class_id"].notna().all()
        class_ids = frame["class_id"].astype("int64" if is_complete else "Int64")
        frames[name] = frame.assign(object_id=numbers, class_id=class_ids)
    if new.any():
        notes.append(f"{int(new.sum())} features had no object_id of their own and got new ones")


def _highest_class(frame: GeoDataFrame) -> int:
    return int(frame["class_id"].fillna(0).max()) if len(frame) else 0


def _stored_styles(path: Path) -> dict[str, str]:
    """Return QML by layer, from the table layer_styles."""
    with vector_errors(f"{path} cannot be read", OutputError), vector_settings(READING):
        source = vector_path(path)
        if "layer_styles" not in pyogrio.list_layers(source)[:, 0]:
            return {}
        table = pyogrio.read_dataframe(source, layer="layer_styles", read_geometry=False)
    if not {"f_table_name", "styleQML", "useAsDefault"} <= {*table.columns}:
        return {}
    table = table.sort_values("useAsDefault", kind="stable", na_position="first")
    table = table.dropna(subset=["styleQML"])
    return dict(zip(table["f_table_name"].astype("str"), table["styleQML"], strict=True))
