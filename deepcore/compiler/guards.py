"""Guards: the Python state that a program was recorded under, and a fast check that it is unchanged.

Guarded are plain numbers, strings and flags that the function names (variables of enclosing functions, globals,
defaults, attributes of objects, classes and modules, items of small containers), the identity of other objects that it
names, and the lengths of containers. Changes to modules and tensors are counted by `tensor.changes`, so their state is
compared only after a change. Everything else that Python computes is evaluated once; the checks in `compiled` find
where that is wrong.
"""

from __future__ import annotations

import collections
import contextlib
import dis
import enum
import functools
import random
import sys
import types
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

from deepcore.compiler.record import settings_of
from deepcore.tensor import Tensor, changes

PLAIN = (int, float, str, bytes, bool, complex, type(None))
#: Objects that are visited at most, and items of a container that are compared at most.
_MAX_OBJECTS, _MAX_ITEMS = 5_000, 64
_MISSING = object()


class Guards:
    """Snapshot of the Python state that a function names; `objects`: non-tensor arguments."""

    def __init__(self, function: Callable, objects: Iterable = ()):
        #: Compared by `is` in each call: (mapping or list, key, value, label).
        self.entries: list[tuple[Any, Any, Any, str]] = []
        #: (object, attribute name, value, label).
        self.attributes: list[tuple[Any, str, Any, str]] = []
        self.lengths: list[tuple[Any, int, str]] = []
        #: Compared after `changes` has counted something: modules' attributes and tables, tensors' flags.
        self.counted: list[tuple[dict, Any, Any, str]] = []
        self.tables: list[tuple[dict, tuple, str]] = []
        self.counted_lengths: list[tuple[dict, int, str]] = []
        self.classes: list[tuple[Any, type, str]] = []
        self.flags: list[tuple[Tensor, tuple]] = []
        #: Tensors that the function names, with their gradients.
        self.tensors: dict[Tensor, Tensor | None] = {}
        #: Settings of optimizers and schedules, which programs read in each run and the function must not change.
        self.settings: list[tuple[dict, dict]] = []
        self.reads_gradients = False
        self._visited: set = set()
        self._names: set[str] = set()
        self._objects: list[tuple[Any, Any, str]] = []
        self._streams: list[tuple[Any, Any]] = []
        self._queue: list[tuple[Any, str]] = []
        self.roots = (function, *objects)  # kept alive, so that their ids are not reused
        for root in self.roots:
            self._visit(root, _name(root))
        if isinstance(function, types.MethodType) and not is_users(type(function.__self__).__module__):
            self._all_attributes(function.__self__)  # a library's code is not searched for names
        self._walk()
        if "param_groups" in self._names or "get_last_lr" in self._names:
            for group, values in self.settings:
                self.entries += [(group, name, value, f'the setting "{name}"') for name, value in values.items()]
        self.reads_gradients = bool({"grad", "getattr"} & self._names)
        self._watch_streams()
        self._visited.clear()
        self.version = changes.count

    # -- checking -----------------------------------------------------------------------------------------
    def changed(self) -> str | None:
        """The first guarded value that changed, as a reason, or None."""
        for table, key, value, label in self.entries:
            current = _item(table, key)
            if current is not value and not same(current, value):
                return f"{label} changed from {_shown(value)} to {_shown(current)}"
        for owner, name, value, label in self.attributes:
            current = getattr(owner, name, _MISSING)
            if current is not value and not same(current, value):
                return f"{label} changed from {_shown(value)} to {_shown(current)}"
        for container, size, label in self.lengths:
            if len(container) != size:
                return f"{label} had {size} items, and has {len(container)}"
        version = changes.count
        if version != self.version:
            for table, key, value, label in self.counted:
                current = table.get(key, _MISSING)
                if current is not value and not same(current, value):
                    return f"{label} changed from {_shown(value)} to {_shown(current)}"
            for module, kind, label in self.classes:
                if type(module) is not kind:
                    return f"{label} changed from {kind.__name__} to {type(module).__name__}"
            for own, size, label in self.counted_lengths:
                if len(own) != size:
                    return f"{label} has other attributes"
            for table, values, label in self.tables:
                if len(table) != len(values) or not all(map(is_, table.values(), values)):
                    return label
            for tensor, flags in self.flags:
                for flag, current, value in zip(_FLAGS, _flags(tensor), flags):
                    if current != value:
                        change = f"from {_shown(value)} to {_shown(current)}"
                        return f"{flag} of a tensor of shape {tensor.shape} changed {change}"
            self.version = version
        return None

    def drawn(self) -> bool:
        """Whether the random streams of Python or NumPy have advanced."""
        return any(_position(stream) != position for stream, position in self._streams)

    def overwritten(self, settings: Iterable[tuple[dict, dict]] = ()) -> str | None:
        """The setting of an optimizer or schedule that the function changed, as a reason; `settings`: further ones."""
        for table, values in (*self.settings, *settings):
            for name, value in values.items():
                current = table.get(name, _MISSING)
                if current is not value and not same(current, value):
                    return f'the setting "{name}" changed from {_shown(value)} to {_shown(current)}'
        return None

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Guard the flags, shapes and dtypes of tensors that the function reads."""
        self.tensors = dict.fromkeys(self.tensors)  # the gradients may be freed
        self.flags = [(t, _flags(t)) for t in dict.fromkeys([*tensors, *self.tensors])]

    def ignore_changed(self) -> None:
        """Drop guards of state that the function itself changed, for `side_effects="once"`."""
        self.entries = [e for e in self.entries if (value := _item(e[0], e[1])) is e[2] or same(value, e[2])]
        self.attributes = [
            a for a in self.attributes if (value := getattr(a[0], a[1], _MISSING)) is a[2] or same(value, a[2])
        ]
        self.lengths = [guard for guard in self.lengths if len(guard[0]) == guard[1]]
        self.counted = [c for c in self.counted if (value := c[0].get(c[1], _MISSING)) is c[2] or same(value, c[2])]
        self.classes = [guard for guard in self.classes if type(guard[0]) is guard[1]]
        self.counted_lengths = [guard for guard in self.counted_lengths if len(guard[0]) == guard[1]]
        self.tables = [t for t in self.tables if len(t[0]) == len(t[1]) and all(map(is_, t[0].values(), t[1]))]

    # -- walking ------------------------------------------------------------------------------------------
    def _visit(self, value, label: str) -> None:
        """Queue `value` for inspection, once."""
        if type(value) not in PLAIN and id(value) not in self._visited and len(self._visited) < _MAX_OBJECTS:
            self._visited.add(id(value))
            self._queue.append((value, label))

    def _walk(self) -> None:
        """Inspect the queue to a fixed point: code that is found may name attributes of objects inspected before."""
        while True:
            while self._queue:
                self._inspect(*self._queue.pop())
            sizes = len(self.entries), len(self.attributes), len(self._names)
            for table, owner, label in list(self._objects):
                self._named_attributes(table, owner, label)
            if not self._queue and sizes == (len(self.entries), len(self.attributes), len(self._names)):
                return

    def _inspect(self, value, label: str) -> None:
        kind = type(value)
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._visit(value.__func__, label)
            self._visit(value.__self__, label.rpartition(".")[0] or type(value.__self__).__name__)
        elif isinstance(value, types.BuiltinMethodType):
            self._visit(value.__self__, label)
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, value.keywords):
                self._visit(part, label)
        elif isinstance(value, (staticmethod, classmethod)):
            self._visit(value.__func__, label)
        elif isinstance(value, property):
            self._visit(value.fget, label)
        elif isinstance(value, Tensor):
            self.tensors[value] = value.grad
            own = _own(value)
            if own is not None:
                self._objects.append((own, value, label))
        elif isinstance(value, types.ModuleType):
            if is_users(value.__name__):
                self._objects.append((value.__dict__, None, value.__name__))
        elif isinstance(value, type):
            self._class(value)
        elif _is_a(kind, "Module") and "_modules" in (_own(value) or ()):
            self._module(value, label)
        elif _is_a(kind, "Optimizer"):
            self.settings += [(group, settings_of(group)) for group in value.param_groups]
            self._class(kind)
        elif _is_a(kind, "LRScheduler"):
            self.settings.append((value.__dict__, settings_of(value.__dict__)))
        elif _is_a(kind, "GradScaler"):
            self._all_attributes(value)
        elif isinstance(value, _generators()):
            self._streams.append((value, None))
        elif isinstance(value, _CONTAINERS):
            self._container(value, label)
            if is_users(kind.__module__):
                self._object(value, label)
        elif isinstance(value, collections.UserDict):
            self._visit(value.data, label)
        elif isinstance(value, collections.ChainMap):
            self._visit(value.maps, label)
        elif isinstance(value, enum.Enum) or not is_users(kind.__module__):
            own = _own(value) or {}
            for name in ("__wrapped__", "function"):  # functools.cache, and a nested compiled function
                if isinstance(own.get(name), (types.FunctionType, types.MethodType)):
                    self._visit(own[name], label)
        else:
            self._object(value, label)

    def _object(self, value, label: str) -> None:
        """Guard an object of a user's class: the attributes that code names, and their number."""
        kind, own = type(value), _own(value)
        plain = kind.__getattribute__ is object.__getattribute__  # reading must not run a user's code
        if own is not None:
            self._objects.append((own, value, label))
            self.lengths.append((own, len(own), f"attributes of {label}"))
        if plain and type(kind.__dict__.get("__class__")) is not property:
            self.attributes.append((value, "__class__", kind, f"the class of {label}"))
            if own is not None:
                self.attributes.append((value, "__dict__", own, f"the attributes of {label}"))
            for name in _slots(kind):
                with contextlib.suppress(AttributeError):  # an unset slot
                    self._attribute(value, name, f"{label}.{name}")
        self._class(kind)

    def _all_attributes(self, value) -> None:
        own = _own(value)
        if own is not None and not _is_a(type(value), "Module"):
            self.lengths.append((own, len(own), f"attributes of {type(value).__name__}"))
            for name in list(own):
                self._entry(own, name, f"{type(value).__name__}.{name}", name)

    def _function(self, function: types.FunctionType) -> None:
        if not is_users(function.__module__):
            return
        code = function.__code__
        names = _names(code)
        self._names.update(names)
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            value = getattr(function, name)
            if value is not None:
                self.attributes.append((function, name, value, f"{name} of {function.__name__}"))
        for value in (*(function.__defaults__ or ()), function.__kwdefaults__):
            self._visit(value, f"a default of {function.__name__}")
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            try:
                self.attributes.append((cell, "cell_contents", cell.cell_contents, f"variable `{name}`"))
                self._visit(cell.cell_contents, name)
            except ValueError:  # an empty cell
                pass
        table = function.__globals__
        for name in _global_names(code):
            if name in table:
                self._entry(table, name, f"global `{name}`", name)
            elif name in sys.modules and isinstance(sys.modules[name], types.ModuleType):  # imported inside
                self._visit(sys.modules[name], name)
        if function.__dict__:
            self._objects.append((function.__dict__, None, function.__name__))

    def _module(self, module, label: str) -> None:
        """Guard a module; `Module.__setattr__` and the like count their changes."""
        own = module.__dict__
        self.counted_lengths.append((own, len(own), label))
        for name in _TABLES:
            self.tables.append((own[name], tuple(own[name].values()), f"{label} has other {name.strip('_')}"))
        self.classes.append((module, type(module), f"the class of {label}"))
        for name, value in list(own.items()):
            if name not in (*_TABLES, "_non_persistent", "_state_hooks"):
                self.counted.append((own, name, value, f"{label}.{name}"))
                self._visit(value, f"{label}.{name}")
        for table in ("_modules", "_parameters", "_buffers"):
            for name, value in own[table].items():
                self._visit(value, f"{label}.{name}")
        for hooks in own["_hooks"].values():
            for hook in hooks.values():
                self._visit(hook[0] if isinstance(hook, tuple) else hook, "a hook")
        self._class(type(module))

    def _class(self, kind: type) -> None:
        meta: type = type(kind)
        classes: list[type] = [*kind.__mro__, *meta.__mro__]
        for cls in classes:
            if is_users(cls.__module__) and (cls, "class") not in self._visited:
                self._visited.add((cls, "class"))
                self._objects.append((vars(cls), None, cls.__qualname__))
                self.lengths.append((vars(cls), len(vars(cls)), f"attributes of {cls.__qualname__}"))
                self._names.add("forward")
                self._names.add("__call__")

    def _container(self, value, label: str) -> None:
        """Guard a container: its length, and its items up to `_MAX_ITEMS`."""
        if not isinstance(value, (tuple, frozenset)):
            self.lengths.append((value, len(value), label))
        if len(value) > _MAX_ITEMS:
            return
        if isinstance(value, (dict, types.MappingProxyType)):
            for key in list(value):
                self._entry(value, key, f"{label}[{key!r}]", f"{label}[{key!r}]")
        elif isinstance(value, (list, tuple)) or hasattr(value, "appendleft"):
            for i, item in enumerate(value):
                if isinstance(value, tuple):
                    self._visit(item, f"{label}[{i}]")
                else:
                    self._entry(value, i, f"{label}[{i}]", f"{label}[{i}]")
        else:
            for item in value:
                self._visit(item, label)

    def _named_attributes(self, table, owner, label: str) -> None:
        reads_any = not _ANY_NAME.isdisjoint(self._names)
        for name in [name for name in table if name in self._names or (reads_any and not name.startswith("__"))]:
            self._entry(table, name, f"{label}.{name}", f"{label}.{name}")

    def _entry(self, table, key, label: str, name: str) -> None:
        place = id(table), key
        try:
            if place in self._visited:
                return
            self._visited.add(place)
        except TypeError:
            return
        value = table[key]
        self.entries.append((table, key, value, label))
        self._visit(value, name)

    def _attribute(self, owner, name: str, label: str) -> None:
        value = getattr(owner, name)
        self.attributes.append((owner, name, value, label))
        self._visit(value, label)

    def _watch_streams(self) -> None:
        streams = [stream for stream, _ in self._streams] + [random.getstate.__self__]  # type: ignore[attr-defined]
        streams += [sys.modules["numpy.random"].mtrand._rand] if "numpy.random" in sys.modules else []
        self._streams = [(stream, _position(stream)) for stream in streams]


