"""Finished blocks on disk, from which a killed run resumes.

The folder `<stem>.unfinished` beside the results holds NumPy archives of plain arrays:

- `run.json`: the fingerprint of the run,
- `<n>.result.npz`: the result of block n, well below 0.5 byte a pixel,
- `<n>.inferred.npz`: its logits, about a byte a pixel, until the last neighbor has used them. At
  any time, these are two to three rows of blocks, of which `RecentLogits` has the latest in memory.

Files get their names when they are complete, and archives hold checksums. An archive torn by a
power cut is detected, and its block is computed again. Each block carries the digest of its run,
so no other run uses it, even if `run.json` is lost.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from geoseg.atomic import RUN, sync
from geoseg.errors import OutputError
from geoseg.geo.layers.by_class import as_given
from geoseg.pipeline.execution.serialization import (
    Arrays,
    logits_from_arrays,
    logits_to_arrays,
    result_from_arrays,
    result_to_arrays,
)
from geoseg.pipeline.execution.tasks import BlockLogits, BlockResult
from geoseg.tiling.grid import Block
from geoseg.timing import StageTimer

_NAME = re.compile(r"(run\.json|\d+\.(result|inferred)\.npz)(\.tmp)?")
_LOG = logging.getLogger("geoseg")
_NO_OPTIONS = {
    "geoseg": "the version of geoseg",
    "scene": "the scene's name",
    "grid": "the scene's grid",
    "files": "the scene",
    "weights": "the weights",
    "mask": "the file of --mask-out",
    "stretch": "the stretch of the pixels",
    "collars": "the collar",
    "tiles_per_block": "the size of blocks",
}
"""Parts of a fingerprint that no option sets by itself, in plain words."""
_FLAGS = {"smooth": "smoothing", "formats": "--format"}
"""Options whose names differ from those in a fingerprint."""
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""Errors of reading a torn archive."""


class BlockStore:
    """The blocks in a working folder, which only this process uses. A context.

    Leaving it removes the blocks, unless an error is on its way.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Args:
        folder: exists; see `WorkingFolder`.
        run: see `blocks_fingerprint`.
        """
        self.folder = folder
        self.run = json.loads(json.dumps(run))
        content = json.dumps(self.run, sort_keys=True).encode()
        self.digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        """Digest of the run, which its files hold."""

    def __enter__(self) -> BlockStore:
        before = kept_run(self.folder)
        if before is not None and before != self.run:
            if any(self._blocks()):
                _LOG.warning("%s: %s; starting afresh", self.folder, difference(before, self.run))
            self._clear()
        if before != self.run:
            try:
                self._write_run()
            except OSError as error:
                self._clear()
                raise self._failed(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or not any(self._blocks()):
            self._clear()
        else:
            error.add_note(
                f"finished blocks are kept in {self.folder}: the same command goes on from there"
            )

    def has_result(self, number: int) -> bool:
        """Return whether there is a finished block whose checksums are right."""
        return self._load(f"{number}.result.npz") is not None

    def result(self, number: int, block: Block) -> BlockResult:
        """Return a finished block. Raises OutputError if it has gone since `has_result`."""
        if (arrays := self._load(f"{number}.result.npz")) is None:
            raise OutputError(
                f"{self.folder}: block {number} has gone; the same command computes it again"
            )
        return result_from_arrays(arrays, number, block)

    def keep_result(self, result: BlockResult) -> None:
        """Write a finished block. Raises OutputError, for instance on a full disk."""
        self._save(f"{result.number}.result.npz", result_to_arrays(result))

    def keep_archive(self, number: int, content: bytes) -> None:
        """Write a finished block that a worker packed. Raises OutputError."""
        self._write(f"{number}.result.npz", lambda file: file.write(content))

    def inferred(self, number: int) -> BlockLogits | None:
        """Return the logits of a block, or None."""
        arrays = self._load(f"{number}.inferred.npz")
        return None if arrays is None else logits_from_arrays(arrays)

    def keep_inferred(self, number: int, inferred: BlockLogits) -> None:
        """Write the logits of a block. Raises OutputError, for instance on a full disk."""
        self._save(f"{number}.inferred.npz", logits_to_arrays(inferred))

    def drop_inferred(self, number: int) -> None:
        """Remove logits that no block needs any more."""
        (self.folder / f"{number}.inferred.npz").unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the blocks of a run that would end in the same way again."""
        for path in list(self._blocks()):
            path.unlink()

    def _blocks(self) -> Iterator[Path]:
        return (path for path in kept_files(self.folder) if path.suffix == ".npz")

    def _clear(self) -> None:
        for path in list(kept_files(self.folder)):
            with suppress(OSError):  # then the folder stays, too
                path.unlink()

    def _write_run(self) -> None:
        content = {"sha256": _checksum(self.run), "run": self.run}
        temporary = self.folder / f"{RUN}.tmp"
        temporary.write_text(json.dumps(content, indent=1), "utf-8")
        sync(temporary)
        temporary.replace(self.folder / RUN)

    def _load(self, name: str) -> Arrays | None:
        """Return the arrays of a file; None if it is missing, torn or of another run."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as archive:
                if np.array_equal(archive["run"], self.digest):
                    return dict(archive)
        except _READ_ERRORS:
            _LOG.debug("%s is torn", path)
        path.unlink()
        return None

    def _save(self, name: str, arrays: Arrays) -> None:
        self._write(
            name, lambda file: np.savez(file, allow_pickle=False, run=self.digest, **arrays)
        )

    def _write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        temporary = self.folder / f"{name}.tmp"
        try:
            with temporary.open("wb") as file:
                write(file)
            temporary.replace(self.folder / name)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()  # make room on a full disk
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self.folder} cannot be written: {os.strerror(error.errno or 0)}")


