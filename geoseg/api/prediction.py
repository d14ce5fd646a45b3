"""The results of a prediction, read when they are needed."""

from __future__ import annotations

import base64
import html
import io
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import rasterio
from affine import Affine
from geopandas import GeoDataFrame
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterioWindow

from geoseg.classes import IGNORE, LabelClass, class_color
from geoseg.errors import GeosegError, OutputError
from geoseg.geo.layers.geopackage import read_layers
from geoseg.geo.raster.class_raster import declared_classes
from geoseg.pipeline.summary import Summary

if TYPE_CHECKING:
    import xarray

_SIDE = 320
"""Longest side of the picture in a notebook, px."""


class AnyWindow(Protocol):
    """A pixel rectangle: `geoseg.Window` or that of rasterio."""

    @property
    def col_off(self) -> Any: ...
    @property
    def row_off(self) -> Any: ...
    @property
    def width(self) -> Any: ...
    @property
    def height(self) -> Any: ...


class ScratchFolder:
    """A temporary folder, removed with the last object that refers to this one."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="geoseg-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class RasterBand(NDArrayOperatorsMixin):
    """One band of a raster on disk, read on demand. NumPy and operators take it as an array (H,W).

    >>> corner = result.classes.read(geoseg.Window(0, 0, 512, 512))
    >>> planes = (result.classes == 14).sum()
    """

    path: Path
    """The GeoTIFF."""
    scratch: ScratchFolder | None = field(default=None, repr=False)
    """The temporary folder that holds it."""

    @cached_property
    def profile(self) -> dict[str, Any]:
        """rasterio's profile: size, data type, CRS, transform and nodata."""
        with rasterio.open(self.path) as dataset:
            return dict(dataset.profile)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.profile["height"], self.profile["width"]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.profile["dtype"])

    @property
    def transform(self) -> Affine:
        """(column, row) in pixels to (x, y) in the CRS."""
        transform: Affine = self.profile["transform"]
        return transform

    @property
    def crs(self) -> CRS | None:
        return self.profile["crs"]

    @property
    def nodata(self) -> float | None:
        return self.profile["nodata"]

    @property
    def legend(self) -> tuple[LabelClass, ...]:
        """The classes of the values; empty unless the band holds classes."""
        with rasterio.open(self.path) as dataset:
            return declared_classes(dataset)

    def read(self, window: AnyWindow | None = None) -> NDArray[Any]:
        """Return the pixels (H,W), or those of a window."""
        part = None
        if window is not None:
            part = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        with rasterio.open(self.path) as dataset:
            values: NDArray[Any] = dataset.read(1, window=part)
        return values

    def overview(self, side: int) -> NDArray[Any]:
        """Return the band reduced to at most `side` px, by nearest neighbors."""
        factor = max(1.0, max(self.shape) / side)
        shape = tuple(max(1, round(length / factor)) for length in self.shape)
        with rasterio.open(self.path) as dataset:
            values: NDArray[Any] = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
        return values

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the pixels are read from a file, so they cannot be had uncopied")
        values = self.read()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = (each.read() if isinstance(each, RasterBand) else each for each in inputs)
        return getattr(ufunc, method)(*arrays, **options)

    def to_xarray(self) -> xarray.DataArray:
        """Return the band as a DataArray (y,x), georeferenced as rioxarray does it.

        Raises GeosegError if xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise GeosegError("to_xarray needs xarray; install it: pip install xarray") from error
        (height, width), t = self.shape, self.transform
        coordinates: dict[str, Any] = {}
        if t.is_rectilinear:
            coordinates["x"] = t.c + t.a * (np.arange(width) + 0.5)
            coordinates["y"] = t.f + t.e * (np.arange(height) + 0.5)
        mapping = {"GeoTransform": " ".join(map(repr, t.to_gdal()))}
        if self.crs is not None:
            mapping |= {"crs_wkt": self.crs.to_wkt(), "spatial_ref": self.crs.to_wkt()}
        coordinates["spatial_ref"] = xarray.Variable((), 0, mapping)
        attributes = {} if self.nodata is None else {"_FillValue": self.nodata}
        name = self.path.stem.rpartition(".")[2]
        found = xarray.DataArray(self.read(), coordinates, ("y", "x"), name, attributes)
        found.encoding["grid_mapping"] = "spatial_ref"
        return found


@dataclass(frozen=True, eq=False)
class Prediction:
    """The results of one scene. In a notebook it shows a picture and a table of the classes.

    >>> result = geoseg.predict("scene.tif", out="results")
    >>> ships = result.objects[result.objects["class"] == "ship"]
    """

    summary: Summary
    """What was done: pixels, objects by class, seconds, options, notes."""
    scratch: ScratchFolder | None = field(default=None, repr=False)
    """The temporary folder of the results, unless they have one of their own."""

    @property
    def paths(self) -> dict[str, Path]:
        """The files by kind: classes, gpkg, confidence, …"""
        return {kind: Path(path) for kind, path in self.summary.outputs.items()}

    @cached_property
    def objects(self) -> GeoDataFrame:
        """The polygons, with class, area, confidence and dimensions, in the scene's CRS.

        Raises OutputError if `formats` had no gpkg.
        """
        if "gpkg" not in self.paths:
            raise OutputError("the objects are read from the GeoPackage; add 'gpkg' to formats")
        return read_layers(self.paths["gpkg"])

    @cached_property
    def classes(self) -> RasterBand:
        """The class of each pixel; 255 is nodata. `legend` has the names."""
        return RasterBand(self.paths["classes"], self.scratch)

    @cached_property
    def confidence(self) -> RasterBand | None:
        """The probability of each pixel's class in percent; 255 is nodata. None unless written."""
        path = self.paths.get("confidence")
        return None if path is None else RasterBand(path, self.scratch)

    def __repr__(self) -> str:
        counts = (f"{total.objects} {name}" for name, total in self.summary.classes.items())
        return f"<Prediction of {self.summary.scene}: {', '.join(counts) or 'no objects'}>"

    @property
    def _notes(self) -> tuple[str, ...]:
        damaged = len(self.summary.damaged)
        return (
            *self.summary.notes,
            *([f"windows that could not be read and became nodata: {damaged}"] if damaged else []),
        )

    def _repr_html_(self) -> str:
        summary, unit = self.summary, "m²" if self.summary.crs else "px²"
        picture, legend = "", tuple[LabelClass, ...]()
        if self.paths["classes"].exists():
            legend = self.classes.legend
            png = base64.b64encode(_drawn(self.classes.overview(_SIDE), legend)).decode()
            picture = f'<img alt="classes" src="data:image/png;base64,{png}">'
        colors = {item.name: "#{:02x}{:02x}{:02x}".format(*item.color) for item in legend}
        rows = "".join(
            f'<tr><td style="background:{colors.get(name, "none")}">&emsp;</td>'
            f"<td>{html.escape(name)}</td><td>{total.objects:,}</td>"
            f"<td>{total.area_m2:,.0f} {unit}</td></tr>"
            for name, total in summary.classes.items()
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self._notes)
        return (
            f"<p><b>{html.escape(summary.scene)}</b>: {summary.pixels / 1e6:.1f} Mpx, "
            f"{summary.objects:,} objects</p>{picture}<table><tr><th></th><th>class</th>"
            f"<th>objects</th><th>area</th></tr>{rows}</table><ul>{notes}</ul>"
        )


def _drawn(class_ids: NDArray[np.uint8], legend: Sequence[LabelClass]) -> bytes:
    """Return classes in their colors as a PNG; background and nodata are transparent."""
    table = np.array([(*class_color(i), 255) for i in range(256)], np.uint8)
    for item in legend:
        table[item.id, :3] = item.color
    table[[0, IGNORE], 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(table[class_ids]).save(buffer, "PNG")
    return buffer.getvalue()
