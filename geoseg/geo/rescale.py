"""16-bit and float pixels onto 0-255, by one range for the whole scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PERCENTILES = (2, 98)


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


def rescale_by_percentiles(color: NDArray) -> Rescale:
    """The range between the 2nd and 98th percentile of each row of `color` (3, N), valid pixels."""
    if color.shape[1] == 0:
        return Rescale((0.0,) * 3, (1.0,) * 3)
    low, high = np.percentile(color.astype(np.float64), _PERCENTILES, axis=1)
    least = np.maximum(np.abs(low) * 1e-6, 1e-30)  # one constant value: black
    high = np.maximum(high, low + least)
    return Rescale(tuple(low.tolist()), tuple(high.tolist()))
