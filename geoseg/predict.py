"""Scene in, polygons and class raster out: the one module that builds the dask graph.

A block takes three tasks: *infer* (read, model, overlap-add), *halo* (what another block needs
of it) and *decode* (blend, decode, polygonize). A fourth, *done*, hands the block to the outputs
where the graph runs in this process; from a cluster the blocks are fetched and written here.
"""

from __future__ import annotations

import shutil
import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import dask.threaded
import torch

from geoseg.atomic import Staging, WorkingFolder
from geoseg.blocks import REACH, contributors
from geoseg.clock import Clock
from geoseg.decode import cells_around
from geoseg.earlier import Earlier
from geoseg.errors import OptionError, ResourceError
from geoseg.geo.finish import Finished
from geoseg.geo.inputs import files_of
from geoseg.geo.mosaic import write_mosaic
from geoseg.geo.scene import Scene
from geoseg.geo.view import suitable_gsd
from geoseg.grid import Block
from geoseg.identity import identity, results_identity
from geoseg.model.inference import TileModel
from geoseg.naming import refuse_inputs, scene_stem
from geoseg.outputs import Outputs, refuse_clashes, refuse_shortage
from geoseg.plan import (
    damage_error,
    description,
    emptiness_error,
    make_plan,
    open_scene,
)
from geoseg.record import Record
from geoseg.request import Reading, Request, Tiling
from geoseg.stitch import Partial
from geoseg.store import Store
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
    parts: Sequence[str] = (),
    inputs: Iterable[str | Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Find the objects of one scene and write what `request` asks for.

    Results appear together, when all are complete. They depend on tile size and overlap, not on
    workers or the scheduler. Where they are there already, of the same scene, weights and options,
    nothing is done (see `Record`). A run that was killed leaves its finished blocks (see `Store`),
    and the next one with the same arguments goes on from there.

    Args:
        parts: files of a mosaic, which is to be called `path`.
        inputs: further files that no result may replace.
        progress: called with pixels done and in all, after every block.

    Raises:
        SceneError: the scene cannot be opened, or parts of it could not be read.
        OutputError: an output exists already or cannot be written.
        OptionError: options that contradict each other or the machine.
        ResourceError: memory does not suffice.
    """
    tiling, reading = tiling or Tiling(), reading or Reading()
    if tiling.tiles_per_block is None:
        tiling = replace(tiling, tiles_per_block=model.tiles_at_once)
    stem = scene_stem(path)
    with WorkingFolder(request.folder, stem) as working, ExitStack() as stack:
        opened = str(path)
        if parts:
            opened = str(working.path / f"{stem}.vrt")
            stack.callback(Path(opened).unlink, missing_ok=True)
            write_mosaic(parts, Path(opened), overwrite=True)
        header = stack.enter_context(closing(open_scene(opened, reading, look=False)))
        if reading.gsd is None:
            seen = suitable_gsd(header.geobox.gsd, model.metadata.gsd_range)
            reading = replace(reading, gsd=seen)
        run = identity(header, model, reading, tiling, request)
        earlier = Earlier.find(request, stem, model.metadata.classes, mosaic=bool(parts))
        files = [*files_of(opened), *inputs, *([reading.aoi] if reading.aoi else [])]
        refuse_inputs(earlier.possible, files)
        if (
            told := earlier.summary(str(path), request, results_identity(run, request))
        ) is not None:
            return told
        scene = stack.enter_context(closing(open_scene(opened, reading)))
        job = Job(str(path), scene, model, request, tiling, reading, run)
        try:
            return job.carry_out(working, earlier, progress)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ResourceError(
                f"{path}: not enough memory ({error}); give fewer --workers, a smaller "
                "--tile-size or --batch-size"
            ) from error


@dataclass(frozen=True, slots=True)
class Job:
    """One prediction, of which nothing is done yet."""

    path: str
    """Of the scene, as given."""
    scene: Scene
    model: TileModel
    request: Request
    tiling: Tiling
    reading: Reading
    run: dict[str, Any]
    """See `identity`."""

    def carry_out(
        self, working: WorkingFolder, earlier: Earlier, progress: Callable[[int, int], None]
    ) -> Summary:
        """Compute and write everything, in place of what is there of earlier runs."""
        scene, model, request = self.scene, self.model, self.request
        clock, stem, classes = Clock(), scene_stem(self.path), model.metadata.classes
        with (
            Store(working.path, self.run) as store,
            Staging(request.folder, stem, earlier.paths, within=working) as staging,
        ):
            with clock.stage("total"):
                plan = make_plan(scene, model.metadata, request, self.tiling, self.reading)
                extent = scene.geobox.extent if plan.aoi is None else plan.aoi.window
                refuse_shortage(request, extent.width * extent.height, working.path)
                with Outputs(plan, classes, request, staging.new, stem) as outputs:
                    compute(plan, model, self.tiling, store, outputs, clock, progress)
                    if outputs.damaged and not (request.keep_going and outputs.valid_pixels):
                        raise damage_error(self.path, tuple(outputs.damaged))
                    if not outputs.valid_pixels:
                        store.discard()
                        raise emptiness_error(scene, in_aoi=plan.aoi is not None)
                    written = outputs.finish(clock, description(self.path, self.run))
            if earlier.mosaic:
                name = f"{stem}.vrt"
                shutil.copyfile(scene.path, staging.new / name)
                written = replace(written, names=written.names | {"mosaic": name})
            if not request.overwrite:
                refuse_clashes(staging.new, request.folder)
            asked = self.reading, self.tiling, request
            summary = summarize(self.path, plan, written, clock, model, asked)
            record = Record(results_identity(self.run, request), written.names, summary.as_dict())
            record.write(staging.new / written.names["classes"])
        return summary


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

    kept, suspect = [], store.damaged()
    for i, needed in order.sources.items():
        if suspect.intersection(needed):  # the file may be whole again
            store.drop(i)
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
