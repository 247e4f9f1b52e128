"""Containers of modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deepcore.errors import ArgumentError, DeepcoreError, IndexRangeError, suggest
from deepcore.nn.modules.module import Module, indent
from deepcore.nn.registry import LAYERS


class ModuleKeyError(DeepcoreError, KeyError):
    """A ModuleDict has no module of this name."""


class _Indexed(Module):
    """A module whose submodules are numbered and can be indexed, replaced and inserted as in a list."""

    def _key(self, index: int) -> str:
        try:
            position = index.__index__()
        except AttributeError:
            raise ArgumentError(
                f"{type(self).__name__} is indexed by numbers and slices", received=repr(index)
            ) from None
        if not -len(self) <= position < len(self):
            raise IndexRangeError(f"index {position} is out of range: {type(self).__name__} has {len(self)} modules")
        return list(self._modules)[position]

    def _rebuild(self, modules: Iterable[Any]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = type(self).__new__(type(self))
            Module.__init__(part)
            if isinstance(self, Sequential):
                for name, module in list(self._modules.items())[index]:
                    part.add_module(name, module)
            else:
                part._rebuild(list(self._modules.values())[index])
            return part
        return self._modules[self._key(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._key(index), module)

    def __delitem__(self, index) -> None:
        names = list(self._modules)[index] if isinstance(index, slice) else [self._key(index)]
        keep = [module for name, module in self._modules.items() if name not in names]
        if all(name.isdigit() for name in self._modules):
            self._rebuild(keep)
        else:
            for name in names:
                delattr(self, name)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def append(self, module: Module):
        """Add `module` at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]):
        """Add each of `modules` at the end."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module):
        """Insert `module` before `index`."""
        modules: list = list(self._modules.values())
        modules.insert(index, module)
        self._rebuild(modules)
        return self

    def pop(self, index: int = -1) -> Module:
        """Remove and return the module at `index`."""
        module = self[index]
        del self[index]
        return module


@LAYERS.register
class Sequential(_Indexed):
    """y = fₙ(… f₂(f₁(x))): modules applied one after the other.

    `Sequential(a, b, c)` names them "0", "1", "2"; `Sequential({"body": a, "head": b})` uses the keys.
    """

    structural = True
    examples = ()

    def __init__(self, *modules):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        elif len(modules) == 1 and isinstance(modules[0], (list, tuple)):
            raise ArgumentError(
                "Sequential takes the modules themselves, not a list of them", fix="nn.Sequential(*modules)"
            )
        else:
            for i, module in enumerate(modules):
                self.add_module(str(i), module)

    def forward(self, input):
        modules = list(self._modules.values())
        fused = False
        for module, following in zip(modules, [*modules[1:], None]):
            if fused:  # the previous layer has computed this activation
                fused = False
                continue
            epilogue = _epilogue(module, following)
            fused = epilogue is not None
            input = module(input, activation=epilogue) if fused else module(input)
        return input


def _epilogue(module: Module, following: Module | None) -> str | None:
    """The name of the activation `following`, if `module` can fuse it and neither has hooks or an own forward."""
    if following is None or "takes_activation" not in type(module).__dict__ or module._hooks or following._hooks:
        return None
    if "epilogue" not in type(following).__dict__ or "forward" in module.__dict__ or "forward" in following.__dict__:
        return None  # a subclass or an instance may compute something else
    return following.epilogue


@LAYERS.register
class ModuleList(_Indexed):
    """A list of registered modules; it has no forward."""

    structural = True
    examples = ()

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        self.extend(modules or ())

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(itertools.chain(self, other))

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        return self.extend(modules)

    def __repr__(self) -> str:
        # A run of equal layers is one line, `(0-5): 6 x Block(…)`.
        lines = []
        position = 0
        for text, run in itertools.groupby(repr(module) for module in self):
            count = len(list(run))
            name = f"({position})" if count == 1 else f"({position}-{position + count - 1})"
            lines.append(f"{name}: {'' if count == 1 else f'{count} x '}{indent(text)}")
            position += count
        return self._join_repr([], lines)


@LAYERS.register
class ModuleDict(Module):
    """A dict of registered modules; it has no forward."""

    structural = True
    examples = ()

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None):
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Any:
        if key not in self._modules:
            raise ModuleKeyError(f"the ModuleDict has no {key!r}", fix=suggest(key, self._modules))
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self):
        return self._modules.keys()

    def values(self):
        return self._modules.values()

    def items(self):
        return self._modules.items()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules by name."""
        pairs = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for key, module in pairs:
            self[key] = module

    def pop(self, key: str) -> Module:
        """Remove and return the module `key`."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Remove every module."""
        for key in list(self._modules):
            delattr(self, key)
