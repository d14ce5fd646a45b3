"""The palette: one color per class id, on maps, rasters and pictures alike."""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (255, 135, 60),
    (240, 0, 15),
    (255, 225, 120),
    (0, 195, 240),
    (165, 75, 255),
    (225, 15, 150),
    (120, 255, 255),
    (255, 135, 195),
    (165, 255, 0),
    (165, 150, 255),
    (45, 120, 255),
    (180, 180, 0),
    (0, 225, 150),
    (255, 15, 255),
    (0, 165, 105),
    (0, 195, 0),
    (195, 105, 195),
    (255, 90, 120),
    (255, 180, 0),
    (165, 255, 165),
    (240, 120, 255),
    (255, 75, 195),
    (0, 240, 0),
    (210, 15, 210),
)
"""Colors of the ids 1, 2, …, chosen to be seen on asphalt, water and grass, and told apart: the
first 15, which are those of the built-in classes, by 0.15 in OKLab, all by 0.1."""
_GOLDEN = 0.618034
"""Multiples of the golden ratio never crowd on the circle of hues."""


def hue(class_id: int) -> Color:
    """Return the RGB color of a class, 0-255; bright for every id."""
    if 1 <= class_id <= len(PALETTE):
        return PALETTE[class_id - 1]
    strength = (0.9, 0.6, 0.75)[class_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN % 1, strength, 1)
    return round(red * 255), round(green * 255), round(blue * 255)
