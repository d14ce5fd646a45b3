"""geoseg and its peers side by side: same SegNeXt-T weights, same scene, same two cores, no GPU.

    python tests/benchmarks/peers.py SCENE [--size 2048] [--repeat 3] [--only TOOL …]
                                     [--envs FOLDER] [--also "--tile-size 2144"]

The scene is the window of --size² px in the middle of SCENE, 8 bits RGB. Every tool has a process
of its own in every turn, and takes turns with the others. Wall time runs from the start of the
interpreter ("import" is what that and the imports take) past the class raster ("raster") to the
polygons, where the tool makes them; memory is the largest resident set. The peers' scripts and
their pinned requirements are in the folder `peers`; --envs keeps one virtual environment for each,
made on first use with what pip finds (torch has to be its CPU build). A peer that cannot be
installed or run is listed with the reason.

geoseg cuts the scene as it does by default, and with the options of --also in turns of their own.
The peers get tiles of 1024 px that overlap by 128, where they leave the choice (in geo-inference it
is half a tile), and run the plain module of the paper, as TorchScript, which is as fast as eager
mode here, or ONNX. "same" is the share of pixels whose class is that of one forward pass of the
whole window; "objects" counts only pixels that either calls an object; "empty" are pixels without
a class, left out of both. Needs geoseg[onnxruntime] for the export.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from platformdirs import user_cache_path

HERE = Path(__file__).parent / "peers"
LIMIT = 3600
"""Seconds after which a process is ended: RSInferencer waits for ever if a thread of it fails."""
QUIET = {"NO_ALBUMENTATIONS_UPDATE": "1", "MPLBACKEND": "agg", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    version: str = ""
    """As pinned; "" = geoseg itself, as in this repository, without extras."""
    system: str = ""
    """A package without wheels, linked from the system's Python."""
    options: tuple[str, ...] = ()
    """Of `geoseg predict`."""

    @property
    def stem(self) -> str:
        """Of its script and its requirements among the peers', and of its environment."""
        return self.name.lower().replace("-", "_")


TOOLS = [
    Tool("geoseg"),
    Tool("geo-inference", "3.2.4"),
    Tool("GeoDeep", "0.9.13"),
    Tool("mmsegmentation", "1.2.2", system="osgeo"),
    Tool("geoai-py", "0.40.1"),
    Tool("raster-vision", "0.31.1"),
]


@dataclass(slots=True)
class Result:
    tool: str
    missing: str = ""
    """Why there are no figures."""
    imported: float = 0.0
    """Seconds of the interpreter's start and the imports alone; part of `seconds`."""
    to_raster: list[float] = field(default_factory=list)
    """Seconds until the class raster was complete."""
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    same: float = 0.0
    objects: float = 0.0
    empty: float = 0.0
    outputs: str = ""


