"""Elementwise kernels for the CPU, made from a table of formulas.

A kernel is a loop over 32,768 elements, which the threads share out; one element's result depends on nothing else, so
no bit depends on the number of threads. What NumPy computes to the same bits (sums, products, roots, …) runs here for
large arrays only; what it does not, at every size.
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

# Elements of one slice: some 5 to 50 µs. Up to a slice there is one thread.
SLICE = 1 << 15
# NumPy's own loops do for arrays up to this size: one thread moves them as fast, and nothing need be compiled.
LEAST_EXACT = 1 << 17

# What whole numbers have a kernel for, too.
_WHOLE = {"add", "sub", "mul"}
_PLAIN = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_LOCK = locks.lock()
#: The dtypes that maps take, and what they are computed in.
COMPUTED = {float32: float32, float64: float64, int64: int64, float16: float32, bfloat16: float32}
# Of 16-bit floats NumPy computes one after the other.
_LEAST_NARROW = 1 << 12


def _arguments(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> dict[str, Type]:
    operands = {f"a{i}": In(np.bool_) if kind.isupper() else In for i, kind in enumerate(pattern)}
    results = {f"out{k}": Out for k in range(len(stored))}
    count, real = max((p + 1 for line in lines for p in line.parameters), default=0), Float(COMPUTED[np.dtype(dtype)])
    return {**operands, **results, "size": Size, "columns": Size, **{f"p{p}": real for p in range(count)}}


@args(_arguments)
def build(tools, lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]):
    """Formulas over elements, one after the other. Values are the operands, then the lines' results in their order.

    One letter of `pattern` an operand: "v" elements, "s" one element for all, "r" a row for all rows, "c" one element a
    row; capitals are booleans. The arguments are the operands, the `stored` values, the numbers of elements and of columns,
    and the parameters. A result may be written over an operand of its elements.
    """
    return tools.compiled(source(lines, dtype, pattern, stored), scope(tools, lines, np.dtype(dtype)))["kernel"]


def scope(tools, lines: tuple[Line, ...], dt) -> dict:
    """What the code of lines names."""
    number = COMPUTED[dt]
    take, put = tools.elements(dt) if number == dt else tools.access(dt, number)
    return {
        **{line.formula: tools.lift(function(line.formula), number) for line in lines},
        "take": take, "put": put, "rounded": None if number == dt else tools.rounded(dt, number), "SLICE": SLICE,
    }  # fmt: skip


def source(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> str:
    """The kernel as Python."""
    count, kinds, narrow = len(pattern), pattern.lower(), np.dtype(dtype).itemsize == 2
    nested = "r" in kinds or "c" in kinds
    single = {i for i, kind in enumerate(kinds) if kind == "s"}
    once: list[str] = []
    each: list[str] = []
    for i, line in enumerate(lines, count):
        alone = all(x in single for x in line.operands) and i not in stored
        if alone:
            single.add(i)
        values = [f"x{x}" if x in single or x >= count else _ELEMENT[pattern[x]].format(x) for x in line.operands]
        value = f"{line.formula}({', '.join([*values, *(f'p{p}' for p in line.parameters)])})"
        (once if alone else each).append(f"x{i} = rounded({value})" if narrow else f"x{i} = {value}")
    each += [f"put(out{k}, i, x{value})" for k, value in enumerate(stored)]
    body = [
        f"def kernel({', '.join(_arguments(lines, dtype, pattern, stored))}, chunk):",
        *(
            f"    x{i} = {'a{0}[0] != 0' if kind == 'S' else 'take(a{0}, 0)'}".format(i)
            for i, kind in enumerate(pattern)
            if kind in "sS"
        ),
        *(f"    {line}" for line in once),
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
            *(f"            {line}" for line in each),
        ]
    else:
        body += [
            "    for i in range(chunk * SLICE, min(size, (chunk + 1) * SLICE)):",
            *(f"        {line}" for line in each),
        ]
    return "\n".join([*body, "    return 0"])


_ELEMENT = {
    "v": "take(a{0}, i)", "V": "(a{0}[i] != 0)", "r": "take(a{0}, j)", "R": "(a{0}[j] != 0)", "c": "c{0}", "C": "(c{0} != 0)",
}  # fmt: skip


build.__dict__["source"] = source


def slices(size: int, columns: int) -> int:
    """How many slices a kernel has."""
    return -(-(size // columns) // max(1, SLICE // columns)) if columns else -(-size // SLICE)


def fused(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> Kernel:
    """The kernel of several formulas; that of an op where it is one."""
    alone = _MAPS_OF.get(lines[0].formula) if len(lines) == 1 else None
    if (
        alone is not None
        and stored == (alone.arity,)
        and lines == one(alone.formula, alone.arity, len(alone.parameters))
    ):
        kinds = pattern.lower()
        if pattern == kinds[: alone.booleans].upper() + kinds[alone.booleans :]:
            return alone.kernel(np.dtype(dtype), kinds)
    name = jit.named("fused", lines, dtype, pattern, stored)
    with _LOCK:
        return jit.KERNELS.get(name) or Kernel(name, build, lines, dtype, pattern, stored)


def one(formula: str, operands: int, parameters: int) -> tuple[Line, ...]:
    """The lines of a kernel of one formula."""
    return (Line(formula, tuple(range(operands)), tuple(range(parameters))),)


class Map(Lowering):
    """An elementwise op: its kernels, each made when a call first needs it, and the plans of its calls.

    `least`: smaller arrays are left to the reference, which has the same bits, unless the kernel need not be compiled.
    `out=`: a C-contiguous array of the result's shape and dtype, which may be one of the operands.
    """

    def __init__(self, formula: str, *parameters: str, least: int = 0, booleans: int = 0):
        super().__init__(formula, self.planned, (), parameters, self.prepared, cost=self.arithmetic)
        self.formula, self.parameters, self.least, self.booleans = formula, parameters, least, booleans
        self.gathers = not least  # an operand in another layout is worth a copy where the computing takes longer
        self.arity = function(formula).__code__.co_argcount - len(parameters)
        self._kernels: dict[tuple[str, str], Kernel] = {}
        self.kernel(float32, "v" * self.arity)

    def kernel(self, dtype, kinds: str) -> Kernel:
        """The kernel for operands of these kinds: a letter each, see `build`."""
        found = self._kernels.get((dtype.char, kinds))
        if found is None:
            with _LOCK:
                found = self._kernels.get((dtype.char, kinds))
                if found is None:
                    pattern = kinds[: self.booleans].upper() + kinds[self.booleans :]
                    name = f"{self.formula}_{dtype.name}" + ("" if kinds == "v" * self.arity else f"_{kinds}")
                    lines = one(self.formula, self.arity, len(self.parameters))
                    found = Kernel(name, build, lines, dtype.name, pattern, (self.arity,))
                    self._kernels[dtype.char, kinds] = found
        return found

    def planned(self, specs, params) -> Plan | bool | None:
        like = specs[-1]
        dtype = like.dtype
        if dtype not in COMPUTED or (dtype is int64 and self.formula not in _WHOLE):
            return None
        if dtype.itemsize == 2 and not jit.narrow_floats():
            return None
        if any(spec.dtype != (np.bool_ if i < self.booleans else dtype) for i, spec in enumerate(specs)):
            return None
        alike = all(spec.shape == like.shape for spec in specs)
        shape = like.shape if alike else broadcast(specs)
        if shape is None:
            return True
        size = math.prod(shape)
        if not size or not all(spec.plain for spec in specs):
            return True
        layout = ("v" * len(specs), 0) if alike else kinds_of(specs, shape)
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
        return Plan(like if alike else contiguous(shape, dtype, like.backend), [launch])

    def arithmetic(self, specs, params) -> float:
        return math.prod(broadcast(specs) or ()) * operations(self.formula)

    def pays(self, specs, params) -> bool:
        dtype, size = specs[-1].dtype, max(spec.size for spec in specs)
        if size >= (self.least if dtype.itemsize > 2 else min(self.least, _LEAST_NARROW)):
            return True
        if dtype not in COMPUTED or not all(spec.plain for spec in specs):
            return False
        shape = broadcast(specs)
        layout = None if shape is None else kinds_of(specs, shape)
        return layout is not None and self.kernel(dtype, layout[0]).is_cached()

    def bind(self, reference: Callable) -> Callable:
        """What runs the op where it is not planned by its specs: the kernel for large arrays, else the reference."""

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
        """Operands of which some are not contiguous, and results without elements."""
        shape = np.broadcast_shapes(*[x.shape for x in operands])
        if not math.prod(shape):
            return allocator.empty(shape, operands[-1].dtype) if out is None else out
        if len(operands) > 1 and any(x.shape == shape and any(x.strides) for x in operands):
            # One number that stands for many, as the gradient of a sum is.
            operands = tuple(x[(slice(1),) * x.ndim] if x.ndim and not any(x.strides) else x for x in operands)
        if not all(x.flags.num & _PLAIN == _PLAIN for x in operands):
            if out is None and all(x.shape == shape and x.flags.f_contiguous and x.flags.aligned for x in operands):
                result = self(xp, *[x.T for x in operands], **params)
                return result if result is NotImplemented else result.T
            if not self.gathers and math.prod(shape) < LEAST_EXACT:
                return NotImplemented
            operands = tuple(_contiguous(x) for x in operands)
        return self(xp, *operands, out=out, **params)


def launch(name: str, specs, operands, result) -> Launch | None:
    """The launch of the map `name` over contiguous operands of these specs, the first of which has the result's shape."""
    kinds, columns = kinds_of(specs, specs[0].shape) or ("", 0)
    if not kinds:
        return None
    kernel, size = MAPS[name].kernel(specs[0].dtype, kinds), specs[0].size
    if not kernel.ready():
        return None
    inputs = {f"a{i}": operand for i, operand in enumerate(operands)}
    return Launch(kernel, slices(size, columns), **inputs, out0=result, size=size, columns=columns)