_FLAGS = ("requires_grad", "is_leaf", "hooks", "shape", "dtype", "class")
#: Instructions that look a name up among globals, or import it.
_OF_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME"}
#: Container types whose items are guarded.
_CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque, types.MappingProxyType)
#: Code that names one of these may read any attribute.
_ANY_NAME = {"getattr", "vars", "__dict__", "attrgetter", "asdict"}
#: Attributes of a module that are tables.
_TABLES = ("_hooks", "_parameters", "_buffers", "_modules")
_LIBRARIES = {"deepcore", "numpy", "builtins", "numba", "functools", "itertools", "collections", "math", "torch", "cupy",
              "operator", "typing", "logging", "weakref", "threading", "time", "random", "abc", "enum", "dataclasses",
              "contextlib", "contextvars", "os", "posixpath", "sys", "io", "pathlib", "multiprocessing", "pytest", "_pytest",
              "pickle", "copy", "re", "json", "types", "inspect", "warnings", "string", "tqdm", "matplotlib"}  # fmt: skip


def is_users(module: Any) -> bool:
    """Whether code of that module counts as the user's."""
    return isinstance(module, str) and module.partition(".")[0] not in _LIBRARIES


def _flags(t: Tensor) -> tuple:
    return t._requires_grad, t._node is None, getattr(t, "_hooks", None) or None, t._data.shape, t._data.dtype, type(t)


