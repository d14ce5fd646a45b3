"""A file lock for one process at a time, which ends with its process."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems without locks."""
_LOG = logging.getLogger("geoseg")

if sys.platform == "win32":
    import msvcrt

    def _acquire(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _acquire(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Lock:
    """A locked file, from `acquire` to `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Lock | None:
        """Create and lock the file at `path`; return None if another process has locked it.

        If that process removes the file in between, it is created again. Raises OSError.
        """
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                _acquire(descriptor)
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    os.close(descriptor)
                    if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                        return None
                    raise
                _LOG.warning("%s: no locks here; see that no other run writes there", path.parent)
            lock = cls(path, descriptor)
            if lock._is_at_path():
                return lock
            os.close(descriptor)

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self, *, remove: bool = True) -> None:
        """Unlock the file, and remove it before, so that the next process creates another."""
        if sys.platform == "win32":  # which cannot remove an open file
            os.close(self._descriptor)
        if remove:
            with suppress(OSError):  # another process may have removed it
                self.path.unlink()
        if sys.platform != "win32":
            os.close(self._descriptor)
