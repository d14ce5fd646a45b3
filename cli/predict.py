"""`geoseg predict`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.errors import DamageError, GeosegError, InUseError, SchedulerError
from geoseg.native.malloc import keep_free_memory

from . import options

if TYPE_CHECKING:
    from geoseg.pipeline.options import OutputOptions
    from geoseg.pipeline.summary import Summary

POLL = 1.0
"""Seconds after which a scene in use by another run is tried again."""


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
@options.devices
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
    "Results are written here. local:N starts N processes on this machine, each with a GPU of its "
    "own where there are any.",
)
@click.option(
    "--bands",
    type=options.Numbers("R,G,B|N", int, 1, 3),
    help="Bands to use, from 1.  [default: by their color interpretation]",
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
    metavar="METERS",
    help="Let the model see pixels of this size.  [default: the scene's own, or the finest that "
    "the weights know]",
)
@click.option(
    "--aoi",
    metavar="FILE|minx,miny,maxx,maxy",
    help="Predict only this part: polygons of any vector file, or bounds in the scene's CRS. Of a "
    "tile service only the tiles around it are asked for.",
)
@click.option(
    "--requests-per-second",
    type=float,
    metavar="NUMBER",
    help="Send at most so many requests per second to a tile or map service.  [default: no limit]",
)
@options.formats
@options.simplify
@options.smooth
@options.min_area
@options.min_confidence
@options.split
@options.regularize
@options.filters
@options.confidence
@click.option("--logits", is_flag=True, help="Also write the logits, at 1/8, as a Zarr store.")
@click.option(
    "--report", is_flag=True, help="Also write a report, one HTML file; see `geoseg report`."
)
@click.option("--preview", is_flag=True, help="Also write a picture of scene and objects.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Do scenes anew, and replace all results of the last run on each, of every format.",
)
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
    batch_size: int | None,
    tta: bool,
    as_json: bool,
    quiet: bool,
    **others: Any,
) -> None:
    """Find objects in SCENE... (GeoTIFF, VRT, PNG, …, a URL or, with --aoi, a tile service).

    For each scene writes STEM.gpkg, one layer per class, and STEM.classes.tif. A run that was
    stopped leaves its finished blocks in STEM.unfinished; the same command goes on from there.
    Scenes that are done already, with the same weights and options, are skipped.

    With --json, several scenes print one object a line, each as it ends. Its "state" is "done",
    "skipped" (the rest tells of the run that did it) or "failed" (with "scene" and "error").

    Exit codes: 0 all done or skipped, 1 some failed, 2 impossible options, 3 done, but for parts
    that could not be read.
    """
    from geoseg.model.load import load_model
    from geoseg.model.tile_model import TileModel
    from geoseg.pipeline.options import PredictOptions
    from geoseg.pipeline.predict import predict

    chosen = PredictOptions.of(folder=output, **others)
    if not mosaic:
        refuse_clashes(scenes, chosen.output)
    keep_free_memory()
    model = TileModel(
        load_model(weights),
        device=device,
        precision=precision,
        batch_size=batch_size,
        tta=tta,
        backend=backend,
        consume=True,
        remote=chosen.compute.scheduler is not None,
    )
    parts = scenes if mosaic else ()
    inputs = [weights] if weights and Path(weights).is_file() else []
    cluster = None
    if chosen.compute.scheduler is not None:
        from geoseg.pipeline.execution.cluster import Cluster

        cluster = click.get_current_context().with_resource(Cluster(chosen.compute.scheduler))

    def one(scene: str) -> Summary:
        with options.pixel_bar(Path(scene).name, quiet=quiet, lines_only=as_json) as progress:
            return predict(
                scene,
                model,
                chosen.output,
                chosen.tiling,
                chosen.scene,
                chosen.compute,
                parts=parts,
                inputs=inputs,
                progress=progress,
                cluster=cluster,
            )

    batch = Batch(one, quiet=quiet, as_json=as_json)
    batch.run([str(output / "mosaic.vrt")] if mosaic else scenes)


def refuse_clashes(scenes: Sequence[str], output: OutputOptions) -> None:
    """Raise OptionError if results of two scenes have the same name, or replace a scene."""
    from geoseg.geo.raster.address import check_unique_stems, scene_stem
    from geoseg.guard import refuse_inputs
    from geoseg.pipeline.outputs import planned_names

    check_unique_stems(scenes)
    planned = (planned_names(output, scene_stem(scene)).values() for scene in scenes)
    refuse_inputs((output.folder / name for names in planned for name in names), scenes)


class Batch:
    """Scenes predicted one after the other; one that fails does not stop the rest."""

    def __init__(self, one: Callable[[str], Summary], *, quiet: bool, as_json: bool) -> None:
        self.one, self.quiet, self.as_json = one, quiet, as_json
        self.failed: list[str] = []
        self.damaged = 0

    def run(self, scenes: Sequence[str]) -> None:
        """Predict all scenes. Raises the error of a single one, or one error for all failures."""
        busy = [scene for scene in scenes if not self.attempt(scene, wait=len(scenes) > 1)]
        for scene in busy:
            if not self.quiet:
                click.echo(f"{scene}: in use by another run; waiting for it", err=True)
            while not self.attempt(scene, wait=True):
                time.sleep(POLL)
        if len(scenes) > 1 and self.failed:
            shown = ", ".join(self.failed[:5])
            more = f" and {len(self.failed) - 5} more" if len(self.failed) > 5 else ""
            raise GeosegError(f"{len(self.failed)} of {len(scenes)} scenes failed: {shown}{more}")
        if self.damaged:
            raise DamageError(
                f"blocks that could not be read and were left as nodata: {self.damaged}"
            )

    def attempt(self, scene: str, *, wait: bool) -> bool:
        """Predict one scene and report it; False if another run is writing its results.

        Args:
            wait: several scenes are to be predicted, so that their errors are reported, not raised.
        """
        try:
            summary = self.one(scene)
        except GeosegError as error:
            if isinstance(error, InUseError) and wait:
                return False
            if self.as_json:
                click.echo(json.dumps({"scene": scene, "state": "failed", "error": str(error)}))
            if not wait or isinstance(error, SchedulerError):
                raise
            which = "" if scene in str(error) else f"{scene}: "
            click.echo(f"Error: {which}{error}", err=True)
            self.failed.append(scene)
            return True
        self.damaged += len(summary.damaged)
        if not self.quiet and summary.state == "done":
            for note in summary.notes:
                click.echo(f"Warning: {scene}: {note}", err=True)
        if self.as_json:
            click.echo(json.dumps(summary.as_dict()))
        elif not self.quiet:
            click.echo(report(summary))
        return True


def report(summary: Summary) -> str:
    """Return the report on a scene for the terminal."""
    if summary.state == "skipped":
        return f"{summary.scene}: already done"
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
