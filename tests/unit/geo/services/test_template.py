"""Addresses of tiles: placeholders, rows from either side, sizes, zoom levels."""

from __future__ import annotations

import pytest

from geoseg.errors import SceneError
from geoseg.geo.services.service import Service
from geoseg.geo.services.template import MAX_ZOOM, TileTemplate


def test_urls_name_one_tile():
    north = TileTemplate.parse("https://tile.example/{z}/{x}/{y}.png")
    south = TileTemplate.parse("https://tile.example/tms?z={z}&x={x}&y={-y}&key=a")
    assert north.url(3, 5, 1) == "https://tile.example/3/5/1.png"
    assert south.url(3, 5, 1) == "https://tile.example/tms?z=3&x=5&y=6&key=a"


def test_the_world_has_the_tiles_of_its_zoom_level():
    small = TileTemplate.parse("https://tile.example/{z}/{x}/{y}.png").geobox(4)
    large = TileTemplate.parse("https://tile.example/{z}/{x}/{y}@2x.png").geobox(3)
    assert small == large
    assert small.shape == (16 * 256, 16 * 256)
    left, bottom, right, top = small.bounds
    assert (left, bottom) == (-right, -top)
    assert right == pytest.approx(20037508.342789244)


@pytest.mark.parametrize(
    ("gsd", "zoom"), [(0.3, 19), (0.298, 19), (0.29, 20), (0.6, 18), (1e9, 0), (1e-3, MAX_ZOOM)]
)
def test_the_zoom_is_the_coarsest_that_is_fine_enough(gsd, zoom):
    template = TileTemplate.parse("https://tile.example/{z}/{x}/{y}.png")
    at_equator = 40075016.68557849 / 256
    assert template.zoom(at_equator / 2**MAX_ZOOM, gsd) == zoom


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://{s}.tile.example/{z}/{x}/{y}.png", r"\{s\} is not known"),
        ("https://tile.example/{z}/{x}/{y}.png?key={key}", r"\{key\} is not known"),
        ("https://tile.example/{z}/{x}.png", r"tiles needs \{z\}, \{x\} and \{y\}"),
    ],
)
def test_other_placeholders_are_refused(path, message):
    with pytest.raises(SceneError, match=message):
        Service.find(path)


def test_ordinary_scenes_are_no_services(tmp_path):
    (tmp_path / "{z}{x}{y}.tif").write_bytes(b"II*\0")
    (tmp_path / "other.xml").write_text("<?xml version='1.0'?><VRTDataset/>")
    for path in (
        str(tmp_path / "{z}{x}{y}.tif"),
        str(tmp_path / "other.xml"),
        str(tmp_path),
        "absent.tif",
        "https://tile.example/scene.tif",
        "/vsizip/{/vsicurl/https://tile.example/a.zip}/b.tif",
        "<VRTDataset/>",
    ):
        assert Service.find(path) is None
