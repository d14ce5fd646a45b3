"""Vectorize a class raster: polygons of its regions, as styled layers of a GeoPackage."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from geoseg.atomic import Staging
from geoseg.classes import LabelClass
from geoseg.errors import OptionError
from geoseg.geo.layers.by_class import check_known
from geoseg.geo.layers.features import empty_features, tables
from geoseg.geo.layers.filters import Selection
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.geopackage import GeoPackageWriter
from geoseg.geo.layers.regular import Forms, parse_forms, regular_outlines
from geoseg.geo.paths import printable
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.geo.raster.files import vector_files
from geoseg.geo.vector.blocks import polygonize_raster
from geoseg.geo.vector.cleanup import Cleanup
from geoseg.guard import check_outputs
from geoseg.version import VERSION

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Vectorized:
    """Summary of one run."""

    output: Path
    width: int
    """Columns of the raster."""
    height: int
    """Rows of the raster."""
    features: dict[str, int]
    """Features by layer."""
    tolerance: float
    """Tolerance of the outlines, px."""
    min_pixels: float
    """Smaller regions were specks."""
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
    regularize: Forms | None = None,
    selection: Selection | None = None,
    inputs: Iterable[Path] = (),
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Vectorized:
    """Write the regions of a class raster as a GeoPackage with a layer per class.

    The file appears when it is complete, and never replaces a part of the raster. Memory grows
    with the corners that are written (some 30 bytes each), not with the raster.

    Args:
        simplify: tolerance of the outlines in meters (without a CRS: pixels), see
            `geoseg.geo.vector.simplify`; 0 = the pixels' outlines, None = half a pixel.
        smooth: remove the steps of pixels from the outlines.
        min_area: regions smaller than this many m² (pixels) are specks; None = see SPECK.
        fill: specks take the class around them, see `geoseg.geo.vector.sieve`; else they leave
            holes.
        skip: values that do not become polygons.
        classes: names and colors; None = as the raster declares.
        regularize: classes whose outlines get the forms in which they are built; see `parse_forms`.
        selection: the polygons that become features; None = all.
        inputs: other files that the caller reads, which are not replaced, either.
        workers: threads; None = one per core, 2 to 8.
        progress: called with the pixels done and the total.

    Raises:
        SceneError: the raster cannot be used.
        OutputError: the output cannot be written.
        OptionError: a size is negative, or the output is an input.
    """
    start = time.perf_counter()
    _check_options(output, simplify, min_area)
    forms = {} if regularize is None else parse_forms(regularize)
    selection = selection or Selection()
    masks = vector_files(Path(selection.mask_out)) if selection.mask_out else ()
    check_outputs([output], [path, *inputs, *masks], overwrite=overwrite)
    raster = ClassRaster.open(path, skip, classes)
    with raster.source.dataset() as dataset:
        check_outputs([output], dataset.files, overwrite=overwrite)
    geobox, values = raster.geobox, raster.values.tolist()
    check_known(forms, "--regularize", raster.classes, values)
    filters = selection.open(geobox, raster.classes, values)
    cleanup = Cleanup.from_ground_units(
        geobox.gsd,
        simplify=simplify,
        min_area=min_area,
        default_min_pixels=raster.speck,
        fill=fill,
        smooth=smooth,
    )
    with (
        Staging(output.parent, output.name) as staging,
        closing(raster.source),
        ThreadPoolExecutor(workers or min(8, max(2, os.cpu_count() or 2))) as pool,
    ):
        polygons = polygonize_raster(
            geobox.extent,
            raster.read,
            cleanup,
            skip=raster.skip,
            apply=pool.map,
            progress=progress,
        )
        polygons = replace(polygons, class_id=raster.values[polygons.class_id])
        outlines = None
        if forms:
            outlines = regular_outlines(polygons, geobox, raster.classes, forms)
        polygons, outlines = filters(polygons, outlines)
        with GeoPackageWriter(
            staging.new / output.name,
            raster.classes,
            empty_features(geobox, regular=bool(forms)),
            _metadata(path, cleanup) | _chosen(forms, selection),
        ) as writer:
            ahead = partial(_map_ahead, pool)
            for table in tables(polygons, geobox, raster.classes, ahead, outlines):
                writer.append(table)
    return Vectorized(
        output=output,
        width=geobox.width,
        height=geobox.height,
        features=writer.counts,
        tolerance=cleanup.tolerance,
        min_pixels=cleanup.min_pixels,
        seconds=time.perf_counter() - start,
    )


def _check_options(output: Path, simplify: float | None, min_area: float | None) -> None:
    for flag, size in (("--simplify", simplify), ("--min-area", min_area)):
        if size is not None and not size >= 0:
            raise OptionError(f"{flag} is {size}; give 0 or more")
    if any(output.suffix.lower() == style.suffix for style in FORMATS.values()):
        raise OptionError(
            f"-o {output}: a GeoPackage is written, so give a name that ends in .gpkg; "
            "`geoseg export` makes other formats of it"
        )


def _metadata(path: str | Path, cleanup: Cleanup) -> dict[str, str]:
    """Return what the layers record of their origin."""
    return {
        "geoseg": VERSION,
        "source": printable(path),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "simplify_px": f"{cleanup.tolerance:g}",
        "smooth": str(cleanup.smooth),
        "min_area_px": f"{cleanup.min_pixels:g}",
        "specks": "fill" if cleanup.fill else "drop",
    }


def _chosen(forms: Mapping[str, str], selection: Selection) -> dict[str, str]:
    """Return what the layers record of forms and filters; nothing without any."""
    chosen = {key: value for key, value in asdict(selection).items() if value}
    return {key: str(value) for key, value in ({"regularize": forms} | chosen).items() if value}


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 2
) -> Iterator[R]:
    """Yield results in order, computing at most `ahead` of them in advance."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
