"""Linear layers on the CPU: bias and activation join the product, and leave its bits as they are."""

from __future__ import annotations

import numpy as np

from deepcore.kernels.cpu import gemm
from deepcore.kernels.plan import Lowering
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator


def _product(input, weight, bias, activation=None, keep=False):
    """activation(input @ weightᵀ + bias), or NotImplemented where the backend's matmul takes another way.

    With `keep`, that and what the activation is applied to.
    """
    weight = weight.T
    if bias is not None and not bias.flags.c_contiguous:
        bias = np.ascontiguousarray(bias)
    rows = input if input.ndim == 2 else input.reshape(-1, input.shape[-1])
    shape = (*input.shape[:-1], weight.shape[1])
    before = allocator.empty(shape, input.dtype) if keep else None
    out = gemm.product(rows, weight, bias=bias, activation=activation, pre=before)
    if out is NotImplemented:
        return out
    return (out.reshape(shape), before) if keep else out.reshape(shape)


def _planned(specs, params):
    """The product alone, or True where it takes a step more."""
    return gemm.planned(*specs, turned=True, **params) or True


def _prepared(xp, arrays, params, out):
    return _product(*arrays, *(() if len(arrays) > 2 else (None,)), **params)


for _name, _keys in (("linear", ()), ("linear_activation", ("activation",))):
    register(_name, "cpu", needs_numba=False)(Lowering(_name, _planned, _keys, prepare=_prepared))


@register("linear_activation_kept", "cpu", needs_numba=False)
def linear_activation_kept(xp, input, weight, bias=None, *, activation):
    return _product(input, weight, bias, activation, keep=True)
