"""Forms in which things are built, fitted to outlines: right angles, boxes, circles, ovals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.geo.vector.right_angles import fit_right_angles

Floats = NDArray[np.float64]
Form = Literal["angles", "box", "circle", "oval"]

MIN_IOU: dict[Form, float] = {"angles": 0.85, "box": 0.8, "circle": 0.9, "oval": 0.85}
"""Intersection over union with the outline as it was, below which that one stays. Models draw a car
of few pixels as an ellipse, whose IoU with a rectangle of its area is 0.83 at most."""
BUILT_AS: dict[str, Form] = {
    "tennis_court": "angles",
    "basketball_court": "angles",
    "soccer_ball_field": "angles",
    "swimming_pool": "angles",
    "storage_tank": "circle",
    "roundabout": "circle",
    "ground_track_field": "oval",
    "building": "angles",
    "buildings": "angles",
    "house": "angles",
    "roof": "angles",
    "rooftop": "angles",
    "container": "angles",
    "shipping_container": "angles",
    "solar_panel": "angles",
    "greenhouse": "angles",
}
"""Forms of classes by name, in lower case with underscores. Classes of other models are among
them; vehicles are not, for their outlines tell a car from its shadow."""
_SAGITTA = 0.05
"""Greatest distance, px, of a circle from its chords."""


@dataclass(frozen=True, slots=True)
class _Moments:
    """Area, center and central second moments of the surface inside a ring."""

    area: float
    center: Floats
    """(2,)"""
    second: Floats
    """(2, 2) integrals of xx, xy, yy."""

    @classmethod
    def of(cls, ring: Floats) -> _Moments:
        """Sum the triangles that the sides form with the first corner (Green's theorem)."""
        a, b = ring - ring[0], np.roll(ring, -1, axis=0) - ring[0]
        double = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        area = double.sum() / 2
        center = ((a + b) * double[:, None]).sum(axis=0) / (6 * area)
        pairs = np.einsum("ni,nj->nij", a, a) + np.einsum("ni,nj->nij", b, b)
        pairs += np.einsum("ni,nj->nij", a + b, a + b)
        second = (pairs * double[:, None, None]).sum(axis=0) / 24
        second = second / area - np.outer(center, center)
        return cls(abs(area), center + ring[0], second * abs(area))


def fit_form(ring: Floats, form: Form, *, angle: float | None = None) -> Floats | None:
    """Return the outline (M, 2) of a form that fits a ring best; None if none does.

    Args:
        ring: (N, 2) in pixels of equal sides, not closed.
        angle: direction of right angles, radians; None = find it.
    """
    if form in ("angles", "box"):
        fit = fit_right_angles(ring, angle=angle, box=form == "box")
        if fit is not None and not shapely.Polygon(fit.corners).is_valid:
            fit = fit_right_angles(ring, angle=angle, box=True)
        return None if fit is None else fit.corners
    moments = _Moments.of(ring)
    if form == "circle":
        return moments.center + _stadium(0.0, math.sqrt(moments.area / math.pi))
    return _fit_oval(moments)


def _fit_oval(moments: _Moments) -> Floats | None:
    """Return the stadium of the same area, center, direction and second moment across.

    Half its straights a and its radius r follow from area = π r² + 4 a r and, across the long
    axis, moment = area r² / 3 - π r⁴ / 12.
    """
    values, axes = np.linalg.eigh(moments.second)
    root = moments.area**2 / 9 - math.pi * values[0] / 3
    if root < 0:
        return None
    square = (moments.area / 3 - math.sqrt(root)) * 6 / math.pi
    radius = math.sqrt(max(square, 0.0))
    if radius == 0:
        return None
    half = max(0.0, (moments.area - math.pi * square) / (4 * radius))
    half = half if half > _SAGITTA else 0.0
    radius = min(radius, math.sqrt(moments.area / math.pi))
    along = axes[:, 1]
    turn = np.array([along, (-along[1], along[0])])
    return moments.center + _stadium(half, radius) @ turn


def _stadium(half: float, radius: float) -> Floats:
    """Return two semicircles joined by straights of length 2 · `half` along x.

    They are polygons of the area of the circle, with chords that stay close to it.
    """
    quarter = max(2, math.ceil(math.pi / 4 / math.acos(max(0.0, 1 - _SAGITTA / radius))))
    count = 4 * quarter
    radius *= math.sqrt(2 * math.pi / count / math.sin(2 * math.pi / count))
    angle = 2 * math.pi / count * np.arange(-quarter, quarter + (half > 0))
    right = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shift = np.array([half, 0.0])
    return np.concatenate([right + shift, -right - shift])
