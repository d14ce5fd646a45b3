"""Export features to other vector formats, from a GeoPackage or from a prediction."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyogrio
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS

from geoseg.atomic import Staging, companions
from geoseg.classes import Color, LabelClass, class_color
from geoseg.errors import DataError, OutputError
from geoseg.geo.failures import vector_errors
from geoseg.geo.gdal_settings import READING, vector_settings
from geoseg.geo.layers.edited import FIELDS, layer_names, read_edited
from geoseg.geo.layers.filters import ByClass, Selection, check_confidence, wanted_features
from geoseg.geo.layers.formats import FORMATS, Format, check_installed
from geoseg.geo.layers.geopackage import NO_OBJECTS
from geoseg.geo.layers.measure import measure
from geoseg.geo.layers.names import LayerNames, clean_name, distinct_names
from geoseg.geo.paths import vector_path
from geoseg.geo.raster.files import vector_files
from geoseg.geo.reproject import check_target_crs, to_output_crs
from geoseg.geo.styles import layer_qml
from geoseg.guard import check_outputs

_WGS84 = "EPSG:4326"
_LOG = logging.getLogger("geoseg")


@dataclass(frozen=True, slots=True)
class Grouping:
    """The layers of N features, and their colors and styles."""

    layers: NDArray[np.object_]
    """(N,) names, distinct and usable in file names."""
    colors: Mapping[str, Color]
    """Color by layer."""
    styles: Mapping[str, str] = field(default_factory=dict)
    """Stored QML by layer; layers without one get a style in their color."""

    @classmethod
    def by_class(cls, frame: GeoDataFrame, classes: Sequence[LabelClass]) -> Grouping:
        """Group features as `GeoPackageWriter` does."""
        names, known = LayerNames(classes), {label.id: label.color for label in classes}
        pairs = frame[["class_id", "class"]].drop_duplicates().itertuples(index=False, name=None)
        layer_of = {int(i): names.of(int(i), name) for i, name in pairs}
        layers = np.array([layer_of[int(i)] for i in frame["class_id"]], dtype=object)
        return cls(layers, {name: known.get(i, class_color(i)) for i, name in layer_of.items()})


def export(
    path: Path,
    folder: Path,
    kind: str,
    *,
    target_crs: str | None = None,
    layers: Collection[str] = (),
    selection: Selection | None = None,
    min_confidence: ByClass | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the features of a GeoPackage, or of some of its `layers`, in another format.

    The file may have been edited or come from another program: see `read_edited`. Sizes are
    measured again. All files appear at once. If all layers are exported, files of an earlier
    export are removed for layers that no longer exist. Returns the files, without sidecars; see
    `write_format`.

    Args:
        selection, min_confidence: the features that are written, by their sizes as measured; see
            `wanted_features`.

    Raises:
        DataError: the file has no such layer, or none with polygons.
        OptionError: the format does not allow the CRS, a result would replace the file itself, a
            class does not exist, or a package is not installed.
        OutputError: the file cannot be read, or a result exists or cannot be written.
    """
    check_installed(kind)
    check_target_crs(kind, target_crs, wgs84=FORMATS[kind].wgs84)
    check_confidence(min_confidence)
    selection = selection or Selection()
    names = layer_names(path)
    if not names:
        raise DataError(f"{path} has no layer of polygons")
    files = dict(zip(names, distinct_names(names), strict=True))
    chosen = [files[name] for name in names if not layers or name in layers]
    planned = planned_files(folder, path.stem, kind, chosen)
    partial = bool(layers or selection.only)
    earlier = [] if partial else earlier_files(folder, path.stem, kind, chosen)
    masks = vector_files(Path(selection.mask_out)) if selection.mask_out else []
    inputs = [each for file in (*vector_files(path), *masks) for each in (file, *companions(file))]
    check_outputs(planned, inputs, overwrite=overwrite, obsolete=earlier)
    edited = read_edited(path, layers)
    for note in edited.notes:
        _LOG.warning("%s", note)
    frame = measured(edited.features, str(path))
    wanted = wanted_features(frame, selection, min_confidence)
    if not wanted.any():
        where = "" if frame.empty and not layers else " of this choice"
        _LOG.warning("%s has no polygons%s", path, where)
    frame = frame[wanted].reset_index(drop=True)
    grouping = Grouping(
        np.array([files[name] for name in edited.layers[wanted]], dtype=object),
        {files[name]: color for name, color in edited.colors.items()},
        {files[name]: style for name, style in edited.styles.items()},
    )
    fmt = FORMATS[kind]
    if fmt.per_class:  # `layers` may have named classes, not layers
        planned = planned_files(folder, path.stem, kind, [*dict.fromkeys(grouping.layers)])
        check_outputs(planned, inputs, overwrite=overwrite)
    obsolete = [*earlier, *planned_files(folder, path.stem, kind, [] if partial else chosen)]
    with Staging(folder, f"{path.stem}{fmt.suffix}", obsolete=obsolete) as staging:
        with vector_errors(f"{path} cannot go to {target_crs or _WGS84}", DataError):
            frame = to_output_crs(frame, kind, target_crs, wgs84=fmt.wgs84, prj=fmt.prj)
        done = _write(frame, grouping, staging.new, path.stem, fmt)
    return [folder / file.name for file in done]


