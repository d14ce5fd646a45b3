"""One forward pass on a CPU: every engine, precision and number of threads, as a table and JSON.

    python tests/benchmarks/cpu_table.py [--weights NAME|PATH …] [--quantized PATH …] [--side 1024]
                                         [--repeat 5] [--threads 1 2] [--only ENGINE …]
                                         [--precision NAME …] [--json FILE]

Every way has a process of its own, because settings of the allocator and of engines last; the
passes take turns. geoseg's backends compute a tile with each thread, side by side: there, a pass
is the time of all over their number. --quantized gives `geoseg weights quantize`'s file for each
of --weights. Columns: median speed; its ratio to torch's eager mode in NCHW order and float32, with
as many threads; seconds from the loaded weights to the first tile; peak memory; pixels of another
class than there. Times are given by the clock, and as the processor time of the process, which
other jobs on the machine hardly change.

To imitate a processor with AVX2 on a newer one:

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python …

There, bfloat16 is emulated and takes very long: give --precision float32 int8.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from geoseg import load_model
from geoseg.model.cpu import kernels
from geoseg.model.cpu.convolutions import can_fuse, fuse_activations
from geoseg.model.engines.backends import Backend, missing_packages, open_backend
from geoseg.model.engines.quantized import QuantizedNetwork
from geoseg.model.fused import fuse
from geoseg.model.pyramid import EfficientNetPyramid, fold_norms
from geoseg.model.segnext import SegNeXt
from geoseg.native.malloc import keep_free_memory
from geoseg.pipeline.bench import machine
from geoseg.synthetic import render_scene

ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")


@dataclass(frozen=True, slots=True)
class Way:
    engine: str
    precision: str = "float32"
    fused: bool = True
    channels_last: bool = True
    own: bool = False
    """geoseg's engine: the C code, and freed memory kept."""
    backend: Backend = "torch"
    compiled: bool = False

    @property
    def side_by_side(self) -> bool:
        """Whether each thread makes a pass of its own."""
        return self.own or self.backend != "torch"


EAGER = Way("eager NCHW", fused=False, channels_last=False)
WAYS = [
    EAGER,
    Way("eager", fused=False),
    Way("eager", "bfloat16", fused=False),
    Way("geoseg", own=True),
    Way("geoseg", "bfloat16", own=True),
    Way("torch.compile", compiled=True),
    Way("torch.compile", "bfloat16", compiled=True),
    Way("onnxruntime", backend="onnxruntime"),
    Way("openvino", backend="openvino"),
    Way("openvino", "bfloat16", backend="openvino"),
]
QUANTIZED = [
    Way("openvino", "int8", backend="openvino"),
    Way("openvino", "int8, bfloat16", backend="openvino"),
]


@dataclass(slots=True)
class Row:
    """Measurements of one way."""

    weights: str
    engine: str
    precision: str
    threads: int
    seconds: float
    """Of a pass, by the clock; the median, as below."""
    cpu_seconds: float
    """Of a pass, on all cores together."""
    ratio: float
    """Of the eager pass's seconds to these."""
    cpu_ratio: float
    first: float
    """Seconds from the loaded weights to the first result."""
    cpu_first: float
    """The same in processor time."""
    megabytes: float
    """Peak memory of the process."""
    other_class: float
    """Share of cells whose class is another one than in the eager pass."""


def prepared(way: Way, network: nn.Module, threads: int) -> Callable[[Tensor], Tensor]:
    if way.own:
        keep_free_memory()
    else:
        kernels.library = lambda: None
    dtype = getattr(torch, way.precision.rpartition(" ")[2].replace("int8", "float32"))
    if way.backend != "torch":
        if not isinstance(network, QuantizedNetwork):
            network = fuse(network) if isinstance(network, SegNeXt) else fold_norms(network)
        return open_backend(way.backend, network, torch.device("cpu"), dtype, threads)
    if way.own and isinstance(network, EfficientNetPyramid) and can_fuse(dtype):
        return fuse_activations(fold_norms(network), dtype)
    if way.fused:
        network = fuse(network) if isinstance(network, SegNeXt) else fold_norms(network)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    runnable = torch.compile(network) if way.compiled else network

    def run(x: Tensor) -> Tensor:
        half = dtype != torch.float32
        with torch.autocast("cpu", dtype if half else None, enabled=half):
            return runnable(x)

    return run


