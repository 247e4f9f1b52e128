"""NumPy's functions on tensors: `np.sin(t)`, and functions written with NumPy, are differentiable.

Where a name means different things in NumPy and PyTorch (`np.split`, `np.flip`, `np.max`, `np.repeat`, …), NumPy's function
keeps NumPy's meaning: each has an adapter in this file, with NumPy's signature.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable

from deepcore.autograd import mixed_backends
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops import (
    comparison,
    counting,
    decompositions,
    diagonals,
    index,
    integrals,
    lapack,
    linalg,
    matrix_functions,
    norms,
    pieces,
    pointwise,
    products,
    reduction,
    rounding,
    scan,
    search,
    shape,
    sort,
    special,
    statistics,
)  # fmt: skip
from deepcore.ops.registry import FUNCTIONS, Tensor, as_number, as_tensor, promote
from deepcore.tensor import empty_like, full_like, ones_like, zeros_like

# NumPy's ufunc names that differ from deepcore's.
_UFUNCS = {
    "invert": "bitwise_not",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "power": "pow",
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "absolute": "abs",
    "fabs": "abs",
    "rint": "round",
    "degrees": "rad2deg",
    "radians": "deg2rad",
    "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift",
}


def ufunc(ufunc, method: str, inputs, kwargs):
    """`__array_ufunc__`: the op of the same name, recorded like any other."""
    name = ufunc.__name__
    if any(not isinstance(x, Tensor) and hasattr(x, "__array_ufunc__") and not _is_raw(x) for x in inputs):
        return NotImplemented  # another array class, whose own protocol may handle the call
    options = {k for k, v in kwargs.items() if v is not None and not (k == "where" and v is True)}
    if "out" in options:
        raise ArgumentError(
            f"np.{name} cannot write the result of a tensor into an array",
            fix=f"keep what it returns (a = a + t for a += t), or use np.{name}(…, t.detach().numpy(), out=…)",
        )
    if method != "__call__" or options:
        raise ArgumentError(
            f"np.{name} of tensors is called with tensors alone",
            received=method if method != "__call__" else ", ".join(sorted(options)),
            fix="use the functions of deepcore: np.sum for np.add.reduce, t.to(dtype) for dtype=",
        )
    op_name = _UFUNCS.get(name, name)
    entry = FUNCTIONS.get(op_name) or next((d for d in FUNCTIONS.values() if op_name in d.aliases), None)
    if entry is None:
        raise _missing(f"np.{name}")
    _same_backend(name, inputs)
    like = next(x.backend for x in inputs if isinstance(x, Tensor))
    return entry.function(*(_operand(x, like) for x in inputs))


def _operand(value, like):
    """An operand beside tensors on the backend `like`; NumPy's numbers are numbers, as in `t * number`."""
    if isinstance(value, (list, tuple)):  # NumPy's functions accept them
        return as_tensor(value, backend=like)
    number = as_number(value)
    if number is not None:
        return number
    if getattr(value, "shape", None) == () and hasattr(value, "__array_interface__"):  # comparisons wrap a number
        return as_tensor(value, backend=like)
    return _wrapped(value)


def function(function, args, kwargs):
    """`__array_function__`: NumPy's function of that name, composed of ops."""
    name = f"{function.__module__.replace('numpy', 'np')}.{function.__name__}"
    adapter = _FUNCTIONS.get(name)
    if adapter is None:
        raise _missing(name)
    try:
        return adapter(*map(_wrapped, args), **{k: _wrapped(v) for k, v in kwargs.items()})
    except TypeError as error:
        if isinstance(error, DTypeError) or error.__traceback__.tb_next is not None:
            raise
        raise ArgumentError(  # raised by the call: the arguments do not match the adapter's signature
            f"{name} of tensors does not take these arguments: {error}", fix="use the functions of deepcore"
        ) from None


def _missing(name: str) -> ArgumentError:
    return ArgumentError(
        f"{name} has no counterpart among deepcore's functions",
        fix=f"use the functions of deepcore, or {name}(t.detach().numpy()) where no gradient is needed",
    )


def _is_raw(value) -> bool:
    return hasattr(value, "__array_interface__") or hasattr(value, "__cuda_array_interface__")


def _wrapped(value):
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return type(value)(map(_wrapped, value))
    plain = isinstance(value, (Tensor, float, type)) or not hasattr(value, "__array_interface__")
    return value if plain else as_tensor(value)


def _same_backend(name: str, inputs) -> None:
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    if any(t.backend is not tensors[0].backend for t in tensors):
        raise mixed_backends(name, tensors)


# -- adapters, with NumPy's signatures ------------------------------------------------------------------------------

_FUNCTIONS: dict[str, Callable] = {}


