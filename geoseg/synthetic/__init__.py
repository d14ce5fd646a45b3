"""Synthetic aerial scenes whose objects are known exactly.

For the demo and, mixed into real images, for training. Needs numpy and pillow only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas
from .layout import lay_out

__all__ = ["RenderedObject", "RenderedScene", "render_scene"]


@dataclass(frozen=True, slots=True)
class RenderedObject:
    """One known object."""

    class_id: int
    """iSAID id."""
    polygon: tuple[tuple[float, float], ...]
    """Outline, pixel x, y from the upper left corner; may reach beyond the picture."""


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """A picture and what is in it."""

    image: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    class_ids: NDArray[np.uint8]
    """(H, W), iSAID ids: the pixels whose centre lies in an object's polygon."""
    objects: tuple[RenderedObject, ...]
    """Every object with at least one pixel; they share no pixel."""


def render_scene(height: int, width: int, *, gsd: float = 0.3, seed: int) -> RenderedScene:
    """A scene of height × width pixels of `gsd` metres; the same seed gives the same scene.

    Streets, and often a river, divide the ground into plots, and each plot gets a land use that
    fits it. Sizes are true to the ground, so a small or fine scene holds only small things. All
    iSAID classes but helicopter and roundabout occur.
    """
    canvas = Canvas(height, width, gsd, np.random.default_rng(seed))
    lay_out(canvas)
    objects = tuple(
        RenderedObject(class_id, tuple((float(x), float(y)) for x, y in polygon))
        for class_id, polygon in canvas.objects
    )
    return RenderedScene(canvas.develop(), canvas.class_ids, objects)
