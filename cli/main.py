"""The `geoseg` command."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

import click

from geoseg.errors import GeosegError
from geoseg.native.malloc import refused_memory
from geoseg.version import VERSION

from . import bench, demo, evaluate, export, predict, prepare, recipes, train, vectorize, weights
from .streams import Stopped, forgive_output, stop_on_signals

GRACE = 2.0
"""Seconds after which a failed command is over, though threads still hang in C."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread in Python lets another one in; see `run`."""


class Group(click.Group):
    """Prints geoseg's own errors as one line, what was kept as another, and exits with their code.

    0: done; 1: failed; 2: impossible options; 3: done, but for parts that could not be read;
    130, 143, 129: stopped by Ctrl-C, SIGTERM or SIGHUP, 128 and the signal's number as in shells.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            with refused_memory():
                return super().invoke(ctx)
        except GeosegError as error:
            tell(f"Error: {error}", error)
            sys.exit(error.exit_code)
        except Stopped as error:
            tell(f"{error}", error)
            sys.exit(128 + error.number)
        except KeyboardInterrupt as error:
            tell("Interrupted", error)
            sys.exit(128 + signal.SIGINT)


def tell(what: str, error: BaseException) -> None:
    """On stderr, with the notes that the error collected on its way."""
    click.echo(what, err=True)
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
main.add_command(weights.command)
main.add_command(bench.command, "bench")


def run() -> None:
    """`main` as a process.

    Imports make 230,000 objects. By default Python would go through what there is of them for every
    700 new ones, and through all of them at the end: nearly a second in all. And a thread that
    comes back from C would wait 5 ms for one that is in Python.
    """
    gc.set_threshold(10_000)
    sys.setswitchinterval(SWITCH_INTERVAL)
    stop_on_signals()
    forgive_output()
    try:
        main()
    except SystemExit as end:
        if end.code:
            leave_soon(end.code if isinstance(end.code, int) else 1)
        raise
    finally:
        gc.freeze()


def leave_soon(code: int) -> None:
    """Python waits for all threads at its end, and GDAL minutes for a stalled server."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(GRACE, leave)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    run()
