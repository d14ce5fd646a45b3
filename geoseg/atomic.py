"""Replace files atomically: one file, or all files of a run together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from geoseg.errors import InUseError, OutputError
from geoseg.lock import Lock

SUFFIX = ".unfinished"
"""Suffix of folders that contain results until all of them are complete."""
_NEW, _OLD, _JOURNAL, _LOCK = "new", "old", "commit.json", "lock"
RUN = "run.json"
"""File in a working folder with finished blocks: the options that they were made with."""
_ATTEMPTS = 100
"""Attempts to create a folder that other runs remove at the same time."""

_COMPANIONS: dict[str, tuple[str, ...]] = {
    ".gpkg": ("-wal", "-shm", "-journal", ".aux.xml"),
    ".tif": (
        *(".aux.xml", ".ovr", ".msk", ".msk.aux.xml", ".ovr.aux.xml"),
        *(".vat.dbf", ".vat.cpg", ".xml"),
    ),
    ".vrt": (".aux.xml", ".ovr", ".msk"),
    ".parquet": (".aux.xml",),
}
"""Suffixes that GDAL, SQLite, QGIS and ArcGIS append to a file's name for files beside it."""
_SIBLINGS: dict[str, tuple[str, ...]] = {
    ".shp": (
        *(".shx", ".dbf", ".prj", ".cpg", ".qix", ".qpj", ".idm", ".ind"),
        *(".sbn", ".sbx", ".fbn", ".fbx", ".ain", ".aih", ".ixs", ".mxs"),
        *(".shp.xml", ".qml", ".qmd", ".cst"),
    ),
    ".csv": (".csvt",),
    ".tif": (".tfw", ".tifw", ".qml", ".qmd"),
}
"""Suffixes that replace the file's own, and that belong to no other kind of file."""


def replace(temporary: Path, path: Path) -> None:
    """Rename a complete file to `path`, which it replaces, once it is on the disk.

    Raises OSError.
    """
    sync(temporary)
    temporary.replace(path)


def companions(path: Path) -> list[Path]:
    """Return the files beside `path` that belong to it alone, to be removed with it."""
    suffix = path.suffix.lower()
    appended = [path.with_name(path.name + extra) for extra in _COMPANIONS.get(suffix, ())]
    siblings = [path.with_name(path.stem + extra) for extra in _SIBLINGS.get(suffix, ())]
    return [each for each in (*appended, *siblings) if each.exists()]


class WorkingFolder:
    """The folder `<name>.unfinished` beside results, locked by one process at a time.

    A context. Entering it completes a `commit` whose process was killed. Leaving it removes the
    folder if it is empty, and parents that were created for it.

    Args:
        folder: of the results.
        name: of the results, for the working folder's.
        given_as: the option or argument that names `folder`, for messages.

    Raises:
        InUseError: another process has locked it.
        OutputError: the folder cannot be written or is not one of geoseg's.
    """

    def __init__(self, folder: Path, name: str, *, given_as: str = "-o") -> None:
        self.folder, self.given_as = folder, given_as
        self.path = folder / f"{name}{SUFFIX}"
        self._made: list[Path] = []
        self._lock: Lock | None = None

    def __enter__(self) -> WorkingFolder:
        try:
            self._lock = self._locked()
            if self._lock is None:
                raise InUseError(
                    f"{self.path} is in use by another run; wait for it, or choose another "
                    f"folder ({self.given_as})"
                )
            try:
                recover(self.path, self.folder)
                shutil.rmtree(self.path / _NEW, ignore_errors=True)  # of a killed run
            except OSError:
                self._leave()
                raise
        except OSError as error:
            _remove_empty(self._made)
            raise cannot_write(self.folder, error, self.given_as) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _locked(self) -> Lock | None:
        """Create and lock the folder, again if a run that ends has removed it in between."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                made = {*self._made, *_make_folders(self.folder)}
                self._made = sorted(made, key=lambda path: -len(path.parts))
                self.path.mkdir(mode=0o700, exist_ok=True)  # unfinished results are private
                self._refuse_foreign()
                return Lock.acquire(self.path / _LOCK)
            # `mkdir` says "exists" of a folder that is gone when it looks whether it is one.
            except (FileNotFoundError, FileExistsError):
                if not attempts_left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _refuse_foreign(self) -> None:
        """Raise OutputError if the folder is one of the user's that happens to have this name."""
        names = {path.name for path in self.path.iterdir()}
        if names and not names & {_LOCK, _JOURNAL, RUN}:
            raise OutputError(
                f"{self.path / min(names)} is not a file of geoseg's, but {self.path} is where "
                f"unfinished results go; move it away, or choose another folder ({self.given_as})"
            )

    def _leave(self) -> None:
        assert self._lock is not None
        # A file server may keep replaced files that are open; a later run removes them.
        self._lock.release(remove=not (self.path / _OLD).exists())
        _remove_empty([self.path, *self._made])


