"""A cluster that loses a worker every minute: are the results the same, and is memory flat?

    python tests/benchmarks/lost_workers.py [--workers 3] [--every 60] [--minutes 5]

Scheduler and workers are processes of their own. Every so often one worker is killed (SIGKILL) and
another one started in its place. The model sleeps, so that the run takes about as many minutes as
were asked for and two cores suffice. The same scene is then predicted on threads of this process.
Memory is the resident set of the client, sampled every second while workers die.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cloudpickle
import slots
from distributed import Client
from kill import digest
from slots import Sleeping

from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory, resident_bytes
from geoseg.pipeline.bench import StandIn, write_scene
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict

THREADS = 2
"""Of each worker."""


def start(log: Path, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


class Processes:
    """A scheduler, and workers that are killed one after the other. A context."""

    def __init__(self, folder: Path, workers: int, every: float) -> None:
        self.folder, self.every, self.losses = folder, every, 0
        self.begun, self.ended = threading.Event(), threading.Event()
        self.memory: list[float] = []
        """MB of this process, every second from the first loss on."""
        file = folder / "scheduler.json"
        where = ["--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file]
        self.scheduler = start(folder / "log", "scheduler", *where)
        while not (file.exists() and file.stat().st_size):
            time.sleep(0.1)
        self.address: str = json.loads(file.read_text())["address"]
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        """By name, the oldest first."""
        self.names = map(str, itertools.count())
        for _ in range(workers):
            self.add_worker()
        with Client(self.address) as client:
            client.wait_for_workers(workers)
        self.killing = threading.Thread(target=self.kill)

    def add_worker(self) -> None:
        name = next(self.names)
        options = ["--name", name, "--nthreads", THREADS, "--no-nanny", "--no-dashboard"]
        self.workers[name] = start(self.folder / "log", "worker", self.address, *options)

    def kill(self) -> None:
        """Kill the oldest worker every so often, from the first finished block on."""
        self.begun.wait()
        with Client(self.address) as client:
            for second in itertools.count(1):
                if self.ended.wait(1):
                    return
                if self.losses:
                    self.memory.append(resident_bytes() / 2**20)
                if second % self.every == 0:
                    known = client.scheduler_info(n_workers=-1)["workers"].values()
                    joined = {str(each["name"]) for each in known}  # others are still starting
                    name = next((each for each in self.workers if each in joined), None)
                    if name is None:
                        continue
                    worker = self.workers.pop(name)
                    worker.kill()
                    worker.wait()
                    self.add_worker()
                    self.losses += 1

    def __enter__(self) -> Processes:
        self.killing.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.begun.set()
        self.killing.join()
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--every", type=int, default=60, help="seconds")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="for which the model sleeps")
    parser.add_argument("--tile-size", type=int, default=256)
    options = parser.parse_args()
    cloudpickle.register_pickle_by_value(slots)
    keep_free_memory()
    blocks = 60 * options.minutes * options.workers * THREADS / options.seconds
    side, tiling = math.ceil(math.sqrt(blocks)), TilingOptions(options.tile_size, 32)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scene = write_scene(root / "scene.tif", side * (options.tile_size - 32) + 32)
        Sleeping.seconds, begun = options.seconds, time.perf_counter()
        with Processes(root, options.workers, options.every) as cluster:
            predict(
                scene,
                Sleeping(StandIn(), device="cpu"),
                OutputOptions(root / "cluster" / "out"),
                tiling,
                compute=ComputeOptions(scheduler=cluster.address),
                progress=lambda done, total: cluster.begun.set(),
            )
        minutes = (time.perf_counter() - begun) / 60
        predict(
            scene, TileModel(StandIn(), device="cpu"), OutputOptions(root / "here" / "out"), tiling
        )
        same = digest(root / "cluster") == digest(root / "here")
    print(
        f"{side**2} blocks in {minutes:.1f} min, {cluster.losses} workers lost: "
        f"{'the same bytes' if same else 'OTHER BYTES'}"
    )
    third = len(cluster.memory) // 3
    print(
        f"MB of the client: {max(cluster.memory[:third]):.0f} at most in the first third, "
        f"{max(cluster.memory[-third:]):.0f} in the last"
    )


if __name__ == "__main__":
    main()
