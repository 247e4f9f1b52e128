"""Windows, as in `torch.signal.windows`: symmetric by default, and periodic with `sym=False`.

A window of M elements is computed in float64 and rounded once to `dtype` (float32 by default). N is M − 1, or M where not
`sym`; k counts from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from deepcore import missing
from deepcore.errors import ArgumentError
from deepcore.ops.windows import cosines, triangle, window
from deepcore.ops.windows import kaiser as kaiser_formula
from deepcore.tensor import Tensor, factory


@factory
def bartlett(M: int, *, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """1 − |2k/N − 1|."""
    return window("bartlett", triangle, M, sym, dtype, backend, requires_grad)


@factory
def blackman(M: int, *, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """0.42 − ½ cos(2πk/N) + 0.08 cos(4πk/N)."""
    return window("blackman", cosines((0.42, 0.5, 0.08)), M, sym, dtype, backend, requires_grad)


@factory
def cosine(M: int, *, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """sin(π (k + ½) / (N + 1))."""
    return window("cosine", _sine, M, sym, dtype, backend, requires_grad)


@factory
def exponential(
    M: int,
    *,
    center: float | None = None,
    tau: float = 1.0,
    sym: bool = True,
    dtype=None,
    backend=None,
    requires_grad: bool = False,
    device=None,
) -> Tensor:
    """exp(−|k − center| / tau); `center` (N/2) is for `sym=False`."""
    if sym and center is not None:
        raise ArgumentError("exponential: a symmetric window has its centre in the middle", fix="sym=False")
    _positive("exponential", tau=tau)

    def formula(xp, k, period):
        middle = 0.5 * period if center is None else float(center)
        return xp.exp(xp.absolute(k - middle) * (-1.0 / tau))

    return window("exponential", formula, M, sym, dtype, backend, requires_grad)


@factory
def gaussian(
    M: int, *, std: float = 1.0, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """exp(−½ ((k − N/2) / std)²)."""
    _positive("gaussian", std=std)

    def formula(xp, k, period):
        away = (k - 0.5 * period) * (1.0 / std)
        return xp.exp(away * away * -0.5)

    return window("gaussian", formula, M, sym, dtype, backend, requires_grad)


@factory
def general_cosine(
    M: int, *, a: Sequence[float], sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """Σⱼ (−1)ʲ aⱼ cos(2πjk/N)."""
    if not isinstance(a, (list, tuple)) or not a:
        raise ArgumentError("general_cosine: a is a list of factors", received=repr(a))
    return window("general_cosine", cosines(a), M, sym, dtype, backend, requires_grad)


@factory
def general_hamming(
    M: int, *, alpha: float = 0.54, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """alpha − (1 − alpha) cos(2πk/N)."""
    return window("general_hamming", cosines((alpha, 1.0 - alpha)), M, sym, dtype, backend, requires_grad)


@factory
def hamming(M: int, *, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """0.54 − 0.46 cos(2πk/N)."""
    return window("hamming", cosines((0.54, 0.46)), M, sym, dtype, backend, requires_grad)


@factory
def hann(M: int, *, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """½ − ½ cos(2πk/N)."""
    return window("hann", cosines((0.5, 0.5)), M, sym, dtype, backend, requires_grad)


@factory
def kaiser(
    M: int, *, beta: float = 12.0, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """I₀(beta √(1 − (2k/N − 1)²)) / I₀(beta)."""
    if beta < 0:
        raise ArgumentError("kaiser: beta is at least 0", received=str(beta))
    return window("kaiser", kaiser_formula(beta), M, sym, dtype, backend, requires_grad)


@factory
def nuttall(M: int, *, sym: bool = True, dtype=None, backend=None, requires_grad: bool = False, device=None) -> Tensor:
    """The four-term cosine window of Nuttall (1981)."""
    return window(
        "nuttall", cosines((0.3635819, 0.4891775, 0.1365995, 0.0106411)), M, sym, dtype, backend, requires_grad
    )


def _sine(xp, k, period):
    return xp.sin((k + 0.5) * (math.pi / (period + 1)))


def _positive(name: str, **value) -> None:
    ((key, number),) = value.items()
    if not number > 0:
        raise ArgumentError(f"{name}: {key} is above 0", received=f"{key}={number}")


__getattr__ = missing.names_of(__name__, "torch.signal.windows")
