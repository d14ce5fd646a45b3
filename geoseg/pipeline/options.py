"""What a user asks of a prediction: how a scene is read, how it is cut, what is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geoseg.errors import OptionError
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.raster.address import check_local_folder
from geoseg.tiling.grid import ALIGN, OVERLAP, TILE_SIZE


def cores() -> int:
    """Those that this process may use, which a scheduler of jobs may have bound to a few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """Which pixels of a scene the model sees, and how."""

    bands: tuple[int, ...] | None = None
    """One or three bands of the file, from 1; None = by their colour interpretation."""
    collar: Literal["auto", "off"] = "auto"
    """Whether to look for flat collars that the file does not declare as empty."""
    rescale: tuple[float, float] | None = None
    """Stored values that become 0 and 255; None = 8 bits as they are, others by percentiles."""
    gsd: float | None = None
    """Metres a pixel at which the model sees the scene; None = the scene's own, or where that is
    finer than the weights know, the finest that they know."""
    aoi: str | None = None
    """The part wanted: a vector file, or "minx,miny,maxx,maxy" in the scene's CRS."""

    def __post_init__(self) -> None:
        if self.gsd is not None and not self.gsd > 0:
            raise OptionError(f"--gsd is {self.gsd}; give metres a pixel, above 0")


@dataclass(frozen=True, slots=True)
class TilingOptions:
    """How a scene is cut into tiles."""

    tile_size: int = TILE_SIZE
    """Side of a tile at most, px; all tiles of a scene have one size that fits it well."""
    overlap: int = OVERLAP
    """Overlap of neighboring tiles, px."""

    def __post_init__(self) -> None:
        for flag, value in (("--tile-size", self.tile_size), ("--overlap", self.overlap)):
            if value % ALIGN or value < 0:
                raise OptionError(f"{flag} is {value}; give a multiple of {ALIGN}")
        if self.tile_size == 0 or 2 * self.overlap > self.tile_size:
            raise OptionError(
                f"--overlap is {self.overlap}; give at most half of --tile-size {self.tile_size}"
            )


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """Who computes, and in which portions. The map is the same for all of them."""

    tiles_per_block: int | None = None
    """Side of a block, tiles; None = what the device computes at once. Larger ones read less of
    the scene twice, and take more memory."""
    workers: int | None = None
    """Threads that read, decode and write; None = one more than the machine has cores, 3 to 9."""
    scheduler: str | None = None
    """Address of a dask.distributed scheduler; None = threads of this process."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers is {self.workers}; give at least 1")

    @property
    def threads(self) -> int:
        # While each core computes a tile, the next one is read.
        return self.workers or min(8, max(2, cores())) + 1


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What is written, and where."""

    folder: Path
    """Made if it does not exist."""
    formats: tuple[str, ...] = ("gpkg",)
    """Of the polygons: gpkg, or one of `geoseg.geo.layers.formats.FORMATS`."""
    confidence: bool = False
    """Also `<stem>.confidence.tif`."""
    logits: bool = False
    """Also `<stem>.logits.zarr`."""
    overwrite: bool = False
    """Replace what exists."""
    keep_going: bool = False
    """Leave parts of the scene that cannot be read as nodata, instead of failing in the end."""
    simplify: float | None = None
    """Tolerance of the outlines, metres; None = half a pixel."""
    smooth: bool = True
    """Cut the corners of pixels before simplifying."""
    min_area: float | None = None
    """Smaller regions take the class around them, m²; None = SPECK pixels of those that the model
    saw, or of the scene's where these are larger."""

    def __post_init__(self) -> None:
        check_local_folder(self.folder)
        if unknown := [name for name in self.formats if name not in ("gpkg", *FORMATS)]:
            raise OptionError(
                f"--format {unknown[0]} is not known; choose from gpkg, {', '.join(FORMATS)}"
            )
        for flag, value in (("--simplify", self.simplify), ("--min-area", self.min_area)):
            if value is not None and not value >= 0:
                raise OptionError(f"{flag} is {value}; give 0 or more")


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """All that a prediction is asked for."""

    output: OutputOptions
    scene: SceneOptions
    tiling: TilingOptions
    compute: ComputeOptions
