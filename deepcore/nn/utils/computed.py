"""Attributes of a module that are computed on each access, in place of a parameter or buffer.

`module.weight` becomes a property of a subclass, which `install` creates once for each class and set of names and gives to
the module; `remove` gives the class back. What computes the attribute is in `module._computed[name]`.
"""

from __future__ import annotations

import functools
from typing import Any

from deepcore.errors import ArgumentError
from deepcore.nn.modules.compiled import _Compiled
from deepcore.nn.modules.module import Module
from deepcore.tensor import Tensor


class Computed:
    """How one attribute is computed; picklable, and without a reference to the module."""

    #: Put before the name of the module's class.
    prefix = ""

    def get(self, module: Module) -> Tensor:
        raise NotImplementedError

    def set(self, module: Module, value) -> None:
        """An assignment to the attribute."""
        raise NotImplementedError


class _Subclass:
    """Marks the classes that `install` creates."""


#: The subclasses by class, names and prefix.
_classes: dict[tuple, type[Module]] = {}


def _subclass(base: type[Module], names: tuple[str, ...], prefix: str) -> type[Module]:
    key = base, names, prefix
    if key not in _classes:
        _classes[key] = _new_subclass(base, names, prefix)
    return _classes[key]


def _new_subclass(base: type[Module], names: tuple[str, ...], prefix: str) -> type[Module]:
    def reduce(self, protocol):
        state = self.__getstate__()
        return _empty, (base, names, prefix), state

    members: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__, "__reduce_ex__": reduce}
    if "takes_activation" in vars(base):  # the forward is the same, and may be fused with what follows
        members["takes_activation"] = True
    members |= {name: property(functools.partial(_get, name), functools.partial(_set, name)) for name in names}
    return type(prefix + base.__name__, (base, _Subclass), members)


def _empty(base: type[Module], names: tuple[str, ...], prefix: str) -> Module:
    cls = _subclass(base, names, prefix)
    return cls.__new__(cls)


def _get(name: str, module: Module) -> Tensor:
    return module.__dict__["_computed"][name].get(module)


def _set(name: str, module: Module, value) -> None:
    module.__dict__["_computed"][name].set(module, value)


def base_class(module: Module) -> type[Module]:
    """The class of a module, without the subclass that computes attributes."""
    cls = type(module)
    return cls.__bases__[0] if _Subclass in cls.__bases__ else cls


def computed(module: Module, name: str) -> Computed | None:
    """What computes the attribute `name`, or None."""
    return module.__dict__.get("_computed", {}).get(name)


def install(module: Module, name: str, how: Computed) -> None:
    """Compute the attribute `name`, which the module does not have at the moment."""
    module.__dict__.setdefault("_computed", {})[name] = how
    _reclass(module)


def remove(module: Module, name: str) -> None:
    """Undo `install`; the attribute is then absent."""
    del module.__dict__["_computed"][name]
    _reclass(module)
    if not module.__dict__["_computed"]:
        del module.__dict__["_computed"]


def _reclass(module: Module) -> None:
    entries = module.__dict__["_computed"]
    base = base_class(module)
    prefix = max((how.prefix for how in entries.values()), default="")
    module.__class__ = _subclass(base, tuple(sorted(entries)), prefix) if entries else base


def target(module: Module, name: str, function: str) -> Tensor:
    """The parameter or buffer `name` of a module, for a `function` that will compute it."""
    if not isinstance(module, Module):
        raise ArgumentError(f"{function} takes a module", received=type(module).__name__)
    if isinstance(module, _Compiled):
        raise ArgumentError(
            f"{function} changes what a module computes, and this one is compiled",
            fix=f"{function}(module.function, …), and compile it afterwards",
        )
    tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    tensor = next((table[name] for table in tables if table.get(name) is not None), None)
    if tensor is None:
        names = [n for table in tables for n, t in table.items() if t is not None]
        raise ArgumentError(
            f"{type(module).__name__} has no parameter or buffer {name!r}",
            expected=f"one of {', '.join(names)}" if names else None,
            fix=None if names else "give the layer that has it, such as model[0]",
        )
    return tensor
