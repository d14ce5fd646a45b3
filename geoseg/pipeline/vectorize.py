"""Class raster in, styled layers out; block by block, on several threads."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from geoseg.atomic import Staging
from geoseg.classes import LabelClass
from geoseg.errors import OptionError
from geoseg.geo.layers.features import empty_features, tables
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.geopackage import GeoPackageWriter
from geoseg.geo.paths import printable
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.geo.vector.cleanup import TOLERANCE, CleanPolygons, Cleanup
from geoseg.geo.vector.polygonize import BlockPolygons, polygonize_block
from geoseg.guard import check_outputs
from geoseg.tiling.grid import Window
from geoseg.version import VERSION

BLOCK = 2048
"""Side of a block, px. Results do not depend on it."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Vectorized:
    """What was done."""

    output: Path
    width: int
    height: int
    features: dict[str, int]
    """By layer."""
    tolerance: float
    """Of the outlines, pixels."""
    min_pixels: float
    seconds: float


def vectorize(
    path: str | Path,
    output: Path,
    *,
    simplify: float | None = None,
    smooth: bool = True,
    min_area: float | None = None,
    fill: bool = True,
    skip: Collection[int] = (0,),
    classes: tuple[LabelClass, ...] | None = None,
    inputs: Iterable[Path] = (),
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Vectorized:
    """Write the regions of a class raster as a GeoPackage with a layer per class.

    The file takes its place when it is complete; one that is part of the raster never goes.
    Memory grows with the corners that are written (some 30 bytes each), not with the raster.

    Args:
        simplify: tolerance of the outlines in metres (without a CRS: pixels), see `simplify`;
            0 = the pixels' outlines, None = TOLERANCE pixels.
        smooth: without the steps of pixels, see `simplify`.
        min_area: regions smaller than this many m² (pixels) are specks; None = see SPECK.
        fill: specks take the class around them, see `sieve`; else they leave holes.
        skip: values that become no polygons.
        classes: names and colours; None = as the raster declares.
        inputs: other files that the caller reads, which are never replaced either.
        workers: threads; None = as the machine has cores, 2 to 8.
        progress: called with pixels done and in all.

    Raises:
        SceneError: the raster cannot be used, OutputError: the output cannot be written,
        OptionError: a negative size, or the output is an input.
    """
    start = time.perf_counter()
    _check_options(output, simplify, min_area)
    check_outputs([output], [path, *inputs], overwrite=overwrite)
    raster = ClassRaster.open(path, skip, classes)
    with raster.source.dataset() as dataset:
        check_outputs([output], dataset.files, overwrite=overwrite)
    geobox = raster.geobox
    pixel = geobox.gsd or 1.0
    threads = workers or min(8, max(2, os.cpu_count() or 2))
    tolerance = TOLERANCE if simplify is None else simplify / pixel
    min_pixels = raster.speck if min_area is None else min_area / pixel**2
    finish = Cleanup(min_pixels, fill, tolerance, smooth)
    metadata = _description(path, finish)
    with (
        Staging(output.parent, output.name) as staging,
        closing(raster.source),
        ThreadPoolExecutor(threads) as pool,
    ):
        blocks, settled = zip(*_blocks(raster, finish, pool, progress), strict=True)
        polygons = finish.merge_blocks(blocks, settled, pool.map)
        polygons = replace(polygons, class_id=raster.values[polygons.class_id])
        nothing = empty_features(geobox)
        with GeoPackageWriter(
            staging.new / output.name, raster.classes, nothing, metadata
        ) as layers:
            for table in tables(polygons, geobox, raster.classes, partial(_ahead, pool)):
                layers.append(table)
    return Vectorized(
        output=output,
        width=geobox.width,
        height=geobox.height,
        features=layers.counts,
        tolerance=tolerance,
        min_pixels=min_pixels,
        seconds=time.perf_counter() - start,
    )


def _description(path: str | Path, finish: Cleanup) -> dict[str, str]:
    """What the layers say of how they were made."""
    return {
        "geoseg": VERSION,
        "source": printable(path),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "simplify_px": f"{finish.tolerance:g}",
        "smooth": str(finish.smooth),
        "min_area_px": f"{finish.min_pixels:g}",
        "specks": "fill" if finish.fill else "drop",
    }


def _check_options(output: Path, simplify: float | None, min_area: float | None) -> None:
    for flag, size in (("--simplify", simplify), ("--min-area", min_area)):
        if size is not None and not size >= 0:
            raise OptionError(f"{flag} is {size}; give 0 or more")
    if any(output.suffix.lower() == style.suffix for style in FORMATS.values()):
        raise OptionError(
            f"-o {output}: a GeoPackage is written, so give a name that ends in .gpkg; "
            "`geoseg export` makes other formats of it"
        )


def _blocks(
    raster: ClassRaster,
    finish: Cleanup,
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[BlockPolygons, CleanPolygons]]:
    extent = raster.geobox.extent
    windows = [
        Window(left, top, min(BLOCK, extent.width - left), min(BLOCK, extent.height - top))
        for top in range(0, extent.height, BLOCK)
        for left in range(0, extent.width, BLOCK)
    ]

    def polygons_of(window: Window) -> tuple[BlockPolygons, CleanPolygons]:
        codes, (size, fill) = raster.read(window), (finish.min_pixels, finish.fill)
        block = polygonize_block(codes, window, skip=raster.skip, min_pixels=size, fill=fill)
        return finish.clean_interior(block)

    done = 0
    for window, block in zip(windows, pool.map(polygons_of, windows), strict=True):
        done += window.width * window.height
        progress(done, extent.width * extent.height)
        yield block


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 2
) -> Iterator[R]:
    """Results in order, at most `ahead` of them before they are asked for."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
