"""Intrinsics of CUDA kernels: grid position, barriers, shared memory, shuffles and reductions.

Build functions of kernels receive this module as `tools`; nothing here is called before numba is imported. numba lowers
for the host processor, so device instructions are calls of undefined functions; `DEVICE_FUNCTIONS` has their bodies in
LLVM IR, which are inserted when the module is retargeted to PTX.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from deepcore.kernels.codegen import toolchain
from deepcore.kernels.codegen.intrinsics import compiled, inline, lift, local, typed, view

__all__ = ["access", "block_reduction", "compiled", "inline", "lift", "local", "view", "warp_reduction"]

WARP = 32


class DeviceFunction(NamedTuple):
    result: str
    arguments: tuple[str, ...]
    body: str
    #: Module-level declarations that the body needs.
    module: str = ""
    #: Whether the body is inserted after optimisation, which would split its vector loads and stores.
    late: bool = False


#: Device functions by symbol.
DEVICE_FUNCTIONS: dict[str, DeviceFunction] = {}

_PURE, _COLLECTIVE = ("readnone", "nounwind"), ("convergent", "nounwind")
_INTRINSICS = {
    "tid": "i32 @llvm.nvvm.read.ptx.sreg.tid.x()",
    "ctaid": "i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()",
    "ntid": "i32 @llvm.nvvm.read.ptx.sreg.ntid.x()",
    "nctaid": "i32 @llvm.nvvm.read.ptx.sreg.nctaid.x()",
    "barrier": "void @llvm.nvvm.barrier0()",
    "high": "i32 @llvm.nvvm.mulhi.ui(i32, i32)",
    "shuffle": "i32 @llvm.nvvm.shfl.sync.bfly.i32(i32, i32, i32, i32)",
}
_LLVM = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64", "uint16": "i16"}

#: C library functions in numba's IR for which a GPU has an instruction.
LIBRARY = {
    name: DeviceFunction(
        kind, (kind,), f"%v = call {kind} @{i}({kind} %a0)\nret {kind} %v", f"declare {kind} @{i}({kind})"
    )
    for name, kind, i in (("sqrtf", "float", "llvm.sqrt.f32"), ("sqrt", "double", "llvm.sqrt.f64"))
}


def _device_function(symbol: str, part: DeviceFunction, types: tuple, attributes: tuple[str, ...]) -> Callable:
    """A function for kernels; `types`: numba's types of the result and the arguments."""
    from llvmlite import binding, ir
    from numba import types as nb
    from numba.extending import intrinsic

    symbol = f"deepcore_ptx_{symbol}"
    DEVICE_FUNCTIONS[symbol] = part
    binding.add_symbol(symbol, 1)  # the host code is never run
    result, *arguments = types
    signature = (nb.void if result is None else result)(*arguments)

    def codegen(context, builder, signature, values):
        function = builder.module.globals.get(symbol)
        if function is None:
            returns = ir.VoidType() if result is None else context.get_value_type(result)
            function = ir.Function(builder.module, ir.FunctionType(returns, [v.type for v in values]), symbol)
            for attribute in attributes:
                function.attributes.add(attribute)
        # Keeps LLVM from vectorising loops for the host.
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
    return _device_function(
        name, DeviceFunction("i64", (), body, f"declare {_INTRINSICS[name]}"), (_numba("int64"),), _PURE
    )


def thread() -> Callable:
    """thread(): the index of the thread in its block."""
    return _register("tid")


def block() -> Callable:
    """block(): the index of the block in the grid."""
    return _register("ctaid")


def blocks() -> Callable:
    """blocks(): the number of blocks in the grid."""
    return _register("nctaid")


@functools.cache
def barrier() -> Callable:
    """barrier(): wait for all threads of the block. All must reach the same barrier."""
    call = _INTRINSICS["barrier"]
    return _device_function(
        "barrier", DeviceFunction("void", (), f"call {call}\nret void", f"declare {call}"), (None,), _COLLECTIVE
    )


_shared_count = 0


def shared(dtype, count: int) -> Callable:
    """A function `()` -> pointer to `count` uninitialised elements of the block's shared memory, the same at each call."""
    global _shared_count
    import numpy as np

    dtype = np.dtype(dtype)
    _shared_count += 1
    name = f"shared_{_shared_count}"
    space = f"@deepcore_{name} = internal addrspace(3) global [{count} x {_LLVM[dtype.name]}] undef, align {4 * dtype.itemsize}"
    body = f"ret ptr addrspacecast (ptr addrspace(3) @deepcore_{name} to ptr)"
    pointer = toolchain.load_numba().types.CPointer(_numba(dtype))
    return _device_function(name, DeviceFunction("ptr", (), body, space), (pointer,), _PURE)


