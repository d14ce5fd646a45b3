"""Functions on scenes and layers: predict, vectorize, export, score_objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geoseg.api.messages import python_messages
from geoseg.api.models import ready_model
from geoseg.api.prediction import Prediction, ScratchFolder
from geoseg.api.progress import Progress, reporting
from geoseg.classes import read_class_list
from geoseg.errors import OptionError
from geoseg.geo.layers.export import export as export_layers
from geoseg.geo.layers.filters import ByClass, Selection
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.object_scores import ObjectScore
from geoseg.geo.layers.object_scores import score_objects as score_layers
from geoseg.geo.layers.regular import Forms
from geoseg.geo.raster.address import scene_stem
from geoseg.model.devices import Precision
from geoseg.model.engines.backends import BackendOption
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import (
    ComputeOptions,
    OutputOptions,
    PredictOptions,
    SceneOptions,
    TilingOptions,
)
from geoseg.pipeline.predict import predict as predict_scene
from geoseg.pipeline.summary import Summary
from geoseg.pipeline.vectorize import Vectorized
from geoseg.pipeline.vectorize import vectorize as vectorize_raster
from geoseg.tiling.grid import OVERLAP, TILE_SIZE

if TYPE_CHECKING:
    from torch import nn

AnyPath = str | Path
Bounds = tuple[float, float, float, float]


@python_messages
def predict(
    scene: AnyPath | Sequence[AnyPath], *, out: AnyPath | None = None,
    weights: AnyPath | None = None, model: TileModel | nn.Module | None = None,
    device: str = "auto", precision: Precision = "auto", backend: BackendOption = "auto",
    batch_size: int | None = None, tta: bool = False,
    tile_size: int = TILE_SIZE, overlap: int = OVERLAP,
    gsd: float | None = None, aoi: AnyPath | Bounds | None = None,
    bands: Sequence[int] | None = None, rescale: tuple[float, float] | None = None,
    collar: Literal["auto", "off"] = "auto",
    formats: str | Sequence[str] = ("gpkg",), confidence: bool = False, logits: bool = False,
    simplify: float | None = None, smooth: bool = True, min_area: float | None = None,
    min_confidence: float | Mapping[str, float] | None = None,
    split: str | Sequence[str] | None = None,
    regularize: Forms | None = None, only: str | Sequence[str] = (),
    min_length: ByClass | None = None, max_area: ByClass | None = None,
    mask_out: AnyPath | None = None, report: bool = False, preview: bool = False,
    overwrite: bool = False, keep_going: bool = False,
    workers: int | None = None, scheduler: str | None = None,
    requests_per_second: float | None = None, progress: Progress = None,
) -> Prediction:  # fmt: skip
    """Find the objects of a scene; with the options of `geoseg predict`.

    >>> result = geoseg.predict("scene.tif", out="results", gsd=0.3, confidence=True)
    >>> result.objects.groupby("class")["area_m2"].sum()

    Args:
        scene: a file or address that GDAL reads; a list of them is a mosaic. With `aoi`, also an
            address of tiles with {z}, {x} and {y}.
        out: folder of the results; None = a temporary one, removed with the returned object.
        weights: a checkpoint, or a name of `geoseg weights list`; None = the built-in ones.
        model: a `TileModel` or network to use instead of `weights`.
        aoi: a vector file, or minx, miny, maxx, maxy in the scene's CRS.
        split: names of the classes whose touching objects are split; () = none.
        regularize: "all", or forms by class: {"building": "angles", "storage_tank": "circle"}.
        only: names of the classes that become objects.
        min_length, max_area: m and m²; a number, or numbers by class.
        mask_out: a vector file; objects inside its polygons are left out.
        requests_per_second: limit of requests to a tile or map service.
        progress: called with pixels done and in all; True = a bar, False = nothing.

    Raises:
        GeosegError: as `geoseg.pipeline.predict.predict` does.
    """
    scratch = ScratchFolder() if out is None else None
    options = PredictOptions(
        OutputOptions(
            folder=scratch.path if scratch else Path(str(out)),
            formats=(formats,) if isinstance(formats, str) else tuple(formats),
            confidence=confidence, logits=logits, overwrite=overwrite, keep_going=keep_going,
            simplify=simplify, smooth=smooth, min_area=min_area, min_confidence=min_confidence,
            split=None if split is None else _names(split),
            regularize=regularize, only=_names(only), min_length=min_length, max_area=max_area,
            mask_out=None if mask_out is None else str(mask_out), report=report, preview=preview,
        ),
        SceneOptions(
            bands=tuple(bands) if bands else None, rescale=rescale, collar=collar, gsd=gsd,
            aoi=_aoi_text(aoi),
        ),
        TilingOptions(tile_size=tile_size, overlap=overlap),
        ComputeOptions(
            workers=workers, scheduler=scheduler, requests_per_second=requests_per_second,
        ),
    )  # fmt: skip
    tiles_model = ready_model(
        model, weights, device=device, precision=precision, backend=backend,
        batch_size=batch_size, tta=tta, remote=scheduler is not None,
    )  # fmt: skip
    inputs = [weights] if weights is not None and Path(weights).is_file() else []
    return Prediction(_run(scene, tiles_model, options, inputs, progress), scratch)


def _run(
    scene: AnyPath | Sequence[AnyPath],
    model: TileModel,
    options: PredictOptions,
    inputs: Sequence[AnyPath],
    progress: Progress,
) -> Summary:
    """Predict a scene, or a mosaic of several files, and show the progress."""
    parts: tuple[str, ...] = ()
    if not isinstance(scene, str | Path):
        parts, scene = tuple(map(str, scene)), options.output.folder / "mosaic.vrt"
        if not parts:
            raise OptionError("scene is an empty list; give a file, or the parts of a mosaic")
    with reporting(progress, Path(scene).name, "px") as report:
        return predict_scene(
            str(scene),
            model,
            options.output,
            options.tiling,
            options.scene,
            options.compute,
            parts=parts,
            inputs=inputs,
            progress=report,
        )


def _aoi_text(aoi: AnyPath | Bounds | None) -> str | None:
    """Return an area of interest as the command line gives it."""
    if aoi is None or isinstance(aoi, str | Path):
        return None if aoi is None else str(aoi)
    return ",".join(map(repr, map(float, aoi)))


def _names(only: str | Sequence[str]) -> tuple[str, ...]:
    return (only,) if isinstance(only, str) else tuple(map(str, only))


def _selection(
    only: str | Sequence[str],
    min_length: ByClass | None,
    max_area: ByClass | None,
    mask_out: AnyPath | None,
) -> Selection:
    return Selection(
        _names(only), min_length, max_area, None if mask_out is None else str(mask_out)
    )


@python_messages
def vectorize(
    raster: AnyPath,
    *,
    out: AnyPath | None = None,
    simplify: float | None = None,
    smooth: bool = True,
    min_area: float | None = None,
    specks: Literal["fill", "drop"] = "fill",
    skip: Collection[int] = (0,),
    classes: AnyPath | None = None,
    regularize: Forms | None = None,
    only: str | Sequence[str] = (),
    min_length: ByClass | None = None,
    max_area: ByClass | None = None,
    mask_out: AnyPath | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> Vectorized:
    """Write the regions of a class raster as a GeoPackage with a layer per class.

    >>> geoseg.vectorize("town.classes.tif", out="town.gpkg", min_area=4, overwrite=True).features

    Args:
        raster: one band of whole numbers; a file or address that GDAL reads.
        out: the GeoPackage; None = the raster's name in the current folder.
        specks: what regions below `min_area` become: the class around them, or holes.
        skip: values without polygons.
        classes: a CSV or JSON file with id, name and color; None = as the raster declares.
        regularize, only, min_length, max_area, mask_out: as for `predict`.

    Raises:
        SceneError, OutputError, OptionError: as `geoseg.pipeline.vectorize.vectorize` does.
    """
    if specks not in ("fill", "drop"):
        raise OptionError(f"specks is {specks!r}; choose fill or drop")
    table = None if classes is None else Path(classes)
    with reporting(progress, Path(raster).name, "px") as report:
        return vectorize_raster(
            raster,
            Path(f"{scene_stem(raster)}.gpkg") if out is None else Path(out),
            simplify=simplify,
            smooth=smooth,
            min_area=min_area,
            fill=specks == "fill",
            skip=skip,
            classes=None if table is None else read_class_list(table, any_ids=True),
            regularize=regularize,
            selection=_selection(only, min_length, max_area, mask_out),
            inputs=[] if table is None else [table],
            workers=workers,
            overwrite=overwrite,
            progress=report,
        )


@python_messages
def export(
    layers: AnyPath,
    *,
    out: AnyPath = ".",
    format: str,  # the option's name
    t_srs: str | None = None,
    layer: str | Collection[str] = (),
    only: str | Sequence[str] = (),
    min_length: ByClass | None = None,
    max_area: ByClass | None = None,
    mask_out: AnyPath | None = None,
    min_confidence: ByClass | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a GeoPackage of geoseg, edited or not, in another vector format; return the files.

    >>> geoseg.export("results/scene.gpkg", out="shared", format="geojson", layer="ship")

    Args:
        out: folder of the files.
        format: shapefile, flatgeobuf, geojson, geoparquet, kml or csv.
        t_srs: CRS to reproject to, for instance EPSG:25832.
        layer: only these layers or classes.
        only, min_length, max_area, mask_out: as for `predict`.
        min_confidence: a number, or numbers by class; objects of a lower confidence are left out.

    Raises:
        DataError, OptionError, OutputError: as `geoseg.geo.layers.export.export` does.
    """
    if format not in FORMATS:
        raise OptionError(f"format is {format!r}; choose from {', '.join(FORMATS)}")
    wanted = (layer,) if isinstance(layer, str) else layer
    return export_layers(
        Path(layers),
        Path(out),
        format,
        target_crs=t_srs,
        layers=wanted,
        selection=_selection(only, min_length, max_area, mask_out),
        min_confidence=min_confidence,
        overwrite=overwrite,
    )


@python_messages
def score_objects(
    scene: AnyPath, truth: AnyPath, *, field: str = "class", layer: str | None = None
) -> list[ObjectScore]:
    """Count the objects of a prediction that are right, by class: `geoseg evaluate --scene`.

    >>> [(score.name, score.f1) for score in geoseg.score_objects("town.gpkg", "true.gpkg")]

    Args:
        scene: a GeoPackage of `predict` beside its class raster, or the class raster, of which
            all regions are objects.
        truth: polygons of the true objects.
        field: attribute with their class.
        layer: layer of `truth`; None = all.

    Raises:
        DataError, SceneError: one of the files cannot be used.
    """
    return score_layers(Path(scene), Path(truth), field=field, layer=layer)
