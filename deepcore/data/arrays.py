"""Datasets of NumPy's files, which may be larger than memory."""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepcore.backend import dtypes
from deepcore.data.dataset import BatchedDataset, _number
from deepcore.errors import ArgumentError, DataError, FileFormatError
from deepcore.io.npy import open_npy, read_npz


class NumpyFiles(BatchedDataset):
    """Sample i is row i of each array: `NumpyFiles("inputs.npy", "targets.npy")`, as a TensorDataset of files.

    A file is NPY, which is mapped into memory: only the rows in use are read, so it may be larger than memory; or NPZ,
    whose array `"file.npz:name"` (a name is needed if it has several) is read whole. A list of files is one array, one
    file after the other. Nothing is unpickled.
    transform: of the sample, a tuple of arrays (of one file: the array). Without it, a loader gathers whole batches.

    Errors: `FileFormatError` for files that are damaged or hold no numbers, `DataError` where lengths differ.
    """

    def __init__(self, *files, transform: Callable | None = None, classes: Sequence[str] | None = None):
        if not files:
            raise ArgumentError("NumpyFiles needs at least one file")
        self.files = tuple(
            tuple(map(os.fsdecode, file)) if isinstance(file, (list, tuple)) else (os.fsdecode(file),) for file in files
        )
        self.transform, self.classes = transform, None if classes is None else tuple(classes)
        self._open()

    def _open(self) -> None:
        self.arrays = [[_open_file(name) for name in group] for group in self.files]
        for group, parts in zip(self.files, self.arrays):
            kinds = {(part.shape[1:], part.dtype) for part in parts}
            if len(kinds) > 1:
                raise DataError(
                    "files that are one array differ",
                    expected="one shape after the first dimension, and one dtype",
                    received=", ".join(f"{dtype} (N, {', '.join(map(str, shape))})" for shape, dtype in kinds),
                    where=", ".join(group[:5]),
                )
        self._ends = [np.cumsum([len(part) for part in parts]).tolist() for parts in self.arrays]
        lengths = [ends[-1] for ends in self._ends]
        if len(set(lengths)) > 1:
            raise DataError(
                "the arrays of NumpyFiles differ in length",
                expected="the same first dimension in each",
                received=", ".join(f"{n:,} in {group[0]!r}" for n, group in zip(lengths, self.files)),
            )

    def __len__(self) -> int:
        return self._ends[0][-1]

    def __getitem__(self, index: int) -> Any:
        number = _number(index, len(self))
        if number is None:
            raise ArgumentError("NumpyFiles gives one sample by its number", received=repr(index))
        number %= len(self)
        rows = []
        for parts, ends in zip(self.arrays, self._ends):
            which = bisect.bisect_right(ends, number)
            # A copy: what is given out must not keep, or change, the file's pages.
            rows.append(np.array(parts[which][number - (ends[which - 1] if which else 0)]))
        if self.transform is not None:
            return self.transform(rows[0] if len(rows) == 1 else tuple(rows))
        return tuple(rows)

    def get_batch(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """The samples `indices` as one batch, read in the order of the file: one gather per array."""
        return tuple(_gather(parts, ends, indices) for parts, ends in zip(self.arrays, self._ends))

    @property
    def can_batch(self) -> bool:
        return self.transform is None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("arrays", "_ends")}  # opened again where it is used

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{parts[0].dtype} {(ends[-1], *parts[0].shape[1:])}" for parts, ends in zip(self.arrays, self._ends)
        )
        return f"NumpyFiles({len(self)} samples: {shown})"


def _open_file(name: str) -> np.ndarray:
    path, colon, key = name.rpartition(":")
    if colon and path.endswith(".npz"):
        array = read_npz(path, [key])[key]
    elif name.endswith(".npz"):
        arrays = read_npz(name)
        if len(arrays) != 1:
            raise DataError(
                f"{name!r} has {len(arrays)} arrays",
                expected="the name of one",
                fix=", ".join(f"{name}:{key}" for key in list(arrays)[:5]) or None,
            )
        array = next(iter(arrays.values()))
    else:
        array = open_npy(name)
    if array.ndim == 0:
        raise FileFormatError(f"{name!r} holds a single number", expected="an array with a row for each sample")
    if not array.dtype.isnative:
        raise FileFormatError(
            f"{name!r} holds numbers in the byte order of another kind of machine",
            received=str(array.dtype),
            fix="numpy.save(path, array.astype(array.dtype.newbyteorder('=')))",
        )
    if not dtypes.is_supported(array.dtype):
        raise FileFormatError(
            f"{name!r} holds numbers of dtype {array.dtype}",
            expected="one of " + ", ".join(dtypes.DTYPES),
            fix="numpy.save(path, array.astype('float32'))",
        )
    return array


def _gather(parts: list[np.ndarray], ends: list[int], indices: np.ndarray) -> np.ndarray:
    out = np.empty((len(indices), *parts[0].shape[1:]), parts[0].dtype)
    order = np.argsort(indices, kind="stable")  # pages are read ahead in the order of the file
    ordered = indices[order]
    if len(parts) == 1:
        out[order] = parts[0][ordered]
        return out
    cuts = np.searchsorted(ordered, [0, *ends])
    for part, first, start, stop in zip(parts, [0, *ends], cuts, cuts[1:]):
        if stop > start:
            out[order[start:stop]] = part[ordered[start:stop] - first]
    return out
