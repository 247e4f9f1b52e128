"""Containers of parameters: ParameterList, ParameterDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, IndexRangeError, suggest
from deepcore.nn.modules.container import ModuleKeyError
from deepcore.nn.modules.module import Module
from deepcore.nn.parameter import Parameter
from deepcore.tensor import Tensor


def _held(value):
    """A tensor as a parameter; anything else as it is."""
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _line(key, value) -> str:
    if not isinstance(value, Tensor):
        return f"({key}): Object of type: {type(value).__name__}"
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    size = "x".join(map(str, value.shape))
    return f"({key}): {kind} containing: [{dt.name_of(value.dtype)} of size {size}]"


class ParameterList(Module):
    """A list of registered parameters, named "0", "1", …; it has no forward. Tensors in it become parameters.

    Other values are held as they are.
    """

    def __init__(self, values: Iterable[Any] | None = None):
        super().__init__()
        self._size = 0
        self.extend(() if values is None else values)

    def _key(self, index) -> str:
        try:
            position = index.__index__()
        except AttributeError:
            raise ArgumentError("a ParameterList is indexed by numbers and slices", received=repr(index)) from None
        if not -self._size <= position < self._size:
            raise IndexRangeError(f"index {position} is out of range: the ParameterList has {self._size} values")
        return str(position % self._size)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, self._key(index))

    def __setitem__(self, index: int, value) -> None:
        setattr(self, self._key(index), _held(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, str(i)) for i in range(self._size))

    def __iadd__(self, values: Iterable[Any]) -> ParameterList:
        return self.extend(values)

    def append(self, value) -> ParameterList:
        """Add `value` at the end."""
        setattr(self, str(self._size), _held(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Add the values at the end."""
        if isinstance(values, Tensor) or not isinstance(values, Iterable):
            raise ArgumentError("ParameterList takes several parameters", received=type(values).__name__, fix="[value]")
        for value in list(values):
            self.append(value)
        return self

    def __repr__(self) -> str:
        return self._join_repr([], [_line(i, value) for i, value in enumerate(self)])


class ParameterDict(Module):
    """A dict of registered parameters; it has no forward. Tensors in it become parameters.

    Keys are names without a dot; other values are held as they are. Assigning to a key that exists keeps its place.
    """

    def __init__(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None):
        super().__init__()
        self._keys: dict[str, None] = {}
        self.update({} if parameters is None else parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise ModuleKeyError(f"the ParameterDict has no {key!r}", fix=suggest(str(key), self._keys))
        return getattr(self, key)

    def __setitem__(self, key: str, value) -> None:
        if not isinstance(key, str):
            raise ArgumentError("a key of a ParameterDict is text", received=repr(key), fix=f"{str(key)!r}")
        if key not in self._keys and hasattr(self, key):
            raise ArgumentError(f"ParameterDict already has an attribute {key!r}", fix="choose another key")
        setattr(self, key, _held(value))
        self._keys[key] = None

    def __delitem__(self, key: str) -> None:
        self[key]
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._keys))

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._keys))

    def __or__(self, other: Mapping[str, Any] | ParameterDict) -> ParameterDict:
        joined = self.copy()
        joined.update(other)
        return joined

    def __ior__(self, other: Mapping[str, Any] | ParameterDict) -> ParameterDict:
        self.update(other)
        return self

    def keys(self):
        return self._keys.keys()

    def values(self) -> list[Any]:
        return [getattr(self, key) for key in self._keys]

    def items(self) -> list[tuple[str, Any]]:
        return [(key, getattr(self, key)) for key in self._keys]

    def get(self, key: str, default=None):
        """The value of `key`, or `default`."""
        return getattr(self, key) if key in self._keys else default

    def setdefault(self, key: str, default=None):
        """The value of `key`, which is set to `default` first if it is not there."""
        if key not in self._keys:
            self[key] = default
        return self[key]

    def update(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | ParameterDict) -> None:
        """Add or replace values by name."""
        pairs = parameters.items() if isinstance(parameters, (Mapping, ParameterDict)) else parameters
        for key, value in pairs:
            self[key] = value

    def pop(self, key: str):
        """Remove and return the value of `key`."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last (key, value)."""
        if not self._keys:
            raise ModuleKeyError("the ParameterDict is empty")
        key = next(reversed(self._keys))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove every value."""
        for key in list(self._keys):
            del self[key]

    def copy(self) -> ParameterDict:
        """Another ParameterDict of the same parameters."""
        return type(self)(self.items())

    def fromkeys(self, keys: Iterable[str], default=None) -> ParameterDict:
        """A ParameterDict of the keys, each with `default`."""
        return type(self)((key, default) for key in keys)

    def __repr__(self) -> str:
        return self._join_repr([], [_line(key, value) for key, value in self.items()])
