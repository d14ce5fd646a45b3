"""16-bit and float pixels onto 0-255, by one range for the whole scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PERCENTILES = (2, 98)
_SHARE = 0.01
"""Of pixels that must hold a value far from all others to be taken for an undeclared filling."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """A linear stretch of each colour: `low` becomes 0, `high` 255, what lies outside is clipped.

    The result is uint8: a step is 1/255 of the range, a hundredth of the contrast that the model
    normalises to, and a scene takes a quarter of the memory and traffic of float32.
    """

    low: tuple[float, float, float]
    """Stored values of red, green and blue that become 0."""
    high: tuple[float, float, float]
    """Stored values that become 255; each above its `low`."""
    filling: float | None = None
    """A value far from all others, left out when the range was measured."""

    def apply(self, color: NDArray) -> NDArray[np.uint8]:
        """(3, H, W) of any real dtype to uint8; not-a-number becomes 0."""
        working = np.result_type(color.dtype, np.float32)
        low = np.asarray(self.low, working)[:, None, None]
        span = np.asarray(self.high, working)[:, None, None] - low
        with np.errstate(over="ignore", invalid="ignore"):  # infinities are clipped below
            scaled = (color.astype(working) - low) / span * 255
        return np.nan_to_num(np.rint(scaled).clip(0, 255), nan=0).astype(np.uint8)

    def __str__(self) -> str:
        pairs = zip(self.low, self.high, strict=True)
        return ", ".join(f"{low:g} to {high:g}" for low, high in dict.fromkeys(pairs))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know besides the range."""
        if self.filling is None:
            return ()
        return (
            f"many pixels hold {self.filling:g}, far from all others, and count as black or white; "
            f"if that means no data, declare it (gdal_edit.py -a_nodata {self.filling:g})",
        )


def rescale_by_percentiles(color: NDArray) -> Rescale:
    """The range between the 2nd and 98th percentile of each row of `color` (3, N), valid pixels."""
    if color.shape[1] == 0:
        return Rescale((0.0,) * 3, (1.0,) * 3)
    filling = _filling(color)
    if filling is not None:
        color = color[:, (color != filling).any(axis=0)]
    low, high = np.percentile(color.astype(np.float64), _PERCENTILES, axis=1)
    least = np.maximum(np.abs(low) * 1e-6, 1e-30)  # one constant value: black
    high = np.maximum(high, low + least)
    return Rescale(tuple(low.tolist()), tuple(high.tolist()), filling)


def _filling(color: NDArray) -> float | None:
    """The value that fills whole pixels of `color` (3, N), farther from the others than these are
    from each other; None where there is none. -9999 among reflectances would make them all white.
    """
    values = np.unique(color).astype(np.float64)
    if len(values) < 3:
        return None
    steps = np.diff(values)
    for value, gap, rest in (
        (values[0], steps[0], values[-1] - values[1]),
        (values[-1], steps[-1], values[-2] - values[0]),
    ):
        if gap > rest and (color == value).all(axis=0).mean() >= _SHARE:
            return float(value)
    return None
