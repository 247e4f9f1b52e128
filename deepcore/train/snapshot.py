"""What a batch may change besides parameters: buffers and random streams, as they were before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import is_not
from typing import NamedTuple

from deepcore import random
from deepcore.nn import Module
from deepcore.tensor import Tensor, changes


def below(roots: Iterable[Module]) -> Iterator[Module]:
    """The modules and all below them, each once, in no order: faster than `Module.modules`, which names them."""
    stack: list[Module | None] = [*roots]
    seen: set[Module] = set()
    while stack:
        module = stack.pop()
        if module is not None and module not in seen:
            seen.add(module)
            stack += module._modules.values()
            yield module


class _Copy(NamedTuple):
    """A tensor's array and version when it was copied: `flat[start:]` has its elements."""

    array: object
    version: int
    flat: object
    start: int

    def is_current(self, t: Tensor) -> bool:
        return self.array is t._data and self.version == t.version


class Snapshot:
    """Buffers of modules and all below them, and positions of random streams, for `restore()`.

    Buffers not written since `last`, an earlier snapshot, share its copies. Writes that raise no version
    (`.numpy()[...] = x`, `.data`) are not noticed.
    """

    def __init__(
        self, roots: Iterable[Module], generators: Iterable[random.Generator] = (), last: Snapshot | None = None
    ):
        known = {} if last is None else last._copies
        self._tables: list[tuple[Module, dict]] = []
        self._copies: dict[Tensor, _Copy] = {}
        stale: dict[tuple, list[Tensor]] = {}
        for module in below(roots):
            if not module._buffers:
                self._tables.append((module, {}))
                continue
            table = dict(module._buffers)
            self._tables.append((module, table))
            for t in table.values():
                if t is None or t in self._copies:
                    continue
                copy = known.get(t)
                if copy is not None and copy.is_current(t):
                    self._copies[t] = copy
                else:
                    stale.setdefault((t.backend, t.dtype), []).append(t)
        for (xp, _), tensors in stale.items():
            flat = xp.concatenate([t._data.reshape(-1) for t in tensors])  # one launch on a GPU
            start = 0
            for t in tensors:
                self._copies[t] = _Copy(t._data, t.version, flat, start)
                start += t._data.size
        self._streams = [(g, g.get_state()) for g in {random.default_generator, *generators}]

    def restore(self) -> None:
        """Put back what differs."""
        for generator, state in self._streams:
            if generator.get_state() != state:
                generator.set_state(state)
        for module, table in self._tables:
            now = module._buffers
            if len(now) != len(table) or any(map(is_not, now.values(), table.values())):
                for name in now.keys() - table.keys():
                    delattr(module, name)
                now.clear()
                now.update(table)
                vars(module).update(table)
                changes.count += 1
        for t, copy in self._copies.items():
            if copy.is_current(t):
                continue
            if t._data is not copy.array:
                t.rebind(copy.array, t.backend)
            t._data[...] = copy.flat[copy.start : copy.start + t._data.size].reshape(t.shape)  # type: ignore[index]
            t.bump_version()


class Undo:
    """Goes back to before a batch that was refused, or a group of batches that make one update.

    Apart from `Steps`, whose attributes a compiled step watches.
    """

    def __init__(self) -> None:
        self._roots: list[Module] = []
        self._generators: list[random.Generator] = []
        self._batch: Snapshot | None = None
        self._group: Snapshot | None = None
        self._last: Snapshot | None = None

    def watch(self, *parts) -> None:
        """What may change: those of the parts that are modules."""
        self._roots = [part for part in parts if isinstance(part, Module)]
        attributes = (v for module in below(self._roots) for v in vars(module).values())
        self._generators = [v for v in attributes if isinstance(v, random.Generator)]

    def forget(self) -> None:
        """Free the copies."""
        self._batch = self._group = self._last = None

    def snapshot(self) -> Snapshot:
        """Buffers and random streams now."""
        self._last = Snapshot(self._roots, self._generators, self._last)
        return self._last

    def begin(self, group: bool) -> None:
        """A batch begins; `group`: the first of several that make one update."""
        self._batch = None
        if group:
            self._group = self.snapshot()

    def prepare(self) -> None:
        """The batch is about to run as no program."""
        self._batch = self.snapshot()

    def batch(self) -> None:
        """As before the batch."""
        if self._batch is not None:  # else a program ran, which changes nothing where it stops
            self._batch.restore()

    def group(self) -> None:
        """As before the group of batches."""
        if self._group is not None:
            self._group.restore()
