"""A scene at the ground sample distance that the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.scene import Pixels, Scene
from geoseg.tiling.grid import Window
from geoseg.tiling.resample import Resampler

_COARSEST = 32
"""Scene pixels a side that become one unasked, at most."""


@dataclass(frozen=True, slots=True)
class View:
    """A scene on a grid of larger or smaller pixels: what the model works on.

    Outputs stay on the scene's own grid. Its pixel (x, y) lies at x / step[0], y / step[1] of the
    view, both counted from the same upper left corner.
    """

    scene: Scene
    resampler: Resampler

    @classmethod
    def of(cls, scene: Scene, *, gsd: float | None = None, scale: float = 1.0) -> View:
        """The scene as the model wants it.

        gsd: metres a pixel, made square on the ground; None keeps the scene's own pixels.
        scale: factor by which pixels are enlarged after that.
        Raises SceneError where the scene's GSD is not known or is out of all proportion.
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
        """Scene pixels per pixel of the view, across and down; exact."""
        return self.resampler.step

    @property
    def geobox(self) -> GeoBox:
        """The view's own grid. Its last row and column may reach beyond the scene."""
        scene, (width, height) = self.scene.geobox, self.resampler.size
        scale = scene.transform.scale(*self.step)
        return GeoBox(height, width, scene.transform @ scale, scene.crs)

    def read(self, window: Window) -> Pixels:
        """The pixels under `window` of the view. Raises SceneError where the file is damaged."""
        damaged: list[Window] = []

        def read_scene(part: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            pixels = self.scene.read(part)
            damaged.extend(pixels.damaged)
            return pixels.image, pixels.valid

        image, valid = self.resampler.read(window, read_scene)
        return Pixels(image, valid, tuple(damaged))

    def on_scene(self, window: Window) -> Window | None:
        """The scene's pixels whose centers lie in `window` of the view; see `source_window`."""
        return self.resampler.source_window(window)


def suitable_gsd(own: float | None, known: tuple[float, float] | None) -> float | None:
    """Metres a pixel at which a model should see a scene; None = as it is.

    Coarser than the scene's `own` where that is finer than all that the model was trained on:
    what it knows would be too large for it, and each square metre would cost more. Never finer:
    pixels that are not there cannot be made.

    Args:
        known: finest and coarsest of its training.
    """
    if own is None or known is None or own >= 0.9 * known[0]:
        return None
    return min(known[0], _COARSEST * own)
