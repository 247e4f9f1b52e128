"""Places of the largest and smallest numbers of rows that lie across memory: 128 of them at a time, each in a lane."""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu.reductions import share
from deepcore.kernels.plan import Launch, Operand, Plan, Spec, contiguous

_WIDTH = 128
#: Elements up to which NumPy does as well.
_LEAST = 1 << 13


def _columns(tools, name: str, dtype: str):
    """places[o, j]: the first row i where x[o, i, j] is the best, or NaN. Words: x, places, outer, n, inner, tasks of a
    slice."""
    dt = np.dtype(dtype)
    view, places, size = tools.view(dt), tools.view(int64), dt.itemsize
    whole = np.dtype(np.int32 if tools.number_of(dt).itemsize == 4 else np.int64)
    lanes, counts, row = tools.local(tools.number_of(dt), _WIDTH), tools.local(whole, _WIDTH), whole.type

    if name == "amax":

        @tools.inline
        def better(a, b):
            return (a > b) | ((a != a) & (b == b))
    else:

        @tools.inline
        def better(a, b):
            return (a < b) | ((a != a) & (b == b))

    def kernel(a, part):
        n, inner = a[3], a[4]
        blocks = -(-inner // _WIDTH)
        best, at = lanes(), counts()
        for t in range(part * a[5], min(a[2] * blocks, (part + 1) * a[5])):
            o, column = t // blocks, t % blocks * _WIDTH
            count = min(_WIDTH, inner - column)
            x = view(a[0] + (o * n * inner + column) * size)
            for j in range(count):
                best[j], at[j] = x[j], row(0)
            for i in range(1, n):
                for j in range(count):
                    v = x[i * inner + j]
                    found = better(v, best[j])
                    best[j] = v if found else best[j]
                    at[j] = row(i) if found else at[j]
            out = places(a[1] + (o * inner + column) * 8)
            for j in range(count):
                out[j] = at[j]
        return 0

    return kernel


def plan(name: str, x: Spec, dim: int) -> Plan | None:
    """The plan of `name` ("amax", "amin") along a dimension that is not the last."""
    known = x.dtype in (float32, float64) or (x.dtype in (float16, bfloat16) and jit.narrow_floats())
    if not known or x.size < _LEAST or not x.plain or x.shape[dim] >= 1 << 31:
        return None
    outer, n, inner = math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])
    title = f"arg{name[1:]}_columns_{x.dtype.name}"
    kernel = jit.KERNELS.get(title) or Kernel(title, _columns, name, x.dtype.name)
    if not kernel.ready():
        return None
    tasks, each = outer * -(-inner // _WIDTH), share(x.size) // (n * min(inner, _WIDTH)) or 1
    words = (Operand(0), Operand(1), outer, n, inner, each)
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    return Plan(contiguous(shape, int64, x.backend), [Launch(kernel, -(-tasks // each), words)])
