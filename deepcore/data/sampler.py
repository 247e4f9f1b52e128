"""Samplers: the order of samples, a function of the seed and the epoch alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DataError, IndexRangeError, StateDictError
from deepcore.random import Generator, default_generator, derive_stream, raw_permutation, raw_uniform
from deepcore.tensor import Tensor, unmasked


def draw_seed() -> int:
    """A seed drawn from the default generator, so that `manual_seed` determines it."""
    return default_generator.split().initial_seed()


def chosen_seed(owner: str, seed: int | None, generator: Generator | None) -> int:
    """`seed`, or one drawn from `generator` or from the default generator."""
    if seed is not None and generator is not None:
        raise ArgumentError(f"{owner}: seed and generator exclude each other")
    if seed is None:
        seed = draw_seed() if generator is None else generator.split().initial_seed()
    return check_seed(seed)


def permutation(n: int, seed: int, epoch: int = 0) -> np.ndarray:
    """The numbers 0 to n - 1 in an order that is a function of (n, seed, epoch), the same on every machine."""
    return _permutation(Generator(seed, stream=derive_stream(epoch)), n)


def as_indices(values: Any, size: int, owner: str) -> np.ndarray:
    """Indices into `size` samples as int64, each from 0 to size - 1; `owner` names their owner in errors.

    A mask (`size` booleans) selects the samples where it is True; negative indices count from the end, as Python's.
    Errors: `ArgumentError` for anything but whole numbers in one dimension, `IndexRangeError` outside the dataset.
    """
    if isinstance(values, range):
        values = np.arange(values.start, values.stop, values.step)
    elif isinstance(values, Tensor):
        values = values.numpy()
    elif not hasattr(values, "__array__"):
        if isinstance(values, (str, bytes, Mapping, set, frozenset)) or not isinstance(values, Iterable):
            raise ArgumentError(
                f"the indices of {owner} are whole numbers, or a mask",
                expected="a sequence or an array",
                received=type(values).__name__,
            )
        values = list(values)
        kinds = set(map(type, values))
        if len(kinds) > 1 and not all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ArgumentError(f"the indices of {owner} are whole numbers, or a mask", received=f"a mix of {names}")
    try:
        array = np.asarray(unmasked(values))
    except ValueError:  # lists of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise ArgumentError(
            f"the indices of {owner} have one dimension",
            received=f"shape {array.shape}" if array.size else "nested lists",
            fix="indices.reshape(-1); of a mask in numpy.nonzero's place: numpy.flatnonzero(mask)",
        )
    if array.dtype == np.bool_:
        if len(array) != size:
            raise ArgumentError(
                f"the mask of {owner} is as long as the dataset", expected=f"{size}", received=f"{len(array)}"
            )
        return np.flatnonzero(array)
    if not len(array):
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise ArgumentError(
            f"the indices of {owner} are whole numbers, or a mask",
            received=f"{array.tolist()[0]!r}" + (f" ({array.dtype})" if array.dtype.kind == "f" else ""),
            fix="indices.astype(int), once it is clear how they round" if array.dtype.kind == "f" else None,
        )
    minimum, maximum = int(array.min()), int(array.max())
    if minimum < -size or maximum >= size:
        raise IndexRangeError(
            f"index {maximum if maximum >= size else minimum} of {owner} is outside the dataset",
            expected=f"-{size} to {size - 1}" if size else "none: the dataset is empty",
        )
    array = array.astype(np.int64, copy=False)
    return array if minimum >= 0 else np.where(array < 0, array + size, array)


class Sampler:
    """Indices into a dataset. `set_epoch` sets the next pass over it.

    A subclass defines `order`, or `__iter__` as in PyTorch, and `__len__` unless it gives one index per sample.
    """

    def __init__(self, data_source=None):
        self.data_source = data_source
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.data_source is None:
            raise NotImplementedError(f"{type(self).__name__} must define __len__")
        return len(self.data_source)

    def order(self) -> np.ndarray:
        """Every index of the next pass."""
        if type(self).__iter__ is Sampler.__iter__:
            raise NotImplementedError(f"{type(self).__name__} must define order or __iter__")
        return np.asarray(list(self))  # validated by `as_indices` on use

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())


def check_sampler(sampler, size: int):
    """A sampler for passes over `size` samples: anything with a length that can be iterated once per pass.

    A mask becomes the indices that it selects. Errors: `ArgumentError`, `IndexRangeError`, as `as_indices`.
    """
    if isinstance(sampler, Iterator) and not hasattr(type(sampler), "__len__"):
        raise ArgumentError(
            f"a sampler gives its indices anew for each pass, and a {type(sampler).__name__} gives them once",
            fix="sampler=list(indices), or a class with __iter__ and __len__",
        )
    if isinstance(sampler, (Sequence, np.ndarray, Tensor)) or hasattr(sampler, "__array__"):
        indices = as_indices(sampler, size, "the sampler")
        first = sampler[0] if isinstance(sampler, (list, tuple)) and sampler else None
        return (
            indices if isinstance(first, (bool, np.bool_)) or getattr(sampler, "dtype", None) == np.bool_ else sampler
        )
    kind = type(sampler)
    if not (hasattr(kind, "__len__") and (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__"))):
        raise ArgumentError(
            "a sampler has __iter__, which gives indices, and __len__, which says how many",
            received=kind.__name__,
            fix="define both, or sampler=list(indices)",
        )
    return sampler


def indices_of_pass(sampler, size: int) -> np.ndarray:
    """The indices of the next pass. Errors: `DataError` where there are more or fewer than the sampler's length."""
    indices: Any
    if isinstance(sampler, Sampler) and type(sampler).__iter__ is Sampler.__iter__:
        indices = sampler.order()
    elif isinstance(sampler, (Sequence, np.ndarray, Tensor)) or hasattr(sampler, "__array__"):
        indices = sampler
    else:
        indices = list(itertools.islice(sampler, len(sampler) + 1))  # one more than expected, as it may be infinite
    indices = as_indices(indices, size, "the sampler")
    if len(indices) != len(sampler):
        is_longer = len(indices) > len(sampler)
        raise DataError(
            f"the sampler gives {'more' if is_longer else 'fewer'} indices than its length",
            expected=f"{len(sampler)}, as len(sampler) says",
            received="at least one more" if is_longer else f"{len(indices)}",
            fix="return from __len__ what __iter__ gives in each pass, and let __iter__ start afresh each time",
        )
    return indices