def _numpy(*names: str) -> Callable[[Callable], Callable]:
    def register(adapter):
        for name in names or (adapter.__name__.strip("_"),):
            _FUNCTIONS[f"np.{name}"] = adapter
        return adapter

    return register


def _flat(a, axis):
    """(a, axis); without an axis, (all elements in row order, 0)."""
    return (shape.ravel(a), 0) if axis is None else (a, axis)


for _name, _op in {"max": reduction.amax, "min": reduction.amin, "all": reduction.all, "any": reduction.any}.items():
    _numpy(_name, f"a{_name}")(lambda a, axis=None, *, keepdims=False, _op=_op: _op(a, axis, keepdims))
for _name, _op in {"sum": reduction.sum, "prod": reduction.prod, "mean": reduction.mean}.items():
    _numpy(_name)(lambda a, axis=None, dtype=None, *, keepdims=False, _op=_op: _op(a, axis, keepdims, dtype=dtype))
for _name, _op in {"argmax": reduction.argmax, "argmin": reduction.argmin}.items():
    _numpy(_name)(lambda a, axis=None, *, keepdims=False, _op=_op: _op(a, axis, keepdims))
for _name, _op in {"var": reduction.var, "std": reduction.std}.items():
    _numpy(_name)(
        lambda a, axis=None, *, ddof=0, correction=None, keepdims=False, _op=_op: _op(
            a, axis, correction=ddof if correction is None else correction, keepdim=keepdims
        )
    )