def measured(frame: GeoDataFrame, what: str) -> GeoDataFrame:
    """Return `frame` with the current sizes of its polygons.

    Raises DataError that begins with `what`.
    """
    if frame.empty:
        return frame
    with vector_errors(f"{what}: the polygons cannot be measured", DataError):
        crs = None if frame.crs is None else CRS.from_wkt(frame.crs.to_wkt())
        sizes = measure(np.asarray(frame.geometry.values, dtype=object), crs)
    return frame.assign(
        area_m2=sizes.area, length_m=sizes.length, width_m=sizes.width, angle_deg=sizes.angle
    )


def write_format(
    frame: GeoDataFrame,
    folder: Path,
    stem: str,
    kind: str,
    classes: Sequence[LabelClass] = (),
) -> list[Path]:
    """Write features as `<stem>.<suffix>`, or as `<stem>_<layer>.<suffix>` for each class.

    The folder is created if needed, and must not have such files; see `Staging`. Layers have the
    same names as in a GeoPackage of these `classes`. Returns the files, without sidecars. Raises
    DataError or OutputError.
    """
    fmt, grouping = FORMATS[kind], Grouping.by_class(frame, classes)
    with vector_errors(f"{stem} cannot go to {_WGS84}", DataError):
        frame = to_output_crs(frame, kind, None, wgs84=fmt.wgs84, prj=fmt.prj)
    with vector_errors(f"{folder} cannot be written", OutputError):
        folder.mkdir(parents=True, exist_ok=True)
    return _write(frame, grouping, folder, stem, fmt)


def planned_files(folder: Path, stem: str, kind: str, layers: Iterable[str]) -> list[Path]:
    """Return the files, without sidecars, that layers of these names become."""
    fmt = FORMATS[kind]
    if fmt.per_class:
        return [folder / f"{stem}_{layer}{fmt.suffix}" for layer in layers]
    return [folder / f"{stem}{fmt.suffix}"]


def earlier_files(folder: Path, stem: str, kind: str, layers: Collection[str]) -> list[Path]:
    """Return files of an earlier run with this `stem` whose classes are not among `layers`.

    They are recognized by their content: geoseg's fields, and a first feature of the class in the
    file name. So neither `tile_2_ship.shp` of a scene tile_2 nor a user's `tile_roads.shp` counts
    as a file of a scene called tile.
    """
    fmt = FORMATS[kind]
    if not (fmt.per_class and folder.is_dir()):
        return []
    planned = {*planned_files(folder, stem, kind, layers)}
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix == fmt.suffix and path.name.startswith(f"{stem}_")
    ]
    return [
        path
        for path in found
        if path not in planned and _stored_class(path) == path.stem[len(stem) + 1 :]
    ]


def _stored_class(path: Path) -> str | None:
    """Return the layer name of the first feature's class; None if geoseg did not write the file."""
    try:
        with vector_settings(READING):
            source = vector_path(path)
            if not {*FIELDS} <= {*pyogrio.read_info(source)["fields"]}:
                return None
            first = pyogrio.read_dataframe(
                source, columns=["class"], max_features=1, read_geometry=False
            )
    except (OSError, DataSourceError, DataLayerError):
        return None  # unreadable, so not known to be geoseg's
    return clean_name(str(first["class"].iloc[0])) if len(first) else None


def _write(
    frame: GeoDataFrame, grouping: Grouping, folder: Path, stem: str, fmt: Format
) -> list[Path]:
    """Write the files into `folder`, which has none of them."""
    for note in fmt.losses(frame):
        _LOG.warning("%s: %s", stem, note)
    groups: dict[str, NDArray[np.bool_]] = {stem: np.ones(len(frame), bool)}
    qml: dict[str, str] = {}
    if fmt.per_class:
        names = [*dict.fromkeys(grouping.layers)] or [NO_OBJECTS]
        groups = {f"{stem}_{name}": grouping.layers == name for name in names}
        unit = "px" if frame.crs is None else "m"
        qml = {
            f"{stem}_{layer}": grouping.styles.get(layer) or layer_qml(color, unit=unit)
            for layer, color in grouping.colors.items()
        }
    paths = []
    for name, rows in groups.items():
        path = folder / f"{name}{fmt.suffix}"
        with vector_errors(f"{path.name} cannot be written", OutputError):
            fmt.write(frame[rows], path, clean_name(name))
            if fmt.color is not None:
                fmt.color(path, [grouping.colors[layer] for layer in grouping.layers[rows]])
            if name in qml:  # QGIS loads it with the file
                path.with_name(f"{name}.qml").write_text(qml[name], encoding="utf-8")
        paths.append(path)
    return paths
