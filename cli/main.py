"""The `geoseg` command."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import warnings

import click

from geoseg.errors import GeosegError
from geoseg.native.malloc import refused_memory
from geoseg.version import VERSION

from . import bench, demo, evaluate, export, predict, prepare, recipes, train, vectorize, weights
from .analysis import accuracy, change, count, decode, derive, report, sample, suggest
from .streams import Stopped, forgive_output, stop_on_signals

GRACE = 2.0
"""Seconds that threads get to end after a failed command; see `leave_soon`."""
SWITCH_INTERVAL = 0.0005
"""Seconds a thread runs Python code before it yields to another; see `run`."""


class Group(click.Group):
    """A group of commands that prints geoseg's errors and their notes, one line each, and exits.

    Exit codes: 0 done; 1 failed; 2 impossible options; 3 done, but for parts that could not be
    read; 130, 143, 129 stopped by Ctrl-C, SIGTERM or SIGHUP: 128 + signal, as in shells.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            with refused_memory():
                return super().invoke(ctx)
        except GeosegError as error:
            print_error(f"Error: {error}", error)
            sys.exit(error.exit_code)
        except Stopped as error:
            print_error(f"{error}", error)
            sys.exit(128 + error.number)
        except KeyboardInterrupt as error:
            print_error("Interrupted", error)
            sys.exit(128 + signal.SIGINT)


def print_error(line: str, error: BaseException) -> None:
    """Print a line and the error's notes to stderr."""
    click.echo(line, err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(f"Note: {note}", err=True)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION)
def main() -> None:
    """Find objects in aerial scenes: GeoTIFF in, georeferenced polygons out."""


main.add_command(demo.command, "demo")
main.add_command(predict.command, "predict")
main.add_command(prepare.command, "prepare")
main.add_command(recipes.command)
main.add_command(train.command, "train")
main.add_command(evaluate.command, "evaluate")
main.add_command(vectorize.command, "vectorize")
main.add_command(export.command, "export")
main.add_command(report.command, "report")
main.add_command(decode.command, "decode")
main.add_command(sample.command, "sample")
main.add_command(accuracy.command, "accuracy")
main.add_command(change.command, "change")
main.add_command(suggest.command, "suggest")
main.add_command(count.command, "count")
main.add_command(derive.command, "derive")
main.add_command(weights.command)
main.add_command(bench.command, "bench")


def run() -> None:
    """Run `main` as a process of its own.

    Imports create 230,000 objects. By default, the garbage collector scans them after every 700
    new ones, half a second in all. A thread that returns from C would wait 5 ms for one that runs
    Python code.
    """
    gc.set_threshold(10_000)
    sys.setswitchinterval(SWITCH_INTERVAL)
    # rasterio warns of every raster in pixel coordinates, such as masks of photographs.
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")
    stop_on_signals()
    forgive_output()
    try:
        main()
    except SystemExit as end:
        if not end.code:
            atexit._run_exitfuncs()
            leave(0)
        leave_soon(end.code if isinstance(end.code, int) else 1)
        raise
    finally:
        gc.freeze()


def leave(code: int) -> None:
    """Exit at once, and leave it to the system to free all objects, which takes 0.2 s."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_soon(code: int) -> None:
    """Exit within `GRACE` seconds: GDAL may wait minutes for a stalled server."""
    timer = threading.Timer(GRACE, leave, [code])
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    run()