@functools.cache
def shuffle(dtype) -> Callable:
    """shuffle(value, mask): the value of lane (this lane xor mask). All 32 lanes must take part."""
    import numpy as np

    dtype = np.dtype(dtype)
    kind, call = _LLVM[dtype.name], "call i32 @llvm.nvvm.shfl.sync.bfly.i32(i32 -1, i32 {0}, i32 %lane, i32 31)"
    lines = ["%lane = trunc i64 %a1 to i32"]
    if dtype.itemsize == 4:
        lines += [f"%bits = bitcast {kind} %a0 to i32", f"%other = {call.format('%bits')}"]
        lines += [f"%result = bitcast i32 %other to {kind}"]
    else:
        lines += [f"%bits = bitcast {kind} %a0 to i64", "%low = trunc i64 %bits to i32"]
        lines += ["%above = lshr i64 %bits, 32", "%high = trunc i64 %above to i32"]
        lines += [f"%l = {call.format('%low')}", f"%h = {call.format('%high')}"]
        lines += ["%l64 = zext i32 %l to i64", "%h64 = zext i32 %h to i64", "%up = shl i64 %h64, 32"]
        lines += ["%other = or i64 %up, %l64", f"%result = bitcast i64 %other to {kind}"]
    body = "\n".join([*lines, f"ret {kind} %result"])
    part = DeviceFunction(kind, (kind, "i64"), body, f"declare {_INTRINSICS['shuffle']}")
    return _device_function(f"shuffle_{dtype.name}", part, (_numba(dtype), _numba(dtype), _numba("int64")), _COLLECTIVE)


@functools.cache
def fma(dtype) -> Callable:
    """fma(a, b, c): a·b + c, rounded once."""
    import numpy as np

    kind = _LLVM[np.dtype(dtype).name]
    name = f"llvm.fma.f{8 * np.dtype(dtype).itemsize}"
    body = f"%v = call {kind} @{name}({kind} %a0, {kind} %a1, {kind} %a2)\nret {kind} %v"
    part = DeviceFunction(kind, (kind,) * 3, body, f"declare {kind} @{name}({kind}, {kind}, {kind})")
    return _device_function(f"fma_{np.dtype(dtype).name}", part, (_numba(dtype),) * 4, _PURE)


@functools.cache
def at(dtype) -> Callable:
    """at(address): a pointer to elements of `dtype` in global memory."""
    import numpy as np

    dtype = np.dtype(dtype)
    body = "%p = inttoptr i64 %a0 to ptr addrspace(1)\n%q = addrspacecast ptr addrspace(1) %p to ptr\nret ptr %q"
    pointer = toolchain.load_numba().types.CPointer(_numba(dtype))
    return _device_function(
        f"at_{dtype.name}", DeviceFunction("ptr", ("i64",), body), (pointer, _numba("int64")), _PURE
    )


@functools.cache
def shifted(dtype) -> Callable:
    """shifted(pointer, i): the pointer to element i, which may lie outside what is allocated."""
    import numpy as np

    kind, pointer = _LLVM[np.dtype(dtype).name], toolchain.load_numba().types.CPointer(_numba(dtype))
    body = f"%p = getelementptr {kind}, ptr %a0, i64 %a1\nret ptr %p"
    part = DeviceFunction("ptr", ("ptr", "i64"), body)
    return _device_function(f"shifted_{np.dtype(dtype).name}", part, (pointer, pointer, _numba("int64")), _PURE)


def _int32(name: str, lines: str, count: int, boolean: bool = False, module: str = "") -> Callable:
    """A function of 32-bit integers, inserted late: LLVM would widen them to 64 bits, of which a GPU computes half at a time."""
    nb = toolchain.load_numba().types
    module = f"declare {_INTRINSICS[module]}" if module else ""
    part = DeviceFunction("i1" if boolean else "i32", ("i32",) * count, lines, module, late=True)
    return _device_function(name, part, (nb.boolean if boolean else nb.int32, *[nb.int32] * count), _PURE)


@functools.cache
def mad() -> Callable:
    """mad(a, b, c): a * b + c of int32."""
    return _int32("mad", "%p = mul i32 %a0, %a1\n%v = add i32 %p, %a2\nret i32 %v", 3)


@functools.cache
def quotient() -> Callable:
    """quotient(n, factor, shift): (2 * n * factor >> 32) >> shift of unsigned numbers, 2 * n modulo 2³²."""
    lines = ["%d = shl i32 %a0, 1", f"%h = call {_INTRINSICS['high'].replace('(i32, i32)', '(i32 %d, i32 %a1)')}"]
    return _int32("quotient", "\n".join([*lines, "%v = lshr i32 %h, %a2", "ret i32 %v"]), 3, module="high")


@functools.cache
def within() -> Callable:
    """within(a, b, limit): whether 0 <= a + b < limit, of int32."""
    return _int32("within", "%s = add i32 %a0, %a1\n%v = icmp ult i32 %s, %a2\nret i1 %v", 3, True)


