"""Several files as one scene: a VRT over them, so that no object ends at a file's border.

The VRT is written here because rasterio has no gdalbuildvrt, and an index for GDAL's GTI driver
loses MINISWHITE, NBITS and the list of files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from geoseg.atomic import Staging
from geoseg.errors import OutputError, SceneError
from geoseg.geo.failures import vector_errors
from geoseg.geo.raster.address import absolute
from geoseg.geo.raster.bands import choose_bands, is_min_white, sample_bits
from geoseg.geo.raster.source import Source
from geoseg.geo.raster.validity import is_beyond_double
from geoseg.guard import check_outputs, refuse_inputs
from geoseg.interrupts import interruptible

_ALIGNED = 0.01
"""Pixels: files this close to a common grid lie on it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of a mosaic."""

    path: str
    name: str
    """The absolute path or address, in GDAL's notation."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    transform: Affine
    """(column, row) in pixels to (x, y) in CRS units."""
    crs: CRS | None
    """As declared."""
    dtype: str
    """NumPy's name."""
    colors: tuple[str, ...]
    """The color interpretation of each band but an alpha band."""
    nodata: float | None
    """As declared, if a double can hold it."""
    masks: tuple[str, ...]
    """Mask or alpha bands in a VRT's notation; a pixel is empty where all are 0."""
    files: tuple[str, ...]
    """Everything GDAL reads: the file, its sidecars, and what a VRT names."""
    bits: int
    """Per sample."""
    is_min_white: bool
    """Whether 0 is white."""


def write_mosaic(paths: Sequence[str], target: Path, *, overwrite: bool = False) -> None:
    """Write a VRT of the rasters at `paths` to `target`; where they overlap, later ones win.

    Pixels are empty where their file declares so, and where there is no file.

    Raises:
        SceneError: a file differs from the first in CRS, pixel size, bands, dtype or nodata value.
        OptionError: the VRT would replace one of its files.
        OutputError: it cannot be written, or exists and differs, without `overwrite`.
    """
    parts = interruptible(lambda: [_part(path) for path in paths])
    refuse_inputs([target], (file for part in parts for file in part.files))
    first = parts[0]
    for part in parts[1:]:
        _check_compatible(part, first)
    content = tostring(_vrt(parts), encoding="utf-8")
    if _holds(target, content):
        return
    check_outputs([target], (), overwrite=overwrite)
    with (
        Staging(target.parent, target.name) as staging,
        vector_errors(f"{target} cannot be written", OutputError),
    ):
        (staging.new / target.name).write_bytes(content)


def _vrt(parts: Sequence[_Part]) -> Element:
    first = parts[0]
    offsets = [~first.transform @ (part.transform.c, part.transform.f) for part in parts]
    columns, rows = ([_snapped(offset[axis]) for offset in offsets] for axis in (0, 1))
    left, top = floor(min(columns)), floor(min(rows))
    right = ceil(max(column + part.width for column, part in zip(columns, parts, strict=True)))
    bottom = ceil(max(row + part.height for row, part in zip(rows, parts, strict=True)))
    origin = first.transform @ Affine.translation(left, top)
    corners = [(column - left, row - top) for column, row in zip(columns, rows, strict=True)]

    vrt = Element("VRTDataset", rasterXSize=str(right - left), rasterYSize=str(bottom - top))
    if first.is_min_white:
        _add_structure(vrt, "MINISWHITE", "YES")
    if first.crs is not None:
        SubElement(vrt, "SRS").text = first.crs.to_wkt()
    SubElement(vrt, "GeoTransform").text = ", ".join(map(repr, origin.to_gdal()))
    data_type = typename_fwd[dtype_rev[first.dtype]]
    for number, color in enumerate(first.colors, start=1):
        band = SubElement(vrt, "VRTRasterBand", dataType=data_type, band=str(number))
        _add_structure(band, "NBITS", str(first.bits))
        SubElement(band, "ColorInterp").text = color.capitalize()
        if first.nodata is not None:
            SubElement(band, "NoDataValue").text = repr(first.nodata)
        for part, corner in zip(parts, corners, strict=True):
            _add_pixels(band, part, corner, number)
    if first.nodata is None or any(part.masks for part in parts):
        mask = SubElement(SubElement(vrt, "MaskBand"), "VRTRasterBand", dataType="Byte")
        for part, corner in zip(parts, corners, strict=True):
            _add_mask(mask, part, corner)
    return vrt


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _part(path: str) -> _Part:
    with closing(Source(path)) as source, source.dataset() as dataset:
        if isinstance(dataset, WarpedVRT):
            raise SceneError(f"{path}: placed by control points only; warp it first (gdalwarp)")
        if ColorInterp.palette in dataset.colorinterp:
            raise SceneError(f"{path}: has a palette; expand it first (gdal_translate -expand rgb)")
        if len(set(dataset.dtypes)) > 1 or len({*map(repr, dataset.nodatavals)}) > 1:
            raise SceneError(f"{path}: its bands differ in dtype or nodata value")
        bands, _ = choose_bands(path, dataset, None)
        validity, nodata = bands.validity, dataset.nodatavals[0]
        if validity.alpha and (validity.masks or nodata is not None):
            other = "a mask" if validity.masks else f"the nodata value {nodata:g}"
            raise SceneError(
                f"{path}: has both an alpha band and {other}; take one of them out (gdal_translate)"
            )
        colors = [color.name for color in dataset.colorinterp]
        if validity.alpha:
            del colors[validity.alpha - 1]
        return _Part(
            path=path,
            name=_gdal_name(path, dataset),
            width=dataset.width,
            height=dataset.height,
            transform=dataset.transform,
            crs=dataset.crs,
            dtype=dataset.dtypes[0],
            colors=tuple(colors),
            nodata=None if is_beyond_double(np.dtype(dataset.dtypes[0])) else nodata,
            masks=tuple(f"mask,{band}" for band in validity.masks or [1] * validity.has_mask),
            files=tuple(dataset.files),
            bits=sample_bits(dataset, 1),
            is_min_white=is_min_white(dataset),
        )


