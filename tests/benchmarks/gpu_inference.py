"""Inference on a GPU: parity with the CPU, speed, what each measure gains, whole predictions.

    python tests/benchmarks/gpu_inference.py [--device cuda] [--budget 240] [--out gpu.json]
    python tests/benchmarks/gpu_inference.py --rehearse     the same, tiny, on the CPU

Sections run in order of importance until the budget, in seconds, is spent; a section that fails
says why and does not stop the others. Speeds are in megapixels (10⁶ px) a second; "same class" is
the share of cells whose class is that of float32 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoseg import load_model
from geoseg.classes import ISAID
from geoseg.cli.main import SWITCH_INTERVAL
from geoseg.model import tile_model
from geoseg.model.devices import computes_bfloat16, is_out_of_memory
from geoseg.model.fused import fuse
from geoseg.model.inference.forward import Forward
from geoseg.model.inference.prepare import prepare
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid, fold_norms
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.native.malloc import keep_free_memory
from geoseg.pipeline.bench import machine, write_scene
from geoseg.pipeline.options import ComputeOptions, OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.synthetic import render_scene
from geoseg.timing import StageTimer

ROOT = Path(__file__).resolve().parents[2]
TRAINED = {"pyramid": "lite2_aerial", "T": "segnext_t_aerial"}
Tiles = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    side: int = 1472
    """Of a tile, px."""
    tiles: int = 8
    """Different ones."""
    batches: tuple[int, ...] = (1, 8, 16)
    variants: tuple[str, ...] = ("pyramid", "T", "S", "B")
    scene: int = 16384
    """Side of the scene, px."""
    schedulers: tuple[str, ...] = ("local:8",)
    """Of whole predictions, beside threads."""
    seconds: float = 1.0
    """For each measurement of a forward pass."""


TINY = Sizes(
    side=64,
    tiles=3,
    batches=(1, 2),
    variants=("pyramid", "T"),
    scene=256,
    schedulers=(),
    seconds=0.01,
)


@dataclass
class Bench:
    """The machine, the networks and the tiles; results by section."""

    device: torch.device
    sizes: Sizes
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        side, self.half = self.sizes.side, torch.bfloat16
        if self.device.type == "cuda" and not computes_bfloat16(self.device):
            self.half = torch.float16
        base = render_scene(side, side, seed=1).image.transpose(2, 0, 1)
        self.tiles: Tiles = [
            np.ascontiguousarray(np.roll(base, 97 * i, axis=2)) for i in range(self.sizes.tiles)
        ]
        self.valid = [np.ones((side, side), bool)] * len(self.tiles)
        self.mpx = side**2 / 1e6

    def network(self, variant: str) -> nn.Module:
        """Return trained weights where there are some, else random ones, which are as fast."""
        if variant in TRAINED:
            return load_model(TRAINED[variant])
        torch.manual_seed(0)
        network = SegNeXt(variant, len(ISAID)).eval()
        network.metadata = Metadata(variant, ISAID)
        return network

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def repeated(self, count: int) -> Tensor:
        """Return tiles (count,3,H,W) on the device."""
        stacked = np.stack(list(islice(cycle(self.tiles), count)))
        return torch.from_numpy(stacked).to(self.device)

    def speed(self, work: Callable[[], object], mpx: float) -> float:
        """Return the median speed of `work`, which computes `mpx`, after two calls of warming."""
        for _ in range(2):
            work()
        self.synchronize()
        seconds: list[float] = []
        while sum(seconds) < self.sizes.seconds or len(seconds) < 3:
            start = time.perf_counter()
            work()
            self.synchronize()
            seconds.append(time.perf_counter() - start)
        return mpx / statistics.median(seconds)

    def truth(self, variant: str) -> NDArray[np.float32]:
        """Return the logits (N,C,h,w) of float32 on the CPU."""
        model = TileModel(self.network(variant), device="cpu", precision="float32")
        return np.stack(model(self.tiles, self.valid, StageTimer()))

    def model(self, variant: str, precision: str, **how: Any) -> TileModel:
        network, device = self.network(variant), str(self.device)
        return TileModel(network, device=device, precision=precision, **how)  # type: ignore[arg-type]

    # --- sections ---------------------------------------------------------------------------

    def parity(self) -> Iterator[dict[str, Any]]:
        """Logits on the device beside those of float32 on the CPU, and whether bytes repeat."""
        half = str(self.half).removeprefix("torch.")
        for variant in ("pyramid", "T"):
            expected = self.truth(variant)
            scale = float(np.abs(expected).max())
            for precision in ("float32", half):
                model = self.model(variant, precision, batch_size=4)
                found = np.stack(model(self.tiles, self.valid, StageTimer()))
                again = np.stack(model(self.tiles, self.valid, StageTimer()))
                turned = np.stack(model(self.tiles[::-1], self.valid, StageTimer()))[::-1]
                single = self.model(variant, precision, batch_size=1)
                one = np.stack(single(self.tiles, self.valid, StageTimer()))
                yield {
                    "network": variant,
                    "precision": precision,
                    "worst logit, of the largest": float(np.abs(found - expected).max()) / scale,
                    "same class": same_class(found, expected),
                    "same bytes again": found.tobytes() == again.tobytes(),
                    "same bytes in another order": found.tobytes() == turned.tobytes(),
                    "same bytes one by one": found.tobytes() == one.tobytes(),
                }

    def forward(self) -> Iterator[dict[str, Any]]:
        """Normalization and network of tiles that are on the device, in half precision."""
        for variant, triton in self.ways():
            network = self.network(variant)
            metadata = network.metadata
            assert isinstance(metadata, Metadata)
            ready = prepare(folded(network), self.device, self.half, triton=triton)
            forward = Forward(ready, metadata, self.device, self.half)
            for size in self.sizes.batches:
                pixels = self.repeated(size)
                valid = torch.ones_like(pixels[:, 0])
                row: dict[str, Any] = {"network": variant, "triton": triton, "batch": size}
                try:
                    row["Mpx/s"] = self.speed(lambda: forward(pixels, valid), size * self.mpx)  # noqa: B023
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    row["Mpx/s"] = "out of memory"
                if self.device.type == "cuda":
                    row["GiB"] = torch.cuda.max_memory_allocated(self.device) / 2**30
                    torch.cuda.reset_peak_memory_stats(self.device)
                yield row

    def ways(self) -> Iterator[tuple[str, bool]]:
        """Yield the networks, and whether their kernels in Triton are used."""
        for variant in self.sizes.variants:
            if variant != "pyramid":  # which has none
                yield variant, False
            yield variant, variant != "pyramid"

    def waterfall(self) -> Iterator[dict[str, Any]]:
        """One measure after the other; tiles travel from and to the host from "copied" on."""
        variant, batch = "pyramid", max(self.sizes.batches[:-1])
        expected = self.truth(variant)
        network = self.network(variant)
        metadata = network.metadata
        assert isinstance(metadata, Metadata)
        plain = self.network(variant).to(self.device)
        last = self.network(variant).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ready = prepare(folded(network), self.device, self.half)
        steps = {
            "plain, NCHW, float32": (plain, torch.float32, 1, True),
            "channels-last": (last, torch.float32, 1, False),
            "half precision": (last, self.half, 1, False),
            "norms folded, weights stored in half": (ready, self.half, 1, False),
            f"batches of {batch}": (ready, self.half, batch, False),
        }
        for name, (module, dtype, size, planar) in steps.items():
            run = Planar(module) if planar else module
            forward = Forward(run, metadata, self.device, dtype)
            pixels = self.repeated(len(self.tiles))
            parts = pixels.split(size)

            def work(forward: Forward = forward, parts: Sequence[Tensor] = parts) -> list[Tensor]:
                return [forward(part, torch.ones_like(part[:, 0])) for part in parts]

            speed = self.speed(work, len(self.tiles) * self.mpx)
            logits = torch.cat(work()).float().cpu().numpy()
            yield {"step": name, "Mpx/s": speed, "same class": same_class(logits, expected)}
        model = self.model(variant, str(self.half).removeprefix("torch."), batch_size=batch)
        yield {"step": "copied: threads, pinned ring, streams", **self.fed(model, expected)}

    def compiled(self) -> Iterator[dict[str, Any]]:
        """The last step of the waterfall with torch.compile, and with CUDA graphs besides."""
        half, batch = str(self.half).removeprefix("torch."), max(self.sizes.batches[:-1])
        for variant, mode in (("T", "default"), ("pyramid", "default"), ("T", "reduce-overhead")):
            model = self.model(variant, half, batch_size=batch, compile_mode=mode)
            start = time.perf_counter()
            model(self.tiles, self.valid, StageTimer())
            seconds = time.perf_counter() - start
            fed = self.fed(model, self.truth(variant))
            yield {"network": variant, "mode": mode, "s to compile": seconds, **fed}

    def fed(self, model: TileModel, expected: NDArray[np.float32]) -> dict[str, Any]:
        """Return the speed of a model that threads feed with blocks of four tiles."""
        first = np.stack(model(self.tiles, self.valid, StageTimer()))
        rounds = 1 if self.sizes.side < 256 else 16
        queued = self.tiles * rounds
        blocks = [queued[i : i + 4] for i in range(0, len(queued), 4)]
        with ThreadPoolExecutor(16) as pool:

            def work() -> list[object]:
                return list(
                    pool.map(lambda b: model(b, self.valid[:1] * len(b), StageTimer()), blocks)
                )

            speed = self.speed(work, rounds * len(self.tiles) * self.mpx)
        return {"Mpx/s": speed, "same class": same_class(first, expected)}

    def whole(self) -> Iterator[dict[str, Any]]:
        """Whole predictions of a rendered scene, by threads and by processes that share the GPU."""
        with tempfile.TemporaryDirectory() as folder:
            tile = self.sizes.side
            small = write_scene(Path(folder) / "small.tif", 2 * tile)
            scene = write_scene(Path(folder) / "scene.tif", self.sizes.scene)
            tiling = TilingOptions(tile, 128 if tile > 256 else 32)
            for variant in self.sizes.variants[:2]:
                model = self.model(variant, "auto")
                # The first prediction of a process imports modules and chooses kernels.
                predict(small, model, OutputOptions(Path(folder) / f"first {variant}"), tiling)
                schedulers = self.sizes.schedulers if variant == self.sizes.variants[0] else ()
                # Twice by threads: the first large scene is also the first use of much memory.
                for turn, scheduler in enumerate((None, None, *schedulers), 1):
                    output = OutputOptions(Path(folder) / f"{variant} {turn}")
                    compute = ComputeOptions(scheduler=scheduler)
                    cpu = time.process_time()
                    summary = predict(scene, model, output, tiling, compute=compute)
                    yield {
                        "network": variant,
                        "scheduler": scheduler or "threads",
                        "Mpx": summary.pixels / 1e6,
                        "Mpx/s": summary.mpx_per_second,
                        "CPU seconds per Mpx": (time.process_time() - cpu) / summary.pixels * 1e6,
                        "objects": summary.objects,
                        **{f"{name}, s": value for name, value in summary.seconds.items()},
                    }

    def profile(self) -> Iterator[dict[str, Any]]:
        """The costliest operations of one batch."""
        from torch.profiler import ProfilerActivity, profile

        size = self.sizes.batches[-2]
        on_cuda = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_cuda else [])
        pixels = self.repeated(size)
        valid = torch.ones_like(pixels[:, 0])

        def cost(event: Any) -> float:
            # Of kernels, not of the operations that start them.
            return event.self_device_time_total if on_cuda else event.self_cpu_time_total

        for variant in self.sizes.variants[:2]:
            model = self.model(variant, "auto", batch_size=size)
            with torch.inference_mode():
                model.forward(pixels, valid)
                with profile(activities=activities) as found:
                    model.forward(pixels, valid)
                    self.synchronize()
            kernels = [e for e in found.key_averages() if on_cuda == (e.device_type.name == "CUDA")]
            total = sum(map(cost, kernels))
            for event in sorted(kernels, key=cost, reverse=True)[:12]:
                yield {
                    "network": variant,
                    "operation": event.key[:90],
                    "calls": event.count,
                    "ms": cost(event) / 1e3,
                    "share": cost(event) / total,
                }


class Planar(nn.Module):
    """A network whose input is in NCHW order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x.contiguous())
        return found