class RecentLogits:
    """The logits of blocks that are inferred and not yet dropped, by number.

    All are in the store. Those that were used last are in memory, too, so memory does not grow with
    the width of a scene, of which up to three rows of blocks are needed. Thread-safe.
    """

    def __init__(self, store: BlockStore, size: int) -> None:
        """Args:
        size: blocks in memory.
        """
        self._store, self._size = store, size
        self._recent: OrderedDict[int, BlockLogits] = OrderedDict()
        self._timers: dict[int, StageTimer] = {}
        """Time that each block took, which the store does not keep."""
        self._lock = threading.Lock()

    def __contains__(self, number: object) -> bool:
        return number in self._timers

    def add(self, number: int, inferred: BlockLogits) -> None:
        """Add logits that the store holds already."""
        with self._lock:
            self._timers[number] = inferred.timer
            self._recent[number] = inferred
            self._recent.move_to_end(number)
            while len(self._recent) > self._size:
                self._recent.popitem(last=False)

    def get(self, number: int) -> BlockLogits:
        """Return the logits of a block. Raises OutputError if they have gone from the disk."""
        with self._lock:
            if number in self._recent:
                self._recent.move_to_end(number)
                return self._recent[number]
        if (inferred := self._store.inferred(number)) is None:
            raise OutputError(
                f"{self._store.folder}: the logits of block {number} have gone; the same command "
                "computes them again"
            )
        inferred = replace(inferred, timer=self._timers[number])
        self.add(number, inferred)
        return inferred

    def drop(self, number: int) -> None:
        """Remove logits that no block needs any more."""
        with self._lock:
            self._recent.pop(number, None)
            self._timers.pop(number, None)
        self._store.drop_inferred(number)


def kept_files(folder: Path) -> Iterator[Path]:
    """Return the files of a store in a working folder."""
    return (path for path in folder.glob("*") if _NAME.fullmatch(path.name))


def kept_run(folder: Path) -> Any:
    """Return the fingerprint in the `run.json` of a folder; None if it is missing or torn."""
    try:
        content = json.loads((folder / RUN).read_text("utf-8"))
        run, checksum = content["run"], content["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run if checksum == _checksum(run) else None


def _checksum(run: Any) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def difference(before: Any, now: Mapping[str, Any]) -> str:
    """Say in the words of the options how the fingerprint of earlier results differs from `now`."""
    if not isinstance(before, dict):
        return "does not say what it was made with"
    changed = [key for key in now if before.get(key) != now[key]]
    if not changed:
        return "was made by another version"
    return "; ".join(_change(key, before.get(key), now[key]) for key in changed[:2])


def _change(key: str, before: Any, now: Any) -> str:
    if key in _NO_OPTIONS:
        return f"{_NO_OPTIONS[key]} changed"
    flag = _FLAGS.get(key, "--" + key.replace("_", "-"))
    if isinstance(before, dict) and isinstance(now, dict):
        same = before.items() & now.items()
        before, now = (dict(sorted(each.items() - same)) or None for each in (before, now))
    return f"{flag} was {_shown(before)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    """Return a value as users give it."""
    if isinstance(value, bool) or value is None:
        return {None: "not given", False: "off", True: "on"}[value]
    return as_given(value)
