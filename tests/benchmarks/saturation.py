"""Where the pipeline saturates around a device of a given speed, and what it costs the CPU.

    python tests/benchmarks/saturation.py [--speeds 300 600 1000] [--size 8192]

The device is a stand-in: it sleeps as long as one of so many Mpx/s would compute, and answers with
logits that it has ready, those of the default weights for a rendered tile. Tiles go through the
same queue, buffers and batches as on a GPU. The CPU seconds are those of the process without the
copies that a GPU's own engine makes. `cores` is what the CPU seconds per Mpx need at the device's
speed; where they exceed those of the machine, the device waits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoseg import timing
from geoseg.classes import ISAID
from geoseg.cli.main import SWITCH_INTERVAL
from geoseg.model import tile_model
from geoseg.model.inference.streams import Event, InlineStream
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory
from geoseg.pipeline.bench import picture, write_scene
from geoseg.pipeline.options import OutputOptions, TilingOptions, cores
from geoseg.pipeline.predict import predict
from geoseg.timing import StageTimer

SIDE = 1472
"""Of the tile whose logits the device answers with, px."""
HEAD = f"{'device Mpx/s':>12} {'got':>7} {'busy':>6} {'batch':>6} {'CPU s/Mpx':>10} {'cores':>6}"


class Unpaid(InlineStream):
    """Runs steps whose CPU time a GPU would not need."""

    seconds = 0.0
    lock = threading.Lock()

    def run(self, step: Callable[[], None], *after: Event) -> Event:
        start = time.thread_time()
        event = super().run(step, *after)
        with self.lock:
            Unpaid.seconds += time.thread_time() - start
        return event


class Device:
    """Takes the place of `Forward`: sleeps, and returns logits that it has ready."""

    def __init__(self, logits: Tensor, mpx_per_second: float) -> None:
        self.device, self.dtype = torch.device("cpu"), torch.bfloat16
        self.ready, self.speed = logits, mpx_per_second * 1e6
        self.busy, self.sizes = 0.0, list[int]()

    def __call__(self, pixels: Tensor, valid: Tensor) -> Tensor:
        count, _, height, width = pixels.shape
        self.sizes.append(count)
        seconds = count * height * width / self.speed
        self.busy += seconds
        time.sleep(seconds)
        cells = self.ready[:, :, : height // 8, : width // 8]
        return cells.expand(count, -1, -1, -1)


class Nothing(nn.Module):
    metadata = Metadata("T", ISAID)


def logits() -> Tensor:
    """Return logits (1,C,h,w) of the default weights."""
    pixels, valid = picture(SIDE, SIDE)
    model = TileModel(load_model(), device="cpu")
    (found,) = model([pixels[0].numpy()], [valid[0].numpy()], StageTimer())
    return torch.from_numpy(found)[None]


def measure(scene: str, ready: Tensor, speed: float, folder: Path) -> dict[str, Any]:
    """Predict `scene` with a device of this speed."""
    device = Device(ready, speed)
    model = TileModel(Nothing(), device="cpu", precision="bfloat16")
    lane = model.lanes.get()
    for slot in [lane._free.get() for _ in range(lane._free.qsize())]:  # type: ignore[attr-defined]
        slot.forward, slot.fixed = device, True
        lane._free.put(slot)  # type: ignore[attr-defined]
    model.lanes.put(lane)
    Unpaid.seconds, start, cpu = 0.0, time.perf_counter(), time.process_time()
    summary = predict(scene, model, OutputOptions(folder, overwrite=True), TilingOptions())
    paid = time.process_time() - cpu - Unpaid.seconds
    seconds, mpx = time.perf_counter() - start, summary.pixels / 1e6
    return {
        "device": speed,
        "Mpx/s": mpx / seconds,
        "busy": device.busy / seconds,
        "batch": float(np.mean(device.sizes)),
        "CPU s/Mpx": paid / mpx,
        "cores": paid / mpx * speed,
        # Of the main thread, which waits while the others compute and then ends the run alone.
        "alone": summary.seconds["total"] / mpx,
        "stages": {
            name: value / mpx
            for name, value in summary.seconds.items()
            if name not in ("model", "total")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--speeds", type=float, nargs="+", default=[300.0, 600.0, 1000.0])
    parser.add_argument("--size", type=int, default=8192)
    options = parser.parse_args()
    tile_model.is_accelerator = lambda device: device.type == "cpu"
    # Stages count the CPU time of their threads.
    timing.time = SimpleNamespace(perf_counter=time.thread_time)  # type: ignore[assignment]
    keep_free_memory()
    sys.setswitchinterval(SWITCH_INTERVAL)
    with tempfile.TemporaryDirectory() as folder:
        scene = write_scene(Path(folder) / "scene.tif", options.size)
        ready = logits()
        tile_model.open_stream = lambda device: Unpaid()
        print(f"{options.size}² px, {cores()} cores")
        print(HEAD)
        for speed in options.speeds:
            row = measure(scene, ready, speed, Path(folder) / "results")
            print(
                f"{speed:12.0f} {row['Mpx/s']:7.1f} {row['busy']:6.0%} {row['batch']:6.2f} "
                f"{row['CPU s/Mpx']:10.4f} {row['cores']:6.1f}"
            )
            stages = ", ".join(f"{name} {1e3 * each:.2f}" for name, each in row["stages"].items())
            print(
                f"             CPU ms per Mpx: {stages}; alone {1e3 * row['alone']:.2f}", flush=True
            )


if __name__ == "__main__":
    main()