def folded(network: nn.Module) -> nn.Module:
    """Return a network's inference form."""
    if isinstance(network, SegNeXt):
        return fuse(network)
    assert isinstance(network, EfficientNetPyramid)
    return fold_norms(network)


def same_class(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as columns of text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([shown(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def shown(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--only", nargs="+", metavar="SECTION")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    keep_free_memory()
    sys.setswitchinterval(SWITCH_INTERVAL)
    device = torch.device("cpu" if options.rehearse else options.device)
    if options.rehearse:  # the path of an accelerator, with buffers and batches of one size
        tile_model.is_accelerator = tile_model.has_fixed_shapes = lambda device: True
    bench = Bench(device, TINY if options.rehearse else Sizes())
    found: dict[str, Any] = {"machine": machine(device), "torch": torch.__version__}
    print(f"{found['machine']}, torch {found['torch']}, on {device}")
    sections = [bench.parity, bench.forward, bench.whole, bench.waterfall, bench.profile]
    if not options.rehearse:  # a compiler takes minutes
        sections.append(bench.compiled)
    for section in sections:
        name, rows = section.__name__, list[dict[str, Any]]()
        if options.only and name not in options.only:
            continue
        found[name] = rows
        assert section.__doc__ is not None
        print(f"\n{name}: {section.__doc__}")
        try:
            with torch.inference_mode():
                for row in section():
                    rows.append(row)
                    options.out.write_text(json.dumps(found, indent=1))  # survives a kill
                    if time.monotonic() - start > options.budget:
                        rows.append({"stopped": "the budget is spent"})
                        break
        except Exception as error:  # the other sections are worth having
            rows.append({"failed": f"{type(error).__name__}: {error}"})
        print(table(rows), flush=True)
        options.out.write_text(json.dumps(found, indent=1))
    print(f"\n{time.monotonic() - start:.0f} s; {options.out}")
    return found


if __name__ == "__main__":
    main()
