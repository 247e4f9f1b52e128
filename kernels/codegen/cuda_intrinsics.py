"""What CUDA kernels are written with: their place in the grid, barriers, shared memory, shuffles and reductions.

Kernels are built by functions that get this module as `tools`; nothing here is called before numba is imported. numba
compiles for this machine's processor, so what only a GPU can do is a call of an undefined function, and `PARTS` says,
in LLVM's language, what stands behind it once the module is turned over to LLVM's PTX generator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from deepcore.kernels.codegen import toolchain
from deepcore.kernels.codegen.intrinsics import compiled, inline, lift, local, typed, view

__all__ = ["access", "block_reduction", "compiled", "inline", "lift", "local", "view", "warp_reduction"]

WARP = 32


class Part(NamedTuple):
    result: str
    arguments: tuple[str, ...]
    body: str
    #: What the body needs at the module's level.
    module: str = ""
    #: Whether its body comes in after all optimisation, which would take it apart.
    late: bool = False


#: The functions that only a GPU has, by their symbol. The first words of a body are its instructions' own.
PARTS: dict[str, Part] = {}

_PURE, _COLLECTIVE = ("readnone", "nounwind"), ("convergent", "nounwind")
_INTRINSICS = {
    "tid": "i32 @llvm.nvvm.read.ptx.sreg.tid.x()",
    "ctaid": "i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()",
    "ntid": "i32 @llvm.nvvm.read.ptx.sreg.ntid.x()",
    "nctaid": "i32 @llvm.nvvm.read.ptx.sreg.nctaid.x()",
    "barrier": "void @llvm.nvvm.barrier0()",
    "shuffle": "i32 @llvm.nvvm.shfl.sync.bfly.i32(i32, i32, i32, i32)",
}
_LLVM = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64", "uint16": "i16"}

#: What numba calls by the C library's name and a GPU has an instruction for.
LIBRARY = {
    name: Part(kind, (kind,), f"%v = call {kind} @{i}({kind} %a0)\nret {kind} %v", f"declare {kind} @{i}({kind})")
    for name, kind, i in (("sqrtf", "float", "llvm.sqrt.f32"), ("sqrt", "double", "llvm.sqrt.f64"))
}


def _part(symbol: str, part: Part, types: tuple, attributes: tuple[str, ...]) -> Callable:
    """A function for kernels; `types` are numba's, of the result and the arguments."""
    from llvmlite import binding, ir
    from numba import types as nb
    from numba.extending import intrinsic

    symbol = f"deepcore_ptx_{symbol}"
    PARTS[symbol] = part
    binding.add_symbol(symbol, 1)  # what numba makes of the kernel for this machine is never run
    result, *arguments = types
    signature = (nb.void if result is None else result)(*arguments)

    def codegen(context, builder, signature, values):
        function = builder.module.globals.get(symbol)
        if function is None:
            returns = ir.VoidType() if result is None else context.get_value_type(result)
            function = ir.Function(builder.module, ir.FunctionType(returns, [v.type for v in values]), symbol)
            for attribute in attributes:
                function.attributes.add(attribute)
        # A GPU has no vectors of this machine's kind: LLVM then leaves loops as they are.
        builder.function.attributes.add("noimplicitfloat")
        value = builder.call(function, values)
        return context.get_dummy_value() if result is None else value

    return intrinsic(typed(len(arguments), signature, codegen))


def _numba(dtype):
    import numpy as np

    return toolchain.load_numba().from_dtype(np.dtype(dtype))


@functools.cache
def _register(name: str) -> Callable:
    body = f"%v = call {_INTRINSICS[name]}\n%w = zext i32 %v to i64\nret i64 %w"
    return _part(name, Part("i64", (), body, f"declare {_INTRINSICS[name]}"), (_numba("int64"),), _PURE)


def thread() -> Callable:
    """thread(): which thread of its block this is."""
    return _register("tid")


def block() -> Callable:
    """block(): which block of the grid this is."""
    return _register("ctaid")


def blocks() -> Callable:
    """blocks(): how many blocks the grid has."""
    return _register("nctaid")


@functools.cache
def barrier() -> Callable:
    """barrier(): wait for all threads of the block. Every thread must come to the same one."""
    call = _INTRINSICS["barrier"]
    return _part("barrier", Part("void", (), f"call {call}\nret void", f"declare {call}"), (None,), _COLLECTIVE)


_shared_count = 0


