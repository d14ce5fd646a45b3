"""Functions on results: report, count, derive, sample, accuracy, decode, change, suggest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.analysis.accuracy import Accuracy, estimate
from geoseg.analysis.allocation import Allocation
from geoseg.analysis.change import Changes, find_changes
from geoseg.analysis.counts import count as count_objects
from geoseg.analysis.derived import derive as derive_layers
from geoseg.analysis.report.from_layers import write_report
from geoseg.analysis.sample_points import read_points
from geoseg.analysis.sampling import Drawn, draw_sample
from geoseg.analysis.suggest import Suggested, suggest_tiles
from geoseg.api.messages import python_messages
from geoseg.api.progress import Progress, reporting
from geoseg.errors import OptionError
from geoseg.pipeline.decode import Redecoded, decode_logits
from geoseg.pipeline.options import OutputOptions

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

AnyPath = str | Path


@python_messages
def report(
    layers: AnyPath,
    *,
    out: AnyPath | None = None,
    scene: AnyPath | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a report on results as one HTML file that works offline; return its path.

    >>> geoseg.report("results/scene.gpkg", out="report.html")

    Args:
        layers: GeoPackage of `predict` or `vectorize`, edited or not.
        out: file to write; None = the name of `layers`, .report.html, in the current folder.
        scene: the scene; None = as `layers` records.

    Raises:
        DataError, OutputError, SceneError, OptionError: as `write_report` does.
    """
    path = Path(f"{Path(layers).stem}.report.html") if out is None else Path(out)
    given = None if scene is None else str(scene)
    write_report(Path(layers), path, scene_path=given, overwrite=overwrite)
    return path


@python_messages
def count(
    layers: AnyPath,
    units: AnyPath | None = None,
    *,
    out: AnyPath = "counts.gpkg",
    grid: str | None = None,
    layer: str | None = None,
    only: str | Sequence[str] = (),
    overwrite: bool = False,
) -> GeoDataFrame:
    """Count the objects in polygons or in a grid; return the table that is written.

    >>> geoseg.count("results/scene.gpkg", "districts.gpkg")["small_vehicle_count"].sum()
    >>> geoseg.count("results/scene.gpkg", grid="500m", out="squares.gpkg").plot("objects")

    Args:
        layers: GeoPackage of `predict` or `vectorize`, edited or not.
        units: polygons of any vector file.
        out: GeoPackage to write.
        grid: instead of units, squares of a side such as 500m or 2km, or h3:N.
        layer: layer of `units`; None = the only one.
        only: layers or classes to count.

    Returns:
        The units with their fields, CLASS_count and CLASS_area_m2 of each class, objects and
        area_m2.

    Raises:
        DataError, OptionError, OutputError: as `geoseg.analysis.counts.count` does.
    """
    return count_objects(
        Path(layers),
        Path(out),
        units=None if units is None else Path(units),
        grid=grid,
        layer=layer,
        classes=_names(only),
        overwrite=overwrite,
    )


@python_messages
def derive(
    objects: AnyPath,
    *,
    out: AnyPath = "derived.gpkg",
    layers: str | Sequence[str] = ("centroids", "boxes"),
    only: str | Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, int]:
    """Write points, boxes or a heat map of the objects; return the features of each layer.

    >>> geoseg.derive("results/scene.gpkg", layers=["centroids", "heatmap"])

    Args:
        objects: GeoPackage of `predict` or `vectorize`, edited or not.
        out: GeoPackage to write.
        layers: which to write of centroids, boxes and heatmap.
        only: layers or classes of the objects.

    Raises:
        DataError, OptionError, OutputError: as `geoseg.analysis.derived.derive` does.
    """
    return derive_layers(
        Path(objects), Path(out), layers=_names(layers), classes=_names(only), overwrite=overwrite
    )


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


@python_messages
def sample(
    classes: AnyPath,
    *,
    out: AnyPath = "sample.gpkg",
    size: int | None = None,
    standard_error: float = 0.01,
    expect: Mapping[str, float] | None = None,
    allocation: Allocation = "proportional",
    min_per_class: int = 50,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = None,
) -> Drawn:
    """Draw a stratified random sample of a class raster, as points to be labeled in QGIS.

    >>> geoseg.sample("results/scene.classes.tif", size=500)

    Args:
        out: GeoPackage to write.
        size: number of points; None = as many as `standard_error` takes.
        standard_error: wanted for the overall accuracy.
        expect: user's accuracy that classes are expected to have; 0.85 for others.
        allocation: proportional, neyman or equal.
        min_per_class: least points of a class.
        seed: another one draws another sample.

    Raises:
        DataError, OptionError, OutputError, SceneError: as `draw_sample` does.
    """
    with reporting(progress, "count", "px") as advance:
        return draw_sample(
            Path(classes),
            Path(out),
            size=size,
            standard_error=standard_error,
            allocation=allocation,
            users_accuracy=expect,
            minimum=min_per_class,
            seed=seed,
            overwrite=overwrite,
            progress=advance,
        )


