"""Dropout."""

from __future__ import annotations

from deepcore import random
from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops.dropout import dropout_p
from deepcore.ops.registry import functional, takes_arrays
from deepcore.tensor import Tensor


@functional
@takes_arrays
def dropout(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """x · m / (1 - p), m being 0 with probability p and 1 otherwise; x itself when not `training`.

    The mask comes from `dc.manual_seed`'s stream. `inplace` is accepted and changes nothing. (Srivastava et al., 2014)
    """
    if not 0 <= p <= 1:
        raise ArgumentError("dropout's p is a probability", expected="0 ≤ p ≤ 1", received=f"p={p!r}")
    if not training or p == 0:
        return constant("dropout", input)
    if not dt.is_floating(input.dtype):
        raise DTypeError(
            "dropout scales what it keeps by 1 / (1 - p), which integers cannot hold",
            expected="a floating tensor",
            received=dt.name_of(input.dtype),
            fix="drop after the embedding or the first layer, or convert: x.float()",
        )
    seed, stream, position = random.default_generator.advance(-(-input.numel() // 4))
    return dropout_p(input, seed=seed, stream=stream, position=position, p=float(p))
