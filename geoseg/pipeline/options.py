"""Options of a prediction: how a scene is read, tiled, computed and written."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from geoseg.classes import LabelClass, ids_of
from geoseg.errors import OptionError
from geoseg.geo.layers.filters import ByClass, Selection, check_confidence
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.regular import Forms, parse_forms
from geoseg.geo.raster.address import check_local_folder
from geoseg.geo.raster.files import vector_files
from geoseg.geo.raster.logits import DecodeGrid
from geoseg.geo.vector.cleanup import Cleanup
from geoseg.tiling.grid import ALIGN, OVERLAP, TILE_SIZE, Grid
from geoseg.tiling.splitting import Splitting

T = TypeVar("T")
_MIN_RATE = 0.1
"""Requests per second. GDAL gives up what it has not read for 30 seconds."""


def cores() -> int:
    """Return the number of cores that this process may use, as batch schedulers restrict it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """Which pixels of a scene the model sees, and how."""

    bands: tuple[int, ...] | None = None
    """One or three bands of the file, from 1; None = by their color interpretation."""
    collar: Literal["auto", "off"] = "auto"
    """Whether to look for flat collars that the file does not declare as nodata."""
    rescale: tuple[float, float] | None = None
    """Stored values that become 0 and 255; None = 8 bits as they are, others by percentiles."""
    gsd: float | None = None
    """Meters a pixel at which the model sees the scene; None = the scene's own, but not finer than
    the weights know."""
    aoi: str | None = None
    """Area of interest: a vector file, or "minx,miny,maxx,maxy" in the scene's CRS."""

    def __post_init__(self) -> None:
        if self.collar not in ("auto", "off"):
            raise OptionError(f"--collar is {self.collar}; choose auto or off")
        if self.rescale is not None and len(self.rescale) != 2:
            raise OptionError(f"--rescale has {len(self.rescale)} values; give two")
        if self.gsd is not None and not self.gsd > 0:
            raise OptionError(f"--gsd is {self.gsd}; give meters a pixel, above 0")


