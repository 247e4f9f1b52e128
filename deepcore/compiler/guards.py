"""What a program takes for granted about Python: attributes, globals and variables that the function read, or may have.

Found by walking from the function: its closure, the globals it names, the functions it calls by them, modules and plain
objects with their attributes. Numbers, strings and None are compared by value, everything else by identity.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

from deepcore.tensor import Tensor, changes

_PLAIN = (int, float, str, bytes, bool, complex, type(None))
_MOST = 20_000
#: Entries up to which `Same` is worth compiling.
_LOOKED_AT = 4_000
_MISSING = object()


class Same:
    """Objects that are where they were at the last `renew()`. `holds()` is one generated expression: looking is most of
    what Python does in a small step, and bytecode reads an attribute in less time than `map` calls what reads it.

    `entries`: (dict or list, key) pairs. `sized`: dicts and lists that have as many items as they had. `ordered`: dicts
    with the same keys in the same order. `arrays`: tensors over the same memory. `leaves`: tensors with the same
    gradient. `cells`: variables of functions.
    """

    def __init__(
        self,
        entries: list[tuple],
        sized: list,
        ordered: list[dict],
        arrays: list[Tensor],
        leaves: list[Tensor],
        cells: list,
    ):
        self.entries, self.sized, self.ordered = entries, sized, ordered
        self.arrays, self.leaves, self.cells = arrays, leaves, cells
        known: dict[int, str] = {}
        objects: list[Any] = []

        def name(thing) -> str:
            if id(thing) not in known:
                known[id(thing)] = f"o{len(objects)}"
                objects.append(thing)
            return known[id(thing)]

        def key(of) -> str:
            return repr(of) if type(of) is str or (type(of) is int and abs(of) < 1 << 32) else name(of)

        places = [f"{name(t)}._data" for t in arrays]
        places += [f"{name(t)}.grad" for t in leaves]
        places += [f"{name(table)}[{key(of)}]" for table, of in entries]
        places += [f"{name(cell)}.cell_contents" for cell in cells]
        terms = [f"{name(changes)}.count == version"]
        terms += [f"len({name(thing)}) == n{i}" for i, thing in enumerate(sized)]
        terms += [f"[*{name(thing)}] == k{i}" for i, thing in enumerate(ordered)]
        terms += [f"{place} is v{i}" for i, place in enumerate(places)]
        taken = ["version", *(f"n{i}" for i in range(len(sized)))]
        taken += [*(f"k{i}" for i in range(len(ordered))), *(f"v{i}" for i in range(len(places)))]
        found: dict[str, Any] = {}
        exec(f"def holds({', '.join([*known.values(), *taken])}):\n    return {' and '.join(terms)}", found)
        self._objects, self._holds, self._sizes = objects, found.pop("holds"), list(map(len, sized))
        self._holds.__defaults__ = (None,) * (len(objects) + len(taken))

    def renew(self) -> bool:
        """Take what is there now for what was, unless there is more or less of it."""
        if list(map(len, self.sized)) != self._sizes:
            return False
        try:
            self._holds.__defaults__ = (
                *self._objects,
                changes.count,
                *self._sizes,
                *map(list, self.ordered),
                *[t._data for t in self.arrays],
                *[t.grad for t in self.leaves],
                *[table[key] for table, key in self.entries],
                *[cell.cell_contents for cell in self.cells],
            )
        except (LookupError, ValueError):  # something else is there instead
            return False
        return True

    def holds(self) -> bool:
        """Whether all is the same; what is equal, and not the same, is not."""
        try:
            return self._holds()
        except (AttributeError, LookupError, ValueError):  # nothing is known yet; a key is gone, or a variable
            return False


class Guards:
    """Places, as (dict, key), and what was there. A global counts what changes in modules and tensors, and is looked at
    first: nothing changed there, nothing is compared.

    `objects`: those among the arguments. Of a method, the attributes of its object count as variables around it.

    Not seen: hooks of leaves and `detach_()`, another parameter in the place of one in a group, a parameter that only later
    has a gradient, a second tensor over a tensor's array, attributes that only the class had, elements of lists and dicts of
    more than 256, sets, `__slots__`, defaults, elements of arrays."""

    def __init__(self, function: Callable, objects: Iterable = ()):
        self.tables: list[dict] = []
        self.keys: list[Any] = []
        self.values: list[Any] = []
        #: The same for what only `Module.__setattr__` and the like change.
        self.counted: list[tuple[dict, Any, Any]] = []
        #: A module's tables: hooks, parameters, buffers and modules.
        self.held: list[tuple[dict, tuple]] = []
        #: Whether tensors require gradients.
        self.flags: list[tuple[Tensor, bool]] = []
        self.cells: list[tuple[Any, Any]] = []
        self.lists: list[tuple[Any, list]] = []
        self.version = changes.count
        self._seen: set[int] = set()
        self.roots = (function, *objects)  # they live: the arguments are told apart by their ids
        for root in self.roots:
            self._walk(root)
        self._seen.clear()

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """The function read these."""
        self.flags = [(t, t._requires_grad) for t in tensors]

    # -- looking ----------------------------------------------------------------------------------------
    def places(self) -> tuple[list[tuple], list, list[dict], list] | None:
        """Entries, sized, ordered and cells for `Same`; None where `changed` has to look each time: where it would be too
        much to compile, or to look might run a user's code."""
        entries: list[tuple] = list(zip(self.tables, self.keys))
        sized: list = []
        ordered: list[dict] = []
        for held, _ in self.lists:
            if type(held) is dict and all(type(key) in (str, int) for key in held):
                ordered.append(held)
            elif type(held) is not list:
                return None
            sized.append(held)
            entries += [(held, key) for key in (held if type(held) is dict else range(len(held)))]
        if len(entries) > _LOOKED_AT:
            return None
        return entries, sized, ordered, [cell for cell, _ in self.cells]

    def changed(self) -> str | None:
        """What is no longer as it was, or None."""
        for table, key, value in zip(self.tables, self.keys, self.values):
            now = table.get(key, _MISSING)
            if now is not value and not _same(now, value):
                return f"{key} is {_told(now)}, and was {_told(value)}"
        for cell, value in self.cells:
            try:
                now = cell.cell_contents
            except ValueError:
                now = _MISSING
            if now is not value and not _same(now, value):
                return f"a variable of the function around is {_told(now)}, and was {_told(value)}"
        for held, value in self.lists:
            now = _items(held)
            if len(now) != len(value) or not all(map(_same, now, value)):
                return f"a {type(held).__name__} has changed"
        version = changes.count
        if version != self.version:
            for table, key, value in self.counted:
                if table.get(key, _MISSING) is not value and not _same(table.get(key, _MISSING), value):
                    return f"{key} is {_told(table.get(key, _MISSING))}, and was {_told(value)}"
            for held, value in self.held:
                if len(held) != len(value) or not all(map(is_, held.values(), value)):
                    return "a module has other hooks, parameters, buffers or modules"
            for tensor, value in self.flags:
                if tensor._requires_grad is not value:
                    return f"requires_grad of a tensor of shape {tensor.shape} is {not value}, and was {value}"
            self.version = version
        return None

    # -- walking ----------------------------------------------------------------------------------------
    def _walk(self, value, depth: int = 0, whole: bool = False) -> None:
        if isinstance(value, (*_PLAIN, type, types.ModuleType)) or id(value) in self._seen or depth > 12:
            return
        self._seen.add(id(value))
        if isinstance(value, types.MethodType):
            self._walk(value.__func__, depth)
            self._walk(value.__self__, depth, whole=depth == 0)
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        elif isinstance(value, Tensor):
            return
        elif hasattr(value, "_parameters") and hasattr(value, "_modules"):
            own = value.__dict__
            for key, item in own.items():
                if key in ("_hooks", "_parameters", "_buffers", "_modules"):
                    self.held.append((item, tuple(item.values())))
                    continue
                if key == "_non_persistent":
                    continue
                self.counted.append((own, key, item))
                self._walk(item, depth + 1)
            self._walk(type(value).forward, depth + 1)
        elif hasattr(value, "param_groups"):  # an optimizer: its numbers are read anew in each run
            own = value.__dict__
            self._table(own, [name for name in own if name not in _OPTIMIZERS], depth)
        elif isinstance(value, (list, tuple, dict)):
            if len(value) <= 256:
                if not isinstance(value, tuple):
                    self.lists.append((value, _items(value)))
                for item in value.values() if isinstance(value, dict) else value:
                    self._walk(item, depth + 1)
        elif hasattr(value, "__wrapped__") and callable(value):
            self._walk(value.__wrapped__, depth + 1)
        elif (whole or _is_users(type(value))) and hasattr(value, "__dict__"):
            self._table(value.__dict__, list(value.__dict__), depth)
            call = vars(type(value)).get("__call__")
            if isinstance(call, types.FunctionType):
                self._walk(call, depth + 1)

    def _function(self, function: types.FunctionType, depth: int) -> None:
        if not _is_users(function):
            return
        for cell in function.__closure__ or ():
            try:
                self.cells.append((cell, cell.cell_contents))
                self._walk(cell.cell_contents, depth + 1)
            except ValueError:
                continue
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._walk(default, depth + 1)
        names = [name for name in _names(function.__code__) if name in function.__globals__]
        self._table(function.__globals__, names, depth)

    def _table(self, table: dict, names: list, depth: int) -> None:
        for name in names:
            value = table[name]
            if len(self.tables) < _MOST:
                self.tables.append(table)
                self.keys.append(name)
                self.values.append(value)
            self._walk(value, depth + 1)


def _items(held: list | dict) -> list:
    """What a list holds, or a dict: its keys and values one after the other."""
    return [part for item in held.items() for part in item] if isinstance(held, dict) else list(held)


def _names(code: types.CodeType) -> list[str]:
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _names(constant)
    return list(dict.fromkeys(found))


def _is_users(thing) -> bool:
    top = (getattr(thing, "__module__", None) or "").partition(".")[0]
    return top not in _LIBRARIES


#: What an optimizer's step changes, or its plan compares.
_OPTIMIZERS = {"state", "param_groups", "defaults", "_stepped", "_plan"}
_LIBRARIES = {"deepcore", "numpy", "builtins", "numba", "functools", "itertools", "collections", "math", "torch", "cupy",
              "operator", "typing", "logging", "threading", "time", "random"}  # fmt: skip


def _same(now, then) -> bool:
    if now is then:
        return True
    return isinstance(then, _PLAIN) and type(now) is type(then) and (now == then or (now != now and then != then))


def _told(value) -> str:
    if value is _MISSING:
        return "gone"
    return repr(value) if isinstance(value, _PLAIN) else f"another {type(value).__name__}"
