"""Files that appear complete or not at all: one file, or all files of a run together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from geoseg.errors import OutputError

SUFFIX = ".unfinished"
"""Of the folders in which results lie until all of them are complete."""
_NEW, _OLD, _JOURNAL = "new", "old", "commit.json"

_COMPANIONS: dict[str, tuple[str, ...]] = {
    ".gpkg": ("-wal", "-shm", "-journal", ".aux.xml"),
    ".tif": (".aux.xml", ".ovr", ".msk", ".msk.aux.xml", ".ovr.aux.xml"),
    ".vrt": (".aux.xml", ".ovr", ".msk"),
    ".parquet": (".aux.xml",),
}
"""Files that GDAL, SQLite and QGIS put beside a file, by its suffix; appended to its name."""
_SIBLINGS: dict[str, tuple[str, ...]] = {
    ".shp": (
        *(".shx", ".dbf", ".prj", ".cpg", ".qix", ".qpj", ".sbn", ".sbx", ".idm", ".ind"),
        *(".shp.xml", ".qml", ".qmd", ".cst"),
    ),
    ".csv": (".csvt",),
    ".tif": (".tfw", ".qml", ".qmd"),
}
"""The same, in place of the file's own suffix: only what no file of another suffix shares."""


def replace(temporary: Path, path: Path) -> None:
    """Give a complete file its name, in place of what had it; not before it is on the disk.

    Raises OSError.
    """
    _sync(temporary)
    temporary.replace(path)


def companions(path: Path) -> list[Path]:
    """Files beside `path` that belong to it alone, and go when it goes."""
    suffix = path.suffix.lower()
    appended = [path.with_name(path.name + extra) for extra in _COMPANIONS.get(suffix, ())]
    siblings = [path.with_name(path.stem + extra) for extra in _SIBLINGS.get(suffix, ())]
    return [each for each in (*appended, *siblings) if each.exists()]


class Staging:
    """Results under construction, which take their places together.

    A context. Whatever is written into `new` appears in `folder` under the same name when the
    context is left without an error, in place of what had that name there, its companions and
    the `obsolete` files. When it is left by an error, `folder` is as it was. A process that is
    killed while files change places leaves a journal, with which `recover` completes the change.

    Raises OutputError where the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, obsolete: Iterable[Path] = ()) -> None:
        """Args:
        name: of the results, for the working folder `<name>.unfinished` in `folder`.
        obsolete: files and folders in `folder` that go when the new ones come.
        """
        self.folder = folder
        self.working = folder / f"{name}{SUFFIX}"
        self.obsolete = list(obsolete)
        self._made: list[Path] = []

    @property
    def new(self) -> Path:
        """Where the files are to be written."""
        return self.working / _NEW

    def __enter__(self) -> Staging:
        try:
            self._made = _make_folders(self.folder)
            recover(self.working, self.folder)
            self.working.mkdir(exist_ok=True)
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir()
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                commit(self.working, self.folder, self.obsolete)
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            shutil.rmtree(self.new, ignore_errors=True)
            _remove_empty([self.working, *self._made])

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.folder} cannot be written: {error.strerror or error}; "
            "choose another folder (-o)"
        )


def commit(working: Path, folder: Path, obsolete: Iterable[Path] = ()) -> None:
    """Move all of `working/new` into `folder`; what fails on the way is taken back.

    Raises OSError, after which `folder` is as it was.
    """
    new = sorted(path.name for path in (working / _NEW).iterdir())
    leaving = {*obsolete, *(folder / name for name in new)}
    leaving |= {each for path in leaving for each in companions(path)}
    old = sorted(path.name for path in leaving if os.path.lexists(path))
    for path in sorted((working / _NEW).rglob("*")):
        if path.is_file():
            _sync(path)
    (working / _OLD).mkdir(exist_ok=True)
    journal = working / _JOURNAL
    journal.write_text(json.dumps({"new": new, "old": old}), "utf-8")
    _sync(journal)
    moves = [(folder / name, working / _OLD / name) for name in old]
    moves += [(working / _NEW / name, folder / name) for name in new]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except OSError:
        for source, target in reversed(done):
            target.rename(source)
        journal.unlink()
        (working / _OLD).rmdir()
        raise
    _clean(working)


def recover(working: Path, folder: Path) -> None:
    """Complete a `commit` during which the process was killed; do nothing where there was none.

    Raises OSError.
    """
    journal = working / _JOURNAL
    try:
        plan = json.loads(journal.read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # none, or killed before anything was moved
        journal.unlink(missing_ok=True)
        shutil.rmtree(working / _OLD, ignore_errors=True)
        return
    for name in plan["old"]:
        # What is no longer in `new` has taken its place already.
        arrived = name in plan["new"] and not os.path.lexists(working / _NEW / name)
        if os.path.lexists(folder / name) and not arrived:
            (folder / name).rename(working / _OLD / name)
    for name in plan["new"]:
        if os.path.lexists(working / _NEW / name):
            (working / _NEW / name).rename(folder / name)
    _clean(working)


def _clean(working: Path) -> None:
    """Forget what was replaced. The journal goes first: without it nothing is moved again."""
    (working / _JOURNAL).unlink()
    shutil.rmtree(working / _OLD)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder` and its parents; those that were made, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # something lies in it, so it stays, and so do its parents
