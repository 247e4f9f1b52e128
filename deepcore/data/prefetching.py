"""Batches copied to a GPU while it computes with the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from deepcore.backend import Backend, get_backend, takes_device
from deepcore.tensor import Tensor, from_raw


@takes_device
def prefetch(
    batches: Iterable[Any], backend: str | Backend | None = None, *, arrays: bool = True, device=None
) -> Iterator[Any]:
    """The batches with their tensors on `backend`, each copied one ahead: before batch i is given, i + 1 is on its way.

    To a GPU, copies are made from page-locked memory on a stream of their own, so that they overlap with what is computed
    with the current batch; work that uses a batch waits for its copy on the device, not in Python. On the CPU, and for
    tensors of another GPU, there is nothing to overlap. arrays: NumPy arrays become tensors, too.
    The same batches in the same order; only, the source is asked for one more batch than was given.
    `DataLoader(pin_memory=True)` does this for its own batches.
    """
    target = get_backend(backend)
    pending: _Batch | None = None
    used: _Batch | None = None
    for batch in batches:
        following = _Batch(batch, target, arrays)
        if pending is not None:
            if used is not None:
                used.release()
            used = pending
            yield pending.ready()
        pending = following
    if pending is not None:
        yield pending.ready()
        pending.release()
    if used is not None:
        used.release()


class _Batch:
    """A batch whose copies are under way."""

    def __init__(self, batch: Any, target: Backend, arrays: bool):
        self._target, self._arrays = target, arrays
        self._copies: list[Any] = []
        self._batch = self._start(batch)

    def _start(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            if item.backend is self._target:
                return item
            return self._copied(item.backend.to_host(item._data))
        if isinstance(item, np.ndarray) and self._arrays:
            return self._copied(item)
        if isinstance(item, Mapping):
            return {key: self._start(value) for key, value in item.items()}
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return type(item)(*map(self._start, item))
        if type(item) in (tuple, list):
            return type(item)(map(self._start, item))
        return item

    def _copied(self, array: np.ndarray) -> Tensor:
        copy = self._target.copy_ahead(array)
        self._copies.append(copy)
        return from_raw(copy.array, self._target)

    def ready(self) -> Any:
        """The batch; what is queued from now on waits for its copies."""
        for copy in self._copies:
            copy.wait()
        batch, self._batch = self._batch, None
        return batch

    def release(self) -> None:
        """Wait until page-locked memory has been read, and let go of it."""
        for copy in self._copies:
            copy.finish()
        self._copies.clear()
