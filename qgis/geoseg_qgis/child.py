"""A command as a child process: its lines while it runs, and a clean stop. Needs no QGIS."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

POLL = 0.1
"""Seconds between looks at whether to stop."""
IDLE = 20
"""Looks without a line after which nothing more is expected of a command that has ended."""
GRACE = 20.0
"""Seconds that a command gets to end by itself before it is killed."""
PRIVATE = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONEXECUTABLE")
PRIVATE += ("GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_DATA", "PROJ_LIB", "QT_PLUGIN_PATH")
"""Variables that QGIS sets for its own Python, GDAL and Qt. Another Python would crash on them."""
WINDOWS = sys.platform == "win32"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stopped: bool
    """It was asked to stop."""


def environment() -> dict[str, str]:
    """Return the variables for a child."""
    kept = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    return {**kept, "GEOSEG_PROGRESS": "json", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def no_window() -> int:
    """Return the flags with which a command opens no console window on Windows."""
    return subprocess.CREATE_NO_WINDOW if WINDOWS else 0


def run(
    words: Sequence[str], on_line: Callable[[str, bool], None], is_canceled: Callable[[], bool]
) -> Ended:
    """Run a command to its end, or stop it.

    Args:
        on_line: called with each line and whether it came from stderr, in the caller's thread.

    Raises:
        OSError: the command cannot be started.
    """
    process = subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        encoding="utf-8",
        errors="replace",
        start_new_session=not WINDOWS,
        creationflags=no_window() | (subprocess.CREATE_NEW_PROCESS_GROUP if WINDOWS else 0),
    )
    lines: queue.Queue[tuple[str, bool]] = queue.Queue()

    def read(stream: IO[str], is_error: bool) -> None:
        for line in stream:
            lines.put((line.rstrip("\r\n"), is_error))

    streams = ((process.stdout, False), (process.stderr, True))
    readers = [threading.Thread(target=read, args=each, daemon=True) for each in streams]
    for reader in readers:
        reader.start()
    printed, deadline, idle = [], None, 0
    try:
        while any(reader.is_alive() for reader in readers) or not lines.empty():
            if deadline is None and is_canceled():
                stop(process)
                deadline = time.monotonic() + GRACE
            if deadline is not None and time.monotonic() > deadline:
                kill(process)
            try:
                line, is_error = lines.get(timeout=POLL)
            except queue.Empty:
                idle += 1
                if process.poll() is not None and idle > IDLE:
                    break  # a child of the command holds the pipes
                continue
            idle = 0
            if not is_error:
                printed.append(line)
            on_line(line, is_error)
        code = process.wait()
    finally:
        kill(process)
        for reader, (stream, _) in zip(readers, streams):
            reader.join(POLL)
            if not reader.is_alive():
                stream.close()
    return Ended(code, "\n".join(printed), stopped=deadline is not None)


def stop(process: subprocess.Popen[str]) -> None:
    """Ask a process to end: it keeps what is finished.

    SIGTERM rather than SIGINT: a QGIS that a script started with `&` ignores SIGINT, and so do its
    children.
    """
    if process.poll() is not None:
        return
    if not WINDOWS:
        process.send_signal(signal.SIGTERM)
    elif not send_break(process.pid):
        process.terminate()  # a run that was killed continues from its finished blocks as well


def send_break(pid: int) -> bool:
    """Press Ctrl-Break in the hidden console of a process on Windows; whether that worked.

    QGIS has no console of its own, without which Windows sends no such event, so it borrows that
    of the child.
    """
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.FreeConsole()
    if not kernel.AttachConsole(pid):
        return False
    sent = kernel.GenerateConsoleCtrlEvent(1, pid)
    kernel.FreeConsole()
    kernel.AttachConsole(-1)  # that of the parent, which qgis_process had
    return bool(sent)


def kill(process: subprocess.Popen[str]) -> None:
    """End a process, and on Linux and macOS its children, at once."""
    if process.poll() is not None:
        return
    if WINDOWS:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