#: Copies large arrays in other layouts; `moves`, which needs what is here, sets it.
copied: Callable | None = None


def _contiguous(x) -> np.ndarray:
    """The array itself, or a contiguous copy of it."""
    if x.flags.num & _PLAIN == _PLAIN:
        return x
    copy = NotImplemented if copied is None or x.size < LEAST_EXACT else copied(x)
    return np.require(x, requirements=("C", "A")) if copy is NotImplemented else copy


def broadcast(specs) -> tuple[int, ...] | None:
    """The shape of a result, or None where the operands' do not broadcast."""
    try:
        return np.broadcast_shapes(*[spec.shape for spec in specs])
    except ValueError:
        return None


def kinds_of(operands, shape) -> tuple[str, int] | None:
    """How each operand meets the result's shape, and the number of columns where that matters; None: another way."""
    kinds, columns = "", 0
    for x in operands:
        if x.shape == shape:
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
_MAPS_OF = {found.formula: found for found in MAPS.values()}

for _name in ("add", "sub", "mul", "true_divide"):  # with a number and with a row, as most programs have them
    for _pattern in ("vs", "vr"):
        MAPS[_name].kernel(float32, _pattern)

for _name, _map in MAPS.items():
    register(_name, "cpu", needs_numba=False)(_map)
