"""Accuracy and area of a map, estimated from a stratified random sample.

The estimators are those of Stehman (2014), "Estimating area and map accuracy for stratified random
sampling when the strata are different from the map classes", Int. J. Remote Sens. 35, 4923-4939,
pp. 4929-4932. Where the strata are the classes of the map, they equal those of Olofsson et al.
(2014), "Good practices for estimating area and assessing accuracy of land change", Remote Sens.
Environ. 148, 42-57, equations 1 to 11, but for the share of the map that the sample covers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import DataError

Z = 1.96
"""Standard errors on either side in an interval of 95 %."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated value and its standard error."""

    value: float
    """NaN if no sample tells."""
    error: float
    """Standard error; NaN if the sample does not tell, because all of its points agree."""

    @classmethod
    def of(cls, value: float, variance: float) -> Estimate:
        """Return an estimate; a variance of 0 is no certainty, but a sample without a dissenter."""
        known = variance > 1e-18
        return cls(value, math.sqrt(variance) if known else math.nan)

    @property
    def half_width(self) -> float:
        """Half of the interval of 95 %."""
        return Z * self.error

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, self.error * factor)

    def as_dict(self) -> dict[str, float | None]:
        """Return values for JSON; NaN becomes None."""
        values = {"value": self.value, "standard_error": self.error, "ci95": self.half_width}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """The accuracy of one class."""

    name: str
    users: Estimate
    """Share of the class on the map that is right; 1 - error of commission."""
    producers: Estimate
    """Share of the class on the ground that the map shows; 1 - error of omission."""
    share: Estimate
    """Share of the ground that is of the class, whatever the map says."""
    mapped: int
    """Sample points of the class on the map."""
    found: int
    """Sample points of the class on the ground."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of a map."""

    names: tuple[str, ...]
    """Classes, in the order of the matrix."""
    matrix: Floats
    """(C,C) estimated shares of the ground: rows are classes of the map, columns of the ground."""
    overall: Estimate
    classes: tuple[ClassAccuracy, ...]
    points: int
    """Size of the sample."""

    @property
    def without_interval(self) -> list[str]:
        """Classes whose user's or producer's accuracy has no interval."""
        return [
            item.name
            for item in self.classes
            for estimate in (item.users, item.producers)
            if math.isnan(estimate.error) and not math.isnan(estimate.value)
        ]


@dataclass(frozen=True, slots=True)
class Sample:
    """A labeled sample of n points from H strata."""

    stratum: NDArray[np.object_]
    """(n,) names."""
    mapped: NDArray[np.object_]
    """(n,) class on the map."""
    truth: NDArray[np.object_]
    """(n,) class on the ground."""
    sizes: Mapping[str, float]
    """Pixels, or area, of each stratum."""


def estimate(sample: Sample, order: Sequence[str] = ()) -> Accuracy:
    """Estimate the accuracy of a map and the area of its classes.

    Args:
        order: classes in the order of the result; others follow alphabetically.

    Raises:
        DataError: a stratum has fewer than two points or no known size, or all points agree, so
            that no interval can be given.
    """
    _check(sample)
    present = {*sample.mapped, *sample.truth}
    names = [name for name in order if name in present]
    names += sorted(present.difference(names))
    strata = Strata.of(sample)
    mapped = {name: sample.mapped == name for name in names}
    truth = {name: sample.truth == name for name in names}
    overall = strata.mean(sample.mapped == sample.truth)
    if math.isnan(overall.error):
        right = "right" if overall.value == 1 else "wrong"
        raise DataError(
            f"all {len(sample.truth)} points are {right}, so the sample says nothing of its "
            "uncertainty, and an interval of width 0 would be false; label more points"
        )
    matrix = [[strata.mean(mapped[m] & truth[t]).value for t in names] for m in names]
    classes = tuple(
        ClassAccuracy(
            name=name,
            users=strata.ratio(mapped[name] & truth[name], mapped[name]),
            producers=strata.ratio(mapped[name] & truth[name], truth[name]),
            share=strata.mean(truth[name]),
            mapped=int(mapped[name].sum()),
            found=int(truth[name].sum()),
        )
        for name in names
    )
    return Accuracy(tuple(names), np.array(matrix), overall, classes, len(sample.truth))


def _check(sample: Sample) -> None:
    names, counts = np.unique(sample.stratum.astype(str), return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    if unknown := [name for name in found if name not in sample.sizes]:
        raise DataError(
            f"the size of stratum {unknown[0]} is not known; known are "
            f"{', '.join(sample.sizes) or 'none'}"
        )
    for name, size in sample.sizes.items():
        if size > 0 and found.get(name, 0) < 2:
            raise DataError(
                f"stratum {name} has {found.get(name, 0)} labeled points, and a variance needs "
                "two; label more of its points, or draw a larger sample (--min-per-class)"
            )


@dataclass(frozen=True, slots=True)
class Strata:
    """The strata of a sample, and estimators over them. H strata, n points."""

    index: NDArray[np.intp]
    """(n,) stratum of each point."""
    sizes: Floats
    """(H,) N_h."""
    points: Floats
    """(H,) n_h."""

    @classmethod
    def of(cls, sample: Sample) -> Strata:
        names = [name for name, size in sample.sizes.items() if size > 0]
        numbers = {name: number for number, name in enumerate(names)}
        index = np.array([numbers[name] for name in sample.stratum], np.intp)
        sizes = np.array([sample.sizes[name] for name in names], np.float64)
        return cls(index, sizes, np.bincount(index, minlength=len(names)).astype(np.float64))

    def mean(self, values: NDArray[Any]) -> Estimate:
        """Estimate the mean of (n,) values over the map."""
        average, total = self._means(values), self.sizes.sum()
        spread = self._covariance(values, values)
        return Estimate.of(float(self.sizes @ average / total), self._variance(spread) / total**2)

    def ratio(self, values: NDArray[Any], base: NDArray[Any]) -> Estimate:
        """Estimate the ratio of the totals of (n,) values and (n,) `base` over the map."""
        total = float(self.sizes @ self._means(base))
        if total == 0:
            return Estimate(math.nan, math.nan)
        ratio = float(self.sizes @ self._means(values)) / total
        spread = (
            self._covariance(values, values)
            + ratio**2 * self._covariance(base, base)
            - 2 * ratio * self._covariance(values, base)
        )
        return Estimate.of(ratio, self._variance(spread) / total**2)

    def _means(self, values: NDArray[Any]) -> Floats:
        sums: Floats = np.bincount(self.index, values, len(self.sizes)) / self.points
        return sums

    def _covariance(self, one: NDArray[Any], other: NDArray[Any]) -> Floats:
        """Return the sample covariances (H,)."""
        products = (one - self._means(one)[self.index]) * (other - self._means(other)[self.index])
        sums: Floats = np.bincount(self.index, products, len(self.sizes)) / (self.points - 1)
        return sums

    def _variance(self, spread: Floats) -> float:
        """Return the variance of an estimated total from the variances (H,) within strata."""
        unseen = np.maximum(1 - self.points / self.sizes, 0)
        return float(np.sum(self.sizes**2 * unseen * spread / self.points))
