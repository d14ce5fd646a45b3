"""Error messages that name Python's parameters instead of flags.

Errors are raised deep below, in the words of the command line: `--tile-size is 40`. A flag is its
parameter with other punctuation, so one expression translates all of them, wherever they are
raised; a second wording at each of some hundred places could contradict the first.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import ParamSpec, TypeVar

from geoseg.errors import GeosegError

P = ParamSpec("P")
R = TypeVar("R")

_FLAG = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-o)(?![\w-])")
_OTHER_NAMES = {"o": "out", "format": "formats"}
"""Parameters that are not called like their flags."""


def python_messages(function: Callable[P, R]) -> Callable[P, R]:
    """Let the errors of a function name its parameters: `--tile-size` becomes `tile_size`."""
    parameters = signature(function).parameters

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (GeosegError, KeyboardInterrupt) as error:
            error.args = tuple(_translated(str(text), parameters) for text in error.args)
            if notes := getattr(error, "__notes__", ()):
                error.__notes__ = [_translated(note, parameters) for note in notes]
            raise

    return wrapper


def _translated(text: str, parameters: Mapping[str, Parameter]) -> str:
    """Return `text` with flags of these parameters replaced; flags of other programs stay."""

    def parameter(flag: re.Match[str]) -> str:
        name = flag[0].lstrip("-").replace("-", "_")
        if name not in parameters:
            name = _OTHER_NAMES.get(name, name)
        if name not in parameters:
            return flag[0]
        return f"{name}=True" if parameters[name].default is False else name

    return _FLAG.sub(parameter, text).replace("the same command", "the same call")
