"""Pictures of a scene for a report, within a budget of bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoseg.classes import Color
from geoseg.geo.raster.scene import Scene
from geoseg.tiling.grid import Window

SIDE = 4096
"""Longer side of the overview, px, at most."""
OVERVIEW_BYTES, PAINTED_BYTES = 2_600_000, 1_000_000
CROP = 160
"""Side of the picture of an object, px."""
_MARGIN = 0.6
"""Surroundings of an object in its picture, in sizes of the object."""
_MIN_CROP = 24
"""Least side of what such a picture shows, px of the scene."""


def overview(scene: Scene, window: Window) -> Image.Image:
    """Return a part of a scene, its longer side SIDE at most; white where there is no data."""
    pixels = scene.overview(SIDE, window)
    image = np.where(pixels.valid, pixels.image, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))


def jpeg(image: Image.Image, limit: int = OVERVIEW_BYTES) -> str:
    """Return the address of an image as JPEG, reduced until it has at most `limit` bytes."""
    return _within(image, limit, "JPEG", Image.Resampling.BOX, quality=82)


def painted(
    size: tuple[int, int],
    shapes: NDArray[np.object_],
    kinds: Sequence[int],
    colors: Sequence[Color],
) -> str:
    """Return the address of a picture of filled polygons on transparent ground.

    Args:
        size: columns and rows.
        shapes: (N,) polygons in pixels.
        kinds: (N,) index of the color of each.
    """
    image = Image.new("P", size, 0)
    image.putpalette([0, 0, 0, *(part for color in colors for part in color)])
    canvas = ImageDraw.Draw(image)
    parts, owner = shapely.get_parts(shapes, return_index=True)
    for part, kind in zip(parts, np.asarray(kinds)[owner], strict=True):
        canvas.polygon([tuple(xy) for xy in part.exterior.coords], fill=int(kind) + 1)
    return _within(image, PAINTED_BYTES, "PNG", Image.Resampling.NEAREST, transparency=0)


def object_picture(
    scene: Scene, shape: shapely.Geometry, to_pixels: Callable[..., NDArray], color: Color
) -> str:
    """Return the address of a picture of an object and its surroundings.

    Args:
        shape: in the CRS of the scene.
        to_pixels: converts points (N,2) in the CRS to pixels of the scene.
    """
    outline = shapely.transform(shape, to_pixels)
    left, top, right, bottom = shapely.bounds(outline)
    side = max(right - left, bottom - top)
    side = math.ceil(max(side * (1 + _MARGIN), side + 8, _MIN_CROP))
    geobox = scene.geobox
    side = min(side, geobox.width, geobox.height)
    column = int(np.clip(round((left + right - side) / 2), 0, geobox.width - side))
    row = int(np.clip(round((top + bottom - side) / 2), 0, geobox.height - side))
    pixels = scene.overview(CROP, Window(column, row, side, side))
    image = Image.fromarray(np.ascontiguousarray(pixels.image.transpose(1, 2, 0)))
    image = image.resize((CROP, CROP), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(image)
    for part in shapely.get_parts(outline):
        for ring in (part.exterior, *part.interiors):
            points = (shapely.get_coordinates(ring) - (column, row)) * (CROP / side)
            canvas.line([tuple(point) for point in points], fill=color, width=2)
    return jpeg(image, 20_000)


def _within(
    image: Image.Image, limit: int, form: str, how: Image.Resampling, **options: int
) -> str:
    while len(content := _encoded(image, form, **options)) > limit:
        factor = min(0.9, math.sqrt(limit / len(content)))
        image = image.resize([max(1, int(side * factor)) for side in image.size], how)
    return f"data:image/{form.lower()};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, optimize=True, **options)
    return buffer.getvalue()
