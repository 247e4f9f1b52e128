"""Decompositions and solvers of matrices, by LAPACK (cuSOLVER on CUDA): the last two dimensions, leading ones are batches.

A node has one output, so a decomposition into several factors is one packed matrix, and the factors are views of it.
"""

from __future__ import annotations

import math
from collections import namedtuple

from deepcore.autograd.graph import conj
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.common import zeros
from deepcore.ops.comparison import where
from deepcore.ops.exponential import log
from deepcore.ops.linalg import matmul, same_dtype
from deepcore.ops.parts import complex_p, imag_p, real_p
from deepcore.ops.registry import Tensor, composite, primitive, sample, takes_arrays
from deepcore.ops.shape import broadcast_shape, reshape_p, transpose, tril, triu, unsqueeze
from deepcore.tensor import made

Eigh = namedtuple("Eigh", "eigenvalues eigenvectors")
Slogdet = namedtuple("Slogdet", "sign logabsdet")


def matrices(name: str, A: Tensor, square: bool = True) -> Tensor:
    """`A` as a tensor; raises unless it holds matrices of single or double precision, square ones where asked for."""
    (A,) = same_dtype(name, A)
    if A.ndim < 2 or (square and A.shape[-1] != A.shape[-2]):
        kind = "square matrices" if square else "matrices"
        raise ShapeError(f"{name} takes {kind}", expected="(…, n, n)" if square else "(…, m, n)", received=str(A.shape))
    if not dt.is_inexact(A.dtype) or A.dtype.itemsize == 2:
        raise DTypeError(
            f"{name} takes float32, float64 and complex numbers of them", received=dt.name_of(A.dtype), fix="A.float()"
        )
    return A


def mT(x: Tensor) -> Tensor:
    return transpose(x, -2, -1)


def mH(x: Tensor) -> Tensor:
    """The conjugate transpose."""
    return conj(transpose(x, -2, -1))


def adjoint_array(xp, raw):
    """The conjugate transpose of a raw array of matrices."""
    swapped = raw.swapaxes(-1, -2)
    return xp.conj(swapped) if raw.dtype.kind == "c" else swapped


def identity(like: Tensor, dtype=None) -> Tensor:
    """The identity of the order of the square matrices `like`."""
    xp = like.backend
    return made(xp.eye(like.shape[-1], dtype=like.dtype if dtype is None else dtype), xp)


def _square_samples(make):
    return [sample(make(2, 2)), sample(make(2, 2, 2)), sample(make(5, 5)), sample(make(0, 0))]


def positive(A: Tensor) -> Tensor:
    """A positive definite matrix: the symmetric functions are tested on it."""
    return matmul(A, mH(A)) * 0.25 + identity(A)


def positive_samples(make, **options):
    shapes = ((2, 2), (2, 2, 2), (5, 5))
    return [sample(positive(make(*shape)).detach().requires_grad_(), **options) for shape in shapes]


# -- solvers ------------------------------------------------------------------------------------------------------


def _inv_back(g, out):
    back = mT(out)
    return -matmul(matmul(back, g), back)


@primitive(
    vjp=_inv_back,
    raises=True,
    complex="analytic",
    batch="leading",
)
def _inv(xp, A):
    return xp.lapack("inv", A)


@composite(place="linalg", examples=_square_samples, aliases=("inverse",))
@takes_arrays
def inv(A):
    """A⁻¹; raises `LinAlgError` for a singular matrix"""
    return _inv(matrices("inv", A))


def _solve_to_matrix(g, A, out):
    return -matmul(_solve(mT(A), g), mT(out))


@primitive(
    vjp=(_solve_to_matrix, lambda g, A: _solve(mT(A), g)),
    raises=True,
    complex="analytic",
    batch="broadcast",
)
def _solve(xp, A, B):
    batch = broadcast_shape("solve", A.shape[:-2], B.shape[:-2])
    return xp.lapack("solve", *(xp.broadcast_to(x, batch + x.shape[-2:]) for x in (A, B)))


