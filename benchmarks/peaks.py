"""What the machine can do: multiply-adds in registers, and copying, on all threads, by deepcore's own means."""

from __future__ import annotations

import numpy as np
from contest import Absent, array

from deepcore.config import settings
from deepcore.kernels.codegen import cache
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.runtime import threadpool

# Enough independent chains for two units of four or five cycles each, and few enough for 16 registers.
_CHAINS = 12
_LOOPS, _PARTS = 20_000, 8
_SLICE = 1 << 15


def _lanes() -> int:
    features = cache.host()[2].split(",")
    return 16 if "+avx512f" in features else 8 if "+avx" in features else 4


def _multiply_add(tools, lanes: int):
    """Words: repetitions, out. `_CHAINS` chains of multiply-adds of vectors that stay in registers."""
    from llvmlite import ir

    vector, i64 = ir.VectorType(ir.FloatType(), lanes), ir.IntType(64)

    def generate(context, builder, repetitions, out):
        name = f"llvm.fma.v{lanes}f32"
        kind = ir.FunctionType(vector, [vector] * 3)
        fma = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        where = builder.inttoptr(out, vector.as_pointer())
        x = builder.load(where)
        x.align = 4
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(i64)
        i.add_incoming(i64(0), before)
        chains = [builder.phi(vector) for _ in range(_CHAINS)]
        following = [builder.call(fma, [c, x, x]) for c in chains]
        for c, f in zip(chains, following):
            c.add_incoming(x, before)
            c.add_incoming(f, loop)
        up = builder.add(i, i64(1))
        i.add_incoming(up, loop)
        builder.cbranch(builder.icmp_signed("<", up, repetitions), loop, after)
        builder.position_at_end(after)
        total = following[0]
        for f in following[1:]:
            total = builder.fadd(total, f)
        builder.store(total, where).align = 4

    chains = tools.intrinsic(None, "ii", generate)

    def kernel(a, part):
        chains(a[0], a[1] + 256 * part)
        return 0

    return kernel


def _copy(tools):
    """out[i] = x[i]. Words: x, out, size."""
    view = tools.view(np.dtype(np.float32))

    def kernel(a, part):
        x, out = view(a[0]), view(a[1])
        for i in range(part * _SLICE, min(a[2], (part + 1) * _SLICE)):
            out[i] = x[i]
        return 0

    return kernel


_KERNELS: dict = {}


def _ready(name: str, build, *parameters) -> Kernel:
    if name not in _KERNELS:
        _KERNELS[name] = Kernel(name, build, *parameters)
    if not _KERNELS[name].ready():
        raise Absent("kernels cannot be compiled here")
    return _KERNELS[name]


def fma(operations: float):
    """(a loop of multiply-adds on every thread, the factor that makes its time that of so many operations)."""
    lanes, threads = _lanes(), settings.threads
    kernel = _ready("benchmark_fma", _multiply_add, lanes)
    parts = _PARTS * threads
    space = np.full(64 * parts, 0.5, "f")
    call = lambda: threadpool.launch(kernel, parts, _LOOPS, address(space))
    return call, operations / (2.0 * lanes * _CHAINS * _LOOPS * parts)


def copy(size: int, moved: float):
    """(a copy of `size` float32 on every thread, the factor that makes its time that of `moved` bytes)."""
    kernel = _ready("benchmark_copy", _copy)
    x = array(size)
    out = x.copy()
    slices = -(-size // _SLICE)
    return lambda: threadpool.launch(kernel, slices, address(x), address(out), size), moved / (8.0 * size)