class Staging:
    """Results that replace the old ones together.

    A context. When it is left without an error, all files in `new` move to `folder`, where they
    replace files of the same names, their companions and the `obsolete` files. When it is left by
    an error, `folder` does not change. A process that is killed during the move leaves a journal,
    with which `recover` completes it.

    Args:
        folder: of the results.
        name: of the results, for the working folder `<name>.unfinished` in `folder`.
        obsolete: files and folders in `folder` to remove when the new ones come.
        within: that working folder, if this process has already locked it.
        merged: files below folders of `new` join those in folders of the same name; otherwise
            a new folder replaces the old one.
        given_as: the option or argument that names `folder`, for messages.

    Raises:
        OutputError: the folder cannot be written.
        InUseError: another process writes there.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        obsolete: Iterable[Path] = (),
        *,
        within: WorkingFolder | None = None,
        merged: bool = False,
        given_as: str = "-o",
    ) -> None:
        self.folder = folder
        self.working = folder / f"{name}{SUFFIX}"
        self.obsolete, self.merged = list(obsolete), merged
        self.given_as = given_as
        self._own = WorkingFolder(folder, name, given_as=given_as) if within is None else None

    @property
    def new(self) -> Path:
        """Folder to write the files to."""
        return self.working / _NEW

    def __enter__(self) -> Staging:
        with ExitStack() as opening:
            if self._own is not None:
                opening.enter_context(self._own)
            try:
                self.new.mkdir()
            except OSError as error:
                raise cannot_write(self.folder, error, self.given_as) from error
            self._closing = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._closing:
            try:
                if kind is None:
                    commit(self.working, self.folder, self.obsolete, merged=self.merged)
            except OSError as failure:
                raise cannot_write(self.folder, failure, self.given_as) from failure
            finally:
                # If there is a journal, the next run completes the move.
                if not (self.working / _JOURNAL).exists():
                    shutil.rmtree(self.new, ignore_errors=True)


def cannot_write(folder: Path, error: OSError, given_as: str = "-o") -> OutputError:
    """Return the error for results that cannot be written."""
    reason = error.strerror or str(error)
    return OutputError(f"{folder} cannot be written: {reason}; choose another folder ({given_as})")


def commit(
    working: Path, folder: Path, obsolete: Iterable[Path] = (), *, merged: bool = False
) -> None:
    """Move all of `working/new` to `folder`, or undo everything if a step fails.

    `obsolete` and `merged` are those of `Staging`. Raises OSError, with `folder` unchanged.
    """
    new = _names(working / _NEW, merged=merged)
    leaving = {*obsolete, *(folder / name for name in new)}
    leaving |= {each for path in leaving for each in companions(path)}
    old = sorted(path.relative_to(folder).as_posix() for path in leaving if os.path.lexists(path))
    _sync_below(working / _NEW)
    moves = [(folder / name, working / _OLD / name) for name in old]
    moves += [(working / _NEW / name, folder / name) for name in new]
    done: list[tuple[Path, Path]] = []
    made: list[Path] = []
    try:
        (working / _OLD).mkdir(exist_ok=True)
        journal = working / _JOURNAL
        journal.write_text(json.dumps({"new": new, "old": old}), "utf-8")
        sync(journal)
        sync(working)
        for source, target in moves:
            made = [*_make_folders(target.parent), *made]
            try:
                source.rename(target)
            except FileNotFoundError:
                if source.is_relative_to(working) or not target.parent.exists():
                    raise
                continue  # another process removed the old file
            done.append((source, target))
        _sync_parents(folder, new)
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        _remove_empty(path for path in made if not path.is_relative_to(working))
        (working / _JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(working / _OLD, ignore_errors=True)
        raise
    _clean(working)


def recover(working: Path, folder: Path) -> None:
    """Complete a `commit` whose process was killed; do nothing if there was none.

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
        # A file that is no longer in `new` has been moved already.
        arrived = name in plan["new"] and not os.path.lexists(working / _NEW / name)
        if os.path.lexists(folder / name) and not arrived:
            _move(folder / name, working / _OLD / name)
    for name in plan["new"]:
        if os.path.lexists(working / _NEW / name):
            _move(working / _NEW / name, folder / name)
    _sync_parents(folder, plan["new"])
    _clean(working)


def commit_in_progress(folder: Path, name: str) -> bool:
    """Return whether a `commit` to `folder` runs, or was killed.

    The files there are then neither all old nor all new.
    """
    return (folder / f"{name}{SUFFIX}" / _JOURNAL).exists()


def _names(folder: Path, *, merged: bool) -> list[str]:
    """Return what to move, relative to `folder`: its entries, or all files below it if `merged`."""
    if not merged:
        return sorted(path.name for path in folder.iterdir())
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _clean(working: Path) -> None:
    """Remove the replaced files. The journal goes first: without it nothing is moved again."""
    (working / _JOURNAL).unlink()
    sync(working)
    shutil.rmtree(working / _OLD, ignore_errors=True)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk. Raises OSError."""
    if path.is_dir():
        if os.name == "nt":  # which cannot open folders
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_parents(folder: Path, names: Iterable[str]) -> None:
    """Write the names in `folder`, and in those folders below it that contain `names`, to disk."""
    parents = {parent for name in names for parent in Path(name).parents}
    for parent in sorted(parents | {Path()}):
        sync(folder / parent)


def _sync_below(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)


def _make_folders(folder: Path) -> list[Path]:
    """Create `folder` and its parents; return the new ones, innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # it is not empty, and neither are its parents
