"""`geoseg bench` measures what it says."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict

import pytest
from click.testing import CliRunner

from geoseg.cli.main import main
from geoseg.model.devices import choose_device
from geoseg.model.tile_model import TileModel
from geoseg.pipeline import bench
from geoseg.pipeline.bench import Report, in_rounds, ways
from geoseg.pipeline.options import TilingOptions


@pytest.fixture(scope="module")
def report() -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "ways", lambda device: [("torch", "float32"), ("torch", "bfloat16")])
        return bench.bench(
            device="cpu", precision="float32", size=160, tiling=TilingOptions(64, 32), repeat=1
        )


def test_every_way_is_measured_and_the_ratio_follows(report):
    assert list(report.forward) == ["torch float32", "torch bfloat16"]
    assert report.chosen == "torch float32"
    assert all(speed > 0 for speed in report.forward.values())
    assert (report.width, report.height) == (160, 160)
    assert report.pipeline > 0
    assert report.whole > 0
    assert report.ratio == pytest.approx(report.bare / report.whole)  # one turn


def test_the_bare_passes_are_those_of_the_tiles(monkeypatch):
    seen = []

    class Counting(bench.StandIn):
        def forward(self, x):
            seen.append(x.shape)
            return super().forward(x)

    shapes = [(64, 96)] * 3 + [(64, 64)]
    run = bench.passes(TileModel(Counting(), device="cpu"), shapes)
    seen.clear()
    run()
    assert sorted(seen) == sorted((1, 3, *shape) for shape in shapes)


def test_the_command_prints_a_table_or_json(report, monkeypatch):
    given = {}

    def measured(scene, **how):
        given.update(how, scene=scene)
        return report

    monkeypatch.setattr(bench, "bench", measured)
    shown = CliRunner().invoke(main, ["bench", "--size", "96"], catch_exceptions=False)
    assert given["size"] == 96
    assert given["scene"] is None
    assert f"{report.ratio:.2f} times as long" in shown.stdout
    for way in report.forward:
        assert way in shown.stdout
    arguments = ["bench", "some.tif", "--json", "--backend", "openvino"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert (given["scene"], given["backend"]) == ("some.tif", "openvino")
    assert json.loads(done.stdout) == asdict(report)


def test_tasks_take_turns():
    order, calls = [], []

    def task(name: str, *seconds: float):
        waits = iter(seconds)

        def run() -> None:
            order.append(name)
            time.sleep(next(waits))

        return run

    tasks = {"a": task("a", 0.0, 0.2, 0.05), "b": task("b", 0.0, 0.0, 0.0)}
    found = in_rounds(tasks, 3, lambda *done: calls.append(done))
    assert order == ["a", "b"] * 3
    assert [len(seconds) for seconds in found.values()] == [3, 3]
    assert found["a"][1] >= 0.2
    assert statistics.median(found["b"]) < 0.05 <= statistics.median(found["a"])
    assert calls[-1] == (6,)


def test_ways_are_those_that_are_installed(monkeypatch):
    cpu = choose_device("cpu")
    monkeypatch.setattr(bench, "missing_packages", lambda backend: ["onnx"])
    assert {backend for backend, _ in ways(cpu)} == {"torch"}
    monkeypatch.setattr(bench, "missing_packages", lambda backend: [])
    assert {("openvino", "bfloat16"), ("onnxruntime", "float32")} <= set(ways(cpu))
