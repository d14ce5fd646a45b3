"""Scene in, polygons and class raster out: the one module that builds the dask graph.

A block takes three tasks: *infer* (read, model, overlap-add), *halo* (what another block needs
of it) and *decode* (blend, decode, polygonize). A fourth, *done*, hands the block to the outputs
where the graph runs in this process; from a cluster the blocks are fetched and written here.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import dask.threaded

from geoseg.blocks import REACH, contributors
from geoseg.clock import Clock
from geoseg.decode import cells_around
from geoseg.errors import OptionError, SceneError
from geoseg.geo.aoi import read_aoi
from geoseg.geo.export import FORMATS
from geoseg.geo.finish import Finished
from geoseg.geo.reproject import check_wgs84
from geoseg.geo.scene import Scene
from geoseg.geo.view import View, suitable_gsd
from geoseg.grid import Block, Grid, Window
from geoseg.identity import identity
from geoseg.model.inference import TileModel
from geoseg.model.metadata import Metadata
from geoseg.outputs import Outputs, prepare_folder, refuse_existing
from geoseg.request import Reading, Request, Tiling
from geoseg.stitch import Partial
from geoseg.store import SUFFIX, Store
from geoseg.summary import Summary, summarize
from geoseg.tasks import BlockResult, Inferred, Plan, decode_block, halo, infer_block

Graph = dict[Any, Any]


def predict(
    path: str | Path,
    model: TileModel,
    request: Request,
    tiling: Tiling | None = None,
    reading: Reading | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Find the objects of one scene and write what `request` asks for.

    Nothing appears at a final path before it is complete. The results depend on tile size and
    overlap, not on blocks, workers or the scheduler. A run that was killed leaves its finished
    blocks (see `Store`), and the next one with the same arguments goes on from there.

    Args:
        progress: called with pixels done and in all, after every block.

    Raises:
        SceneError: the scene cannot be opened, or parts of it could not be read.
        OutputError: an output exists already or cannot be written.
        OptionError: options that contradict each other or the machine.
    """
    tiling, reading = tiling or Tiling(), reading or Reading()
    if tiling.tiles_per_block is None:
        tiling = replace(tiling, tiles_per_block=model.tiles_at_once)
    scene = Scene.open(
        str(path),
        bands=reading.bands,
        collar=reading.collar,
        rescale=reading.rescale,
        skip_damage=True,  # what is lost is told in the end, when the rest is done
    )
    if reading.gsd is None:
        seen = suitable_gsd(scene.geobox.gsd, model.metadata.gsd_range)
        reading = replace(reading, gsd=seen)
    clock = Clock()
    with clock.stage("total"):
        plan = make_plan(scene, model.metadata, request, tiling, reading)
        extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
        prepare_folder(request, extent.width * extent.height)
        run = identity(scene, model, reading, tiling, request)
        with Store(request.folder / f"{scene.stem}{SUFFIX}", run) as store:
            if not (store.resumed or request.overwrite):
                refuse_existing(request, scene.stem)
            with Outputs(plan, model.metadata.classes, request) as outputs:
                compute(plan, model, tiling, store, outputs, clock, progress)
                if outputs.damaged and not request.keep_going:
                    raise damage_error(scene.path, tuple(outputs.damaged))
                written = outputs.finish(clock, description(scene.path, run))
    scene.close()
    return summarize(plan, written, clock, model, (reading, tiling, request))


def make_plan(
    scene: Scene, metadata: Metadata, request: Request, tiling: Tiling, reading: Reading
) -> Plan:
    """Raises SceneError and OptionError for what cannot be."""
    geobox = scene.geobox
    for kind in request.formats:
        if kind in FORMATS and FORMATS[kind].wgs84:
            check_wgs84(geobox, kind, scene.path)
    view = View.of(scene, gsd=reading.gsd, scale=metadata.scale)
    width, height = view.geobox.width, view.geobox.height
    assert tiling.tiles_per_block is not None
    pixel = geobox.gsd or 1.0
    return Plan(
        view=view,
        grid=Grid(width, height, tiling.tile_size, tiling.overlap, tiling.tiles_per_block),
        aoi=None if reading.aoi is None else read_aoi(reading.aoi, geobox),
        min_pixels=request.min_area / pixel**2,
        confidence=request.confidence,
        logits=request.logits,
    )


def damage_error(path: str, damaged: Sequence[Window]) -> SceneError:
    shown = ", ".join(f"{w.width}×{w.height} px at ({w.col_off}, {w.row_off})" for w in damaged[:5])
    more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
    return SceneError(
        f"{path}: blocks of the file that cannot be read: {shown}{more} (-v says why); repair it, "
        "or leave them as nodata: --keep-going"
    )


def description(path: str, run: dict[str, Any]) -> dict[str, str]:
    """What the layers say of how they were made."""
    told = {key: str(value) for key, value in run.items() if value is not None and key != "files"}
    return {**told, "scene": path, "date": datetime.now(UTC).isoformat(timespec="seconds")}


@dataclass(frozen=True, slots=True)
class Order:
    """The blocks of a plan, and what each of them needs."""

    blocks: dict[int, Block]
    """By number; those that decide on wanted pixels, or that such blocks need."""
    sources: dict[int, list[int]]
    """Per block to be decoded, those whose logits it needs, itself included."""

    @classmethod
    def of(cls, plan: Plan) -> Order:
        blocks = dict(enumerate(plan.grid.blocks()))
        wanted = {block: i for i, block in blocks.items() if plan.target(block) is not None}
        # Of a huge scene, an area of interest needs a few blocks: only these are worth a look.
        rows = {block.row + step for block in wanted for step in REACH}
        columns = {block.col + step for block in wanted for step in REACH}
        near = {b: i for i, b in blocks.items() if b.row in rows and b.col in columns}
        found = contributors(list(near), plan.grid)
        sources = {i: [near[source] for source in found[block]] for block, i in wanted.items()}
        used = {i for needed in sources.values() for i in needed}
        return cls({i: blocks[i] for i in sorted(used)}, sources)

    def without(self, finished: Collection[int]) -> Order:
        """What is left to do."""
        sources = {i: needed for i, needed in self.sources.items() if i not in finished}
        used = {i for needed in sources.values() for i in needed}
        return Order({i: block for i, block in self.blocks.items() if i in used}, sources)


