"""Reads the data of a pickle without running it: numbers, text, bytes, lists, tuples, dicts and arrays of whole numbers.

A pickle is a program that may call anything. This reader takes its instructions from `pickletools`, which only decodes them,
and does what those for plain data do; the functions that NumPy's arrays are rebuilt with are recognised by name, never
imported or called. Anything else is an error.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.errors import FileFormatError
from deepcore.io.files import open_regular

MAX_BYTES = 1 << 28
MAX_OPCODES = 1_000_000
_MAX_DIMS = 8

_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
#: What the names in a pickle stand for.
_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes",
    **{(module, "_reconstruct"): "reconstruct" for module in _ARRAYS},
    **{(module, "_frombuffer"): "frombuffer" for module in _NUMERIC},
}
_KINDS = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "b1"}


class _Fault(Exception):
    """Why a pickle is not read."""


class _Name:
    """A function or class that a pickle names."""

    def __init__(self, kind: str):
        self.kind = kind


class _DType:
    """A dtype of whole numbers, whose byte order is set later."""

    def __init__(self, kind: str):
        self.dtype = np.dtype(kind).newbyteorder("<")

    def build(self, state) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else None
        if order == ">":
            self.dtype = self.dtype.newbyteorder(">")
        elif order not in ("<", "|", "="):
            raise _Fault("it has a dtype of an unknown kind")


class _Array:
    """An array, empty until its content comes."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def build(self, state) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Fault("it has an array of an unknown kind")
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data, dtype, shape, order) -> np.ndarray:
    if isinstance(data, str):  # text of Python 2
        data = data.encode("latin-1")
    fits = isinstance(data, (bytes, bytearray)) and isinstance(dtype, _DType) and isinstance(shape, tuple)
    if (
        not fits
        or len(shape) > _MAX_DIMS
        or not all(type(n) is int and n >= 0 for n in shape)
        or order not in ("C", "F")
    ):
        raise _Fault("it has an array of an unknown kind")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise _Fault(f"it has an array of shape {shape} and {len(data):,} bytes")
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
    return array.astype(dtype.dtype.newbyteorder("="), copy=False)


class _Machine:
    """The stack, marks and memo of a pickle's instructions."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes):
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if count >= MAX_OPCODES:
                raise _Fault(f"it has more than {MAX_OPCODES:,} instructions")
            if opcode.name == "STOP":
                if len(self.stack) != 1 or self.marks:
                    raise _Fault("it ends with values left over")
                return self.stack[0]
            handler = _OPCODES.get(opcode.name)
            if handler is None:
                raise _Fault(f"its instruction {opcode.name} is none of plain data")
            handler(self, argument)
        raise _Fault("it has no end")

    def pop(self, kind: type | tuple[type, ...] = object):
        value = self.stack.pop()
        if not isinstance(value, kind):
            raise _Fault("its instructions do not fit together")
        return value

    def items(self) -> list[Any]:
        """The values since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def push(self, value) -> None:
        self.stack.append(value)

    def name(self, module, name) -> None:
        kind = _NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if kind is None:
            raise _Fault(f"it names {module}.{name}, and only arrays, lists and dicts are read")
        self.push(_Name(kind))

    def put(self, index) -> None:
        self.memo[index] = self.stack[-1]

    def append(self, values: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise _Fault("its instructions do not fit together")
        self.stack[-1].extend(values)

    def set_items(self, values: list) -> None:
        table = self.stack[-1]
        if not isinstance(table, dict) or len(values) % 2:
            raise _Fault("its instructions do not fit together")
        for key, value in zip(values[::2], values[1::2]):
            if not isinstance(key, (str, bytes, int)):
                raise _Fault("a key is neither text nor a number")
            table[key] = value

    def set_item(self, _) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def dict_of_items(self, _) -> None:
        values = self.items()
        self.push({})
        self.set_items(values)

    def name_on_stack(self, _) -> None:
        name = self.pop(str)
        self.name(self.pop(str), name)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(values)

    def reduce(self, _) -> None:
        arguments = self.pop(tuple)
        kind = self.pop(_Name).kind
        if kind == "encode" and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
            return self.push(arguments[0].encode("latin-1"))
        if kind == "bytes" and not arguments:
            return self.push(b"")
        if kind == "dtype" and arguments and (name := _text(arguments[0])) in _KINDS:
            return self.push(_DType(name))
        if kind == "reconstruct" and arguments and isinstance(arguments[0], _Name) and arguments[0].kind == "ndarray":
            return self.push(_Array())
        if kind == "frombuffer" and len(arguments) == 4:
            array = _Array()
            array.value = _array(*arguments)
            return self.push(array)
        raise _Fault("it has an array of an unknown kind")

    def build(self, _) -> None:
        state = self.pop()
        target = self.stack[-1]
        if not isinstance(target, (_Array, _DType)):
            raise _Fault("its instructions do not fit together")
        target.build(state)


def _text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _binary(machine: _Machine, argument: str) -> None:
    machine.push(argument.encode("latin-1"))


_Handler = Callable[[_Machine, Any], Any]
_OPCODES: dict[str, _Handler] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, a: None),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "INT", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
         "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push,
    ),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _binary),
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "MARK": _Machine.mark,
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "LIST": lambda m, a: m.push(m.items()),
    "DICT": _Machine.dict_of_items,
    "TUPLE": lambda m, a: m.push(tuple(m.items())),
    "TUPLE1": lambda m, a: m.tuple_of(1),
    "TUPLE2": lambda m, a: m.tuple_of(2),
    "TUPLE3": lambda m, a: m.tuple_of(3),
    "APPEND": lambda m, a: m.append([m.pop()]),
    "APPENDS": lambda m, a: m.append(m.items()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, a: m.set_items(m.items()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT"), _Machine.put),
    "MEMOIZE": lambda m, a: m.put(len(m.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda m, a: m.push(m.memo[a])),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": _Machine.name_on_stack,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}  # fmt: skip


def read_pickled_dict(path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The dict that a pickle holds, with text for keys and NumPy arrays of whole numbers among the values.

    Nothing of the file is run. Strings of Python 2 are bytes. Errors: `FileFormatError` for a damaged file, for one of more than
    `max_bytes`, and for one that needs more than plain data.
    """
    name = os.fsdecode(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise FileFormatError(f"{name!r} has {size:,} bytes, more than {max_bytes:,}", fix="check the path")
        content = file.read(max_bytes + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in text, by pickletools
            value = _Machine().run(content)
        if not isinstance(value, dict):
            raise _Fault("it holds no dict")
        result = {}
        for key, item in value.items():
            item = item.value if isinstance(item, _Array) else item
            if isinstance(item, (_Name, _DType)) or (item is None and isinstance(value[key], _Array)):
                raise _Fault("it has an array of an unknown kind")
            result[str(_text(key))] = item
        return result
    except _Fault as fault:
        reason = str(fault)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"it is damaged, or no pickle: {error}"[:200]
    raise FileFormatError(
        f"{name!r} cannot be read as a pickle of plain data: {reason}",
        fix="take another copy from where it was published; nothing of the file was run",
    )
