"""Whether what a program takes for granted about Python is as it was at the last look, which it nearly always is."""

from __future__ import annotations

import keyword
from typing import Any, NamedTuple

from deepcore.tensor import Tensor, changes

#: Entries up to which `Same` is worth compiling.
LOOKED_AT = 4_000


class Places(NamedTuple):
    """Where Python keeps what a program takes for granted."""

    #: (dict or list, key), and (object, name of an attribute).
    entries: list[tuple]
    attributes: list[tuple]
    #: Dicts and lists that have as many items as they had; dicts with the same keys in the same order.
    sized: list
    ordered: list[dict]
    #: Arrays with the same bytes.
    contents: list


class Same:
    """Objects that are where they were at the last `renew()`. `holds()` is one generated expression: looking is most of
    what Python does in a small step, and bytecode reads an attribute in less time than `map` calls what reads it.

    `places`: of the guards and the optimizers. `arrays`: tensors over the same memory. `leaves`: tensors with the same
    gradient. `some`: tensors with a gradient.
    """

    def __init__(self, places: Places, arrays: list[Tensor], leaves: list[Tensor], some: list[Tensor]):
        self.places, self.arrays, self.leaves = places, arrays, leaves
        known: dict[int, str] = {}
        objects: list[Any] = []

        def name(thing) -> str:
            if id(thing) not in known:
                known[id(thing)] = f"o{len(objects)}"
                objects.append(thing)
            return known[id(thing)]

        def key(of) -> str:
            return repr(of) if type(of) is str or (type(of) is int and abs(of) < 1 << 32) else name(of)

        values = [f"{name(t)}._data" for t in arrays]
        values += [f"{name(t)}.grad" for t in leaves]
        values += [f"{name(table)}[{key(of)}]" for table, of in places.entries]
        values += [
            f"getattr({name(owner)}, {of!r})" if keyword.iskeyword(of) else f"{name(owner)}.{of}"
            for owner, of in places.attributes
        ]
        equals = [f"{name(changes)}.count"]
        equals += [f"len({name(thing)})" for thing in places.sized]
        equals += [f"[*{name(thing)}]" for thing in places.ordered]
        equals += [f"{name(array)}.tobytes()" for array in places.contents]
        terms = [f"{value} == k{i}" for i, value in enumerate(equals)]
        terms += [f"{value} is v{i}" for i, value in enumerate(values)]
        terms += [f"{name(t)}.grad is not None" for t in some]
        taken = [*(f"k{i}" for i in range(len(equals))), *(f"v{i}" for i in range(len(values)))]
        found: dict[str, Any] = {}
        exec(f"def holds({', '.join([*known.values(), *taken])}):\n    return {' and '.join(terms)}", found)
        self._objects, self._holds, self._sizes = objects, found.pop("holds"), list(map(len, places.sized))
        self._holds.__defaults__ = (None,) * (len(objects) + len(taken))

    def renew(self) -> bool:
        """Take what is there now for what was, unless there is more or less of it."""
        places = self.places
        if list(map(len, places.sized)) != self._sizes:
            return False
        try:
            self._holds.__defaults__ = (
                *self._objects,
                changes.count,
                *self._sizes,
                *map(list, places.ordered),
                *[array.tobytes() for array in places.contents],
                *[t._data for t in self.arrays],
                *[t.grad for t in self.leaves],
                *[table[key] for table, key in places.entries],
                *[getattr(owner, name) for owner, name in places.attributes],
            )
        except (AttributeError, LookupError, ValueError):  # something else is there instead
            return False
        return True

    def holds(self) -> bool:
        """Whether all is the same; what is equal, and not the same, is not."""
        try:
            return self._holds()
        except (AttributeError, LookupError, ValueError):  # nothing is known yet; a key is gone, or a variable
            return False
