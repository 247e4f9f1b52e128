"""Intrinsics of CPU kernels: lifted scalar functions, pointers, atomics and calls.

Build functions of kernels receive this module as `tools`; nothing here is called before numba is imported.
"""

from __future__ import annotations

import dis
import functools
import inspect
import platform
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from deepcore import locks
from deepcore.kernels.codegen import toolchain
from deepcore.kernels.math import elementary

# No fastmath: neither reassociation nor contraction. The numpy error model drops zero-division branches.
OPTIONS = {"nogil": True, "fastmath": False, "error_model": "numpy"}
_LOCK = locks.rlock()
_KERNELS = f"{__package__.rpartition('.')[0]}."  # modules whose functions are lifted into any caller
_LIFTED: dict[tuple[Callable, Any], Callable] = {}


def lift(function: Callable, dtype=None) -> Callable:
    """Compile a plain scalar function with numba, and with it its callees from the same file or from `kernels`.

    With a dtype (float32, float64) the formula is computed in it: floating constants are converted to it, and a callee
    `exp` becomes `exp_float32` where its file defines that. A file's `COMPUTED_IN` is the dtype of all its formulas.
    """
    import numpy as np

    if dtype is not None:
        dtype = np.dtype(getattr(sys.modules[function.__module__], "COMPUTED_IN", dtype))
    with _LOCK:
        if function is elementary.fma:
            return fma()
        function = _variant(function, dtype)
        lifted = _LIFTED.get((function, dtype))
        if lifted is None:
            code, names = function.__code__, dict(function.__globals__)
            for name in {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}:  # no attributes
                callee = names.get(name)
                if isinstance(callee, FunctionType) and _is_liftable(callee, function):
                    names[name] = lift(callee, dtype)
                elif dtype is not None and type(callee) is float:
                    names[name] = dtype.type(callee)
            if dtype is not None:
                code = code.replace(co_consts=tuple(dtype.type(c) if type(c) is float else c for c in code.co_consts))
            copy = FunctionType(code, names, function.__name__, function.__defaults__)
            lifted = _LIFTED[function, dtype] = inline(copy)
        return lifted


def _is_liftable(callee: FunctionType, caller: Callable) -> bool:
    return callee.__module__ == caller.__module__ or callee.__module__.startswith(_KERNELS)


def _variant(function: Callable, dtype) -> Callable:
    if dtype is None:
        return function
    return getattr(sys.modules[function.__module__], f"{function.__name__}_{dtype.name}", function)


@functools.cache
def fma() -> Callable:
    """fma(a, b, c) = a·b + c, rounded once, of floats of one type."""
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    def operation(typing, a, b, c):
        kind = next((t for t in (a, b, c) if isinstance(t, types.Float)), a)

        def codegen(context, builder, signature, values):
            llvm = context.get_value_type(kind)
            name = f"llvm.fma.{'f32' if kind.bitwidth == 32 else 'f64'}"
            function = builder.module.globals.get(name)
            function = function or ir.Function(builder.module, ir.FunctionType(llvm, [llvm] * 3), name)
            return builder.call(function, values)

        return kind(kind, kind, kind), codegen

    return intrinsic(operation)


@functools.cache
def local(dtype, count: int) -> Callable:
    """A function `()` -> pointer to `count` elements on the stack, 64-byte aligned. Each call site has its own memory."""
    numba = toolchain.load_numba()
    result = numba.types.CPointer(numba.from_dtype(dtype))

    def allocate(context, builder):
        with builder.goto_entry_block():
            space = builder.alloca(context.get_data_type(result.dtype), size=count)
        space.align = 64
        return space

    return intrinsic(result, "", allocate)


def inline(function: Callable) -> Callable:
    """`function` compiled for inlining into a kernel; its closure may hold other such functions."""
    return toolchain.load_numba().njit(forceinline=True, **OPTIONS)(function)


def function(function: Callable) -> Callable:
    """`function` compiled for calls from a kernel: for large functions with several call sites."""
    return toolchain.load_numba().njit(**OPTIONS)(function)


