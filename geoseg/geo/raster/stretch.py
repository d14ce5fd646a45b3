"""Linear stretch of 16-bit and float pixels to 0-255, by one range for the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PERCENTILES = (2, 98)
_FILL_SHARE = 0.01
"""Share of pixels with a value far from all others that makes it an undeclared fill value."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """A linear stretch of each color: `low` becomes 0, `high` 255, values beyond are clipped.

    The result is uint8: a step is a hundredth of the contrast to which the model normalizes, and a
    scene takes a quarter of the memory of float32.
    """

    low: tuple[float, float, float]
    """Stored values of red, green and blue that become 0."""
    high: tuple[float, float, float]
    """Stored values that become 255; each above its `low`."""
    fill: float | None = None
    """An undeclared fill value, left out when the range was measured."""

    def apply(self, color: NDArray) -> NDArray[np.uint8]:
        """Stretch (3, H, W) of any real dtype to uint8; not-a-number becomes 0."""
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
        """Sentences for the user besides the range."""
        if self.fill is None:
            return ()
        return (
            f"many pixels hold {self.fill:g}, far from all others, and count as black or white; "
            f"if that means no data, declare it (gdal_edit.py -a_nodata {self.fill:g})",
        )


def rescale_by_percentiles(color: NDArray) -> Rescale:
    """Return the stretch between the 2nd and 98th percentile of valid pixels (3, N)."""
    if color.shape[1] == 0:
        return Rescale((0.0,) * 3, (1.0,) * 3)
    fill = _fill_value(color)
    if fill is not None:
        color = color[:, (color != fill).any(axis=0)]
    low, high = np.percentile(color.astype(np.float64), _PERCENTILES, axis=1)
    min_span = np.maximum(np.abs(low) * 1e-6, 1e-30)  # a constant scene becomes black
    high = np.maximum(high, low + min_span)
    return Rescale(tuple(low.tolist()), tuple(high.tolist()), fill)


def _fill_value(color: NDArray) -> float | None:
    """Return the value of all bands of many pixels (3, N), farther from the other values than these
    are from each other; None if there is none.

    -9999 among reflectances, for instance, would make them all white.
    """
    values = np.unique(color).astype(np.float64)
    if len(values) < 3:
        return None
    steps = np.diff(values)
    for value, gap, rest in (
        (values[0], steps[0], values[-1] - values[1]),
        (values[-1], steps[-1], values[-2] - values[0]),
    ):
        if gap > rest and (color == value).all(axis=0).mean() >= _FILL_SHARE:
            return float(value)
    return None
