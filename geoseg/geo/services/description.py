"""GDAL's descriptions of services, with a cache and limits where they leave them out."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement, tostring

from geoseg.errors import SceneError
from geoseg.geo.raster.address import absolute
from geoseg.geo.services.cache import cache_folder
from geoseg.geo.services.template import TileTemplate

_DEFAULTS = {"MaxConnections": "2", "Timeout": "30"}
"""Requests at a time, and seconds."""
_CACHE = {"Expires": str(30 * 24 * 3600), "MaxSize": str(4 * 2**30)}
"""Seconds and bytes; GDAL's own limit of 64 MB is less than a town."""
EMPTY = "204,404"
"""HTTP codes of servers that have no picture of a place."""


def described(path: str) -> str:
    """Return the name by which GDAL opens a service: a description's text, or what was given.

    Raises SceneError for a description that is no XML.
    """
    is_text = path.lstrip().startswith("<")
    if not is_text and not os.path.lexists(path):
        return path  # a connection string
    try:
        root = ElementTree.fromstring(path if is_text else Path(path).read_bytes())
    except (ElementTree.ParseError, OSError) as error:
        raise SceneError(f"{path}: no description that GDAL reads: {error}") from error
    if root.tag == "GDAL_WMS":
        return _with_defaults(root)
    return tostring(root, encoding="unicode") if root.tag == "GDAL_WMTS" else absolute(path)


def described_tiles(template: TileTemplate, zoom: int, *, empty: str = EMPTY) -> str:
    """Return the description of a template's tiles at a zoom level.

    Args:
        empty: HTTP codes of servers that have no tile, which is transparent then.
    """
    root = template.description(zoom)
    SubElement(root, "ZeroBlockHttpCodes").text = empty
    return _with_defaults(root)


def _with_defaults(root: Element) -> str:
    for name, value in _DEFAULTS.items():
        _add(root, name, value)
    cache = root.find("Cache")
    if cache is None:
        cache = SubElement(root, "Cache")
    _add(cache, "Path", str(cache_folder()))
    for name, value in _CACHE.items():
        _add(cache, name, value)
    return tostring(root, encoding="unicode")


def _add(parent: Element, name: str, value: str) -> None:
    if parent.find(name) is None:
        SubElement(parent, name).text = value
