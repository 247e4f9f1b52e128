"""Running sums on the CPU: one chain of additions a row, in float64 and in int64, as the reference adds.

Rows are worked on four at a time, each with a chain of its own, so that no addition waits for another; of rows that lie
across memory, 128.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import share
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register

#: What a running sum is held in, by the dtype of the numbers.
_HELD = {float16: float64, bfloat16: float64, float32: float64, float64: float64, int64: int64}
# Rows that are worked on together, along memory and across it, and numbers of a row that are at a time.
_CHAINS, _WIDTH, _BLOCK = 4, 128, 256
#: Up to which size NumPy adds as well, to the same result.
_LEAST = 1 << 12


@args(x=In, out=Out, rows=Size, n=Size, each=Size)
def _rows(tools, dtype: str):
    """out[r, i] = x[r, 0] + … + x[r, i]. `each`: groups of rows of a chunk."""
    dt = np.dtype(dtype)
    held: Any = _HELD[dt]
    after, zero = tools.after(dt), held.type(-0.0)  # to which x is added as it is, -0.0 too
    space, number = tools.local(held, _CHAINS * _BLOCK), tools.narrowing(dt)

    def kernel(x, out, rows, n, each, chunk):
        block = space()
        for group in range(chunk * each, min(-(-rows // _CHAINS), (chunk + 1) * each)):
            first = group * _CHAINS
            source, result = after(x, first * n), after(out, first * n)
            count = min(_CHAINS, rows - first)
            s0 = s1 = s2 = s3 = zero
            for start in range(0, n, _BLOCK):
                length = min(_BLOCK, n - start)
                for j in range(count):
                    for i in range(length):
                        block[j * _BLOCK + i] = held.type(source[j * n + start + i])
                if count == _CHAINS:
                    for i in range(length):
                        s0 += block[i]
                        s1 += block[_BLOCK + i]
                        s2 += block[2 * _BLOCK + i]
                        s3 += block[3 * _BLOCK + i]
                        block[i] = s0
                        block[_BLOCK + i] = s1
                        block[2 * _BLOCK + i] = s2
                        block[3 * _BLOCK + i] = s3
                else:  # one row after the other; s0 … s2 are theirs
                    for i in range(length):
                        s0 += block[i]
                        block[i] = s0
                    if count > 1:
                        for i in range(_BLOCK, _BLOCK + length):
                            s1 += block[i]
                            block[i] = s1
                    if count > 2:
                        for i in range(2 * _BLOCK, 2 * _BLOCK + length):
                            s2 += block[i]
                            block[i] = s2
                for j in range(count):
                    for i in range(length):
                        result[j * n + start + i] = number(block[j * _BLOCK + i])
        return 0

    return kernel


@args(x=In, out=Out, outer=Size, n=Size, inner=Size, each=Size)
def _columns(tools, dtype: str):
    """out[o, r, j] = x[o, 0, j] + … + x[o, r, j]. `each`: tasks of a chunk."""
    dt = np.dtype(dtype)
    held: Any = _HELD[dt]
    after, zero = tools.after(dt), held.type(-0.0)  # to which x is added as it is, -0.0 too
    lanes, number = tools.local(held, _WIDTH), tools.narrowing(dt)

    def kernel(x, out, outer, n, inner, each, chunk):
        blocks = -(-inner // _WIDTH)
        acc = lanes()
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            column = t % blocks * _WIDTH
            taken = min(_WIDTH, inner - column)
            base = t // blocks * n * inner + column
            source, result = after(x, base), after(out, base)
            for j in range(taken):
                acc[j] = zero
            for i in range(n):
                for j in range(taken):
                    acc[j] += held.type(source[i * inner + j])
                    result[i * inner + j] = number(acc[j])
        return 0

    return kernel


def _kernel(build, title: str, dtype) -> Kernel:
    name = f"{title}_{dtype.name}"
    return jit.KERNELS.get(name) or Kernel(name, build, dtype.name)


class _Cumsum(Lowering):
    def __init__(self):
        super().__init__("cumsum", self.planned, ("dim",), prepare=self.prepared)

    def planned(self, specs, params) -> Plan | bool | None:
        (x,) = specs
        if x.dtype not in _HELD or not x.size or (x.dtype == float16 and not jit.narrow_floats()):
            return None
        if not x.plain:
            return True
        d = params["dim"] % x.ndim
        outer, n, inner = math.prod(x.shape[:d]), x.shape[d], math.prod(x.shape[d + 1 :])
        if inner == 1:
            kernel = _kernel(_rows, "cumsum_rows", x.dtype)
            tasks, each = -(-outer // _CHAINS), share(x.size) // (n * _CHAINS) or 1
            sizes = {"rows": outer, "n": n, "each": each}
        else:
            kernel = _kernel(_columns, "cumsum_columns", x.dtype)
            tasks, each = outer * -(-inner // _WIDTH), share(x.size) // (n * min(inner, _WIDTH)) or 1
            sizes = {"outer": outer, "n": n, "inner": inner, "each": each}
        if not kernel.ready():
            return None
        launch = Launch(kernel, -(-tasks // each), x=Operand(0), out=Operand(1), **sizes)
        return Plan(contiguous(x.shape, x.dtype, x.backend), [launch])

    def pays(self, specs, params) -> bool:
        return specs[0].size >= _LEAST

    def prepared(self, xp, arrays, params, out):
        (x,) = arrays
        if out is None and x.flags.f_contiguous and x.flags.aligned:
            result = self(xp, x.T, dim=x.ndim - 1 - params["dim"] % x.ndim)
            return result if result is NotImplemented else result.T
        return self(xp, np.require(x, requirements="CA"), out=out, **params)


cumsum = register("cumsum", "cpu", needs_numba=False)(_Cumsum())
