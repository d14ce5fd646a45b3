"""The commands of docs/services.md, with a server of tiles on this machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from tile_server import SIZE, serving

from geoseg.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "services.md"
ZOOM, COLUMN, ROW = 19, 276_704, 151_264
"""0.15 m a pixel, at 60.4° N."""


def test_commands_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GDAL_DEFAULT_WMS_CACHE_PATH", str(tmp_path / "wmts"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    picture = np.random.default_rng(0).integers(0, 256, (4 * SIZE, 4 * SIZE, 3), np.uint8)
    text = PAGE.read_text("utf-8")
    with serving(picture, ZOOM, COLUMN, ROW) as server:
        text = text.replace("https://tile.example", server.root)
        (description,) = re.findall(r"^```xml\n(.*?)^```$", text, re.M | re.S)
        Path("imagery.xml").write_text(description)
        (west, north), (east, south) = (server.transform(ZOOM) @ (at, at) for at in (300, 700))
        box = geopandas.GeoSeries([shapely.box(west, south, east, north)], crs=3857)
        box.to_file("area.gpkg")
        commands = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S))
        folders = []
        for line in commands.splitlines():
            program, *words = shlex.split(line)
            assert program == "geoseg"
            done = CliRunner().invoke(main, [*words, "-v"])
            assert done.exit_code == 0, done.output
            folders.append(Path(words[-1]))
        levels = {"results": 19, "coarse": 17, "described": 19, "wmts": 19, "limited": 19}
        assert [folder.name for folder in folders] == list(levels)
        for folder in folders:
            (classes,) = folder.glob("*.classes.tif")
            with rasterio.open(classes) as raster:
                scale = 2 ** (ZOOM - levels[folder.name])
                assert raster.shape == pytest.approx((400 / scale, 400 / scale), abs=1)
