"""One forward pass on a CPU: the plain module, the inference form, and other engines.

    python tests/benchmarks/forward.py [--variant T] [--side 1024] [--repeat 5] [--compile]
                                       [--only WAY …]

Every way has a process of its own, because settings of the allocator last; the passes take turns.
geoseg computes a tile with each core, side by side: there, a pass is the time of all over their
number.
Printed are the median's Mpx/s, its ratio to the plain module in NCHW order (what the official code
runs), the share of cells whose class is another one than there, and peak memory. T has the default
weights; the other variants are untrained, which makes their classes more fickle.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import Tensor

from geoseg import load_model
from geoseg.classes import ISAID
from geoseg.model.backends import Backend, missing_packages, open_backend
from geoseg.model.cpu import kernels
from geoseg.model.fused import fuse
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.native.malloc import keep_free_memory
from geoseg.synthetic import render_scene


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    fused: bool = True
    channels_last: bool = True
    keep: bool = True
    """Whether freed memory is kept."""
    kernels: bool = True
    """Whether the C code is used."""
    beside: bool = True
    """As many passes side by side as there are threads, each in one of them."""
    dtype: torch.dtype = torch.float32
    backend: Backend = "torch"
    compiled: bool = False


WAYS = [
    Way("plain, NCHW", fused=False, channels_last=False, keep=False, beside=False),
    Way("plain", fused=False, keep=False, beside=False),
    Way("plain, bfloat16", fused=False, keep=False, dtype=torch.bfloat16, beside=False),
    Way("fused", keep=False, kernels=False, beside=False),
    Way("fused, memory kept", kernels=False, beside=False),
    Way("fused, side by side", kernels=False),
    Way("geoseg float32"),
    Way("geoseg bfloat16", dtype=torch.bfloat16),
    Way("onnxruntime float32", backend="onnxruntime", beside=False),
    Way("openvino float32", backend="openvino", beside=False),
    Way("openvino bfloat16", backend="openvino", dtype=torch.bfloat16, beside=False),
]
COMPILED = [
    Way("torch.compile float32", compiled=True, beside=False),
    Way("torch.compile bfloat16", compiled=True, dtype=torch.bfloat16, beside=False),
]


def prepared(way: Way, variant: str) -> Callable[[Tensor], Tensor]:
    if variant == "T":
        model = load_model()
    else:
        torch.manual_seed(0)
        model = SegNeXt(variant).eval()
        model.metadata = Metadata(variant, ISAID)
    if way.keep:
        keep_free_memory()
    if not way.kernels:
        kernels.library = lambda: None
    network = fuse(model) if way.fused else model
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    if way.backend != "torch":
        threads = torch.get_num_threads()
        return open_backend(way.backend, network, torch.device("cpu"), way.dtype, threads)
    runnable = torch.compile(network) if way.compiled else network

    def run(x: Tensor) -> Tensor:
        half = way.dtype != torch.float32
        with torch.autocast("cpu", way.dtype if half else None, enabled=half):
            return runnable(x)

    return run


def serve(way: Way, variant: str, side: int, pipe: Connection) -> None:
    """Answer with the classes, then with the seconds of a pass whenever told."""
    run = prepared(way, variant)
    pixels = render_scene(side, side, seed=1).image.transpose(2, 0, 1)
    mean, std = np.array(Metadata("T", ISAID).mean), np.array(Metadata("T", ISAID).std)
    x = torch.from_numpy((pixels - mean[:, None, None]) / std[:, None, None]).float()[None]
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    beside = torch.get_num_threads() if way.beside else 1

    @torch.inference_mode()
    def once(_: int) -> Tensor:
        if way.beside:
            torch.set_num_threads(1)
        return run(x)

    with ThreadPoolExecutor(beside) as pool:
        list(pool.map(once, range(beside)))
        pipe.send(next(pool.map(once, range(beside))).float().argmax(dim=1).numpy())
        while pipe.recv():
            start = time.perf_counter()
            list(pool.map(once, range(beside)))
            pipe.send((time.perf_counter() - start) / beside)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="T")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--only", nargs="+", metavar="WAY", help="besides the first")
    options = parser.parse_args()
    ways = [way for way in WAYS if not missing_packages(way.backend)]
    ways += COMPILED if options.compile else []
    if options.only:
        ways = [ways[0], *(way for way in ways[1:] if way.name in options.only)]
    context = multiprocessing.get_context("spawn")
    pipes, classes, processes = [], [], []
    for way in ways:
        ours, theirs = context.Pipe()
        arguments = (way, options.variant, options.side, theirs)
        processes.append(context.Process(target=serve, args=arguments))
        processes[-1].start()
        pipes.append(ours)
        classes.append(ours.recv())  # one after the other: a warm-up is work as well
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(options.repeat):
        for pipe, measured in zip(pipes, seconds, strict=True):
            pipe.send(True)
            measured.append(pipe.recv())
    print(f"SegNeXt-{options.variant}, {options.side}², {torch.get_num_threads()} threads")
    print(f"{'':<24} {'Mpx/s':>7} {'ratio':>6} {'other class':>11} {'MB':>6}")
    medians = [statistics.median(measured) for measured in seconds]
    for way, pipe, median, found in zip(ways, pipes, medians, classes, strict=True):
        pipe.send(False)
        speed, ratio = options.side**2 / 1e6 / median, medians[0] / median
        other = 100 * (found != classes[0]).mean()
        print(f"{way.name:<24} {speed:7.2f} {ratio:6.2f} {other:10.3f}% {pipe.recv():6.0f}")
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
