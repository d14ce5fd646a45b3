"""Reports: what is in the page, how large it is, and what its script draws."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import rasterio
import shapely
from commands import command, refused
from geopandas import GeoDataFrame
from layers import made_by_geoseg
from rasterio.transform import from_origin

from geoseg.analysis.report.page import Results, report_page
from geoseg.geo.raster.scene import Scene

LIMIT = 10_000_000
CORNER = 448_000.0, 5_412_000.0


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def features(shapes, name="ship", confidence=0.5):
    count = len(shapes)
    columns = {"object_id": np.arange(1, count + 1), "class_id": 1, "class": name}
    columns |= {"area_m2": shapely.area(shapes), "confidence": np.full(count, confidence)}
    columns |= {"length_m": 2.0, "width_m": 1.0, "angle_deg": 0.0}
    return GeoDataFrame(columns, geometry=shapes, crs=32633)


def write_noise(path, side):
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8)
    profile = {"width": side, "height": side, "count": 3, "dtype": "uint8", "crs": 32633}
    with rasterio.open(
        path, "w", driver="GTiff", transform=from_origin(*CORNER, 0.5, 0.5), **profile
    ) as file:
        file.write(pixels)
    return path


def rings_of(data, i):
    """Outline i in the CRS, from the differences in the page."""
    a, b, c, d, e, f = data["transform"]
    for rings in data["objects"]["rings"][i]:
        for ring in rings:
            x, y = np.cumsum(np.reshape(ring, (-1, 2)), axis=0).T / data["steps"]
            yield np.column_stack([a * x + b * y + c, d * x + e * y + f])


def test_the_page_holds_the_objects_and_asks_no_server(tmp_path):
    layers = made_by_geoseg(tmp_path / "a.gpkg")
    done = command("report", layers, "-o", tmp_path / "a.html")
    assert done.exit_code == 0, done.output
    assert "the scene is not there" in done.stderr
    page = (tmp_path / "a.html").read_text("utf-8")
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r'(src|href)="(?!data:)', markup)
    assert "url(" not in page.split("</style>")[0]
    assert "sourceMappingURL" not in page
    assert "Redistribution and use" in page  # the license of Leaflet
    data = data_of(page)
    assert [kind["name"] for kind in data["classes"]] == ["Grassland/Herbaceous", "ship"]
    assert [kind["count"] for kind in data["classes"]] == [1, 2]
    assert data["objects"]["id"] == [2, 1, 3]  # large ones first, under the small ones
    (ring,) = rings_of(data, 1)
    assert ring.min(axis=0) == pytest.approx([448_000, 5_411_000], abs=0.1)
    assert ring.max(axis=0) == pytest.approx([448_020, 5_411_010], abs=0.1)
    assert re.search(r"<td>.*?</span>ship</td><td class=\"number\">2</td>.*?250\.0", page)
    assert page.count("<svg viewBox") == 2


def test_names_from_files_are_text_not_code():
    evil = "</script><script>alert(1)</script>"
    shapes = np.array([shapely.box(0, 0, 10, 10)])
    page = report_page(Results(evil, features(shapes, evil), {}, {evil: evil}), None)
    assert "<script>alert" not in page
    assert data_of(page)["classes"][0]["name"] == evil
    assert html.escape(evil) in page


def test_no_objects_and_no_confidence():
    empty = report_page(Results("empty", features(np.array([], object)), {}, {}), None)
    assert "0 objects of 0 classes" in empty
    assert "<svg viewBox" not in empty
    shapes = np.array([shapely.box(0, 0, 10, 10)])
    page = report_page(Results("a", features(shapes, confidence=np.nan), {}, {}), None)
    assert page.count("<svg viewBox") == 1
    assert data_of(page)["objects"]["confidence"] == [None]


def test_the_page_is_small_whatever_the_scene(tmp_path):
    """Noise, which no codec compresses, and more objects than a page has room for."""
    rows, columns = np.divmod(np.arange(20_000), 200)
    left, top = CORNER[0] + columns * 4, CORNER[1] - rows * 8
    angle = np.linspace(0, 2 * np.pi, 30)
    radius = np.random.default_rng(1).uniform(1, 1.9, (20_000, 30))
    points = np.stack([radius * np.cos(angle) + left[:, None] + 2,
                       radius * np.sin(angle) + top[:, None] - 4], axis=-1)  # fmt: skip
    frame = features(shapely.polygons(points))
    frame["confidence"] = np.linspace(0, 1, len(frame))
    with Scene.open(write_noise(tmp_path / "noise.tif", 1700)) as scene:
        page = report_page(Results("noise", frame, {}, {}), scene)
    assert 3_000_000 < len(page.encode()) < LIMIT
    data = data_of(page)
    count = len(data["objects"]["rings"])
    assert 5_000 < count <= 15_000
    assert len(json.dumps(data["objects"]["rings"], separators=(",", ":"))) < 2_100_000
    assert data["painted"].startswith("data:image/png")
    assert f"{count:,} of 20,000 objects have an outline" in page
    places = [int(each) for each in re.findall(r'<figure data-object="(\d+)"', page)]
    assert len(places) == 24
    shown = [data["objects"]["confidence"][place] for place in places]
    assert min(shown[:12]) > 0.99
    assert max(shown[12:]) < 0.01


STUB = """
const drawn = [];
const any = () => new Proxy(function () {}, {
  get: (_, key) => (key === Symbol.toPrimitive ? () => 0 : any()), apply: () => any(),
});
globalThis.L = new Proxy({}, { get: (_, key) => key !== "polygon" ? any() : (points) => {
  const shape = { points, getBounds: () => ({ getCenter: () => ({ lng: 1, lat: -1 }) }) };
  shape.bindPopup = (text) => { shape.text = text; };
  drawn.push(shape);
  return shape;
} });
globalThis.document = {
  getElementById: () => ({ textContent: require("fs").readFileSync(process.argv[2], "utf8") }),
  createElement: () => ({ set textContent(t) { this.innerHTML = t; } }),
  querySelectorAll: () => [],
};
eval(require("fs").readFileSync(process.argv[3], "utf8"));
console.log(JSON.stringify(drawn.map((s) => [s.points, s.text()])));
"""


def test_the_script_draws_the_outlines(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    hole = shapely.box(448_000, 5_411_000, 448_040, 5_411_040).difference(
        shapely.box(448_010, 5_411_010, 448_020, 5_411_020)
    )
    page = report_page(Results("a", features(np.array([hole])), {}, {}), None)
    (tmp_path / "data.json").write_text(json.dumps(data_of(page)))
    (tmp_path / "stub.js").write_text(STUB)
    (tmp_path / "map.js").write_text(re.findall(r"<script>(.*?)</script>", page, re.S)[-1])
    names = [tmp_path / name for name in ("stub.js", "data.json", "map.js")]
    done = subprocess.run([node, *names], capture_output=True, text=True, check=True)
    ((points, text),) = json.loads(done.stdout)
    data = data_of(page)
    expected = list(rings_of(data, 0))
    assert len(points) == 1
    assert len(points[0]) == 2
    a, _, c, _, e, f = data["transform"]
    for ring, wanted in zip(points[0], expected, strict=True):
        y, x = np.array(ring).T
        assert np.allclose(np.column_stack([a * x + c, -e * y + f]), wanted)
    assert text.startswith("<b>ship</b> 1<br>1,500.0 m²<br>confidence 0.50")


def test_a_report_replaces_nothing_unasked(tmp_path):
    layers = made_by_geoseg(tmp_path / "a.gpkg")
    (tmp_path / "a.html").write_text("mine")
    refused("report", layers, "-o", tmp_path / "a.html", says="exists; give --overwrite")
    refused("report", layers, "-o", tmp_path / "a.pdf", says="give a name that ends in .html")
    assert (tmp_path / "a.html").read_text() == "mine"
