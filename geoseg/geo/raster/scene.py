"""One input raster, opened: its grid, and pixels as 8-bit RGB with validity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import DatasetReader

from geoseg.errors import OptionError, SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.address import scene_stem
from geoseg.geo.raster.bands import Bands, choose_bands, reduced_shape, sample, sample_bits
from geoseg.geo.raster.collar import HALO, Collar, find_collars
from geoseg.geo.raster.damage import read_around_damage, read_decimated_around_damage
from geoseg.geo.raster.source import Source, sample_bytes
from geoseg.geo.raster.stretch import Rescale, rescale_by_percentiles
from geoseg.tiling.grid import Window

_COARSE = 2048
"""Cells a side of the image on which collars are found."""
_MAX_SCANNED = 2**34
"""Pixels up to which a file without overviews is read completely to find collars."""
_MAX_BLOCK_BYTES = 2 * 2**30
"""Memory that decoding one block of the file may take."""
_Image = tuple[NDArray, NDArray[np.bool_]]
"""Colors (3, h, w) and validity (h, w)."""
_Look = Callable[[Window, tuple[int, int], Resampling], _Image]
"""Reads a window, resampled to a shape."""
_ZERO_FILLED = {"ENVI", "HFA", "PCIDSK"}
"""Drivers that return zeros beyond the end of a truncated file."""
_LOSSY = {"jpeg", "webp", "jpeg2000", "lerc", "jxl", "ycbcr jpeg"}
"""Codecs that blur the edge of a collar, whatever nodata value the file declares."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of a window."""

    image: NDArray[np.uint8]
    """(3, H, W) red, green, blue, 0-255; unspecified where not valid."""
    valid: NDArray[np.bool_]
    """(H, W) True on pixels with data."""
    damaged: tuple[Window, ...] = ()
    """Parts of the scene that could not be read and are not valid; see `Scene.skip_damage`."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One input raster, opened. Any thread may read; a pickled scene opens the file again."""

    source: Source
    """The file."""
    geobox: GeoBox
    """The scene's own pixel grid, which is that of the outputs."""
    bands: Bands
    """The bands that become red, green and blue."""
    rescale: Rescale | None
    """The stretch to 0-255; None for 8-bit files."""
    collars: tuple[Collar, ...]
    """Undeclared collars, found in the pixels."""
    notes: tuple[str, ...]
    """Sentences for the user on guesses and missing information."""
    skip_damage: bool = False
    """Read around damaged parts of a file and report them, instead of raising SceneError. A server
    that does not answer is not damage."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        bands: Sequence[int] | None = None,
        collar: Literal["auto", "off"] = "auto",
        rescale: tuple[float, float] | None = None,
        skip_damage: bool = False,
        requests_per_second: float | None = None,
    ) -> Scene:
        """Open the raster at `path`, a file or address that GDAL reads.

        Memory is bounded. The file is read completely only if it has no overviews and a collar
        shows on one of its sides.

        Args:
            bands: one or three 1-based bands; None chooses by color interpretation.
            collar: "auto" looks for flat black or white collars unless the file declares empty
                pixels.
            rescale: stored values that become 0 and 255; None keeps 8-bit pixels and stretches
                others between the 2nd and 98th percentile of the scene.
            skip_damage: read around damaged parts.
            requests_per_second: limit of requests to a tile or map service.

        Raises:
            SceneError: the file cannot be opened, read or used.
            OptionError: `rescale` is not a range.
        """
        source = Source(str(path), requests_per_second)

        def build(dataset: DatasetReader) -> Scene:
            _check(source.path, dataset)
            chosen, notes = choose_bands(source.path, dataset, bands)
            geobox = GeoBox.of(dataset)
            if dataset.crs is None:
                notes += ("no coordinate reference system: outputs are in pixel coordinates",)

            def look(window: Window, shape: tuple[int, int], how: Resampling) -> _Image:
                try:
                    with source.dataset("look at it"):
                        return chosen.read(dataset, window, shape, how)
                except SceneError:
                    if not skip_damage or source.is_remote:
                        raise
                    return read_decimated_around_damage(source, chosen, window, shape)

            collars: tuple[Collar, ...] = ()
            if collar == "auto" and _may_have_collar(dataset, chosen):
                if _is_costly(dataset) and geobox.height * geobox.width > _MAX_SCANNED:
                    notes += ("no overviews: too large to look for collars (gdaladdo adds them)",)
                else:
                    collars = _find_collars(dataset, look)
            notes += tuple(map(str, collars))
            stretch = _stretch(dataset, chosen, collars, rescale, look)
            if stretch is not None:
                notes += (f"{chosen.dtype} pixels: {stretch} becomes 0 to 255", *stretch.notes)
            return cls(source, geobox, chosen, stretch, collars, notes, skip_damage)

        return source.read("open", build)

    @property
    def path(self) -> str:
        """The path or address as given."""
        return self.source.path

    @property
    def files(self) -> tuple[str, ...]:
        """The scene's file, its sidecars, and the files that a VRT names."""
        return self.source.files

    @property
    def stem(self) -> str:
        """The name that its results begin with; see `scene_stem`."""
        return scene_stem(self.path)

    def read(self, window: Window) -> Pixels:
        """Return the pixels under `window`, which lies inside the scene.

        Raises SceneError, naming file and window, if the file is damaged.
        """
        needed = self._with_halo(window)
        damaged: tuple[Window, ...] = ()
        try:
            color, valid = self.source.read(
                f"read {window}", partial(self.bands.read, window=needed)
            )
        except SceneError:
            if not self.skip_damage or self.source.is_remote:
                raise
            color, valid, damaged = read_around_damage(self.source, self.bands, needed)
        for collar in self.collars:
            valid &= ~collar.covers(color, needed)
        rows, columns = window.relative_to(needed).slices
        color, valid = color[:, rows, columns], valid[rows, columns]
        return Pixels(color if self.rescale is None else self.rescale.apply(color), valid, damaged)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Return `read(window).valid`, without reading if all pixels are valid."""
        if not self.bands.may_be_invalid and not self.collars:
            return np.ones((window.height, window.width), bool)
        return self.read(window).valid

    def _with_halo(self, window: Window) -> Window:
        """Return `window` with the pixels around it on which a collar's edge in it depends."""
        if not any(collar.crosses(window) for collar in self.collars):
            return window
        left, top = max(0, window.col_off - HALO), max(0, window.row_off - HALO)
        right = min(self.geobox.width, window.col_end + HALO)
        bottom = min(self.geobox.height, window.row_end + HALO)
        return Window(left, top, right - left, bottom - top)

    def overview(self, side: int, window: Window | None = None) -> Pixels:
        """Return the scene or a window of it, reduced so that no side is longer than `side` px.

        Validity is approximate along collars. Raises SceneError.
        """
        window = window or self.geobox.extent
        shape = reduced_shape((window.height, window.width), side)
        try:
            with self.source.dataset("read an overview") as dataset:
                color, valid = self.bands.read(dataset, window, shape, Resampling.average)
        except SceneError:
            if not self.skip_damage or self.source.is_remote:
                raise
            color, valid = read_decimated_around_damage(self.source, self.bands, window, shape)
        for collar in self.collars:
            valid &= ~collar.near_mask(window, shape)
        return Pixels(color if self.rescale is None else self.rescale.apply(color), valid)

    def close(self) -> None:
        """Close the file, which no thread may be reading."""
        self.source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _check(path: str, dataset: DatasetReader) -> None:
    """Raise SceneError for a file that cannot be a scene."""
    if dataset.count == 0:
        parts = ", ".join(dataset.subdatasets[:3])
        hint = f"; name one of its parts: {parts}, …" if parts else ""
        raise SceneError(f"{path}: no bands{hint}")
    if dataset.crs is None and dataset.transform.is_identity and dataset.rpcs is not None:
        raise SceneError(
            f"{path}: placed on the ground by RPCs only; orthorectify it first (gdalwarp -rpc)"
        )
    if dataset.transform.is_degenerate:
        raise SceneError(f"{path}: its geotransform {tuple(dataset.transform)[:6]} has no area")
    block_height, block_width = dataset.block_shapes[0]
    size = block_height * block_width * sample_bytes(dataset)
    if size > _MAX_BLOCK_BYTES:
        raise SceneError(
            f"{path}: stored in blocks of {block_width} × {block_height} px, too large to decode; "
            "tile it first (gdal_translate -co TILED=YES)"
        )
    if dataset.driver in _ZERO_FILLED:
        _check_size(path, dataset)