_numpy("count_nonzero")(lambda a, axis=None: reduction.count_nonzero(a, axis))
_numpy("cumsum")(lambda a, axis=None, dtype=None: scan.cumsum(*_flat(a, axis), dtype=dtype))
_numpy("sort")(lambda a, axis=-1, kind=None, *, stable=None: sort.sort(*_flat(a, axis)).values)
_numpy("argsort")(lambda a, axis=-1, kind=None, *, stable=None: sort.argsort(*_flat(a, axis)))
_numpy("shape")(lambda a: a.shape)
_numpy("ndim")(lambda a: a.ndim)
_numpy("size")(lambda a, axis=None: a.numel() if axis is None else a.shape[axis])
_numpy("iscomplexobj")(lambda x: False)
_numpy("copy")(lambda a: shape.clone(a))
_numpy("zeros_like")(lambda a, dtype=None: zeros_like(a, dtype))
_numpy("ones_like")(lambda a, dtype=None: ones_like(a, dtype))
_numpy("empty_like")(lambda a, dtype=None: empty_like(a, dtype))
_numpy("full_like")(lambda a, fill_value, dtype=None: full_like(a, fill_value, dtype))
_numpy("reshape")(lambda a, shape_=None, *, shape=None: a.reshape(shape_ if shape is None else shape))
_numpy("ravel")(lambda a: shape.ravel(a))
_numpy("transpose", "permute_dims")(
    lambda a, axes=None: a.permute(tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))
)
_numpy("swapaxes")(lambda a, axis1, axis2: shape.transpose(a, axis1, axis2))
_numpy("moveaxis")(lambda a, source, destination: shape.movedim(a, source, destination))
_numpy("squeeze")(lambda a, axis=None: shape.squeeze(a, axis))
_numpy("broadcast_to")(lambda array, shape_: shape.broadcast_to(array, sizes(shape_)))
_numpy("atleast_1d")(lambda a: shape.atleast(a, 1))
_numpy("atleast_2d")(lambda a: shape.atleast(a, 2))
_numpy("flip")(lambda m, axis=None: shape.flip(m, tuple(range(m.ndim)) if axis is None else sizes(axis)))
_numpy("roll")(lambda a, shift, axis=None: shape.roll(a, shift, axis))
_numpy("tile")(lambda A, reps: shape.repeat(A, sizes(reps)))
_numpy("tril")(lambda m, k=0: shape.tril(m, k))
_numpy("triu")(lambda m, k=0: shape.triu(m, k))
_numpy("stack")(lambda arrays, axis=0: shape.stack(arrays, axis))
_numpy("vstack", "row_stack")(lambda tup: shape.vstack(tup))
_numpy("hstack")(lambda tup: shape.hstack(tup))
_numpy("where")(lambda condition, x=None, y=None: comparison.where(condition, x, y))
_numpy("nonzero")(lambda a: index.nonzero(a, as_tuple=True))
_numpy("round", "around")(lambda a, decimals=0: rounding.round(a, decimals=decimals))
_numpy("take_along_axis")(lambda arr, indices, axis=-1: index.take_along_dim(arr, indices, axis))
_numpy("outer")(lambda a, b: linalg.outer(shape.ravel(a), shape.ravel(b)))
_numpy("diagonal")(lambda a, offset=0, axis1=0, axis2=1: diagonals.diagonal(a, offset, axis1, axis2))
_numpy("diag")(lambda v, k=0: diagonals.diag(v, k))
_numpy("diagflat")(lambda v, k=0: diagonals.diagflat(v, k))
_numpy("trace")(lambda a, offset=0, axis1=0, axis2=1: reduction.sum(diagonals.diagonal(a, offset, axis1, axis2), -1))
_numpy("kron")(lambda a, b: products.kron(a, b))
_numpy("cross")(lambda a, b, axis=-1: products.linalg_cross(a, b, dim=axis))
_numpy("tensordot")(lambda a, b, axes=2: products.tensordot(a, b, axes))
_numpy("inner")(lambda a, b: products.inner(a, b) if a.ndim and b.ndim else a * b)
_numpy("vander")(lambda x, N=None, increasing=False: products.vander(x, N, increasing))
_numpy("trapezoid")(
    lambda y, x=None, dx=1.0, axis=-1: integrals.trapezoid(y, x, dx=None if x is not None else dx, dim=axis)
)
_numpy("cumprod")(lambda a, axis=None, dtype=None: scan.cumprod(*_flat(a, axis), dtype=dtype))
_numpy("diff")(lambda a, n=1, axis=-1, prepend=None, append=None: scan.diff(a, n, axis, prepend, append))
_numpy("nansum")(lambda a, axis=None, dtype=None, *, keepdims=False: statistics.nansum(a, axis, keepdims, dtype=dtype))
_numpy("nanmean")(
    lambda a, axis=None, dtype=None, *, keepdims=False: statistics.nanmean(a, axis, keepdims, dtype=dtype)
)
_numpy("nan_to_num")(
    lambda x, copy=True, nan=0.0, posinf=None, neginf=None: pointwise.nan_to_num(x, nan, posinf, neginf)
)
_numpy("i0")(lambda x: special.i0(x))
_numpy("sinc")(lambda x: special.sinc(x))
_numpy("isposinf")(lambda x: pointwise.isposinf(x))
_numpy("isneginf")(lambda x: pointwise.isneginf(x))
_numpy("isin")(lambda element, test_elements, *, invert=False: search.isin(element, test_elements, invert=invert))
_numpy("searchsorted")(lambda a, v, side="left", sorter=None: search.searchsorted(a, v, side=side, sorter=sorter))
_numpy("bincount")(lambda x, weights=None, minlength=0: counting.bincount(x, weights, minlength))
_numpy("argwhere")(lambda a: index.nonzero(a))
_numpy("fliplr")(lambda m: pieces.fliplr(m))
_numpy("flipud")(lambda m: pieces.flipud(m))
_numpy("rot90")(lambda m, k=1, axes=(0, 1): pieces.rot90(m, k, axes))
_numpy("dstack")(lambda tup: pieces.dstack(tup))
_numpy("column_stack")(lambda tup: pieces.column_stack(tup))
_numpy("array_split")(lambda ary, sections, axis=0: list(pieces.tensor_split(ary, sections, axis)))
_numpy("hsplit")(lambda ary, sections: list(pieces.hsplit(ary, sections)))
_numpy("vsplit")(lambda ary, sections: list(pieces.vsplit(ary, sections)))
_numpy("dsplit")(lambda ary, sections: list(pieces.dsplit(ary, sections)))
_numpy("meshgrid")(lambda *xi, indexing="xy": list(pieces.meshgrid(*xi, indexing=indexing)))
_numpy("atleast_3d")(lambda a: pieces.atleast_3d(a))
_numpy("vdot")(lambda a, b: linalg.dot(shape.ravel(a), shape.ravel(b)))
_numpy("einsum")(lambda subscripts, *operands: linalg.einsum(subscripts, *operands))
_numpy("array_equal")(lambda a, b: a.shape == b.shape and bool((a == b).all()))


def sizes(value) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (operator.index(value),)


@_numpy("concatenate", "concat")
def _concatenate(arrays, axis=0):
    return shape.cat([shape.ravel(a) for a in arrays], 0) if axis is None else shape.cat(arrays, axis)


@_numpy()
def expand_dims(a, axis):
    rank = a.ndim + len(sizes(axis))
    for k in sorted(shape.normalize_dims(sizes(axis), rank)):
        a = shape.unsqueeze(a, k)
    return a


