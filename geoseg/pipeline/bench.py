"""How fast this machine is: the model alone, the pipeline alone, and both together."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import truediv
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window as RasterioWindow
from torch import Tensor, nn

from geoseg.classes import ISAID
from geoseg.geo.geobox import GeoBox
from geoseg.geo.raster.resampled import ResampledScene, suitable_gsd
from geoseg.geo.raster.scene import Scene
from geoseg.model.cpu.parallel import single_threaded
from geoseg.model.devices import DTYPES, Precision, computes_bfloat16
from geoseg.model.engines.backends import PRECISIONS, Backend, BackendOption, missing_packages
from geoseg.model.engines.quantized import QuantizedNetwork
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict
from geoseg.synthetic import render_scene
from geoseg.tiling.grid import Grid

AT_ONCE = 8
"""Tiles on which the model alone is timed."""
MANY = 10**12
"""Pixels, for which every conversion pays."""
MOTIF = 1024
"""Side of the rendered picture that is repeated to fill the default scene, px."""


class StandIn(nn.Module):
    """A model that takes next to no time: bright spots are cars.

    With it, a prediction measures reading, blending, decoding, polygonizing and writing.
    """

    metadata = Metadata("T", ISAID)

    def forward(self, x: Tensor) -> Tensor:
        means = F.avg_pool2d(x, 8)
        logits = means.new_zeros((len(x), len(ISAID), *means.shape[2:]))
        logits[:, 9] = means.mean(dim=1) - 1.2
        return logits


@dataclass(frozen=True, slots=True)
class Report:
    """Medians of the measurements; speeds in megapixels (10⁶ px) a second."""

    machine: str
    device: str
    threads: int
    torch: str
    variant: str
    """Variant of the model: T, S, B or L."""
    tile_size: int
    forward: dict[str, float]
    """Speed of the model alone, by backend and precision; overlaps count."""
    scene: str
    width: int
    height: int
    pipeline: float
    """Speed of a prediction without the model, in pixels of the scene."""
    chosen: str
    """Backend and precision of the complete prediction."""
    whole: float
    """Speed of the complete prediction, in pixels of the scene."""
    bare: float
    """Speed of the bare forward passes of its tiles, in pixels of the scene."""
    ratio: float
    """Time of the complete prediction over that of the bare forward passes in the same round."""


def bench(
    scene: str | None = None,
    *,
    weights: str | None = None,
    device: str = "auto",
    backend: BackendOption = "auto",
    precision: Precision = "auto",
    size: int = 4096,
    repeat: int = 3,
    tiling: TilingOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Measure every step `repeat` times, in rounds, so that a slow phase affects all steps.

    Args:
        scene: a raster; None = a rendered one of `size` × `size` px in a temporary folder.
        backend, precision: of the complete prediction; the model alone is timed with all of them.
        progress: called with the finished and the total number of measurements.
    """
    network, tiling = load_model(weights), tiling or TilingOptions()
    whole = TileModel(network, device=device, backend=backend, precision=precision)
    whole.settle(MANY)
    chosen, tiles = name(whole), [(tiling.tile_size, tiling.tile_size)] * AT_ONCE
    stand_in = TileModel(StandIn(), device=str(whole.device))
    if stand_in.streams == whole.streams:
        stand_in.pool = whole.pool  # share its threads, as if there were one model
    plain = not isinstance(network, QuantizedNetwork)  # which only one engine runs
    others = {f"{kind} {form}": (kind, form) for kind, form in ways(whole.device) if plain}
    others.pop(chosen, None)
    count = repeat * (len(others) + 4)
    with TemporaryDirectory() as folder:
        path = scene or write_scene(Path(folder) / "scene.tif", size)
        output = OutputOptions(Path(folder) / "results", overwrite=True)
        own, seen = geoboxes(path, network.metadata)
        grid = Grid(seen.width, seen.height, tiling.tile_size, tiling.overlap)
        shapes = [(y.size, x.size) for y in grid.rows for x in grid.columns]
        # Before the other engines are loaded: their threads would use part of the cores.
        steps = {
            chosen: passes(whole, tiles),
            "pipeline": lambda: predict(path, stand_in, output, tiling),
            "bare": passes(whole, shapes),
            "whole": lambda: predict(path, whole, output, tiling),
        }
        seconds = in_rounds(steps, repeat, lambda done: progress(done, count))
    models = {
        key: passes(
            TileModel(network, device=str(whole.device), backend=kind, precision=form), tiles
        )
        for key, (kind, form) in others.items()
    }
    seconds |= in_rounds(models, repeat, lambda done: progress(4 * repeat + done, count))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    mpx, tile = own.width * own.height / 1e6, AT_ONCE * tiling.tile_size**2 / 1e6
    return Report(
        machine=machine(whole.device),
        device=str(whole.device),
        threads=whole.cores,
        torch=torch.__version__,
        variant=network.metadata.variant,
        tile_size=tiling.tile_size,
        forward={key: tile / medians[key] for key in (chosen, *others)},
        scene=scene or "rendered",
        width=own.width,
        height=own.height,
        pipeline=mpx / medians["pipeline"],
        chosen=chosen,
        whole=mpx / medians["whole"],
        bare=mpx / medians["bare"],
        ratio=statistics.median(map(truediv, seconds["whole"], seconds["bare"])),
    )


