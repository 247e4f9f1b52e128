"""Norms of vectors and matrices, and distances."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import pow as pow_
from deepcore.ops.arithmetic import sign
from deepcore.ops.common import zeros
from deepcore.ops.comparison import where
from deepcore.ops.decompositions import svdvals
from deepcore.ops.linalg import same_dtype
from deepcore.ops.parts import view_as_real_p
from deepcore.ops.reduction import all_if_empty, amax, amin, as_dtype, spread
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import (
    Tensor,
    as_number,
    axis_names,
    cast,
    composite,
    functional,
    primitive,
    sample,
    takes_arrays,
)
from deepcore.ops.shape import movedim, normalize_dim, normalize_dims, reshape_p, unsqueeze
from deepcore.tensor import made

# -- vectors --------------------------------------------------------------------------------------------------------


def _vector_norm_back(g, input, out, ord, dims):
    """The slope is 0 where the norm is 0; equal maxima share it."""
    if ord == 0:
        return zeros(input)
    g, norm = spread(g, input.shape, dims), spread(out, input.shape, dims)
    if ord == 1:
        return g * sign(input)
    if abs(ord) == math.inf:
        best = cast((abs_(input) == norm) | ((input != input) & (norm != norm)), g.dtype)
        return g * sign(input) * (best / spread(sum_(best, list(dims), True) if dims else best, input.shape, dims))
    zero = norm == 0
    norm = where(zero, 1.0, norm)
    if ord == 2:
        return where(zero, 0.0, g * (input / norm))
    zero = zero | (input == 0)
    size = where(zero, 1.0, abs_(input))
    return where(zero, 0.0, g * sign(input) * pow_(size / norm, ord - 1.0))


@primitive(vjp=_vector_norm_back, batch="dims")
def _vector_norm(xp, input, *, ord, dims, keepdim):
    dtype = input.dtype
    x = input.astype(dt.float32) if dtype.itemsize == 2 else input
    if ord == 2:
        out = xp.sqrt(xp.sum(x * x, dims, keepdim))
    elif abs(ord) == math.inf:
        out = (xp.amax if ord > 0 else xp.amin)(xp.absolute(x), axis=dims, keepdims=keepdim)
    elif ord == 0:
        out = xp.sum((x != 0).astype(x.dtype), dims, keepdim)
    else:
        out = xp.sum(xp.absolute(x) if ord == 1 else xp.power(xp.absolute(x), xp.constant(ord, x.dtype)), dims, keepdim)
        out = out if ord == 1 else xp.power(out, xp.constant(1.0 / ord, x.dtype))
    return xp.asarray(out).astype(dtype, copy=False)


def _floats(name: str, x: Tensor, dtype) -> Tensor:
    if dtype is not None and not dt.is_inexact(dt.as_dtype(dtype)):
        raise DTypeError(f"{name}: dtype is a floating one", received=dt.name_of(dt.as_dtype(dtype)))
    if not dt.is_inexact(x.dtype):
        raise DTypeError(f"{name} needs a floating tensor", received=dt.name_of(x.dtype), fix="t.float()")
    if dtype is not None and dt.promote_types(x.dtype, dtype) != dt.as_dtype(dtype):
        raise DTypeError(
            f"{name}: dtype would be narrower than {dt.name_of(x.dtype)}", received=dt.name_of(dt.as_dtype(dtype))
        )
    return as_dtype(x, dtype)


def _order(name: str, ord) -> float:
    number = as_number(ord)
    if number is None or number != number:
        raise ArgumentError(f"{name}: the order of a norm of vectors is a number", received=repr(ord))
    return float(number)


def _vector_samples(make):
    orders = (0, 0.5, 1, 2, 2.5, 3, math.inf, -math.inf, -1)
    return [
        sample(make(3, 4)), sample(make()), sample(make(2, 3, 4), 2, (0, 2), True),
        *(sample(make(3, 4), ord, 1) for ord in orders),
    ]  # fmt: skip


@composite(place="linalg", examples=_vector_samples)
@axis_names
def vector_norm(x, ord=2, dim=None, keepdim: bool = False, *, dtype=None):
    """(Σ |x|ᵒʳᵈ)^(1/ord) over `dim` (None: all elements); ord ∞ and −∞: the largest and smallest |x|, 0: a count"""
    x, ord = _floats("vector_norm", x, dtype), _order("vector_norm", ord)
    if x._data.dtype.kind == "c":
        if ord != 2:
            return vector_norm(abs_(x), ord, dim, keepdim)
        dims = normalize_dims(all_if_empty(dim), x.ndim)
        out = _vector_norm(view_as_real_p(x), ord=2.0, dims=(*dims, x.ndim), keepdim=bool(keepdim))
        return reshape_p(out, shape=out.shape[:-1]) if keepdim else out
    dims = normalize_dims(all_if_empty(dim), x.ndim)
    empty = math.prod(x.shape[d] for d in dims) == 0
    if empty and (ord < 0 or ord == math.inf):
        raise ShapeError(f"vector_norm: the norm of order {ord} of no elements is not defined", received=str(x.shape))
    return _vector_norm(x, ord=ord, dims=dims, keepdim=bool(keepdim))


# -- matrices ---------------------------------------------------------------------------------------------------------


def _matrix_samples(make):
    orders = ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf)
    return [*(sample(make(4, 3), ord) for ord in orders), sample(make(2, 5, 2), "nuc", (0, 2), True)]


@composite(place="linalg", examples=_matrix_samples)
@axis_names
def matrix_norm(A, ord="fro", dim=(-2, -1), keepdim: bool = False, *, dtype=None):
    """The norm of matrices in the dimensions `dim`.

    `ord`: "fro" (√Σ a²), "nuc" (the sum of the singular values), 2 and −2 (the largest and smallest singular value),
    1 and −1 (the largest and smallest sum of |a| of a column), ∞ and −∞ (of a row).
    """
    if not isinstance(dim, (tuple, list)) or len(dim) != 2:
        raise ArgumentError("matrix_norm: dim names two dimensions", received=repr(dim))
    A = _floats("matrix_norm", A, dtype)
    if A.ndim < 2:
        raise ShapeError("matrix_norm takes matrices", expected="(…, m, n)", received=str(A.shape))
    row, column = (normalize_dim(d, A.ndim) for d in dim)
    if row == column:
        raise ArgumentError("matrix_norm: dim names two dimensions", received=repr(tuple(dim)))
    if ord == "fro":
        return vector_norm(A, 2, (row, column), keepdim)
    if ord in (1, -1, math.inf, -math.inf):
        first, second = (row, column) if abs(ord) == 1 else (column, row)
        sums = vector_norm(A, 1, first, True)
        out = (amax if ord > 0 else amin)(sums, (first, second), True)
    elif ord in ("nuc", 2, -2):
        values = svdvals(movedim(A, (row, column), (-2, -1)))
        out = sum_(values, -1) if ord == "nuc" else (amax if ord > 0 else amin)(values, -1)
        out = movedim(unsqueeze(unsqueeze(out, -1), -1), (-2, -1), (row, column))
    else:
        raise ArgumentError(
            "unknown order of a norm of matrices", expected='"fro", "nuc", ±1, ±2 or ±∞', received=repr(ord)
        )
    shape = tuple(n for d, n in enumerate(out.shape) if d not in (row, column))
    return out if keepdim else reshape_p(out, shape=shape)


def _norm_samples(make):
    return [
        sample(make(3, 4)), sample(make(5), 3), sample(make(5, 2), "nuc"), sample(make(5, 2), 1), sample(make(3, 4), 1, 1),
        sample(make(2, 5, 2), dim=(0, 2), keepdim=True),
    ]  # fmt: skip


@composite(place="linalg", examples=_norm_samples, method=False)
@axis_names
def linalg_norm(A, ord=None, dim=None, keepdim: bool = False, *, dtype=None):
    """`vector_norm` of all elements or over `dim`; with `ord`, `matrix_norm` of a matrix or over two dimensions"""
    matrix = isinstance(dim, (tuple, list)) and len(dim) == 2
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    if dim is None and A.ndim not in (1, 2) and not (A.ndim == 0 and not isinstance(ord, str)):
        raise ShapeError("norm: with an order and no dim, A is a vector or a matrix", received=str(A.shape))
    if isinstance(ord, str) and not matrix and (dim is not None or A.ndim != 2):
        raise ArgumentError(f"norm: {ord!r} is a norm of matrices", fix="dim names two dimensions")
    if matrix or (dim is None and A.ndim == 2):
        return matrix_norm(A, ord, dim if matrix else (-2, -1), keepdim, dtype=dtype)
    return vector_norm(A, ord, dim, keepdim, dtype=dtype)


@composite(
    examples=lambda make: [
        sample(make(3, 4)), sample(make(3, 4), 1), sample(make(2, 3, 4), 3, (0, 2)), sample(make(5, 2), "nuc"),
    ]
)  # fmt: skip
@axis_names
def norm(input, p="fro", dim=None, keepdim: bool = False, dtype=None):
    """(Σ |x|ᵖ)^(1/p) over `dim` (None: all elements), also of matrices: "fro" is p = 2. "nuc": `linalg.matrix_norm`"""
    if p == "nuc":
        return matrix_norm(input, "nuc", (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(input, 2 if p is None or p == "fro" else p, dim, keepdim, dtype=dtype)


@composite(examples=lambda make: [sample(make(3, 4), make(3, 4)), sample(make(3, 4), make(4), 1)])
@takes_arrays
def dist(input, other, p=2):
    """‖input − other‖ₚ of all elements; the shapes broadcast"""
    return vector_norm(input - other, p)


@composite(
    examples=lambda make: [
        sample(make(3, 2), make(4, 2)), sample(make(2, 1, 3, 2), make(2, 4, 2), 1.0), sample(make(3, 2), make(4, 2), 3.0),
    ],
    method=False,
)  # fmt: skip
@takes_arrays
def cdist(x1, x2, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"):
    """‖x1ᵢ − x2ⱼ‖ₚ of all pairs of rows: (…, P, M) and (…, R, M) to (…, P, R). `compute_mode` changes nothing"""
    x1, x2 = same_dtype("cdist", x1, x2)
    if min(x1.ndim, x2.ndim) < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(
            "cdist takes rows of one length", expected="(…, P, M) and (…, R, M)", received=f"{x1.shape} and {x2.shape}"
        )
    if not p >= 0:
        raise ArgumentError("cdist: p is at least 0", received=f"p={p!r}")
    differences = unsqueeze(x1, -2) - unsqueeze(x2, -3)
    return sum_(differences, -1) if not x1.shape[-1] else vector_norm(differences, p, -1)


@functional
@composite(examples=lambda make: [sample(make(4, 2)), sample(make(3, 2), 1.0)], method=False)
@takes_arrays
def pdist(input, p: float = 2.0):
    """‖xᵢ − xⱼ‖ₚ of the pairs i < j of rows: (N, M) to (N (N − 1) / 2)"""
    if input.ndim != 2:
        raise ShapeError("pdist takes a matrix", received=str(input.shape))
    xp, n = input.backend, input.shape[0]
    above = xp.triu(xp.ones((n, n), dtype=bool), 1).reshape(-1)
    order = xp.argsort(~above, kind="stable")[: n * (n - 1) // 2]
    first, second = (made(index, xp) for index in (order // max(n, 1), order % max(n, 1)))
    return vector_norm(input[first] - input[second], p, 1)


@composite(inplace=True, examples=lambda make: [sample(make(3, 4), 2, 0, 1.0), sample(make(2, 3, 4), 1, -1, 3.0)])
@takes_arrays
def renorm(input, p, dim: int, maxnorm):
    """`input`, whose slices along `dim` of a larger p-norm are scaled to `maxnorm`"""
    if input.ndim < 2:
        raise ShapeError("renorm needs at least two dimensions", received=str(input.shape))
    if not (p > 0 and maxnorm >= 0):
        raise ArgumentError("renorm: p is positive and maxnorm at least 0", received=f"p={p!r}, maxnorm={maxnorm!r}")
    d = normalize_dim(dim, input.ndim)
    norms = vector_norm(input, p, [k for k in range(input.ndim) if k != d], True)
    return input * where(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)
