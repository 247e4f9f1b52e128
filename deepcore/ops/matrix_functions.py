"""Rank, condition, pseudo-inverse, least squares; powers and exponentials of matrices."""

from __future__ import annotations

import math
from collections import namedtuple

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, LinAlgError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.comparison import maximum, where
from deepcore.ops.decompositions import svdvals
from deepcore.ops.lapack import adjoint_array, det, eigvalsh, identity, inv, matrices, mH, mT, positive_samples
from deepcore.ops.linalg import matmul, same_dtype
from deepcore.ops.norms import matrix_norm
from deepcore.ops.reduction import amax
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import (
    Tensor,
    cast,
    composite,
    is_half,
    primitive,
    sample,
    takes_arrays,
)
from deepcore.ops.shape import reshape_p, unsqueeze
from deepcore.tensor import made

Lstsq = namedtuple("Lstsq", "solution residuals rank singular_values")

# -- from singular values -------------------------------------------------------------------------------------------


def _tolerances(A: Tensor, atol, rtol) -> tuple[Tensor, Tensor]:
    """(least, share): singular values up to max(least, share · the largest) count as 0."""
    default = max(A.shape[-2:]) * dt.finfo(A.dtype).eps
    least = _column(0.0 if atol is None else atol, A)
    share = where(least > 0, 0.0, default) if rtol is None else _column(rtol, A)
    real = dt.real_of(A.dtype)
    return cast(least, real), cast(share, real)


def _column(tolerance, A: Tensor) -> Tensor:
    if isinstance(tolerance, Tensor):
        return unsqueeze(tolerance.detach(), -1)
    return made(A.backend.full((1,), tolerance, dtype=dt.real_of(A.dtype)), A.backend)


@composite(
    place="linalg", examples=lambda make: [sample(make(5, 2)), sample(make(2, 2, 2), 0.5)], differentiable=False,
    aliases=("matrix_rank",), method=False,
)  # fmt: skip
@takes_arrays
def matrix_rank(A, tol=None, hermitian: bool = False, *, atol=None, rtol=None):
    """How many singular values are above max(atol, rtol · the largest); of `hermitian` matrices, how many |eigenvalues|.

    Defaults: atol 0, rtol max(m, n) · eps, or 0 where atol is given. `tol` is atol, with rtol 0.
    """
    if tol is not None:
        atol, rtol = tol, 0.0
    A = matrices("matrix_rank", A, bool(hermitian)).detach()
    if not A.numel():
        return made(A.backend.zeros(A.shape[:-2], dtype=dt.int64), A.backend)
    values = abs_(eigvalsh(A)) if hermitian else svdvals(A)
    least, share = _tolerances(A, atol, rtol)
    return sum_(values > maximum(least, amax(values, -1, True) * share), -1)


def _pinv_back(g, A, out):
    """Golub and Pereyra (1973), The differentiation of pseudo-inverses."""
    P, back, H = out, mH(out), mH(g)
    slope = -matmul(matmul(back, g), back)
    slope = slope + matmul(H - matmul(A, matmul(P, H)), matmul(P, back))
    return slope + matmul(matmul(back, P), H - matmul(matmul(H, P), A))


@primitive(vjp=(_pinv_back, None, None), raises=True, complex=True)
def _pinv(xp, A, least, share, *, hermitian):
    if hermitian:
        S, right = xp.lapack("eigh", A)
        left = adjoint_array(xp, right)
    else:
        U, S, Vh = xp.lapack("svd", A, full_matrices=False)
        right, left = adjoint_array(xp, Vh), adjoint_array(xp, U)
    size = xp.absolute(S)
    zero = size <= xp.maximum(least, share * xp.amax(size, axis=-1, keepdims=True))
    inverse = xp.where(zero, xp.zeros((), dtype=S.dtype), 1 / xp.where(zero, xp.ones((), dtype=S.dtype), S))
    return xp.matmul(right * inverse[..., None, :], left)


