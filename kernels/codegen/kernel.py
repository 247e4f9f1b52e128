"""Kernel declarations: a name, named and typed arguments, and the function that builds the body.

    @args(x=In, out=Out, n=Size)
    def scale(tools, dtype):
        def kernel(x, out, n, chunk):
            ...
        return kernel

`codegen.jit` compiles a declaration to an object file, `codegen.ptx` to PTX.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from deepcore.errors import DeepcoreError

_Build = TypeVar("_Build", bound=Callable[..., Any])


class Type(NamedTuple):
    """The type of an argument. Without a dtype, it is the kernel's, which is build's parameter `dtype`."""

    kind: str
    dtype: Any = None

    def __call__(self, dtype) -> Type:
        return self._replace(dtype=np.dtype(dtype))

    def __repr__(self) -> str:
        return self.kind if self.dtype is None else f"{self.kind}({self.dtype})"

    @property
    def is_pointer(self) -> bool:
        return self.kind in ("In", "Out", "InOut", "Words")


#: A pointer to elements that are read, written, or both.
In, Out, InOut = Type("In"), Type("Out"), Type("InOut")
#: A whole number.
Size = Type("Size", np.dtype(np.int64))
#: A number of the kernel's dtype; a float64 in a CPU kernel's words.
Float = Type("Float")
#: A pointer to a table of int64.
Words = Type("Words", np.dtype(np.int64))
#: The address of an operand, or 0, as a number.
Address = Type("Address", np.dtype(np.int64))
#: The machine code of another kernel, or None. CPU only.
Code = Type("Code", np.dtype(np.int64))
#: Any number of words behind the other arguments, as a pointer to int64. CPU only, and last.
Rest = Type("Rest", np.dtype(np.int64))


class Operand(NamedTuple):
    """An argument of a planned launch: the address of an operand of the plan, or the value of a float operand."""

    number: int


def args(of: Callable[..., Mapping[str, Type]] | None = None, /, **types: Type) -> Callable[[_Build], _Build]:
    """Decorator of a build function: declares its kernels' arguments in order, or as a function of its parameters."""

    def declare(build: _Build) -> _Build:
        build.__dict__["args"] = of or types
        return build

    return declare


class Kernel:
    """A kernel of one device; subclasses generate its code.

    `build(tools, *parameters)` returns the Python function to compile, with the arguments that `args` declares.
    Parameters are plain functions, or values identified by their repr.
    """

    __slots__ = ("arguments", "build", "name", "parameters")

    def __init__(self, name: str, build: Callable[..., Callable], *parameters):
        self.name, self.build, self.parameters = name, build, parameters
        #: Types by name, in the order of the declaration, each with its dtype.
        self.arguments: dict[str, Type] = self._declared()

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}: {kind}' for name, kind in self.arguments.items())})"

    def _declared(self) -> dict[str, Type]:
        declared = getattr(self.build, "args", None)
        if declared is None:
            raise DeepcoreError(
                f"kernel {self.name}: its build function declares no arguments; fix: decorate it with @args"
            )
        types = dict(declared(*self.parameters) if isinstance(declared, FunctionType) else declared)
        code = self.build.__code__
        names = code.co_varnames[1 : code.co_argcount]
        kernel_dtype = dict(zip(names, self.parameters)).get("dtype")
        for name, kind in types.items():
            if kind.dtype is None:
                if kernel_dtype is None:
                    raise DeepcoreError(
                        f"kernel {self.name}: argument {name!r} has no dtype, and neither has the kernel"
                    )
                types[name] = kind = kind(kernel_dtype)
            if kind.kind == "Float" and kind.dtype.kind != "f":
                raise DeepcoreError(f"kernel {self.name}: argument {name!r} is {kind}, which is no floating dtype")
        return types

    def body(self, tools, *optional: str) -> Callable:
        """The Python function to compile; its arguments are the declared ones, optionally followed by `optional`."""
        function = self.build(tools, *self.parameters)
        code = function.__code__
        names = code.co_varnames[: code.co_argcount]
        if names not in (tuple(self.arguments), (*self.arguments, *optional)):
            raise DeepcoreError(f"kernel {self!r}: its function takes ({', '.join(names)})")
        return function

    def ordered(self, arguments: Mapping[str, Any]) -> list[Any]:
        """The values in the order of the declaration."""
        try:
            values = [arguments[name] for name in self.arguments]
        except KeyError as missing:
            raise DeepcoreError(f"kernel {self.name}: argument {missing} is missing; expected {self!r}") from None
        if len(values) < len(arguments):
            unknown = next(name for name in arguments if name not in self.arguments)
            raise DeepcoreError(f"kernel {self.name} has no argument {unknown!r}; expected {self!r}")
        return values

    def mistyped(self, name: str, value: Any) -> DeepcoreError:
        kind = self.arguments[name]
        expected = {
            "Size": "a whole number", "Float": "a number or float operand", "Address": "an array, an operand or None",
            "Words": "an int64 array or an operand", "Rest": "whole numbers",
            "Code": "a kernel that is ready or None",
        }.get(kind.kind, f"an array of {kind.dtype} or an operand")  # fmt: skip
        actual = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r}"
        return DeepcoreError(f"kernel {self.name}: argument {name!r} is {kind}, so {expected}; got {actual}")


def whole(value: Any) -> int | None:
    """A whole number, or None for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        return None
