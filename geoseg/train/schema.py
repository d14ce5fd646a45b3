"""Strict construction of nested dataclasses from YAML values, with rules on the values.

Own code rather than pydantic or msgspec: training must run where only torch and Lightning are
installed.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from geoseg.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on a value: the metadata of an `Annotated` type."""

    wanted: str
    """The condition in words, after "give"."""
    holds: Callable[[Any], bool]
    """Whether a value satisfies it."""


POSITIVE = Rule("above 0", lambda value: value > 0)
NOT_NEGATIVE = Rule("0 or more", lambda value: value >= 0)
AT_LEAST_1 = Rule("at least 1", lambda value: value >= 1)
SHARE = Rule("a share between 0 and 1", lambda value: 0 <= value <= 1)


def build(kind: Any, value: Any, where: str = "") -> Any:
    """Convert mappings, lists and scalars to the annotated type `kind`.

    Args:
        where: dotted key of the value, for messages.

    Raises:
        RecipeError: an unknown or missing key, a wrong type, or a broken rule; names the key.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return build_dataclass(kind, value, where)
    if origin is Annotated:
        built, rule = build(arguments[0], value, where), arguments[1]
        if not rule.holds(built):
            raise RecipeError(f"{where} is {value}; give {rule.wanted}")
        return built
    if origin in (types.UnionType, typing.Union):
        return None if value is None else build(not_none(arguments), value, where)
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{where} is {value!r}; choose one of {', '.join(arguments)}")
        return value
    if origin is tuple:
        return build_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong_type(where, value, "a mapping")
        return {str(k): build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    return build_scalar(kind, value, where)


def build_dataclass(kind: Any, value: Any, where: str) -> Any:
    """Build a dataclass from a mapping of its fields."""
    if not isinstance(value, dict):
        raise wrong_type(where or "the recipe", value, "a mapping")
    hints = typing.get_type_hints(kind, include_extras=True)
    prefix = f"{where}." if where else ""
    if unknown := [key for key in value if key not in hints]:
        nearest = nearest_key(str(unknown[0]), kind)
        hint = f"did you mean {prefix}{nearest}? " if nearest else ""
        raise RecipeError(
            f"unknown key {prefix}{unknown[0]}; {hint}known here: {', '.join(sorted(hints))}"
        )
    for item in dataclasses.fields(kind):
        if is_required(item) and item.name not in value:
            raise RecipeError(f"{prefix}{item.name} is missing from the recipe")
    return kind(**{key: build(hints[key], v, f"{prefix}{key}") for key, v in value.items()})


def build_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """Build a tuple from a list."""
    if not isinstance(value, list):
        raise wrong_type(where, value, "a list")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise RecipeError(f"{where} has {len(value)} values; it takes {len(arguments)}")
    return tuple(
        build(kind, part, f"{where}.{i}")
        for i, (kind, part) in enumerate(zip(arguments, value, strict=True))
    )


def build_scalar(kind: Any, value: Any, where: str) -> Any:
    """Check the type of a scalar; numbers may be integers for floats."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 6e-5 as a string
        try:
            return float(value)
        except ValueError:
            raise wrong_type(where, value, "a number") from None
    if type(value) is kind:
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise wrong_type(where, value, names[kind])


def wrong_type(where: str, value: Any, wanted: str) -> RecipeError:
    """Return the error for a value of another type."""
    return RecipeError(f"{where} is {value!r} ({type(value).__name__}); it must be {wanted}")


def is_required(item: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def not_none(arguments: tuple[Any, ...]) -> Any:
    """Return the other type of an optional one."""
    return next(kind for kind in arguments if kind is not type(None))


def dotted_keys(kind: Any) -> Iterator[str]:
    """Yield the keys of a dataclass and of the dataclasses in it, dotted."""
    for name, hint in typing.get_type_hints(kind).items():
        yield name
        inner = not_none(typing.get_args(hint)) if type(None) in typing.get_args(hint) else hint
        if dataclasses.is_dataclass(inner):
            yield from (f"{name}.{key}" for key in dotted_keys(inner))


def nearest_key(key: str, kind: Any) -> str | None:
    """Return the dotted key in `kind` whose last part is most similar, if any is similar."""
    by_last: dict[str, str] = {}
    for known in dotted_keys(kind):
        by_last.setdefault(known.rpartition(".")[2], known)
    matches = difflib.get_close_matches(key, by_last, n=1)
    return by_last[matches[0]] if matches else None


def set_value(node: Any, path: Sequence[str], value: Any, where: str = "") -> None:
    """Set a value in nested mappings and lists; items of lists are numbered from 0.

    Args:
        path: keys from `node` to the value; missing mappings are added.
        where: dotted key of `node`, for messages.

    Raises:
        RecipeError: a list has no such item, or a scalar stands in the way.
    """
    key: str | int = path[0]
    if isinstance(node, list):
        if not path[0].isdecimal() or int(path[0]) >= len(node):
            raise RecipeError(f"{where} has the items 0-{len(node) - 1}, but not {path[0]}")
        key = int(path[0])
    elif not isinstance(node, dict):
        raise wrong_type(where, node, "a mapping")
    if len(path) == 1:
        node[key] = value
        return
    if isinstance(node, dict) and node.get(key) is None:
        node[key] = {}
    set_value(node[key], path[1:], value, f"{where}.{path[0]}".lstrip("."))