@composite(
    place="linalg",
    examples=lambda make: [
        sample(make(2, 2), make(2)), sample(make(5, 5), make(5, 2)), sample(make(2, 1, 2, 2), make(5, 2, 1)),
        sample(make(5, 5), make(2, 5), left=False),
    ],
)  # fmt: skip
@takes_arrays
def solve(A, B, *, left: bool = True):
    """The X with A X = B, or X A = B where not `left`; B is a matrix, or a vector for each matrix of A"""
    A, B = same_dtype("solve", matrices("solve", A), B)
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and B.shape == A.shape[:-1])
    if vector and not left:
        raise ArgumentError("solve: vectors are solved for from the left", fix="B.unsqueeze(-2) is a row")
    if not left:
        return mT(solve(mT(A), mT(B)))
    columns = unsqueeze(B, -1) if vector else B
    if columns.shape[-2] != A.shape[-1]:
        raise ShapeError("solve: A and B differ in their rows", received=f"A {A.shape}, B {B.shape}")
    X = _solve(A, columns)
    return reshape_p(X, shape=X.shape[:-1]) if vector else X


def _substitute(xp, A, B, upper: bool, unit: bool):
    """The X with A X = B for triangular A: halves are solved in turn, the rest of the work is products."""
    n = A.shape[-1]
    if n <= 1:
        return B.copy() if unit or not n else xp.true_divide(B, A)
    k = n // 2
    first, second = (slice(k, None), slice(k)) if upper else (slice(k), slice(k, None))
    solved = _substitute(xp, A[..., first, first], B[..., first, :], upper, unit)
    rest = B[..., second, :] - xp.matmul(A[..., second, first], solved)
    others = _substitute(xp, A[..., second, second], rest, upper, unit)
    return xp.concatenate([others, solved] if upper else [solved, others], axis=-2)


def _triangular_to_matrix(g, A, out, upper, unit):
    slope = -matmul(_triangular(mT(A), g, upper=not upper, unit=unit), mT(out))
    return triu(slope, int(unit)) if upper else tril(slope, -int(unit))


@primitive(
    vjp=(
        _triangular_to_matrix,
        lambda g, A, upper, unit: _triangular(mT(A), g, upper=not upper, unit=unit),
    ),
    complex="analytic",
    batch="broadcast",
)
def _triangular(xp, A, B, *, upper, unit):
    batch = broadcast_shape("solve_triangular", A.shape[:-2], B.shape[:-2])
    return _substitute(xp, *(xp.broadcast_to(x, batch + x.shape[-2:]) for x in (A, B)), upper, unit)


def _triangle_samples(make):
    matrix = lambda *shape: make(*shape, low=0.5)
    return [
        sample(matrix(2, 2), make(2, 1), upper=True),
        sample(matrix(5, 5), make(5, 2), upper=False),
        sample(matrix(2, 2, 2), make(2, 2), upper=False, unitriangular=True),
        sample(matrix(2, 2), make(5, 2), upper=True, left=False),
    ]


@composite(place="linalg", examples=_triangle_samples)
@takes_arrays
def solve_triangular(A, B, *, upper: bool, left: bool = True, unitriangular: bool = False):
    """The X with A X = B for triangular A, or X A = B where not `left`; the other triangle is not read.

    `unitriangular`: the diagonal counts as 1. A zero on the diagonal gives infinity or NaN.
    """
    A, B = same_dtype("solve_triangular", matrices("solve_triangular", A), matrices("solve_triangular", B, False))
    if not left:
        return mT(solve_triangular(mT(A), mT(B), upper=not upper, unitriangular=unitriangular))
    if B.shape[-2] != A.shape[-1]:
        raise ShapeError("solve_triangular: A and B differ in their rows", received=f"A {A.shape}, B {B.shape}")
    return _triangular(A, B, upper=bool(upper), unit=bool(unitriangular))


