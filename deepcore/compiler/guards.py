"""What a program takes for granted about Python: attributes, globals and variables that the function read, or may have.

Found by walking from the function: its closure, the globals it names, the functions it calls by them, modules and plain
objects with their attributes. Numbers, strings and None are compared by value, everything else by identity.
"""

from __future__ import annotations

import array
import collections
import functools
import os
import pickle
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

from deepcore.backend import get_backend
from deepcore.compiler.same import LOOKED_AT, Places
from deepcore.tensor import Tensor, changes

PLAIN = (int, float, str, bytes, bool, complex, type(None))
_MOST, _DEEPEST = 500_000, 200
#: Elements of a list, dict or set, and bytes of an array, that are looked at.
_ITEMS, _BYTES = 4_096, 65_536
_MISSING = object()


class Guards:
    """Places and what was there. A global counts what changes in modules and tensors, and is looked at first: nothing
    changed there, nothing is compared.

    `objects`: those among the arguments. Of a method, the attributes of its object count as variables around it.

    Of objects, classes and modules those attributes count that the code names. Not seen: what is in lists, dicts and sets
    of more than 4,096 items and in arrays of more than 64 KiB or on a device; what a property or `__getattr__` computes
    from other things; what is written past `Module.__setattr__`; what Python reads of an optimizer's state, of context
    variables, of `threading.local`, of the clock, and of an array among the arguments by `np.asarray` or `.flat`; an
    `attrgetter` made elsewhere; a function of deepcore's that was patched; what other threads compute for the function.
    """

    def __init__(self, function: Callable, objects: Iterable = ()):
        #: (dict, key, value).
        self.entries: list[tuple[Any, Any, Any]] = []
        #: (object, attribute, value): variables of functions, their code and defaults, `__slots__`.
        self.attributes: list[tuple[Any, str, Any]] = []
        #: Attributes of objects and classes, by number; what lists, dicts, sets and arrays hold.
        self.sizes: list[tuple[Any, int]] = []
        self.contents: list[tuple[Any, Any]] = []
        #: The same for what only `Module.__setattr__` and the like change.
        self.counted: list[tuple[dict, Any, Any]] = []
        #: A module's tables: hooks, parameters, buffers and modules; its attributes, by number.
        self.held: list[tuple[dict, tuple]] = []
        self.own: list[tuple[dict, int]] = []
        #: Of tensors: whether they require gradients and are leaves, their hooks, shapes and dtypes.
        self.flags: list[tuple[Tensor, tuple]] = []
        #: Tensors that it may look at, and the gradients that they had.
        self.tensors: dict[Tensor, Tensor | None] = {}
        #: Why nothing can be taken for granted.
        self.unknown = ""
        #: Settings of optimizers and counts of schedules, which the function must not change.
        self.settings: list[tuple[dict, dict]] = []
        self.version = changes.count
        self._seen: set = set()
        #: Names in the code that was found, whether it may read any attribute, and the tables that wait for names.
        self._names: set[str] = set()
        self._every = False
        self._tables: list[tuple[Any, int, list]] = []
        self._modules: list[dict] = []
        #: Random numbers of Python and NumPy, and where they are.
        self._streams: list = [f.__self__ for f in (random.getstate, *(m.get_state for m in _numpy_random()))]
        self.roots = (function, *objects)  # they live: the arguments are told apart by their ids
        try:
            for root in self.roots:
                self._walk(root)
        except Exception as error:
            self.unknown = f"something that it reads cannot be looked at ({type(error).__name__}: {error})"
        if self._every or "hasattr" in self._names:  # what is not there may come
            self.sizes += [(table, len(table)) for table in self._modules]
        if "param_groups" in self._names or "get_last_lr" in self._names:
            self.entries += [(held, name, value) for held, kept in self.settings for name, value in kept.items()]
        self._seen.clear()
        self._tables.clear()
        self._positions = list(map(_position, self._streams))

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """The function read these."""
        self.tensors = dict.fromkeys(self.tensors)  # the gradients may go
        self.flags = [(t, _flags(t)) for t in dict.fromkeys([*tensors, *self.tensors])]

    def names_gradients(self) -> bool:
        """Whether code may look at gradients of tensors that it does not compute with."""
        return self._every or "grad" in self._names

    # -- looking ----------------------------------------------------------------------------------------
    def places(self) -> Places | None:
        """For `Same`; None where `changed` has to look each time: where it would be too much to compile, or to look might
        run a user's code."""
        entries: list[tuple] = [(table, key) for table, key, _ in self.entries]
        places = Places(entries, [(o, name) for o, name, _ in self.attributes], [t for t, _ in self.sizes], [], [])
        for held, _ in self.contents:
            if type(held) is _array():
                places.contents.append(held)
                continue
            if type(held) is dict and all(type(key) in (str, int) for key in held):
                places.ordered.append(held)
            elif type(held) is not list:
                return None
            places.sized.append(held)
            entries += [(held, key) for key in (held if type(held) is dict else range(len(held)))]
        return places if len(entries) <= LOOKED_AT else None

    def drawn(self) -> bool:
        """Whether random numbers of Python or NumPy were drawn since."""
        return list(map(_position, self._streams)) != self._positions

    def overwritten(self, settings: Iterable[tuple[dict, dict]]) -> str | None:
        """A setting that the function, which has run since, has changed, or None; `settings`: more of them, seen later."""
        return _differing(
            [(held, name, value) for held, kept in (*self.settings, *settings) for name, value in kept.items()]
        )

    def changed(self) -> str | None:
        """What is no longer as it was, or None."""
        told = _differing(self.entries)
        if told:
            return told
        for owner, name, value in self.attributes:
            now = _attribute(owner, name)
            if now is not value and not _same(now, value):
                what = "a variable of the function around" if name == "cell_contents" else name
                return f"{what} is {_told(now)}, and was {_told(value)}"
        for table, size in self.sizes:
            if len(table) != size:
                return "an object or a class has other attributes"
        for held, value in self.contents:
            now = _items(held)
            if len(now) != len(value) or not (now == value if isinstance(now, bytes) else all(map(_same, now, value))):
                return f"a {type(held).__name__} has changed"
        version = changes.count
        if version != self.version:
            told = _differing(self.counted)
            if told:
                return told
            for held, value in self.held:
                if len(held) != len(value) or not all(map(is_, held.values(), value)):
                    return "a module has other hooks, parameters, buffers or modules"
            for table, size in self.own:
                if len(table) != size:
                    return "a module has other attributes"
            for tensor, flags in self.flags:
                for what, now, then in zip(
                    ("requires_grad", "is_leaf", "hooks", "shape", "dtype"), _flags(tensor), flags
                ):
                    if now != then:
                        return f"{what} of a tensor of shape {tensor.shape} is {_told(now)}, and was {_told(then)}"
            self.version = version
        return None

    # -- walking ----------------------------------------------------------------------------------------
    def _walk(self, value, depth: int = 0, whole: bool = False) -> None:
        kind = type(value)
        if kind in PLAIN or id(value) in self._seen:
            return
        if depth > _DEEPEST or len(self.entries) + len(self.counted) > _MOST:
            self.unknown = "there is too much that it may read"
            return
        self._seen.add(id(value))
        own = _own(value)
        if isinstance(value, Tensor):
            self.tensors[value] = value.grad
        elif isinstance(value, types.ModuleType):
            if _is_users(value.__name__):
                self._open(value.__dict__, depth, sized=False)
                self._modules.append(value.__dict__)
        elif isinstance(value, type):
            self._class(value, depth)
        elif isinstance(value, types.MethodType):
            self._walk(value.__func__, depth)
            self._walk(value.__self__, depth, whole=depth == 0)
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        elif isinstance(value, (staticmethod, classmethod)):
            self._walk(value.__func__, depth)
        elif isinstance(value, property):
            self._walk(value.fget, depth)
        elif isinstance(value, (functools.partial, functools.partialmethod)):
            for part in (value.func, value.args, value.keywords):
                self._walk(part, depth + 1)
        elif isinstance(value, _array()):
            if value.dtype.hasobject:
                self.unknown = "an array of objects"
            elif value.nbytes <= _BYTES:
                self.contents.append((value, _items(value)))
        elif own is not None and "_parameters" in own and "_modules" in own:
            self.own.append((own, len(own)))
            self.held += [(own[table], tuple(own[table].values())) for table in _TABLES]
            self._read(("forward", "training"))
            self._open(own, depth, _derives(kind, "Module"), self.counted, sized=False)
            for part in (*own["_modules"].values(), *own["_parameters"].values(), *own["_buffers"].values()):
                self._walk(part, depth + 1)
            self._class(kind, depth + 1)
        elif own is not None and _is_a(kind, "Optimizer"):  # its numbers are read anew in each run
            self.settings += [(group, settings_of(group)) for group in own["param_groups"]]
            for p in (p for group in own["param_groups"] for p in group["params"]):
                self._walk(p, depth + 1)
            self._class(kind, depth + 1)
            self.sizes.append((own, len(own)))
            self._entries(own, [name for name in own if name not in _OPTIMIZERS], depth, self.entries)
        elif own is not None and _is_a(kind, "LRScheduler"):
            self.settings.append((own, settings_of(own)))
            self._walk(own.get("optimizer"), depth + 1)
        elif isinstance(value, _generators()):
            self._streams.append(value)
        elif isinstance(value, (bytearray, array.array)):
            self.contents.append((value, _items(value)))
        elif isinstance(value, types.MappingProxyType):
            self.contents.append((value, _items(value)))
            self._walk(tuple(value.values()), depth + 1)
        elif isinstance(value, (collections.UserDict, collections.ChainMap)):
            self._open(value.__dict__, depth, whole=True)
        elif isinstance(value, (list, tuple, dict, set, frozenset, collections.deque)):
            if len(value) <= _ITEMS:
                if not isinstance(value, (tuple, frozenset)):
                    self.contents.append((value, _items(value)))
                for item in dict.values(value) if isinstance(value, dict) else value:
                    self._walk(item, depth + 1)
            if _is_users(kind.__module__):
                self._object(value, own, depth)
        elif hasattr(kind, "__self__"):  # a method written in C
            self._walk(value.__self__, depth + 1)
        elif hasattr(kind, "__next__") and not _is_users(kind.__module__) and kind.__module__ != "_io":
            self.unknown = f"{kind.__name__}, which gives something else each time"
        elif isinstance(value, weakref.ref):
            self._walk(value(), depth + 1)
        elif own is not None and "__wrapped__" in own:
            self._walk(own["__wrapped__"], depth + 1)
        elif whole or _is_users(kind.__module__):
            self._object(value, own, depth)

    def _object(self, value, own: dict | None, depth: int) -> None:
        """An object of a user's class."""
        kind = type(value)
        if own is not None:
            self._open(own, depth, _derives(kind))
            if kind.__getattribute__ is object.__getattribute__ and value.__class__ is kind:
                self.attributes += [(value, "__class__", kind), (value, "__dict__", own)]
        for name in _slots(kind):
            self._attribute(value, name, depth)
        self._class(kind, depth + 1)

    def _function(self, function: types.FunctionType, depth: int) -> None:
        if not _is_users(function.__module__):
            return
        names = _names(function.__code__)
        self._read(names)
        found = [(function, name, getattr(function, name)) for name in ("__code__", "__defaults__", "__kwdefaults__")]
        self.attributes += [each for each in found if each[2] is not None]
        for cell in function.__closure__ or ():
            self._attribute(cell, "cell_contents", depth)
        for defaults in (function.__defaults__, function.__kwdefaults__):
            self._walk(defaults, depth + 1)
        for name in names:  # imports in it
            if isinstance(sys.modules.get(name), types.ModuleType):
                self._walk(sys.modules[name], depth + 1)
        table = function.__globals__
        self._entries(table, [name for name in names if name in table], depth, self.entries)

    def _class(self, kind: type, depth: int) -> None:
        """What users' classes keep for all of their objects."""
        metaclass: type = type(kind)
        for one in (*kind.__mro__, *metaclass.__mro__):
            if _is_users(one.__module__) and (one, "class") not in self._seen:
                self._seen.add((one, "class"))
                self._open(vars(one), depth)

    def _open(self, table, depth: int, whole: bool = False, entries: list | None = None, sized: bool = True) -> None:
        """Those of its entries count that code names, or all. (A count of steps beside what a step reads may change.)"""
        entries = self.entries if entries is None else entries
        if sized:
            self.sizes.append((table, len(table)))
        if whole:
            self._entries(table, [key for key in table if key not in _UNREAD], depth, entries)
        else:
            self._tables.append((table, depth, entries))
            self._entries(table, [key for key in table if self._counts(key)], depth, entries)

    def _counts(self, name: str) -> bool:
        return (self._every or name in self._names or name.startswith("__")) and name not in _UNREAD

    def _read(self, names: Iterable[str]) -> None:
        """Code reads attributes of these names."""
        new = [name for name in names if name not in self._names]
        self._names.update(new)
        every = not self._every and not _ANY_NAME.isdisjoint(new)
        self._every = self._every or every
        for table, depth, entries in list(self._tables) if new else ():
            self._entries(
                table, [key for key in (table if every else new) if key in table and self._counts(key)], depth, entries
            )

    def _attribute(self, owner, name: str, depth: int) -> None:
        value = _attribute(owner, name)
        if value is not _MISSING:
            self.attributes.append((owner, name, value))
            self._walk(value, depth + 1)

    def _entries(self, table, keys: list, depth: int, entries: list) -> None:
        for key in keys:
            value = table[key]
            if (id(table), key) not in self._seen:
                self._seen.add((id(table), key))
                entries.append((table, key, value))
                self._walk(value, depth + 1)


