"""Indices of the largest and smallest numbers of strided rows, 128 at a time, one per lane."""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import share
from deepcore.kernels.plan import Launch, Plan, Spec, contiguous

_LANES = 128
#: Elements up to which NumPy is as fast.
_LEAST = 1 << 13


@args(x=In, out=Out(int64), outer=Size, n=Size, inner=Size, tasks_per_chunk=Size)
def _columns(tools, name: str, dtype: str):
    """out[o, j]: the first row i where x[o, i, j] is the best, or NaN. `tasks_per_chunk`: tasks of a chunk."""
    dt = np.dtype(dtype)
    after, after_place = tools.after(dt), tools.after(int64)
    whole = np.dtype(np.int32 if tools.number_of(dt).itemsize == 4 else np.int64)
    lanes, counts, row = tools.local(tools.number_of(dt), _LANES), tools.local(whole, _LANES), whole.type

    if name == "amax":

        @tools.inline
        def better(a, b):
            return (a > b) | ((a != a) & (b == b))
    else:

        @tools.inline
        def better(a, b):
            return (a < b) | ((a != a) & (b == b))

    def kernel(x, out, outer, n, inner, tasks_per_chunk, chunk):
        blocks = -(-inner // _LANES)
        best, index = lanes(), counts()
        for t in range(chunk * tasks_per_chunk, min(outer * blocks, (chunk + 1) * tasks_per_chunk)):
            o, column = t // blocks, t % blocks * _LANES
            count = min(_LANES, inner - column)
            source, places = after(x, o * n * inner + column), after_place(out, o * inner + column)
            for j in range(count):
                best[j], index[j] = source[j], row(0)
            for i in range(1, n):
                for j in range(count):
                    v = source[i * inner + j]
                    is_better = better(v, best[j])
                    best[j] = v if is_better else best[j]
                    index[j] = row(i) if is_better else index[j]
            for j in range(count):
                places[j] = index[j]
        return 0

    return kernel


def plan(name: str, x: Spec, dim: int) -> Plan | None:
    """The plan of `name` ("amax", "amin") along a dimension that is not the last."""
    is_supported = x.dtype in (float32, float64) or (x.dtype in (float16, bfloat16) and jit.narrow_floats())
    if not is_supported or x.size < _LEAST or not x.plain or x.shape[dim] >= 1 << 31:
        return None
    outer, n, inner = math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])
    kernel_name = f"arg{name[1:]}_columns_{x.dtype.name}"
    kernel = jit.KERNELS.get(kernel_name) or Kernel(kernel_name, _columns, name, x.dtype.name)
    if not kernel.ready():
        return None
    tasks, tasks_per_chunk = outer * -(-inner // _LANES), share(x.size) // (n * min(inner, _LANES)) or 1
    sizes = {"outer": outer, "n": n, "inner": inner, "tasks_per_chunk": tasks_per_chunk}
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    launch = Launch(kernel, -(-tasks // tasks_per_chunk), x=Operand(0), out=Operand(1), **sizes)
    return Plan(contiguous(shape, int64, x.backend), [launch])
