"""Vectorize a class raster: polygons of its regions, as styled layers of a GeoPackage."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from geoseg.atomic import Staging
from geoseg.classes import LabelClass
from geoseg.errors import OptionError
from geoseg.geo.layers.by_class import check_known
from geoseg.geo.layers.features import empty_features, tables
from geoseg.geo.layers.filters import Filters, Selection, choose
from geoseg.geo.layers.formats import FORMATS
from geoseg.geo.layers.geopackage import GeoPackageWriter
from geoseg.geo.layers.regular import Forms, forms_text, parse_forms
from geoseg.geo.paths import printable
from geoseg.geo.raster.class_raster import ClassRaster
from geoseg.geo.raster.files import vector_files
from geoseg.geo.vector.blocks import polygonize_raster
from geoseg.geo.vector.cleanup import Cleanup
from geoseg.geo.vector.spool import PolygonSpool
from geoseg.guard import check_outputs
from geoseg.lookahead import map_ahead
from geoseg.version import VERSION


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
    with the width of the raster, not with its area.

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
    check_outputs([output], raster.source.files, overwrite=overwrite)
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
    features = _write(path, output, raster, cleanup, forms, filters, workers, progress)
    size, cleaned = (geobox.width, geobox.height), (cleanup.tolerance, cleanup.min_pixels)
    return Vectorized(output, *size, features, *cleaned, time.perf_counter() - start)


def _write(
    path: str | Path,
    output: Path,
    raster: ClassRaster,
    cleanup: Cleanup,
    forms: Mapping[str, str],
    filters: Filters,
    workers: int | None,
    progress: Callable[[int, int], None],
) -> dict[str, int]:
    """Write the layers, and return the number of features of each."""
    geobox, threads = raster.geobox, workers or min(8, max(2, os.cpu_count() or 2))
    with (
        Staging(output.parent, output.name) as staging,
        PolygonSpool(staging.new) as spool,
        closing(raster.source),
        ThreadPoolExecutor(threads) as pool,
    ):
        found = polygonize_raster(
            geobox.extent,
            raster.read,
            cleanup,
            skip=raster.skip,
            apply=partial(map_ahead, pool, 2 * threads),
            progress=progress,
        )
        for part in found:
            values = raster.values[part.polygons.class_id]
            spool.append(replace(part, polygons=replace(part.polygons, class_id=values)))
        spool.sort()
        outlines = choose(spool, filters, forms)
        with GeoPackageWriter(
            staging.new / output.name,
            raster.classes,
            empty_features(geobox, regular=bool(forms)),
            _metadata(path, cleanup) | _chosen(forms, filters.selection),
        ) as writer:
            ahead = partial(map_ahead, pool, 2)
            for table in tables(spool, geobox, raster.classes, ahead, outlines):
                writer.append(table)
    return writer.counts


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
    return ({"regularize": forms_text(forms)} if forms else {}) | selection.settings
