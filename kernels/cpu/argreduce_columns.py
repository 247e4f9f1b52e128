"""Places of the largest and smallest numbers of rows that lie across memory: 128 of them at a time, each in a lane."""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import share
from deepcore.kernels.plan import Launch, Plan, Spec, contiguous

_WIDTH = 128
#: Elements up to which NumPy does as well.
_LEAST = 1 << 13


@args(x=In, out=Out(int64), outer=Size, n=Size, inner=Size, each=Size)
def _columns(tools, name: str, dtype: str):
    """out[o, j]: the first row i where x[o, i, j] is the best, or NaN. `each`: tasks of a chunk."""
    dt = np.dtype(dtype)
    after, after_place = tools.after(dt), tools.after(int64)
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

    def kernel(x, out, outer, n, inner, each, chunk):
        blocks = -(-inner // _WIDTH)
        best, at = lanes(), counts()
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            o, column = t // blocks, t % blocks * _WIDTH
            count = min(_WIDTH, inner - column)
            source, places = after(x, o * n * inner + column), after_place(out, o * inner + column)
            for j in range(count):
                best[j], at[j] = source[j], row(0)
            for i in range(1, n):
                for j in range(count):
                    v = source[i * inner + j]
                    found = better(v, best[j])
                    best[j] = v if found else best[j]
                    at[j] = row(i) if found else at[j]
            for j in range(count):
                places[j] = at[j]
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
    sizes = {"outer": outer, "n": n, "inner": inner, "each": each}
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    launch = Launch(kernel, -(-tasks // each), x=Operand(0), out=Operand(1), **sizes)
    return Plan(contiguous(shape, int64, x.backend), [launch])