def _differing(entries: list[tuple[Any, Any, Any]]) -> str | None:
    for table, key, value in entries:
        now = table.get(key, _MISSING)
        if now is not value and not _same(now, value):
            return f"{key} is {_told(now)}, and was {_told(value)}"
    return None


def _attribute(owner, name: str):
    try:
        return getattr(owner, name)
    except (AttributeError, ValueError):  # a variable or a slot without a value
        return _MISSING


def _array() -> Any:
    return get_backend("cpu").array_type


def _numpy_random() -> list:
    """NumPy's random numbers, if something has imported them."""
    return [sys.modules["numpy.random"]] if "numpy.random" in sys.modules else []


def _generators() -> tuple[type, ...]:
    return (random.Random, *(t for m in _numpy_random() for t in (m.Generator, m.RandomState)))


def _position(stream) -> bytes:
    if isinstance(stream, random.SystemRandom):  # it has no state: its numbers may always differ
        return os.urandom(8)
    if isinstance(stream, random.Random):
        return pickle.dumps(stream.getstate())
    return pickle.dumps(stream.get_state() if hasattr(stream, "get_state") else stream.bit_generator.state)


def _flags(t: Tensor) -> tuple:
    return t._requires_grad, t._node is None, getattr(t, "_hooks", None) or None, t._data.shape, t._data.dtype