def view(dtype) -> Callable:
    """A function from an address to a pointer to elements of `dtype`, indexed without bounds checks.

    Elements of float16 and bfloat16 are float32 in a kernel: widened when loaded, rounded once when stored.
    """
    return view_as(pointer(dtype))


@functools.cache
def pointer(dtype):
    """numba's type of a pointer to elements of `dtype`: bools are bytes, 16-bit floats are widened when loaded."""
    numba = toolchain.load_numba()
    return (
        narrow_pointer(dtype.name) if is_narrow(dtype) else numba.types.CPointer(numba.from_dtype(storage_dtype(dtype)))
    )


@functools.cache
def view_as(result) -> Callable:
    """A function from an address to a pointer of a numba type."""

    def cast(context, builder, address):
        return builder.inttoptr(address, context.get_value_type(result))

    return intrinsic(result, "i", cast)


def intrinsic(result, arguments: str, generate: Callable) -> Callable:
    """A function whose instructions `generate(context, builder, *values)` emits; `result` None: it returns nothing.

    `arguments`: "i" is an int64, "p" a pointer to int64.
    """
    from numba import types
    from numba.extending import intrinsic

    kinds = [types.CPointer(types.int64) if kind == "p" else types.int64 for kind in arguments]
    signature = (types.void if result is None else result)(*kinds)

    def codegen(context, builder, signature, values):
        value = generate(context, builder, *values)
        return context.get_dummy_value() if result is None else value

    return intrinsic(typed(len(arguments), signature, codegen))


