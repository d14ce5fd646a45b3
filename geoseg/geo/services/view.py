"""A VRT that shows one window of a raster, with alpha as its mask."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from affine import Affine
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from geoseg.tiling.grid import Window


def view_vrt(name: str, dataset: DatasetReader, window: Window) -> Element:
    """Return the VRT of a window of the open raster that GDAL calls `name`."""
    vrt = Element("VRTDataset", rasterXSize=str(window.width), rasterYSize=str(window.height))
    if dataset.crs is not None:
        SubElement(vrt, "SRS").text = dataset.crs.to_wkt()
    origin = dataset.transform @ Affine.translation(window.col_off, window.row_off)
    SubElement(vrt, "GeoTransform").text = ", ".join(map(repr, origin.to_gdal()))

    def add_band(parent: Element, source: int) -> Element:
        data_type = typename_fwd[dtype_rev[dataset.dtypes[source - 1]]]
        band = SubElement(parent, "VRTRasterBand", dataType=data_type)
        pixels = SubElement(band, "SimpleSource")
        SubElement(pixels, "SourceFilename", relativeToVRT="0").text = name
        SubElement(pixels, "SourceBand").text = str(source)
        size = {"xSize": str(window.width), "ySize": str(window.height)}
        offset = {"xOff": str(window.col_off), "yOff": str(window.row_off)}
        SubElement(pixels, "SrcRect", {**offset, **size})
        SubElement(pixels, "DstRect", {"xOff": "0", "yOff": "0", **size})
        return band

    alpha = None
    for source, color in enumerate(dataset.colorinterp, start=1):
        if color is ColorInterp.alpha:
            alpha = source
            continue
        band = add_band(vrt, source)
        SubElement(band, "ColorInterp").text = color.name.capitalize()
        if (nodata := dataset.nodatavals[source - 1]) is not None:
            SubElement(band, "NoDataValue").text = repr(nodata)
    if alpha is not None:
        add_band(SubElement(vrt, "MaskBand"), alpha)
    return vrt