def _name(value) -> str:
    return value.__qualname__ if isinstance(value, types.FunctionType) else type(value).__name__


def _own(value) -> dict | None:
    """The `__dict__` of an object, without running the object's code."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return own if type(own) is dict else None


def _is_a(kind: type, name: str) -> bool:
    """Whether a class derives from deepcore's class of that name, which is in a layer above."""
    return any(cls.__name__ == name and not is_users(cls.__module__) for cls in kind.__mro__)


def _generators() -> tuple[type, ...]:
    kinds: list[type] = [random.Random]
    if "numpy.random" in sys.modules:
        kinds += [sys.modules["numpy.random"].Generator, sys.modules["numpy.random"].RandomState]
    return tuple(kinds)


def _position(stream):
    """The state of a random stream; a new object each time for a stream without one."""
    if isinstance(stream, random.Random):
        try:
            return stream.getstate()
        except NotImplementedError:  # SystemRandom: its numbers may always differ
            return object()
    if hasattr(stream, "get_state"):
        state = stream.get_state(legacy=True)
        return (state[0], state[1].tobytes(), *state[2:])
    return repr(stream.bit_generator.state)


def _slots(kind: type) -> list[str]:
    return [d.__name__ for cls in kind.__mro__ for d in vars(cls).values() if isinstance(d, types.MemberDescriptorType)]