@functools.cache
def load4(dtype) -> Callable:
    """load4(pointer, i): elements i to i + 3 in one load; pointer + i must be aligned to four elements."""
    import numpy as np

    size, kind = np.dtype(dtype).itemsize, _LLVM[np.dtype(dtype).name]
    lines = [f"%p = getelementptr {kind}, ptr %a0, i64 %a1", f"%v = load <4 x {kind}>, ptr %p, align {4 * size}"]
    for j in range(4):
        lines.append(f"%e{j} = extractelement <4 x {kind}> %v, i32 {j}")
        before = f"%t{j - 1}" if j else "undef"
        lines.append(f"%t{j} = insertvalue [4 x {kind}] {before}, {kind} %e{j}, {j}")
    part = DeviceFunction(f"[4 x {kind}]", ("ptr", "i64"), "\n".join([*lines, f"ret [4 x {kind}] %t3"]), late=True)
    types, number = toolchain.load_numba().types, _numba(dtype)
    signature = (types.UniTuple(number, 4), types.CPointer(number), types.int64)
    return _device_function(f"load4_{np.dtype(dtype).name}", part, signature, ("readonly", "nounwind"))


@functools.cache
def store4(dtype) -> Callable:
    """store4(pointer, i, a, b, c, d): store elements i to i + 3 at once, aligned as for `load4`."""
    import numpy as np

    size, kind = np.dtype(dtype).itemsize, _LLVM[np.dtype(dtype).name]
    lines = [f"%p = getelementptr {kind}, ptr %a0, i64 %a1"]
    for j in range(4):
        before = f"%v{j - 1}" if j else "undef"
        lines.append(f"%v{j} = insertelement <4 x {kind}> {before}, {kind} %a{j + 2}, i32 {j}")
    lines += [f"store <4 x {kind}> %v3, ptr %p, align {4 * size}", "ret void"]
    part = DeviceFunction("void", ("ptr", "i64", *[kind] * 4), "\n".join(lines), late=True)
    types, number = toolchain.load_numba().types, _numba(dtype)
    signature = (None, types.CPointer(number), types.int64, *[number] * 4)
    return _device_function(f"store4_{np.dtype(dtype).name}", part, signature, ("nounwind",))


# -- 16-bit numbers -------------------------------------------------------------------------------------------------


@functools.cache
def pointer(dtype):
    """numba's type of a pointer to elements of `dtype`: 16-bit floats are uint16, as numba has no bfloat16, bools bytes."""
    import numpy as np

    narrow = dtype.itemsize == 2 and dtype.kind not in "iu"
    types = toolchain.load_numba().types
    return types.CPointer(_numba("uint16" if narrow else "uint8" if dtype == np.bool_ else dtype.name))


@functools.cache
def access(dtype) -> tuple[Callable, Callable]:
    """(load(pointer, i), store(pointer, i, value)) of a dtype; 16-bit floats are float32 in registers."""
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
        _device_function("widen_half", DeviceFunction("float", ("i16",), widen), (f32, u16), _PURE),
        _device_function("narrow_half", DeviceFunction("i16", ("float",), narrow), (u16, f32), _PURE),
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
        rounded = np.uint32(bits + np.uint32(0x7FFF) + np.uint32((bits >> np.uint32(16)) & np.uint32(1)))
        return np.uint16((rounded if value == value else np.uint32(0x7FC00000)) >> np.uint32(16))

    return widen, narrow


# -- reductions -----------------------------------------------------------------------------------------------------


def inline_always(function) -> Callable:
    """`function` inlined by numba, before LLVM runs, which must not make barriers and shuffles divergent."""
    from deepcore.kernels.codegen.intrinsics import OPTIONS

    return toolchain.load_numba().njit(inline="always", **OPTIONS)(function)


@functools.cache
def warp_reduction(combine: Callable, dtype) -> Callable:
    """reduce(value): combine over the 32 lanes of a warp in butterfly order; every lane gets the result.

    `combine(a, b)`, a function of `kernels`, must be commutative: then all lanes get the same bits.
    """
    exchange, combine = shuffle(dtype), lift(combine)

    @inline_always
    def reduce(value):
        value = combine(value, exchange(value, 16))
        value = combine(value, exchange(value, 8))
        value = combine(value, exchange(value, 4))
        value = combine(value, exchange(value, 2))
        return combine(value, exchange(value, 1))

    return reduce


@functools.cache
def block_reduction(combine: Callable, dtype, threads: int) -> Callable:
    """reduce(value): combine over the threads of a block: each warp by a butterfly, then the warps in order."""
    reduce_warp, thread_index, sync = warp_reduction(combine, dtype), thread(), barrier()
    warps = threads // WARP
    shared_partials, combine = shared(dtype, warps), lift(combine)

    @inline_always
    def reduce(value):
        value = reduce_warp(value)
        partials, t = shared_partials(), thread_index()
        sync()  # the previous reduction's reads are done
        if t & 31 == 0:
            partials[t >> 5] = value
        sync()
        total = partials[0]
        for i in range(1, warps):
            total = combine(total, partials[i])
        return total

    return reduce