@composite(
    place="linalg", examples=lambda make: [sample(make(5, 2)), sample(make(2, 5)), sample(make(2, 2, 2))], method=False
)
@takes_arrays
def pinv(A, rcond=None, hermitian: bool = False, *, atol=None, rtol=None):
    """The pseudo-inverse; singular values up to max(atol, rtol · the largest) count as 0.

    Defaults: atol 0, rtol max(m, n) · eps, or 0 where atol is given. `rcond` is rtol. `hermitian`: A is symmetric.
    """
    A = matrices("pinv", A, bool(hermitian))
    if not A.numel():
        return made(A.backend.zeros((*A.shape[:-2], A.shape[-1], A.shape[-2]), dtype=A.dtype), A.backend) + mH(A)
    return _pinv(A, *_tolerances(A, atol, rcond if rtol is None else rtol), hermitian=bool(hermitian))


@composite(examples=lambda make: [sample(make(5, 2)), sample(make(2, 2))])
@takes_arrays
def pinverse(input, rcond=1e-15):
    """`linalg.pinv`; singular values up to rcond · the largest count as 0"""
    return pinv(input, rcond)


@composite(place="linalg", examples=lambda make: [sample(make(5, 2), make(5, 2)), sample(make(2, 2), make(2, 2))])
@takes_arrays
def lstsq(A, B, rcond=None, *, driver=None):
    """(solution, residuals, rank, singular_values): the X of the smallest ‖A X − B‖, and among those of the smallest ‖X‖.

    `residuals`: the column sums of (A X − B)², where m > n and A has full rank; else empty. `driver` "gelsd" and
    "gelss" also return the singular values, "gels" no rank; deepcore computes all of them by singular values.
    """
    A, B = same_dtype("lstsq", matrices("lstsq", A, False), B)
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise ArgumentError("unknown driver of lstsq", expected="gels, gelsy, gelsd or gelss", received=repr(driver))
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and B.shape == A.shape[:-1])
    columns = unsqueeze(B, -1) if vector else B
    if columns.shape[-2] != A.shape[-2]:
        raise ShapeError("lstsq: A and B differ in their rows", received=f"A {A.shape}, B {B.shape}")
    X = matmul(pinv(A, rcond), columns)
    out = reshape_p(X, shape=X.shape[:-1]) if vector else X
    rows, count = A.shape[-2:]
    residuals = values = made(A.backend.zeros((0,), dtype=dt.real_of(A.dtype)), A.backend)
    rank = cast(residuals, dt.int64) if driver == "gels" else matrix_rank(A, rtol=rcond)
    if driver in ("gels", "gelsd", "gelss") and rows > count and bool((rank == count).all()):
        difference = matmul(A, X) - columns
        residuals = sum_((abs_(difference) if A.is_complex() else difference) ** 2, -2)
    if driver in ("gelsd", "gelss"):
        values = svdvals(A.detach())
    return Lstsq(out, residuals, rank, values)


def _condition_samples(make):
    orders = (None, -2, 1, "fro", "nuc", math.inf)
    return [*(positive_samples(make, p=p)[0] for p in orders), sample(make(5, 2))]


@composite(place="linalg", examples=_condition_samples)
@takes_arrays
def cond(A, p=None):
    """‖A‖ₚ ‖A⁻¹‖ₚ, the condition number; p None is 2. Infinite where A is singular"""
    A = matrices("cond", A, p not in (None, 2, -2))
    if p in (None, 2, -2):
        values = svdvals(A)
        return values[..., -1] / values[..., 0] if p == -2 else values[..., 0] / values[..., -1]
    try:
        return matrix_norm(A, p) * matrix_norm(inv(A), p)
    except LinAlgError:
        singular = det(A.detach()) == 0
        regular = where(singular[..., None, None], identity(A), A)
        return where(singular, math.inf, matrix_norm(regular, p) * matrix_norm(inv(regular), p))