def typed(count: int, signature, codegen: Callable) -> Callable:
    """The typing function that numba's `intrinsic` decorates, of `count` arguments and one signature."""

    def operation(typing, *values):
        return signature, codegen

    # numba reads the number of arguments from the function's own signature.
    names = ["typing", *(f"a{i}" for i in range(count))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    operation.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    return operation


def compiled(text: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Execute generated Python code in `scope`: for kernels whose arguments or statements depend on their parameters."""
    exec(text, scope)
    return scope


@functools.cache
def words() -> Callable:
    """A function from an address to a pointer to int64."""
    import numpy as np

    return view(np.dtype(np.int64))


@functools.cache
def atomics() -> tuple[Callable, Callable, Callable, Callable, Callable]:
    """Sequentially consistent load(p, i), store(p, i, v), add(p, i, v), swap(p, i, v) and compare_exchange(p, i, old, new)
    on int64. add and swap return the old value; compare_exchange returns whether p[i] was `old` and is set to `new`."""
    from numba import types

    order = "seq_cst"

    def compare_exchange(c, b, p, i, old, new):
        pair = b.cmpxchg(b.gep(p, [i]), old, new, order, order)
        return b.zext(b.extract_value(pair, 1), old.type)

    return (
        intrinsic(types.int64, "pi", lambda c, b, p, i: b.load_atomic(b.gep(p, [i]), order, 8)),
        intrinsic(None, "pii", lambda c, b, p, i, v: b.store_atomic(v, b.gep(p, [i]), order, 8)),
        intrinsic(types.int64, "pii", lambda c, b, p, i, v: b.atomic_rmw("add", b.gep(p, [i]), v, order)),
        intrinsic(types.int64, "pii", lambda c, b, p, i, v: b.atomic_rmw("xchg", b.gep(p, [i]), v, order)),
        intrinsic(types.int64, "piii", compare_exchange),
    )


@functools.cache
def pause() -> Callable:
    """pause(p): the processor's hint for spin loops."""
    from llvmlite import ir

    machine = platform.machine().lower()
    void = ir.FunctionType(ir.VoidType(), [])

    def generate(context, builder, p):
        module = builder.module
        if machine in ("x86_64", "amd64"):
            name = "llvm.x86.sse2.pause"
            builder.call(module.globals.get(name) or ir.Function(module, void, name), [])
        elif machine in ("aarch64", "arm64"):
            name, i32 = "llvm.aarch64.hint", ir.IntType(32)
            hint = module.globals.get(name) or ir.Function(module, ir.FunctionType(ir.VoidType(), [i32]), name)
            builder.call(hint, [i32(1)])

    return intrinsic(None, "p", generate)


@functools.cache
def multiply_high() -> Callable:
    """high(a, b): the upper 64 bits of the product of two int64 as unsigned integers."""
    from llvmlite import ir
    from numba import types

    def generate(context, builder, a, b):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(a, wide), builder.zext(b, wide))
        return builder.trunc(builder.lshr(product, wide(64)), a.type)

    return intrinsic(types.int64, "ii", generate)


@functools.cache
def leading_zeros() -> Callable:
    """zeros(a): the number of leading zero bits of an int64 other than 0."""
    from llvmlite import ir
    from numba import types

    return intrinsic(types.int64, "i", lambda c, b, a: b.ctlz(a, ir.IntType(1)(1)))


@functools.cache
def call_kernel() -> Callable:
    """call(address, words, chunk): the status of the kernel at an address."""
    from llvmlite import ir
    from numba import types

    def generate(context, builder, address, words, chunk):
        kind = ir.FunctionType(ir.IntType(32), [words.type, chunk.type])
        return builder.sext(builder.call(builder.inttoptr(address, kind.as_pointer()), [words, chunk]), chunk.type)

    return intrinsic(types.int64, "ipi", generate)


@functools.cache
def call_system() -> Callable:
    """call(address, seven integers): call a C function, which may have fewer arguments."""
    from llvmlite import ir
    from numba import types

    def generate(context, builder, address, *values):
        kind = ir.FunctionType(values[0].type, [v.type for v in values])
        return builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    return intrinsic(types.int64, "i" * 8, generate)


@functools.cache
def wait_on_address() -> Callable:
    """call(function, address, value): Windows' WaitOnAddress, while the 32-bit word at `address` equals `value`."""
    from llvmlite import ir
    from numba.core import cgutils

    i64, i32 = ir.IntType(64), ir.IntType(32)

    def generate(context, builder, function, address, value):
        expected = cgutils.alloca_once(builder, i32)
        builder.store(builder.trunc(value, i32), expected)
        kind = ir.FunctionType(i32, [i64, i64, i64, i32])
        callee = builder.inttoptr(function, kind.as_pointer())
        builder.call(callee, [address, builder.ptrtoint(expected, i64), i64(4), i32(0xFFFFFFFF)])

    return intrinsic(None, "iii", generate)


@functools.cache
def address_of() -> Callable:
    """address_of(p): the address in a pointer."""
    from llvmlite import ir
    from numba import types

    return intrinsic(types.int64, "p", lambda c, b, p: b.ptrtoint(p, ir.IntType(64)))


@functools.cache
def folded(dtype, name: str, count: int = 64) -> Callable:
    """fold(acc): reduce `count` lanes by halves with the combination `name` of `reductions.combination`."""
    from llvmlite import ir
    from numba import from_dtype, types
    from numba.extending import intrinsic

    result = from_dtype(dtype)

    def combine(b, x, y):
        if name == "sum":
            return b.fadd(x, y)
        better = b.fcmp_ordered("<" if name == "amin" else ">", y, x)
        return b.select(better if name == "top" else b.or_(better, b.fcmp_unordered("uno", y, y)), y, x)

    def operation(typing, acc):
        def codegen(context, builder, signature, values):
            kind = context.get_value_type(result)
            i32 = ir.IntType(32)
            lanes = builder.load(builder.bitcast(values[0], ir.VectorType(kind, count).as_pointer()), align=64)
            width = count // 2
            while width:
                undefined = ir.Constant(lanes.type, ir.Undefined)
                halves = [
                    builder.shuffle_vector(lanes, undefined, ir.Constant(ir.VectorType(i32, width), list(part)))
                    for part in (range(width), range(width, 2 * width))
                ]
                lanes, width = combine(builder, *halves), width // 2
            return builder.extract_element(lanes, i32(0))

        return result(types.CPointer(result)), codegen

    return intrinsic(operation)


@functools.cache
def copy(dtype) -> Callable:
    """copy(to, source, count): copy `count` elements that do not overlap."""
    from numba import from_dtype, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    pointer = types.CPointer(from_dtype(dtype))

    def operation(typing, to, source, count):
        def codegen(context, builder, signature, values):
            cgutils.raw_memcpy(builder, *values, dtype.itemsize)
            return context.get_dummy_value()

        return types.void(pointer, pointer, types.int64), codegen

    return intrinsic(operation)


@functools.cache
def after(dtype) -> Callable:
    """after(p, count): the pointer p + count."""
    from numba import types
    from numba.extending import intrinsic

    kind = pointer(dtype)

    def operation(typing, p, count):
        return kind(kind, types.int64), lambda c, builder, signature, values: builder.gep(values[0], [values[1]])

    return intrinsic(operation)


@functools.cache
def elements(dtype) -> tuple[Callable, Callable]:
    """load(p, i) and store(p, i, v) of p[i], where an element that is stored is loaded at the same i only, and before.

    So LLVM can assume that results and operands do not alias, and a result may be written over its operand.
    """
    from numba import from_dtype, types
    from numba.extending import intrinsic

    kind = from_dtype(dtype)
    pointer = types.CPointer(kind)

    def scope(module):
        domain = module.add_metadata(["deepcore.elements"])
        return module.add_metadata([module.add_metadata(["deepcore.results", domain])])

    def load_operation(typing, p, i):
        def codegen(context, builder, signature, values):
            loaded = builder.load(builder.gep(values[0], [values[1]]))
            loaded.set_metadata("noalias", scope(builder.module))
            return loaded

        return kind(pointer, types.int64), codegen

    def store_operation(typing, p, i, v):
        def codegen(context, builder, signature, values):
            stored = builder.store(values[2], builder.gep(values[0], [values[1]]))
            stored.set_metadata("alias.scope", scope(builder.module))
            return context.get_dummy_value()

        return types.void(pointer, types.int64, kind), codegen

    return intrinsic(load_operation), intrinsic(store_operation)


@functools.cache
def prefetch(dtype, count: int = 64) -> Callable:
    """prefetch(p, i): prefetch p[i … i + count - 1] into the cache; invalid addresses are harmless."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    def operation(typing, p, i):
        def codegen(context, builder, signature, values):
            byte = ir.IntType(8).as_pointer()
            fetch = builder.module.declare_intrinsic(
                "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
            )
            first = builder.bitcast(builder.gep(values[0], [values[1]]), byte)
            for line in range(0, count * dtype.itemsize, 64):
                at = builder.gep(first, [ir.IntType(64)(line)])
                builder.call(fetch, [at, ir.IntType(32)(0), ir.IntType(32)(3), ir.IntType(32)(1)])
            return context.get_dummy_value()

        return types.void(p, types.int64), codegen

    return intrinsic(operation)


# -- dtypes of memory and of computation ------------------------------------------------------------------------------


def storage_dtype(dtype):
    """The dtype in which a kernel stores `dtype`: bools are bytes."""
    import numpy as np

    return np.dtype(np.uint8) if dtype == np.bool_ else dtype


def is_narrow(dtype) -> bool:
    """Whether `dtype` is float16 or bfloat16."""
    return dtype.itemsize == 2 and dtype.kind not in "iu"


def number_of(dtype):
    """The dtype that elements of `dtype` are computed in."""
    import numpy as np

    return np.dtype(np.float32) if is_narrow(dtype) else dtype


@functools.cache
def narrow_pointer(name: str):
    """numba's type of a pointer to 16-bit floats."""
    import operator

    import numpy as np
    from llvmlite import ir
    from numba.core import types
    from numba.core.datamodel import models
    from numba.core.datamodel.registry import default_manager
    from numba.core.imputils import lower_builtin
    from numba.core.typing.templates import AbstractTemplate, infer_global, signature

    dtype = np.dtype(name)
    single = np.dtype(np.float32)

    class Pointer(types.Type):
        def __init__(self):
            super().__init__(f"Pointer({name})")

    class Model(models.PrimitiveModel):
        def __init__(self, manager, type_):
            super().__init__(manager, type_, ir.IntType(16).as_pointer())

    default_manager.register(Pointer, Model)
    pointer = Pointer()

    @infer_global(operator.getitem)
    class Get(AbstractTemplate):
        def generic(self, args, kwargs):
            if args[0] is pointer and isinstance(args[1], types.Integer):
                return signature(types.float32, pointer, types.intp)
            return None

    @infer_global(operator.setitem)
    class Set(AbstractTemplate):
        def generic(self, args, kwargs):
            if args[0] is pointer and isinstance(args[1], types.Integer):
                return signature(types.none, pointer, types.intp, types.float32)
            return None

    @lower_builtin(operator.getitem, Pointer, types.intp)
    def get_(context, builder, signature, values):
        return _widen(builder, builder.load(builder.gep(values[0], [values[1]])), dtype, single)

    @lower_builtin(operator.setitem, Pointer, types.intp, types.float32)
    def set_(context, builder, signature, values):
        builder.store(_narrow(builder, values[2], dtype, single), builder.gep(values[0], [values[1]]))
        return context.get_dummy_value()

    return pointer


@functools.cache
def access(dtype, computed) -> tuple[Callable, Callable]:
    """load(p, i) and store(p, i, v) as in `elements`, between memory of `dtype` and numbers in `computed`: float16 and
    bfloat16 are widened when loaded, and rounded once, to even, when stored."""
    from numba import from_dtype, types
    from numba.extending import intrinsic

    kind, memory = from_dtype(computed), pointer(dtype)

    def scope(module):
        domain = module.add_metadata(["deepcore.elements"])
        return module.add_metadata([module.add_metadata(["deepcore.results", domain])])

    def load_operation(typing, p, i):
        def codegen(context, builder, signature, values):
            loaded = builder.load(builder.gep(values[0], [values[1]]))
            loaded.set_metadata("noalias", scope(builder.module))
            return _widen(builder, loaded, dtype, computed)

        return kind(memory, types.int64), codegen

    def store_operation(typing, p, i, v):
        def codegen(context, builder, signature, values):
            narrow = _narrow(builder, values[2], dtype, computed)
            stored = builder.store(narrow, builder.gep(values[0], [values[1]]))
            stored.set_metadata("alias.scope", scope(builder.module))
            return context.get_dummy_value()

        return types.void(memory, types.int64, kind), codegen

    return intrinsic(load_operation), intrinsic(store_operation)


@functools.cache
def rounded(dtype, computed) -> Callable:
    """rounded(v): a number in `computed`, rounded to `dtype`."""
    from numba import from_dtype
    from numba.extending import intrinsic

    kind = from_dtype(computed)

    def operation(typing, v):
        def codegen(context, builder, signature, values):
            return _widen(builder, _narrow(builder, values[0], dtype, computed), dtype, computed)

        return kind(kind), codegen

    return intrinsic(operation)


@functools.cache
def narrowing(dtype) -> Callable:
    """number(v): a float64 as the number from which `dtype` is stored, such that float16 is rounded once."""
    import numpy as np
    from numba import types
    from numba.extending import intrinsic

    if dtype != np.float16:
        return number_of(dtype).type

    def operation(typing, v):
        return types.float32(types.float64), lambda context, builder, signature, values: _round_to_odd(
            builder, values[0]
        )

    return intrinsic(operation)


def _llvm(dtype):
    from llvmlite import ir

    if dtype.kind == "f" and dtype.itemsize > 2:
        return ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
    return ir.IntType(8 * dtype.itemsize)


def _widen(b, v, dtype, computed):
    """Convert a stored number of `dtype` to `computed`."""
    import numpy as np
    from llvmlite import ir

    if dtype == np.bool_:
        v = b.icmp_unsigned("!=", v, v.type(0))
        return (
            v
            if computed == np.bool_
            else b.uitofp(v, _llvm(computed))
            if computed.kind == "f"
            else b.zext(v, _llvm(computed))
        )
    if dtype.name in ("float16", "bfloat16"):
        if dtype.name == "float16":
            v = b.fpext(b.bitcast(v, ir.HalfType()), ir.FloatType())
        else:
            v = b.bitcast(b.shl(b.zext(v, ir.IntType(32)), ir.IntType(32)(16)), ir.FloatType())
        dtype = np.dtype(np.float32)
    return _convert(b, v, dtype, computed)


def _convert(b, v, dtype, computed):
    """Convert between numba's dtypes; floats are truncated to integers, and must be in range."""
    wide = _llvm(computed)
    if dtype.kind == computed.kind == "f":
        return v if v.type == wide else b.fpext(v, wide) if computed.itemsize > dtype.itemsize else b.fptrunc(v, wide)
    if computed.kind == "f":
        return b.uitofp(v, wide) if dtype.kind == "u" else b.sitofp(v, wide)
    if dtype.kind == "f":
        return b.fptosi(v, wide)
    if computed.itemsize > dtype.itemsize:
        return b.zext(v, wide) if dtype.kind == "u" else b.sext(v, wide)
    return b.trunc(v, wide) if computed.itemsize < dtype.itemsize else v


def _narrow(b, v, dtype, computed):
    """Convert a number in `computed` to `dtype` as it is stored."""
    import numpy as np
    from llvmlite import ir

    i32, single = ir.IntType(32), np.dtype(np.float32)
    if dtype == np.bool_:
        if computed != np.bool_:
            zero = ir.Constant(v.type, 0)
            v = b.fcmp_unordered("!=", v, zero) if computed.kind == "f" else b.icmp_signed("!=", v, zero)
        return b.zext(v, ir.IntType(8))
    if dtype.name not in ("float16", "bfloat16"):
        if computed == np.bool_:
            return b.uitofp(v, _llvm(dtype)) if dtype.kind == "f" else b.zext(v, _llvm(dtype))
        return _convert(b, v, computed, dtype)
    if computed == np.bool_:
        v = b.uitofp(v, ir.FloatType())
    elif computed.itemsize == 8 and computed.kind == "f" and dtype.name == "float16":
        v = _round_to_odd(b, v)
    else:
        v = _convert(b, v, computed, single)
    if dtype.name == "float16":
        return b.bitcast(b.fptrunc(v, ir.HalfType()), ir.IntType(16))
    bits = b.bitcast(v, i32)
    even = b.and_(b.lshr(bits, i32(16)), i32(1))
    nearest = b.lshr(b.add(bits, b.add(even, i32(0x7FFF))), i32(16))
    quiet = b.or_(b.lshr(bits, i32(16)), i32(0x40))
    return b.trunc(b.select(b.fcmp_unordered("uno", v, v), quiet, nearest), ir.IntType(16))


def _round_to_odd(b, v):
    """A float64 rounded to odd in float32: towards zero, with the last bit set if inexact. Rounding that to float16 rounds
    once."""
    from llvmlite import ir

    i32 = ir.IntType(32)
    nearest = b.fptrunc(v, ir.FloatType())
    widened = b.fpext(nearest, ir.DoubleType())
    bits = b.bitcast(nearest, i32)
    magnitude = ir.IntType(64)((1 << 63) - 1)
    away = b.icmp_unsigned(
        ">", b.and_(b.bitcast(widened, magnitude.type), magnitude), b.and_(b.bitcast(v, magnitude.type), magnitude)
    )
    odd = b.or_(b.sub(bits, b.zext(away, i32)), i32(1))
    return b.bitcast(b.select(b.fcmp_ordered("!=", widened, v), odd, bits), ir.FloatType())
