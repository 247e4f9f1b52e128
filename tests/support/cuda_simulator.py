"""Kernels with shared memory and shuffles in numba's CUDA simulator, against NumPy: an independent check of the machine.

Run by kernels/test_cuda.py in a separate process, with NUMBA_ENABLE_CUDASIM=1. A simulated thread is a Python
thread, so blocks have at most 64, and grids are tiny. The simulator has no shuffles, so they go through memory.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
from numba import cuda, types

from deepcore.kernels.codegen import intrinsics
from deepcore.kernels.cuda import argreduce as cuda_argreduce
from deepcore.kernels.cuda import batch_norm as cuda_batch_norm
from deepcore.kernels.cuda import cross_entropy as cuda_cross_entropy
from deepcore.kernels.cuda import embedding as cuda_embedding
from deepcore.kernels.cuda import gemm as cuda_gemm
from deepcore.kernels.cuda import norm as cuda_norm
from deepcore.kernels.cuda import reductions as cuda_reductions
from deepcore.kernels.cuda import rows as cuda_rows
from deepcore.kernels.cuda import softmax as cuda_softmax
from deepcore.kernels.cuda import tile as cuda_tile

THREADS = 64
MODULES = (
    cuda_argreduce,
    cuda_batch_norm,
    cuda_cross_entropy,
    cuda_embedding,
    cuda_norm,
    cuda_reductions,
    cuda_rows,
    cuda_softmax,
    cuda_tile,
)
assert cuda.is_available() and "simulator" in cuda.jit.__module__, "NUMBA_ENABLE_CUDASIM=1 is missing"


@cuda.jit(device=True)
def thread():
    return cuda.threadIdx.x


@cuda.jit(device=True)
def block():
    return cuda.blockIdx.x


@cuda.jit(device=True)
def blocks():
    return cuda.gridDim.x


@cuda.jit(device=True)
def barrier():
    cuda.syncthreads()


def store4(pointer, i, *numbers):
    for j in range(4):
        pointer[i + j] = numbers[j]


class Tools:
    """`codegen.cuda_intrinsics` for the simulator, where everything is plain Python on NumPy's scalars."""

    WARP = 32
    count = 0
    compiled = staticmethod(intrinsics.compiled)
    lift = staticmethod(lambda function, dtype=None: plain(function, dtype))
    inline = inline_always = staticmethod(lambda function: function)
    thread, block, blocks, barrier = (staticmethod(lambda f=f: f) for f in (thread, block, blocks, barrier))
    fma = staticmethod(lambda dtype: fused)
    load4 = staticmethod(lambda dtype: lambda pointer, i: tuple(pointer[i + j] for j in range(4)))
    store4 = staticmethod(lambda dtype: store4)
    shifted = staticmethod(lambda dtype: lambda pointer, i: pointer[i:])
    local = staticmethod(lambda dtype, count: lambda: np.empty(count, dtype))

    @classmethod
    def shared(cls, dtype, count):
        # The simulator identifies shared arrays by the line that creates them.
        cls.count += 1
        scope = {"cuda": cuda, "dtype": getattr(types, np.dtype(dtype).name), "count": count}
        exec("\n" * cls.count + "def space():\n    return cuda.shared.array(count, dtype)", scope)
        return cuda.jit(device=True)(scope["space"])

    @classmethod
    def shuffle(cls, dtype):
        space = cls.shared(dtype, THREADS)

        def exchange(value, mask):
            s, t = space(), thread()
            s[t] = value
            barrier()
            received = s[t ^ mask]
            barrier()
            return received

        return exchange

    @classmethod
    def warp_reduction(cls, combine, dtype):
        exchange = cls.shuffle(dtype)

        def reduce(value):
            for mask in (16, 8, 4, 2, 1):
                value = combine(value, exchange(value, mask))
            return value

        return reduce

    @classmethod
    def block_reduction(cls, combine, dtype, threads):
        within, space = cls.warp_reduction(combine, dtype), cls.shared(dtype, threads // 32)

        def reduce(value):
            value, parts, t = within(value), space(), thread()
            barrier()
            if t % 32 == 0:
                parts[t // 32] = value
            barrier()
            total = parts[0]
            for i in range(1, threads // 32):
                total = combine(total, parts[i])
            return total

        return reduce


def plain(function, dtype):
    """The function that `lift` would compile, in Python: constants and callees of the dtype."""
    originals = intrinsics.inline, intrinsics.fma, intrinsics._LIFTED
    intrinsics.inline, intrinsics.fma, intrinsics._LIFTED = (lambda f: f), (lambda: fused), {}
    try:
        return intrinsics.lift(function, dtype)
    finally:
        intrinsics.inline, intrinsics.fma, intrinsics._LIFTED = originals


def fused(a, b, c):
    """a·b + c; for float32 rounded twice, first to float64."""
    kind = np.result_type(a, b, c).type
    return kind(np.float64(a) * np.float64(b) + np.float64(c))


def launch(kernel, grid, *arguments):
    flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
    with np.errstate(all="ignore"):
        cuda.jit(kernel)[grid, THREADS](*flat)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def softmax(kernel):
    x, out = (
        normal(4, 72),
        np.zeros((4, 72), np.float32),
    )  # as many rows for each warp: shuffles wait for the block here
    launch(kernel, 1, x, out, 4, 72)
    e = np.exp(x.astype(float) - x.max(1, keepdims=True))
    return out, e / e.sum(1, keepdims=True)


def argmax():
    x, out = np.round(normal(4, 70)), np.zeros(4, np.int64)
    launch(cuda_argreduce._arg(Tools, "float32", THREADS, False), 2, x, out, 4, 70)
    return out, x.argmax(1)


def layer_norm():
    x, w, b, out, statistics = normal(2, 70), normal(70), normal(70, seed=1), normal(2, 70), normal(2, 2)
    launch(cuda_norm._norm(Tools, "float32", THREADS, True), 1, x, w, b, out, statistics, 2, 70, 2, np.float32(1e-5))
    d = x.astype(float) - x.mean(1, keepdims=True, dtype=float)
    return out, d / np.sqrt((d * d).mean(1, keepdims=True) + 1e-5) * w + b


def batch_statistics():
    cuda_norm.LANES = cuda_batch_norm.LANES = THREADS // 32
    x, out = normal(11, 40), np.zeros((3, 40), np.float32)
    launch(cuda_batch_norm._batch_statistics(Tools, "float32"), 1, x, out, 11, 40, 1e-5)
    wide = x.astype(float)
    return out, np.stack([wide.mean(0), wide.var(0), 1 / np.sqrt(wide.var(0) + 1e-5)])


def scatter():
    rows, values, out = np.array([0, 0, 2, 2, 2, 5]), normal(6, 7), np.zeros((6, 7), np.float32)
    launch(cuda_embedding._scatter(Tools, "float32"), 2, values, rows, np.arange(6), out, 6, 7)
    expected = np.zeros((6, 7))
    np.add.at(expected, rows, values)
    return out, expected


def product():
    a, w, bias, out = normal(20, 11), normal(25, 11, seed=1), normal(25), np.zeros((20, 25), np.float32)
    unused = np.zeros(1, np.float32)
    launch(
        cuda_gemm.build(Tools, "relu", False, True, 32, 8), 1,
        a, w, bias, unused, out, unused, 20, 25, 11, 11, 11, 1,
    )  # fmt: skip
    return out, np.maximum(a.astype(float) @ w.T + bias, 0)


def main() -> None:
    for module in MODULES:
        module.THREADS = THREADS
    cuda_tile._SIDE = 8
    parts = functools.partial(cuda_softmax._softmax_in_registers, Tools, "float32")
    cases = {
        "softmax, a warp": lambda: softmax(cuda_softmax._softmax(Tools, "float32", 32, False)),
        "softmax, a block": lambda: softmax(parts(THREADS, False, 1, 2, False)),
        "softmax, streamed": lambda: softmax(parts(THREADS, False, 4, 1, True)), "argmax": argmax,
        "layer norm": layer_norm, "batch statistics": batch_statistics, "scatter": scatter, "product": product,
    }  # fmt: skip
    for name, case in cases.items():
        result, expected = case()
        error = np.abs(result - expected).max()
        assert error < 1e-5, f"{name}: {error}"
        print(f"{name}: {error:.1e}")


if __name__ == "__main__":
    sys.exit(main())
