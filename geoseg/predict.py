"""Scene in, polygons and class raster out: the one module that builds the dask graph.

A block takes three tasks: *infer* (read, model, overlap-add), *halo* (what another block needs
of it) and *decode* (blend, decode, polygonize). A fourth, *write*, hands the block to the outputs
where the graph runs in this process; from a cluster the blocks are fetched and written here.
"""

from __future__ import annotations

import os
import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import dask.threaded
import numpy as np
from numpy.typing import NDArray

from geoseg.blocks import contributors, infer, readable
from geoseg.classes import IGNORE
from geoseg.clock import Clock
from geoseg.decode import cells_around, decode
from geoseg.errors import OptionError
from geoseg.geo.polygons import BlockPolygons, polygonize
from geoseg.geo.scene import Scene
from geoseg.geo.view import View
from geoseg.grid import ALIGN, CELL, Block, Grid, Window
from geoseg.heap import return_free_memory
from geoseg.model.inference import TileModel
from geoseg.outputs import Outputs, Request
from geoseg.stitch import Partial, blend
from geoseg.summary import ClassTotal, Summary

Graph = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a scene is cut, and who computes it."""

    tile_size: int = 1024
    """Side of a tile, px."""
    overlap: int = 128
    """Overlap of neighbouring tiles, px."""
    tiles_per_block: int = 2
    """Side of a block, tiles."""
    gsd: float | None = None
    """Metres a pixel at which the model sees the scene; None = the scene's own."""
    workers: int | None = None
    """Threads that read, decode and write; None = as the machine has cores, 2 to 8."""
    scheduler: str | None = None
    """Address of a dask.distributed scheduler; None = threads of this process."""

    def __post_init__(self) -> None:
        for flag, value in (("--tile-size", self.tile_size), ("--overlap", self.overlap)):
            if value % ALIGN or value < 0:
                raise OptionError(f"{flag} is {value}; give a multiple of {ALIGN}")
        if self.tile_size == 0 or 2 * self.overlap > self.tile_size:
            raise OptionError(
                f"--overlap is {self.overlap}; give at most half of --tile-size {self.tile_size}"
            )
        if self.gsd is not None and not self.gsd > 0:
            raise OptionError(f"--gsd is {self.gsd}; give metres a pixel, above 0")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers is {self.workers}; give at least 1")

    @property
    def threads(self) -> int:
        return self.workers or min(8, max(2, os.cpu_count() or 2))


@dataclass(frozen=True, slots=True)
class Inferred:
    """What *infer* leaves of a block: cells and a mask, no pixels."""

    partial: Partial
    window: Window | None
    """The scene's pixels that the block decides on; None where its core holds no centre of one."""
    valid: NDArray[np.uint8]
    """Of those pixels, bit-packed."""
    clock: Clock


@dataclass(frozen=True, slots=True)
class BlockResult:
    """A finished block."""

    block: Block
    window: Window
    """The scene's pixels that it decided on."""
    class_ids: NDArray[np.uint8]
    """(H,W) of `window`; IGNORE where there is no data."""
    confidence: NDArray[np.float32] | None
    """(H,W) of `window`, NaN where there is no data; None unless it is to be written."""
    logits: NDArray[np.float16] | None
    """(h,w,C) of the core's cells; None unless they are to be written."""
    polygons: BlockPolygons
    clock: Clock


