"""Scans: running sums."""

from __future__ import annotations

from deepcore.backend import dtypes as dt
from deepcore.ops.reduction import as_dtype
from deepcore.ops.registry import axis_names, composite, primitive, sample
from deepcore.ops.shape import flip_p, normalize_dim


@primitive(vjp=lambda g, dim: flip_p(_cumsum(flip_p(g, dims=(dim,)), dim=dim), dims=(dim,)))
def _cumsum(xp, input, *, dim):
    # Pairwise summation does not apply to a running sum, so it accumulates in the widest float.
    wide = dt.float64 if dt.is_floating(input.dtype) else input.dtype
    return xp.cumsum(input.astype(wide, copy=False), axis=dim).astype(input.dtype, copy=False)


@composite(inplace=True, examples=lambda make: [sample(make(3, 4), 0), sample(make(3, 4), -1), sample(make(), 0)])
@axis_names
def cumsum(input, dim: int, *, dtype=None):
    """Running sums along `dim`"""
    if dtype is None and not dt.is_floating(input.dtype):
        dtype = dt.int64
    input = as_dtype(input, dtype)
    d = normalize_dim(dim, input.ndim)
    return _cumsum(input, dim=d) if input.ndim else input.clone()
