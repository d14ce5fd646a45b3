"""Fit outlines with right angles, in any direction.

In a frame along its sides, such an outline is a chain of lines that are horizontal and vertical by
turns. Its outermost corners in the four diagonal directions are always corners of the shape; from
one to the next, dynamic programming finds the lines of least squared distance from the outline,
plus a price a line. The direction is then refined in closed form, and the lines are placed anew.
"""

from __future__ import annotations

import math

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

PRICE = 0.08
"""Price of a line in units of the outline's length, px³ a px: two more lines must explain a step
of 2 px over a twenty-fifth of the outline."""
_THIN = 0.75
"""Tolerance, px, of the corners at which lines may meet."""
_DETAIL, _COARSE = 60, 2.5
"""The tolerance for directions is that share of the outline's length, up to so many pixels."""
_ROUNDS = 4
"""Refinements of the direction, at most."""
_STEADY = 1e-4
"""Radians: a smaller change of direction ends the refinement."""
_ROUNDED = 2.0
"""Pixels at either end of a line that do not place it."""
_COHERENT = 0.25
"""Coherence of the sides below which steps are not believed: a box, or nothing, is built so."""
_CLOSE = 1e-3
"""Radians: two directions that refine to the same one."""
_DIAGONALS = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])


def fit_right_angles(ring: Floats, *, angle: float | None = None, box: bool = False) -> Fit | None:
    """Return the outline with right angles that fits a ring best; None if there is none.

    Args:
        ring: (N, 2) in pixels, not closed, in either direction.
        angle: a direction that is given; None = find it.
        box: four corners only.
    """
    line = shapely.LinearRing(ring)
    if not line.is_ccw:
        ring = ring[::-1]
    corners = shapely.get_coordinates(shapely.simplify(line, _THIN))[:-1]
    stays = np.isin(ring @ (1, 1j), corners @ (1, 1j))
    coarse = min(max(_THIN, line.length / _DETAIL), _COARSE)
    plain = shapely.get_coordinates(shapely.simplify(line, coarse))[:-1]
    direction, coherence = _direction(plain)
    box = box or coherence < _COHERENT
    if angle is not None:
        frame = Fit(ring, stays, angle)
        return frame if frame.find_lines(box=box) else None
    envelope = shapely.get_coordinates(shapely.oriented_envelope(line))
    guesses = [direction, _direction(envelope[:-1])[0]]
    if abs(math.remainder(guesses[0] - guesses[1], math.pi / 2)) < _CLOSE:
        guesses.pop()
    fits = [fit for guess in guesses if (fit := _refined(ring, stays, guess, box=box))]
    return min(fits, key=lambda fit: fit.cost, default=None)


def _refined(ring: Floats, stays: NDArray[np.bool_], angle: float, *, box: bool) -> Fit | None:
    """Return the best fit near a direction."""
    best: Fit | None = None
    for _ in range(_ROUNDS):
        fit = Fit(ring, stays, angle)
        if not fit.find_lines(box=box) or (best is not None and fit.cost >= best.cost):
            break
        best = fit
        turn = fit.better_turn()
        angle += turn
        if abs(turn) < _STEADY:
            break
    return best


def _direction(corners: Floats) -> tuple[float, float]:
    """Return the direction of the sides modulo 90°, in which long sides count most, and their
    coherence: 1 if all have one direction, 0 on a circle."""
    sides = (np.roll(corners, -1, axis=0) - corners) @ (1, 1j)
    length = np.abs(sides)
    if not length.any():
        return 0.0, 0.0
    turned = np.divide(sides, length, where=length > 0, out=np.ones_like(sides)) ** 4
    coherence = abs((length * turned).sum()) / length.sum()
    return float(np.angle((length**2 * turned).sum()) / 4), float(coherence)


