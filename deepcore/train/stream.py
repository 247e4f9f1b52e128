"""Batches from generators and other iterables, and epochs of so many steps."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from deepcore.autograd.trees import tree_map
from deepcore.data import DataLoader, IterableDataset
from deepcore.tensor import Tensor, as_tensor

_END = object()


class Batches(IterableDataset):
    """Batches (x, y) or (x, y, sample_weight) of an iterable, of a function that returns one, or of an iterator.

    An iterator is read once: each pass goes on where the last one ended. Arrays of NumPy and of other libraries become
    tensors, floating ones of NumPy of the dtype `dtype` (the model's).
    """

    def __init__(self, source: Iterable | Callable[[], Iterable], dtype):
        self.source, self.dtype = source, dtype
        self.once = isinstance(source, Iterator)
        #: A batch that was read ahead from an iterator.
        self._ahead: list = []

    def __iter__(self) -> Iterator[Any]:
        source: Any = self.source() if callable(self.source) and not hasattr(self.source, "__iter__") else self.source
        if not self.once:
            yield from map(self._convert, source)
            return
        while self._ahead:
            yield self._ahead.pop()
        yield from map(self._convert, source)

    def put_back(self, batch) -> None:
        """Deliver `batch` again, where it came from an iterator."""
        if self.once:
            self._ahead.append(batch)

    def _convert(self, batch):
        return tree_map(self._leaf, tuple(batch) if isinstance(batch, list) else batch)

    def _leaf(self, leaf):
        if isinstance(leaf, (Tensor, str, bytes)):
            return leaf
        if isinstance(leaf, (np.ndarray, np.generic)):
            array = np.asarray(leaf)
            return as_tensor(array, self.dtype if array.dtype.kind == "f" else None)
        if hasattr(leaf, "__dlpack__") or hasattr(leaf, "__array__"):
            return as_tensor(leaf)
        return leaf


def is_stream(data) -> bool:
    """Whether `data` gives batches: an iterable without items by index, such as a generator, or a function of one."""
    if isinstance(data, (DataLoader, IterableDataset, Tensor, str, bytes, set, frozenset, dict)):
        return False
    if hasattr(data, "__getitem__") or hasattr(data, "to_numpy") or hasattr(data, "__array__"):
        return False
    return hasattr(data, "__iter__") or (callable(data) and not isinstance(data, type))


class Passes:
    """The batches of epochs: an epoch is a pass over the loader, or, with `steps`, the next so many batches.

    With `steps`, passes follow one another without end, and an epoch begins where the last one ended.
    """

    def __init__(self, loader: DataLoader, steps: int | None):
        self.loader, self.steps = loader, steps
        self._open: Any = None

    def epoch(self, start: int) -> Iterator[Any]:
        """The batches of an epoch from number `start` on."""
        if self.steps is None:
            with contextlib.closing(iter(self.loader)) as batches:  # type: ignore[type-var]
                yield from batches
            return
        for _ in range(start, self.steps):
            batch = self._next()
            if batch is _END:
                return
            yield batch

    def _next(self):
        batch = _END if self._open is None else next(self._open, _END)
        while batch is _END:
            resumed = self.loader.position > 0
            self._open = iter(self.loader)
            batch = next(self._open, _END)
            if not resumed:  # a whole pass: where it has no batch, the data is exhausted
                break
        return batch

    def close(self) -> None:
        """End the pass and its workers."""
        if self._open is not None:
            self._open.close()
            self._open = None


def limited(loader: DataLoader, steps: int | None) -> Iterator[Any]:
    """The first `steps` batches of a pass (None: all)."""
    batches: Any = iter(loader)
    with contextlib.closing(batches):
        yield from batches if steps is None else itertools.islice(batches, steps)


def peek(loader: DataLoader):
    """The first batch of the next pass, which will deliver it again."""
    before = loader.state_dict()
    batches: Any = iter(loader)
    with contextlib.closing(batches):
        batch = next(batches, None)
    loader.load_state_dict(before)
    if batch is not None and isinstance(loader.dataset, Batches):
        loader.dataset.put_back(batch)
    return batch
