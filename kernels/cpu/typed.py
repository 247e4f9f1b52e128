"""Elementwise kernels whose operands and result have dtypes of their own.

`elementwise` has the loops that compiled programs fuse, over operands of one dtype; here are comparisons, conversions,
choices, and functions of float32 that are computed in float64.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deepcore import locks
from deepcore.backend import dtypes as dtype_names
from deepcore.backend.dtypes import bfloat16, bool_, float16, float32, float64, int64, is_floating
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, Type, args
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.cpu.elementwise import SLICE
from deepcore.kernels.math.formulas import function, has_function, operations
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register

_LOCK = locks.lock()
_PLAIN = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
# Elements that are looked at together for numbers that the formula is not made for.
_BLOCK = 256


class Rule(NamedTuple):
    """What an op computes over operands of some dtypes: the formula, and the dtypes of the operands and, last, the result
    as memory holds them and as they are computed. `exact`: the reference has the same bits."""

    formula: str
    held: tuple
    computed: tuple
    exact: bool = True


def _arguments(formula: str, held: tuple[str, ...], computed: tuple[str, ...], pattern: str) -> dict[str, Type]:
    operands = {f"a{k}": In(name) for k, name in enumerate(held[:-1])}
    return {**operands, "out": Out(held[-1]), "size": Size, "columns": Size}


@args(_arguments)
def build(tools, formula: str, held: tuple[str, ...], computed: tuple[str, ...], pattern: str):
    """out = formula(operands …). A letter of `pattern` an operand: "v" elements, "s" one for all, "r" a
    row for all rows, "c" one element a row. `held` and `computed`: dtypes of the operands and, last, the result."""
    numbers = [np.dtype(name) for name in computed]
    floating = next((d for d in numbers if d.kind == "f"), None)
    scope: dict = {"formula": tools.lift(function(formula), floating), "SLICE": SLICE, "BLOCK": _BLOCK}
    if _is_guarded(formula):
        scope["far"] = tools.lift(function(f"{formula}_far"), floating)
        scope["library"] = tools.lift(function(f"{formula}_library"), floating)
    for k, (name, number) in enumerate(zip(held, numbers)):
        scope[f"take{k}"], scope[f"put{k}"] = tools.access(np.dtype(name), number)
    return tools.compiled(source(formula, held, computed, pattern), scope)["kernel"]


def source(formula: str, held: tuple[str, ...], computed: tuple[str, ...], pattern: str) -> str:
    """The kernel as Python."""
    count = len(pattern)
    element = {"v": "take{0}(a{0}, i)", "r": "take{0}(a{0}, j)", "c": "c{0}", "s": "s{0}"}
    values = ", ".join(element[kind].format(k) for k, kind in enumerate(pattern))
    body = [
        f"def kernel({', '.join(_arguments(formula, held, computed, pattern))}, chunk):",
        *(f"    s{k} = take{k}(a{k}, 0)" for k, kind in enumerate(pattern) if kind == "s"),
    ]
    nested = "r" in pattern or "c" in pattern
    if nested:
        body += [
            "    step = max(1, SLICE // columns)",
            "    for row in range(chunk * step, min(size // columns, (chunk + 1) * step)):",
            "        base, first, last = row * columns, 0, columns",
            *(f"        c{k} = take{k}(a{k}, row)" for k, kind in enumerate(pattern) if kind == "c"),
        ]
    else:
        body += [
            "    for once in range(1):",
            "        base, first, last = 0, chunk * SLICE, min(size, (chunk + 1) * SLICE)",
        ]
    put = f"put{count}(out, i, formula({values}))"
    if not _is_guarded(formula):
        body += ["        for j in range(first, last):", "            i = base + j", f"            {put}"]
    else:
        body += [
            "        for block in range(first, last, BLOCK):",
            "            end, bad = min(block + BLOCK, last), 0",
            "            for j in range(block, end):",
            "                i = base + j",
            f"                bad += 1 if far({values}) else 0",
            f"                {put}",
            "            if bad:",
            "                for j in range(block, end):",
            "                    i = base + j",
            f"                    if far({values}):",
            f"                        put{count}(out, i, library({values}))",
        ]
    return "\n".join([*body, "    return 0"])


build.__dict__["source"] = source


def _is_guarded(formula: str) -> bool:
    return has_function(f"{formula}_far")


class TypedMap(Lowering):
    """An elementwise op: `rule(dtypes)` says what it computes over operands of these dtypes; None leaves them to the
    reference. `least`: smaller arrays are, too, where the rule is exact."""

    def __init__(self, name: str, rule: Callable[..., Rule | None], least: int = 1 << 14, keys=()):
        super().__init__(name, self.planned, keys, prepare=self.prepared, cost=self.arithmetic)
        self.rule, self.least = rule, least
        self._kernels: dict[tuple, Kernel] = {}

    def kernel(self, rule: Rule, kinds: str) -> Kernel:
        found = self._kernels.get((rule, kinds))
        if found is None:
            held, computed = tuple(d.name for d in rule.held), tuple(d.name for d in rule.computed)
            name = "_".join(("map", rule.formula, *held, *dict.fromkeys(computed), kinds))
            with _LOCK:
                found = jit.KERNELS.get(name) or Kernel(name, build, rule.formula, held, computed, kinds)
            self._kernels[rule, kinds] = found
        return found

    def planned(self, specs, params) -> Plan | bool | None:
        rule = self.rule(*(spec.dtype for spec in specs), **params)
        if rule is None or (not jit.narrow_floats() and float16 in rule.held):
            return None
        shape = elementwise.broadcast(specs)
        if shape is None or not math.prod(shape):
            return None
        if not all(spec.plain for spec in specs):
            return True
        kinds, columns = elementwise.kinds_of(specs, shape) or ("", 0)
        if not kinds:
            return None if rule.exact else True
        kernel = self.kernel(rule, kinds)
        if not kernel.ready():
            return None
        size, count = math.prod(shape), len(specs)
        operands = {f"a{i}": Operand(i) for i in range(count)} | {"out": Operand(count)}
        launch = Launch(kernel, elementwise.slices(size, columns), **operands, size=size, columns=columns)
        return Plan(contiguous(shape, rule.held[-1], specs[0].backend), [launch])

    def arithmetic(self, specs, params) -> float:
        rule = self.rule(*(spec.dtype for spec in specs), **params)
        return math.prod(elementwise.broadcast(specs) or ()) * (1 if rule is None else operations(rule.formula))

    def pays(self, specs, params) -> bool:
        rule = self.rule(*(spec.dtype for spec in specs), **params)
        return rule is not None and (not rule.exact or max(spec.size for spec in specs) >= self.least)

    def prepared(self, xp, operands, params, out):
        """Operands in another layout, or that broadcast in a way no kernel has."""
        shape = np.broadcast_shapes(*[x.shape for x in operands])
        if len(operands) == 1 and out is None and operands[0].flags.f_contiguous and operands[0].flags.aligned:
            result = self(xp, operands[0].T, **params)
            return result if result is NotImplemented else result.T
        rule = self.rule(*(x.dtype for x in operands), **params)
        if rule is None or (rule.exact and not all(x.shape == shape or x.size == 1 for x in operands)):
            return NotImplemented
        spread = elementwise.kinds_of(operands, shape) is None
        operands = [np.broadcast_to(x, shape) if spread and x.size > 1 else x for x in operands]
        return self(xp, *[np.require(x, requirements="CA") for x in operands], out=out, **params)


# -- which -----------------------------------------------------------------------------------------------------------

_WIDE = {float16: float32, bfloat16: float32, float32: float32, float64: float64}
_NARROW = (float16, bfloat16)


def _comparison(name: str):
    def rule(x, y):
        number = _WIDE.get(x) or (x if x in (int64, bool_) else None)
        return Rule(name, (x, y, bool_), (number, number, bool_)) if number is not None and x == y else None

    return rule


def _predicate(name: str):
    def rule(x):
        number = _WIDE.get(x)
        return None if number is None else Rule(name, (x, bool_), (number, bool_))

    return rule


def _conversion(x, *, dtype, source):
    """Between floats, from bools and small whole numbers to floats, and to bools."""
    if x == dtype:
        return None
    if is_floating(dtype) and dtype in _WIDE and (is_floating(x) or x.itemsize < 8):
        # Whole numbers of 32 bits fit in float64, which is rounded once.
        number = float64 if float64 in (x, dtype) or (x.itemsize == 4 and x.kind in "iu") else float32
        if x.kind in "iub" and dtype in _NARROW and x.itemsize == 4:
            return None
        return Rule("same", (x, dtype), (number, number))
    if dtype == bool_ and x in _WIDE:
        return Rule("nonzero", (x, bool_), (_WIDE[x], bool_))
    return None


def _rounding(name: str):
    """Of a 16-bit float and a float32 number."""

    def rule(x, y):
        half = x if x in _NARROW else y
        if half not in _NARROW or any(d not in (half, float32) for d in (x, y)):
            return None
        return Rule(name, (x, y, half), (float32, float32, float32))

    return rule


def _in_float64(formula: str, exact: bool = False):
    """A function of float32 and of 16-bit floats, computed in float64 and rounded once."""

    def rule(*dtypes):
        x = dtypes[0]
        if x not in (float32, *_NARROW) or any(d != x for d in dtypes):
            return None
        return Rule(formula, (*dtypes, x), (float64,) * (len(dtypes) + 1), exact)

    return rule


def _add(lowering: Lowering) -> None:
    register(lowering.op_name, "cpu", needs_numba=False)(lowering)


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"):
    _add(TypedMap(_name, _comparison(_name)))
for _name in ("logical_not", "isnan", "isinf", "isfinite"):
    _add(TypedMap(_name, _predicate(_name)))
for _name in ("add", "sub", "mul", "true_divide"):
    _add(TypedMap(f"{_name}_rounding", _rounding(_name)))
_add(TypedMap("cast", _conversion, keys=("dtype",)))
for _name in (
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "exp2", "log2", "log10",
    "logaddexp",
):  # fmt: skip
    _add(TypedMap(_name, _in_float64(_name)))
for _name in ("fmod", "remainder", "floor_divide"):
    _add(TypedMap(_name, _in_float64(_name, exact=True)))
_add(TypedMap("pow", _in_float64("power")))


def define(formula: str, operands: str, result: str) -> None:
    """Add the op of a user's formula, whose operands and result are real ("f"), whole ("i") or boolean ("b")."""

    def rule(*dtypes):
        real = next((d for d, kind in zip(dtypes, operands) if kind == "f"), dtype_names.default_float)
        whole = next((d for d, kind in zip(dtypes, operands) if kind == "i"), int64)
        if real not in _WIDE or any(d.kind not in _KINDS[k] for d, k in zip(dtypes, operands) if k != "f"):
            return None
        held = (*dtypes, {"f": real, "i": whole, "b": bool_}[result])
        number = {"f": _WIDE[real], "i": int64, "b": bool_}
        return Rule(formula, held, tuple(number[kind] for kind in (*operands, result)), exact=False)

    _add(TypedMap(formula, rule))


_KINDS = {"i": "iu", "b": "b"}


class _Powers(Lowering):
    """Powers that are products, quotients and roots: each by the map of that."""

    MAPS: typing.ClassVar = {2: "square", 3: "cube", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal", -2: "inverse_square"}

    def __init__(self):
        super().__init__("power", self.planned, ("exponent",), prepare=self.prepared)

    def map(self, params) -> elementwise.Map:
        return elementwise.MAPS[self.MAPS[params["exponent"]]]

    def planned(self, specs, params):
        return self.map(params).planned(specs, {})

    def pays(self, specs, params) -> bool:
        return self.map(params).pays(specs, {})

    def prepared(self, xp, arrays, params, out):
        return self.map(params).prepared(xp, arrays, {}, out)


_add(_Powers())
