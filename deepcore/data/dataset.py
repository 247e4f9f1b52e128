"""Datasets: anything with a length and items by index."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from deepcore.data.sampler import as_indices, chosen_seed, permutation
from deepcore.errors import ArgumentError, DataError, IndexRangeError
from deepcore.random import Generator
from deepcore.tensor import Tensor, as_tensor, from_raw


class Dataset:
    """Samples by index: a subclass defines `__len__` and `__getitem__(index)`.

    A sample is a tensor, an array, a number, text, or a tuple, list or dict of them. A dataset that is read by worker
    processes must give host arrays. Random augmentation that draws from `deepcore.random` is reproducible: the loader
    seeds the default generator for every batch.
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")

    def __add__(self, other) -> ConcatDataset:
        return ConcatDataset([self, other])


class BatchedDataset(Dataset):
    """A dataset that gives whole batches, too: `get_batch(indices)`, while `can_batch`; a loader prefers them."""

    @property
    def can_batch(self) -> bool:
        """Whether samples are what `get_batch` gives, not something made of them."""
        return True

    def get_batch(self, indices: np.ndarray) -> tuple[Any, ...]:
        """The samples `indices` as one batch."""
        raise NotImplementedError(f"{type(self).__name__} must define get_batch")


class TensorDataset(BatchedDataset):
    """Sample i is `(t[i] for t in tensors)`: tensors, or arrays, of one length. Samples carry no graph.

    `classes`: names of the classes, where the last tensor holds class indices. Arrays of NumPy are shared, not copied.
    Errors: `DataError` when the lengths differ.
    """

    def __init__(self, *tensors, classes: Sequence[str] | None = None):
        if not tensors:
            raise ArgumentError("TensorDataset needs at least one tensor")
        self.tensors: tuple[Tensor, ...] = tuple(as_tensor(t) for t in tensors)
        self.classes = None if classes is None else tuple(classes)
        shapes = [tuple(t.shape) for t in self.tensors]
        if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
            raise DataError(
                "the tensors of a TensorDataset differ in length",
                expected="the same first dimension in each",
                received=", ".join(str(shape) for shape in shapes),
            )

    def __len__(self) -> int:
        return self.tensors[0].shape[0]

    def __getitem__(self, index: int | slice | Any) -> tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(from_raw(t._data[index], t.backend) for t in self.tensors)
        number = _number(index, len(self))
        if number is not None:
            return tuple(from_raw(t._data[number, ...], t.backend) for t in self.tensors)
        return self.get_batch(as_indices(index, len(self), "a TensorDataset"))

    def get_batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """The samples `indices` as one batch: one gather per tensor, where the tensor lives."""
        indices_on: dict[Any, Any] = {}
        batch = []
        for t in self.tensors:
            if t.backend not in indices_on:
                indices_on[t.backend] = t.backend.from_host(indices)
            batch.append(from_raw(t._data.take(indices_on[t.backend], 0), t.backend))
        return tuple(batch)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in self.tensors)
        return f"TensorDataset({len(self)} samples: {shapes})"


class Subset(Dataset):
    """The samples of `dataset` at `indices`, in that order; of a mask (booleans), those where it is True.

    Errors: `ArgumentError` for anything but whole numbers, `IndexRangeError` for those outside the dataset.
    """

    def __init__(self, dataset, indices: Sequence[int] | Sequence[bool] | np.ndarray | Tensor):
        self.dataset = dataset
        self.indices = as_indices(indices, len(dataset), "a Subset")
        self.classes = getattr(dataset, "classes", None)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        number = _number(index, len(self))
        if number is None:
            raise ArgumentError(
                "a Subset gives one sample by its number",
                received=repr(index),
                fix="Subset(subset, indices) for several of its samples",
            )
        return self.dataset[int(self.indices[number])]

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.dataset!r})"


class ConcatDataset(Dataset):
    """The samples of several datasets, one dataset after the other: also `first + second`.

    Errors: `ArgumentError` for no datasets, and for what has no length or no items.
    """

    def __init__(self, datasets: Iterable):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ArgumentError("ConcatDataset needs at least one dataset")
        for dataset in self.datasets:
            _check_dataset("ConcatDataset", dataset)
        self.cumulative_sizes = np.cumsum([len(d) for d in self.datasets]).tolist()

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int):
        number = _number(index, len(self))
        if number is None:
            raise ArgumentError("a ConcatDataset gives one sample by its number", received=repr(index))
        number = number + len(self) if number < 0 else number
        which = bisect.bisect_right(self.cumulative_sizes, number)
        return self.datasets[which][number - (self.cumulative_sizes[which - 1] if which else 0)]

    def __repr__(self) -> str:
        return f"ConcatDataset({', '.join(map(repr, self.datasets))})"