def environment(tool: Tool, envs: Path) -> Path:
    """The interpreter of a tool's environment, which is made if it is not there as pinned."""
    if not tool.version:
        return own_environment(envs / tool.stem)
    folder, pins = envs / tool.stem, HERE / f"{tool.stem}.txt"
    stamp, python = folder / "pins.txt", folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return python
    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    # Complete lists: resolved, some peers would bring gigabytes that this path does not import.
    checked([python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", pins])
    if tool.system:
        code = f"import {tool.system}; print(*{tool.system}.__path__)"
        (site_packages,) = folder.glob("lib/python*/site-packages")
        (site_packages / tool.system).symlink_to(checked(["/usr/bin/python3", "-c", code]))
    shutil.copy(pins, stamp)
    return python


def own_environment(folder: Path) -> Path:
    """Made anew if it is not there, and compiled anew: as a user installs geoseg."""
    python, root = folder / "bin" / "python", HERE.parents[2]
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    checked([python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt", "-e", root])
    return python


def checked(command: list[str | Path]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run(command: list[str | Path], log: Path) -> tuple[float, float]:
    """Wall seconds and peak MB of a process. None of the tools forks, so it is all of the tree.

    A process inherits the peak of the one that starts it: this one must stay small, and leaves
    torch to `export.py`.
    """
    with log.open("w") as file:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=log.parent, env=os.environ | QUIET
        )
        limit = threading.Timer(LIMIT, process.kill)
        limit.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        limit.cancel()
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, command, stderr=log.read_text(errors="replace"))
    return seconds, usage.ru_maxrss / 1024


def commands(tool: Tool, python: Path, work: Path, tiling: list[str]) -> list[list[str | Path]]:
    """One that only imports, and the one that is measured."""
    scene, folder = work / "scene.tif", work / tool.name
    if not tool.version:
        predict = [python, "-P", "-m", "geoseg", "predict", scene, "-o", folder, "--quiet"]
        gsd = (work / "gsd.txt").read_text()  # the pixels that the others see, too
        options = ["--gsd", gsd] if gsd else []
        return [
            [python, "-P", "-c", "import geoseg.pipeline.predict"],
            [*predict, *options, *tool.options],
        ]
    script = [python, "-P", HERE / f"{tool.stem}.py"]
    return [script, [*script, scene, work, folder, *tiling]]


def agreement(raster: Path, truth: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Shares of the same class, of the same class among objects, and of pixels without one."""
    with rasterio.open(raster) as file:
        found = file.read(1)
    labeled = found != 255
    same, objects = labeled & (found == truth), labeled & ((found > 0) | (truth > 0))
    shares = same.sum() / labeled.sum(), (same & objects).sum() / max(objects.sum(), 1)
    return *shares, 1 - labeled.mean()


def measure(
    tools: list[Tool], envs: Path, work: Path, repeat: int, tiling: list[str]
) -> list[Result]:
    results = [Result(" ".join(filter(None, [t.name, t.version, *t.options]))) for t in tools]
    pythons = {}
    for tool, result in zip(tools, results, strict=True):
        with noted(result):
            pythons[tool.name] = environment(tool, envs)
            importing, _ = commands(tool, pythons[tool.name], work, tiling)
            run(importing, work / "log.txt")  # warms up
            result.imported, _ = run(importing, work / "log.txt")
    truth = np.load(work / "truth.npy")
    for _ in range(repeat):
        for tool, result in zip(tools, results, strict=True):
            if result.missing:
                continue
            print(result.tool, file=sys.stderr)
            folder = work / tool.name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with noted(result):
                _, predicting = commands(tool, pythons[tool.name], work, tiling)
                began = time.time()
                seconds, megabytes = run(predicting, work / "log.txt")
                raster = next(folder.rglob("*.tif"))
                result.same, result.objects, result.empty = agreement(raster, truth)
                made = {path.suffix for path in folder.rglob("*")} - {"", ".xml"}
                result.outputs = " ".join(sorted(made, reverse=True))
                result.to_raster.append(raster.stat().st_mtime - began)
                result.seconds.append(seconds)
                result.megabytes.append(megabytes)
    return results


@contextmanager
def noted(result: Result) -> Iterator[None]:
    """A tool that fails is reported, and the others go on."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        last = error.stderr.strip().splitlines()[-1:]
        result.missing = f"exit code {error.returncode}: {''.join(last)}"
    except (OSError, StopIteration) as error:
        result.missing = str(error) or "it made no class raster"


def table(results: list[Result]) -> Iterator[str]:
    yield (
        f"{'':<21} {'wall s':>7} {'ratio':>6} {'MB':>6} {'ratio':>6} {'import':>6} {'raster':>7} "
        f"{'same':>8} {'objects':>8} {'empty':>7}  outputs"
    )
    base = None
    for result in results:
        if result.missing:
            yield f"{result.tool:<21} missing: {result.missing}"
            continue
        measured = (result.seconds, result.megabytes, result.to_raster)
        wall, peak, raster = (statistics.median(values) for values in measured)
        base = base or (wall, peak)
        yield (
            f"{result.tool:<21} {wall:7.1f} {wall / base[0]:6.2f} {peak:6.0f} "
            f"{peak / base[1]:6.2f} {result.imported:6.1f} {raster:7.1f} {result.same:8.3%} "
            f"{result.objects:8.2%} {result.empty:7.2%}  {result.outputs}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene")
    parser.add_argument("--size", type=int, default=2048, help="a multiple of 32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--also", metavar="OPTIONS", help="a turn of geoseg with these, too")
    parser.add_argument("--only", nargs="+", metavar="TOOL", help="besides geoseg")
    parser.add_argument("--tile-size", type=int, default=1024, help="of the peers")
    parser.add_argument("--overlap", type=int, default=128, help="of the peers")
    parser.add_argument("--envs", type=Path, default=user_cache_path("geoseg") / "peers")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    tiling = [str(options.tile_size), str(options.overlap)]
    tools = [TOOLS[0], *(t for t in TOOLS[1:] if not options.only or t.name in options.only)]
    if options.also:
        tools.insert(1, replace(TOOLS[0], options=tuple(shlex.split(options.also))))
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        scene, size = Path(options.scene).resolve(), str(options.size)
        export = [sys.executable, "-P", HERE / "export.py", scene, work, size, *tiling]
        try:
            run(export, work / "log.txt")
        except subprocess.CalledProcessError as error:
            parser.exit(1, error.stderr)
        results = measure(tools, options.envs.resolve(), work, options.repeat, tiling)
    if results[0].missing:
        parser.exit(1, f"geoseg: {results[0].missing}\n")
    print(f"{scene.name}, the {size}² px in the middle; {options.repeat} turns")
    print("\n".join(table(results)))
    print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