def name(model: TileModel) -> str:
    """Return backend and precision as one word each."""
    return f"{model.backend} {model.options['precision']}"


def ways(device: torch.device) -> Iterator[tuple[Backend, Precision]]:
    """Yield the installed backends with the precisions that are fast on `device`."""
    yield "torch", "float32"
    if device.type == "cuda":
        yield "torch", "float16"
    if computes_bfloat16(device):
        yield "torch", "bfloat16"
    if device.type == "cpu":
        for backend, known in PRECISIONS.items():
            for precision, dtype in DTYPES.items():
                if dtype in known and not missing_packages(backend):
                    yield backend, precision


def passes(model: TileModel, shapes: Sequence[tuple[int, int]]) -> Callable[[], object]:
    """Return a function that runs the model on tiles of these shapes (H, W), warmed up.

    Tiles show a picture, since noise is one or two percent faster.
    """
    with single_threaded():
        tiles = {(h, w): model.forward.normalize(*picture(h, w)) for h, w in set(shapes)}
    batches = [
        tiles[shape].expand(min(model.batch_size, len(shapes) - i), -1, -1, -1)
        for i, shape in enumerate(shapes)
        if i % model.batch_size == 0
    ]

    @torch.inference_mode()
    def run(x: Tensor) -> Tensor:
        return model.forward.run(x).cpu()  # waits for the device

    def compute(batches: Sequence[Tensor]) -> list[Tensor]:
        jobs = [model.pool.submit(run, batch) for batch in batches]
        return [job.result() for job in jobs]

    compute(batches[: model.streams])
    return lambda: compute(batches)


def in_rounds(
    tasks: Mapping[str, Callable[[], object]], repeat: int, progress: Callable[[int], None]
) -> dict[str, list[float]]:
    """Return the seconds of each task in each round."""
    seconds: dict[str, list[float]] = {key: [] for key in tasks}
    for round_ in range(repeat):
        for i, (key, task) in enumerate(tasks.items(), start=1):
            start = time.perf_counter()
            task()
            seconds[key].append(time.perf_counter() - start)
            progress(round_ * len(tasks) + i)
    return seconds


def geoboxes(path: str, metadata: Metadata) -> tuple[GeoBox, GeoBox]:
    """Return the grids of a scene and of what the model sees of it."""
    scene = Scene.open(path)
    gsd = suitable_gsd(scene.geobox.gsd, metadata.gsd_range)
    scene.close()
    return scene.geobox, ResampledScene.of(scene, gsd=gsd, scale=metadata.scale).geobox


@cache
def motif() -> NDArray[np.uint8]:
    """Return a rendered picture (3,H,W)."""
    return render_scene(MOTIF, MOTIF, seed=1).image.transpose(2, 0, 1)


def picture(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the repeated motif (1,3,H,W) and its validity (1,H,W)."""
    repeats = (1, -(-height // MOTIF), -(-width // MOTIF))
    pixels = np.ascontiguousarray(np.tile(motif(), repeats)[:, :height, :width])
    return torch.from_numpy(pixels)[None], torch.ones((1, height, width), dtype=torch.bool)


def write_scene(path: Path, size: int) -> str:
    """The motif, repeated over `size` × `size` px; a tiled JPEG GeoTIFF."""
    row = np.tile(motif(), (1, 1, -(-size // MOTIF)))[..., :size]
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
    profile |= {"compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": 90}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(448_000, 5_412_000, 0.3, 0.3)}
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, size, MOTIF):  # a large one does not fit into memory
            height = min(MOTIF, size - top)
            file.write(row[:, :height], window=RasterioWindow(0, top, size, height))
    return str(path)


def machine(device: torch.device) -> str:
    """Return the name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