def _slots(kind: type) -> list[str]:
    found = [
        d.__name__ for one in kind.__mro__ for d in vars(one).values() if isinstance(d, types.MemberDescriptorType)
    ]
    return found if kind.__getattribute__ is object.__getattribute__ else []


def _items(held) -> list | bytes:
    """What a list or set holds, or a dict: its keys and values one after the other; an array's bytes."""
    if isinstance(held, (_array(), bytearray, array.array)):
        return bytes(held) if isinstance(held, bytearray) else held.tobytes()
    mapping = isinstance(held, (dict, types.MappingProxyType))
    return [part for item in held.items() for part in item] if mapping else list(held)


def _names(code: types.CodeType) -> list[str]:
    """What it names, and its strings, which `getattr` may be given."""
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _names(constant)
        found += [
            each
            for each in (constant if isinstance(constant, (tuple, frozenset)) else (constant,))
            if type(each) is str
        ]
    return list(dict.fromkeys(found))


def _is_users(module: str | None) -> bool:
    if module is not None and not isinstance(module, str):  # classes in C may have a descriptor there
        return False
    return (module or "").partition(".")[0] not in _LIBRARIES


def _derives(kind: type, *known: str) -> bool:
    """Whether code of a library, but for these classes, may read attributes of its objects."""
    harmless = ("object", "ABC", "Generic", "Protocol", *known)
    return any(not _is_users(one.__module__) and one.__name__ not in harmless for one in kind.__mro__)


