"""Collating samples into a batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepcore.backend import Backend, dtypes, get_backend, takes_device
from deepcore.errors import DataError
from deepcore.tensor import Tensor, from_raw


@takes_device
def default_collate(samples: Sequence[Any], backend: str | Backend | None = None, device=None):
    """A list of samples as one batch: tensors and arrays are stacked along a new first dimension.

    int becomes int64, float float32, bool bool; text (also NumPy's) stays a list; tuples, lists and dicts are collated
    item by item. Errors: `DataError` for samples that differ in type, shape, dtype, length or keys, naming both, and for
    values that no tensor can hold, naming sample and field.
    """
    if not len(samples):
        raise DataError("there are no samples to batch")
    return to_backend(collate(samples, range(len(samples))), backend, arrays=True)


@takes_device
def default_convert(data: Any, backend: str | Backend | None = None, device=None):
    """`data` with its arrays and NumPy's numbers as tensors, in tuples, lists and dicts too; anything else stays."""
    return to_backend(data, backend, arrays=True)


def collate(samples: Sequence[Any], indices: Sequence[int], where: str = "sample") -> Any:
    """As `default_collate`, but arrays and numbers become NumPy arrays. `indices` name the samples in errors."""
    first = samples[0]
    if isinstance(first, Tensor):
        _check_same_arrays(samples, indices, where)
        _check_same(samples, indices, where, "backends", lambda s: s.backend)
        return from_raw(first.backend.stack([s._data for s in samples]), first.backend)
    if isinstance(first, np.ma.MaskedArray):
        raise _refusal(samples, indices, where, "fill it in __getitem__: array.filled(value)")
    if isinstance(first, np.ndarray):
        _check_same_arrays(samples, indices, where)
        return _check_dtype(np.stack(samples), indices, where)
    if isinstance(first, (str, bytes)):  # NumPy's are subclasses
        kind = str if isinstance(first, str) else bytes
        _check_same(samples, indices, where, "types", lambda s: (kind if isinstance(s, kind) else type(s)).__name__)
        return list(samples)
    if isinstance(first, np.generic):
        _check_same(samples, indices, where, "types", lambda s: type(s).__name__)
        return _check_dtype(np.array(samples), indices, where)
    if isinstance(first, (bool, int, float)):
        if not all(type(s) in (bool, int, float) for s in samples):
            _check_same(samples, indices, where, "types", lambda s: type(s).__name__)
        return _numbers(samples, indices, where)
    if isinstance(first, Mapping):
        _check_same(samples, indices, where, "types", lambda s: "dict" if isinstance(s, Mapping) else type(s).__name__)
        _check_same(samples, indices, where, "keys", lambda s: sorted(s, key=str))
        return {key: collate([s[key] for s in samples], indices, f"{where}[{key!r}]") for key in first}
    if isinstance(first, (tuple, list)):
        names = getattr(first, "_fields", None)
        plain = "tuple" if names is None else type(first).__name__
        _check_same(samples, indices, where, "types", lambda s: plain if _is_like(s, names) else type(s).__name__)
        _check_same(samples, indices, where, "lengths", len)
        parts = [
            collate([s[i] for s in samples], indices, where + (f"[{i}]" if names is None else f".{names[i]}"))
            for i in range(len(first))
        ]
        if names is not None:
            return type(first)(*parts)
        return parts if isinstance(first, list) else tuple(parts)
    if dataclasses.is_dataclass(first):
        fix = "return its fields from __getitem__: dataclasses.asdict(sample); or pass collate_fn="
    elif type(first).__module__.startswith("PIL."):
        fix = "transform=deepcore.data.vision.transforms.ToTensor(), last in a Compose of several"
    elif hasattr(first, "__array__"):
        fix = "return numpy.asarray(it) from __getitem__"
    else:
        fix = "return an array from __getitem__, or pass collate_fn="
    raise _refusal(samples, indices, where, fix)


def _is_like(sample, names: tuple | None) -> bool:
    """Whether a sample is a named tuple with these fields; None: a tuple or list without names."""
    return isinstance(sample, (tuple, list)) and getattr(sample, "_fields", None) == names


def _refusal(samples, indices, where: str, fix: str) -> DataError:
    kind = type(samples[0])
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return DataError(
        "a sample holds None, which cannot be batched"
        if samples[0] is None
        else f"a sample holds a {name}, which cannot be batched",
        expected="tensors, arrays, numbers, text, and tuples, lists and dicts of them",
        where=f"{where}, index {indices[0]}",
        fix=fix,
    )


def _numbers(samples: Sequence[Any], indices: Sequence[int], where: str) -> np.ndarray:
    if all(isinstance(s, bool) for s in samples):
        return np.array(samples, dtype=np.bool_)
    all_integers = all(isinstance(s, int) for s in samples)
    dtype = np.dtype(np.int64) if all_integers else dtypes.default_float
    try:
        with np.errstate(over="ignore"):
            array = np.array(samples, dtype=dtype)
        fits = all_integers or bool(np.isfinite(array).all())
    except OverflowError:
        fits = False
    if not fits:
        for sample, index in zip(samples, indices, strict=True):
            if not _fits(sample, dtype):
                raise DataError(
                    f"{dtypes.name_of(dtype)} does not hold the number {sample!r}",
                    where=f"{where}, index {index}",
                    fix="return it from __getitem__ as a number of NumPy's with a wider dtype, or scale it",
                )
    return array


def _fits(number, dtype) -> bool:
    if dtype == np.int64:
        return -(1 << 63) <= number < 1 << 63
    try:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(dtype.type(number))) or not math.isfinite(number)
    except OverflowError:  # an integer beyond the range of float
        return False


