"""Options that several commands share, defined once."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import click

from geoseg.progress import json_progress, line_progress
from geoseg.tiling.grid import OVERLAP, TILE_SIZE

LINE_EVERY = 60.0
"""Seconds between lines of progress without a terminal."""

device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps …")
devices = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, mps …; cuda:0,cuda:1 share the tiles.",
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the model.",
)
backend = click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "openvino", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="Engine of the model. auto: OpenVINO on a CPU where it is installed, faster for these "
    "weights, and the scene large enough to pay for their conversion; else torch.",
)
formats = click.option(
    "--format",
    "formats",
    multiple=True,
    default=["gpkg"],
    show_default=True,
    help="Vector format; may be given several times. See `geoseg export --help`.",
)
confidence = click.option(
    "--confidence", is_flag=True, help="Also write a raster of probabilities."
)
simplify = click.option(
    "--simplify",
    type=float,
    metavar="METERS",
    help="Tolerance of the outlines; 0 keeps every pixel's corner.  [default: half a pixel]",
)
min_area = click.option(
    "--min-area",
    type=float,
    metavar="M2",
    help="Smaller regions take the class around them; 0 keeps all.  [default: the area of 9 "
    "pixels, as the model saw them]",
)


class ClassNumbers(click.ParamType):
    """One number for all classes, or numbers by class name."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | dict[str, float]:
        try:
            if "=" not in value:
                return float(value)
            pairs = (pair.rpartition("=") for pair in value.split(","))
            return {name.strip(): float(number) for name, _, number in pairs}
        except ValueError:
            self.fail(f"{value!r} is neither a number nor CLASS=NUMBER,…", param, ctx)


min_confidence = click.option(
    "--min-confidence",
    type=ClassNumbers(),
    metavar="NUMBER|CLASS=NUMBER,…",
    help="Leave objects of a lower mean probability out of the layers; 0 keeps all.  [default: "
    "what the weights recommend, class by class]",
)
smooth = click.option(
    "--smooth/--no-smooth",
    default=True,
    show_default=True,
    help="Cut the corners of pixels before simplifying.",
)


class ClassNames(click.ParamType):
    """Names or ids of classes, joined by commas."""

    name = "classes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        names = tuple(name.strip() for name in value.split(","))
        if not all(names):
            self.fail(f"{value!r} has an empty part; give CLASS,…", param, ctx)
        return names


class SplitNames(ClassNames):
    """Names of classes, or `none`."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return () if value == "none" else super().convert(value, param, ctx)


split = click.option(
    "--split",
    type=SplitNames(),
    metavar="none|CLASS,…",
    help="Split objects of these classes where they touch.  [default: what the weights recommend]",
)


regularize = click.option(
    "--regularize",
    metavar="all|CLASS|CLASS=FORM,…",
    help="Give outlines the form in which objects of their class are built, where it fits: "
    "angles (right ones), box, circle or oval. all: courts, fields, pools, buildings, tanks, "
    "roundabouts, tracks; vehicles, ships and the rest keep their outlines unless named, as in "
    "all,small_vehicle=box. The field regular tells which have it.",
)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the filters of objects: --only, --min-length, --max-area and --mask-out."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


_FILTERS = (
    click.option(
        "--only",
        type=ClassNames(),
        default=(),
        metavar="CLASS,…",
        help="Objects of these classes only, by name or id.  [default: all]",
    ),
    click.option(
        "--min-length",
        type=ClassNumbers(),
        metavar="METERS|CLASS=METERS,…",
        help="Leave shorter objects out of the layers.",
    ),
    click.option(
        "--max-area",
        type=ClassNumbers(),
        metavar="M2|CLASS=M2,…",
        help="Leave larger objects out of the layers.",
    ),
    click.option(
        "--mask-out",
        metavar="FILE",
        help="Leave out objects of which half or more lies inside the polygons of this file.",
    ),
)
tta = click.option("--tta", is_flag=True, help="Average over 8 flips and rotations: 8 × the time.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")


def tiling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --tile-size and --overlap."""
    size = click.option(
        "--tile-size",
        default=TILE_SIZE,
        show_default=True,
        help="Maximum side of a tile, px; a multiple of 32.",
    )
    overlap = click.option(
        "--overlap",
        default=OVERLAP,
        show_default=True,
        help="Minimum overlap of tiles, px; a multiple of 32.",
    )
    return size(overlap(command))


