"""Give outlines the forms in which things are built, where these fit.

Every outline is fitted by itself, see `geoseg.geo.vector.forms`. Then conflicts are settled, so
that polygons never overlap: forms that overlap shrink by up to a pixel; of those that still do, the
one that fits better stays; and outlines that keep theirs give way, unless that cost too much of
them. Each step treats all polygons alike, so the result depends neither on their order nor on how
the raster was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.geo.vector.forms import MIN_IOU, Form, fit_form
from geoseg.geo.vector.polygons import Polygons

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
Shapes = NDArray[np.object_]

_INSETS = (0.25, 0.5, 0.75, 1.0)
"""Pixels by which forms that overlap shrink, one after the other."""
_MAX_LOSS = 0.1
"""Greatest share of its area that an outline gives to forms beside it."""
_SPECK, _SPECK_LOSS = 0.05, 0.5
"""Outlines of less than this share of the form's area may lose that much: a speck at the rim of a
tank is no reason to keep the tank's rough outline."""
_OVERLAP = 1e-6
"""Square pixels: less is rounding."""
_BATCH = 100_000
"""Bounding boxes at a time."""


@dataclass(frozen=True, slots=True)
class Regularized:
    """New outlines of P polygons."""

    shapes: Shapes
    """(P,) polygons in pixels; None where the outline is as it was."""
    regular: Bools
    """(P,) whether the outline has the form of its class. Others may have given way to such."""

    def take(self, indices: Ints) -> Regularized:
        """Return those of some polygons."""
        return Regularized(self.shapes[indices], self.regular[indices])


def regularize(polygons: Polygons, forms: Sequence[Form | None], metric: Floats) -> Regularized:
    """Return outlines in the forms (P,) of their classes; None = as it is.

    Args:
        metric: (K, 2, 2) for the K polygons with a form: matrices from columns and rows to a
            plane in which right angles are right and circles round, in units of about a pixel.
    """
    wanted = np.flatnonzero([form is not None for form in forms])
    chosen = polygons.take(wanted)
    raw, iou = chosen.geometry, np.zeros(len(wanted))
    shapes = np.full(len(wanted), None, object)
    rings = np.split(chosen.corners / chosen.steps, chosen.ring_starts[1:])
    for i, (first, count) in enumerate(zip(chosen.shells, chosen.ring_counts, strict=True)):
        form = forms[wanted[i]]
        assert form is not None
        shapes[i] = _fit(rings[first : first + count], form, metric[i])
    fits = ~shapely.is_missing(shapes)
    iou[fits] = _iou(shapes[fits], raw[fits])
    least = np.array([MIN_IOU[form] for form in forms if form is not None])
    accepted = _Forms(wanted, raw, shapes, iou, least).select(iou >= least)
    accepted = accepted.shrink().without_overlaps()
    yielding: dict[int, shapely.Polygon] = {}
    while True:
        yielding, refused = _give_way(polygons, accepted)
        if not refused.any():
            break
        accepted = accepted.select(~refused)
    result = Regularized(np.full(len(polygons), None, object), np.zeros(len(polygons), bool))
    result.shapes[accepted.index] = accepted.around_others()
    result.regular[accepted.index] = True
    for index, shape in yielding.items():
        result.shapes[index] = shape
    return result


def _fit(rings: Sequence[Floats], form: Form, metric: Floats) -> shapely.Polygon | None:
    """Return a polygon of a form, with holes of that form where it fits them, in pixels."""
    back = np.linalg.inv(metric).T
    shell = fit_form(rings[0] @ metric.T, form)
    if shell is None:
        return None
    side = shell[1] - shell[0]
    fitted = []
    for hole in rings[1:]:
        corners = fit_form(hole @ metric.T, form, angle=float(np.arctan2(side[1], side[0])))
        shape = None if corners is None else shapely.Polygon(corners @ back)
        fit = shape is not None and _iou(shape, shapely.Polygon(hole)) >= MIN_IOU[form]
        fitted.append(shapely.get_coordinates(shape) if fit else hole)
    for holes in (fitted, rings[1:]):
        polygon = shapely.Polygon(shell @ back, holes)
        if polygon.is_valid:
            return polygon
    return None


def _iou(one: Shapes, other: Shapes) -> Floats:
    common = shapely.area(shapely.intersection(one, other))
    result: Floats = common / (shapely.area(one) + shapely.area(other) - common)
    return result


def _largest_part(shape: shapely.Geometry) -> shapely.Polygon:
    """Return the largest polygon of a difference; it may be empty."""
    parts = shapely.get_parts(shape)
    return max(parts, key=shapely.area, default=shapely.Polygon())


