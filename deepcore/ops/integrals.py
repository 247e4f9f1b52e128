"""Covariances and correlations; integrals by trapezoids."""

from __future__ import annotations

import math

from deepcore.autograd.graph import conj
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops.comparison import clamp
from deepcore.ops.diagonals import diagonal
from deepcore.ops.index import within
from deepcore.ops.linalg import matmul
from deepcore.ops.parts import complex_p, imag_p, real_p
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import Tensor, axis_names, cast, composite, sample, takes_arrays
from deepcore.ops.scan import cumsum
from deepcore.ops.shape import (
    narrow,
    reshape_p,
    transpose,
    unsqueeze,
)
from deepcore.tensor import made


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(5)), sample(make(3, 4), correction=0),
                           sample(make(2, 3), fweights=make.int(3, 3) + 1, aweights=make(3, low=0.5))]
)  # fmt: skip
@takes_arrays
def cov(input, *, correction: int = 1, fweights=None, aweights=None):
    """The covariances of variables in rows, of observations in columns: Σ w (x − x̄) conj(y − ȳ) / (Σ w − correction)

    `fweights`: how often an observation counts (integers); `aweights`: its importance, w = fweights · aweights.
    """
    if input.ndim > 2 or input.dtype == dt.bool_:
        raise ShapeError("cov takes a matrix of numbers", received=f"{dt.name_of(input.dtype)} {input.shape}")
    x = input if dt.is_inexact(input.dtype) else cast(input, dt.default_float)
    x = reshape_p(x, shape=(1, x.numel())) if x.ndim < 2 else x
    count = x.shape[1]
    weights = None
    for name, w, integers in (("fweights", fweights, True), ("aweights", aweights, False)):
        if w is None:
            continue
        if w.ndim > 1 or w.numel() != count or (dt.is_floating(w.dtype) == integers):
            raise ShapeError(
                f"cov: {name} has a number for each observation",
                expected=f"{'integers' if integers else 'floats'} ({count},)",
                received=f"{dt.name_of(w.dtype)} {w.shape}",
            )
        if not within(cast(w < 0, dt.int64), 0, 1):
            raise ArgumentError(f"cov: {name} are at least 0", received=f"{w.min().item()}")
        w = reshape_p(w, shape=(count,))
        weights = w if weights is None else weights * w
    if weights is None:
        mean, total = sum_(x, 1, True) / count if count else sum_(x, 1, True) * math.nan, count
    else:
        total = sum_(weights)
        mean = sum_(x * weights, 1, True) / total
    if weights is None or aweights is None:
        norm = total - correction
    elif correction == 0:
        norm = total
    else:
        norm = total - correction * sum_(weights * aweights) / total
    norm = clamp(norm, min=0) if isinstance(norm, Tensor) else max(norm, 0)
    x = x - mean
    product = matmul(x, transpose(conj(x if weights is None else cast(x * weights, x.dtype)), 0, 1))
    out = (
        product / norm
        if isinstance(norm, Tensor) or norm
        else product / made(x.backend.zeros((), dtype=x.dtype), x.backend)
    )
    return reshape_p(out, shape=()) if out.shape == (1, 1) else out


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5))])
@takes_arrays
def corrcoef(input):
    """The correlations of variables in rows, of observations in columns, limited to −1 … 1 (complex ones, both parts)"""
    c = cov(input)
    if not c.ndim:
        return c / c
    variances = diagonal(c)
    deviation = (real_p(variances) if c.is_complex() else variances).sqrt()
    out = c / unsqueeze(deviation, 1) / unsqueeze(deviation, 0)
    return complex_p(clamp(real_p(out), -1, 1), clamp(imag_p(out), -1, 1)) if c.is_complex() else clamp(out, -1, 1)


def _widths(name: str, y, x, dx, dim: int):
    """(y with the dimension last, the widths of its intervals)."""
    y = transpose(y, dim, -1)
    if x is None:
        return y, 1 if dx is None else dx
    if x.ndim == 1:
        if x.shape[0] != y.shape[-1]:
            raise ShapeError(f"{name}: x has a place for each y", received=f"y {y.shape}, x {x.shape}")
    else:
        x = reshape_p(x, shape=(1,) * (y.ndim - x.ndim) + x.shape) if x.ndim < y.ndim else x
        x = transpose(x, dim, -1)
    return y, narrow(x, -1, 1, x.shape[-1] - 1) - narrow(x, -1, 0, x.shape[-1] - 1)


def _areas(name: str, y, x, dx, dim: int):
    if x is not None and dx is not None:
        raise ArgumentError(f"{name} takes x or dx, not both")
    y, widths = _widths(name, y, x, dx, dim)
    count = y.shape[-1]
    if not count:
        return y[..., :0]
    return (narrow(y, -1, 1, count - 1) + narrow(y, -1, 0, count - 1)) * widths * 0.5


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), make(4)), sample(make(3, 4), dx=0.5, dim=0)],
    aliases=("trapz",), method=False,
)  # fmt: skip
@axis_names
def trapezoid(y, x=None, *, dx=None, dim: int = -1):
    """The integral of y along `dim` by trapezoids, over the places x or with the step dx (default 1)"""
    return sum_(_areas("trapezoid", y, x, dx, dim), -1)


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), make(4)), sample(make(3, 4), dx=0.5, dim=0)],
    method=False,
)
@axis_names
def cumulative_trapezoid(y, x=None, *, dx=None, dim: int = -1):
    """The running integral of y along `dim` by trapezoids: one number less than y"""
    return transpose(cumsum(_areas("cumulative_trapezoid", y, x, dx, dim), -1), dim, -1)
