"""Distances and similarities of vectors, and the bilinear form."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt
from deepcore.errors import ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import pow as pow_
from deepcore.ops.arithmetic import sqrt
from deepcore.ops.common import ordered
from deepcore.ops.comparison import maximum, where
from deepcore.ops.linalg import matmul
from deepcore.ops.reduction import amax
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import functional, is_half, takes_arrays
from deepcore.ops.shape import broadcast_tensors, normalize_dim, permute, reshape
from deepcore.tensor import Tensor


def _norm(x: Tensor, p: float, dim: int, keepdim: bool) -> Tensor:
    """(Σ |x|ᵖ)^(1/p) along `dim`, with slope 0 where it is 0; of 16-bit floats computed in float32."""
    if is_half(x):
        return _norm(x.to(dt.float32), p, dim, keepdim).to(x.dtype)
    x = abs_(x) if x._data.dtype.kind == "c" else x
    if p == math.inf:
        return amax(abs_(x), dim, keepdim)
    if p == -math.inf:
        return -amax(-abs_(x), dim, keepdim)
    if p == 0:
        return sum_((x != 0).to(x.dtype), dim, keepdim)
    if p == 1:
        return sum_(abs_(x), dim, keepdim)
    total = sum_(x * x if p == 2 else pow_(abs_(x), p), dim, keepdim)
    zero = total == 0
    positive = where(zero, 1.0, total)
    return where(zero, 0.0, sqrt(positive) if p == 2 else pow_(positive, 1.0 / p))


@functional
@takes_arrays
def pairwise_distance(x1, x2, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """‖x1 - x2 + eps‖ₚ of each pair of vectors: (N, D) and (N, D), or (D,), to (N,) or (); the two broadcast.

    `keepdim`: (N, 1). `p` may be 0 (a count) and infinite (the largest).
    """
    return _norm(x1 - x2 + eps, float(p), -1, keepdim)


@functional
@takes_arrays
def cosine_similarity(x1, x2, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 · x2 / (max(‖x1‖₂, eps) · max(‖x2‖₂, eps)) along `dim`; the two shapes broadcast."""
    x1, x2 = (ordered("cosine_similarity", x) for x in (x1, x2))
    if not x1.ndim and not x2.ndim:
        return cosine_similarity(reshape(x1, 1), reshape(x2, 1), normalize_dim(dim, 0), eps)
    dim = normalize_dim(dim, max(x1.ndim, x2.ndim)) - max(x1.ndim, x2.ndim)
    if min(x1.ndim, x2.ndim) < -dim or x1.shape[dim] != x2.shape[dim]:
        x1, x2 = broadcast_tensors(x1, x2)
    first, second = (x / maximum(_norm(x, 2.0, dim, True), eps) for x in (x1, x2))
    return sum_(first * second, dim)


@functional
@takes_arrays
def bilinear(input1, input2, weight, bias: Tensor | None = None) -> Tensor:
    """yₖ = x1ᵀ Wₖ x2 + bₖ: input1 (*, H1), input2 (*, H2), weight (K, H1, H2), bias (K,) to (*, K)."""
    if weight.ndim != 3 or input1.shape[-1:] != weight.shape[1:2] or input2.shape[-1:] != weight.shape[2:]:
        raise ShapeError(
            "bilinear: the inputs' last dimensions are those of the weight",
            expected="weight (K, H1, H2) for inputs (*, H1) and (*, H2)",
            received=f"weight {weight.shape}, inputs {input1.shape} and {input2.shape}",
        )
    if input1.shape[:-1] != input2.shape[:-1]:
        raise ShapeError(
            "bilinear: the inputs differ in a dimension before the last",
            expected=f"input2 of shape {(*input1.shape[:-1], input2.shape[-1])}",
            received=f"shape {input2.shape}",
        )
    outputs, first, second = weight.shape
    if bias is not None and bias.shape != (outputs,):
        raise ShapeError("bilinear: bias has one number per output", expected=f"({outputs},)", received=str(bias.shape))
    rows = math.prod(input1.shape[:-1])
    table = reshape(permute(weight, 1, 0, 2), first, outputs * second)
    forms = reshape(matmul(reshape(input1, rows, first), table), rows, outputs, second)
    out = reshape(matmul(forms, reshape(input2, rows, second, 1)), rows, outputs)
    return reshape(out if bias is None else out + bias, *input1.shape[:-1], outputs)