def predict(
    path: str | Path,
    model: TileModel,
    request: Request,
    tiling: Tiling | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Find the objects of one scene and write what `request` asks for.

    Nothing appears at a final path before it is complete. The results depend on tile size and
    overlap, not on blocks, workers or the scheduler.

    Args:
        progress: called with pixels done and in all, after every block.

    Raises:
        SceneError: the scene cannot be opened or a part of it cannot be read.
        OutputError: an output exists already or cannot be written.
        OptionError: options that contradict each other or the machine.
    """
    tiling = tiling or Tiling()
    scene = Scene.open(str(path))
    view = View.of(scene, gsd=tiling.gsd, scale=model.metadata.scale)
    width, height = view.geobox.width, view.geobox.height
    grid = Grid(width, height, tiling.tile_size, tiling.overlap, tiling.tiles_per_block)
    geobox = scene.geobox
    total, done = geobox.width * geobox.height, 0
    clock = Clock()
    with clock.stage("total"), Outputs(view, model.metadata.classes, request) as outputs:

        def write(result: BlockResult | None) -> None:
            nonlocal done
            if result is None:
                return
            with result.clock.stage("write"):
                outputs.write(result)
            clock.seconds.update(result.clock.seconds)
            done += result.class_ids.size
            progress(done, total)

        compute(view, grid, model, request, tiling, write)
        written = outputs.finish(clock)
    scene.close()
    table, metadata = written.features, model.metadata
    return Summary(
        scene=str(path),
        width=geobox.width,
        height=geobox.height,
        crs=geobox.crs.to_string() if geobox.crs else None,
        gsd=geobox.gsd,
        valid_pixels=written.valid_pixels,
        seconds=dict(clock.seconds),
        classes={
            str(name): ClassTotal(len(rows), float(rows["area_m2"].sum()))
            for name, rows in table.groupby("class", sort=False)
        },
        outputs={kind: str(file) for kind, file in written.paths.items()},
        weights={
            "variant": metadata.variant,
            "provenance": metadata.provenance,
            "licence": metadata.licence,
        },
        options={
            **asdict(tiling),
            **asdict(request),
            "folder": str(request.folder),
            **model.options,
        },
        notes=scene.notes,
    )


def compute(
    view: View,
    grid: Grid,
    model: TileModel,
    request: Request,
    tiling: Tiling,
    write: Callable[[BlockResult | None], None],
) -> None:
    """Run the graph; `write` is called once per block, never by two threads at once."""
    lock = threading.Lock()

    def write_here(result: BlockResult | None) -> None:
        with lock:
            write(result)

    if tiling.scheduler is None:
        graph, _, done = build_graph(view, grid, model, request, tiling.threads, write_here)
        dask.threaded.get(graph, done, num_workers=tiling.threads)
    else:
        graph, decoded, _ = build_graph(view, grid, model, request, tiling.threads, forget)
        for result in run_on_cluster(graph, decoded, tiling.scheduler):
            write(result)


def forget(result: BlockResult | None) -> None:
    """In place of writing, where the result is fetched from elsewhere."""


def build_graph(
    view: View,
    grid: Grid,
    model: TileModel,
    request: Request,
    threads: int,
    finish: Callable[[BlockResult | None], None],
) -> tuple[Graph, list[Any], list[Any]]:
    """The dask graph, the keys of its decoded blocks, and of `finish` called on them."""
    run = uuid.uuid4().hex[:12]  # a cluster may run several graphs at once

    def key(name: str, *where: int) -> tuple[Any, ...]:
        return (f"{name}-{run}", *where)

    blocks = list(grid.blocks())
    number = {block: i for i, block in enumerate(blocks)}
    sources = contributors(blocks, grid)
    # A block starts only when all but the latest of those that need no later block are done:
    # what is in flight follows the width of the scene, not its area.
    needs = accumulate((max(number[b] for b in sources[block]) for block in blocks), max)
    ready = list(needs)  # block k can be finished once block ready[k] is inferred
    view_key, model_key = key("view"), key("model")
    graph: Graph = {view_key: view, model_key: model}
    for block, i in number.items():
        latest = bisect_left(ready, i) - 1 - threads
        after = [key("done", latest)] if latest >= 0 else []
        graph[key("infer", i)] = (infer_block, view_key, block, grid, model_key, *after)
        cells = cells_around(block.core, grid.extent)
        pieces = []
        for source in sources[block]:
            if source is not block:
                pieces.append(key("halo", number[source], i))
                graph[pieces[-1]] = (halo, key("infer", number[source]), cells)
        graph[key("decode", i)] = (
            decode_block,
            view_key,
            block,
            cells,
            request,
            key("infer", i),
            pieces,
        )
        graph[key("done", i)] = (finish, key("decode", i))
    decoded, done = ([key(name, i) for i in range(len(blocks))] for name in ("decode", "done"))
    return graph, decoded, done


def infer_block(view: View, block: Block, grid: Grid, model: TileModel, *after: None) -> Inferred:
    """Read a block once, with its halo, and run its tiles. `after` only orders the graph."""
    clock = Clock()
    window, target = readable(block, grid), view.on_scene(block.core)
    with clock.stage("read"):
        pixels = view.read(window)
        if target is None:
            valid = np.zeros(0, bool)
        elif view.step == (1, 1):
            valid = pixels.valid[target.relative_to(window).slices]
        else:
            valid = view.scene.valid(target)
    partial = infer(block, grid, pixels.image, pixels.valid, model, clock)
    return_free_memory()
    return Inferred(partial, target, np.packbits(valid), clock)


def halo(inferred: Inferred, cells: Window) -> Partial:
    """The cells of a block that decoding another one needs."""
    return inferred.partial.crop(cells)


def decode_block(
    view: View,
    block: Block,
    cells: Window,
    request: Request,
    inferred: Inferred,
    pieces: list[Partial],
) -> BlockResult | None:
    """Blend, decode and polygonize what a block decides on; None where that is nothing."""
    clock, window = Clock(inferred.clock.seconds.copy()), inferred.window
    if window is None:
        return None
    with clock.stage("stitch"):
        logits = blend(cells, [inferred.partial, *pieces])
    with clock.stage("decode"):
        wanted: Literal["all", "objects"] = "all" if request.confidence else "objects"
        decoded = decode(logits, cells, window, step=view.step, confidence=wanted)
        class_ids, confidence = decoded.class_ids, decoded.confidence
        valid = np.unpackbits(inferred.valid, count=class_ids.size).astype(bool)
        class_ids[~valid.reshape(class_ids.shape)] = IGNORE
    with clock.stage("polygonize"):
        polygons = polygonize(class_ids, window, confidence=confidence)
    if request.confidence:
        assert confidence is not None
        confidence[class_ids == IGNORE] = np.nan
    return BlockResult(
        block=block,
        window=window,
        class_ids=class_ids,
        confidence=confidence if request.confidence else None,
        logits=own_cells(block, cells, logits) if request.logits else None,
        polygons=polygons,
        clock=clock,
    )


def own_cells(block: Block, cells: Window, logits: NDArray[np.float32]) -> NDArray[np.float16]:
    """Of the logits of `cells`, those that the block's core owns."""
    core = block.core
    left, top = core.col_off // CELL, core.row_off // CELL
    right, bottom = -(-core.col_end // CELL), -(-core.row_end // CELL)
    own = Window(left, top, right - left, bottom - top)
    return logits[own.relative_to(cells).slices].astype(np.float16)


def run_on_cluster(graph: Graph, keys: list[Any], address: str) -> Iterator[BlockResult | None]:
    """The values of `keys` as they are finished on a dask.distributed cluster.

    Raises:
        OptionError: dask.distributed is not installed, or nothing answers at `address`.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise OptionError(
            "--scheduler needs dask.distributed; install it: pip install 'geoseg[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=30)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--scheduler {address} does not answer ({error}); start `dask scheduler` there, or "
            "leave the option out to compute on this machine"
        ) from error
    with client:
        for future in as_completed(client.get(graph, keys, sync=False)):
            yield future.result()
            future.release()
