"""Planes that touch the ellipsoid, one for each of many objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyproj
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POLE = 90 - 1e-4
"""Degrees. A plane nearer to a pole touches the ellipsoid here, 11 m from it."""


@dataclass(frozen=True, slots=True)
class Planes:
    """Lambert's azimuthal equal-area projection about P centres (Snyder 1987, p. 187).

    Areas are true everywhere, lengths and angles near the centre; there are no seams, and the
    poles are places like others.
    """

    lon: Floats
    """(P,) degrees, of the centres."""
    beta: Floats
    """(P,) their authalic latitudes, radians."""
    stretch: Floats
    """(P,) what makes the scale at the centre true in all directions."""
    radius: float
    """Of the sphere of the same area, metres."""
    eccentricity: float

    @classmethod
    def at(cls, lonlat: Floats, ellipsoid: pyproj.Geod) -> Planes:
        """With centres at (2, P) degrees."""
        lon, lat = lonlat
        e = float(np.sqrt(ellipsoid.es))
        lat = np.clip(lat, -_POLE, _POLE)
        radius = ellipsoid.a * float(np.sqrt(_authalic(np.ones(1), e)[0] / 2))
        beta = _authalic_latitude(lat, e)
        sine, cosine = np.sin(np.radians(lat)), np.cos(np.radians(lat))
        parallel = cosine / np.sqrt(1 - (e * sine) ** 2)
        return cls(lon, beta, ellipsoid.a * parallel / (radius * np.cos(beta)), radius, e)

    def take(self, places: NDArray[np.intp]) -> Planes:
        lon, beta, stretch = self.lon[places], self.beta[places], self.stretch[places]
        return Planes(lon, beta, stretch, self.radius, self.eccentricity)

    def project(self, lonlat: Floats, owner: NDArray[np.intp]) -> Floats:
        """(2, N) metres east and north of the centre `owner` of points (2, N) in degrees."""
        lon, lat = lonlat
        turn, beta = np.radians(lon - self.lon[owner]), _authalic_latitude(lat, self.eccentricity)
        centre, stretch = self.beta[owner], self.stretch[owner]
        sine, cosine = np.sin(beta), np.cos(beta)
        along = np.cos(turn) * cosine
        with np.errstate(divide="ignore", invalid="ignore"):  # infinite at the antipode
            near = 1 + np.sin(centre) * sine + np.cos(centre) * along
            scale = self.radius * np.sqrt(2 / near)
        north = np.cos(centre) * sine - np.sin(centre) * along
        return np.stack([scale * stretch * cosine * np.sin(turn), scale / stretch * north])


def _authalic(sine: Floats, e: float) -> Floats:
    """Snyder's q of the sine of a latitude: areas between parallels grow with it."""
    if e == 0:
        return 2 * sine
    return (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)


def _authalic_latitude(lat: Floats, e: float) -> Floats:
    """Radians, of degrees; not a number off the globe."""
    with np.errstate(invalid="ignore"):
        q = _authalic(np.sin(np.radians(lat)), e) / _authalic(np.ones(1), e)[0]
        return np.arcsin(np.clip(q, -1, 1))
