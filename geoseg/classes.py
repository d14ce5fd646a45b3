"""The iSAID classes, and the one value that means "no class"."""

from __future__ import annotations

from dataclasses import dataclass

from geoseg.hues import Color, hue

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