@_numpy()
def repeat(a, repeats, axis=None):
    a, axis = _flat(a, axis)
    d = shape.normalize_dim(axis, a.ndim)
    if isinstance(repeats, (list, tuple, Tensor)):
        counts = as_tensor(repeats).tolist() if isinstance(repeats, Tensor) else repeats
        chosen = [k for k, n in enumerate(counts) for _ in range(n)]
        return index.index_select(a, d, as_tensor(chosen, dtype=dt.int64, backend=a.backend))
    times = operator.index(repeats)
    wide = shape.unsqueeze(a, d + 1).expand(*a.shape[: d + 1], times, *a.shape[d + 1 :])
    return wide.reshape((*a.shape[:d], a.shape[d] * times, *a.shape[d + 1 :]))


@_numpy()
def split(ary, indices_or_sections, axis=0):
    length = ary.shape[shape.normalize_dim(axis, ary.ndim)]
    if isinstance(indices_or_sections, (list, tuple)):
        cuts = [0, *indices_or_sections, length]
        return [shape.narrow(ary, axis, a, max(b - a, 0)) for a, b in itertools.pairwise(cuts)]
    parts = operator.index(indices_or_sections)
    if parts < 1 or length % parts:
        raise ArgumentError(f"np.split: a dimension of length {length} does not fall into {parts} equal parts")
    return list(shape.split(ary, length // parts, axis)) if length else [ary] * parts


@_numpy()
def pad(array, pad_width, mode="constant", *, constant_values=0):
    if mode != "constant":
        raise ArgumentError("np.pad of tensors pads with a constant", received=repr(mode), fix="dc.nn.functional.pad")
    host = get_backend("cpu")
    pairs = host.broadcast_to(host.asarray(pad_width), (array.ndim, 2)).tolist()
    return shape.pad(array, [n for pair in pairs[::-1] for n in pair], value=constant_values)


@_numpy()
def clip(a, a_min=None, a_max=None, *, min=None, max=None):
    low, high = a_min if min is None else min, a_max if max is None else max
    return shape.clone(a) if low is None and high is None else comparison.clamp(a, low, high)


@_numpy()
def take(a, indices, axis=None):
    a, axis = _flat(a, axis)
    d = shape.normalize_dim(axis, a.ndim)
    return index.getitem(a, (slice(None),) * d + (indices,))


@_numpy()
def dot(a, b):
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.ndim or not b.ndim:
        return a * b
    return linalg.matmul(a, b) if b.ndim < 3 else products.tensordot(a, b, ((a.ndim - 1,), (b.ndim - 2,)))


@_numpy("isclose")
def _isclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    a, b = (t if isinstance(t, Tensor) else as_tensor(t) for t in (a, b))
    a, b = promote("isclose", "numeric", a, b)
    return pointwise.isclose(a, b, rtol, atol, equal_nan)


@_numpy("allclose")
def _allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    return bool(_isclose(a, b, rtol, atol, equal_nan).all())


# -- linear algebra ---------------------------------------------------------------------------------------------------

_LINALG = {
    "inv": lapack.inv, "solve": lapack.solve, "det": lapack.det, "slogdet": lapack.slogdet, "eigvalsh": lapack.eigvalsh,
    "eigh": lapack.eigh, "matrix_power": matrix_functions.matrix_power, "multi_dot": products.multi_dot, "svdvals": decompositions.svdvals,
    "matrix_norm": lambda x, *, keepdims=False, ord="fro": norms.matrix_norm(x, ord, keepdim=keepdims),
    "vector_norm": lambda x, *, axis=None, keepdims=False, ord=2: norms.vector_norm(x, ord, axis, keepdims),
    "cond": matrix_functions.cond, "pinv": lambda a, rcond=None, hermitian=False, *, rtol=None: matrix_functions.pinv(
        a, rcond if rtol is None else rtol, hermitian),
    "matrix_rank": lambda A, tol=None, hermitian=False, *, rtol=None: matrix_functions.matrix_rank(A, tol, hermitian, rtol=rtol),
    "cholesky": lambda a, *, upper=False: lapack.linalg_cholesky(a, upper=upper),
    "diagonal": lambda x, *, offset=0: diagonals.diagonal(x, offset, -2, -1),
    "trace": lambda x, *, offset=0, dtype=None: reduction.sum(diagonals.diagonal(x, offset, -2, -1), -1, dtype=dtype),
}  # fmt: skip
for _name, _adapter in _LINALG.items():
    _FUNCTIONS[f"np.linalg.{_name}"] = _adapter


@_numpy("linalg.qr")
def _qr(a, mode="reduced"):
    Q, R = decompositions.linalg_qr(a, mode)
    return R if mode == "r" else (Q, R)


@_numpy("linalg.svd")
def _svd(a, full_matrices=True, compute_uv=True, hermitian=False):
    return decompositions.linalg_svd(a, full_matrices) if compute_uv else decompositions.svdvals(a)


@_numpy("linalg.norm")
def _norm(x, ord=None, axis=None, keepdims=False):
    return norms.linalg_norm(x, ord, axis, keepdims)
