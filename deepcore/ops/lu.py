"""LU decompositions with row exchanges, what solves with them, and with Cholesky's factors; low-rank decompositions."""

from __future__ import annotations

from collections import namedtuple

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, LinAlgError, ShapeError
from deepcore.ops.decompositions import OldSVD, linalg_qr, linalg_svd
from deepcore.ops.index import gather_p
from deepcore.ops.lapack import identity, matrices, mH, mT, solve_triangular
from deepcore.ops.linalg import matmul, same_dtype
from deepcore.ops.registry import Tensor, cast, composite, primitive, sample, takes_arrays
from deepcore.ops.shape import broadcast_shape, broadcast_to, cat, tril, triu, unsqueeze
from deepcore.random import randn
from deepcore.tensor import made

LUFactor = namedtuple("LUFactor", "LU pivots")
LUParts = namedtuple("LUParts", "P L U")


def _rows(order: Tensor, A: Tensor) -> Tensor:
    """The rows of the matrices A at the positions `order`."""
    return gather_p(A, broadcast_to(unsqueeze(order, -1), A.shape), dim=A.ndim - 2)


def _eliminate(xp, A, pivot: bool):
    """(L below and U above the diagonal in one matrix, the row that each row was exchanged with, from 1)."""
    A = A.copy()
    steps = min(A.shape[-2:])
    exchanged = xp.zeros((*A.shape[:-2], steps), dtype=A.dtype)
    for j in range(steps):
        chosen = xp.full(A.shape[:-2], j, dtype=dt.int64)
        if pivot:
            chosen = xp.argmax(xp.abs(A[..., j:, j]), axis=-1) + j
            at = xp.broadcast_to(chosen[..., None, None], (*A.shape[:-2], 1, A.shape[-1]))
            row = xp.take_along_axis(A, at, axis=-2)
            xp.put_along_axis(A, at, A[..., j : j + 1, :].copy(), axis=-2)
            A[..., j : j + 1, :] = row
        exchanged[..., j] = chosen + 1
        head = A[..., j : j + 1, j]
        A[..., j + 1 :, j] /= xp.where(head == 0, xp.ones((), dtype=A.dtype), head)  # a column of zeros stays one
        A[..., j + 1 :, j + 1 :] -= A[..., j + 1 :, j : j + 1] * A[..., j : j + 1, j + 1 :]
    return A, exchanged


def _lu_back(g, out):
    """Of P A = L U: the gradient of the square part from those of both triangles, the rest by substitution."""
    m, n = out.shape[-2] - 1, out.shape[-1]
    k = min(m, n)
    packed, g = out[..., :m, :], g[..., :m, :]
    L, U = _lower(packed[..., :k]), triu(packed[..., :k, :])
    of_L, of_U = tril(g[..., :k], -1), triu(g[..., :k, :])
    square, U1 = of_U[..., :k], U[..., :k]
    parts = []
    if n > k:  # U2 = L⁻¹ (P A)2
        right = solve_triangular(mT(L), of_U[..., k:], upper=True, unitriangular=True)
        of_L = of_L - tril(matmul(right, mT(U[..., k:])), -1)
        parts = [right]
    if m > k:  # L2 = (P A)2 U⁻¹
        below = solve_triangular(mT(U1), of_L[..., k:, :], upper=False, left=False)
        square = square - triu(matmul(mT(L[..., k:, :]), below))
        L, of_L = L[..., :k, :], of_L[..., :k, :]
        parts = [below]
    inner = tril(matmul(mT(L), of_L), -1) + triu(matmul(square, mT(U1)))
    inner = solve_triangular(mT(L), inner, upper=True, unitriangular=True)
    inner = solve_triangular(mT(U1), inner, upper=False, left=False)
    whole = cat([inner, *parts], -1 if n > k else -2) if parts else inner
    return _rows(_inverse(_order(_exchanged(out, k), m)), whole)


@primitive(vjp=_lu_back, raises=True)
def _lu(xp, A, *, pivot, check):
    """L below the diagonal, U above it, and a last row of pivots. `check`: raise for a 0 on the diagonal."""
    packed, exchanged = _eliminate(xp, A, pivot)
    if check and not bool((xp.diagonal(packed, axis1=-2, axis2=-1) != 0).all()):
        raise LinAlgError("lu_factor: the matrix is singular", fix="linalg.lu(A), which factors singular ones, too")
    last = xp.zeros((*A.shape[:-2], 1, A.shape[-1]), dtype=A.dtype)
    last[..., 0, : exchanged.shape[-1]] = exchanged
    return xp.concatenate([packed, last], axis=-2)


def _exchanged(packed: Tensor, count: int) -> Tensor:
    """The pivots in the last row of what `_lu` returns."""
    return cast(packed.detach()[..., -1, :count], dt.int32)


