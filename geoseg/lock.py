"""A lock on a file, for one process at a time; gone when its holder is, however that ended."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems answer that have no locks."""
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
    """A lock file that is held, from `acquire` to `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Lock | None:
        """Make the file at `path` and lock it; None where another holds it.

        Who held it before may have removed the file between the two: then it is made again.
        Raises OSError.
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
        """Let others in, and remove the file first: who waits for it then makes another."""
        if sys.platform == "win32":  # where an open file cannot be removed
            os.close(self._descriptor)
        if remove:
            with suppress(OSError):  # others are at it already
                self.path.unlink()
        if sys.platform != "win32":
            os.close(self._descriptor)
