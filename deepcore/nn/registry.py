"""Registries of classes by name, for configurations, model files and the tests."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from deepcore.errors import ArgumentError, ConfigError, suggest


class Registry(dict):
    """Class name → class. An unknown name raises `ConfigError` with the nearest one.

    >>> @LAYERS.register
    ... class Swish(Module): ...
    >>> LAYERS["Linear"]
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def register(self, cls: type) -> type:
        """Class decorator: files and configurations may name this class from now on."""
        name = cls.__name__
        if name in self and self[name] is not cls:
            raise ArgumentError(f"a {self.kind} named {name!r} is already registered", fix="choose another class name")
        self[name] = cls
        return cls

    def build(self, name: str, *args, **kwargs):
        """`self[name](*args, **kwargs)`; `ConfigError` for an argument the class does not take, or not of its type."""
        cls = self[name]
        parameters = inspect.signature(cls).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        hints = hints_of(cls)
        for key, value in kwargs.items():
            if key not in parameters and not takes_any:
                raise ConfigError(f"{self.kind} {name} has no argument {key!r}", fix=suggest(key, parameters))
            hint = hints.get(key, Any)
            if not fits(value, hint, strict=False):
                raise ConfigError(
                    f"{self.kind} {name}: {key} has the wrong type", expected=worded(hint), received=shown(value)
                )
        return cls(*args, **kwargs)

    def __missing__(self, name):
        raise ConfigError(f"there is no {self.kind} named {name!r}", fix=suggest(str(name), self))


# -- plain values against the types of arguments ------------------------------------------------------
def hints_of(function: Callable) -> dict[str, Any]:
    """The types of a function's or constructor's arguments; {} where they cannot be resolved."""
    target = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):
        return {}


def fits(value, hint, strict: bool = True) -> bool:
    """Whether a value from a file can be an argument of this type.

    `strict`: only values as written in TOML; else also those that Python code may have passed: inf, NaN, 0 for false.
    """
    fits_option = functools.partial(fits, strict=strict)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits_option(value, option) for option in options)
    if origin is typing.Literal:
        return any(type(value) is type(option) and value == option for option in options)
    if hint is Any:
        if not strict:
            return not isinstance(value, dict)
        return isinstance(value, (bool, int, str)) or fits_option(value, float) or fits_option(value, list[float])
    if hint is float:
        if isinstance(value, float):
            return not strict or abs(value) <= sys.float_info.max
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is bool and not strict:
        return isinstance(value, int) and value in (0, 1)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        if len(options) == 2 and options[1] is Ellipsis:
            return all(fits_option(v, options[0]) for v in value)
        return len(value) == len(options) and all(fits_option(v, o) for v, o in zip(value, options))
    if origin in (list, Sequence, Iterable):
        return isinstance(value, (list, tuple)) and all(fits_option(v, options[0]) for v in value)
    if origin in (dict, Mapping) or origin is Callable:
        return False
    return inspect.isclass(hint) and isinstance(value, hint)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


def worded(hint) -> str:
    """The values that fit an argument of this type, in words."""
    origin = typing.get_origin(hint)
    options = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(worded(o) for o in options if o is not type(None))
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(o) for o in options)
    if origin is tuple and Ellipsis not in options:
        return "[" + ", ".join(worded(o) for o in options) + "]"
    if origin in (tuple, list, Sequence, Iterable):
        return f"a list, each {worded(options[0])}"
    return _WORDS.get(
        hint, "a number, text, true or false, or a list of numbers" if hint is Any else "nothing a file can say"
    )


def shown(value) -> str:
    """A value from a file as text, with its type where the text does not show it."""
    kind = {bool: "", int: "", float: "", str: "", list: "a list", dict: "a table"}.get(
        type(value), type(value).__name__
    )
    if kind in ("a list", "a table"):
        return f"{kind}, {_cut(value)}"
    return (str(value).lower() if isinstance(value, bool) else _cut(value)) + (f" ({kind})" if kind else "")


def _cut(value) -> str:
    try:
        text = reprlib.repr(value) if isinstance(value, (list, dict, str)) and len(value) > 60 else repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        text = "of thousands of digits"
    return text if len(text) < 60 else text[:57] + "…"


def discover(package: str, path: Iterable[str], *registries: Mapping[str, Any]) -> dict[str, Any]:
    """Import every file of a package, so that new files need no list; returns the entries of the registries by name."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
    return {name: value for registry in registries for name, value in registry.items()}


class Integers(NamedTuple):
    """An example input of whole numbers 0 … high - 1; with `distinct` no two in a row of (N, C, *) are equal."""

    shape: tuple[int, ...]
    high: int
    distinct: bool = False


class Example(NamedTuple):
    """Arguments and inputs of a registered class, for its tests.

    `arguments` go to the constructor; each input is a shape (normal values, or uniform ones for `Uniform`) or
    `Integers`.
    """

    arguments: dict[str, Any]
    inputs: tuple


class Uniform(NamedTuple):
    """An example input of values in [0, 1); with `sum_to_one` each row along dimension 1 (or 0 of a vector) sums to 1."""

    shape: tuple[int, ...]
    sum_to_one: bool = False


class Signs(NamedTuple):
    """An example input of -1 and 1."""

    shape: tuple[int, ...]


LAYERS = Registry("layer")
LOSSES = Registry("loss")
