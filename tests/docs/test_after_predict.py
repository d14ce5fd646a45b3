"""The commands of docs/after-predict.md, run one after the other as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
from click.testing import CliRunner
from rasterio.transform import from_origin

from geoseg.cli.main import main
from geoseg.synthetic import render_scene

PAGE = Path(__file__).resolve().parents[2] / "docs" / "after-predict.md"


def write_scene(path: Path) -> None:
    scene = render_scene(512, 512, gsd=0.3, seed=77)
    profile = {"width": 512, "height": 512, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    transform = from_origin(448_000, 5_412_000, 0.3, 0.3)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile) as file:
        file.write(scene.image.transpose(2, 0, 1))


def edit(path: Path, layer: str, **columns) -> None:
    """Change columns of a layer, as people do in QGIS."""
    frame = pyogrio.read_dataframe(path, layer=layer)
    metadata = pyogrio.read_info(path, layer=layer)["dataset_metadata"]
    path.unlink()
    frame = frame.assign(**{name: change(frame) for name, change in columns.items()})
    pyogrio.write_dataframe(frame, path, layer=layer, driver="GPKG", dataset_metadata=metadata)


def label_sample() -> None:
    names = sorted(pyogrio.read_dataframe("sample.gpkg", layer="sample")["stratum"].unique())

    def reference(frame):
        wrong = np.arange(len(frame)) % 7 == 0
        return np.where(wrong, names[0], frame["stratum"])

    edit(Path("sample.gpkg"), "sample", reference=reference)


def review() -> None:
    edit(Path("tiles.gpkg"), "suggested", reviewed=lambda frame: np.ones(len(frame), bool))
    shutil.copy("results/scene.gpkg", "corrected.gpkg")


BEFORE = {
    "accuracy": label_sample,
    "change": lambda: Path("later").exists() or shutil.copytree("results", "later"),
    "prepare": review,
}
"""What people do before a command."""


def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scene(Path("scene.tif"))
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 11
    for line in commands:
        program, *words = shlex.split(line)
        assert program == "geoseg"
        BEFORE.get(words[0], lambda: None)()
        if words[0] == "prepare":
            words += ["--patch", "128"]  # the scene is small
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, (line, done.output)
    made = {path.name for path in Path("results").iterdir()} | {p.name for p in Path().iterdir()}
    assert made >= {"scene.report.html", "scene.preview.png", "report.html", "change.gpkg"}
    changed = pyogrio.read_info("change.gpkg", layer="change")
    assert changed["features"] == 0  # the two dates are one
    assert Path("patches/split.csv").is_file()
