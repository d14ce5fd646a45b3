"""Finished blocks on disk, so that a run that was killed goes on where it was.

The folder `<stem>.unfinished` beside the results holds, as NumPy archives of plain arrays,

- `run.json`: what the run's results depend on; another run must not use its blocks,
- `<n>.result.npz`: block n, finished: well below 0.5 byte a pixel,
- `<n>.inferred.npz`: its logits, about a byte a pixel, until the last neighbour has used them:
  of the scene, about one row of blocks.

Files appear under their names when they are complete, and an archive knows its checksums. So one
that a power cut tore is told from a whole one, and its block is computed again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from geoseg.archive import (
    Arrays,
    packed_inferred,
    packed_result,
    unpacked_inferred,
    unpacked_result,
)
from geoseg.errors import OutputError
from geoseg.grid import Block
from geoseg.tasks import BlockResult, Inferred

SUFFIX = ".unfinished"
_RUN = "run.json"
_OURS = re.compile(r"(run\.json|\d+\.(result|inferred)\.npz)(\.tmp)?")
_LOG = logging.getLogger("geoseg")
_TORN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a torn archive raises."""


class Store:
    """The working folder of one prediction. A context; only one process may be in it at a time.

    Left in peace it is removed; left by an error it stays, if it holds anything.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """`run` is what the results depend on, as JSON."""
        self.folder = folder
        self.run = json.loads(json.dumps(run))
        self.lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
        self.resumed = False
        self.closing = ExitStack()

    def __enter__(self) -> Store:
        with ExitStack() as opening:
            try:
                opening.enter_context(self.lock)
                opening.callback(Path(self.lock.lock_file).unlink, missing_ok=True)
                self._open()
            except Timeout as error:
                raise OutputError(
                    f"{self.folder} is in use by another run; wait for it, or choose another (-o)"
                ) from error
            except OSError as error:
                raise self._failed(error) from error
            self.closing = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or not any(self.folder.glob("*.npz")):
            shutil.rmtree(self.folder, ignore_errors=True)  # it holds nothing but what is ours
        else:
            error.add_note(
                f"finished blocks are kept in {self.folder}: the same command goes on from there"
            )
        self.closing.close()

    def result(self, number: int, block: Block) -> BlockResult | None:
        """A finished block, if there is one."""
        arrays = self._load(f"{number}.result.npz")
        return None if arrays is None else unpacked_result(arrays, number, block)

    def keep_result(self, result: BlockResult) -> None:
        """Raises OutputError, for instance on a full disk."""
        self._save(f"{result.number}.result.npz", packed_result(result))

    def inferred(self, number: int) -> Inferred | None:
        """The logits of a block, if there are any."""
        arrays = self._load(f"{number}.inferred.npz")
        return None if arrays is None else unpacked_inferred(arrays)

    def keep_inferred(self, number: int, inferred: Inferred) -> None:
        """Raises OutputError, for instance on a full disk."""
        self._save(f"{number}.inferred.npz", packed_inferred(inferred))

    def drop_inferred(self, number: int) -> None:
        """Nobody needs the logits any more."""
        (self.folder / f"{number}.inferred.npz").unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the blocks: another run would end in the same way."""
        for path in self.folder.glob("*.npz"):
            path.unlink()

    def _open(self) -> None:
        before = self._read_run()
        if self.folder.exists() and before != self.run:
            self._clear(difference(before, self.run))
        self.resumed = self.folder.exists()
        if not self.resumed:
            self.folder.mkdir(mode=0o700)  # unfinished results are nobody else's business
            self._write(_RUN, json.dumps(self.run, indent=1).encode())

    def _clear(self, reason: str) -> None:
        """Remove the folder, unless it holds what no run of ours has put there."""
        foreign = [path for path in self.folder.iterdir() if not _OURS.fullmatch(path.name)]
        if foreign:
            raise OutputError(
                f"{foreign[0]} is none of geoseg's files, but {self.folder} is where unfinished "
                "blocks go; move it away, or choose another folder (-o)"
            )
        _LOG.warning("%s: %s; starting afresh", self.folder, reason)
        shutil.rmtree(self.folder)

    def _read_run(self) -> Any:
        try:
            return json.loads((self.folder / _RUN).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def _load(self, name: str) -> Arrays | None:
        path = self.folder / name
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        except _TORN:
            path.unlink()
            return None

    def _save(self, name: str, arrays: Arrays) -> None:
        temporary = self.folder / f"{name}.tmp"
        try:
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            temporary.replace(self.folder / name)
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, name: str, content: bytes) -> None:
        temporary = self.folder / f"{name}.tmp"
        temporary.write_bytes(content)
        temporary.replace(self.folder / name)

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self.folder} cannot be written: {os.strerror(error.errno or 0)}")


def difference(before: Any, now: Mapping[str, Any]) -> str:
    """What kept blocks were made with, in comparison to what is asked for."""
    if not isinstance(before, dict):
        return "does not say what it was made with"
    changed = [key for key in now if before.get(key) != now[key]]
    if not changed:
        return "was made by another version"
    shown = (f"{key} was {before.get(key)} and is {now[key]}" for key in changed[:2])
    return "; ".join(shown)
