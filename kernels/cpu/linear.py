"""Linear layers on the CPU: bias and activation are the product's epilogue, with the bits of separate ops."""

from __future__ import annotations

import math

from deepcore.kernels.cpu import gemm
from deepcore.kernels.plan import Lowering
from deepcore.kernels.registry import register


def _plan(specs, params):
    return gemm.planned(*specs, transposed=True, **params)


def _plan_kept(specs, params):
    """With the activation's input as a second result."""
    return gemm.planned(*specs, transposed=True, keep=True, **params)


def _copies(specs, params):
    return gemm.copies(specs, transposed=True)


def _cost(specs, params) -> float:
    return 2 * math.prod(specs[0].shape) * specs[1].shape[0]


for _name, _lower, _keys in (
    ("linear", _plan, ()), ("linear_activation", _plan, ("activation",)), ("linear_activation_kept", _plan_kept, ("activation",)),
):  # fmt: skip
    _lowering = Lowering(_name, _lower, _keys, copies=_copies, cost=_cost, epilogue=gemm.with_epilogue)
    register(_name, "cpu", needs_numba=False)(_lowering)