class SequentialSampler(Sampler):
    """0, 1, 2, …"""

    def order(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)


class _Seeded(Sampler):
    """A sampler whose order is a function of (seed, epoch). Without a seed, one is drawn: from `generator`, or the default."""

    def __init__(self, data_source, seed: int | None, generator: Generator | None = None):
        super().__init__(data_source)
        self.seed = chosen_seed(type(self).__name__, seed, generator)

    def _generator(self) -> Generator:
        """That of the next pass."""
        return Generator(self.seed, stream=derive_stream(self.epoch))

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not isinstance(state, Mapping) or "seed" not in state:
            raise StateDictError(
                f"the state of a {type(self).__name__} holds its seed", expected='{"seed": n}', received=repr(state)
            )
        self.seed = check_seed(state["seed"])


class RandomSampler(_Seeded):
    """A permutation, another one each epoch: a function of (seed, epoch). `seed=None` draws one, from `generator` if given.

    With `replacement`, each of the `num_samples` (default: as many as the dataset has) is drawn from all; without, more than the
    dataset has begin a further permutation.
    """

    def __init__(
        self,
        data_source,
        seed: int | None = None,
        *,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ):
        super().__init__(data_source, seed, generator)
        self.replacement = bool(replacement)
        self.num_samples = len(data_source) if num_samples is None else _count("num_samples", num_samples)

    def __len__(self) -> int:
        return self.num_samples

    def order(self) -> np.ndarray:
        size, count = len(self.data_source), self.num_samples
        if not size:
            return np.empty(0, np.int64)
        if self.replacement:
            return np.minimum(_uniform(self._generator(), count) * size, size - 1).astype(np.int64)
        generator, rounds = self._generator(), -(-count // size)
        return np.concatenate([_permutation(generator, size) for _ in range(rounds)])[:count]


class SubsetRandomSampler(_Seeded):
    """The given indices in random order, another one each epoch."""

    def __init__(self, indices, generator: Generator | None = None, *, seed: int | None = None):
        super().__init__(indices, seed, generator)
        self.indices = indices.tolist() if hasattr(indices, "tolist") else list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def order(self) -> np.ndarray:
        return np.asarray(self.indices)[_permutation(self._generator(), len(self.indices))]


class WeightedRandomSampler(_Seeded):
    """`num_samples` indices, index i with probability weights[i] / Σ weights.

    Without `replacement` no index is drawn twice: by the greatest of ln(u) / weight, u uniform (Efraimidis and Spirakis, 2006).
    Errors: `ArgumentError` for weights that are negative, not finite or all 0, and for more samples than there are weights above 0.
    """

    def __init__(
        self,
        weights,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
        *,
        seed: int | None = None,
    ):
        super().__init__(None, seed, generator)
        self.weights = np.asarray(weights.numpy() if isinstance(weights, Tensor) else weights, np.float64)
        self.num_samples, self.replacement = _count("num_samples", num_samples), bool(replacement)
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise ArgumentError(
                "weights are finite numbers of at least 0, one for each sample", received=f"shape {self.weights.shape}"
            )
        most = np.count_nonzero(self.weights)
        if not most or (not self.replacement and self.num_samples > most):
            raise ArgumentError(
                f"{self.num_samples} samples cannot be drawn from {most} weights above 0",
                fix="replacement=True" if most else "weights above 0",
            )

    def __len__(self) -> int:
        return self.num_samples

    def order(self) -> np.ndarray:
        generator = self._generator()
        if self.replacement:
            ends = np.cumsum(self.weights)
            places = np.searchsorted(ends, _uniform(generator, self.num_samples) * ends[-1], side="right")
            return np.minimum(places, np.flatnonzero(self.weights)[-1]).astype(np.int64)
        with np.errstate(divide="ignore"):
            keys = np.log(_uniform(generator, len(self.weights))) / self.weights
        keys[self.weights == 0] = -np.inf
        return np.argsort(-keys, kind="stable")[: self.num_samples]


class BatchSampler(Sampler):
    """Lists of `batch_size` indices of another sampler, the last one shorter unless `drop_last`."""

    def __init__(self, sampler, batch_size: int, drop_last: bool = False):
        super().__init__(None)
        self.sampler, self.batch_size, self.drop_last = sampler, _count("batch_size", batch_size), bool(drop_last)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        count = len(self.sampler)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        indices = iter(self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


class DistributedSampler(Sampler):
    """The share of process `rank` of `num_replicas`: every num_replicas-th index from `rank` on, of an order that all have.

    The order is a function of (seed, epoch), or that of the dataset without `shuffle`. Shares have the same length: the last
    indices repeat the first ones, or, with `drop_last`, are left out.
    """

    def __init__(
        self,
        dataset,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ):
        super().__init__(dataset)
        if num_replicas is None or rank is None:
            raise ArgumentError(
                "DistributedSampler is told its share: there is no group of processes to ask",
                fix="DistributedSampler(dataset, num_replicas=n, rank=k)",
            )
        self.num_replicas, self.rank = _count("num_replicas", num_replicas), int(rank)
        if not 0 <= self.rank < self.num_replicas:
            raise ArgumentError(
                "rank is the number of a process", expected=f"0 to {num_replicas - 1}", received=repr(rank)
            )
        self.dataset, self.shuffle, self.seed, self.drop_last = (
            dataset,
            bool(shuffle),
            check_seed(seed),
            bool(drop_last),
        )

    @property
    def num_samples(self) -> int:
        size = len(self.dataset)
        return size // self.num_replicas if self.drop_last else -(-size // self.num_replicas)

    @property
    def total_size(self) -> int:
        return self.num_samples * self.num_replicas

    def __len__(self) -> int:
        return self.num_samples

    def order(self) -> np.ndarray:
        size = len(self.dataset)
        whole = permutation(size, self.seed, self.epoch) if self.shuffle else np.arange(size, dtype=np.int64)
        return np.resize(whole, self.total_size)[self.rank :: self.num_replicas]


def _permutation(generator: Generator, n: int) -> np.ndarray:
    return raw_permutation(get_backend("cpu"), generator, n)


def _uniform(generator: Generator, count: int) -> np.ndarray:
    """`count` numbers from 0 to below 1, in float64."""
    return raw_uniform(get_backend("cpu"), generator, (count,), np.dtype(np.float64))


def _count(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ArgumentError(f"{name} is a whole number of at least 1", received=repr(value))
    return int(value)


def check_seed(seed) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise ArgumentError("a seed is a whole number", expected="0 to 2**64 - 1", received=repr(seed))
    return int(seed)