def _gdal_name(path: str, dataset: DatasetReader) -> str:
    """Return the raster's name as a VRT must spell it: GDAL does not know rasterio's URLs."""
    has_scheme = re.match("[a-z0-9+]+://", path) and dataset.files
    return str(dataset.files[0]) if has_scheme else absolute(path)


def _check_compatible(part: _Part, first: _Part) -> None:
    """Raise SceneError if `part` cannot share a VRT with `first`."""
    steps = [value for t in (part.transform, first.transform) for value in (t.a, t.b, t.d, t.e)]
    size = max(map(abs, steps))
    for what, ours, theirs in (
        ("CRS", part.crs, first.crs),
        ("bands", part.colors, first.colors),
        ("dtype", part.dtype, first.dtype),
        ("nodata value", part.nodata, first.nodata),
        ("bits a sample", part.bits, first.bits),
        ("MINISWHITE", part.is_min_white, first.is_min_white),
    ):
        if ours != theirs and repr(ours) != repr(theirs):  # NaN differs from itself
            raise SceneError(
                f"{part.path}: {what} {ours}, but {first.path} has {theirs}; the files of a "
                "mosaic must agree"
            )
    if any(abs(a - b) > 1e-6 * size for a, b in zip(steps[:4], steps[4:], strict=True)):
        raise SceneError(
            f"{part.path}: its pixels ({steps[0]:g}, {steps[3]:g}) are not those of {first.path} "
            f"({steps[4]:g}, {steps[7]:g}); warp the files to one grid first (gdalwarp -tr)"
        )


def _snapped(offset: float) -> float:
    """Round an offset in pixels that is nearly a whole number."""
    nearest = round(offset)
    return nearest if abs(offset - nearest) <= _ALIGNED else offset


def _add_pixels(band: Element, part: _Part, corner: tuple[float, float], number: int) -> None:
    source = _add_source(band, part, corner, str(number))
    if part.nodata is not None:
        SubElement(source, "NODATA").text = repr(part.nodata)
    if part.masks:
        SubElement(source, "UseMaskBand").text = "true"


def _add_mask(band: Element, part: _Part, corner: tuple[float, float]) -> None:
    for mask in part.masks:
        source = _add_source(band, part, corner, mask)
        SubElement(source, "NODATA").text = "0"  # another file may fill what is empty here
    if not part.masks:  # valid on the whole file, whatever it holds
        source = _add_source(band, part, corner, "1")
        SubElement(source, "ScaleOffset").text = "255"
        SubElement(source, "ScaleRatio").text = "0"


def _add_structure(element: Element, key: str, value: str) -> None:
    """Add metadata on how pixels are stored."""
    metadata = SubElement(element, "Metadata", domain="IMAGE_STRUCTURE")
    SubElement(metadata, "MDI", key=key).text = value


def _add_source(band: Element, part: _Part, corner: tuple[float, float], number: str) -> Element:
    source = SubElement(band, "ComplexSource")
    SubElement(source, "SourceFilename", relativeToVRT="0").text = part.name
    SubElement(source, "SourceBand").text = number
    size = {"xSize": str(part.width), "ySize": str(part.height)}
    SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    SubElement(source, "DstRect", {"xOff": repr(corner[0]), "yOff": repr(corner[1]), **size})
    return source
