"""Decode kept logits again: class raster and polygons with other settings, without the model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoseg.atomic import Staging
from geoseg.classes import LabelClass
from geoseg.errors import OptionError
from geoseg.geo.layers.formats import FORMATS, check_installed
from geoseg.geo.raster.logits import DecodeGrid, KeptLogits
from geoseg.geo.reproject import check_format_crs
from geoseg.guard import check_outputs, refuse_inputs
from geoseg.lookahead import map_ahead
from geoseg.pipeline.earlier import Earlier
from geoseg.pipeline.execution.tasks import BlockResult, decode_pixels
from geoseg.pipeline.options import ComputeOptions, OutputOptions
from geoseg.pipeline.outputs import Outputs
from geoseg.pipeline.summary import ClassTotal
from geoseg.tiling.decoding import cells_around
from geoseg.tiling.grid import Block, Window
from geoseg.tiling.splitting import Splitting
from geoseg.timing import StageTimer

NEVER = -1e4
"""Logit of classes that are left out: no softmax gives them a share."""


@dataclass(frozen=True, slots=True)
class Redecoded:
    """Summary of one run."""

    outputs: dict[str, Path]
    """Files by kind."""
    classes: dict[str, ClassTotal]
    """Objects by class name; classes without any are absent."""
    pixels: int
    seconds: float

    @property
    def objects(self) -> int:
        return sum(total.objects for total in self.classes.values())


def decode_logits(
    path: Path,
    output: OutputOptions,
    *,
    only: Collection[str] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Redecoded:
    """Write the class raster and the polygons of kept logits.

    With the settings of `predict`, the results are the same. All outputs appear together, and
    memory follows the width of the scene.

    Args:
        path: what `predict` wrote with `logits`.
        output: as for `predict`; `logits` does not apply.
        only: names of the classes to decide between, together with class 0; empty = all.
        workers: threads; None = one more than there are cores, 3 to 9.

    Raises:
        DataError: the logits cannot be read.
        OptionError: a class or format is not possible, or an output is an input.
        OutputError: an output exists or cannot be written.
    """
    start = time.perf_counter()
    kept = KeptLogits.open(path)
    left_out = _left_out(kept.classes, only)
    limits, split = (
        json.loads(kept.metadata.get(key, empty))
        for key, empty in (("min_confidence", "{}"), ("split", "[]"))
    )
    output = output.with_recommended(kept.classes, limits, split)
    splitting = output.splitting(kept.grid.tiles, kept.classes)
    stem = path.name.removesuffix(".zarr").removesuffix(".logits")
    for kind in output.formats:
        if (form := FORMATS.get(kind)) is not None:
            check_installed(kind)
            check_format_crs(kept.grid.geobox, kind, str(path), wgs84=form.wgs84, prj=form.prj)
    obsolete = _replaced(path, output, stem, kept.classes)
    blocks = list(_blocks(kept.grid))
    total, done = sum(w.width * w.height for _, _, w in blocks), 0
    threads = ComputeOptions(workers=workers).threads
    timer = StageTimer()

    def decode_one(item: tuple[int, Block, Window]) -> BlockResult:
        return _decode(kept, output, splitting, left_out, *item)

    with (
        Staging(output.folder, stem, obsolete) as staging,
        Outputs(kept.grid, kept.classes, output, staging.new, stem) as outputs,
        ThreadPoolExecutor(threads) as pool,
    ):
        for result in map_ahead(pool, threads, decode_one, blocks):
            outputs.write(result)
            done += result.class_ids.size
            progress(done, total)
        written = outputs.complete(timer, kept.metadata | {"decoded_from": path.name})
    return Redecoded(
        outputs={kind: output.folder / name for kind, name in written.names.items()},
        classes=written.totals,
        pixels=kept.grid.geobox.width * kept.grid.geobox.height,
        seconds=time.perf_counter() - start,
    )


def _left_out(classes: tuple[LabelClass, ...], only: Collection[str]) -> list[int]:
    """Return the channels that are left out. Raises OptionError."""
    names = [item.name for item in classes]
    if unknown := [name for name in only if name not in names]:
        raise OptionError(f"--class {unknown[0]} is not known; choose from {', '.join(names)}")
    return [i for i, name in enumerate(names) if i and only and name not in only]


def _replaced(
    path: Path, output: OutputOptions, stem: str, classes: tuple[LabelClass, ...]
) -> list[Path]:
    """Return files of an earlier run that the new ones replace, but not the logits.

    Raises OptionError and OutputError.
    """
    earlier = Earlier.find(replace(output, logits=False), stem, classes)

    def may_go(file: Path) -> bool:
        return file.resolve() != path.resolve() and file.suffix != ".vrt"

    possible = [file for file in earlier.possible if may_go(file)]
    refuse_inputs(possible, [path / "zarr.json"])
    check_outputs(possible, [], overwrite=output.overwrite)
    return [file for file in earlier.obsolete if may_go(file)]


def _blocks(grid: DecodeGrid) -> list[tuple[int, Block, Window]]:
    """Return number, block and pixels of the scene of each block that meets the extent."""
    found = []
    for block in grid.tiles.blocks(grid.part):
        window = grid.resampler.source_window(block.core)
        if window is not None and window.intersection(grid.extent) is not None:
            found.append((grid.tiles.number(block), block, window))
    return found


def _decode(
    kept: KeptLogits,
    output: OutputOptions,
    splitting: Splitting,
    left_out: list[int],
    number: int,
    block: Block,
    window: Window,
) -> BlockResult:
    grid, timer = kept.grid, StageTimer()
    cells = cells_around(block.core, grid.tiles.extent, splitting.margin)
    logits: NDArray[np.float32] = kept.read(cells)
    logits[..., left_out] = NEVER
    pixels = decode_pixels(
        logits,
        cells,
        window,
        kept.read_valid(window),
        step=grid.resampler.step,
        confidence=output.confidence,
        cleanup=output.cleanup(grid),
        splitting=splitting,
        timer=timer,
    )
    return BlockResult(
        number=number,
        block=block,
        window=window,
        class_ids=pixels.class_ids,
        confidence=pixels.confidence,
        logits=None,
        polygons=pixels.polygons,
        clean=pixels.clean,
        damaged=(),
        timer=timer,
    )