# -- determinants ---------------------------------------------------------------------------------------------------


def _cofactor_back(g, A):
    """From the rule of C = det(A) A⁻ᵀ."""
    back = mT(_inv(A))
    cofactor = _det(A)[..., None, None] * back
    trace = (g * cofactor).sum((-2, -1))[..., None, None]
    return trace * back - matmul(matmul(cofactor, mT(g)), back)


@primitive(
    vjp=_cofactor_back,
    raises=True,
    complex="analytic",
    batch="leading",
)
def _cofactor(xp, A):
    """det(A) A⁻ᵀ, the slope of the determinant; of singular matrices, too."""
    U, S, Vh = xp.lapack("svd", A, full_matrices=True)
    sign = xp.lapack("det", U) * xp.lapack("det", Vh)
    if A.dtype.kind == "c":
        U, Vh = xp.conj(U), xp.conj(Vh)
    else:
        sign = xp.rint(sign)
    n = A.shape[-1]
    others = xp.where(xp.eye(n, dtype=bool), xp.ones((), dtype=S.dtype), S[..., None, :])
    return xp.matmul(U * (xp.prod(others, axis=-1) * sign[..., None])[..., None, :], Vh)


@primitive(
    vjp=lambda g, A: g[..., None, None] * _cofactor(A),
    complex="analytic",
    batch="leading",
)
def _det(xp, A):
    return xp.asarray(xp.lapack("det", A))


@composite(place="linalg", examples=_square_samples, aliases=("det",))
@takes_arrays
def det(A):
    """The determinant"""
    return _det(matrices("det", A))


def _sign_back(g, A, out):
    """The sign turns by the imaginary part of the trace of A⁻¹ dA; that of a real matrix does not change."""
    if g._data.dtype.kind != "c":
        return zeros(A)
    turn = imag_p(g * conj(out))
    return complex_p(zeros(turn), turn)[..., None, None] * mH(_inv(A))


@primitive(
    vjp=_sign_back,
    complex=True,
    batch="leading",
)
def _sign_of_det(xp, A):
    return xp.asarray(xp.lapack("slogdet", A)[0])


@primitive(
    vjp=lambda g, A: g[..., None, None] * mH(_inv(A)),
    complex=True,
    batch="leading",
)
def _logabsdet(xp, A):
    return xp.asarray(xp.lapack("slogdet", A)[1])


@composite(place="linalg", examples=_square_samples, aliases=("slogdet",))
@takes_arrays
def slogdet(A):
    """(sign, logabsdet): det A = sign · exp(logabsdet), without overflow"""
    A = matrices("slogdet", A)
    return Slogdet(_sign_of_det(A if A.dtype.kind == "c" else A.detach()), _logabsdet(A))


@composite(examples=positive_samples)
@takes_arrays
def logdet(input):
    """ln det input; NaN where the determinant is negative"""
    sign, logarithm = slogdet(input)
    if sign.dtype.kind == "c":
        return log(sign) + logarithm
    return where(sign < 0, math.nan, logarithm)


# -- Cholesky, eigenvalues ----------------------------------------------------------------------------------------


def _cholesky_back(g, out):
    """Murray (2016), Differentiation of the Cholesky decomposition: the gradient of the symmetric matrix."""
    inner = tril(matmul(mH(out), g))
    inner = real_diagonal(inner + mH(tril(inner, -1))) * 0.5
    left = _triangular(mH(out), inner, upper=True, unit=False)
    return mH(_triangular(mH(out), mH(left), upper=True, unit=False))


def real_diagonal(x: Tensor) -> Tensor:
    """Square matrices without the imaginary parts of their diagonals."""
    return where(identity(x, dt.bool_), real_p(x), x) if x._data.dtype.kind == "c" else x


