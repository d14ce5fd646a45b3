"""Synthetic aerial scenes whose objects are known exactly.

They serve the demo, the benchmark and, mixed with real images, training. Only NumPy and Pillow are
needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.synthetic.canvas import Canvas
from geoseg.synthetic.layout import lay_out

__all__ = ["RenderedObject", "RenderedScene", "render_scene"]


@dataclass(frozen=True, slots=True)
class RenderedObject:
    """One known object."""

    class_id: int
    """iSAID id."""
    polygon: tuple[tuple[float, float], ...]
    """Outline: x, y in pixels from the upper left corner; may extend beyond the image."""


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """An image and its objects."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    class_ids: NDArray[np.uint8]
    """(H, W) iSAID ids of the pixels whose centers lie in an object's polygon; else 0."""
    objects: tuple[RenderedObject, ...]
    """The objects, each of at least one pixel; no two share a pixel."""


def render_scene(height: int, width: int, *, gsd: float = 0.3, seed: int) -> RenderedScene:
    """Render a scene of height × width pixels of `gsd` meters; it depends on the seed only.

    Streets, and often a river, divide the ground into plots, and each plot gets a land use that
    fits it. Sizes are true to the ground, so scenes of small extent have only small objects. All
    iSAID classes except helicopter and roundabout occur.
    """
    canvas = Canvas(height, width, gsd, np.random.default_rng(seed))
    lay_out(canvas)
    objects = tuple(
        RenderedObject(class_id, tuple((float(x), float(y)) for x, y in polygon))
        for class_id, polygon in canvas.objects
    )
    return RenderedScene(canvas.develop(), canvas.class_ids, objects)
