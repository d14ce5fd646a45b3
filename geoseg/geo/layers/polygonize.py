"""Polygonize a class array in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pyproj
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS

from geoseg.classes import IGNORE, LabelClass, class_color
from geoseg.errors import DataError, OptionError
from geoseg.geo.crs import parse_crs
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.by_class import check_known
from geoseg.geo.layers.features import empty_features, features
from geoseg.geo.layers.regular import Forms, parse_forms, regular_outlines
from geoseg.geo.raster.class_raster import SPECK
from geoseg.geo.vector.blocks import polygonize_raster
from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup
from geoseg.geo.vector.polygons import Polygons
from geoseg.lookahead import map_ahead
from geoseg.tiling.grid import Window


def polygonize(
    class_ids: ArrayLike,
    transform: Affine,
    crs: CRS | pyproj.CRS | str | int | None = None,
    *,
    classes: Sequence[LabelClass] | Mapping[int, str] | None = None,
    confidence: ArrayLike | None = None,
    simplify: float | None = None,
    smooth: bool = True,
    min_area: float | None = None,
    skip: Collection[int] = (0,),
    nodata: int | None = IGNORE,
    regularize: Forms | None = None,
) -> GeoDataFrame:
    """Return the 4-connected regions of equal class as polygons, measured on the ground.

    The steps and columns are those of `geoseg vectorize`: regions are traced, sieved and
    simplified so that neighbors still share their boundary. A row is an object: object_id (from 1,
    in the order of the first pixels), class_id, class, area_m2, confidence, length_m, width_m,
    angle_deg and geometry. Without an object the frame has the same columns.

    Args:
        class_ids: (H, W) array of whole numbers, of any number of classes.
        transform: maps (column, row) to (x, y) in the CRS, as rasterio's `dataset.transform`.
        crs: anything that names a CRS: an EPSG code, text, or an object of rasterio or pyproj;
            None = unknown. Lengths and areas are then pixels, and angles count from the y axis.
        classes: names of the classes; None, and for ids it lacks: class_<id>.
        confidence: (H, W) probability of each pixel's class, 0-1; the column has its mean.
        simplify: tolerance of the outlines, m (without a CRS: px); 0 = those of the pixels,
            None = half a pixel.
        smooth: remove the steps of pixels from the outlines.
        min_area: smaller regions take the class around them, m² (without a CRS: px);
            None = 9 pixels.
        skip: values that do not become polygons, such as background.
        nodata: value of pixels without a class; None = every value is one.
        regularize: classes whose outlines get the forms in which they are built, as the option
            --regularize, or forms by class name or id: "all", {"building": "angles"}. There is
            then a column `regular`: 1, or 0 where none fits and the outline is as it was.

    Raises:
        DataError: `class_ids` or `confidence` is not such an array.
        OptionError: another argument is not possible.
    """
    ids = _class_array(class_ids)
    height, width = ids.shape
    geobox = GeoBox(height, width, _checked_transform(transform), _to_rasterio(crs))
    labels = _labels(classes)
    _refuse_negative(simplify=simplify, min_area=min_area)
    probability = None if confidence is None else _probability_array(confidence, ids.shape)
    forms = {} if regularize is None else parse_forms(regularize, "regularize")
    known = _values(ids, {*skip} if nodata is None else {*skip, nodata})
    if not len(known):
        return empty_features(geobox, regular=regularize is not None)
    check_known(forms, "regularize", labels, known.tolist())
    read = partial(_read_indices, ids, known)
    cleanup = Cleanup.from_ground_units(
        geobox.gsd, simplify=simplify, min_area=min_area, default_min_pixels=SPECK, smooth=smooth
    )
    polygons = _polygonize(geobox, read, cleanup, probability)
    index = polygons.class_id - (polygons.class_id > IGNORE)
    polygons, outlines = replace(polygons, class_id=known[index].astype(np.int64)), None
    if regularize is not None:
        outlines = regular_outlines(polygons, geobox, labels, regularize)
    return features(polygons, geobox, labels, outlines)


def _refuse_negative(**sizes: float | None) -> None:
    for name, size in sizes.items():
        if size is not None and not size >= 0:
            raise OptionError(f"{name} is {size}; give 0 or more")


def _polygonize(
    geobox: GeoBox,
    read: Callable[[Window], NDArray[np.integer]],
    cleanup: Cleanup,
    probability: NDArray[np.float32] | None,
) -> Polygons:
    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        parts = polygonize_raster(
            geobox.extent,
            read,
            cleanup,
            read_confidence=None if probability is None else lambda w: probability[w.slices],
            apply=partial(map_ahead, pool, 2 * threads),
        )
        return CleanPolygons.concatenate(parts).polygons


def _values(ids: NDArray[np.integer], excluded: Collection[int]) -> NDArray[np.integer]:
    """Return the sorted values of an array but the excluded ones. Raises DataError."""
    values = [value for value in np.unique(ids).tolist() if value not in excluded]
    if values and values[-1] > np.iinfo(np.int64).max:
        raise DataError(f"class_ids has the value {values[-1]}, which needs more than 63 bits")
    return np.array(values, ids.dtype)


def _read_indices(
    ids: NDArray[np.integer], known: NDArray[np.integer], window: Window
) -> NDArray[np.integer]:
    """Return each pixel's index among the known values, 1 higher from IGNORE on; others: IGNORE."""
    pixels = ids[window.slices]
    index = np.searchsorted(known, pixels)
    is_known = known[np.minimum(index, len(known) - 1)] == pixels
    dtype = np.uint8 if len(known) <= IGNORE else np.int32
    return np.where(is_known, index + (index >= IGNORE), IGNORE).astype(dtype)


