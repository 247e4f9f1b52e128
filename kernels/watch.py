"""Who follows what this thread computes: the compiler, while it runs a function to learn what it does.

Kernels tell of their launches, and take the memory they write from whoever follows, so that every address in a launch
is known. Arrays handed to them are `Traced`: what does more with one than look at its shape, and is no kernel, is told,
too, so that nothing that depends on values passes unseen.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class _Mine(threading.local):
    """`follower` is told what this thread does: `launch(kernel, slices, words)`, `empty(shape, dtype)`, `note(what)`,
    `keep(address, owner)` of memory that launches read and nobody writes, `state(seed, stream, position)` of a generator,
    `ref(array, tensor)` of a tensor whose memory another one will be read by, `made(array)` of memory that holds the same
    in every run before it is written."""

    follower: Any = None


mine = _Mine()
#: How many threads are followed: the common case of none costs no look-up in `mine`.
count = 0


def note(what: str) -> None:
    if count and mine.follower is not None:
        mine.follower.note(what)


def ref(array, tensor) -> None:
    if count and mine.follower is not None:
        mine.follower.ref(array, tensor)


def made(array) -> None:
    if count and mine.follower is not None:
        mine.follower.made(array)


# Functions that look at shapes only, or give a view.
_VIEWS = {
    np.moveaxis, np.swapaxes, np.transpose, np.reshape, np.broadcast_to, np.squeeze, np.expand_dims, np.atleast_1d,
    np.atleast_2d, np.flip, np.diagonal,
}  # fmt: skip
_SHAPES = {
    np.shape, np.ndim, np.size, np.may_share_memory, np.shares_memory, np.result_type, np.can_cast, np.empty_like,
    np.zeros_like, np.ones_like, np.broadcast_shapes,
}  # fmt: skip


def plain(x):
    """The same memory as a plain array."""
    return x.view(np.ndarray) if isinstance(x, Traced) else x


def _plainly(tree):
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(_plainly, tree))
    if isinstance(tree, dict):
        return {name: _plainly(value) for name, value in tree.items()}
    return plain(tree)


class Traced(np.ndarray):
    """An array of a function that is being followed. Views of it are its like; whatever reads its values is noted."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        note(f"NumPy's {ufunc.__name__}")
        return getattr(ufunc, method)(*_plainly(inputs), **_plainly(kwargs))

    def __array_function__(self, function, types, args, kwargs):
        if function in _VIEWS:
            return super().__array_function__(function, types, args, kwargs)
        if function not in _SHAPES:
            note(f"NumPy's {function.__name__}")
        return function(*_plainly(args), **_plainly(kwargs))

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if not isinstance(found, np.ndarray):
            note("reading a value")
        return found

    def __setitem__(self, key, value):
        note("writing into an array")
        plain(self)[_plainly(key)] = plain(value)


def _noting(name: str, how: str):
    def method(self, *args, **kwargs):
        note(how)
        return getattr(plain(self), name)(*args, **kwargs)

    method.__name__ = name
    return method


for _name, _how in {
    **dict.fromkeys(("item", "tolist", "tobytes", "__float__", "__int__", "__index__", "__complex__", "__contains__"),
                    "reading a value"),
    "__bool__": "a decision that depends on a value",
    **dict.fromkeys(("__repr__", "__str__", "__format__"), "printing a value"),
    **dict.fromkeys(("__dlpack__", "dump", "dumps", "tofile"), "handing the memory on"),
    **dict.fromkeys(("argmax", "argmin", "argsort", "sort", "nonzero", "choose", "searchsorted", "dot", "fill", "put"),
                    "NumPy's own computing"),
}.items():  # fmt: skip
    setattr(Traced, _name, _noting(_name, _how))