def _lower(packed: Tensor) -> Tensor:
    """L of the packed matrix: its lower triangle with a diagonal of 1."""
    k = packed.shape[-1]
    xp = packed.backend
    return tril(packed, -1) + made(xp.eye(packed.shape[-2], k, dtype=packed.dtype), xp)


@primitive()
def _order_of_rows(xp, pivots, *, rows):
    """The order in which the exchanges put the rows 0, 1, …"""
    order = xp.broadcast_to(xp.arange(rows, dtype=dt.int64), (*pivots.shape[:-1], rows)).copy()
    for j in range(pivots.shape[-1]):
        at = pivots[..., j : j + 1].astype(dt.int64) - 1
        taken = xp.take_along_axis(order, at, axis=-1)
        xp.put_along_axis(order, at, order[..., j : j + 1].copy(), axis=-1)
        order[..., j : j + 1] = taken
    return order


def _order(pivots: Tensor, rows: int) -> Tensor:
    return _order_of_rows(pivots.detach(), rows=rows)


def _inverse(order: Tensor) -> Tensor:
    return order.argsort(-1)


def _samples(make):
    shapes = ((2, 2), (3, 5), (5, 3), (2, 2, 2), (0, 0))
    return [sample(make(*shape)) for shape in shapes]


@composite(place="linalg", examples=_samples, method=False)
@takes_arrays
def lu_factor(A, *, pivot: bool = True):
    """(LU, pivots) of P A = L U: U with L below its diagonal, and the row that each was exchanged with, from 1.

    Each pivot is the largest of its column by absolute value; without `pivot` rows stay. Raises `LinAlgError` for a singular matrix.
    """
    return _factor("lu_factor", A, pivot, True)


def _factor(name: str, A, pivot: bool, check: bool) -> LUFactor:
    A = matrices(name, A, False)
    out = _lu(A, pivot=bool(pivot), check=check)
    return LUFactor(out[..., : A.shape[-2], :], _exchanged(out, min(A.shape[-2:])))


@composite(place="linalg", examples=_samples, method=False)
@takes_arrays
def linalg_lu(A, *, pivot: bool = True):
    """(P, L, U) with A = P L U: a permutation, a lower triangle with a diagonal of 1, an upper one"""
    return lu_unpack(*_factor("lu", A, pivot, False))


@composite(examples=_samples)
def lu(A, pivot: bool = True, get_infos: bool = False):
    """(LU, pivots): `linalg.lu_factor`; with `get_infos` also whether a pivot is 0, from 1, for each matrix"""
    LU, pivots = _factor("lu", A, pivot, not get_infos)
    if not get_infos:
        return LUFactor(LU, pivots)
    zero = LU.detach().diagonal(0, -2, -1) == 0
    first = cast(zero.cumsum(-1) == 0, dt.int32).sum(-1) + 1
    return LU, pivots, cast(first * cast(zero.any(-1), first.dtype), dt.int32)


def _factor_samples(make):
    factors = [lu_factor(make(*shape)) for shape in ((2, 2), (5, 5), (2, 2, 2))]
    return [sample(LU.detach().requires_grad_(), pivots) for LU, pivots in factors]


@composite(examples=_factor_samples, method=False)
@takes_arrays
def lu_unpack(LU_data, LU_pivots, unpack_data: bool = True, unpack_pivots: bool = True):
    """(P, L, U) of what `lu_factor` returned; empty tensors for what is not asked for"""
    LU = matrices("lu_unpack", LU_data, False)
    rows = LU.shape[-2]
    xp = LU.backend
    empty = made(xp.zeros((0,), dtype=LU.dtype), xp)
    P = L = U = empty
    if unpack_pivots:
        _check_pivots("lu_unpack", LU, LU_pivots)
        order = _order(LU_pivots, rows)
        P = mT(_rows(order, broadcast_to(made(xp.eye(rows, dtype=LU.dtype), xp), (*order.shape, rows))))
    if unpack_data:
        k = min(LU.shape[-2:])
        L, U = _lower(LU[..., :k]), triu(LU[..., :k, :])
    return LUParts(P, L, U)


def _check_pivots(name: str, LU: Tensor, pivots: Tensor) -> None:
    if pivots.dtype != dt.int32 or pivots.shape != (*LU.shape[:-2], min(LU.shape[-2:])):
        raise ArgumentError(
            f"{name}: the pivots are those of lu_factor",
            expected=f"int32 {(*LU.shape[:-2], min(LU.shape[-2:]))}",
            received=f"{dt.name_of(pivots.dtype)} {pivots.shape}",
        )


def _solve_samples(make):
    samples = []
    for shape, other in (((2, 2), (2, 1)), ((5, 5), (5, 2)), ((2, 2, 2), (2, 3))):
        LU, pivots = lu_factor(make(*shape))
        samples.append(sample(LU.detach().requires_grad_(), pivots, make(*other)))
    return samples