weights = click.option(
    "--weights",
    metavar="NAME|PATH",
    help="A checkpoint file or a name of `geoseg weights list`.  [default: the built-in weights]",
)
workers = click.option(
    "--workers", type=click.IntRange(min=1), help="Threads.  [default: by the number of cores]"
)


class BatchSize(click.ParamType):
    """`auto`, which becomes None, or a whole number above 0."""

    name = "auto|N"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value == "auto":
            return None
        if not (value.isascii() and value.isdecimal()) or int(value) == 0:
            self.fail(f"{value!r} is neither auto nor a whole number above 0", param, ctx)
        return int(value)


class Numbers(click.ParamType):
    """A comma-separated list of numbers; `counts` are its possible lengths."""

    def __init__(self, name: str, kind: type[int] | type[float], *counts: int) -> None:
        self.name, self.kind, self.counts = name, kind, counts

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        parts = value.split(",")
        if len(parts) in self.counts:
            with suppress(ValueError):
                numbers = tuple(self.kind(part) for part in parts)
                if all(math.isfinite(number) for number in numbers):
                    return numbers
        self.fail(f"{value!r} is not of the form {self.name}", param, ctx)


class Pair(click.ParamType):
    """Two texts joined by the first "="."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        left, equals, right = value.partition("=")
        if not (left and equals and right):
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return left, right


batch_size = click.option(
    "--batch-size",
    type=BatchSize(),
    default="auto",
    help="Tiles that a GPU computes at once.  [default: auto]",
)


class Echo(logging.Handler):
    """Writes log records in the style of the commands' own messages."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname.capitalize()}: {record.getMessage()}", err=True)


def verbosity(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -q and -v, which set up the log. The command receives `quiet`."""

    def set_level(ctx: click.Context, param: click.Parameter, verbose: int) -> None:
        logger = logging.getLogger("geoseg")
        levels = {0: logging.WARNING, 1: logging.INFO}
        quiet = ctx.params.get("quiet", False)
        logger.setLevel(logging.ERROR if quiet else levels.get(verbose, logging.DEBUG))
        logger.handlers = [Echo()]

    quiet = click.option("-q", "--quiet", is_flag=True, is_eager=True, help="Print errors only.")
    verbose = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=set_level, help="Say more."
    )
    return quiet(verbose(command))


@contextmanager
def pixel_bar(
    label: str, *, quiet: bool, lines_only: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Yield a `progress(done, total)` callback in pixels: a bar, or a line a minute if not on a
    terminal, or JSON if the environment asks for it.

    Args:
        lines_only: write lines on a terminal, too.
    """
    from tqdm import tqdm

    if by_json := json_progress(label, "px"):
        yield by_json
        return
    start = reported = time.monotonic()

    def by_line(done: int, total: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if not quiet and now - reported >= LINE_EVERY and done:
            reported = now
            seconds = now - start
            left = timedelta(seconds=round(seconds / done * (total - done)))
            click.echo(
                f"{label}: {done / total:.0%} of {total / 1e6:.0f} Mpx, "
                f"{done / 1e6 / seconds:.2g} Mpx/s, {left} left",
                err=True,
            )

    disable = True if quiet or lines_only else None
    with tqdm(desc=label, unit="px", unit_scale=True, disable=disable) as bar:

        def progress(done: int, total: int) -> None:
            if bar.disable:
                by_line(done, total)
                return
            bar.total = total
            bar.update(done - bar.n)

        yield progress


@contextmanager
def count_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a `progress(done, total)` callback for things counted one by one: a bar, or a line now
    and then if not on a terminal, or JSON if the environment asks for it.
    """
    from tqdm import tqdm

    if by_json := json_progress(label, unit):
        yield by_json
        return
    by_line = line_progress(label, unit)
    with tqdm(desc=label, unit=unit, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            if bar.disable:
                by_line(done, total, "")
                return
            bar.total = total
            bar.update(done - bar.n)

        yield progress
