"""QR and singular values of matrices, by LAPACK (cuSOLVER on CUDA): packed as in `lapack`."""

from __future__ import annotations

from collections import namedtuple

from deepcore.autograd.graph import conj
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, GradientError
from deepcore.ops.comparison import where
from deepcore.ops.lapack import (
    _gaps,
    _quotient,
    _solve,
    _triangular,
    adjoint_array,
    identity,
    matrices,
    mH,
    mT,
    real_diagonal,
)
from deepcore.ops.linalg import matmul
from deepcore.ops.parts import real_p
from deepcore.ops.registry import cast, composite, primitive, sample, takes_arrays
from deepcore.ops.shape import cat, triu, unsqueeze
from deepcore.tensor import made

Eig = namedtuple("Eig", "eigenvalues eigenvectors")
QR = namedtuple("QR", "Q R")
SVD = namedtuple("SVD", "U S Vh")
OldSVD = namedtuple("OldSVD", "U S V")


def _qr_back(g, out, rows, complete):
    k, columns = out.shape[-1], out.shape[-2] - rows
    if complete and rows > columns:
        raise GradientError(
            'the QR decomposition is not differentiable with mode="complete" of a matrix with more rows than columns',
            fix='mode="reduced"',
        )
    Q, R, gQ, gR = out[..., :rows, :], mT(out[..., rows:, :]), g[..., :rows, :], mT(g[..., rows:, :])
    if columns == k:
        return _qr_back_tall(gQ, gR, Q, R)
    # A = (X | Y) and R = (U | V), where X = Q U, and V = Qᴴ Y.
    U, gU, gV = R[..., :k], gR[..., :k], gR[..., k:]
    gX = _qr_back_tall(gQ + matmul(matmul(Q, R[..., k:]), mH(gV)), gU, Q, U)
    return cat([gX, matmul(Q, gV)], -1)


def _qr_back_tall(gQ, gR, Q, R):
    inner = triu(matmul(gR, mH(R)) - matmul(mH(Q), gQ))
    whole = gQ + matmul(Q, real_diagonal(inner + mH(triu(inner, 1))))
    return mH(_triangular(R, mH(whole), upper=True, unit=False))


@primitive(
    vjp=_qr_back,
    complex=True,
    batch="leading",
)
def _qr(xp, A, *, rows, complete):
    """Q, and below it Rᵀ."""
    Q, R = xp.lapack("qr", A, mode="complete" if complete else "reduced")
    return xp.concatenate([Q, R.swapaxes(-1, -2)], axis=-2)


def _no_qr_gradient(g):
    raise GradientError('the gradient of the QR decomposition needs Q, which mode="r" leaves out', fix='mode="reduced"')


@primitive(
    vjp=_no_qr_gradient,
    complex=True,
    batch="leading",
)
def _only_r(xp, A):
    return xp.lapack("qr", A, mode="r")


@composite(
    place="linalg", examples=lambda make: [sample(make(5, 2)), sample(make(2, 5)), sample(make(2, 2, 2), "complete")]
)
@takes_arrays
def linalg_qr(A, mode: str = "reduced"):
    """(Q, R): A = Q R with orthonormal columns of Q and upper triangular R.

    `mode`: "reduced" (Q has min(m, n) columns), "complete" (Q is square), "r" (Q is empty).
    """
    A = matrices("qr", A, False)
    if mode not in ("reduced", "complete", "r"):
        raise ArgumentError("unknown mode of qr", expected='"reduced", "complete" or "r"', received=repr(mode))
    if mode == "r":
        return QR(made(A.backend.zeros((0,), dtype=A.dtype), A.backend), _only_r(A))
    rows = A.shape[-2]
    out = _qr(A, rows=rows, complete=mode == "complete")
    return QR(out[..., :rows, :], mT(out[..., rows:, :]))


@composite(examples=lambda make: [sample(make(5, 2)), sample(make(2, 2), False)])
def qr(input, some: bool = True):
    """`linalg.qr`, reduced, or complete where not `some`"""
    return linalg_qr(input, "reduced" if some else "complete")


def _svd_back(g, out, rows, columns, full):
    """The gradients of the columns that the reduced form has; the others of a full form count as constants."""
    k = min(rows, columns)
    U, S, V = out[..., :rows, :k], out[..., rows, None, :k], out[..., rows + 1 :, :k]
    gU, gS, gV = g[..., :rows, :k], g[..., rows, None, :k], g[..., rows + 1 :, :k]
    left, right = matmul(mH(U), gU), matmul(mH(V), gV)
    gaps = _gaps(S[..., 0, :] * S[..., 0, :])
    inner = _quotient(left - mH(left), gaps) * S + mT(S) * _quotient(right - mH(right), gaps)
    if out.dtype.kind == "c":  # the phases that U and V share
        gS = cast(real_p(gS), out.dtype) + _quotient(left - mH(left), S * 2.0)
    whole = matmul(U, where(identity(inner, dt.bool_), gS, inner))
    if rows > k:
        whole = whole + _quotient(gU - matmul(U, left), S)
    whole = matmul(whole, mH(V))
    if columns > k:
        whole = whole + matmul(U, mH(_quotient(gV - matmul(V, right), S)))
    return whole