@dataclass(frozen=True, slots=True)
class TilingOptions:
    """How a scene is cut into tiles."""

    tile_size: int = TILE_SIZE
    """Maximum side of a tile, px; all tiles of a scene have the same size."""
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
    """Where and in which portions to compute. Results do not depend on it."""

    tiles_per_block: int | None = None
    """Side of a block, tiles; None = by the device. Larger blocks read less of the scene
    twice and take more memory."""
    workers: int | None = None
    """Threads that read, decode and write; None = one more than there are cores, at least 3, and as
    many as wait for accelerators."""
    scheduler: str | None = None
    """Address of a dask.distributed scheduler, or local:N for N processes; None = this process."""
    requests_per_second: float | None = None
    """Limit of requests to a tile or map service, of all workers together; None = no limit."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers is {self.workers}; give at least 1")
        scheduler = self.scheduler or ""
        if scheduler.startswith("local") and not re.fullmatch(r"local:[1-9]\d*", scheduler):
            raise OptionError(f"--scheduler is {scheduler}; give local:N for N processes")
        rate = self.requests_per_second
        if rate is not None and not rate >= _MIN_RATE:
            raise OptionError(f"--requests-per-second is {rate}; give {_MIN_RATE} or more")

    @property
    def threads(self) -> int:
        """Number of threads: the next block is read while each core computes a tile."""
        return self.workers or max(2, cores()) + 1


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What to write, and where."""

    folder: Path
    """Created if it does not exist."""
    formats: tuple[str, ...] = ("gpkg",)
    """Vector formats: gpkg, or keys of `geoseg.geo.layers.formats.FORMATS`."""
    confidence: bool = False
    """Also write `<stem>.confidence.tif`."""
    logits: bool = False
    """Also write `<stem>.logits.zarr`."""
    report: bool = False
    """Also write `<stem>.report.html`."""
    preview: bool = False
    """Also write `<stem>.preview.png`."""
    overwrite: bool = False
    """Replace existing results."""
    keep_going: bool = False
    """Leave unreadable parts of the scene as nodata instead of failing in the end."""
    simplify: float | None = None
    """Tolerance of outlines, meters; None = half a pixel."""
    smooth: bool = True
    """Cut the corners of pixels before simplifying."""
    min_area: float | None = None
    """Smaller regions take the class around them, m²; None = SPECK pixels of the scene or,
    if larger, of what the model sees."""
    min_confidence: float | Mapping[str, float] | None = None
    """Objects of a lower mean probability are left out of the layers; by class name, or for all
    classes; None = what the weights recommend."""
    split: tuple[str, ...] | None = None
    """Names of the classes whose touching objects are split; None = what the weights recommend."""
    regularize: Forms | None = None
    """Classes whose outlines get the forms in which they are built; see `parse_forms`."""
    only: tuple[str, ...] = ()
    """See `Selection`, as for the following ones."""
    min_length: ByClass | None = None
    max_area: ByClass | None = None
    mask_out: str | None = None

    @property
    def selection(self) -> Selection:
        """The objects that become features."""
        return Selection(self.only, self.min_length, self.max_area, self.mask_out)

    def __post_init__(self) -> None:
        check_local_folder(self.folder)
        if unknown := [name for name in self.formats if name not in ("gpkg", *FORMATS)]:
            raise OptionError(
                f"--format {unknown[0]} is not known; choose from gpkg, {', '.join(FORMATS)}"
            )
        for flag, value in (("--simplify", self.simplify), ("--min-area", self.min_area)):
            if value is not None and not value >= 0:
                raise OptionError(f"{flag} is {value}; give 0 or more")
        check_confidence(self.min_confidence)
        _ = self.selection  # checks its limits
        if self.regularize is not None:
            parse_forms(self.regularize)

    def cleanup(self, grid: DecodeGrid) -> Cleanup:
        """Return how polygons on the scene's pixels are cleaned."""
        return Cleanup.from_ground_units(
            grid.geobox.gsd,
            simplify=self.simplify,
            min_area=self.min_area,
            default_min_pixels=grid.min_pixels(None),
            smooth=self.smooth,
        )

    def with_recommended(
        self,
        classes: Sequence[LabelClass],
        min_confidence: Mapping[str, float],
        split: Collection[str],
    ) -> OutputOptions:
        """Return the options with `min_confidence` by the name of each class that has a limit.

        Args:
            classes: those of the weights.
            min_confidence, split: what the weights recommend, used where the options are None.

        Raises:
            OptionError: the weights have no class of that name.
        """
        limit, names = self.min_confidence, [item.name for item in classes]
        if limit is None:
            limit = min_confidence
        elif not isinstance(limit, Mapping):
            limit = dict.fromkeys(names, limit)
        divided = split if self.split is None else self.split
        for flag, given in (("--min-confidence", limit.keys()), ("--split", divided)):
            if unknown := sorted(set(given) - set(names)):
                raise OptionError(
                    f"{flag}: the weights have no class {unknown[0]!r}, but {', '.join(names[1:])}"
                )
        return replace(
            self,
            min_confidence={key: limit[key] for key in sorted(limit)},
            split=tuple(sorted(divided)),
        )

    def splitting(self, grid: Grid, classes: Sequence[LabelClass]) -> Splitting:
        """Return how touching objects are split."""
        return Splitting.on(grid, ids_of(self.split or (), classes))


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """All options of a prediction."""

    output: OutputOptions
    scene: SceneOptions
    tiling: TilingOptions
    compute: ComputeOptions

    @property
    def drawn_files(self) -> list[Path]:
        """Files of the area of interest and of the mask."""
        drawn = [Path(each) for each in (self.scene.aoi, self.output.mask_out) if each]
        return [file for each in drawn for file in vector_files(each)]

    @classmethod
    def of(cls, **values: Any) -> PredictOptions:
        """Sort options by name into the four groups; options left out take their defaults."""

        def group(kind: type[T]) -> T:
            names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
            return kind(**{name: values.pop(name) for name in names & values.keys()})

        options = cls(
            group(OutputOptions), group(SceneOptions), group(TilingOptions), group(ComputeOptions)
        )
        if values:
            raise TypeError(f"unknown options: {', '.join(values)}")
        return options
