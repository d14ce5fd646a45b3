"""Names of layers and files for classes, whose own names may contain any character."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from geoseg.classes import LabelClass

LONGEST = 100
"""Bytes of a name. File systems allow 255 for a file name, of which stem and suffix take some."""
_FORBIDDEN = re.compile(r'[<>:"/\\|?*!;]')
"""Not allowed in file names on some system, or special to GDAL or QGIS in paths."""
_RESERVED = re.compile(
    r"(gpkg|sqlite_|rtree_|ogr_).*|layer_styles|qgis_projects|"
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|\W.*",
    re.IGNORECASE,
)
"""Tables of GeoPackage, SQLite and QGIS, devices of Windows, and, for GDAL, leading symbols."""


def clean_name(name: str) -> str:
    """Return `name` as a layer or file name: readable, not hidden, not reserved, not empty."""
    name = unicodedata.normalize("NFC", name)
    name = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in name)
    name = " ".join(_FORBIDDEN.sub("_", name).split())
    name = truncate(name.strip(" ."), LONGEST).rstrip(" .")
    if _RESERVED.fullmatch(name):
        name = f"class_{name}"
    return name or "unnamed"


def distinct_names(names: Iterable[str]) -> list[str]:
    """Return clean names in the same order, which differ in more than case.

    The first of equal names keeps it, and names that are clean already come first; the others get
    a number from 2. So layers depend on the set of classes only, not on the scene.
    """
    wanted = list(names)
    found: dict[int, str] = {}
    taken: set[str] = set()
    for index, name in enumerate(wanted):
        if clean_name(name) == name and name.casefold() not in taken:
            found[index] = name
            taken.add(name.casefold())
    for index, name in enumerate(wanted):
        if index not in found:
            found[index] = _numbered(clean_name(name), taken)
            taken.add(found[index].casefold())
    return [found[index] for index in range(len(wanted))]


class LayerNames:
    """Names of the layers, or files, of a set of classes."""

    def __init__(self, classes: Iterable[LabelClass] = ()) -> None:
        known = list(classes)
        names = distinct_names(label.name for label in known)
        self._names = {label.id: name for label, name in zip(known, names, strict=True)}

    def of(self, class_id: int, name: str) -> str:
        """Return the name of a class; one that the set lacks gets a name of its own."""
        if class_id not in self._names:
            taken = {each.casefold() for each in self._names.values()}
            self._names[class_id] = _numbered(clean_name(name), taken)
        return self._names[class_id]


def _numbered(name: str, taken: set[str]) -> str:
    """Return `name`, with the first number from 2 that makes it distinct if it is taken."""
    number, result = 1, name
    while result.casefold() in taken:
        number += 1
        result = f"{truncate(name, LONGEST - 4).rstrip(' .')}_{number}"
    return result


def truncate(name: str, size: int) -> str:
    """Return `name` without the characters beyond `size` bytes of UTF-8."""
    return name.encode()[:size].decode(errors="ignore")