def _class_array(class_ids: ArrayLike) -> NDArray[np.integer]:
    if np.ma.isMaskedArray(class_ids):
        raise DataError(f"class_ids is a masked array; give class_ids.filled({IGNORE})")
    ids = np.asarray(class_ids)
    if ids.ndim != 2:
        raise DataError(f"class_ids has the shape {ids.shape}; give an array (H, W)")
    if ids.dtype.kind not in "biu":
        raise DataError(
            f"class_ids is of dtype {ids.dtype}; give whole numbers, such as "
            "class_ids.astype('int32')"
        )
    return ids.view(np.uint8) if ids.dtype.kind == "b" else ids


def _probability_array(confidence: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    probability = np.asarray(confidence)
    if probability.shape != shape:
        raise DataError(
            f"confidence has the shape {probability.shape}, class_ids {shape}; give one value "
            "for each pixel"
        )
    if probability.dtype.kind not in "biuf":
        raise DataError(f"confidence is of dtype {probability.dtype}; give probabilities, 0-1")
    if not ((probability >= 0) & (probability <= 1)).all():
        low, high = probability.min(), probability.max()
        raise DataError(
            f"confidence has values from {low:g} to {high:g}; give probabilities, 0-1, and 0 "
            "where there is no class"
        )
    return probability.astype(np.float32, copy=False)


def _checked_transform(transform: Affine) -> Affine:
    if not isinstance(transform, Affine):
        raise OptionError(
            f"transform is {transform!r}; give an affine.Affine, such as that of a rasterio dataset"
        )
    if not abs(transform.determinant) > 0:
        raise OptionError(f"transform is {tuple(transform)[:6]}, which gives pixels no area")
    return transform


def _to_rasterio(crs: CRS | pyproj.CRS | str | int | None) -> CRS | None:
    if crs is None or (isinstance(crs, CRS) and not crs):
        return None
    if isinstance(crs, int | np.integer):
        text = f"EPSG:{crs}"
    else:
        text = crs.to_wkt() if isinstance(crs, CRS | pyproj.CRS) else str(crs)
    return CRS.from_wkt(parse_crs(text, "crs").to_wkt())


def _labels(classes: Sequence[LabelClass] | Mapping[int, str] | None) -> tuple[LabelClass, ...]:
    if classes is None:
        return ()
    if isinstance(classes, Mapping):
        return tuple(
            LabelClass(value, str(name), class_color(value)) for value, name in classes.items()
        )
    if strange := [item for item in classes if not isinstance(item, LabelClass)]:
        raise OptionError(
            f"classes has the item {strange[0]!r}; give LabelClass items, or a dict of names by id"
        )
    return tuple(classes)
