"""Commands of geoseg as tables, and the arguments that follow from values. Needs no QGIS."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable


@dataclass(frozen=True)
class Parameter:
    """A parameter of a Processing algorithm, and the option of the command that it becomes."""

    name: str
    """Identifier in scripts and models."""
    kind: str
    """A key of `parameters.KINDS`."""
    label: str
    help: str = ""
    flag: str = ""
    """Option of the command; without one, the value is an argument."""
    default: Any = None
    """Value at first; of an argument, which cannot be left out, also what an empty field means."""
    optional: bool = False
    advanced: bool = False
    choices: tuple[str, ...] = ()
    filter: str = ""
    """Suffix of a file without its dot, or QGIS's filter of files to write."""
    least: int = 1
    """Smallest value of an integer."""
    settings: Callable[[Any], Sequence[str]] | None = None
    """What the option is given with, once for each, where that is not the value itself."""


@dataclass(frozen=True)
class Output:
    """A value that an algorithm returns besides its destinations."""

    name: str
    kind: str
    """A key of `parameters.OUTPUTS`."""
    label: str


@dataclass(frozen=True)
class Command:
    """A command of geoseg that is a Processing algorithm."""

    name: str
    """Identifier of the algorithm, and name of its icon."""
    title: str
    group: str
    help: str
    parameters: tuple[Parameter, ...]
    words: tuple[str, ...] = ()
    """The command, with the options that it always gets."""
    outputs: tuple[Output, ...] = ()
    results: Callable[[Mapping[str, Any], str], dict[str, Any]] = lambda values, stdout: {}
    """Outputs by name, from the values and from what the command printed."""
    report: Callable[[str], list[str]] = lambda stdout: []
    """Lines for the log, from what the command printed."""
    continues: str = ""
    """What to do to continue after a stop."""


def arguments(command: Command, values: Mapping[str, Any]) -> list[str]:
    """Return the words after `geoseg`: options first, then `--` and the arguments.

    Args:
        values: by the parameters' names, as text, numbers or bools.

    Raises:
        ValueError: two parameters are given of which one only can be.
    """
    options: list[str] = []
    positional: list[str] = []
    for parameter in command.parameters:
        value = values.get(parameter.name)
        if value is None or value is False or value == "" or parameter.kind == "load":
            continue
        if parameter.kind == "words":
            options += shlex.split(value)
        elif not parameter.flag:
            positional.append(_text(value))
        elif parameter.flag in options:
            others = [each.label for each in command.parameters if each.flag == parameter.flag]
            raise ValueError(f"choose one of these only: {', '.join(others)}")
        elif parameter.settings:
            options += [
                word for text in parameter.settings(value) for word in (parameter.flag, text)
            ]
        elif value is True:
            options.append(parameter.flag)
        else:
            options += [parameter.flag, _text(value)]
    return [*command.words, *options, "--", *positional]


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def in_words_of_the_dialog(text: str, labels: Mapping[str, str]) -> str:
    """Return a message of the command with the labels of the dialog instead of options.

    Args:
        labels: by option. Options without one stay, as they go into the additional ones.
    """
    found = re.compile(r"(?<![\w-])--?[a-z][a-z-]*(?![\w-])")
    short = {"-o": "--output"}
    return found.sub(
        lambda option: (
            f"“{labels[key]}”" if (key := short.get(option[0], option[0])) in labels else option[0]
        ),
        text,
    )


def shell_line(words: Sequence[str]) -> str:
    """Return a command for the log, as one would type it."""
    return " ".join(word if word and " " not in word else f'"{word}"' for word in words)


@dataclass(frozen=True)
class Progress:
    """A line of progress."""

    label: str
    done: int
    total: int
    unit: str

    @property
    def percent(self) -> float:
        """Share that is done, 0 to 100."""
        return min(100.0, 100.0 * self.done / self.total) if self.total > 0 else 0.0


@dataclass
class Clock:
    """The time that a stage of a command has taken, by what it reports."""

    every: float = 60.0
    """Seconds between two answers; the first comes after a third of them."""
    label: str = ""

    def is_new(self, progress: Progress, now: float) -> bool:
        """Whether a stage begins, at this time in seconds."""
        if progress.label == self.label:
            return False
        self.label, self.start, self.first = progress.label, now, progress.done
        self.told = now - self.every * 2 / 3
        return True

    def left(self, progress: Progress, now: float) -> float | None:
        """Return the seconds that are left of the stage, now and then; else None."""
        done = progress.done - self.first
        if now - self.told < self.every or done <= 0:
            return None
        self.told = now
        return (now - self.start) / done * (progress.total - progress.done)


def parse_progress(line: str) -> Progress | None:
    """Return the progress that a line of the command tells; None of other lines."""
    if not line.startswith('{"progress"'):
        return None
    try:
        told = json.loads(line)
        return Progress(told["progress"], int(told["done"]), int(told["total"]), told["unit"])
    except (ValueError, KeyError, TypeError):
        return None


def last_json(stdout: str) -> dict[str, Any]:
    """Return the last JSON object that a command printed.

    Raises:
        ValueError: there is none.
    """
    for line in reversed(stdout.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise ValueError("the command printed no result")
