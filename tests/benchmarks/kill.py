"""Kill -9 at random moments of a prediction, resumed each time: is anything lost or done twice?

    python tests/benchmarks/kill.py SCENE [--kills 20] [--weights FILE]

Every trial starts a prediction in a process of its own, kills it after a random share of the time
that an undisturbed one takes, runs the same command again, and compares the results byte by byte.
Tiles that the model sees twice are counted by a line that each batch adds to a file.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import signal
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.options import OutputOptions, TilingOptions
from geoseg.pipeline.predict import predict


class Counted(TileModel):
    """Notes every tile that it has computed."""

    tally: Path

    def __call__(self, images, valid, timer) -> list[NDArray[np.float32]]:  # type: ignore[no-untyped-def]
        logits = super().__call__(images, valid, timer)
        with self.tally.open("a") as file:
            file.write("tile\n" * len(logits))
        return logits


def work(scene: str, folder: Path, weights: str | None, tile_size: int) -> None:
    model = Counted(load_model(weights), device="cpu")
    model.tally = folder / "tally"
    predict(
        scene,
        model,
        OutputOptions(folder / "out", confidence=True),
        TilingOptions(tile_size=tile_size),
    )


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    return process


def digest(folder: Path) -> dict[str, str]:
    """Of every result, without times: a GeoPackage by its rows, and no record of the run."""
    found = {}
    for path in sorted((folder / "out").iterdir()):
        if path.suffix == ".gpkg":
            with sqlite3.connect(path) as file:
                names = [r[0] for r in file.execute("SELECT table_name FROM gpkg_contents")]
                tables = [n for n in names if n != "layer_styles"]
                content = repr([file.execute(f'SELECT * FROM "{n}"').fetchall() for n in tables])
                found[path.name] = hashlib.sha256(content.encode()).hexdigest()
        elif path.suffix == ".xml":
            root = ElementTree.parse(path).getroot()
            for record in root.findall("Metadata[@domain='GEOSEG']"):
                root.remove(record)
            found[path.name] = hashlib.sha256(ElementTree.tostring(root)).hexdigest()
        else:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def tiles(folder: Path) -> int:
    return (folder / "tally").read_text().count("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--weights")
    parser.add_argument("--tile-size", type=int, default=512)
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as root:
        reference = Path(root) / "reference"
        reference.mkdir()
        began = time.monotonic()
        start(options.scene, reference, options.weights, options.tile_size).join()
        seconds, expected, needed = time.monotonic() - began, digest(reference), tiles(reference)
        print(f"undisturbed: {seconds:.1f} s, {needed} tiles, {len(expected)} results")
        same, twice = 0, []
        for trial in range(options.kills):
            folder = Path(root) / str(trial)
            folder.mkdir()
            delay = random.uniform(0.2, 1.0) * seconds
            process = start(options.scene, folder, options.weights, options.tile_size)
            process.join(delay)
            process.kill()
            process.join()
            before = tiles(folder) if (folder / "tally").exists() else 0
            killed = process.exitcode == -signal.SIGKILL
            if killed:
                again = start(options.scene, folder, options.weights, options.tile_size)
                again.join()
                assert again.exitcode == 0
            same += digest(folder) == expected
            twice.append(tiles(folder) - needed)
            print(
                f"after {delay:5.1f} s, {before:3d} tiles done: {twice[-1]} done twice", flush=True
            )
        print(f"{same} of {options.kills} identical; tiles done twice: median "
              f"{statistics.median(twice)}, at most {max(twice)} (a block has 4)")  # fmt: skip


if __name__ == "__main__":
    main()