def _check_size(path: str, dataset: DatasetReader) -> None:
    """Raise SceneError if the largest file is too short for the pixels."""
    try:
        file, found = max(
            ((name, Path(name).stat().st_size) for name in dataset.files), key=itemgetter(1)
        )
    except OSError:  # in an archive, or on a server
        return
    if (needed := _min_size(dataset, Path(file))) > found:
        raise SceneError(
            f"{path}: cut off, for {Path(file).name} has {found} bytes of {needed}; copy or "
            "download it anew"
        )


def _min_size(dataset: DatasetReader, file: Path) -> int:
    """Return the least bytes of a file of the drivers `_ZERO_FILLED`; 0 if unknown."""
    if dataset.driver == "PCIDSK":
        if "IMAGE_STRUCTURE" not in dataset.tags(ns="IMAGE_STRUCTURE"):
            return 0
        # Bytes 16 to 31 of the header hold the size in blocks of 512, unless the file is tiled.
        with file.open("rb") as opened:
            blocks = opened.read(32)[16:].decode("ascii", "replace").strip()
        return 512 * int(blocks) if blocks.isdigit() else 0
    tags = dataset.tags(ns="ENVI")
    is_compressed = "COMPRESSION" in dataset.tags(1, ns="IMAGE_STRUCTURE")
    if is_compressed or tags.get("file_compression", "0").strip() != "0":
        return 0
    rows, columns = dataset.block_shapes[0]
    stored = -(-dataset.height // rows) * rows * -(-dataset.width // columns) * columns
    bits = sum(sample_bits(dataset, band) for band in dataset.indexes)
    offset = tags.get("header_offset", "0").strip()
    return stored * bits // 8 + (int(offset) if offset.isdigit() else 0)


def _may_have_collar(dataset: DatasetReader, bands: Bands) -> bool:
    """Whether to look for collars: not if the file declares its empty pixels without loss.

    The mask of a mosaic or a warped scene does not count, as it shows only where the files are.
    """
    if dataset.driver == "VRT":
        return True
    if bands.validity.has_mask:
        return False
    codec = dataset.compression
    lossy = codec is not None and codec.value.lower() in _LOSSY
    return lossy or bands.validity.is_total


def _is_costly(dataset: DatasetReader) -> bool:
    """Whether decimating the scene reads every block: it is large and has no overviews."""
    return not dataset.overviews(1) and dataset.height * dataset.width > _COARSE**2


def _find_collars(dataset: DatasetReader, look: _Look) -> tuple[Collar, ...]:
    height, width = dataset.shape
    if _is_costly(dataset) and not _has_flat_side(dataset, look):
        return ()
    shape = reduced_shape(dataset.shape, _COARSE)
    coarse, valid = look(Window(0, 0, width, height), shape, Resampling.average)
    return find_collars(coarse, valid, (height, width))


def _has_flat_side(dataset: DatasetReader, look: _Look) -> bool:
    """Whether a collar shows in the outermost row or column of a side."""
    height, width = dataset.shape
    sides = (
        Window(0, 0, width, 1),
        Window(0, height - 1, width, 1),
        Window(0, 0, 1, height),
        Window(width - 1, 0, 1, height),
    )
    for side in sides:
        color, valid = look(side, (side.height, side.width), Resampling.nearest)
        if find_collars(color, valid, color.shape[1:]):
            return True
    return False


def _stretch(
    dataset: DatasetReader,
    bands: Bands,
    collars: tuple[Collar, ...],
    wanted: tuple[float, float] | None,
    look: _Look,
) -> Rescale | None:
    if wanted is not None:
        if not wanted[0] < wanted[1]:
            raise OptionError(f"--rescale {wanted[0]:g},{wanted[1]:g}: give the smaller one first")
        slope, intercept = bands.levels
        low, high = sorted(slope * value + intercept for value in wanted)
        return Rescale((low,) * 3, (high,) * 3)
    if bands.dtype == np.uint8:
        return None

    def values(window: Window, shape: tuple[int, int]) -> NDArray:
        color, valid = look(window, shape, Resampling.nearest)
        for collar in collars:
            valid &= ~collar.near_mask(window, shape)
        return color[:, valid]

    return rescale_by_percentiles(sample(dataset, values))
