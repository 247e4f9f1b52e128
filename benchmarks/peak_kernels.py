"""The kernels of `peaks`: multiply-adds in registers, and a copy."""

from __future__ import annotations

import numpy as np

from deepcore.kernels.codegen import cache
from deepcore.kernels.codegen.kernel import Address, In, Out, Size, args

# Enough independent chains for two units of four or five cycles each, and few enough for 16 registers.
CHAINS = 12
SLICE = 1 << 15


def lanes() -> int:
    features = cache.host()[2].split(",")
    return 16 if "+avx512f" in features else 8 if "+avx" in features else 4


@args(repetitions=Size, out=Address)
def multiply_add(tools, lanes: int):
    """`CHAINS` chains of multiply-adds of vectors that stay in registers."""
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
        chains = [builder.phi(vector) for _ in range(CHAINS)]
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

    def kernel(repetitions, out, chunk):
        chains(repetitions, out + 256 * chunk)
        return 0

    return kernel


@args(x=In(np.float32), out=Out(np.float32), size=Size)
def copy(tools):
    """out[i] = x[i]."""

    def kernel(x, out, size, chunk):
        for i in range(chunk * SLICE, min(size, (chunk + 1) * SLICE)):
            out[i] = x[i]
        return 0

    return kernel