def shared(dtype, count: int) -> Callable:
    """A function `()` to `count` elements of memory that the block shares, always the same, uninitialised."""
    global _shared_count
    import numpy as np

    dtype = np.dtype(dtype)
    _shared_count += 1
    name = f"shared_{_shared_count}"
    space = f"@deepcore_{name} = internal addrspace(3) global [{count} x {_LLVM[dtype.name]}] undef, align 16"
    body = f"ret ptr addrspacecast (ptr addrspace(3) @deepcore_{name} to ptr)"
    pointer = toolchain.load_numba().types.CPointer(_numba(dtype))
    return _part(name, Part("ptr", (), body, space), (pointer,), _PURE)


@functools.cache
def shuffle(dtype) -> Callable:
    """shuffle(value, mask): the value of the lane whose number is this one's xor the mask. All 32 lanes must take part."""
    import numpy as np

    dtype = np.dtype(dtype)
    kind, call = _LLVM[dtype.name], "call i32 @llvm.nvvm.shfl.sync.bfly.i32(i32 -1, i32 {0}, i32 %lane, i32 31)"
    lines = ["%lane = trunc i64 %a1 to i32"]
    if dtype.itemsize == 4:
        lines += [f"%bits = bitcast {kind} %a0 to i32", f"%there = {call.format('%bits')}"]
        lines += [f"%result = bitcast i32 %there to {kind}"]
    else:
        lines += [f"%bits = bitcast {kind} %a0 to i64", "%low = trunc i64 %bits to i32"]
        lines += ["%above = lshr i64 %bits, 32", "%high = trunc i64 %above to i32"]
        lines += [f"%l = {call.format('%low')}", f"%h = {call.format('%high')}"]
        lines += ["%l64 = zext i32 %l to i64", "%h64 = zext i32 %h to i64", "%up = shl i64 %h64, 32"]
        lines += ["%there = or i64 %up, %l64", f"%result = bitcast i64 %there to {kind}"]
    body = "\n".join([*lines, f"ret {kind} %result"])
    part = Part(kind, (kind, "i64"), body, f"declare {_INTRINSICS['shuffle']}")
    return _part(f"shuffle_{dtype.name}", part, (_numba(dtype), _numba(dtype), _numba("int64")), _COLLECTIVE)


@functools.cache
def fma(dtype) -> Callable:
    """fma(a, b, c): a·b + c, rounded once."""
    import numpy as np

    kind = _LLVM[np.dtype(dtype).name]
    name = f"llvm.fma.f{8 * np.dtype(dtype).itemsize}"
    body = f"%v = call {kind} @{name}({kind} %a0, {kind} %a1, {kind} %a2)\nret {kind} %v"
    part = Part(kind, (kind,) * 3, body, f"declare {kind} @{name}({kind}, {kind}, {kind})")
    return _part(f"fma_{np.dtype(dtype).name}", part, (_numba(dtype),) * 4, _PURE)


@functools.cache
def at(dtype) -> Callable:
    """at(address): a pointer to numbers of a dtype in the GPU's memory."""
    import numpy as np

    dtype = np.dtype(dtype)
    body = "%p = inttoptr i64 %a0 to ptr addrspace(1)\n%q = addrspacecast ptr addrspace(1) %p to ptr\nret ptr %q"
    pointer = toolchain.load_numba().types.CPointer(_numba(dtype))
    return _part(f"at_{dtype.name}", Part("ptr", ("i64",), body), (pointer, _numba("int64")), _PURE)


@functools.cache
def four(dtype) -> Callable:
    """four(pointer, i): the numbers i to i + 3 in one load; pointer + i must be aligned to all four."""
    import numpy as np

    size, kind = np.dtype(dtype).itemsize, _LLVM[np.dtype(dtype).name]
    lines = [f"%p = getelementptr {kind}, ptr %a0, i64 %a1", f"%v = load <4 x {kind}>, ptr %p, align {4 * size}"]
    for j in range(4):
        lines.append(f"%e{j} = extractelement <4 x {kind}> %v, i32 {j}")
        before = f"%t{j - 1}" if j else "undef"
        lines.append(f"%t{j} = insertvalue [4 x {kind}] {before}, {kind} %e{j}, {j}")
    part = Part(f"[4 x {kind}]", ("ptr", "i64"), "\n".join([*lines, f"ret [4 x {kind}] %t3"]), late=True)
    types, number = toolchain.load_numba().types, _numba(dtype)
    signature = (types.UniTuple(number, 4), types.CPointer(number), types.int64)
    return _part(f"four_{np.dtype(dtype).name}", part, signature, ("readonly", "nounwind"))


