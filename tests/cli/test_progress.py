"""Progress as JSON, for programs that run the commands."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from commands import command, refused
from fakes import write_discs


@pytest.fixture(autouse=True)
def ask(monkeypatch):
    monkeypatch.setenv("GEOSEG_PROGRESS", "json")


def progress_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"progress"')]


def test_predict_reports_pixels(tmp_path):
    town = write_discs(tmp_path / "town.tif", 300, 200)
    done = command("predict", town, "-o", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    lines = progress_lines(done.stderr)
    assert lines[-1] == {"progress": "town.tif", "done": 60_000, "total": 60_000, "unit": "px"}
    assert json.loads(done.stdout)["state"] == "done"


def test_vectorize_reports_pixels(tmp_path):
    town = write_discs(tmp_path / "town.tif", 100, 100, count=3)
    command("predict", town, "-o", tmp_path, "-q")
    done = command("vectorize", tmp_path / "town.classes.tif", "-o", tmp_path / "again.gpkg")
    assert done.exit_code == 0, done.output
    assert progress_lines(done.stderr)[-1]["done"] == 10_000


def test_train_reports_steps(capsys):
    from geoseg.train.trainer import ProgressBar

    bar, trainer = ProgressBar(), SimpleNamespace(is_global_zero=True, global_step=0, max_steps=9)
    bar.on_train_start(trainer, None)
    trainer.global_step = 9
    bar.on_train_batch_end(trainer, None, None, None, 8)
    assert json.loads(capsys.readouterr().err) == {
        "progress": "train",
        "done": 9,
        "total": 9,
        "unit": "step",
    }


def test_train_says_how_far_it_is_without_a_terminal(capsys, monkeypatch):
    from geoseg.train.trainer import ProgressBar

    now = 0.0
    monkeypatch.delenv("GEOSEG_PROGRESS")
    monkeypatch.setattr("geoseg.progress.time.monotonic", lambda: now)
    bar = ProgressBar()
    trainer = SimpleNamespace(
        is_global_zero=True, global_step=0, max_steps=60, num_val_batches=[30]
    )
    bar.on_train_start(trainer, None)
    for step in range(1, 31):  # 2 s each
        now, trainer.global_step = now + 2, step
        bar.on_train_batch_end(trainer, None, {"loss": SimpleNamespace(item=lambda: 0.5)}, None, 0)
    bar.on_validation_start(trainer, None)
    for image in range(30):
        now += 1
        bar.on_validation_batch_end(trainer, None, None, None, image)
    bar.on_train_end(trainer, None)
    assert capsys.readouterr().err.splitlines() == [
        "train: 3 of 60 steps, loss 0.500, 0:01:54 left",
        "train: 13 of 60 steps, loss 0.500, 0:01:34 left",
        "train: 23 of 60 steps, loss 0.500, 0:01:14 left",
        "validate: 5 of 30 images, 0:00:25 left",
        "validate: 25 of 30 images, 0:00:05 left",
    ]


def test_lines_are_few_and_the_last_is_printed(capsys):
    from geoseg.progress import json_progress

    progress = json_progress("scene.tif", "px")
    for done in range(1001):
        progress(done, 1000)
    lines = progress_lines(capsys.readouterr().err)
    assert [line["done"] for line in lines][:: len(lines) - 1] == [0, 1000]
    assert len(lines) < 10


def test_another_value_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOSEG_PROGRESS", "xml")
    town = write_discs(tmp_path / "town.tif", 64, 64)
    refused("predict", town, "-o", tmp_path, says="GEOSEG_PROGRESS is 'xml'")
