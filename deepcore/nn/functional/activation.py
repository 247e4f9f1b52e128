"""Activations that draw random numbers."""

from __future__ import annotations

from collections.abc import Callable

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops.activation import celu, elu, leaky_relu, relu, selu
from deepcore.ops.comparison import clamp, where
from deepcore.ops.convert import in_place
from deepcore.ops.exponential import log
from deepcore.ops.index import one_hot
from deepcore.ops.piecewise import hardtanh, threshold
from deepcore.ops.registry import functional, takes_arrays
from deepcore.ops.shape import movedim, normalize_dim
from deepcore.ops.softmax import softmax
from deepcore.random import rand_like
from deepcore.tensor import Tensor

#: In place of a uniform number of 0, whose logarithm is infinite.
_LEAST = 2.0**-54


@functional
@takes_arrays
def rrelu(
    input, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """max(0, x) + a · min(0, x), a of each element from U(lower, upper) in training, else (lower + upper) / 2.

    The slopes come from `dc.manual_seed`'s stream. `inplace` is accepted and changes nothing. (Xu et al., 2015)
    """
    if not lower <= upper:
        raise ArgumentError("rrelu: lower is above upper", received=f"lower={lower}, upper={upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    if not dt.is_floating(input.dtype):
        raise DTypeError("rrelu takes floats", received=dt.name_of(input.dtype), fix="x.float()")
    return input * where(input > 0, 1.0, rand_like(input) * (upper - lower) + lower)


def _in_place(function: Callable) -> Callable:
    """PyTorch's function of the name with an underscore, which overwrites its input."""
    return functional(in_place(f"{function.__name__}_", function, __name__))


relu_, leaky_relu_, rrelu_, threshold_ = map(_in_place, (relu, leaky_relu, rrelu, threshold))
elu_, celu_, selu_, hardtanh_ = map(_in_place, (elu, celu, selu, hardtanh))


@functional
@takes_arrays
def gumbel_softmax(logits, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """softmax((x + G) / tau) along `dim`, G = -log(-log U) with U uniform in (0, 1): a relaxed draw of a class.

    `hard`: the one-hot vector of the largest, with the gradient of the soft sample. G comes from `dc.manual_seed`'s
    stream; `eps` is accepted and changes nothing, as in PyTorch. (Jang et al., 2017; Maddison et al., 2017)
    """
    if not tau > 0:
        raise ArgumentError("gumbel_softmax: tau is positive", received=f"tau={tau!r}")
    if not dt.is_floating(logits.dtype):
        raise DTypeError("gumbel_softmax takes floats", received=dt.name_of(logits.dtype), fix="logits.float()")
    dim = normalize_dim(dim, logits.ndim)
    uniform = rand_like(logits, dtype=dt.float64 if logits.dtype == dt.float64 else dt.float32)
    gumbel = -log(-log(clamp(uniform, _LEAST)))
    soft = softmax((logits + gumbel.to(logits.dtype)) / tau, dim)
    if not hard:
        return soft
    chosen = movedim(one_hot(soft.argmax(dim), logits.shape[dim]), -1, dim).to(logits.dtype)
    return chosen - soft.detach() + soft
