"""Sequences of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepcore.backend import get_backend
from deepcore.data.collate import default_collate
from deepcore.errors import ArgumentError, DataError
from deepcore.tensor import Tensor, from_raw


def pad_sequences(
    sequences: Sequence[Any], length: int | None = None, value: float = 0, side: str = "right", multiple_of: int = 1
) -> np.ndarray:
    """Sequences (Lᵢ, *) as one array (N, L, *), filled with `value` at the right or left end.

    L is `length`, or that of the longest, rounded up to a multiple of `multiple_of`. Longer sequences are cut at the end
    that is filled. Errors: `DataError` for none, and for other dimensions that differ.
    """
    if side not in ("right", "left"):
        raise ArgumentError("side is 'right' or 'left'", received=repr(side))
    for name, size, least in (("length", 1 if length is None else length, 0), ("multiple_of", multiple_of, 1)):
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < least:
            raise ArgumentError(f"{name} is a whole number of at least {least}", received=repr(size))
    arrays = [s.numpy() if isinstance(s, Tensor) else np.asarray(s) for s in sequences]
    if not arrays:
        raise DataError("there are no sequences to pad")
    for i, array in enumerate(arrays):
        if array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:]:
            raise DataError(
                "sequences differ in more than their length",
                expected=f"(L, {', '.join(map(str, arrays[0].shape[1:]))})" if arrays[0].ndim else "(L, …)",
                received=str(array.shape),
                where=f"sequence {i}",
            )
    filled = [array for array in arrays if len(array)]
    dtype = np.result_type(*filled) if filled else arrays[0].dtype
    longest = max(len(array) for array in arrays) if length is None else int(length)
    longest = -(-longest // multiple_of) * multiple_of
    out = np.full((len(arrays), longest, *arrays[0].shape[1:]), value, dtype)
    for row, array in zip(out, arrays):
        if side == "right":
            row[: len(array)] = array[:longest]
        else:
            row[max(longest - len(array), 0) :] = array[max(len(array) - longest, 0) :]
    return out


def pad_collate(
    samples: Sequence[Any], length: int | None = None, value: float = 0, side: str = "right", multiple_of: int = 1
) -> Any:
    """Samples (sequence, *others) as (sequences (N, L, *), lengths (N,), *others), for `DataLoader(collate_fn=pad_collate)`.

    Samples that are sequences alone give the first two. lengths: those before padding, at most L; the others are collated
    by `default_collate`. Other arguments, by `functools.partial`, are those of `pad_sequences`.
    """
    if not len(samples):
        raise DataError("there are no samples to batch")
    several = isinstance(samples[0], (tuple, list)) and not _is_numbers(samples[0])
    sequences = [sample[0] for sample in samples] if several else list(samples)
    padded = pad_sequences(sequences, length, value, side, multiple_of)
    lengths = np.minimum([len(sequence) for sequence in sequences], padded.shape[1]).astype(np.int64)
    cpu = get_backend("cpu")
    batch = from_raw(padded, cpu), from_raw(lengths, cpu)
    if not several:
        return batch
    others = default_collate([tuple(sample[1:]) for sample in samples], cpu) if len(samples[0]) > 1 else ()
    return (*batch, *others)


def _is_numbers(sample) -> bool:
    return all(isinstance(item, (int, float, np.number)) for item in sample)