def _check_dtype(array: np.ndarray, indices: Sequence[int], where: str) -> np.ndarray:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not dtypes.is_supported(array.dtype):
        fixes = {
            "M": "convert them in __getitem__: array.astype('int64') counts its unit of time",
            "m": "convert them in __getitem__: array.astype('int64') counts its unit of time",
            "U": "return text as str from __getitem__, or numbers for it",
            "S": "return text as str from __getitem__, or numbers for it",
            "V": "return the fields from __getitem__ as a dict: {name: array[name] for name in array.dtype.names}",
            "c": "return real and imaginary parts from __getitem__: array.real, array.imag",
        }
        raise DataError(
            f"samples of dtype {array.dtype} cannot become a tensor",
            expected="one of " + ", ".join(dtypes.DTYPES),
            where=f"{where}, index {indices[0]}",
            fix=fixes.get(array.dtype.kind, "convert them in __getitem__, for example array.astype('float32')"),
        )
    return array


def _check_same_arrays(samples, indices, where: str) -> None:
    kind = Tensor if isinstance(samples[0], Tensor) else np.ndarray
    _check_same(samples, indices, where, "types", lambda s: (kind if isinstance(s, kind) else type(s)).__name__)
    _check_same(samples, indices, where, "shapes", lambda s: tuple(s.shape))
    _check_same(samples, indices, where, "dtypes", lambda s: s.dtype)


def _check_same(samples, indices, where: str, kinds: str, of) -> None:
    first = of(samples[0])
    for sample, index in zip(samples, indices, strict=True):
        value = of(sample)
        if value != first:
            kind = kinds[:-1]
            advice = {
                "keys": "give every sample the same keys",
                "types": "return one type",
                "backends": "return them on one backend",
                "dtypes": "convert them to one dtype",
            }.get(kinds, "pad or crop them")
            raise DataError(
                f"samples of different {kinds} cannot be batched",
                received=f"{kind} {first} at index {indices[0]}, {kind} {value} at index {index}",
                where=where,
                fix=f"{advice} in __getitem__, pass collate_fn=, or use batch_size=1",
            )


def to_backend(batch, backend: str | Backend | None, arrays: bool = False):
    """The batch with its tensors on `backend` (None: unchanged); `arrays`: NumPy arrays also become tensors."""
    if isinstance(batch, Tensor):
        target = batch.backend if backend is None else get_backend(backend)
        if target is batch.backend:
            return batch
        return from_raw(target.from_host(batch.backend.to_host(batch._data)), target)
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
