"""What the process is connected to: output that may go away, and signals that tell it to stop."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

_NAMES = {"SIGTERM": "Terminated", "SIGHUP": "Hung up"}


class Stopped(KeyboardInterrupt):
    """A signal that asks to stop, answered as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return _NAMES[signal.Signals(self.number).name]


def stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise `Stopped`, once. What is ignored (nohup) stays ignored."""
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:  # a shell and its terminal may both send one
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in numbers:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


class Forgiving(io.TextIOWrapper):
    """A text stream that loses what cannot be written, so that no work is lost with it.

    A closed pipe or a full device takes the rest in silence; characters that the terminal does not
    have are escaped.
    """

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Send the rest nowhere, and what is left in buffers."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def forgive_output() -> None:
    """Make standard output and standard error `Forgiving`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            encoding, by_line = stream.encoding, stream.line_buffering
            forgiving = Forgiving(
                stream.detach(), encoding, errors="backslashreplace", line_buffering=by_line
            )
            setattr(sys, name, forgiving)