@python_messages
def accuracy(
    points: AnyPath,
    *,
    reference: str = "reference",
    stratum: str = "stratum",
    map_field: str | None = None,
    map: AnyPath | None = None,
    strata: AnyPath | None = None,
) -> Accuracy:
    """Estimate the accuracy of a map, and the shares of its classes, from a labeled sample.

    >>> found = geoseg.accuracy("sample.gpkg")
    >>> found.overall.value, found.overall.half_width

    Args:
        points: a sample of `sample`, labeled.
        reference: field with the class on the ground.
        stratum: field with the stratum.
        map_field: field with the class on the map; None = the stratum.
        map: another class raster to judge by the same points.
        strata: CSV with the columns stratum and pixels; None = as `sample` recorded.

    Raises:
        DataError, SceneError: as `read_points` and `estimate` do.
    """
    if map_field is not None and map is not None:
        raise OptionError("map and map_field are both given; leave one out")
    labeled = read_points(
        Path(points),
        reference=reference,
        stratum=stratum,
        map_field=map_field,
        map_raster=None if map is None else Path(map),
        strata=None if strata is None else Path(strata),
    )
    return estimate(labeled.sample, labeled.classes)


@python_messages
def decode(
    logits: AnyPath,
    *,
    out: AnyPath = ".",
    classes: str | Sequence[str] = (),
    formats: str | Sequence[str] = ("gpkg",),
    simplify: float | None = None,
    smooth: bool = True,
    min_area: float | None = None,
    min_confidence: float | Mapping[str, float] | None = None,
    split: Sequence[str] | None = None,
    confidence: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> Redecoded:
    """Make class raster and polygons of kept logits again, without the model and the scene.

    >>> geoseg.decode("results/scene.logits.zarr", out="ships", classes="ship")

    Args:
        logits: what `predict` wrote with `logits=True`.
        out: folder of the results.
        classes: decide between these and background only.
        formats, simplify, smooth, min_area, split, confidence: as for `predict`.

    Raises:
        DataError, OptionError, OutputError: as `decode_logits` does.
    """
    kinds = (formats,) if isinstance(formats, str) else tuple(formats)
    only = (classes,) if isinstance(classes, str) else classes
    wanted = OutputOptions(
        Path(out),
        formats=kinds,
        confidence=confidence,
        overwrite=overwrite,
        simplify=simplify,
        smooth=smooth,
        min_area=min_area,
        min_confidence=min_confidence,
        split=None if split is None else tuple(split),
    )
    with reporting(progress, Path(logits).name, "px") as advance:
        return decode_logits(Path(logits), wanted, only=only, workers=workers, progress=advance)


@python_messages
def change(
    old: AnyPath,
    new: AnyPath,
    *,
    out: AnyPath = "change.gpkg",
    max_shift: float = 10.0,
    tolerance: float | None = None,
    min_iou: float = 0.5,
    min_confidence: float = 0.0,
    unchanged: bool = False,
    overwrite: bool = False,
) -> Changes:
    """Compare the results of two dates: which objects are new, gone or changed.

    >>> geoseg.change("2023/town.gpkg", "2025/town.gpkg").counts

    Args:
        out: GeoPackage to write.
        max_shift: greatest shift between the two flights to look for, m.
        tolerance: meters that an object may be off after that; None = as the pairs show.
        min_iou: least intersection over union of an object that is the same.
        min_confidence: objects of a lower confidence at both dates are left out.
        unchanged: also write objects that are the same.

    Raises:
        DataError, OptionError, OutputError: as `find_changes` does.
    """
    return find_changes(
        Path(old),
        Path(new),
        Path(out),
        min_iou=min_iou,
        max_shift=max_shift,
        tolerance=tolerance,
        min_confidence=min_confidence,
        unchanged=unchanged,
        overwrite=overwrite,
    )


@python_messages
def suggest(
    kept: AnyPath,
    *,
    out: AnyPath = "suggested.gpkg",
    count: int = 20,
    size: int = 512,
    labeled: AnyPath | None = None,
    overwrite: bool = False,
) -> Suggested:
    """Write the tiles of a scene that are most useful to label next.

    >>> geoseg.suggest("results/scene.logits.zarr", count=10)

    Args:
        kept: logits or raster of confidence that `predict` kept.
        out: GeoPackage to write.
        count: number of tiles.
        size: side of a tile, px of the scene.
        labeled: polygons of what is labeled already.

    Raises:
        DataError, OptionError, OutputError, SceneError: as `suggest_tiles` does.
    """
    return suggest_tiles(
        Path(kept),
        Path(out),
        count=count,
        size=size,
        labeled=None if labeled is None else Path(labeled),
        overwrite=overwrite,
    )
