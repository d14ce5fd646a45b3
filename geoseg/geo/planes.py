"""Planes tangent to the ellipsoid, one for each of many objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyproj
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POLE = 90 - 1e-4
"""Degrees: centers closer to a pole are moved here, 11 m from it."""


@dataclass(frozen=True, slots=True)
class Planes:
    """Lambert's azimuthal equal-area projection about P centers (Snyder 1987, p. 187).

    Areas are true everywhere, lengths and angles near the center. There are no seams, and poles
    are no exception.
    """

    lon: Floats
    """(P,) longitudes of the centers, degrees."""
    beta: Floats
    """(P,) authalic latitudes of the centers, radians."""
    stretch: Floats
    """(P,) Snyder's D, which makes the scale at the center true in all directions."""
    radius: float
    """Radius of the sphere of equal area, meters."""
    eccentricity: float
    """First eccentricity of the ellipsoid."""

    @classmethod
    def at(cls, lonlat: Floats, ellipsoid: pyproj.Geod) -> Planes:
        """Return planes with centers at (2, P) degrees."""
        lon, lat = lonlat
        e = float(np.sqrt(ellipsoid.es))
        lat = np.clip(lat, -_POLE, _POLE)
        radius = ellipsoid.a * float(np.sqrt(_authalic(np.ones(1), e)[0] / 2))
        beta = _authalic_latitude(lat, e)
        sine, cosine = np.sin(np.radians(lat)), np.cos(np.radians(lat))
        parallel = cosine / np.sqrt(1 - (e * sine) ** 2)
        return cls(lon, beta, ellipsoid.a * parallel / (radius * np.cos(beta)), radius, e)

    def take(self, indices: NDArray[np.intp]) -> Planes:
        """Return some of the planes."""
        lon, beta, stretch = self.lon[indices], self.beta[indices], self.stretch[indices]
        return Planes(lon, beta, stretch, self.radius, self.eccentricity)

    def project(self, lonlat: Floats, owner: NDArray[np.intp]) -> Floats:
        """Return (2, N) meters east and north of the center `owner` of points (2, N) in degrees."""
        lon, lat = lonlat
        center, stretch = self.beta[owner], self.stretch[owner]
        with np.errstate(divide="ignore", invalid="ignore"):  # off the globe and at the antipode
            delta = np.radians(lon - self.lon[owner])
            beta = _authalic_latitude(lat, self.eccentricity)
            sine, cosine = np.sin(beta), np.cos(beta)
            along = np.cos(delta) * cosine
            near = 1 + np.sin(center) * sine + np.cos(center) * along
            scale = self.radius * np.sqrt(2 / near)
            north = np.cos(center) * sine - np.sin(center) * along
            return np.stack([scale * stretch * cosine * np.sin(delta), scale / stretch * north])


def _authalic(sine: Floats, e: float) -> Floats:
    """Return Snyder's q (equation 3-12) for the sine of a latitude: area grows linearly with it."""
    if e == 0:
        return 2 * sine
    return (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)


def _authalic_latitude(lat: Floats, e: float) -> Floats:
    """Return authalic latitudes in radians for degrees; not a number off the globe."""
    with np.errstate(invalid="ignore"):
        q = _authalic(np.sin(np.radians(lat)), e) / _authalic(np.ones(1), e)[0]
        return np.arcsin(np.clip(q, -1, 1))
