"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepcore.backend import Backend, dtypes, get_backend
from deepcore.errors import DataError
from deepcore.tensor import Tensor, from_raw


def default_collate(samples: Sequence[Any], backend: str | Backend | None = None):
    """A list of samples as one batch: tensors and arrays are stacked along a new first dimension.

    int becomes int64, float float32, bool bool; text stays a list; tuples, lists and dicts are collated item by item.
    Errors: `DataError` for samples that differ in shape, dtype, length or keys, naming both.
    """
    return to_backend(collate(samples, range(len(samples))), backend, arrays=True)


def collate(samples: Sequence[Any], indices: Sequence[int], where: str = "sample") -> Any:
    """As `default_collate`, but what came as arrays and numbers is still in NumPy. `indices` name the samples."""
    first = samples[0]
    if isinstance(first, Tensor):
        _same_arrays(samples, indices, where)
        _same(samples, indices, where, "backends", lambda s: s.backend)
        return from_raw(first.backend.stack([s.data for s in samples]), first.backend)
    if isinstance(first, np.ndarray):
        _same_arrays(samples, indices, where)
        return _checked(np.stack(samples), where)
    if isinstance(first, np.generic):
        _same(samples, indices, where, "types", lambda s: type(s).__name__)
        return _checked(np.array(samples), where)
    if isinstance(first, (bool, int, float)):
        if not all(type(s) in (bool, int, float) for s in samples):
            _same(samples, indices, where, "types", lambda s: type(s).__name__)
        return _numbers(samples)
    if isinstance(first, (str, bytes)):
        return list(samples)
    if isinstance(first, Mapping):
        _same(samples, indices, where, "keys", lambda s: sorted(s, key=str) if isinstance(s, Mapping) else type(s))
        return {key: collate([s[key] for s in samples], indices, f"{where}[{key!r}]") for key in first}
    if isinstance(first, (tuple, list)):
        _same(samples, indices, where, "lengths", lambda s: len(s) if isinstance(s, (tuple, list)) else type(s))
        parts = [collate([s[i] for s in samples], indices, f"{where}[{i}]") for i in range(len(first))]
        if hasattr(first, "_fields"):
            return type(first)(*parts)
        return parts if isinstance(first, list) else tuple(parts)
    raise DataError(
        f"a sample holds a {type(first).__name__}, which cannot be batched",
        expected="tensors, arrays, numbers, text, and tuples, lists and dicts of them",
        where=f"{where}, index {indices[0]}",
        fix="return an array from __getitem__, or pass collate_fn=",
    )


def _numbers(samples: Sequence[Any]) -> np.ndarray:
    if all(isinstance(s, bool) for s in samples):
        return np.array(samples, dtype=np.bool_)
    if all(isinstance(s, int) for s in samples):
        return np.array(samples, dtype=np.int64)
    return np.array(samples, dtype=dtypes.default_float)


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not dtypes.is_supported(array.dtype):
        raise DataError(
            f"samples of dtype {array.dtype} cannot become a tensor",
            expected="one of " + ", ".join(dtypes.DTYPES),
            where=where,
            fix="convert them in __getitem__, for example array.astype('float32')",
        )
    return array


def _same_arrays(samples, indices, where: str) -> None:
    kind = Tensor if isinstance(samples[0], Tensor) else np.ndarray
    _same(samples, indices, where, "types", lambda s: (kind if isinstance(s, kind) else type(s)).__name__)
    _same(samples, indices, where, "shapes", lambda s: tuple(s.shape))
    _same(samples, indices, where, "dtypes", lambda s: s.dtype)


def _same(samples, indices, where: str, what: str, of) -> None:
    first = of(samples[0])
    for sample, index in zip(samples, indices, strict=True):
        found = of(sample)
        if found != first:
            one = what[:-1]
            raise DataError(
                f"samples of different {what} cannot be batched",
                received=f"{one} {first} at index {indices[0]}, {one} {found} at index {index}",
                where=where,
                fix="pad, crop or convert them in __getitem__, pass collate_fn=, or use batch_size=1",
            )


def to_backend(batch, backend: str | Backend | None, arrays: bool = False):
    """The batch with its tensors on `backend` (None: where they are); `arrays`: NumPy arrays become tensors too."""
    if isinstance(batch, Tensor):
        target = batch.backend if backend is None else get_backend(backend)
        if target is batch.backend:
            return batch
        return from_raw(target.from_host(batch.backend.to_host(batch.data)), target)
    if isinstance(batch, np.ndarray) and arrays:
        target = get_backend(backend)
        return from_raw(target.from_host(batch), target)
    if isinstance(batch, Mapping):
        return {key: to_backend(item, backend, arrays) for key, item in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_backend(item, backend, arrays) for item in batch))
    if type(batch) in (tuple, list):
        return type(batch)([to_backend(item, backend, arrays) for item in batch])
    return batch
