"""Elementwise kernels for the CPU, generated from a table of formulas.

A chunk is a loop over 32,768 elements; elements are independent, so no bit depends on the number of threads. Ops that
NumPy computes to the same bits (sums, products, roots, …) run here for large arrays only, others at every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from deepcore import locks
from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int64
from deepcore.config import settings
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Float, In, Operand, Out, Size, Type, args
from deepcore.kernels.math.formulas import FORMULAS, Line, function, operations
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, spec_of
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator

# Elements of a chunk: some 5 to 50 µs.
SLICE = 1 << 15
# Smaller arrays run on NumPy: one thread saturates their bandwidth, and nothing need be compiled.
LEAST_EXACT = 1 << 17

# Ops with a kernel for integers.
_INTEGER = {"add", "sub", "mul"}
_CONTIGUOUS_ALIGNED = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_LOCK = locks.lock()
#: The dtypes of maps, and those in which they are computed.
COMPUTED = {float32: float32, float64: float64, int64: int64, float16: float32, bfloat16: float32}
# Lower for 16-bit floats, for which NumPy's loops are scalar.
_LEAST_NARROW = 1 << 12


def _arguments(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> dict[str, Type]:
    operands = {f"a{i}": In(np.bool_) if kind.isupper() else In for i, kind in enumerate(pattern)}
    results = {f"out{k}": Out for k in range(len(stored))}
    count, real = max((p + 1 for line in lines for p in line.parameters), default=0), Float(COMPUTED[np.dtype(dtype)])
    return {**operands, **results, "size": Size, "columns": Size, **{f"p{p}": real for p in range(count)}}


@args(_arguments)
def build(tools, lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]):
    """A sequence of formulas over elements. Values are the operands, then the lines' results in order.

    `pattern` has a letter per operand: "v" elements, "s" a scalar, "r" a row for all rows, "c" an element per row;
    capitals are booleans. The arguments are the operands, the `stored` values, the numbers of elements and of columns,
    and the parameters. A result may be written over an operand "v".
    """
    return tools.compiled(source(lines, dtype, pattern, stored), scope(tools, lines, np.dtype(dtype)))["kernel"]


def scope(tools, lines: tuple[Line, ...], dt) -> dict:
    """The globals of the generated code."""
    number = COMPUTED[dt]
    take, put = tools.elements(dt) if number == dt else tools.access(dt, number)
    return {
        **{line.formula: tools.lift(function(line.formula), number) for line in lines},
        "take": take, "put": put, "rounded": None if number == dt else tools.rounded(dt, number), "SLICE": SLICE,
    }  # fmt: skip


def source(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> str:
    """The kernel's Python source."""
    count, kinds, narrow = len(pattern), pattern.lower(), np.dtype(dtype).itemsize == 2
    nested = "r" in kinds or "c" in kinds
    single = {i for i, kind in enumerate(kinds) if kind == "s"}
    hoisted: list[str] = []
    body_lines: list[str] = []
    for i, line in enumerate(lines, count):
        is_scalar = all(x in single for x in line.operands) and i not in stored
        if is_scalar:
            single.add(i)
        values = [f"x{x}" if x in single or x >= count else _ELEMENT_TEXT[pattern[x]].format(x) for x in line.operands]
        value = f"{line.formula}({', '.join([*values, *(f'p{p}' for p in line.parameters)])})"
        (hoisted if is_scalar else body_lines).append(f"x{i} = rounded({value})" if narrow else f"x{i} = {value}")
    body_lines += [f"put(out{k}, i, x{value})" for k, value in enumerate(stored)]
    body = [
        f"def kernel({', '.join(_arguments(lines, dtype, pattern, stored))}, chunk):",
        *(
            f"    x{i} = {'a{0}[0] != 0' if kind == 'S' else 'take(a{0}, 0)'}".format(i)
            for i, kind in enumerate(pattern)
            if kind in "sS"
        ),
        *(f"    {line}" for line in hoisted),
    ]
    if nested:
        body += [
            "    step = max(1, SLICE // columns)",
            "    for row in range(chunk * step, min(size // columns, (chunk + 1) * step)):",
            *(
                f"        c{i} = {'a{0}[row]' if kind == 'C' else 'take(a{0}, row)'}".format(i)
                for i, kind in enumerate(pattern)
                if kind in "cC"
            ),
            "        for j in range(columns):",
            "            i = row * columns + j",
            *(f"            {line}" for line in body_lines),
        ]
    else:
        body += [
            "    for i in range(chunk * SLICE, min(size, (chunk + 1) * SLICE)):",
            *(f"        {line}" for line in body_lines),
        ]
    return "\n".join([*body, "    return 0"])


