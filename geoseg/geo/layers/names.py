"""Names of layers and files for classes, whose own names may hold anything."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from geoseg.classes import LabelClass

LONGEST = 100
"""Bytes of a name. Folder, stem and suffix come on top, and a file system has 255 for a file."""
_FORBIDDEN = re.compile(r'[<>:"/\\|?*!;]')
"""In files on some system, or in paths that GDAL or QGIS would read as addresses."""
_RESERVED = re.compile(
    r"(gpkg|sqlite_|rtree_|ogr_).*|layer_styles|qgis_projects|"
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|\W.*",
    re.IGNORECASE,
)
"""Tables of GeoPackage, SQLite and QGIS, devices of Windows, and, for GDAL, signs in front."""


def clean_name(name: str) -> str:
    """`name` as a layer or a file can be called: readable, not hidden, not reserved, not empty."""
    name = unicodedata.normalize("NFC", name)
    name = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in name)
    name = " ".join(_FORBIDDEN.sub("_", name).split())
    name = _cut(name.strip(" ."), LONGEST)
    if _RESERVED.fullmatch(name):
        name = f"class_{name}"
    return name or "unnamed"


def distinct_names(names: Iterable[str]) -> list[str]:
    """Cleaned names in the same order, no two of which differ in case only.

    A name that is clean keeps its spelling; of those that are not free the next are numbered from
    2. So they follow from the classes alone, not from those that a scene happens to show.
    """
    wanted = list(names)
    found: list[str | None] = [None] * len(wanted)
    taken: set[str] = set()
    for clean_ones in (True, False):
        for place, name in enumerate(wanted):
            neat = clean_name(name)
            if found[place] is None and (neat == name or not clean_ones):
                if clean_ones and neat.casefold() in taken:
                    continue
                found[place] = free = _free(neat, taken)
                taken.add(free.casefold())
    return [name for name in found if name is not None]


class LayerNames:
    """The layer, or file, of every class of a set."""

    def __init__(self, classes: Iterable[LabelClass] = ()) -> None:
        known = list(classes)
        names = distinct_names(label.name for label in known)
        self._names = {label.id: name for label, name in zip(known, names, strict=True)}

    def of(self, class_id: int, name: str) -> str:
        """Its name; a class that the set lacks gets one that none of the others has."""
        if class_id not in self._names:
            taken = {each.casefold() for each in self._names.values()}
            self._names[class_id] = _free(clean_name(name), taken)
        return self._names[class_id]


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{_cut(name, LONGEST - 4)}_{number}"
    return free


def _cut(name: str, size: int) -> str:
    return name.encode()[:size].decode(errors="ignore").rstrip(" .")
