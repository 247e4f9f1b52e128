"""Samplers: the order of samples, a function of the seed and the epoch alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DataError, IndexRangeError, StateDictError
from deepcore.random import Generator, default_generator, derive_stream, raw_permutation
from deepcore.tensor import Tensor, unmasked


def draw_seed() -> int:
    """A seed drawn from the default generator, so that `manual_seed` determines it."""
    return default_generator.split().initial_seed()


def permutation(n: int, seed: int, epoch: int = 0) -> np.ndarray:
    """The numbers 0 to n - 1 in an order that is a function of (n, seed, epoch), the same on every machine."""
    return raw_permutation(get_backend("cpu"), Generator(seed, stream=derive_stream(epoch)), n)


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


class RandomSampler(Sampler):
    """A permutation, another one each epoch: a function of (seed, epoch). `seed=None` draws one."""

    def __init__(self, data_source, seed: int | None = None):
        super().__init__(data_source)
        self.seed = draw_seed() if seed is None else check_seed(seed)

    def order(self) -> np.ndarray:
        return permutation(len(self), self.seed, self.epoch)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not isinstance(state, Mapping) or "seed" not in state:
            raise StateDictError(
                "the state of a RandomSampler holds its seed", expected='{"seed": n}', received=repr(state)
            )
        self.seed = check_seed(state["seed"])


def check_seed(seed) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise ArgumentError("a seed is a whole number", expected="0 to 2**64 - 1", received=repr(seed))
    return int(seed)