_ELEMENT_TEXT = {
    "v": "take(a{0}, i)", "V": "(a{0}[i] != 0)", "r": "take(a{0}, j)", "R": "(a{0}[j] != 0)", "c": "c{0}", "C": "(c{0} != 0)",
}  # fmt: skip


build.__dict__["source"] = source


def slices(size: int, columns: int) -> int:
    """The number of chunks of a launch."""
    return -(-(size // columns) // max(1, SLICE // columns)) if columns else -(-size // SLICE)


def fused(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> Kernel:
    """The kernel of a sequence of formulas; the op's own kernel if it is a single op."""
    op_map = _MAPS_OF.get(lines[0].formula) if len(lines) == 1 else None
    if (
        op_map is not None
        and stored == (op_map.arity,)
        and lines == one(op_map.formula, op_map.arity, len(op_map.parameters))
    ):
        kinds = pattern.lower()
        if pattern == kinds[: op_map.booleans].upper() + kinds[op_map.booleans :]:
            return op_map.kernel(np.dtype(dtype), kinds)
    name = jit.named("fused", lines, dtype, pattern, stored)
    with _LOCK:
        return jit.KERNELS.get(name) or Kernel(name, build, lines, dtype, pattern, stored)


def one(formula: str, operands: int, parameters: int) -> tuple[Line, ...]:
    """The lines of a kernel of one formula."""
    return (Line(formula, tuple(range(operands)), tuple(range(parameters))),)


class Map(Lowering):
    """An elementwise op: its kernels, created on first use, and its plans.

    `least`: smaller arrays run on the reference, which has the same bits, unless the kernel is compiled already.
    `out=`: a C-contiguous array of the result's shape and dtype, which may be an operand.
    """

    def __init__(self, formula: str, *parameters: str, least: int = 0, booleans: int = 0):
        super().__init__(formula, self.planned, (), parameters, self.prepared, cost=self.arithmetic)
        self.formula, self.parameters, self.least, self.booleans = formula, parameters, least, booleans
        self.copies_layouts = not least  # worth copying operands in other layouts: arithmetic dominates
        self.arity = function(formula).__code__.co_argcount - len(parameters)
        self._kernels: dict[tuple[str, str], Kernel] = {}
        self.kernel(float32, "v" * self.arity)

    def kernel(self, dtype, kinds: str) -> Kernel:
        """The kernel for operands of these kinds, a letter each: see `build`."""
        variant = self._kernels.get((dtype.char, kinds))
        if variant is None:
            with _LOCK:
                variant = self._kernels.get((dtype.char, kinds))
                if variant is None:
                    pattern = kinds[: self.booleans].upper() + kinds[self.booleans :]
                    name = f"{self.formula}_{dtype.name}" + ("" if kinds == "v" * self.arity else f"_{kinds}")
                    lines = one(self.formula, self.arity, len(self.parameters))
                    variant = Kernel(name, build, lines, dtype.name, pattern, (self.arity,))
                    self._kernels[dtype.char, kinds] = variant
        return variant

    def computes(self, dtype) -> bool:
        """Whether there is a kernel for operands of `dtype`."""
        return dtype in COMPUTED and (dtype is not int64 or self.formula in _INTEGER)

    def planned(self, specs, params) -> Plan | bool | None:
        last = specs[-1]
        dtype = last.dtype
        if not self.computes(dtype):
            return None
        if dtype.itemsize == 2 and not jit.narrow_floats():
            return None
        if any(spec.dtype != (np.bool_ if i < self.booleans else dtype) for i, spec in enumerate(specs)):
            return None
        same_shape = all(spec.shape == last.shape for spec in specs)
        shape = last.shape if same_shape else broadcast(specs)
        if shape is None:
            return True
        size = math.prod(shape)
        if not size or not all(spec.plain for spec in specs):
            return True
        layout = ("v" * len(specs), 0) if same_shape else kinds_of(specs, shape)
        if layout is None:
            return None
        kinds, columns = layout
        kernel = self.kernel(dtype, kinds)
        if not kernel.ready():
            return None
        count = len(specs)
        operands = {f"a{i}": Operand(i) for i in range(count)}
        floats = {f"p{i}": Operand(count + i) for i in range(len(self.floats))}
        out = Operand(count + len(floats))
        launch = Launch(kernel, slices(size, columns), **operands, out0=out, size=size, columns=columns, **floats)
        return Plan(last if same_shape else contiguous(shape, dtype, last.backend), [launch])

    def arithmetic(self, specs, params) -> float:
        return math.prod(broadcast(specs) or ()) * operations(self.formula)

    def pays(self, specs, params) -> bool:
        dtype, size = specs[-1].dtype, max(spec.size for spec in specs)
        if size >= (self.least if dtype.itemsize > 2 else min(self.least, _LEAST_NARROW)):
            return True
        if not self.computes(dtype) or not all(spec.plain for spec in specs):
            return False
        shape = broadcast(specs)
        layout = None if shape is None else kinds_of(specs, shape)
        return layout is not None and self.kernel(dtype, layout[0]).is_cached()

    def bind(self, reference: Callable) -> Callable:
        """The op as a callable for calls that are not planned by specs: the kernel for large arrays, else the reference."""

        least = min(self.least, _LEAST_NARROW)

        def run(xp, *operands, **params):
            if settings.kernels and self.pays([spec_of(x, xp) for x in operands], params):
                result = self(xp, *operands, **params)
                if result is not NotImplemented:
                    return result
            return reference(xp, *operands, **params)

        if least and self.arity == 1 and not self.parameters:
            return lambda xp, x: reference(xp, x) if x.size < least else run(xp, x)
        if least and self.arity == 2 and not self.parameters:
            return lambda xp, x, y: reference(xp, x, y) if x.size < least and y.size < least else run(xp, x, y)
        return run

    def prepared(self, xp, operands, params, out):
        """Calls with non-contiguous operands, and empty results."""
        shape = np.broadcast_shapes(*[x.shape for x in operands])
        if not math.prod(shape):
            return allocator.empty(shape, operands[-1].dtype) if out is None else out
        if len(operands) > 1 and any(x.shape == shape and any(x.strides) for x in operands):
            # An expanded scalar, as the gradient of a sum is, becomes one element.
            operands = tuple(x[(slice(1),) * x.ndim] if x.ndim and not any(x.strides) else x for x in operands)
        if not all(x.flags.num & _CONTIGUOUS_ALIGNED == _CONTIGUOUS_ALIGNED for x in operands):
            if out is None and all(x.shape == shape and x.flags.f_contiguous and x.flags.aligned for x in operands):
                result = self(xp, *[x.T for x in operands], **params)
                return result if result is NotImplemented else result.T
            if not self.copies_layouts and math.prod(shape) < LEAST_EXACT:
                return NotImplemented
            operands = tuple(_as_contiguous(x) for x in operands)
        return self(xp, *operands, out=out, **params)


class UserMap(Map):
    """An elementwise op of a user's formula: operands that no kernel broadcasts are copied to the result's shape first."""

    def planned(self, specs, params) -> Plan | bool | None:
        plan = super().planned(specs, params)
        is_layout = plan is None and self.computes(specs[-1].dtype) and kinds_of(specs, broadcast(specs)) is None
        return True if is_layout else plan

    def prepared(self, xp, operands, params, out):
        shape = np.broadcast_shapes(*[x.shape for x in operands])
        if math.prod(shape) and kinds_of(operands, shape) is None:
            operands = tuple(x if x.size == 1 else np.broadcast_to(x, shape) for x in operands)
            return self(xp, *map(_as_contiguous, operands), out=out, **params)
        return super().prepared(xp, operands, params, out)


def define(formula: str, parameters: tuple[str, ...], booleans: int) -> None:
    """Add the op of a user's formula, which has the formula's name."""
    if formula not in MAPS:
        MAPS[formula] = _MAPS_OF[formula] = UserMap(formula, *parameters, booleans=booleans)
        register(formula, "cpu", needs_numba=False)(MAPS[formula])


def launch(name: str, specs, operands, result) -> Launch | None:
    """The launch of map `name` over contiguous operands; the first one's spec has the result's shape."""
    kinds, columns = kinds_of(specs, specs[0].shape) or ("", 0)
    if not kinds:
        return None
    kernel, size = MAPS[name].kernel(specs[0].dtype, kinds), specs[0].size
    if not kernel.ready():
        return None
    inputs = {f"a{i}": operand for i, operand in enumerate(operands)}
    return Launch(kernel, slices(size, columns), **inputs, out0=result, size=size, columns=columns)


#: Copies large arrays in other layouts; set by `moves`, which imports this module.
copied: Callable | None = None


def _as_contiguous(x) -> np.ndarray:
    """The array, or a contiguous copy of it."""
    if x.flags.num & _CONTIGUOUS_ALIGNED == _CONTIGUOUS_ALIGNED:
        return x
    copy = NotImplemented if copied is None or x.size < LEAST_EXACT else copied(x)
    return np.require(x, requirements=("C", "A")) if copy is NotImplemented else copy


def broadcast(specs) -> tuple[int, ...] | None:
    """The broadcast shape of operands, or None."""
    try:
        return np.broadcast_shapes(*[spec.shape for spec in specs])
    except ValueError:
        return None


def kinds_of(operands, shape) -> tuple[str, int] | None:
    """The kind of each operand and the number of columns, 0 without rows or columns; None for other broadcasts."""
    kinds, columns, size = "", 0, math.prod(shape)
    for x in operands:
        if x.size == size:  # its shape differs by leading ones at most
            kinds += "v"
            continue
        if x.size == 1:
            kinds += "s"
            continue
        trimmed = x.shape[next((i for i, n in enumerate(x.shape) if n != 1), x.ndim) :] if x.size else ()
        if trimmed and trimmed == shape[-len(trimmed) :]:
            kind, width = "r", x.size
        elif x.shape == (*shape[:-1], 1):
            kind, width = "c", shape[-1]
        else:
            return None
        if columns and columns != width:
            return None
        kinds, columns = kinds + kind, width
    return (kinds, columns) if "v" in kinds or {"r", "c"} <= set(kinds) else None


#: Every elementwise op with a kernel, by name.
MAPS: dict[str, Map] = {
    name: Map(f.name, *f.parameters, least=LEAST_EXACT if f.exact else 0, booleans=f.booleans)
    for name, f in FORMULAS.items()
}
_MAPS_OF = {op_map.formula: op_map for op_map in MAPS.values()}

for _name in ("add", "sub", "mul", "true_divide"):  # common in programs: with a scalar and with a row
    for _pattern in ("vs", "vr"):
        MAPS[_name].kernel(float32, _pattern)

for _name, _map in MAPS.items():
    register(_name, "cpu", needs_numba=False)(_map)
