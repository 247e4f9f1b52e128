"""What the machine can do: multiply-adds in registers, and copying, on all threads, by deepcore's own means."""

from __future__ import annotations

import numpy as np
from contest import Absent, array

from deepcore.config import settings

_LOOPS, _PARTS = 20_000, 8
_KERNELS: dict = {}


def _ready(name: str, build, *parameters):
    from deepcore.kernels.codegen.jit import Kernel  # here, so that `compare` can measure revisions of other rooms

    if name not in _KERNELS:
        _KERNELS[name] = Kernel(name, build, *parameters)
    if not _KERNELS[name].ready():
        raise Absent("kernels cannot be compiled here")
    return _KERNELS[name]


def fma(operations: float):
    """(a loop of multiply-adds on every thread, the factor that makes its time that of so many operations)."""
    import peak_kernels

    from deepcore.kernels.runtime import threadpool

    lanes, threads = peak_kernels.lanes(), settings.threads
    kernel = _ready("benchmark_fma", peak_kernels.multiply_add, lanes)
    parts = _PARTS * threads
    space = np.full(64 * parts, 0.5, "f")
    call = lambda: threadpool.launch(kernel, parts, repetitions=_LOOPS, out=space)
    return call, operations / (2.0 * lanes * peak_kernels.CHAINS * _LOOPS * parts)


def copy(size: int, moved: float):
    """(a copy of `size` float32 on every thread, the factor that makes its time that of `moved` bytes)."""
    from peak_kernels import SLICE
    from peak_kernels import copy as copy_kernel

    from deepcore.kernels.runtime import threadpool

    kernel = _ready("benchmark_copy", copy_kernel)
    x = array(size)
    out = x.copy()
    slices = -(-size // SLICE)
    return lambda: threadpool.launch(kernel, slices, x=x, out=out, size=size), moved / (8.0 * size)
