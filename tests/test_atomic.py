"""Results take their places together, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geoseg.atomic import Staging, commit, companions, recover
from geoseg.errors import OutputError


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


@pytest.mark.parametrize("moves", range(6))
def test_a_killed_commit_is_completed_by_the_next_run(
    before: Path, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, rename, calls = before / "a.unfinished", Path.rename, 0

    class Killed(BaseException):
        """Nothing runs after it, as after SIGKILL."""

    def mortal(self: Path, target: Path) -> Path:
        nonlocal calls
        if calls == moves:
            raise Killed
        calls += 1
        return rename(self, target)

    staging = Staging(before, "a", obsolete=[before / "a_ship.shp"]).__enter__()
    write_new(staging)
    monkeypatch.setattr(Path, "rename", mortal)
    with pytest.raises(Killed):
        commit(working, before, staging.obsolete)
    monkeypatch.undo()
    recover(working, before)
    assert contents(before) == {
        "a.gpkg": b"new",
        "a.logits.zarr/chunk": b"new chunk",
        "a_ship_2.shp": b"old a_ship_2.shp",
        "b.gpkg": b"old b.gpkg",
    }


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