class IterableDataset(Dataset):
    """Samples in an order of their own, as from a stream or a file read once: a subclass defines `__iter__`.

    Each pass calls `iter(dataset)`. Every worker process of a loader has its own copy and walks all of it: share the
    work with `get_worker_info()`, as in `itertools.islice(source, info.id, None, info.num_workers)`.
    `__len__`, where defined, is the number of samples of a pass over all workers; `len(loader)` needs it.
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__")

    def __getitem__(self, index: int) -> Any:
        raise ArgumentError(
            f"a {type(self).__name__} gives its samples in its own order alone",
            received=f"index {index!r}",
            fix="itertools.islice(dataset, n) for the first n samples",
        )

    def __add__(self, other) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class ChainDataset(IterableDataset):
    """The samples of several iterable datasets, one dataset after the other: also `first + second`.

    Errors: `ArgumentError` for anything but an `IterableDataset`.
    """

    def __init__(self, datasets: Iterable):
        self.datasets = list(datasets)
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise ArgumentError(
                    "ChainDataset takes iterable datasets",
                    received=type(dataset).__name__,
                    fix="ConcatDataset for datasets with samples by index",
                )

    def __iter__(self) -> Iterator[Any]:
        for dataset in self.datasets:
            yield from dataset

    def __len__(self) -> int:
        return sum(map(len, self.datasets))


class StackDataset(Dataset):
    """Sample i has sample i of each dataset: a tuple, or, of datasets given by name, a dict.

    Errors: `ArgumentError` for no datasets, or both kinds; `DataError` when the lengths differ.
    """

    def __init__(self, *args, **kwargs):
        if bool(args) == bool(kwargs):
            raise ArgumentError("StackDataset takes datasets, or datasets by name")
        self.datasets: Any = kwargs or args
        each = kwargs.values() if kwargs else args
        for dataset in each:
            _check_dataset("StackDataset", dataset)
        lengths = [len(d) for d in each]
        if len(set(lengths)) > 1:
            raise DataError("the datasets of a StackDataset differ in length", received=", ".join(map(str, lengths)))
        self._length = lengths[0]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int):
        number = _number(index, self._length)
        if number is None:
            raise ArgumentError("a StackDataset gives one sample by its number", received=repr(index))
        if isinstance(self.datasets, dict):
            return {name: dataset[number] for name, dataset in self.datasets.items()}
        return tuple(dataset[number] for dataset in self.datasets)

    def __repr__(self) -> str:
        parts = (
            [f"{k}={d!r}" for k, d in self.datasets.items()]
            if isinstance(self.datasets, dict)
            else map(repr, self.datasets)
        )
        return f"StackDataset({', '.join(parts)})"


def _check_dataset(owner: str, dataset) -> None:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ArgumentError(f"{owner} takes datasets with __len__ and __getitem__", received=type(dataset).__name__)


def _number(index, size: int) -> int | None:
    """An index into `size` samples as an int; None for anything that is not an integer, including bools."""
    if getattr(index, "ndim", 0) or isinstance(index, bool) or getattr(index, "dtype", None) == np.bool_:
        return None
    try:
        number = operator.index(index)
    except TypeError:
        return None
    if not -size <= number < size:
        raise IndexRangeError(f"there is no sample {number}", expected=f"-{size} to {size - 1}" if size else "none")
    return number


def batch_getter(dataset) -> Callable[[np.ndarray], Any] | None:
    """A function from indices to a whole batch, for datasets with `get_batch` and subsets of them; else None.

    None also for a subclass that redefines `__getitem__` alone.
    """
    cls = type(dataset)
    if isinstance(dataset, BatchedDataset):
        owner = next(base for base in cls.__mro__ if "get_batch" in vars(base))
        same = getattr(cls, "__getitem__", None) is getattr(owner, "__getitem__", None)
        return dataset.get_batch if same and dataset.can_batch else None
    if isinstance(dataset, Subset) and cls.__getitem__ is Subset.__getitem__:
        inner = batch_getter(dataset.dataset)
        return None if inner is None else _Gather(inner, dataset.indices)
    return None


class _Gather:
    """`get_batch` of a subset; unlike a closure, it can be pickled."""

    def __init__(self, inner: Callable[[np.ndarray], Any], indices: np.ndarray):
        self.inner, self.indices = inner, indices

    def __call__(self, positions: np.ndarray):
        return self.inner(self.indices[positions])


def lives_in_memory(dataset) -> bool:
    """Whether batches are gathered from tensors, which worker processes would only copy."""
    return isinstance(dataset, TensorDataset) or (isinstance(dataset, Subset) and lives_in_memory(dataset.dataset))


def random_split(
    dataset,
    lengths: Sequence[int] | Sequence[float],
    generator: Generator | None = None,
    *,
    seed: int | None = None,
) -> list[Subset]:
    """Non-overlapping random subsets of the given lengths, or of the given fractions of 1.

    Fractions are rounded down and the remainder goes to the first subsets, one each. `seed=None` draws one, from
    `generator` or the default. Errors: `ArgumentError` when the lengths do not add up.
    """
    size = len(dataset)
    expected = f"whole numbers that sum to {size}, or fractions that sum to 1"
    sizes: list[Any] = list(lengths) if isinstance(lengths, Iterable) else [lengths]
    if any(isinstance(n, bool) or not isinstance(n, (int, float, np.integer, np.floating)) for n in sizes):
        raise ArgumentError("random_split takes lengths or fractions", expected=expected, received=repr(lengths))
    floating = [n for n in sizes if not isinstance(n, (int, np.integer))]
    # 16-bit fractions, for example, sum to 1 within their own precision; NaN and infinity do not.
    precision = max((float(np.finfo(type(n)).eps) for n in floating), default=0.0)
    if floating and abs(sum(map(float, sizes)) - 1.0) <= max(1e-9, len(sizes) * precision) and min(sizes) >= 0:
        fractions = sizes
        sizes = [int(size * float(part) + 1e-9) for part in fractions]
        for i in range(size - sum(sizes)):
            sizes[i % len(sizes)] += 1
    if not all(np.isfinite(n) and int(n) == n and n >= 0 for n in sizes) or sum(sizes) != size:
        raise ArgumentError("the lengths do not add up to the dataset's", expected=expected, received=str(list(sizes)))
    order = permutation(size, chosen_seed("random_split", seed, generator))
    ends = np.cumsum([int(n) for n in sizes])
    return [Subset(dataset, order[end - int(n) : end]) for n, end in zip(sizes, ends, strict=True)]