def _names(code: types.CodeType) -> list[str]:
    """The names in a code object, and its strings, which `getattr` may take."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            names.append(constant)
    return list(dict.fromkeys(names))


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """The globals and imported modules that a code object names: not its attributes, whose names may be the same."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname in _OF_GLOBALS]
    if "globals" in code.co_names:
        names += _names(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _global_names(constant)
    return tuple(dict.fromkeys(names))


def _item(table, key):
    try:
        return table[key]
    except (KeyError, IndexError, TypeError):
        return _MISSING


def same(a, b) -> bool:
    """Whether two values are interchangeable: numbers with equal bits, other objects by identity."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(b) is tuple:
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(b, types.MethodType):  # each attribute access creates a new one
        return a.__func__ is b.__func__ and a.__self__ is b.__self__
    if is_scalar(b):
        return repr(a) == repr(b)
    if type(b) not in PLAIN:
        return False
    return repr(a) == repr(b) if isinstance(b, (float, complex)) else a == b  # -0.0 == 0.0 and NaN != NaN


def is_scalar(value) -> bool:
    """Whether a value is a NumPy scalar or a dtype."""
    return hasattr(value, "itemsize") and not hasattr(value, "__setitem__")


def _shown(value) -> str:
    if value is _MISSING:
        return "nothing"
    text = repr(value) if isinstance(value, PLAIN) else f"another {type(value).__name__}"
    return text if len(text) < 80 else text[:77] + "…"