def _is_a(kind: type, name: str) -> bool:
    """Whether it derives from the class of deepcore's of that name, which is in a layer above."""
    return any(one.__name__ == name and not _is_users(one.__module__) for one in kind.__mro__)


def _own(value) -> dict | None:
    """Its attributes, without asking it."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return own if type(own) is dict else None


def settings_of(table: dict) -> dict:
    """What is said in a group of parameters, or by a schedule."""
    return {name: value for name, value in table.items() if name not in ("params", "param_names", "optimizer")}


#: What an optimizer's step changes, or its plan compares.
_OPTIMIZERS = {"state", "param_groups", "defaults", "_stepped", "_plan"}
#: What of a module is looked at otherwise.
_TABLES = ("_hooks", "_parameters", "_buffers", "_modules")
#: Code that names these may read any attribute.
_ANY_NAME = {"vars", "__dict__", "getattr", "setattr", "attrgetter", "asdict", "astuple", "globals", "format", "format_map",
             "__getattribute__", "getmembers"}  # fmt: skip
#: What no computation reads.
_UNREAD = {*_TABLES, "_non_persistent", "__init__", "__new__", "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__", "__slots__", "__repr__",
           "__firstlineno__", "__static_attributes__", "__annotate_func__", "__parameters__", "__orig_bases__",
           "__abstractmethods__", "_abc_impl", "__slotnames__", "__dataclass_fields__", "__dataclass_params__",
           "__match_args__", "__hash__", "__eq__", "__builtins__", "__loader__", "__spec__", "__file__",
           "__cached__", "__name__", "__package__", "__path__"}  # fmt: skip
_LIBRARIES = {"deepcore", "numpy", "builtins", "numba", "functools", "itertools", "collections", "math", "torch", "cupy",
              "operator", "typing", "logging", "weakref", "threading", "time", "random", "abc", "enum", "dataclasses"}  # fmt: skip


def _same(now, then) -> bool:
    if now is then:
        return True
    if type(now) is not type(then):
        return False
    if type(then) is tuple:
        return len(now) == len(then) and all(map(_same, now, then))
    if is_scalar(then):
        return repr(now) == repr(then)
    if type(then) not in PLAIN:
        return False
    return repr(now) == repr(then) if isinstance(then, (float, complex)) else now == then  # -0.0 is 0.0, and NaN no NaN


def is_scalar(value) -> bool:
    """Whether it is a number of NumPy's, or a dtype."""
    return hasattr(value, "itemsize") and not hasattr(value, "__setitem__")


def _told(value) -> str:
    if value is _MISSING:
        return "gone"
    return repr(value) if isinstance(value, PLAIN) else f"another {type(value).__name__}"
