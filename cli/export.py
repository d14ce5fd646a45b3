"""`geoseg export`."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("layers", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["shapefile", "flatgeobuf", "geojson", "geoparquet", "kml", "csv"]),
    required=True,
    help="shapefile: a file per class; geojson, kml: in WGS 84; csv: UTF-8, with a point x, y on "
    "each polygon, and its outline as WKT.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of the files.  [default: the current one]",
)
@click.option("--t-srs", metavar="CRS", help="Reproject, for instance to EPSG:25832.")
@click.option("--layer", "wanted", multiple=True, help="Only this layer or class; may be repeated.")
@options.filters
@click.option(
    "--min-confidence",
    type=options.ClassNumbers(),
    metavar="NUMBER|CLASS=NUMBER,…",
    help="Leave out objects of a lower confidence. Drawn ones have none, and stay.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@options.verbosity
def command(
    layers: Path,
    kind: str,
    output: Path,
    t_srs: str | None,
    wanted: tuple[str, ...],
    only: tuple[str, ...],
    min_length: float | dict[str, float] | None,
    max_area: float | dict[str, float] | None,
    mask_out: str | None,
    min_confidence: float | dict[str, float] | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write LAYERS, a GeoPackage of `geoseg predict` or `vectorize`, in another format.

    Fields keep their names everywhere: object_id, class_id, class, area_m2, confidence,
    length_m, width_m, angle_deg. Shapefiles have room for ten letters, which is enough for these;
    longer names of fields that were added since are shortened.

    LAYERS may have been edited in QGIS, or come from elsewhere. Polygons without a class get that
    of their layer, those without an object_id a new one, and area_m2, length_m, width_m and
    angle_deg of all are measured again.
    """
    from geoseg.geo.layers.export import export
    from geoseg.geo.layers.filters import Selection
    from geoseg.geo.paths import printable

    paths = export(
        layers,
        output,
        kind,
        target_crs=t_srs,
        layers=wanted,
        selection=Selection(only, min_length, max_area, mask_out),
        min_confidence=min_confidence,
        overwrite=overwrite,
    )
    if not quiet:
        for path in paths:
            click.echo(printable(path))
