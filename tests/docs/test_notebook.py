"""The notebook in docs runs from the first cell to the last, as a reader would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return [each for each in cells if each["cell_type"] == "code"]


def test_outputs_are_stripped():
    code = code_cells()
    assert len(code) > 10
    assert all(each["outputs"] == [] and each["execution_count"] is None for each in code)
    assert NOTEBOOK.stat().st_size < 20_000


def test_all_cells_run(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(each["source"]) for each in code_cells()), "utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = {path.name for path in (tmp_path / "geoseg-notebook").iterdir()}
    assert {"scene.tif", "results", "shared", "patches", "run"} <= made
