"""Loops around scalar functions, made by numba: the one file here that names numba's interfaces."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import FunctionType

import numpy as np

from deepcore import kernels

# No fastmath: neither reassociation nor contraction. The numpy error model drops zero-division branches.
_OPTIONS = {"nogil": True, "fastmath": False, "error_model": "numpy"}
_LOCK = threading.RLock()
_LIFTED: dict[FunctionType, Callable] = {}


def lift(function: FunctionType) -> Callable:
    """The numba version of a plain scalar function, and of the plain functions of its file that it calls."""
    with _LOCK:
        found = _LIFTED.get(function)
        if found is None:
            names = dict(function.__globals__)
            for name in function.__code__.co_names:
                callee = names.get(name)
                if isinstance(callee, FunctionType) and callee.__module__ == function.__module__:
                    names[name] = lift(callee)
            copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
            found = _LIFTED[function] = kernels.load_numba().njit(forceinline=True, **_OPTIONS)(copy)
        return found


@functools.cache
def elementwise(function: FunctionType, dtype) -> Callable:
    """A compiled `loop(x, out)` over flat contiguous arrays of `dtype`: out[i] = function(float64(x[i]))."""
    with _LOCK:
        numba = kernels.load_numba()
        scalar = lift(function)

        def loop(x, out):
            for i in range(x.size):
                out[i] = scalar(np.float64(x[i]))

        element = numba.from_dtype(dtype)
        # A read-only parameter takes writeable arrays too: one compilation for both.
        return compile(loop, (numba.types.Array(element, 1, "C", readonly=True), element[::1]))


def compile(function: Callable, signature) -> Callable:
    """`function` compiled for the one `signature`, now."""
    with _LOCK:
        return kernels.load_numba().njit([signature], **_OPTIONS)(function)
