"""Colours to look at, where a palette's own are too dark or too alike."""

from __future__ import annotations

import colorsys

GOLDEN = 0.618034
"""Multiples of the golden ratio never crowd on the circle of hues."""


def hue(class_id: int) -> tuple[int, int, int]:
    """RGB, bright, and far from the hues of neighbouring ids."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * GOLDEN % 1, 0.9, 1)
    return round(red * 255), round(green * 255), round(blue * 255)
