"""Read untrusted pickles of arrays, Jittor's ``.pkl`` and torch's ``.pth``, without running them.

A pickle is a program for a stack machine that can import and call anything. ``.pth`` files go
through torch's restricted unpickler. For plain pickles `StackMachine` follows the instructions that
`pickletools.genops` decodes: a global is a name to look up in `ALLOWED`, and the only "calls" are
those written out in `StackMachine.reduce`, so a file reaches no method, attribute or state.

The standard `pickle.Unpickler` with a restricted `find_class` cannot do this: 14 bytes make it
allocate a memo of many gigabytes, and 40 more make it hash a nested tuple for hours.

Memory is bounded by the file: `genops` refuses a length that the file does not have, the memo is a
dict, and an array is a view of the file's bytes.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geoseg.errors import CheckpointError

JITTOR_TRAILER = b"HCAJSLHD"
"""Jittor ends a file with the pickle's SHA-1 and this mark."""
ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""A pickled number that torch before 1.6 (and OpenMMLab's publishing script) writes first."""


class Global(Enum):
    """What an allowed global stands for on the stack."""

    RECONSTRUCT = auto()
    NDARRAY = auto()
    DTYPE = auto()
    VAR = auto()


ALLOWED = {
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
    """An array in a pickle."""

    data: np.ndarray | None = None
    """None until the BUILD instruction."""


@dataclass(slots=True, eq=False)
class PickledDtype:
    """A numeric dtype in a pickle."""

    code: str
    """Kind and bytes, as ``f4``."""
    order: str = "="
    """Byte order, set by the BUILD instruction."""


def read_jittor(content: bytes) -> Any:
    """Return the object in a Jittor file, or in a plain pickle, with arrays as `PickledArray`.

    Raises:
        CheckpointError: the checksum does not match, the file is damaged, or it asks for a global
            that is no part of a numpy array; the message names it.
    """
    if content.endswith(JITTOR_TRAILER):
        checksum, content = content[-28:-8], content[:-28]
        if hashlib.sha1(content, usedforsecurity=False).digest() != checksum:
            raise CheckpointError("its checksum does not match; the file is damaged, get it anew")
    try:
        return StackMachine().run(content)
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


class StackMachine:
    """The interpreter of a pickle. It knows literals, containers and the `ALLOWED` globals."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return the object that the pickle builds."""
        end = 0
        for op, arg, position in pickletools.genops(content):
            end = (position or 0) + 1
            self.step(op.name, arg)
        if end != len(content):
            raise ValueError(f"{len(content) - end} bytes after its end")
        return self.stack.pop()

    def step(self, name: str, arg: Any) -> None:
        """Carry out one instruction."""
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
        """Build or extend a container."""
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
        """Look up a global, or build an object of one."""
        if name == "GLOBAL":
            self.stack.append(resolve(str(arg).replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop_many(2)
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise TypeError("names a global that is no name")
            self.stack.append(resolve(f"{module}.{attribute}"))
        elif name == "INST":
            resolve(str(arg).replace(" ", ".", 1))
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
        """Return what a call stands for; none is made."""
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


def resolve(name: str) -> Global:
    """Return what a global stands for. Raises CheckpointError unless it is allowed."""
    if name not in ALLOWED:
        raise CheckpointError(
            f"its pickle asks for {name!r:.100}; only numpy arrays are allowed, nothing was run"
        )
    return ALLOWED[name]


def fill(target: Any, items: list[Any]) -> None:
    """Set items of a dictionary, given as keys and values in turn."""
    if not isinstance(target, dict):
        raise TypeError("sets items of what is no dictionary")
    keys, values = items[::2], items[1::2]
    # A tuple nested 40 times, each level holding the last one twice, takes hours to hash.
    if not all(isinstance(key, str | int | float | None) for key in keys):
        raise TypeError("a key is neither text nor number")
    target.update(zip(keys, values, strict=True))


def build(target: Any, state: Any) -> None:
    """Set the byte order of a dtype or the values of an array; refuse any other target."""
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


class Ignored:
    """Replaces an object beside the weights, whose class is neither imported nor called."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


IGNORED_GLOBALS = (
    # mmengine's training checkpoints carry their log (`message_hub`).
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "argparse.Namespace",
)


def is_torch_file(head: bytes) -> bool:
    """Return whether `torch.save` wrote a file that begins with these 16 bytes."""
    return head.startswith((ZIP_MAGIC, LEGACY_MAGIC))


def read_torch(path: Path) -> Any:
    """Return the content of a ``.pth`` file.

    Objects of training logs become `Ignored`, which torch calls in place of their classes.

    Raises:
        CheckpointError: the file is damaged, or asks for a global that is no part of a tensor.
    """
    check_archive(path)
    replacements: list[Any] = [(Ignored, name) for name in IGNORED_GLOBALS]
    try:
        with torch.serialization.safe_globals(replacements):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if name := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"its pickle asks for {name[1]!r:.100}, which is no part of a tensor; nothing was "
                'run. Where you trust the file, strip it: python -c "import torch; torch.save('
                f"torch.load('{path.name}', weights_only=False)['state_dict'], 'stripped.pth')\""
            ) from None
        raise CheckpointError(f"no file of tensors: {str(error)[-120:]}") from None
    # torch documents no errors for damaged files; these are the ones that fuzzing has found.
    except (
        *(RuntimeError, EOFError, OSError, MemoryError, AssertionError, struct.error),
        *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    ) as error:
        reason = str(error).partition("\n")[0][:120]
        raise CheckpointError(f"damaged, or no file of tensors: {reason}") from None


def check_archive(path: Path) -> None:
    """Raise CheckpointError if an archive unpacks to more than its size; torch never compresses."""
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    # Besides its own error, zipfile raises NotImplementedError for versions of the format that it
    # does not know, and the others for damaged directories.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"damaged archive: {error}") from None
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError("a compressed archive, which torch does not write")
