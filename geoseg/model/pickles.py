"""Reads pickled dictionaries of numpy arrays without running them.

A pickle is a program for a small stack machine, and `pickle.loads` lets that program import
and call anything. Here its instructions are only decoded (`pickletools.genops`) and followed
by the code below, which has no instruction for importing. A global is a name that is looked
up in `ADMITTED`; what "calling" one does is written out in `ArrayPickle.reduce`. So there is
no object whose methods, attributes or state a file could reach.

Memory is bounded by the file: `genops` refuses a length that the file does not have, the memo
is a dict, and an array is a view of bytes that the file contains.
"""

from __future__ import annotations

import hashlib
import math
import pickletools
import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from geoseg.errors import CheckpointError

TRAILER = b"HCAJSLHD"
"""Jittor ends a file with the pickle's SHA-1 and this mark."""


class Global(Enum):
    """What an admitted global stands for on the stack, where it is no Python object."""

    RECONSTRUCT = auto()
    NDARRAY = auto()
    DTYPE = auto()
    VAR = auto()


ADMITTED = {
    "numpy.core.multiarray._reconstruct": Global.RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": Global.RECONSTRUCT,  # numpy 2
    "numpy.ndarray": Global.NDARRAY,
    "numpy.dtype": Global.DTYPE,
    # Since 1.3.9 Jittor pickles its variables, as a call with one array.
    "jittor.Var": Global.VAR,
    "jittor_core.Var": Global.VAR,
    "jittor.jittor_core.Var": Global.VAR,
}


@dataclass(slots=True, eq=False)
class PickledArray:
    """An array in a pickle, empty until its BUILD instruction."""

    data: np.ndarray | None = None


@dataclass(slots=True, eq=False)
class PickledDtype:
    """A numeric dtype in a pickle; byte order comes with its BUILD instruction."""

    code: str
    order: str = "="


def read_jittor(content: bytes) -> Any:
    """The object in a Jittor file, or in a plain pickle, with arrays as `PickledArray`.

    Raises CheckpointError, naming the global where the file asks for one that is not a numpy
    array, and where the checksum does not match.
    """
    if content.endswith(TRAILER):
        checksum, content = content[-28:-8], content[:-28]
        if hashlib.sha1(content, usedforsecurity=False).digest() != checksum:
            raise CheckpointError("its checksum does not match; the file is damaged, get it anew")
    try:
        return ArrayPickle().read(content)
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"neither a .pth nor a complete pickle of arrays: {str(error)[:120]}"
        ) from None


LITERALS = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
COLLECTIONS = {"EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT", "TUPLE", "APPEND", "APPENDS"}
SETITEMS = {"SETITEM", "SETITEMS"}


class ArrayPickle:
    """The stack machine. It knows literals, containers and the four admitted globals."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        end = 0
        for op, arg, position in pickletools.genops(content):
            end = (position or 0) + 1
            self.step(op.name, arg)
        if end != len(content):
            raise ValueError(f"{len(content) - end} bytes after its end")
        return self.stack.pop()

    def step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in LITERALS:
            stack.append(arg)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in PUTS:
            self.memo[len(self.memo) if arg is None else arg] = stack[-1]
        elif name in GETS:
            stack.append(self.memo[arg])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in TUPLES:
            stack.append(tuple(self.pop_many(TUPLES[name])))
        elif name in COLLECTIONS:
            self.collect(name)
        elif name in SETITEMS:
            items = self.pop_many(2) if name == "SETITEM" else self.pop_mark()
            fill(stack[-1], items)
        elif name not in {"PROTO", "FRAME", "STOP"}:
            self.construct(name, arg)

    def pop_many(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("its stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def collect(self, name: str) -> None:
        if name in {"APPEND", "APPENDS"}:
            items = self.pop_many(1) if name == "APPEND" else self.pop_mark()
            if not isinstance(self.stack[-1], list):
                raise TypeError("appends to what is no list")
            self.stack[-1].extend(items)
        elif name == "TUPLE":
            self.stack.append(tuple(self.pop_mark()))
        elif name in {"LIST", "EMPTY_LIST"}:
            self.stack.append(self.pop_mark() if name == "LIST" else [])
        else:
            items = self.pop_mark() if name == "DICT" else []
            self.stack.append({})
            fill(self.stack[-1], items)

    def construct(self, name: str, arg: Any) -> None:
        if name == "GLOBAL":
            self.stack.append(admit(str(arg).replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop_many(2)
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise TypeError("names a global that is no name")
            self.stack.append(admit(f"{module}.{attribute}"))
        elif name == "INST":
            admit(str(arg).replace(" ", ".", 1))
            raise CheckpointError("its pickle makes instances, weights never do")
        elif name == "REDUCE":
            function, args = self.pop_many(2)
            self.stack.append(self.reduce(function, args))
        elif name == "BUILD":
            target, state = self.pop_many(2)
            build(target, state)
            self.stack.append(target)
        else:
            raise CheckpointError(f"its pickle uses the instruction {name}, weights never do")

    def reduce(self, function: Any, args: Any) -> Any:
        match function, args:
            case Global.RECONSTRUCT, (Global.NDARRAY, *_):
                return PickledArray()
            case Global.DTYPE, (str(code), *_) if re.fullmatch("[biuf][1248]", code):
                return PickledDtype(code)
            case Global.DTYPE, (str(code), *_):
                raise CheckpointError(f"an array of dtype {code!r:.20}, weights are numbers")
            case Global.VAR, (PickledArray() as array,):
                return array
        raise TypeError("calls what is no array, dtype or variable")


def admit(name: str) -> Global:
    if name not in ADMITTED:
        raise CheckpointError(
            f"its pickle asks for {name!r:.100}; only numpy arrays are admitted, nothing was run"
        )
    return ADMITTED[name]


def fill(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise TypeError("sets items of what is no dictionary")
    keys, values = items[::2], items[1::2]
    # Keys of other types could be nested tuples that take forever to hash.
    if not all(isinstance(key, str | int | float | None) for key in keys):
        raise TypeError("a key is neither text nor number")
    target.update(zip(keys, values, strict=True))


def build(target: Any, state: Any) -> None:
    """Give a dtype its byte order, an array its values; nothing else can be built."""
    match target, state:
        case PickledDtype(), (int(), "<" | ">" | "|" as order, *_):
            target.order = order.replace("|", "=")
        case PickledArray(), (int(), tuple(shape), PickledDtype() as dtype, order, bytes(raw)):
            kind = np.dtype(dtype.order + dtype.code)
            if not all(type(side) is int and 0 <= side < 1 << 40 for side in shape):
                raise ValueError("an array's shape is not made of sizes")
            if math.prod(shape) * kind.itemsize != len(raw):
                raise ValueError(f"an array of shape {shape!s:.60} has {len(raw)} bytes")
            flat = np.frombuffer(raw, kind)
            target.data = flat.reshape(shape, order="F" if order else "C")
        case _:
            raise TypeError("gives a state to what is no array")
