"""`geoseg predict`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.errors import GeosegError, OptionError

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
@options.weights
@options.device
@options.precision
@options.tiling
@options.tta
@options.batch_size
@options.workers
@click.option(
    "--gsd", type=float, metavar="METRES", help="Let the model see pixels of this size instead."
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on this dask.distributed cluster.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=["gpkg"],
    show_default=True,
    help="Vector format; may be given several times. See `geoseg export --help`.",
)
@click.option("--confidence", is_flag=True, help="Also write a raster of probabilities.")
@click.option("--logits", is_flag=True, help="Also write the logits, at 1/8, as a Zarr store.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@options.as_json
@options.verbosity
def command(
    scenes: tuple[str, ...],
    output: Path,
    weights: str | None,
    device: str,
    precision: Any,
    tile_size: int,
    overlap: int,
    tta: bool,
    batch_size: int | None,
    workers: int | None,
    gsd: float | None,
    scheduler: str | None,
    formats: tuple[str, ...],
    confidence: bool,
    logits: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find objects in SCENE... (GeoTIFF, VRT, JPEG 2000, PNG, … or a URL).

    For each scene writes STEM.gpkg, one layer per class, and STEM.classes.tif.
    """
    from geoseg.model.checkpoint import load_model
    from geoseg.model.inference import TileModel
    from geoseg.outputs import Request
    from geoseg.predict import Tiling, predict

    refuse_equal_stems(scenes)
    model = TileModel(
        load_model(weights), device=device, precision=precision, batch_size=batch_size, tta=tta
    )
    tiling = Tiling(
        tile_size=tile_size, overlap=overlap, gsd=gsd, workers=workers, scheduler=scheduler
    )
    request = Request(
        folder=output,
        formats=formats,
        confidence=confidence,
        logits=logits,
        overwrite=overwrite,
    )
    summaries, failures = [], []
    for scene in scenes:
        try:
            with options.pixel_bar(Path(scene).name, quiet=quiet or as_json) as progress:
                summary = predict(scene, model, request, tiling, progress=progress)
        except GeosegError as error:
            if len(scenes) == 1:
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
