"""Outlines in meters, and which pixels they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, 2) x, y; x to the right, y down."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A local coordinate system, in meters: a position and a heading on the ground."""

    x: float
    """Origin, meters from the scene's left edge."""
    y: float
    """Origin, meters from the scene's upper edge."""
    angle: float = 0.0
    """Heading of the local x axis, radians, clockwise."""

    def __call__(self, points: Points | Sequence[tuple[float, float]]) -> Points:
        """Convert local points to the scene's meters."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        rotated: Points = np.asarray(points, float) @ np.array([[c, s], [-s, c]])
        return shifted(rotated, self.x, self.y)

    def at(self, x: float, y: float, angle: float = 0.0) -> Frame:
        """Return the frame with its origin at local (x, y), rotated by a further `angle`."""
        ((x, y),) = self([(x, y)])
        return Frame(float(x), float(y), self.angle + angle)


def shifted(points: Points, x: float, y: float) -> Points:
    """Return the points moved by (x, y)."""
    return points + np.array([x, y])


def rectangle(length: float, width: float) -> Points:
    """Return a rectangle around the origin, its length along x."""
    return np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) * (length, width)


def ellipse(rx: float, ry: float, vertices: int = 40, start: float = 0, stop: float = 1) -> Points:
    """Return an ellipse around the origin, or its arc between two fractions of the circle."""
    angle = 2 * np.pi * np.linspace(start, stop, vertices, endpoint=stop - start < 1)
    return np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1)


def stadium(straight: float, radius: float) -> Points:
    """Return two semicircles joined by straights: the outline of a running track."""
    right = shifted(ellipse(radius, radius, 24, -0.25, 0.25), straight / 2, 0)
    return np.concatenate([right, -right])


def mirrored(side: Points) -> Points:
    """Return the closed outline with a half `side`, y ≥ 0, that starts and ends on the x axis."""
    return np.concatenate([side, side[-2:0:-1] * (1, -1)])


def bezier(control: Points) -> Points:
    """Return a cubic Bézier curve of four control points."""
    t = np.linspace(0, 1, 25)[:, None]
    a, b, c, d = control
    curve: Points = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
    return curve


def closed(outline: Points) -> Points:
    """Return the outline with its first point repeated at the end, to be drawn as a line."""
    return np.concatenate([outline, outline[:1]])


def hull(points: Points) -> Points:
    """Return the convex hull (Andrew's monotone chain)."""
    ordered = sorted((float(x), float(y)) for x, y in points)

    def chain(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        out: list[tuple[float, float]] = []
        for x, y in sequence:
            while len(out) > 1:
                (ax, ay), (bx, by) = out[-2:]
                if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                    break
                out.pop()
            out.append((x, y))
        return out[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def rasterize(polygon: Points, height: int, width: int) -> tuple[slice, slice, NDArray[np.bool_]]:
    """Return the pixels whose centers lie in a polygon: rows, columns, and a mask of these.

    `polygon` is in pixels; the even-odd rule applies. Each crossing of an edge with the line
    through the centers of a row toggles the rest of that row.
    """
    left, top = (max(int(v), 0) for v in np.floor(polygon.min(axis=0)))
    right, bottom = np.ceil(polygon.max(axis=0))
    right, bottom = max(min(int(right), width), left), max(min(int(bottom), height), top)
    ax, ay = polygon.T
    bx, by = np.roll(polygon, -1, axis=0).T
    centers = np.arange(top, bottom)[:, None] + 0.5
    row, edge = np.nonzero((ay <= centers) != (by <= centers))
    slope = (bx[edge] - ax[edge]) / (by[edge] - ay[edge])
    crossing = ax[edge] + (row + top + 0.5 - ay[edge]) * slope
    span = right - left + 1
    column = np.clip(np.ceil(crossing - 0.5), left, right).astype(int) - left
    toggles = np.bincount(row * span + column, minlength=(bottom - top) * span)
    inside = np.cumsum(toggles.reshape(-1, span), axis=1)[:, :-1] % 2 == 1
    return slice(top, bottom), slice(left, right), inside
