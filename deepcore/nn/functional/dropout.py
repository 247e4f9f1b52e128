"""Dropout."""

from __future__ import annotations

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.comparison import where
from deepcore.ops.dropout import dropped
from deepcore.ops.registry import functional, takes_arrays
from deepcore.tensor import Tensor, full


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
    return dropped(input, p)


def _mask(input: Tensor, p: float, features: int | None) -> Tensor:
    """1 / (1 - p) with probability 1 - p and 0 otherwise: an element, or a channel in dimension `features`, at a time."""
    shape = input.shape if features is None else (*input.shape[: features + 1], *(1,) * (input.ndim - features - 1))
    return dropout(full(shape, 1.0, dtype=input.dtype, backend=input.backend), p, True)


def _checked(name: str, input: Tensor, p: float) -> None:
    if not 0 <= p <= 1:
        raise ArgumentError(f"{name}'s p is a probability", expected="0 ≤ p ≤ 1", received=f"p={p!r}")
    if not dt.is_floating(input.dtype):
        raise DTypeError(f"{name} takes floats", received=dt.name_of(input.dtype), fix="x.float()")


def _channels(name: str, input: Tensor, ranks: tuple[int, ...], batched: tuple[int, ...], form: str) -> int:
    """The channels' dimension."""
    if input.ndim not in ranks:
        raise ShapeError(f"{name} drops channels", expected=f"shape {form}", received=f"shape {input.shape}")
    return 1 if input.ndim in batched else 0


def _channel_dropout(name: str, input, p: float, training: bool, ranks, batched, form: str) -> Tensor:
    features = _channels(name, input, ranks, batched, form)
    _checked(name, input, p)
    return input * _mask(input, p, features) if training and p else constant(name, input)


@functional
@takes_arrays
def dropout1d(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels: (N, C, L) or (C, L). (Tompson et al., 2015)"""
    return _channel_dropout("dropout1d", input, p, training, (2, 3), (3,), "(N, C, L) or (C, L)")


@functional
@takes_arrays
def dropout2d(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels: (N, C, H, W), or (N, C, L) as PyTorch reads three dimensions. (Tompson et al., 2015)"""
    return _channel_dropout("dropout2d", input, p, training, (3, 4), (3, 4), "(N, C, H, W) or (N, C, L)")


@functional
@takes_arrays
def dropout3d(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels: (N, C, D, H, W) or (C, D, H, W). (Tompson et al., 2015)"""
    return _channel_dropout("dropout3d", input, p, training, (4, 5), (5,), "(N, C, D, H, W) or (C, D, H, W)")


#: SELU's value at -∞, which stands for what alpha dropout drops.
_ALPHA = -1.7580993408473766


def _alpha_dropout(name: str, input, p: float, training: bool, features: int | None) -> Tensor:
    if not training or p == 0:
        return constant(name, input)
    _checked(name, input, p)
    if features and input.ndim < 2:
        raise ShapeError(f"{name} drops channels", expected="shape (N, C, *)", received=f"shape {input.shape}")
    if p == 1:
        return input * 0.0
    kept = _mask(input, p, features) != 0
    scale = ((_ALPHA**2 * p + 1) * (1 - p)) ** -0.5
    return where(kept, input, _ALPHA) * scale - scale * _ALPHA * p


@functional
@takes_arrays
def alpha_dropout(input, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """a · (x · m + α' · (1 - m)) + b: drops elements of SELU's outputs and keeps their mean 0 and variance 1.

    m is 0 with probability p, α' = -1.7581, a = ((1 + p·α'²)(1 - p))^-½, b = -a·p·α'. (Klambauer et al., 2017)
    """
    return _alpha_dropout("alpha_dropout", input, p, training, None)


@functional
@takes_arrays
def feature_alpha_dropout(input, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`alpha_dropout` of whole channels: (N, C, *)."""
    return _alpha_dropout("feature_alpha_dropout", input, p, training, 1)