class Fit:
    """The lines that fit a ring best in a frame along its sides."""

    def __init__(self, ring: Floats, stays: NDArray[np.bool_], angle: float) -> None:
        """Args:
        ring: (N, 2), counterclockwise.
        stays: (N,) corners at which lines may meet.
        angle: direction of the frame's first axis, radians.
        """
        c, s = math.cos(angle), math.sin(angle)
        self.angle = angle
        self.points = points = ring @ np.array([[c, -s], [s, c]])
        self.cost = 0.0
        """Integral of the squared distance over the outline, px³, plus the price of the lines."""
        self.lines: list[tuple[int, int, bool]] = []
        """First and last corner of each line, and whether it is horizontal."""
        after = np.roll(points, -1, axis=0)
        step = after - points
        length = np.hypot(*step.T)
        mean = (points + after) / 2
        # Integrals over each side: of 1, u, v, uu, uv, vv.
        second = [
            points[:, a] * after[:, b] + points[:, b] * after[:, a]
            + 2 * (points[:, a] * points[:, b] + after[:, a] * after[:, b])
            for a, b in ((0, 0), (0, 1), (1, 1))
        ]  # fmt: skip
        parts = [np.ones_like(length), *mean.T, *(each / 6 for each in second)]
        self.sums = _running_sums(np.array([part * length for part in parts]))
        du, dv = np.abs(step).T
        axes = ((dv, mean[:, 0]), (du, mean[:, 1]))
        self.runs = [_running_sums(np.array([run, run * at])) for run, at in axes]
        self.price = PRICE * float(length.sum())
        extremes = (points @ _DIAGONALS.T).argmax(axis=0)
        self.starts = [int(each) for each in extremes]
        self.stays = stays.copy()
        self.stays[extremes] = True

    def find_lines(self, *, box: bool) -> bool:
        """Find the lines from one extreme corner to the next; False if they are no such corners."""
        size = len(self.points)
        ends = self.starts[1:] + self.starts[:1]
        for side, (start, end) in enumerate(zip(self.starts, ends, strict=True)):
            stop = start + (end - start) % size
            if stop == start:
                return False
            self.cost += self._fit_side(start, stop, side % 2 == 0, box=box)
        return sum(stop - start for start, stop, _ in self.lines) == size

    @property
    def corners(self) -> Floats:
        """(M, 2), counterclockwise."""
        places = [self._place(*line) for line in self.lines]
        corners = [
            (before, place) if is_flat else (place, before)
            for before, place, (*_, is_flat) in zip(
                places[-1:] + places[:-1], places, self.lines, strict=True
            )
        ]
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.array(corners) @ np.array([[c, s], [-s, c]])

    def _fit_side(self, start: int, stop: int, is_flat: bool, *, box: bool) -> float:
        """Add the lines from one extreme corner to the next, which begin and end alike.

        Returns their cost.
        """
        at = start + np.flatnonzero(np.take(self.stays, range(start, stop + 1), mode="wrap"))
        single = self._costs(at[:1], at[-1:], is_flat).item() + self.price
        if box or len(at) < 4 or single <= 3 * self.price:  # three lines cost as much at least
            self.lines.append((start, stop, is_flat))
            return single
        like = self._costs(at[:, None], at, is_flat) + self.price
        other = self._costs(at[:, None], at, not is_flat) + self.price
        count = len(at)
        # Least cost up to each corner, if the last line is like the first one, or not.
        best = np.full((2, count), np.inf)
        origin = np.zeros((2, count), int)
        for j in range(1, count):
            until = best[1, :j] + like[:j, j]
            until[0] = like[0, j]
            origin[0, j] = i = int(until.argmin())
            best[0, j] = until[i]
            until = best[0, :j] + other[:j, j]
            origin[1, j] = i = int(until.argmin())
            best[1, j] = until[i]
        lines, j, kind = [], count - 1, 0
        while j > 0:
            i = int(origin[kind, j])
            lines.append((int(at[i]), int(at[j]), is_flat == (kind == 0)))
            j, kind = i, 1 - kind
        self.lines += lines[::-1]
        return float(best[0, -1])

    def _costs(self, start: Ints, stop: Ints, is_flat: bool) -> Floats:
        """Return integrals of the squared distance from the mean line; infinite if it is empty."""
        square, linear = (5, 2) if is_flat else (3, 1)
        length, first, second = (
            self.sums[row][stop] - self.sums[row][start] for row in (0, linear, square)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = np.maximum(second - first**2 / length, 0)
        return np.where(length > 0, cost, np.inf)

    def _place(self, start: int, stop: int, is_flat: bool) -> float:
        """Return v of a horizontal line, u of a vertical one: that which keeps the area.

        The ends do not count, for corners are cut in pixels, and rounded by models.
        """
        low, high = self.sums[0, start], self.sums[0, stop]
        end = min(_ROUNDED, (high - low) / 4)
        axis = int(is_flat)
        total, weighted = self._until(high - end, axis) - self._until(low + end, axis)
        if total > 0.1 * (high - low):
            return float(weighted / total)
        return float((self.sums[1 + axis, stop] - self.sums[1 + axis, start]) / (high - low))

    def _until(self, length: float, axis: int) -> Floats:
        """Return integrals of |dw| and z |dw| up to a length along the ring, z being the
        coordinate `axis` and w the other one."""
        side = int(np.searchsorted(self.sums[0], length, "right")) - 1
        here = self.sums[0, side]
        share = (length - here) / (self.sums[0, side + 1] - here)
        (z, w), size = self.points[side % len(self.points)][[axis, 1 - axis]], len(self.points)
        z1, w1 = self.points[(side + 1) % size][[axis, 1 - axis]]
        run = abs(w1 - w) * share
        return self.runs[axis][:, side] + np.array([run, run * (z + share * (z1 - z) / 2)])

    def better_turn(self) -> float:
        """Return the rotation, radians, in which the present lines fit best."""
        p = q = r = 0.0
        for start, stop, is_flat in self.lines:
            s, u, v, uu, uv, vv = self.sums[:, stop] - self.sums[:, start]
            uu, uv, vv = uu - u * u / s, uv - u * v / s, vv - v * v / s
            if is_flat:
                uu, uv, vv = vv, -uv, uu
            p, q, r = p + uu, q + uv, r + vv
        return 0.5 * math.atan2(-q, (r - p) / 2)


def _running_sums(values: Floats) -> Floats:
    """Return (K, 2 N + 1) sums of (K, N) values up to each index, twice around the ring."""
    twice = np.tile(values, 2)
    return np.concatenate([np.zeros((len(twice), 1)), np.cumsum(twice, axis=1)], axis=1)