@dataclass(frozen=True, slots=True)
class _Forms:
    """K forms that fit."""

    index: Ints
    """(K,) which of the polygons."""
    raw: Shapes
    """(K,) outlines before."""
    shapes: Shapes
    """(K,) outlines now."""
    iou: Floats
    """(K,) intersection over union of both."""
    least: Floats
    """(K,) the least IoU of a form that is accepted."""

    def select(self, which: Bools | Ints) -> _Forms:
        return _Forms(
            self.index[which],
            self.raw[which],
            self.shapes[which],
            self.iou[which],
            self.least[which],
        )

    def overlaps(self) -> tuple[Ints, Ints, Bools]:
        """Return pairs (n,) whose forms overlap, and whether the second lies inside the first.

        Such pairs come once, others in both orders.
        """
        one, other = shapely.STRtree(self.shapes).query(self.shapes, predicate="intersects")
        one, other = one[one != other], other[one != other]
        common = shapely.area(shapely.intersection(self.shapes[one], self.shapes[other]))
        one, other = one[common > _OVERLAP], other[common > _OVERLAP]
        filled = shapely.polygons(shapely.get_exterior_ring(self.raw))
        inside = shapely.contains(filled[one], shapely.point_on_surface(self.raw[other]))
        around = shapely.contains(filled[other], shapely.point_on_surface(self.raw[one]))
        return one[~around], other[~around], inside[~around]

    def shrink(self) -> _Forms:
        """Shrink forms that overlap side by side, as long as they fit."""
        shapes = self.shapes.copy()
        for inset in _INSETS:
            now = _Forms(self.index, self.raw, shapes, self.iou, self.least)
            one, _, inside = now.overlaps()
            which = np.unique(one[~inside])
            if not len(which):
                break
            smaller = shapely.buffer(self.shapes[which], -inset, join_style="mitre")
            fits = shapely.get_type_id(smaller) == shapely.GeometryType.POLYGON
            fits &= _iou(smaller, self.raw[which]) >= self.least[which]
            shapes[which[fits]] = smaller[fits]
        return _Forms(self.index, self.raw, shapes, self.iou, self.least)

    def without_overlaps(self) -> _Forms:
        """Return those that overlap no better one beside them."""
        one, other, inside = self.overlaps()
        one, other = one[~inside], other[~inside]
        rivals: dict[int, list[int]] = {}
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            rivals.setdefault(a, []).append(b)
        kept = np.ones(len(self.index), bool)
        areas = shapely.area(self.raw)
        settled: set[int] = set()
        for a in sorted(rivals, key=lambda i: (-self.iou[i], -areas[i], self.index[i])):
            kept[a] = settled.isdisjoint(rivals[a])
            if kept[a]:
                settled.add(a)
        return self.select(kept)

    def around_others(self) -> Shapes:
        """Return the shapes without what lies in their holes and extends beyond these."""
        one, other, _ = self.overlaps()
        shapes = self.shapes.copy()
        for a, b in zip(one, other, strict=True):
            shapes[a] = _largest_part(shapely.difference(shapes[a], self.shapes[b]))
        return shapes


def _give_way(polygons: Polygons, forms: _Forms) -> tuple[dict[int, shapely.Polygon], Bools]:
    """Return the new outlines of polygons beside forms, by index, and (K,) the forms for which
    one of them would lose too much."""
    refused = np.zeros(len(forms.index), bool)
    outlines: dict[int, shapely.Polygon] = {}
    if not len(forms.index):
        return outlines, refused
    tree = shapely.STRtree(forms.shapes)
    others = np.setdiff1d(np.arange(len(polygons)), forms.index)
    bounds = polygons.bounds[others] / polygons.steps
    for start in range(0, len(others), _BATCH):
        boxes = shapely.box(*bounds[start : start + _BATCH].T)
        near = others[start + np.unique(tree.query(boxes)[0])]
        for index, shape in zip(near.tolist(), polygons.take(near).geometry, strict=True):
            shapely.prepare(shape)
            beside = tree.query(shape, predicate="intersects")
            common = shapely.area(shapely.intersection(shape, forms.shapes[beside]))
            beside, common = beside[common > _OVERLAP], common[common > _OVERLAP]
            if not len(beside):
                continue
            union = shapely.union_all(forms.shapes[beside])
            outlines[index] = rest = _largest_part(shapely.difference(shape, union))
            nearest = beside[common.argmax()]
            is_speck = shape.area < _SPECK * forms.shapes[nearest].area
            if rest.area < (1 - (_SPECK_LOSS if is_speck else _MAX_LOSS)) * shape.area:
                refused[nearest] = True
    return outlines, refused
