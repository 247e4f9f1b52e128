"""Elementwise kernels of CUDA, from the table of formulas that the CPU's are made from, and the random numbers.

What CuPy's own functions compute as well (sums, products, roots, …) is left to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64
from deepcore.kernels.codegen.jit import signed_words
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.cuda.kernel import Kernel, blocks_for
from deepcore.kernels.math import elementary
from deepcore.kernels.registry import register

THREADS = 256
#: Elements of a thread at a time: so many loads are under way together.
_EACH = 4
_TILE = THREADS * _EACH

#: What a dtype is computed in, and how memory holds it.
_COMPUTED = {float16: float32, bfloat16: float32, float32: float32, float64: float64}
_HELD = {float16: "uint16", bfloat16: "uint16", float32: "float32", float64: "float64"}


def build(tools, formula: str, dtype: str, pattern: str, parameters: int):
    """out = formula(operands …, parameters …). A letter of `pattern` an operand: "v" elements, "s" one for all."""
    held = next(d for d in _HELD if d.name == dtype)
    load, store = tools.access(held)
    scope: dict[str, Any] = {
        "function": tools.lift(elementwise.function_of(formula), _COMPUTED[held]),
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

    places = [f"i + {k * THREADS}" for k in range(_EACH)]
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
    exec("\n".join(body), scope)
    return scope["kernel"]


class Map:
    """An elementwise op on a GPU. Operands that broadcast are spread out first, but for single elements."""

    def __init__(self, name: str, formula: str, arity: int, parameters: tuple[str, ...]):
        self.name, self.formula, self.arity, self.parameters = name, formula, arity, parameters
        self._kernels = {d: self._kernel(d, "v" * arity) for d in _HELD}
        self._mixed: dict[tuple, Kernel] = {}

    def _kernel(self, dtype, pattern: str) -> Kernel:
        held, number = _HELD[dtype], _COMPUTED[dtype].name
        types = (*[f"{held}*"] * (self.arity + 1), "int64", *[number] * len(self.parameters))
        name = f"{self.formula}_{dtype.name}" + (f"_{pattern}" if "s" in pattern else "")
        return Kernel(name, types, build, self.formula, dtype.name, pattern, len(self.parameters), threads=THREADS)

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
            number = _COMPUTED[dtype].type
            values = [number(params[name]) for name in self.parameters]
            xp.launch(kernel, blocks_for(xp, out.size, _TILE), *operands, out, out.size, *values)
        return out


#: Every elementwise op with a CUDA kernel, by name.
MAPS: dict[str, Map] = {
    name: register(name, "cuda", needs_numba=False)(Map(name, m.formula, m.arity, m.parameters))
    for name, m in elementwise.MAPS.items()
    if not m.least
}


# -- random numbers -------------------------------------------------------------------------------------------------


class Word(int):
    """A position in a random stream that a kernel finds in memory: `state` has seed, stream and position there, and
    `ahead` is added."""

    state: Any
    ahead: int

    @classmethod
    def of(cls, value: int, state, ahead: int) -> Word:
        self = cls(value)
        self.state, self.ahead = state, ahead
        return self


def _stream(xp, seed: int, stream: int, position: int) -> tuple:
    """(array, seed, stream, position) as kernels take them, who add the first's three words to the others."""
    if isinstance(position, Word):
        return position.state, 0, 0, position.ahead
    return xp.no_words, *signed_words(seed, stream, position)


def _philox(tools):
    """Blocks start, start + 1, … of Philox4x32-10, as on the CPU."""
    thread, block, blocks = tools.thread(), tools.block(), tools.blocks()
    draw = tools.lift(elementary.philox_block)

    def kernel(out, state, seed, stream, start, count):
        seed, stream, start = seed + state[0], stream + state[1], start + state[2]
        for i in range(block() * THREADS + thread(), count, blocks() * THREADS):
            w = draw(np.uint64(seed), np.uint64(stream), np.uint64(start) + np.uint64(i))
            out[4 * i] = np.uint32(w[0])
            out[4 * i + 1] = np.uint32(w[1])
            out[4 * i + 2] = np.uint32(w[2])
            out[4 * i + 3] = np.uint32(w[3])

    return kernel


PHILOX = Kernel("philox", ("uint32*", "int64*", "int64", "int64", "int64", "int64"), _philox)


@register("philox", "cuda", needs_numba=False)
def philox(xp, seed: int, stream: int, start: int, blocks: int):
    if not xp.ready(PHILOX):
        return NotImplemented
    out = xp.empty(4 * blocks, dtype=np.uint32)
    if blocks:
        xp.launch(PHILOX, blocks_for(xp, blocks, THREADS), out, *_stream(xp, seed, stream, start), blocks)
    return out


def _dropout(tools, dtype: str):
    """out[i] = x[i]·(scale where word i of the stream is below the threshold, else 0)."""
    dt = np.dtype(dtype)
    thread, block, blocks = tools.thread(), tools.block(), tools.blocks()
    draw, zero = tools.lift(elementary.philox_block), dt.type(0)

    def kernel(x, out, size, state, seed, stream, start, threshold, scale):
        seed, stream, start = seed + state[0], stream + state[1], start + state[2]
        for i in range(block() * THREADS + thread(), (size + 3) // 4, blocks() * THREADS):
            w = draw(np.uint64(seed), np.uint64(stream), np.uint64(start) + np.uint64(i))
            for j in range(4):
                if 4 * i + j < size:
                    out[4 * i + j] = x[4 * i + j] * (scale if np.int64(w[j]) < threshold else zero)

    return kernel


_DROPOUT = {
    d: Kernel(
        f"dropout_{d.name}", (f"{d.name}*", f"{d.name}*", "int64", "int64*", *["int64"] * 4, d.name), _dropout, d.name
    )
    for d in (float32, float64)
}


@register("dropout", "cuda", needs_numba=False)
def dropout(xp, input, *, seed, stream, position, p):
    kernel, threshold = _DROPOUT.get(input.dtype), round((1 - p) * 2**32)
    if kernel is None or not input.size or not 0 < threshold < 1 << 32 or not xp.ready(kernel):
        return NotImplemented
    x = xp.ascontiguousarray(input)
    out = xp.empty(x.shape, dtype=x.dtype)
    state = _stream(xp, seed, stream, position)
    blocks = blocks_for(xp, -(-x.size // 4), THREADS)
    xp.launch(kernel, blocks, x, out, x.size, *state, threshold, x.dtype.type(1 / (1 - p)))
    return out
