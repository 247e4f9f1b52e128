"""What `fit`, `evaluate` and `predict` are given, as batches on the trainer's backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backend import Backend
from deepcore.backend import dtypes as dt
from deepcore.data import DataLoader, TensorDataset
from deepcore.data.collate import to_backend
from deepcore.errors import ArgumentError, BackendError, DataError
from deepcore.tensor import Tensor, as_tensor

DEFAULT_BATCH = 32


def as_loader(data, batch_size: int | None, shuffle: bool, backend: Backend, dtype) -> DataLoader:
    """A DataLoader over a dataset, tensors or arrays; one that is a DataLoader already stays what it is.

    Floating NumPy arrays become `dtype` (the model's): NumPy makes float64 where nobody asked for it.
    """
    if isinstance(data, DataLoader):
        if data.backend is not None and data.backend is not backend:
            raise BackendError(
                f"the loader gives batches on {data.backend}, and the model is on {backend}",
                fix=f'DataLoader(…, backend="{backend}"), or Trainer(…, backend="{data.backend}")',
            )
        return data
    if isinstance(data, (Tensor, np.ndarray)) or hasattr(data, "__cuda_array_interface__"):
        data = (data,)
    if isinstance(data, (tuple, list)):
        if not all(hasattr(part, "shape") for part in data):
            odd = next(type(part).__name__ for part in data if not hasattr(part, "shape"))
            raise ArgumentError(
                "training data is a DataLoader, a Dataset, or a tuple of arrays or tensors",
                received=f"a {type(data).__name__} with a {odd} in it",
                fix="numpy.asarray(values), or a Dataset",
            )
        data = TensorDataset(*(_tensor(part, dtype) for part in data))
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ArgumentError(
            "training data is a DataLoader, a Dataset, or a tuple of arrays or tensors", received=type(data).__name__
        )
    return DataLoader(data, DEFAULT_BATCH if batch_size is None else batch_size, shuffle, backend=backend)


def _tensor(value, dtype) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return as_tensor(value, dtype, backend="cpu")
    return as_tensor(value)


def model_dtype(model):
    """The dtype of the model's first floating parameter."""
    return next((p.dtype for p in model.parameters() if dt.is_floating(p.dtype)), dt.default_float)


def split(batch, backend: Backend) -> tuple[tuple, Any]:
    """(inputs, target) of a batch (input, …, target), on `backend`."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise DataError(
            "a batch to train or evaluate on is a tuple (input, …, target)",
            received=f"a tuple of {len(batch)}" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}",
            fix="give pairs: fit((x, y)), or a Dataset whose items are (x, y)",
        )
    *inputs, target = to_backend(tuple(batch), backend)
    return tuple(inputs), target


def inputs_only(batch, backend: Backend) -> tuple:
    """The inputs of a batch: the last of several parts is the target and left out."""
    if not isinstance(batch, (tuple, list)):
        batch = (batch,)
    parts = to_backend(tuple(batch), backend)
    return parts[:-1] if len(parts) > 1 else parts


def leaves(value):
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)


def samples_in(batch) -> int:
    """The first dimension of the batch's first tensor."""
    for tensor in leaves(batch):
        if tensor.ndim:
            return tensor.shape[0]
    return 1


def concatenate(parts: list):
    """Outputs of batches as one, along the first dimension, item by item in tuples and dicts."""
    first = parts[0]
    if isinstance(first, Tensor):
        xp = first.backend
        return Tensor(xp.concatenate([part._data for part in parts]) if len(parts) > 1 else first._data, xp)
    if isinstance(first, dict):
        return {key: concatenate([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [concatenate([part[i] for part in parts]) for i in range(len(first))]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    raise ArgumentError(
        "predict joins tensors, and tuples, lists and dicts of them",
        received=f"a model that returns {type(first).__name__}",
    )