# -- powers -----------------------------------------------------------------------------------------------------------


@composite(
    place="linalg", aliases=("matrix_power",),
    examples=lambda make: [sample(make(2, 2), n) for n in (0, 1, 2, 3, 6, -1, -2)] + [sample(make(2, 2, 2), 5)],
)  # fmt: skip
@takes_arrays
def matrix_power(A, n: int):
    """Aⁿ by repeated squaring; a negative n inverts"""
    if not isinstance(n, int):
        raise ArgumentError("matrix_power: n is a whole number", received=repr(n))
    if not isinstance(A, Tensor) or A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ShapeError("matrix_power takes square matrices", expected="(…, n, n)", received=str(A.shape))
    if n < 0:
        return matrix_power(inv(A), -n)
    if n == 0:
        return A * 0 + identity(A) if dt.is_inexact(A.dtype) else identity(A).expand(A.shape).clone()
    result, square = None, A
    while n:
        if n & 1:
            result = square if result is None else matmul(result, square)
        n >>= 1
        square = matmul(square, square) if n else square
    return result.clone() if result is A else result


def _exponential_back(g, A):
    """exp((Aᵀ g; 0 Aᵀ)) has the gradient in its upper right corner (Van Loan 1978)."""
    from deepcore.ops.shape import cat

    n, back = A.shape[-1], mT(A)
    block = cat([cat([back, g], -1), cat([back * 0, back], -1)], -2)
    return _exponential(block)[..., :n, n:]


#: Numerator of the Padé approximant of degree 13, and the 1-norm up to which it holds in float64 (Higham 2005).
_PADE = [math.factorial(26 - k) * math.factorial(13) / (math.factorial(26) * math.factorial(k) * math.factorial(13 - k))
         for k in range(14)]  # fmt: skip
_PADE_REACH = 5.371920351148152


@primitive(
    vjp=_exponential_back,
    raises=True,
    complex="analytic",
    batch="leading",
)
def _exponential(xp, A):
    """Scaling and squaring."""
    dtype = A.dtype
    A = A.astype(dt.complex128 if dtype.kind == "c" else dt.float64)
    size = xp.amax(xp.sum(xp.absolute(A), (-2,), False), axis=-1) if A.size else xp.zeros(A.shape[:-2])
    size = xp.where(xp.isfinite(size), size, xp.ones((), dtype=size.dtype))[..., None, None]
    halvings = xp.ceil(xp.log2(xp.maximum(size / _PADE_REACH, 1.0)))
    A = A / xp.exp2(halvings)
    one, square = xp.eye(A.shape[-1], dtype=A.dtype), xp.matmul(A, A)
    odd, even = _PADE[13] * one, _PADE[12] * one
    for k in range(11, 0, -2):
        odd, even = xp.matmul(odd, square) + _PADE[k] * one, xp.matmul(even, square) + _PADE[k - 1] * one
    odd = xp.matmul(A, odd)
    out = xp.lapack("solve", even - odd, even + odd)
    for k in range(int(halvings.max()) if A.size else 0):
        out = xp.where(halvings > k, xp.matmul(out, out), out)
    return out.astype(dtype)


@composite(
    place="linalg",
    aliases=("matrix_exp",),
    examples=lambda make: [sample(make(2, 2)), sample(make(2, 2, 2)), sample(make(5, 5))],
)
@takes_arrays
def matrix_exp(A):
    """exp(A) = Σ Aᵏ / k!, by scaling and squaring (Higham 2005)"""
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ShapeError("matrix_exp takes square matrices", expected="(…, n, n)", received=str(A.shape))
    if not dt.is_inexact(A.dtype):
        raise DTypeError("matrix_exp needs a floating tensor", received=dt.name_of(A.dtype), fix="A.float()")
    return cast(_exponential(cast(A, dt.float32)), A.dtype) if is_half(A) else _exponential(A)
