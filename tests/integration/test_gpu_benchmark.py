"""The benchmarks of GPUs run without one, on stand-ins."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fakes import write_discs

from geoseg.model import tile_model
from geoseg.pipeline.options import TilingOptions

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script, and undo what it changes when it runs."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    for change in ("is_accelerator", "has_fixed_shapes", "open_stream"):
        monkeypatch.setattr(tile_model, change, getattr(tile_model, change))
    monkeypatch.setattr(module, "keep_free_memory", lambda: None)
    return module


def test_the_measurements_run_where_there_is_no_gpu(tmp_path, monkeypatch, capsys):
    bench = load("gpu_inference", monkeypatch)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(bench, "TINY", replace(bench.TINY, variants=("pyramid",)))
    discs = write_discs(tmp_path / "discs.tif", 256, 256)  # faster than rendering a scene
    monkeypatch.setattr(bench, "write_scene", lambda path, size: str(discs))
    bench.main(["--rehearse", "--only", "whole", "--out", str(out)])
    rows = json.loads(out.read_text())["whole"]
    assert [row["network"] for row in rows] == ["pyramid", "pyramid"]
    assert all(row["Mpx/s"] > 0 for row in rows)
    assert "CPU seconds per Mpx" in capsys.readouterr().out


def test_a_section_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    bench = load("gpu_inference", monkeypatch)

    def fail(self):
        """Fail."""
        raise ValueError("no")
        yield

    fail.__name__ = "forward"
    for name in ("parity", "waterfall", "profile", "whole"):
        monkeypatch.setattr(bench.Bench, name, lambda self: iter([{"a": 1}]))
        getattr(bench.Bench, name).__name__, getattr(bench.Bench, name).__doc__ = name, name
    monkeypatch.setattr(bench.Bench, "forward", fail)
    found = bench.main(["--rehearse", "--out", str(tmp_path / "gpu.json")])
    assert found["forward"] == [{"failed": "ValueError: no"}]
    assert found["profile"] == [{"a": 1}]


def test_a_device_that_only_sleeps_gets_full_batches(tmp_path, monkeypatch):
    saturation = load("saturation", monkeypatch)
    monkeypatch.setattr(tile_model, "is_accelerator", lambda device: True)
    monkeypatch.setattr(saturation, "TilingOptions", lambda: TilingOptions(96, 32))
    scene = write_discs(tmp_path / "town.tif", 300, 340)
    ready = torch.zeros(1, 16, 12, 12)
    row = saturation.measure(str(scene), ready, 1e4, tmp_path / "out")
    assert row["batch"] == 8
    assert row["Mpx/s"] > 0
