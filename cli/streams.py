"""The connections of the process: output that may go away, and signals to stop."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NAMES = {"SIGTERM": "Terminated", "SIGHUP": "Hung up", "SIGBREAK": "Interrupted"}
"""What is said of each signal. Windows alone has SIGBREAK, and programs there can send no other."""


class Stopped(KeyboardInterrupt):
    """SIGTERM, SIGHUP or SIGBREAK, handled like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return _NAMES[signal.Signals(self.number).name]


def stop_on_signals() -> None:
    """Let these signals raise `Stopped` once. Ignored signals (nohup) stay ignored."""
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:  # a shell and its terminal may both send one
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in numbers:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


class Forgiving(io.FileIO):
    """A file that drops what a closed pipe or a full device does not take.

    No prediction fails because its messages cannot be printed.
    """

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def forgive_output() -> None:
    """Let stdout and stderr drop what cannot be written, and escape unencodable characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper:
            continue  # absent, or replaced by a test
        if type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO:
            stream.flush()
            forgiving = io.TextIOWrapper(
                io.BufferedWriter(Forgiving(stream.fileno(), "wb", closefd=False)),
                stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering or stream.write_through,
            )
            setattr(sys, name, forgiving)