@functools.cache
def put_four(dtype) -> Callable:
    """put_four(pointer, i, a, b, c, d): these numbers at i to i + 3 in one store, aligned as `four` wants it."""
    import numpy as np

    size, kind = np.dtype(dtype).itemsize, _LLVM[np.dtype(dtype).name]
    lines = [f"%p = getelementptr {kind}, ptr %a0, i64 %a1"]
    for j in range(4):
        before = f"%v{j - 1}" if j else "undef"
        lines.append(f"%v{j} = insertelement <4 x {kind}> {before}, {kind} %a{j + 2}, i32 {j}")
    lines += [f"store <4 x {kind}> %v3, ptr %p, align {4 * size}", "ret void"]
    part = Part("void", ("ptr", "i64", *[kind] * 4), "\n".join(lines), late=True)
    types, number = toolchain.load_numba().types, _numba(dtype)
    signature = (None, types.CPointer(number), types.int64, *[number] * 4)
    return _part(f"put_four_{np.dtype(dtype).name}", part, signature, ("nounwind",))


# -- 16-bit numbers -------------------------------------------------------------------------------------------------


@functools.cache
def pointer(dtype):
    """numba's type of a pointer to elements of `dtype`: 16-bit floats are uint16, as numba knows no bfloat16, bools bytes."""
    import numpy as np

    narrow = dtype.itemsize == 2 and dtype.kind not in "iu"
    types = toolchain.load_numba().types
    return types.CPointer(_numba("uint16" if narrow else "uint8" if dtype == np.bool_ else dtype.name))


@functools.cache
def access(dtype) -> tuple[Callable, Callable]:
    """(load(pointer, i), store(pointer, i, value)) of a dtype; what has 16 bits is a float32 in between."""
    import numpy as np

    dtype = np.dtype(dtype)
    if dtype.itemsize != 2 or dtype.kind in "iu":

        @inline
        def load(pointer, i):
            return pointer[i]

        @inline
        def store(pointer, i, value):
            pointer[i] = value

        return load, store
    widen, narrow = _half() if dtype.kind == "f" else _brain()

    @inline
    def load16(pointer, i):
        return widen(pointer[i])

    @inline
    def store16(pointer, i, value):
        pointer[i] = narrow(value)

    return load16, store16


def _half() -> tuple[Callable, Callable]:
    widen = "%h = bitcast i16 %a0 to half\n%v = fpext half %h to float\nret float %v"
    narrow = "%h = fptrunc float %a0 to half\n%v = bitcast half %h to i16\nret i16 %v"
    u16, f32 = _numba("uint16"), _numba("float32")
    return (
        _part("widen_half", Part("float", ("i16",), widen), (f32, u16), _PURE),
        _part("narrow_half", Part("i16", ("float",), narrow), (u16, f32), _PURE),
    )


def _brain() -> tuple[Callable, Callable]:
    import numpy as np

    @inline
    def widen(bits):
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)

    @inline
    def narrow(value):
        bits = np.float32(value).view(np.uint32)
        # To the nearest, ties to even; a NaN keeps a set bit.
        up = np.uint32(bits + np.uint32(0x7FFF) + np.uint32((bits >> np.uint32(16)) & np.uint32(1)))
        return np.uint16((up if value == value else np.uint32(0x7FC00000)) >> np.uint32(16))

    return widen, narrow


# -- reductions -----------------------------------------------------------------------------------------------------


def together(function) -> Callable:
    """`function` in place of its calls, before LLVM sees them: it must not tell apart threads that wait for each other."""
    from deepcore.kernels.codegen.intrinsics import OPTIONS

    return toolchain.load_numba().njit(inline="always", **OPTIONS)(function)


@functools.cache
def warp_reduction(combine: Callable, dtype) -> Callable:
    """reduce(value): combine over the 32 lanes of a warp, in the order of a butterfly; every lane gets the result.

    `combine(a, b)`, a function of this folder, must be commutative: then all lanes get the same bits.
    """
    exchange, combine = shuffle(dtype), lift(combine)

    @together
    def reduce(value):
        value = combine(value, exchange(value, 16))
        value = combine(value, exchange(value, 8))
        value = combine(value, exchange(value, 4))
        value = combine(value, exchange(value, 2))
        return combine(value, exchange(value, 1))

    return reduce


@functools.cache
def block_reduction(combine: Callable, dtype, threads: int) -> Callable:
    """reduce(value): combine over the threads of a block: each warp's butterfly, then the warps in their order."""
    within, position, wait = warp_reduction(combine, dtype), thread(), barrier()
    warps = threads // WARP
    partial, combine = shared(dtype, warps), lift(combine)

    @together
    def reduce(value):
        value = within(value)
        parts, t = partial(), position()
        wait()  # the readers of the reduction before this one are done
        if t & 31 == 0:
            parts[t >> 5] = value
        wait()
        total = parts[0]
        for i in range(1, warps):
            total = combine(total, parts[i])
        return total

    return reduce
