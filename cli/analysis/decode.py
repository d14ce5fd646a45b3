"""`geoseg decode`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .. import options


@click.command()
@click.argument("logits", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of the results.  [default: the current one]",
)
@click.option(
    "--class",
    "only",
    multiple=True,
    metavar="NAME",
    help="Decide between these classes and background only; may be repeated.  [default: all]",
)
@options.formats
@options.simplify
@options.smooth
@options.min_area
@options.min_confidence
@options.split
@options.confidence
@options.workers
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@options.as_json
@options.verbosity
def command(
    logits: Path,
    output: Path,
    only: tuple[str, ...],
    formats: tuple[str, ...],
    simplify: float | None,
    smooth: bool,
    min_area: float | None,
    min_confidence: float | dict[str, float] | None,
    split: tuple[str, ...] | None,
    confidence: bool,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make class raster and polygons from LOGITS of `geoseg predict --logits` again.

    The model is not needed, and neither is the scene: other classes, another cleanup and other
    formats take seconds. With the same options the results are those of predict.
    """
    from geoseg.pipeline.decode import decode_logits
    from geoseg.pipeline.options import OutputOptions

    wanted = OutputOptions(
        folder=output,
        formats=formats,
        confidence=confidence,
        overwrite=overwrite,
        simplify=simplify,
        smooth=smooth,
        min_area=min_area,
        min_confidence=min_confidence,
        split=split,
    )
    with options.pixel_bar(logits.name, quiet=quiet or as_json) as progress:
        done = decode_logits(logits, wanted, only=only, workers=workers, progress=progress)
    if as_json:
        outputs = {kind: str(path) for kind, path in done.outputs.items()}
        click.echo(json.dumps({**asdict(done), "objects": done.objects, "outputs": outputs}))
    elif not quiet:
        click.echo(
            f"{logits}: {done.pixels / 1e6:.1f} Mpx in {done.seconds:.1f} s, {done.objects} objects"
        )
        for name, total in done.classes.items():
            click.echo(f"  {name:<20} {total.objects:>7}")
        for path in done.outputs.values():
            click.echo(f"  {path}")
