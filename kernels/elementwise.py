"""Elementwise kernels for the CPU, made from a table of formulas.

A kernel is a loop over 32,768 elements, which the threads share out; one element's result depends on nothing else, so
no bit depends on the number of threads. What NumPy computes to the same bits (sums, products, roots, …) runs here for
large arrays only; what it does not, at every size.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import numpy as np

from deepcore.backend.dtypes import float32, float64, int64
from deepcore.config import settings
from deepcore.kernels import compiler, formulas, memory, pool, register, scalar, watch
from deepcore.kernels.compiler import Kernel, address, bits

# Elements of one slice: some 5 to 50 µs. Up to a slice there is one thread.
SLICE = 1 << 15
# NumPy's own loops do for arrays up to this size: one thread moves them as fast, and nothing need be compiled.
LEAST_EXACT = 1 << 17

# What whole numbers have a kernel for, too.
_WHOLE = {"add", "sub", "mul"}
_PLAIN = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_LOCK = threading.Lock()
_pack_1, _pack_2 = struct.Struct("4q").pack, struct.Struct("5q").pack


def build(tools, formula: str, dtype: str, pattern: str, parameters: int):
    """out = formula(operands …, parameters …). One letter of `pattern` an operand: "v" elements, "s" one element for
    all, "r" a row for all rows, "c" one element a row; capitals are booleans. Words: the operands' addresses, out's,
    number of elements, of columns, and the parameters as float64.
    """
    dt = np.dtype(dtype)
    scope = {
        "function": tools.lift(_function(formula), dt), "view": tools.view(dt), "flags": tools.view(np.dtype(np.bool_)),
        "number": dt.type, "np": np, "SLICE": SLICE,
    }  # fmt: skip
    count = len(pattern)
    kinds = pattern.lower()
    nested = "r" in kinds or "c" in kinds
    body = [
        "def kernel(a, part):",
        *(f"    x{i} = {'flags' if kind.isupper() else 'view'}(a[{i}])" for i, kind in enumerate(pattern)),
        f"    out, size, columns = view(a[{count}]), a[{count + 1}], a[{count + 2}]",
        *(f"    p{j} = number(np.int64(a[{count + 3 + j}]).view(np.float64))" for j in range(parameters)),
        *(f"    s{i} = x{i}[0]" for i, kind in enumerate(kinds) if kind == "s"),
    ]
    place = {"v": "x{0}[i]", "s": "s{0}", "r": "x{0}[j]", "c": "c{0}"}
    values = [place[kind].format(i) for i, kind in enumerate(kinds)] + [f"p{j}" for j in range(parameters)]
    if nested:
        body += [
            "    step = max(1, SLICE // columns)",
            "    for row in range(part * step, min(size // columns, (part + 1) * step)):",
            *(f"        c{i} = x{i}[row]" for i, kind in enumerate(kinds) if kind == "c"),
            "        for j in range(columns):",
            "            i = row * columns + j",
            f"            out[i] = function({', '.join(values)})",
        ]
    else:
        body += [
            "    for i in range(part * SLICE, min(size, (part + 1) * SLICE)):",
            f"        out[i] = function({', '.join(values)})",
        ]
    exec("\n".join([*body, "    return 0"]), scope)
    return scope["kernel"]


class Map:
    """An elementwise op: its kernels, each made when a call first needs it, and the ways into them.

    Called like any kernel, also with `out=`, a C-contiguous array of the result's shape and dtype, which may be one of
    the operands. `least`: `bind` leaves arrays below this size to the reference.
    """

    __slots__ = ("_kernels", "arity", "booleans", "copies", "formula", "least", "parameters")

    def __init__(self, formula: str, *parameters: str, least: int = 0, booleans: int = 0):
        self.formula, self.parameters, self.least, self.booleans = formula, parameters, least, booleans
        self.copies = not least  # an operand in another layout is worth a copy where the computing takes longer
        self.arity = _function(formula).__code__.co_argcount - len(parameters)
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
                    found = Kernel(name, build, self.formula, dtype.name, pattern, len(self.parameters))
                    self._kernels[dtype.char, kinds] = found
        return found

    def __call__(self, xp, *operands, out=None, **params):
        like = operands[-1]
        dtype, shape = like.dtype, like.shape
        for x in operands:
            if x.dtype is not dtype or x.shape != shape or x.flags.num & _PLAIN != _PLAIN:
                return self._unlike(xp, operands, out, params)
        return self._run(operands, "v" * self.arity, 0, shape, out, params)

    def _unlike(self, xp, operands, out, params):
        """Operands that differ in shape, layout or dtype."""
        dtype = operands[-1].dtype
        for i, x in enumerate(operands):
            if x.dtype != (np.bool_ if i < self.booleans else dtype):
                return NotImplemented
        shape = np.broadcast_shapes(*[x.shape for x in operands])
        if len(operands) > 1 and any(x.shape == shape and any(x.strides) for x in operands):
            # One number that stands for many, as the gradient of a sum is.
            operands = tuple(x[(slice(1),) * x.ndim] if x.ndim and not any(x.strides) else x for x in operands)
        if not all(x.flags.num & _PLAIN == _PLAIN for x in operands):
            if out is None and all(x.shape == shape and x.flags.f_contiguous and x.flags.aligned for x in operands):
                result = self(xp, *[x.T for x in operands], **params)
                return result if result is NotImplemented else result.T
            if not self.copies:
                return NotImplemented
            operands = tuple(np.require(x, requirements="CA") for x in operands)
        found = _kinds(operands, shape)
        return NotImplemented if found is None else self._run(operands, *found, shape, out, params)

    def _run(self, operands, kinds: str, columns: int, shape, out, params):
        dtype = operands[-1].dtype
        if dtype == float32:
            kernel = self.kernel(float32, kinds)
        elif dtype == float64:
            kernel = self.kernel(float64, kinds)
        elif dtype == int64 and self.formula in _WHOLE:
            kernel = self.kernel(int64, kinds)
        else:
            return NotImplemented
        if not kernel.address and not kernel.ready():
            return NotImplemented
        if out is None:
            out = memory.empty(shape, dtype)
        size = out.size
        if columns:
            slices = -(-(size // columns) // max(1, SLICE // columns))
        else:
            slices = -(-size // SLICE)
        words = [address(x) for x in operands]
        words += (address(out), size, columns)
        for name in self.parameters:
            words.append(bits(params[name]))
        if size:
            pool.complete(kernel, slices, *words)
        return out

    def bind(self, reference: Callable) -> Callable:
        """What runs the op: small calls by the shortest way, others as they come."""
        least = self.least

        def run(xp, *operands, **params):
            if settings.kernels:
                result = self(xp, *operands, **params)
                if result is not NotImplemented:
                    return result
            return reference(xp, *operands, **params)

        if not self.parameters and compiler.address is compiler.fast_address and self.arity < 3:
            return (self._bind_unary if self.arity == 1 else self._bind_binary)(run, reference)
        if least:
            return lambda xp, *xs: run(xp, *xs) if max(x.size for x in xs) >= least else reference(xp, *xs)
        return run

    # A call of a few elements spends a microsecond in these, so they look nowhere twice.

    def _bind_unary(self, run, reference):
        kernel, data, header, empty, least = (
            self.kernel(float32, "v"), compiler.MEMORY, compiler.HEADER, np.empty, self.least,
        )  # fmt: skip

        def run_unary(xp, x):
            size = x.size
            if size < least:
                return reference(xp, x)
            if x.dtype is float32 and x.flags.num & _PLAIN == _PLAIN and kernel.address and settings.kernels:
                if size <= SLICE and not watch.count:
                    out = empty(x.shape, float32)
                    kernel._call(_pack_1(data[(id(x) + header) >> 3], data[(id(out) + header) >> 3], size, 0), 0)
                else:
                    out = memory.empty(x.shape, float32)
                    pool.complete(kernel, -(-size // SLICE), address(x), address(out), size, 0)
                return out
            return run(xp, x)

        return run_unary

    def _bind_binary(self, run, reference):
        kernel, data, header, empty, least = (
            self.kernel(float32, "vv"), compiler.MEMORY, compiler.HEADER, np.empty, self.least,
        )  # fmt: skip

        def run_binary(xp, x, y):
            shape, size = x.shape, x.size
            if size < least and y.size < least:
                return reference(xp, x, y)
            if (
                x.dtype is float32
                and y.dtype is float32
                and x.flags.num & y.flags.num & _PLAIN == _PLAIN
                and shape == y.shape
                and kernel.address
                and settings.kernels
            ):
                if size <= SLICE and not watch.count:
                    out = empty(shape, float32)
                    places = data[(id(x) + header) >> 3], data[(id(y) + header) >> 3], data[(id(out) + header) >> 3]
                    kernel._call(_pack_2(*places, size, 0), 0)
                else:
                    out = memory.empty(shape, float32)
                    pool.complete(kernel, -(-size // SLICE), address(x), address(y), address(out), size, 0)
                return out
            return run(xp, x, y)

        return run_binary


def _function(formula: str):
    return getattr(formulas, formula, None) or getattr(scalar, formula)


def _kinds(operands, shape) -> tuple[str, int] | None:
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
    return (kinds, columns) if "v" in kinds else None


#: Every elementwise op with a kernel, by name.
MAPS: dict[str, Map] = {
    **{name: Map(name) for name in ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf")},
    **{name: Map(name, least=LEAST_EXACT) for name in (
        "add", "sub", "mul", "true_divide", "neg", "square", "rsqrt", "reciprocal", "maximum", "minimum",
    )},
    "abs": Map("absolute", least=LEAST_EXACT),
    "sqrt": Map("square_root", least=LEAST_EXACT),
    "where": Map("where", least=LEAST_EXACT, booleans=1),
    "moved": Map("moved", "keep", "take"),
    **{name: Map(name) for name in (
        "relu", "relu_grad", "sigmoid_grad", "tanh_grad", "gelu", "gelu_grad", "gelu_tanh", "gelu_tanh_grad",
        "silu", "silu_grad", "logsigmoid", "logsigmoid_grad",
    )},
    **{name: Map(name, "slope") for name in ("leaky_relu", "leaky_relu_grad")},
    **{name: Map(name, "alpha") for name in ("elu", "elu_grad")},
    **{name: Map(name, "beta", "threshold") for name in ("softplus", "softplus_grad")},
    **{name: Map(name) for name in (
        "mse", "mse_grad", "l1", "l1_grad", "bce", "bce_grad", "bce_with_logits", "bce_with_logits_grad",
    )},
    **{name: Map(name, "beta") for name in ("smooth_l1", "smooth_l1_grad")},
    **{name: Map(name, "delta") for name in ("huber", "huber_grad")},
}  # fmt: skip

for _name, _map in MAPS.items():
    register(_name, "cpu", needs_numba=False)(_map)
