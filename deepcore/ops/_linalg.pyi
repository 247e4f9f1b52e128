# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.

import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.float | builtins.int | builtins.bool

def cholesky(A: Any, *, upper: builtins.bool = ...) -> Tensor:
    """The lower triangular L with A = L Lᵀ, or with `upper` its transpose; A is symmetric and positive definite."""

def det(A: Any) -> Tensor:
    """The determinant"""

def eigh(A: Any, UPLO: builtins.str = ...) -> Any:
    """(eigenvalues in ascending order, eigenvectors as columns) of symmetric matrices; `UPLO`: the triangle that is read"""

def eigvalsh(A: Any, UPLO: builtins.str = ...) -> Tensor:
    """The eigenvalues of symmetric matrices in ascending order; `UPLO`: the triangle that is read"""

def inv(A: Any) -> Tensor:
    """A⁻¹; raises `LinAlgError` for a singular matrix"""

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
