"""Tables of classes by name: what a configuration or a model file may ask for, and what the tests walk."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
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
        """`self[name](*args, **kwargs)`; an argument the class does not take raises `ConfigError`."""
        cls = self[name]
        parameters = inspect.signature(cls).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for key in kwargs:
                if key not in parameters:
                    raise ConfigError(f"{self.kind} {name} has no argument {key!r}", fix=suggest(key, parameters))
        return cls(*args, **kwargs)

    def __missing__(self, name):
        raise ConfigError(f"there is no {self.kind} named {name!r}", fix=suggest(str(name), self))


def discover(package: str, path: Iterable[str], *registries: Registry) -> dict[str, type]:
    """Import every file of a package, so that a new file is found by being there; what they registered, by name."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
    return {name: cls for registry in registries for name, cls in registry.items()}


class Integers(NamedTuple):
    """An example input of whole numbers 0 … high - 1."""

    shape: tuple[int, ...]
    high: int


class Example(NamedTuple):
    """A way to build a registered class and call it, for its tests.

    `arguments` go to the constructor; each input is a shape (normal values, or uniform ones for `Uniform`) or
    `Integers`.
    """

    arguments: dict[str, Any]
    inputs: tuple


class Uniform(NamedTuple):
    """An example input of values in [0, 1); with `sum_to_one` each row along dimension 1 (or 0 of a vector) sums to 1."""

    shape: tuple[int, ...]
    sum_to_one: bool = False


LAYERS = Registry("layer")
LOSSES = Registry("loss")
