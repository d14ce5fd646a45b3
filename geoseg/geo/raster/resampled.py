"""A scene at the ground sample distance (GSD) at which the model sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.scene import Pixels, Scene
from geoseg.tiling.grid import Window
from geoseg.tiling.resample import Resampler

_MAX_STEP = 32
"""Scene pixels a side that become one by default, at most."""


@dataclass(frozen=True, slots=True)
class ResampledScene:
    """A scene on a grid of larger or smaller pixels, the model's input.

    Outputs stay on the scene's own grid, whose pixel (x, y) lies at (x / step[0], y / step[1]) of
    the resampled one.
    """

    scene: Scene
    """The scene on its own grid."""
    resampler: Resampler
    """The mapping between the two grids."""

    @classmethod
    def of(cls, scene: Scene, *, gsd: float | None = None, scale: float = 1.0) -> ResampledScene:
        """Return the scene at a ground sample distance.

        Args:
            gsd: meters a pixel, square on the ground; None keeps the scene's own pixels.
            scale: factor by which the result is enlarged.

        Raises SceneError if the scene's GSD is unknown, or too far from `gsd`.
        """
        across, down = 1.0, 1.0
        if gsd is not None:
            size = scene.geobox.pixel_size
            if size is None:
                raise SceneError(
                    f"{scene.path}: the size of its pixels on the ground is not known (no CRS); "
                    f"a GSD of {gsd:g} m cannot be reached: leave --gsd out"
                )
            across, down = gsd / size[0], gsd / size[1]
        across, down = across / scale, down / scale
        if not all(1 / 32 <= step <= 64 for step in (across, down)):
            raise SceneError(
                f"{scene.path}: {across:.3g} × {down:.3g} of its pixels would become one; "
                "1/32 to 64 are possible: give another --gsd"
            )
        size = scene.geobox.width, scene.geobox.height
        return cls(scene, Resampler.of(*size, across, down))

    @property
    def step(self) -> tuple[float, float]:
        """Scene pixels per resampled pixel, across and down; exact."""
        return self.resampler.step

    @property
    def geobox(self) -> GeoBox:
        """The resampled grid. Its last row and column may extend beyond the scene."""
        scene, (width, height) = self.scene.geobox, self.resampler.size
        scale = scene.transform.scale(*self.step)
        return GeoBox(height, width, scene.transform @ scale, scene.crs)

    def read(self, window: Window) -> Pixels:
        """Return the resampled pixels under `window`. Raises SceneError if the file is damaged."""
        damaged: list[Window] = []

        def read_scene(part: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            pixels = self.scene.read(part)
            damaged.extend(pixels.damaged)
            return pixels.image, pixels.valid

        image, valid = self.resampler.read(window, read_scene)
        return Pixels(image, valid, tuple(damaged))

    def to_scene(self, window: Window) -> Window | None:
        """Return the scene's pixels whose centers lie in `window` of the resampled grid."""
        return self.resampler.source_window(window)


def suitable_gsd(own: float | None, known: tuple[float, float] | None) -> float | None:
    """Return the GSD, in meters, at which a model should see a scene; None keeps the scene's.

    A scene finer than all training data is coarsened to it, as its objects would look too large
    and each square meter would cost more. A coarse scene is never refined: detail that is missing
    cannot be made.

    Args:
        own: the scene's GSD; None if unknown.
        known: finest and coarsest GSD of the training data.
    """
    if own is None or known is None or own >= 0.9 * known[0]:
        return None
    return min(known[0], _MAX_STEP * own)
