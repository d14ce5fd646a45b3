"""Score the objects of a prediction against true polygons."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import STRtree

from geoseg.errors import DataError, SceneError
from geoseg.geo.gdal_settings import READING, vector_settings
from geoseg.geo.geobox import GeoBox
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.layers.labels import read_labels
from geoseg.geo.paths import vector_path
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.geo.vector.blocks import polygonize_raster
from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """Counts and ratios of one class; a ratio is NaN if its denominator is 0."""

    name: str
    truth: int
    """True objects."""
    found: int
    """Predicted objects."""
    matched: int
    """Pairs of a true and a predicted object that overlap enough; each object is in one at most."""

    @property
    def precision(self) -> float:
        return self.matched / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        return self.matched / self.truth if self.truth else float("nan")

    @property
    def f1(self) -> float:
        total = self.truth + self.found
        return 2 * self.matched / total if total else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Return values for JSON; NaN becomes None."""
        ratios = {name: getattr(self, name) for name in ("precision", "recall", "f1")}
        return {
            "truth": self.truth,
            "found": self.found,
            "matched": self.matched,
            **{name: None if math.isnan(value) else value for name, value in ratios.items()},
        }


def score_objects(
    scene: Path,
    truth: Path,
    *,
    field: str = "class",
    layer: str | None = None,
    min_iou: float = 0.5,
) -> list[ObjectScore]:
    """Compare objects with polygons in `truth`.

    True polygons are clipped at the border of the raster, and background is not scored. Classes
    match by name; those of the raster are in its tags, where `geoseg predict` writes them.

    Args:
        scene: a GeoPackage of `predict` with its class raster beside it, or a class raster, of
            which all 4-connected regions are objects, except specks.
        field: attribute of `truth` that names the class.
        layer: layer of `truth`; None = all.
        min_iou: least intersection over union of a match.

    Raises:
        SceneError: the raster is not there, cannot be read or names no classes.
        DataError: the truth cannot be read, or has none of the raster's classes.
    """
    names, geobox, shapes, class_ids = read_objects(scene)
    with vector_settings(READING):
        labels = read_labels(vector_path(truth), geobox, field=field, layer=layer)
    known = set(names.values())
    if not known & set(labels.names):
        present = ", ".join(sorted(set(labels.names))) or "nothing"
        raise DataError(
            f"{truth} has no polygon of a class of {scene} on it; found {present}, "
            f"known are {', '.join(sorted(known))}"
        )
    order = [*names.values(), *sorted(set(labels.names) - known)]
    id_of = {name: class_id for class_id, name in names.items()}
    scores = []
    for name in order:
        found = shapes[class_ids == id_of.get(name, -1)]
        expected = labels.geometry[labels.names == name]
        if id_of.get(name) != 0 and (len(found) or len(expected)):
            matched = count_matches(found, expected, min_iou)
            scores.append(ObjectScore(name, len(expected), len(found), matched))
    return scores


def read_objects(
    path: Path,
) -> tuple[dict[int, str], GeoBox, NDArray[np.object_], NDArray[np.integer]]:
    """Return class names by id, the grid, and polygons in pixel coordinates with their classes."""
    layers = path if path.suffix.lower() == ".gpkg" else None
    raster = ClassRaster.open(path if layers is None else path.with_suffix(".classes.tif"))
    names = {item.id: item.name for item in raster.classes}
    with closing(raster.source):
        if not names:
            raise SceneError(f"{path} names no classes; give a raster of geoseg predict")
        if layers is not None:
            found, back = read_layers(layers), ~raster.geobox.transform
            coefficients = [back.a, back.b, back.d, back.e, back.c, back.f]
            shapes = found.geometry.affine_transform(coefficients).to_numpy()
            return names, raster.geobox, shapes, found["class_id"].to_numpy()
        parts = polygonize_raster(raster.geobox.extent, raster.read, Cleanup(), skip=raster.skip)
        polygons = CleanPolygons.concatenate(parts).polygons
    # Regions that predict and vectorize sieve are no objects.
    polygons = polygons.select(polygons.pixels >= raster.speck)
    class_ids = raster.values[polygons.class_id]
    return dict(sorted(names.items())), raster.geobox, polygons.geometry, class_ids


def count_matches(found: NDArray[np.object_], truth: NDArray[np.object_], min_iou: float) -> int:
    """Count pairs with at least `min_iou`, best first; each polygon is in one pair at most."""
    i, j = STRtree(truth).query(found, "intersects")
    common = shapely.area(shapely.intersection(found[i], truth[j]))
    union = shapely.area(found)[i] + shapely.area(truth)[j] - common
    iou = common / np.maximum(union, np.finfo(float).tiny)
    found_matched, truth_matched = np.zeros(len(found), bool), np.zeros(len(truth), bool)
    for pair in np.argsort(-iou, kind="stable"):
        if iou[pair] < min_iou:
            break
        if not (found_matched[i[pair]] or truth_matched[j[pair]]):
            found_matched[i[pair]] = truth_matched[j[pair]] = True
    return int(found_matched.sum())
