"""Nested dataclasses from plain values; nothing unknown, missing or of another type passes."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal

from geoseg.errors import RecipeError


def build(kind: Any, value: Any, where: str = "") -> Any:
    """`value` (mappings, lists, scalars) as the annotated type `kind`.

    Args:
        where: dotted name of the value, for messages.

    Raises:
        RecipeError: names the key.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return build_dataclass(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return build(next(a for a in arguments if a is not type(None)), value, where)
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
    if not isinstance(value, dict):
        raise wrong_type(where or "the recipe", value, "a mapping")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    if unknown := [key for key in value if key not in hints]:
        raise RecipeError(
            f"unknown key {prefix}{unknown[0]}; known here: {', '.join(sorted(hints))}"
        )
    for item in dataclasses.fields(kind):
        required = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if required and item.name not in value:
            raise RecipeError(f"{prefix}{item.name} is missing from the recipe")
    return kind(**{key: build(hints[key], v, f"{prefix}{key}") for key, v in value.items()})


def build_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise wrong_type(where, value, "a list")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise RecipeError(f"{where} has {len(value)} values; it takes {len(arguments)}")
    return tuple(
        build(kind, part, f"{where}[{i}]")
        for i, (kind, part) in enumerate(zip(arguments, value, strict=True))
    )


def build_scalar(kind: Any, value: Any, where: str) -> Any:
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
    return RecipeError(f"{where} is {value!r} ({type(value).__name__}); it must be {wanted}")


def check(key: str, value: object, holds: bool, wanted: str) -> None:
    """Raise RecipeError, naming key and value, unless it `holds`."""
    if not holds:
        raise RecipeError(f"{key} is {value}; give {wanted}")


def check_share(key: str, value: float) -> None:
    check(key, value, 0 <= value <= 1, "a share between 0 and 1")