@composite(place="linalg", examples=_solve_samples, method=False)
@takes_arrays
def linalg_lu_solve(LU, pivots, B, *, left: bool = True, adjoint: bool = False):
    """The X with A X = B of A = P L U as `lu_factor` returned it; X A = B where not `left`, Aᴴ in place of A with `adjoint`"""
    LU, B = same_dtype("lu_solve", matrices("lu_solve", LU), matrices("lu_solve", B, False))
    _check_pivots("lu_solve", LU, pivots)
    if not left:
        return mH(linalg_lu_solve(LU, pivots, mH(B), adjoint=not adjoint))
    n = LU.shape[-1]
    if B.shape[-2] != n:
        raise ShapeError("lu_solve: A and B differ in their rows", received=f"A {LU.shape}, B {B.shape}")
    order = _order(pivots, n)
    if adjoint:
        X = solve_triangular(mH(LU), B, upper=False)
        X = solve_triangular(mH(LU), X, upper=True, unitriangular=True)
        return _rows(*_batched(_inverse(order), X))
    X = solve_triangular(LU, _rows(*_batched(order, B)), upper=False, unitriangular=True)
    return solve_triangular(LU, X, upper=True)


def _batched(order: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the leading dimensions of both."""
    batch = broadcast_shape("lu_solve", order.shape[:-1], B.shape[:-2])
    return broadcast_to(order, (*batch, order.shape[-1])), broadcast_to(B, (*batch, *B.shape[-2:]))


@composite(examples=lambda make: [sample(s.args[2], *s.args[:2]) for s in _solve_samples(make)])
def lu_solve(b, LU_data, LU_pivots):
    """The X with A X = b of the factors that `lu_factor` returned"""
    return linalg_lu_solve(LU_data, LU_pivots, b)


# -- Cholesky's factors ---------------------------------------------------------------------------------------------


def _triangles(make):
    return [sample(tril(make(n, n, low=0.5)).detach().requires_grad_()) for n in (2, 5)]


@composite(examples=lambda make: [sample(make(n, 2), *s.args) for n, s in zip((2, 5), _triangles(make))])
@takes_arrays
def cholesky_solve(B, L, upper: bool = False):
    """The X with L Lᴴ X = B, or Lᴴ L X = B where the triangle is the `upper` one"""
    L = matrices("cholesky_solve", L)
    first = solve_triangular(mH(L) if upper else L, B, upper=False)
    return solve_triangular(L if upper else mH(L), first, upper=True)


@composite(examples=_triangles)
@takes_arrays
def cholesky_inverse(L, upper: bool = False):
    """(L Lᴴ)⁻¹, or (Lᴴ L)⁻¹ where the triangle is the `upper` one"""
    L = matrices("cholesky_inverse", L)
    return cholesky_solve(identity(L), L, upper)


# -- low rank -------------------------------------------------------------------------------------------------------


def _range(A: Tensor, q: int, niter: int) -> Tensor:
    """An orthonormal basis of nearly the range of A, from products with random vectors."""
    start = randn(*A.shape[:-2], A.shape[-1], q, dtype=A.dtype, backend=A.backend)
    Q = linalg_qr(matmul(A, start)).Q
    for _ in range(niter):
        Q = linalg_qr(matmul(A, linalg_qr(matmul(mH(A), Q)).Q)).Q
    return Q


def svd_lowrank(A, q: int = 6, niter: int = 2, M=None):
    """(U, S, V) with nearly A - M = U diag(S) Vᵀ of rank `q`, by `niter` subspace iterations from random vectors.

    M (default 0) broadcasts to A. Draws from the default generator. (Halko et al., 2011, algorithm 5.1)
    """
    A = matrices("svd_lowrank", A, False)
    if M is not None:
        A = A - M
    if not 0 <= q <= min(A.shape[-2:]):
        raise ArgumentError(f"svd_lowrank: q is from 0 to {min(A.shape[-2:])}, the smaller side", received=repr(q))
    wide = A.shape[-2] < A.shape[-1]
    tall = mH(A) if wide else A
    Q = _range(tall, q, niter)
    U, S, Vh = linalg_svd(matmul(mH(Q), tall), full_matrices=False)
    U = matmul(Q, U)
    return OldSVD(mH(Vh), S, U) if wide else OldSVD(U, S, mH(Vh))


def pca_lowrank(A, q: int | None = None, center: bool = True, niter: int = 2):
    """(U, S, V) of the matrix of samples A (m, n), less its column means with `center`: V has principal directions as columns.

    `q`: their number, default min(6, m, n). S² / (m - 1) are the variances along them. As `svd_lowrank`.
    """
    A = matrices("pca_lowrank", A, False)
    q = min(6, *A.shape[-2:]) if q is None else q
    if not 0 <= q <= min(A.shape[-2:]):
        raise ArgumentError(f"pca_lowrank: q is from 0 to {min(A.shape[-2:])}, the smaller side", received=repr(q))
    return svd_lowrank(A - A.mean(-2, keepdim=True) if center else A, q, niter)
