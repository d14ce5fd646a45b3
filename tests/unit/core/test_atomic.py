"""Results take their places together, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geoseg.atomic import Staging, WorkingFolder, companions
from geoseg.errors import InUseError, OutputError


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder with an earlier result, what belongs to it, and what does not."""
    for name in ("a.gpkg", "a.gpkg-wal", "a_ship.shp", "a_ship.qix", "a_ship_2.shp", "b.gpkg"):
        (tmp_path / name).write_text(f"old {name}")
    store = tmp_path / "a.logits.zarr"
    store.mkdir()
    (store / "chunk").write_text("old chunk")
    return tmp_path


def write_new(staging: Staging) -> None:
    (staging.new / "a.gpkg").write_text("new")
    (staging.new / "a.logits.zarr").mkdir()
    (staging.new / "a.logits.zarr" / "chunk").write_text("new chunk")


def test_everything_is_replaced_with_what_belongs_to_it(before: Path) -> None:
    with Staging(before, "a", obsolete=[before / "a_ship.shp"]) as staging:
        write_new(staging)
    assert contents(before) == {
        "a.gpkg": b"new",
        "a.logits.zarr/chunk": b"new chunk",
        "a_ship_2.shp": b"old a_ship_2.shp",
        "b.gpkg": b"old b.gpkg",
    }


def test_an_error_leaves_everything(before: Path) -> None:
    there = contents(before)

    def fail() -> None:
        with Staging(before, "a", obsolete=[before / "a_ship.shp"]) as staging:
            write_new(staging)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert contents(before) == there
    assert {path.name for path in before.iterdir()} >= {"a.gpkg", "a.logits.zarr"}
    assert not (before / "a.unfinished").exists()


@pytest.mark.parametrize("failing", range(6))
def test_a_move_that_fails_is_taken_back(
    before: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, rename, calls = contents(before), Path.rename, 0

    def fragile(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fragile)
    with (
        pytest.raises(OutputError, match="No space left"),
        Staging(before, "a", obsolete=[before / "a_ship.shp"]) as staging,
    ):
        write_new(staging)
    assert contents(before) == there


DIE = """
import os, sys
from pathlib import Path
from geoseg.atomic import Staging

folder, moves = Path(sys.argv[1]), int(sys.argv[2])
rename, calls = Path.rename, 0

def mortal(self, target):
    global calls
    if calls == moves:
        os._exit(9)
    calls += 1
    return rename(self, target)

with Staging(folder, "a", obsolete=[folder / "a_ship.shp"]) as staging:
    (staging.new / "a.gpkg").write_text("new")
    (staging.new / "a.logits.zarr").mkdir()
    (staging.new / "a.logits.zarr" / "chunk").write_text("new chunk")
    Path.rename = mortal
"""


@pytest.mark.parametrize("moves", range(8))
def test_a_killed_commit_is_completed_by_the_next_run(before: Path, moves: int) -> None:
    """After as many moves; with the eighth there is nothing left to complete."""
    died = subprocess.run([sys.executable, "-c", DIE, str(before), str(moves)], check=False)
    assert died.returncode == (9 if moves < 7 else 0)
    with WorkingFolder(before, "a"):
        pass
    assert contents(before) == {
        "a.gpkg": b"new",
        "a.logits.zarr/chunk": b"new chunk",
        "a_ship_2.shp": b"old a_ship_2.shp",
        "b.gpkg": b"old b.gpkg",
    }


def test_an_interrupted_commit_is_taken_back(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, rename, calls = contents(before), Path.rename, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), Staging(before, "a") as staging:
        write_new(staging)
    assert contents(before) == there


def test_what_cannot_be_taken_back_is_completed(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails for good, half way: nothing is deleted, and the next run goes on."""
    rename, calls = Path.rename, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="Input/output"), Staging(before, "a") as staging:
        write_new(staging)
    monkeypatch.undo()
    with WorkingFolder(before, "a"):
        pass
    assert (before / "a.gpkg").read_text() == "new"
    assert (before / "a.logits.zarr" / "chunk").read_text() == "new chunk"
    assert not (before / "a.unfinished").exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        WorkingFolder(tmp_path, "a"),
        pytest.raises(InUseError, match="in use"),
        Staging(tmp_path, "a"),
    ):
        pass
    assert not list(tmp_path.iterdir())


RACE = """
import sys
from pathlib import Path
from geoseg.atomic import Staging
from geoseg.errors import InUseError

folder, name = Path(sys.argv[1]), sys.argv[2]
for turn in range(60):
    try:
        with Staging(folder / "deep", name) as staging:
            (staging.new / name).write_text(f"{turn}")
        (folder / "deep" / name).unlink()
    except InUseError:
        assert name == "same"
    except FileNotFoundError:  # the other run's unlink came first
        assert name == "same"
"""


@pytest.mark.parametrize("names", [("a", "b"), ("same", "same")])
def test_runs_that_start_at_once(tmp_path: Path, names: tuple[str, str]) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    runs = [subprocess.Popen([*command, name], stderr=subprocess.PIPE) for name in names]
    for run in runs:
        _, said = run.communicate(timeout=60)
        assert run.returncode == 0, said.decode()
    assert not list(tmp_path.glob("deep/*"))


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "a.unfinished" / "new" / "thesis.doc"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("precious")
    with pytest.raises(OutputError, match="move it away"), Staging(tmp_path, "a"):
        pass
    assert thesis.read_text() == "precious"


def test_a_folder_that_was_made_for_nothing_goes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Staging(tmp_path / "new" / "deep", "a"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_companions_are_those_of_one_file(tmp_path: Path) -> None:
    names = ("t.shp", "t.dbf", "t.qix", "t_2.shp", "t_2.dbf", "t.shx.txt", "t[1].dbf", "t.gpkg-wal")
    for name in names:
        (tmp_path / name).touch()
    assert sorted(path.name for path in companions(tmp_path / "t.shp")) == ["t.dbf", "t.qix"]
    assert [path.name for path in companions(tmp_path / "t.gpkg")] == ["t.gpkg-wal"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"), Staging(tmp_path, "a"):
        pass
