"""Elementwise kernels of CUDA, from the same table of formulas as the CPU's.

Ops that CuPy computes equally well (sums, products, roots, …) run on CuPy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64
from deepcore.kernels.codegen.kernel import Float, In, Out, Size, Type, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.math.formulas import FORMULAS, HOST_ONLY, function
from deepcore.kernels.registry import register

#: Elements per thread and iteration: the number of loads in flight.
_PER_THREAD = 4
_TILE = THREADS * _PER_THREAD

#: The dtype in which each dtype is computed.
_COMPUTED: dict[Any, Any] = {float16: float32, bfloat16: float32, float32: float32, float64: float64}


def _arguments(formula: str, dtype: str, pattern: str, parameters: int) -> dict[str, Type]:
    computed = _COMPUTED[np.dtype(dtype)]
    operands = dict.fromkeys((f"x{i}" for i in range(len(pattern))), In)
    return {**operands, "out": Out, "size": Size, **{f"p{j}": Float(computed) for j in range(parameters)}}


@args(_arguments)
def build(tools, formula: str, dtype: str, pattern: str, parameters: int):
    """out = formula(operands …, parameters …). `pattern` has a letter per operand: "v" elements, "s" a scalar."""
    stored = np.dtype(dtype)
    load, store = tools.access(stored)
    scope: dict[str, Any] = {
        "function": tools.lift(function(formula), _COMPUTED[stored]),
        "load": load, "store": store, "thread": tools.thread(), "block": tools.block(), "blocks": tools.blocks(),
    }  # fmt: skip
    xs, ps = [f"x{i}" for i in range(len(pattern))], [f"p{j}" for j in range(parameters)]

    def value(i: int, kind: str, at: str, k: object = "") -> str:
        return f"s{i}" if kind == "s" else f"v{i}{k}"

    def loads(at: str, k: object = "") -> list[str]:
        return [f"v{i}{k} = load(x{i}, {at})" for i, kind in enumerate(pattern) if kind == "v"]

    def result(at: str, k: object = "") -> str:
        return (
            f"store(out, {at}, function({', '.join([value(i, kind, at, k) for i, kind in enumerate(pattern)] + ps)}))"
        )

    places = [f"i + {k * THREADS}" for k in range(_PER_THREAD)]
    body = [
        f"def kernel({', '.join([*xs, 'out', 'size', *ps])}):",
        *(f"    s{i} = load(x{i}, 0)" for i, kind in enumerate(pattern) if kind == "s"),
        f"    for start in range(block() * {_TILE}, size, blocks() * {_TILE}):",
        "        i = start + thread()",
        f"        if start + {_TILE} <= size:",
        *(f"            {line}" for k, at in enumerate(places) for line in loads(at, f"_{k}")),
        *(f"            {result(at, f'_{k}')}" for k, at in enumerate(places)),
        "        else:",
        "            while i < size:",
        *(f"                {line}" for line in loads("i")),
        f"                {result('i')}",
        f"                i += {THREADS}",
    ]
    return tools.compiled("\n".join(body), scope)["kernel"]


class Map:
    """An elementwise op on a GPU. Broadcast operands are expanded first, except scalars."""

    def __init__(
        self, name: str, formula: str, arity: int, parameters: tuple[str, ...], dtypes: Iterable[Any] = tuple(_COMPUTED)
    ):
        self.name, self.formula, self.arity, self.parameters = name, formula, arity, parameters
        self._kernels = {d: self._kernel(d, "v" * arity) for d in dtypes}
        self._mixed: dict[tuple, Kernel] = {}

    def _kernel(self, dtype, pattern: str) -> Kernel:
        name = f"{self.formula}_{dtype.name}" + (f"_{pattern}" if "s" in pattern else "")
        return Kernel(name, build, self.formula, dtype.name, pattern, len(self.parameters))

    def __call__(self, xp, *operands, **params):
        dtype = operands[0].dtype
        kernel = self._kernels.get(dtype)
        if kernel is None or len(operands) != self.arity or any(x.dtype != dtype for x in operands):
            return NotImplemented
        shape = operands[0].shape
        if any(x.shape != shape for x in operands):
            shape = np.broadcast_shapes(*[x.shape for x in operands])
            pattern = "".join("s" if x.size == 1 else "v" for x in operands)
            if "s" in pattern and "v" in pattern:
                kernel = self._mixed.get((dtype, pattern))
                if kernel is None:
                    kernel = self._mixed.setdefault((dtype, pattern), self._kernel(dtype, pattern))
                operands = tuple(x if k == "s" else xp.broadcast_to(x, shape) for x, k in zip(operands, pattern))
            else:
                operands = tuple(xp.broadcast_to(x, shape) for x in operands)
        if not xp.ready(kernel):
            return NotImplemented
        operands = tuple(xp.ascontiguousarray(x) for x in operands)
        out = xp.empty(shape, dtype=dtype)
        if out.size:
            inputs = {f"x{i}": x for i, x in enumerate(operands)}
            numbers = {f"p{j}": params[name] for j, name in enumerate(self.parameters)}
            xp.launch(kernel, blocks_for(xp, out.size, _TILE), **inputs, out=out, size=out.size, **numbers)
        return out


def define(formula: str, arity: int, parameters: tuple[str, ...]) -> None:
    """Add the op of a user's formula, which has the formula's name, for the dtypes in which it needs no C library."""
    if formula not in MAPS:
        dtypes = [d for d, computed in _COMPUTED.items() if (formula, np.dtype(computed).name) not in HOST_ONLY]
        MAPS[formula] = register(formula, "cuda", needs_numba=False)(Map(formula, formula, arity, parameters, dtypes))


#: Every elementwise op with a CUDA kernel, by name.
MAPS: dict[str, Map] = {
    name: register(name, "cuda", needs_numba=False)(Map(name, f.name, f.arity, f.parameters))
    for name, f in FORMULAS.items()
    if not f.exact
}