def serve(way: Way, weights: str, side: int, threads: int, pipe: Connection) -> None:
    """Answer with the time to the first tile and its classes, then with times of a pass."""
    torch.set_num_threads(threads)
    network = load_model(None if weights == "default" else weights)
    pixels = render_scene(side, side, seed=1).image.transpose(2, 0, 1)
    mean, std = (np.array(each)[:, None, None] for each in network_scale(network))
    x = torch.from_numpy((pixels - mean) / std).float()[None]
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    beside = threads if way.side_by_side else 1
    start, used = time.perf_counter(), time.process_time()
    run = prepared(way, network, threads)

    @torch.inference_mode()
    def once(_: int) -> Tensor:
        if way.side_by_side:
            torch.set_num_threads(1)
        return run(x)

    with ThreadPoolExecutor(beside) as pool:
        found = next(pool.map(once, range(1))).float().argmax(dim=1).numpy()
        pipe.send((time.perf_counter() - start, time.process_time() - used, found))
        list(pool.map(once, range(beside)))
        while pipe.recv():
            start, used = time.perf_counter(), time.process_time()
            list(pool.map(once, range(beside)))
            pipe.send(
                ((time.perf_counter() - start) / beside, (time.process_time() - used) / beside)
            )
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def network_scale(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return network.metadata.mean, network.metadata.std


def measure(
    ways: list[Way], weights: str, quantized: str | None, side: int, threads: int, repeat: int
) -> list[Row]:
    """Return a row for each way.

    Args:
        quantized: the file that those of `QUANTIZED` load.
    """
    context = multiprocessing.get_context("spawn")
    pipes, first, classes = [], [], []
    for way in ways:
        ours, theirs = context.Pipe()
        loaded = quantized if way in QUANTIZED and quantized else weights
        arguments = (way, loaded, side, threads, theirs)
        context.Process(target=serve, args=arguments, daemon=True).start()
        pipes.append(ours)
        *seconds, found = ours.recv()  # one after the other: a warm-up is work as well
        first.append(seconds)
        classes.append(found)
    times: list[list[tuple[float, float]]] = [[] for _ in ways]
    for _ in range(repeat):
        for pipe, measured in zip(pipes, times, strict=True):
            pipe.send(True)
            measured.append(pipe.recv())
    medians = [
        [statistics.median(column) for column in zip(*measured, strict=True)] for measured in times
    ]
    rows = []
    for i, (way, pipe) in enumerate(zip(ways, pipes, strict=True)):
        pipe.send(False)
        ratios = [eager / own for eager, own in zip(medians[0], medians[i], strict=True)]
        other = float((classes[i] != classes[0]).mean())
        given = (weights, way.engine, way.precision, threads)
        rows.append(Row(*given, *medians[i], *ratios, *first[i], pipe.recv(), other))
    return rows


def show(rows: list[Row], side: int) -> None:
    columns = (
        *("weights", "engine", "precision", "threads", "Mpx/s", "ratio", "Mpx/CPU s", "ratio"),
        *("first tile, s", "CPU s", "MB", "other class"),
    )
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * len(columns))
    for row in rows:
        speeds = [side**2 / 1e6 / each for each in (row.seconds, row.cpu_seconds)]
        print(
            f"| {Path(row.weights).stem} | {row.engine} | {row.precision} | {row.threads} "
            f"| {speeds[0]:.2f} | {row.ratio:.2f} | {speeds[1]:.2f} | {row.cpu_ratio:.2f} "
            f"| {row.first:.1f} | {row.cpu_first:.1f} | {row.megabytes:.0f} "
            f"| {row.other_class:.3%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", nargs="+", default=["default"])
    parser.add_argument("--quantized", nargs="+", default=[])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--only", nargs="+", metavar="ENGINE", help="besides the first")
    parser.add_argument("--precision", nargs="+", help="float32, bfloat16, int8  [default: all]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    known = [*WAYS, *QUANTIZED] if options.quantized else WAYS
    ways = [way for way in known if not missing_packages(way.backend)]
    if options.only:
        ways = [EAGER, *(way for way in ways[1:] if way.engine in options.only)]
    if options.precision:
        ways = [EAGER, *(way for way in ways[1:] if way.precision in options.precision)]
    with tempfile.TemporaryDirectory() as cache:  # so that the first tile is a first one
        os.environ["GEOSEG_CACHE"] = cache
        rows = [
            row
            for weights, quantized in zip_longest(options.weights, options.quantized)
            for threads in options.threads
            for row in measure(ways, weights, quantized, options.side, threads, options.repeat)
        ]
    show(rows, options.side)
    if options.json:
        conditions = {
            "machine": machine(torch.device("cpu")),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "limits": {name: os.environ[name] for name in ISA_VARIABLES if name in os.environ},
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
            "side": options.side,
        }
        table = {**conditions, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
