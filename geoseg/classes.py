"""The iSAID classes, and the one value that means "no class"."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

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


IGNORE = 255
"""Ignored in training and metrics, nodata in class rasters."""

LONGEST_NAME = 64
"""Characters of a class name."""


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class of a segmentation."""

    id: int
    """Value in class rasters and masks, channel in logits."""
    name: str
    color: Color
    """RGB, 0-255."""


ISAID_MASK_COLORS: dict[str, Color] = {
    "background": (0, 0, 0),
    "ship": (0, 0, 63),
    "storage_tank": (0, 63, 63),
    "baseball_diamond": (0, 63, 0),
    "tennis_court": (0, 63, 127),
    "basketball_court": (0, 63, 191),
    "ground_track_field": (0, 63, 255),
    "bridge": (0, 127, 63),
    "large_vehicle": (0, 127, 127),
    "small_vehicle": (0, 0, 127),
    "helicopter": (0, 0, 191),
    "swimming_pool": (0, 0, 255),
    "roundabout": (0, 191, 127),
    "soccer_ball_field": (0, 127, 191),
    "plane": (0, 127, 255),
    "harbor": (0, 100, 155),
}
"""By name in the order of ids: the colors of iSAID's masks (Waqas Zamir et al., CVPR workshops
2019). Too dark and too alike to be seen on a picture, so they are for reading masks only."""

ISAID = tuple(
    LabelClass(i, name, hue(i) if i else (0, 0, 0)) for i, name in enumerate(ISAID_MASK_COLORS)
)
"""Ids and names of iSAID, in the colors of our palette."""


def fault_of_name(name: str) -> str:
    """Return what keeps `name` from being a class's, or nothing if it can be.

    Layers and files are called by a cleaned name, so any text on one line will do.
    """
    if not 1 <= len(name) <= LONGEST_NAME:
        return f"has {len(name)} characters; give it 1 to {LONGEST_NAME}"
    if hidden := [letter for letter in name if not letter.isprintable()]:
        return f"has the character {hidden[0]!r}; use printable ones"
    return "" if name == name.strip() else "begins or ends with a space; remove it"


def display_color(name: str, stored: Color) -> Color:
    """Return the color to draw a class in that a file stores with `stored`.

    Older files hold iSAID's classes in the colors of its masks; the palette's take their place.
    """
    if ISAID_MASK_COLORS.get(name) != stored:
        return stored
    return next(item.color for item in ISAID if item.name == name)
