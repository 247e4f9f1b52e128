"""Snapshots of the state besides parameters that a batch may change: buffers and random streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import is_not
from typing import NamedTuple

from deepcore import random
from deepcore.nn import Module
from deepcore.tensor import Tensor, changes


def modules_below(roots: Iterable[Module]) -> Iterator[Module]:
    """The modules and their submodules, each once, unordered: faster than `Module.modules`, which builds names."""
    stack: list[Module | None] = [*roots]
    visited: set[Module] = set()
    while stack:
        module = stack.pop()
        if module is not None and module not in visited:
            visited.add(module)
            stack += module._modules.values()
            yield module


class _Copy(NamedTuple):
    """A tensor's array and version when it was copied; its elements begin at `flat[start]`."""

    array: object
    version: int
    flat: object
    start: int

    def is_current(self, t: Tensor) -> bool:
        return self.array is t._data and self.version == t.version


class Snapshot:
    """Buffers of modules and all below them, and positions of random streams, for `restore()`.

    Buffers not written since `last`, an earlier snapshot, share its copies. Writes that bump no version
    (`.numpy()[...] = x`, `.data`) are not detected.
    """

    def __init__(
        self, roots: Iterable[Module], generators: Iterable[random.Generator] = (), last: Snapshot | None = None
    ):
        previous_copies = {} if last is None else last._copies
        self._tables: list[tuple[Module, dict]] = []
        self._copies: dict[Tensor, _Copy] = {}
        stale: dict[tuple, list[Tensor]] = {}
        for module in modules_below(roots):
            if not module._buffers:
                self._tables.append((module, {}))
                continue
            table = dict(module._buffers)
            self._tables.append((module, table))
            for t in table.values():
                if t is None or t in self._copies:
                    continue
                copy = previous_copies.get(t)
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
        """Restore every stream and buffer that differs."""
        for generator, state in self._streams:
            if generator.get_state() != state:
                generator.set_state(state)
        for module, table in self._tables:
            buffers = module._buffers
            if len(buffers) != len(table) or any(map(is_not, buffers.values(), table.values())):
                for name in buffers.keys() - table.keys():
                    delattr(module, name)
                buffers.clear()
                buffers.update(table)
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
    """Restores the state before a refused batch, or before a group of accumulated batches.

    Separate from `Steps`, whose attributes are guarded by compiled steps.
    """

    def __init__(self) -> None:
        self._roots: list[Module] = []
        self._generators: list[random.Generator] = []
        self._batch: Snapshot | None = None
        self._group: Snapshot | None = None
        self._last: Snapshot | None = None

    def watch(self, *parts) -> None:
        """Set the modules to snapshot: those of `parts` that are modules."""
        self._roots = [part for part in parts if isinstance(part, Module)]
        attributes = (v for module in modules_below(self._roots) for v in vars(module).values())
        self._generators = [v for v in attributes if isinstance(v, random.Generator)]

    def forget(self) -> None:
        """Free the copies."""
        self._batch = self._group = self._last = None

    def snapshot(self) -> Snapshot:
        """A snapshot of the current buffers and random streams."""
        self._last = Snapshot(self._roots, self._generators, self._last)
        return self._last

    def begin(self, group: bool) -> None:
        """Begin a batch; `group`: it is the first of a group of accumulated batches."""
        self._batch = None
        if group:
            self._group = self.snapshot()

    def prepare(self) -> None:
        """Take a snapshot before the batch runs eagerly."""
        self._batch = self.snapshot()

    def batch(self) -> None:
        """Restore the state before the batch."""
        if self._batch is not None:  # else a program ran, which changes nothing when it stops
            self._batch.restore()

    def group(self) -> None:
        """Restore the state before the group of batches."""
        if self._group is not None:
            self._group.restore()