@primitive(
    vjp=_svd_back,
    raises=True,
    complex=True,
    batch="leading",
)
def _svd(xp, A, *, rows, columns, full):
    """U, below it a row of the singular values, below that V, all filled up with zeros to one width."""
    U, S, Vh = xp.lapack("svd", A, full_matrices=full)
    width = max(rows, columns) if full else min(rows, columns)
    out = xp.zeros((*A.shape[:-2], rows + 1 + columns, width), dtype=A.dtype)
    out[..., :rows, : U.shape[-1]] = U
    out[..., rows, : S.shape[-1]] = S
    out[..., rows + 1 :, : Vh.shape[-2]] = adjoint_array(xp, Vh)
    return out


def _no_driver(name: str, driver) -> None:
    if driver is not None:
        raise ArgumentError(
            f"{name}: a driver is chosen for cuSOLVER in PyTorch, deepcore has one",
            received=repr(driver),
            fix="driver=None",
        )


@composite(
    place="linalg",
    examples=lambda make: [sample(make(*shape), False) for shape in ((2, 2), (5, 2), (2, 2, 5))] + [sample(make(2, 2))],
)
@takes_arrays
def linalg_svd(A, full_matrices: bool = True, *, driver=None):
    """(U, S, Vh): A = U diag(S) Vh with orthonormal columns of U and rows of Vh, S in descending order.

    `full_matrices`: U and Vh are square; their further columns and rows count as constants in gradients. Complex columns have
    any factor e^(iφ): only functions that do not depend on it have a gradient.
    """
    _no_driver("svd", driver)
    A = matrices("svd", A, False)
    rows, columns = A.shape[-2:]
    k = min(rows, columns)
    out = _svd(A, rows=rows, columns=columns, full=bool(full_matrices))
    U, V = (rows, columns) if full_matrices else (k, k)
    S = out[..., rows, :k]
    return SVD(out[..., :rows, :U], real_p(S) if S.dtype.kind == "c" else S, mH(out[..., rows + 1 :, :V]))


@composite(examples=lambda make: [sample(make(5, 2)), sample(make(2, 2))])
def svd(input, some: bool = True, compute_uv: bool = True):
    """(U, S, V), reduced where `some`: V is the conjugate transpose of that of `linalg.svd`. Without `compute_uv`, U and V are 0"""
    U, S, Vh = linalg_svd(input, not some)
    if compute_uv:
        return OldSVD(U, S, mH(Vh))
    shapes = (*U.shape[:-1], U.shape[-2]), (*Vh.shape[:-2], Vh.shape[-1], Vh.shape[-1])
    U, V = (made(S.backend.zeros(shape, dtype=U.dtype), S.backend) for shape in shapes)
    return OldSVD(U, S, V)


def _svdvals_back(g, A):
    U, _, Vh = linalg_svd(A, full_matrices=False)
    return matmul(U * unsqueeze(g, -2), Vh)


@primitive(
    vjp=_svdvals_back,
    raises=True,
    complex=True,
    batch="leading",
)
def _svdvals(xp, A):
    return xp.lapack("svd", A, compute_uv=False)


@composite(place="linalg", examples=lambda make: [sample(make(5, 2)), sample(make(2, 2, 2))])
@takes_arrays
def svdvals(A, *, driver=None):
    """The singular values in descending order"""
    _no_driver("svdvals", driver)
    return _svdvals(matrices("svdvals", A, False))


# -- eigenvalues of any matrix ------------------------------------------------------------------------------------


def _eig_back(g, A, out):
    """(Giles, 2008, with eigenvectors of norm 1): whatever the phase of an eigenvector, the result must not depend on it."""
    n = out.shape[-1]
    values, V = out[..., n, :], out[..., :n, :]
    turn = matmul(mH(V), g[..., :n, :])
    lengths = unsqueeze(real_p(turn.diagonal(0, -2, -1)), -2)
    inner = _quotient(turn - matmul(mH(V), V) * lengths, conj(_gaps(values)))
    inner = where(identity(inner, dt.bool_), unsqueeze(g[..., n, :], -2), inner)
    whole = _solve(mH(V), matmul(inner, mH(V)))
    return whole if A._data.dtype.kind == "c" else real_p(whole)


@primitive(vjp=_eig_back, raises=True, batch="leading", complex=True)
def _eig(xp, A):
    """The eigenvectors as columns, and below them a row of the eigenvalues."""
    values, vectors = xp.lapack("eig", A)
    kind = dt.complex64 if A.dtype in (dt.float32, dt.complex64) else dt.complex128
    return xp.concatenate([vectors, values[..., None, :]], axis=-2).astype(kind, copy=False)


def _distinct_samples(make):
    """Matrices whose eigenvalues differ."""
    matrices = [make(n, n) for n in (2, 4)]
    spread = [made(A.backend.arange(A.shape[-1], dtype=dt.float64) * 3, A.backend) for A in matrices]
    return [sample((A + d.diag()).detach().requires_grad_()) for A, d in zip(matrices, spread)]


@composite(place="linalg", examples=_distinct_samples, method=False, differentiable=False)
@takes_arrays
def eig(A):
    """(eigenvalues, eigenvectors as columns of norm 1), complex, in no order, of square matrices; A v = λ v.

    Gradients need eigenvalues that differ, and a loss that does not depend on the phase of an eigenvector.
    """
    A = matrices("eig", A)
    out = _eig(A)
    return Eig(out[..., A.shape[-1], :], out[..., : A.shape[-1], :])


@composite(place="linalg", examples=_distinct_samples, method=False)
@takes_arrays
def eigvals(A):
    """The eigenvalues of square matrices, complex, in no order"""
    return eig(A).eigenvalues