@primitive(
    vjp=_cholesky_back,
    raises=True,
    complex=True,
    batch="leading",
)
def _cholesky(xp, A):
    return xp.lapack("cholesky", A)


@composite(place="linalg", examples=positive_samples, through=positive, method=False)
@takes_arrays
def linalg_cholesky(A, *, upper: bool = False):
    """The lower triangular L with A = L Lᴴ, or with `upper` Lᴴ; A is symmetric (Hermitian) and positive definite.

    Reads one triangle of A. Raises `LinAlgError` where A is not positive definite.
    """
    A = matrices("cholesky", A)
    return mH(_cholesky(mH(A))) if upper else _cholesky(A)


@composite(examples=lambda make: positive_samples(make, upper=True), through=positive)
def cholesky(input, upper: bool = False):
    """`linalg.cholesky`"""
    return linalg_cholesky(input, upper=upper)


def _quotient(x, divisor):
    """x / divisor, and 0 where both are 0."""
    both = (x == 0) & (divisor == 0)
    return where(both, 0.0, x / where(both, 1.0, divisor))


def _gaps(values):
    """values_j - values_i, and 1 on the diagonal."""
    gaps = unsqueeze(values, -2) - unsqueeze(values, -1)
    return where(identity(gaps, dt.bool_), 1.0, gaps)


def _eigh_back(g, out):
    n = out.shape[-1]
    values, vectors = out[..., n, :], out[..., :n, :]
    turn = matmul(mH(vectors), g[..., :n, :])
    inner = _quotient((turn - mH(turn)) * 0.5, _gaps(values))
    inner = real_diagonal(where(identity(inner, dt.bool_), g[..., n, None, :], inner))
    return matmul(matmul(vectors, inner), mH(vectors))


@primitive(
    vjp=_eigh_back,
    raises=True,
    complex=True,
    batch="leading",
)
def _eigh(xp, A, *, lower):
    """The eigenvectors as columns, and below them a row of the eigenvalues."""
    values, vectors = xp.lapack("eigh", A, UPLO="L" if lower else "U")
    return xp.concatenate([vectors, values[..., None, :]], axis=-2)


def _triangle_read(UPLO: str) -> bool:
    if not isinstance(UPLO, str) or UPLO.upper() not in ("L", "U"):
        raise ArgumentError("UPLO names the triangle that is read", expected='"L" or "U"', received=repr(UPLO))
    return UPLO.upper() == "L"


@composite(place="linalg", examples=positive_samples, through=positive)
@takes_arrays
def eigh(A, UPLO: str = "L"):
    """(eigenvalues in ascending order, eigenvectors as columns) of symmetric or Hermitian matrices

    `UPLO`: the triangle that is read. A complex eigenvector has any factor e^(iφ): only functions of the eigenvectors that do not
    depend on it have a gradient.
    """
    A = matrices("eigh", A)
    out = _eigh(A, lower=_triangle_read(UPLO))
    values = out[..., A.shape[-1], :]
    return Eigh(real_p(values) if values.dtype.kind == "c" else values, out[..., : A.shape[-1], :])


def _eigvalsh_back(g, A, lower):
    vectors = _eigh(A, lower=lower)[..., : A.shape[-1], :]
    return matmul(vectors * unsqueeze(g, -2), mH(vectors))


@primitive(
    vjp=_eigvalsh_back,
    raises=True,
    complex=True,
    batch="leading",
)
def _eigvalsh(xp, A, *, lower):
    return xp.lapack("eigvalsh", A, UPLO="L" if lower else "U")


@composite(place="linalg", examples=positive_samples, through=positive)
@takes_arrays
def eigvalsh(A, UPLO: str = "L"):
    """The eigenvalues of symmetric or Hermitian matrices in ascending order; `UPLO`: the triangle that is read"""
    return _eigvalsh(matrices("eigvalsh", A), lower=_triangle_read(UPLO))
