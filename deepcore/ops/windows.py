"""Windows: weights of the samples of a frame, as in `torch.signal.windows` and `torch.hann_window`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DTypeError
from deepcore.tensor import Tensor, factory, made


def window(
    name: str, formula: Callable, n: int, symmetric: bool, dtype, backend, requires_grad: bool = False
) -> Tensor:
    """The values of formula(xp, k, period) for k = 0 … n − 1, computed in float64.

    `period`: n − 1 where the window is symmetric; else n, and the window continues with itself.
    """
    kind = dt.as_dtype(dtype or dt.default_float)
    if not dt.is_floating(kind):
        raise DTypeError(f"{name} needs a floating dtype", received=dt.name_of(kind), fix="leave dtype out")
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 0:
        raise ArgumentError(f"{name}: the length is a whole number of at least 0", received=repr(n))
    xp, n = get_backend(backend), int(n)
    period = n - 1 if symmetric else n
    values = xp.ones((n,), dtype=dt.float64) if n < 2 else formula(xp, xp.arange(n, dtype=dt.float64), period)
    out = made(values.astype(kind), xp)
    return out.requires_grad_() if requires_grad else out


def cosines(a: Sequence[float]) -> Callable:
    """Σⱼ (−1)ʲ aⱼ cos(2πjk/period)."""

    def formula(xp, k, period):
        total = xp.full(k.shape, float(a[0]), dtype=dt.float64)
        for j, factor in enumerate(a[1:], 1):
            total = total + (-1) ** j * float(factor) * xp.cos(k * (2.0 * math.pi * j / period))
        return total

    return formula


def triangle(xp, k, period):
    return 1.0 - xp.absolute(k * (2.0 / period) - 1.0)


def kaiser(beta: float) -> Callable:
    def formula(xp, k, period):
        position = k * (2.0 / period) - 1.0
        scale = xp.special("i0", xp.full((), float(beta), dtype=dt.float64))
        return xp.special("i0", xp.sqrt(xp.maximum(1.0 - position * position, 0.0)) * float(beta)) / scale

    return formula


# -- PyTorch's functions in `dc` itself ---------------------------------------------------------------------------------


@factory
def hann_window(
    window_length: int, periodic: bool = True, *, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """½ − ½ cos(2πk/N): N is `window_length`, or one less where not `periodic`."""
    return window("hann_window", cosines((0.5, 0.5)), window_length, not periodic, dtype, backend, requires_grad)


@factory
def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    *,
    dtype=None,
    backend=None,
    requires_grad: bool = False,
    device=None,
) -> Tensor:
    """alpha − beta cos(2πk/N): N is `window_length`, or one less where not `periodic`."""
    formula = cosines((alpha, beta))
    return window("hamming_window", formula, window_length, not periodic, dtype, backend, requires_grad)


@factory
def blackman_window(
    window_length: int, periodic: bool = True, *, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """0.42 − ½ cos(2πk/N) + 0.08 cos(4πk/N): N is `window_length`, or one less where not `periodic`."""
    formula = cosines((0.42, 0.5, 0.08))
    return window("blackman_window", formula, window_length, not periodic, dtype, backend, requires_grad)


@factory
def bartlett_window(
    window_length: int, periodic: bool = True, *, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """1 − |2k/N − 1|: N is `window_length`, or one less where not `periodic`."""
    return window("bartlett_window", triangle, window_length, not periodic, dtype, backend, requires_grad)


@factory
def kaiser_window(
    window_length: int,
    periodic: bool = True,
    beta: float = 12.0,
    *,
    dtype=None,
    backend=None,
    requires_grad: bool = False,
    device=None,
) -> Tensor:
    """I₀(beta √(1 − (2k/N − 1)²)) / I₀(beta): N is `window_length`, or one less where not `periodic`."""
    return window("kaiser_window", kaiser(beta), window_length, not periodic, dtype, backend, requires_grad)
