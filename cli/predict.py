"""`geoseg predict`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.errors import DamageError, GeosegError, OptionError, SchedulerError

from . import options

if TYPE_CHECKING:
    from geoseg.summary import Summary


@click.command()
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of the results.  [default: the current one]",
)
@click.option("--mosaic", is_flag=True, help="All scenes are parts of one, called mosaic.")
@options.weights
@options.device
@options.precision
@options.backend
@options.tiling
@options.tta
@options.batch_size
@options.workers
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Compute on the workers of this dask.distributed scheduler, tcp://HOST:PORT. All need the "
    "geoseg that this machine has, and the scene at the same path; each uses its own device. "
    "Results are written here.",
)
@click.option(
    "--bands",
    type=options.Numbers("R,G,B|N", int, 1, 3),
    help="Bands to use, from 1.  [default: by their colour interpretation]",
)
@click.option(
    "--rescale",
    type=options.Numbers("MIN,MAX", float, 2),
    help="Values that become black and white.  [default: 8 bits as they are, else percentiles]",
)
@click.option(
    "--collar",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Look for black or white collars that the file does not declare as empty.",
)
@click.option(
    "--gsd",
    type=float,
    metavar="METRES",
    help="Let the model see pixels of this size.  [default: the scene's own, or the finest that "
    "the weights know]",
)
@click.option(
    "--aoi",
    metavar="FILE|minx,miny,maxx,maxy",
    help="Predict only this part: polygons of any vector file, or bounds in the scene's CRS.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=["gpkg"],
    show_default=True,
    help="Vector format; may be given several times. See `geoseg export --help`.",
)
@options.simplify
@options.smooth
@click.option(
    "--min-area",
    type=float,
    default=0.0,
    show_default=True,
    metavar="M2",
    help="Smaller regions take the class around them.",
)
@click.option("--confidence", is_flag=True, help="Also write a raster of probabilities.")
@click.option("--logits", is_flag=True, help="Also write the logits, at 1/8, as a Zarr store.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option(
    "--keep-going", is_flag=True, help="Leave parts that cannot be read as nodata: exit code 3."
)
@options.as_json
@options.verbosity
def command(
    scenes: tuple[str, ...],
    output: Path,
    mosaic: bool,
    weights: str | None,
    device: str,
    precision: Any,
    backend: Any,
    tile_size: int,
    overlap: int,
    tta: bool,
    batch_size: int | None,
    workers: int | None,
    scheduler: str | None,
    bands: tuple[int, ...] | None,
    rescale: tuple[float, float] | None,
    collar: Any,
    gsd: float | None,
    aoi: str | None,
    formats: tuple[str, ...],
    simplify: float | None,
    smooth: bool,
    min_area: float,
    confidence: bool,
    logits: bool,
    overwrite: bool,
    keep_going: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find objects in SCENE... (GeoTIFF, VRT, JPEG 2000, PNG, … or a URL).

    For each scene writes STEM.gpkg, one layer per class, and STEM.classes.tif. A run that was
    stopped leaves its finished blocks in STEM.unfinished; the same command goes on from there.
    """
    from geoseg.geo.mosaic import write_mosaic
    from geoseg.model.checkpoint import load_model
    from geoseg.model.inference import TileModel
    from geoseg.predict import predict
    from geoseg.request import Reading, Request, Tiling

    if not mosaic:
        refuse_equal_stems(scenes)
    reading = Reading(bands=bands, collar=collar, rescale=rescale, gsd=gsd, aoi=aoi)
    tiling = Tiling(tile_size=tile_size, overlap=overlap, workers=workers, scheduler=scheduler)
    request = Request(
        folder=output,
        formats=formats,
        confidence=confidence,
        logits=logits,
        overwrite=overwrite,
        keep_going=keep_going,
        simplify=simplify,
        smooth=smooth,
        min_area=min_area,
    )
    model = TileModel(
        load_model(weights),
        device=device,
        precision=precision,
        batch_size=batch_size,
        tta=tta,
        backend=backend,
        use_up=True,
    )
    if mosaic:
        vrt = output / "mosaic.vrt"
        write_mosaic(scenes, vrt, overwrite=overwrite)
        scenes = (str(vrt),)
    cluster = None
    if scheduler is not None:
        from geoseg.cluster import Cluster

        cluster = click.get_current_context().with_resource(Cluster(scheduler))
    summaries, failures = [], []
    for scene in scenes:
        try:
            with options.pixel_bar(Path(scene).name, quiet=quiet or as_json) as progress:
                summary = predict(
                    scene, model, request, tiling, reading, progress=progress, cluster=cluster
                )
        except GeosegError as error:
            if len(scenes) == 1 or isinstance(error, SchedulerError):
                raise
            click.echo(f"Error: {error}", err=True)
            failures.append({"scene": scene, "error": str(error)})
            continue
        summaries.append(summary)
        for note in summary.notes:
            click.echo(f"Warning: {scene}: {note}", err=True)
        if not (quiet or as_json):
            click.echo(report(summary))
    if as_json:
        results = [summary.as_dict() for summary in summaries]
        click.echo(
            json.dumps(results[0] if len(scenes) == 1 else {"scenes": results, "failed": failures})
        )
    if failures:
        raise GeosegError(
            f"{len(failures)} of {len(scenes)} scenes failed: "
            + ", ".join(failure["scene"] for failure in failures)
        )
    if damaged := sum(len(summary.damaged) for summary in summaries):
        raise DamageError(f"blocks that could not be read and were left as nodata: {damaged}")


def refuse_equal_stems(scenes: tuple[str, ...]) -> None:
    """Results are named by the scenes' stems, so two scenes must not share one."""
    stems = Counter(Path(scene).stem for scene in scenes)
    if clashes := [stem for stem, times in stems.items() if times > 1]:
        raise OptionError(
            f"{stems[clashes[0]]} scenes are called {clashes[0]}, and so would their results be; "
            "predict them one at a time into different folders (-o)"
        )


def report(summary: Summary) -> str:
    """For the terminal."""
    unit = "m²" if summary.crs else "px²"
    lines = [
        f"{summary.scene}: {summary.pixels / 1e6:.1f} Mpx in {summary.seconds['total']:.1f} s, "
        f"{summary.objects} objects"
    ]
    lines += [
        f"  {name:<20} {total.objects:>7}  {total.area_m2:>12,.0f} {unit}"
        for name, total in summary.classes.items()
    ]
    lines += [f"  {path}" for path in summary.outputs.values()]
    return "\n".join(lines)
