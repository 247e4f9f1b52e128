# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.

import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.complex | builtins.float | builtins.int | builtins.bool

def cholesky(A: Any, *, upper: builtins.bool = ...) -> Tensor:
    """The lower triangular L with A = L Lᴴ, or with `upper` Lᴴ; A is symmetric (Hermitian) and positive definite."""

def cond(A: Any, p: Any = ...) -> Tensor:
    """‖A‖ₚ ‖A⁻¹‖ₚ, the condition number; p None is 2. Infinite where A is singular"""

def cross(input: Tensor, other: Operand, *, dim: builtins.int = ...) -> Tensor:
    """The cross product of vectors of three numbers along `dim`; the other dimensions broadcast"""

def det(A: Any) -> Tensor:
    """The determinant"""

def diagonal(A: Any, *, offset: builtins.int = ..., dim1: builtins.int = ..., dim2: builtins.int = ...) -> Tensor:
    """The diagonals of matrices, as the last dimension; a view"""

def eig(A: Any) -> Any:
    """(eigenvalues, eigenvectors as columns of norm 1), complex, in no order, of square matrices; A v = λ v."""

def eigh(A: Any, UPLO: builtins.str = ...) -> Any:
    """(eigenvalues in ascending order, eigenvectors as columns) of symmetric or Hermitian matrices"""

def eigvals(A: Any) -> Tensor:
    """The eigenvalues of square matrices, complex, in no order"""

def eigvalsh(A: Any, UPLO: builtins.str = ...) -> Tensor:
    """The eigenvalues of symmetric or Hermitian matrices in ascending order; `UPLO`: the triangle that is read"""

def inv(A: Any) -> Tensor:
    """A⁻¹; raises `LinAlgError` for a singular matrix"""

def lstsq(A: Any, B: Any, rcond: Any = ..., *, driver: Any = ...) -> Any:
    """(solution, residuals, rank, singular_values): the X of the smallest ‖A X − B‖, and among those of the smallest ‖X‖."""

def lu(A: Any, *, pivot: builtins.bool = ...) -> Any:
    """(P, L, U) with A = P L U: a permutation, a lower triangle with a diagonal of 1, an upper one"""

def lu_factor(A: Any, *, pivot: builtins.bool = ...) -> Any:
    """(LU, pivots) of P A = L U: U with L below its diagonal, and the row that each was exchanged with, from 1."""

def lu_solve(LU: Any, pivots: Any, B: Any, *, left: builtins.bool = ..., adjoint: builtins.bool = ...) -> Tensor:
    """The X with A X = B of A = P L U as `lu_factor` returned it; X A = B where not `left`, Aᴴ in place of A with `adjoint`"""

def matrix_exp(A: Any) -> Tensor:
    """exp(A) = Σ Aᵏ / k!, by scaling and squaring (Higham 2005)"""

def matrix_norm(A: Any, ord: Any = ..., dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """The norm of matrices in the dimensions `dim`."""

def matrix_power(A: Any, n: builtins.int) -> Tensor:
    """Aⁿ by repeated squaring; a negative n inverts"""

def matrix_rank(A: Any, tol: Any = ..., hermitian: builtins.bool = ..., *, atol: Any = ..., rtol: Any = ...) -> Tensor:
    """How many singular values are above max(atol, rtol · the largest); of `hermitian` matrices, how many |eigenvalues|."""

def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of two or more matrices in the cheapest order; the first may be a row, the last a column (vectors)"""

def norm(A: Any, ord: Any = ..., dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """`vector_norm` of all elements or over `dim`; with `ord`, `matrix_norm` of a matrix or over two dimensions"""

def pinv(A: Any, rcond: Any = ..., hermitian: builtins.bool = ..., *, atol: Any = ..., rtol: Any = ...) -> Tensor:
    """The pseudo-inverse; singular values up to max(atol, rtol · the largest) count as 0."""

def qr(A: Any, mode: builtins.str = ...) -> Any:
    """(Q, R): A = Q R with orthonormal columns of Q and upper triangular R."""

def slogdet(A: Any) -> Any:
    """(sign, logabsdet): det A = sign · exp(logabsdet), without overflow"""

def solve(A: Any, B: Any, *, left: builtins.bool = ...) -> Tensor:
    """The X with A X = B, or X A = B where not `left`; B is a matrix, or a vector for each matrix of A"""

def solve_triangular(A: Any, B: Any, *, upper: builtins.bool, left: builtins.bool = ..., unitriangular: builtins.bool = ...) -> Tensor:
    """The X with A X = B for triangular A, or X A = B where not `left`; the other triangle is not read."""

def svd(A: Any, full_matrices: builtins.bool = ..., *, driver: Any = ...) -> Any:
    """(U, S, Vh): A = U diag(S) Vh with orthonormal columns of U and rows of Vh, S in descending order."""

def svdvals(A: Any, *, driver: Any = ...) -> Tensor:
    """The singular values in descending order"""

def vander(x: Any, N: builtins.int | None = ...) -> Tensor:
    """The powers 0 to N − 1 (default: as many as there are numbers) of each number, as rows"""

def vecdot(x: Any, y: Any, *, dim: builtins.int = ...) -> Tensor:
    """Σ conj(x) · y along `dim`; the shapes broadcast"""

def vector_norm(x: Any, ord: Any = ..., dim: Any = ..., keepdim: builtins.bool = ..., *, dtype: Any = ...) -> Tensor:
    """(Σ |x|ᵒʳᵈ)^(1/ord) over `dim` (None: all elements); ord ∞ and −∞: the largest and smallest |x|, 0: a count"""

def matmul(input: Tensor, other: Operand) -> Tensor:
    """input @ other over the last two dimensions; leading ones broadcast; vectors are rows on the left, columns on the right"""