def compute(
    plan: Plan,
    model: TileModel,
    tiling: Tiling,
    store: Store,
    outputs: Outputs,
    clock: Clock,
    progress: Callable[[int, int], None],
) -> None:
    """Hand every wanted block to the outputs: those that the store has, then the others."""
    order = Order.of(plan)
    targets = [plan.target(order.blocks[i]) for i in order.sources]
    total, done = sum(w.width * w.height for w in targets if w), 0

    def write(result: BlockResult, finished: Finished) -> None:
        nonlocal done
        with result.clock.stage("write"):
            outputs.write(result, finished)
        clock.seconds.update(result.clock.seconds)
        done += result.class_ids.size
        progress(done, total)

    kept = []
    for i in order.sources:
        if (result := store.result(i, order.blocks[i])) is not None:
            kept.append(i)
            write(*outputs.settle(result))
    order = order.without(kept)
    if tiling.scheduler is not None:
        # Threads of other machines are not counted here, so blocks do not wait for their turn.
        graph, decoded, _ = build_graph(
            plan, order, model, tiling.threads, infer_block, decode_block, forget, in_turn=False
        )
        for result in run_on_cluster(graph, decoded, tiling.scheduler):
            store.keep_result(result)
            write(*outputs.settle(result))
        return

    uses = Counter(source for needed in order.sources.values() for source in needed)
    to_infer = list(order.blocks)

    def infer_once(
        plan: Plan, number: int, block: Block, model: TileModel, *after: object
    ) -> Inferred:
        if (inferred := store.inferred(number)) is None:
            inferred = infer_block(plan, number, block, model, *after)
            store.keep_inferred(number, inferred)
        to_infer.remove(number)
        if not to_infer:  # the last blocks are decoded in this memory
            model.release_memory()
        return inferred

    def decode_once(
        plan: Plan, number: int, block: Block, inferred: Inferred, pieces: list[Partial]
    ) -> tuple[BlockResult, Finished]:
        result = decode_block(plan, number, block, inferred, pieces)
        store.keep_result(result)
        return outputs.settle(result)

    def finish(settled: tuple[BlockResult, Finished], *after: None) -> None:
        """One block after the other."""
        result, finished = settled
        write(result, finished)
        uses.subtract(order.sources[result.number])
        for source in order.sources[result.number]:
            if uses[source] == 0:
                store.drop_inferred(source)

    graph, _, done_keys = build_graph(
        plan, order, model, tiling.threads, infer_once, decode_once, finish, in_turn=True
    )
    with ThreadPoolExecutor(tiling.threads) as pool, model.cancelled_on_error():
        dask.threaded.get(graph, done_keys, pool=pool)


def forget(result: BlockResult, *after: None) -> None:
    """In place of writing, where the result is fetched from elsewhere."""


def build_graph(
    plan: Plan,
    order: Order,
    model: TileModel,
    threads: int,
    infer: Callable[..., Inferred],
    decode: Callable[..., object],
    finish: Callable[..., None],
    *,
    in_turn: bool,
) -> tuple[Graph, list[Any], list[Any]]:
    """The dask graph, the keys of its decoded blocks, and of `finish` called on them.

    Args:
        in_turn: a block is begun once that `threads` places before it is inferred.
    """
    run = uuid.uuid4().hex[:12]  # a cluster may run several graphs at once

    def key(name: str, *where: int) -> tuple[Any, ...]:
        return (f"{name}-{run}", *where)

    plan_key, model_key = key("plan"), key("model")
    graph: Graph = {plan_key: plan, model_key: model}
    wanted = sorted(order.sources)
    # Blocks are done in order, and one starts only when all but the latest of those that need no
    # later block are done: what is in flight follows the width of the scene, not its area.
    needs = accumulate((max(order.sources[i]) for i in wanted), max)
    ready = list(needs)  # block wanted[k] can be finished once block ready[k] is inferred
    numbers = list(order.blocks)
    for place, (i, block) in enumerate(order.blocks.items()):
        latest = bisect_left(ready, i) - 1 - 2 * threads
        after = [key("done", wanted[latest])] if latest >= 0 else []
        if in_turn and place >= threads:
            # Left to dask, a block that many wait for may come late, and threads wait with it.
            after.append(key("infer", numbers[place - threads]))
        graph[key("infer", i)] = (infer, plan_key, i, block, model_key, *after)
    for i in wanted:
        cells = cells_around(order.blocks[i].core, plan.grid.extent)
        pieces = []
        for source in order.sources[i]:
            if source != i:
                pieces.append(key("halo", source, i))
                graph[pieces[-1]] = (halo, key("infer", source), cells)
        inferred = key("infer", i)
        graph[key("decode", i)] = (decode, plan_key, i, order.blocks[i], inferred, pieces)
    for k, i in enumerate(wanted):
        after = [key("done", wanted[k - 1])] if k else []
        graph[key("done", i)] = (finish, key("decode", i), *after)
    decoded, done = ([key(name, i) for i in wanted] for name in ("decode", "done"))
    return graph, decoded, done


def run_on_cluster(graph: Graph, keys: list[Any], address: str) -> Iterator[BlockResult]:
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
