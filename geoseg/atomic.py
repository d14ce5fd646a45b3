"""Files that appear complete or not at all: one file, or all files of a run together."""

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
"""Of the folders in which results lie until all of them are complete."""
_NEW, _OLD, _JOURNAL, _LOCK = "new", "old", "commit.json", "lock"
RUN = "run.json"
"""In a folder with kept blocks: what they were made with."""
_PATIENCE = 100
"""Times that a folder is made which other runs remove as often."""

_COMPANIONS: dict[str, tuple[str, ...]] = {
    ".gpkg": ("-wal", "-shm", "-journal", ".aux.xml"),
    ".tif": (
        *(".aux.xml", ".ovr", ".msk", ".msk.aux.xml", ".ovr.aux.xml"),
        *(".vat.dbf", ".vat.cpg", ".xml"),
    ),
    ".vrt": (".aux.xml", ".ovr", ".msk"),
    ".parquet": (".aux.xml",),
}
"""Files that GDAL, SQLite, QGIS and ArcGIS put beside a file, by its suffix; behind its name."""
_SIBLINGS: dict[str, tuple[str, ...]] = {
    ".shp": (
        *(".shx", ".dbf", ".prj", ".cpg", ".qix", ".qpj", ".idm", ".ind"),
        *(".sbn", ".sbx", ".fbn", ".fbx", ".ain", ".aih", ".ixs", ".mxs"),
        *(".shp.xml", ".qml", ".qmd", ".cst"),
    ),
    ".csv": (".csvt",),
    ".tif": (".tfw", ".tifw", ".qml", ".qmd"),
}
"""The same, in place of the file's own suffix: only what no file of another suffix shares."""


def replace(temporary: Path, path: Path) -> None:
    """Give a complete file its name, in place of what had it; not before it is on the disk.

    Raises OSError.
    """
    sync(temporary)
    temporary.replace(path)


def companions(path: Path) -> list[Path]:
    """Files beside `path` that belong to it alone, and go when it goes."""
    suffix = path.suffix.lower()
    appended = [path.with_name(path.name + extra) for extra in _COMPANIONS.get(suffix, ())]
    siblings = [path.with_name(path.stem + extra) for extra in _SIBLINGS.get(suffix, ())]
    return [each for each in (*appended, *siblings) if each.exists()]


class WorkingFolder:
    """The folder `<name>.unfinished` beside results: one process at a time works in it.

    A context. A `commit` during which a process was killed is completed first. When the context is
    left, the folder goes if nothing is in it, and so do parents that were made for it.

    Raises InUseError while another process is in it, and OutputError where the folder cannot be
    written or is not one of geoseg's.
    """

    def __init__(self, folder: Path, name: str, *, given_as: str = "-o") -> None:
        """Args:
        name: of the results, for the working folder's.
        given_as: the option or argument that names `folder`, for messages.
        """
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
                shutil.rmtree(self.path / _NEW, ignore_errors=True)  # never got as far
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
        """Another run that ends may remove the folders that this one has just made or seen."""
        for patience in reversed(range(_PATIENCE)):
            try:
                made = {*self._made, *_make_folders(self.folder)}
                self._made = sorted(made, key=lambda path: -len(path.parts))
                self.path.mkdir(mode=0o700, exist_ok=True)  # unfinished results are private
                self._refuse_foreign()
                return Lock.acquire(self.path / _LOCK)
            except FileNotFoundError:
                if not patience:
                    raise
        raise AssertionError("the last try returns or raises")

    def _refuse_foreign(self) -> None:
        """A folder of the user's that happens to have this name is no place to work in."""
        names = {path.name for path in self.path.iterdir()}
        if names and not names & {_LOCK, _JOURNAL, RUN}:
            raise OutputError(
                f"{self.path / min(names)} is not a file of geoseg's, but {self.path} is where "
                f"unfinished results go; move it away, or choose another folder ({self.given_as})"
            )

    def _leave(self) -> None:
        assert self._lock is not None
        # What a server keeps of replaced files that are open goes with a later run.
        self._lock.release(remove=not (self.path / _OLD).exists())
        _remove_empty([self.path, *self._made])


class Staging:
    """Results under construction, which take their places together.

    A context. Whatever is written into `new` appears in `folder` under the same name when the
    context is left without an error, in place of what had that name there, its companions and
    the `obsolete` files. When it is left by an error, `folder` is as it was. A process that is
    killed while files change places leaves a journal, with which `recover` completes the change.

    Raises OutputError where the folder cannot be written, InUseError while others write there.
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
        """Args:
        name: of the results, for the working folder `<name>.unfinished` in `folder`.
        obsolete: files and folders in `folder` that go when the new ones come.
        within: that working folder, where this process is in it already.
        merged: files below folders of `new` join those in folders of the same name; otherwise
            a new folder takes the place of the old one.
        given_as: the option or argument that names `folder`, for messages.
        """
        self.folder = folder
        self.working = folder / f"{name}{SUFFIX}"
        self.obsolete, self.merged = list(obsolete), merged
        self.given_as = given_as
        self._own = WorkingFolder(folder, name, given_as=given_as) if within is None else None

    @property
    def new(self) -> Path:
        """Where the files are to be written."""
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
                # With a journal, files are on their way, and the next run completes it.
                if not (self.working / _JOURNAL).exists():
                    shutil.rmtree(self.new, ignore_errors=True)


def cannot_write(folder: Path, error: OSError, given_as: str = "-o") -> OutputError:
    """What is said where results cannot be written."""
    reason = error.strerror or str(error)
    return OutputError(f"{folder} cannot be written: {reason}; choose another folder ({given_as})")


def commit(
    working: Path, folder: Path, obsolete: Iterable[Path] = (), *, merged: bool = False
) -> None:
    """Move all of `working/new` into `folder`; what fails on the way is taken back.

    `merged` is that of `Staging`. Raises OSError, after which `folder` is as it was.
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
                continue  # somebody removed what was to go
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
            _move(folder / name, working / _OLD / name)
    for name in plan["new"]:
        if os.path.lexists(working / _NEW / name):
            _move(working / _NEW / name, folder / name)
    _sync_parents(folder, plan["new"])
    _clean(working)


def commit_in_progress(folder: Path, name: str) -> bool:
    """Whether files are just changing places in `folder`, or a process was killed while they did.

    What lies there is then neither all old nor all new.
    """
    return (folder / f"{name}{SUFFIX}" / _JOURNAL).exists()


def _names(folder: Path, *, merged: bool) -> list[str]:
    """What is moved, relative to `folder`: what lies in it, or all files below it."""
    if not merged:
        return sorted(path.name for path in folder.iterdir())
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _clean(working: Path) -> None:
    """Forget what was replaced. The journal goes first: without it nothing is moved again."""
    (working / _JOURNAL).unlink()
    sync(working)
    shutil.rmtree(working / _OLD, ignore_errors=True)


def sync(path: Path) -> None:
    """See that a file, or the names in a folder, are on the disk. Raises OSError."""
    if path.is_dir():
        if os.name == "nt":  # where folders cannot be opened
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_parents(folder: Path, names: Iterable[str]) -> None:
    """See that the names in `folder` and in the folders below, which `names` lie in, are on the
    disk."""
    parents = {parent for name in names for parent in Path(name).parents}
    for parent in sorted(parents | {Path()}):
        sync(folder / parent)


def _sync_below(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)


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
