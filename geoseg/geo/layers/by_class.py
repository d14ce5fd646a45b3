"""Values that users give class by class, under names or ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from geoseg.classes import LabelClass
from geoseg.errors import OptionError

T = TypeVar("T")
EVERY = "all"
"""Key of the value of all classes that are not named."""


def by_id(
    values: Mapping[str, T], ids: Iterable[int], classes: Sequence[LabelClass]
) -> dict[int, T]:
    """Return the value of each class id that has one: under its id, its name, or `EVERY`."""
    names = {label.id: label.name for label in classes}
    found: dict[int, T] = {}
    for class_id in map(int, ids):
        for key in (str(class_id), names.get(class_id, f"class_{class_id}"), EVERY):
            if key in values:
                found[class_id] = values[key]
                break
    return found


def as_given(value: object) -> str:
    """Return the value of an option as users give it: A,B or KEY=VALUE,…"""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def check_known(
    keys: Iterable[str], flag: str, classes: Sequence[LabelClass], ids: Iterable[int] = ()
) -> None:
    """Raise OptionError, naming the flag, for a key that is neither a class nor one of `ids`."""
    names = {label.name for label in classes} | {str(label.id) for label in classes}
    for class_id in ids:
        names |= {str(class_id), f"class_{class_id}"}
    if unknown := [key for key in keys if key != EVERY and key not in names]:
        known = [label.name for label in classes if label.id != 0]
        raise unknown_class(flag, unknown[0], known or [str(class_id) for class_id in sorted(ids)])


def unknown_class(flag: str, key: str, known: Sequence[str]) -> OptionError:
    """Return the error for a class that is none of the known ones."""
    shown = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
    return OptionError(f"{flag}: there is no class {key!r}; give one of {shown}")
