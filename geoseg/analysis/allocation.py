"""The size of a stratified sample, and its allocation to strata.

After Olofsson et al. (2014), Remote Sens. Environ. 148, 42-57, section 5.1, and Cochran (1977),
"Sampling Techniques", chapter 5.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import OptionError

Allocation = Literal["proportional", "neyman", "equal"]
ALLOCATIONS = get_args(Allocation)
Floats = NDArray[np.float64]


def sample_size(sizes: Floats, users_accuracy: Floats, standard_error: float) -> int:
    """Return the number of points for a standard error of the overall accuracy.

    Olofsson et al. (2014), equation 13.

    Args:
        sizes: (H,) pixels of each stratum.
        users_accuracy: (H,) expected.
        standard_error: wanted.
    """
    shares = sizes / sizes.sum()
    return math.ceil((shares @ deviation(users_accuracy) / standard_error) ** 2)


def deviation(users_accuracy: Floats) -> Floats:
    """Return the standard deviations (H,) of strata whose points are right with a probability."""
    spread: Floats = np.sqrt(users_accuracy * (1 - users_accuracy))
    return spread


def allocate(
    sizes: NDArray[np.int64],
    count: int,
    how: Allocation,
    *,
    users_accuracy: Floats,
    minimum: int,
) -> NDArray[np.int64]:
    """Distribute `count` points to strata, (H,).

    Strata whose part would be below the minimum get the minimum, and the others share the rest.
    No stratum gets more points than it has pixels, and empty ones get none.

    Args:
        sizes: (H,) pixels of each stratum.
        users_accuracy: (H,) expected; the Neyman allocation gives uncertain strata more.

    Raises OptionError if the minimum alone exceeds `count`.
    """
    floor = np.minimum(sizes, minimum)
    if floor.sum() > count:
        raise OptionError(
            f"--min-per-class {minimum} takes {floor.sum()} points for {np.count_nonzero(sizes)} "
            f"classes, and --size is {count}; give a larger --size or a smaller minimum"
        )
    weights = {
        "proportional": sizes.astype(np.float64),
        "neyman": sizes * deviation(users_accuracy),
        "equal": (sizes > 0).astype(np.float64),
    }[how]
    points = np.zeros(len(sizes), np.int64)
    free = sizes > 0
    while free.any():
        rest = min(count, int(sizes.sum())) - int(points.sum())
        part = np.where(free, weights, 0)
        part = rest * part / part.sum() if part.sum() > 0 else rest * free / free.sum()
        bounded = np.clip(part, floor, sizes)
        low, high = free & (part < floor), free & (part > sizes)
        fixed = low if low.any() else high
        if not fixed.any():
            points[free] = largest_remainders(part[free], rest)
            break
        points[fixed] = bounded[fixed]
        free &= ~fixed
    return points


def largest_remainders(parts: Floats, total: int) -> NDArray[np.int64]:
    """Round parts to whole numbers that add up to `total`."""
    whole = np.floor(parts).astype(np.int64)
    order = np.argsort(whole - parts, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole
