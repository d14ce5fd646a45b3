"""What the process is connected to: signals that stop it, and output that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import pytest
from fakes import write_discs

PROGRAM = """
import sys, time
import geoseg.model.load
from fakes import Colors
from geoseg.cli.main import run

class Slow(Colors):
    def forward(self, x):
        time.sleep(0.3)
        return super().forward(x)

geoseg.model.load.load_model = lambda source: Slow()
run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_terminated_run_is_tidy_and_goes_on(tmp_path):
    town = write_discs(tmp_path / "town.tif", 500, 500)
    out = tmp_path / "out"
    arguments = ["predict", str(town), "-o", str(out), "--tile-size", "128", "--overlap", "32"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(fakes.__file__).parent)},
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("town.unfinished/*.result.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.decode().splitlines()[0] == "Terminated"
    assert [path.name for path in out.iterdir()] == ["town.unfinished"]
    names = {path.name for path in (out / "town.unfinished").iterdir()}
    assert all(name == "run.json" or name.endswith(".npz") for name in names), names


STOPPED = """
import os, signal, sys
from geoseg.cli.streams import Stopped, stop_on_signals

stop_on_signals()
try:
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    print("ignored")
except Stopped as error:
    os.kill(os.getpid(), signal.SIGTERM)  # once is enough
    print(error, error.number)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_signals():
    def outcome(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    program = (sys.executable, "-c", STOPPED)
    assert outcome(*program, "SIGTERM") == "Terminated 15"
    assert outcome(*program, "SIGHUP") == "Hung up 1"
    assert outcome("sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *program, "SIGHUP") == "ignored"


PRINTING = """
import sys
import click
from geoseg.cli.streams import forgive_output

forgive_output()
for number in range(3000):
    click.echo(f"{number} m\\u00b2 \\u2603 \\udce9 and a long line to fill the pipe with")
open(sys.argv[1], "w").write("all scenes are done")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("output", ["| head -n 1", "> /dev/full", "> /dev/null", ">&-", "| true"])
def test_output_that_goes_away_stops_nothing(tmp_path, output):
    """In a terminal without Unicode, too."""
    script = tmp_path / "script.py"
    script.write_text(PRINTING)
    shell = f'("{sys.executable}" "{script}" done; echo $? > code) {output}'
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run(
        shell,
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "done").read_text() == "all scenes are done"
    assert (tmp_path / "code").read_text().strip() == "0"
    assert found.stderr == ""


def test_a_sign_of_life_without_a_terminal(capsys, monkeypatch):
    from geoseg.cli import options

    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for quiet in (False, True):
        with options.pixel_bar("town.tif", quiet=quiet) as progress:
            for step in range(1, 11):
                now[0] += 20
                progress(step * 10_000_000, 100_000_000)
        lines = capsys.readouterr().err.splitlines()
        assert lines == ([] if quiet else [
            "town.tif: 30% of 100 Mpx, 0.5 Mpx/s, 0:02:20 left",
            "town.tif: 60% of 100 Mpx, 0.5 Mpx/s, 0:01:20 left",
            "town.tif: 90% of 100 Mpx, 0.5 Mpx/s, 0:00:20 left",
        ])  # fmt: skip
