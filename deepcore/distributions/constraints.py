"""Sets of values: the supports of distributions and the domains of their parameters, as in `torch.distributions`."""

from __future__ import annotations

import deepcore as dc
from deepcore.tensor import Tensor


class Constraint:
    """A set of values. `check` is elementwise, over all but the last `event_dim` dimensions."""

    is_discrete = False
    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is in the set."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return type(self).__name__.lstrip("_")


class _Real(Constraint):
    def check(self, value: Tensor) -> Tensor:
        return value == value


class _Between(Constraint):
    """Numbers between two bounds, each included or not; numbers or tensors, None for no bound."""

    def __init__(self, low=None, high=None, open_low: bool = False, open_high: bool = False):
        self.low, self.high, self.open_low, self.open_high = low, high, open_low, open_high

    def check(self, value: Tensor) -> Tensor:
        ok = value == value
        if self.low is not None:
            ok = ok & ((value > self.low) if self.open_low else (value >= self.low))
        if self.high is not None:
            ok = ok & ((value < self.high) if self.open_high else (value <= self.high))
        return ok

    def __repr__(self) -> str:
        low = "-inf" if self.low is None else _shown(self.low)
        high = "inf" if self.high is None else _shown(self.high)
        return f"{low} {'<' if self.open_low else '≤'} x {'<' if self.open_high else '≤'} {high}"


def _shown(bound) -> str:
    if not isinstance(bound, Tensor):
        return str(bound)
    return str(bound.item()) if bound.numel() == 1 else f"a bound of shape {tuple(bound.shape)}"


class _IntegerBetween(_Between):
    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return super().check(value) & (value % 1 == 0)

    def __repr__(self) -> str:
        return f"whole numbers, {super().__repr__()}"


class _Boolean(Constraint):
    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return (value == 0) | (value == 1)


class _RealVector(Constraint):
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value == value).all(-1)


class _Simplex(Constraint):
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0).all(-1) & ((value.sum(-1) - 1).abs() < 1e-6)


class _NonNegativeVector(Constraint):
    """Non-negative numbers, not all of them 0."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0).all(-1) & (value.sum(-1) > 0)


class _OneHot(Constraint):
    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)


class _Multinomial(Constraint):
    is_discrete = True
    event_dim = 1

    def __init__(self, total: int):
        self.total = total

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0).all(-1) & (value.sum(-1) == self.total)

    def __repr__(self) -> str:
        return f"counts that sum to {self.total}"


class _LowerCholesky(Constraint):
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        triangular = (dc.tril(value) == value).all(-1).all(-1)
        return triangular & (dc.diagonal(value, dim1=-2, dim2=-1) > 0).all(-1)


class _PositiveDefinite(Constraint):
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        symmetric = dc.isclose(value, value.mT, atol=1e-6).all(-1).all(-1)
        return symmetric & (dc.linalg.eigvalsh(value.detach()) > 0).all(-1)


class independent(Constraint):
    """`base`, all of whose last `ndims` dimensions must be in the set."""

    def __init__(self, base: Constraint, ndims: int):
        self.base, self.is_discrete, self.event_dim = base, base.is_discrete, base.event_dim + ndims
        self._ndims = ndims

    def check(self, value: Tensor) -> Tensor:
        ok = self.base.check(value)
        return ok.reshape(*ok.shape[: ok.ndim - self._ndims], -1).all(-1) if self._ndims else ok

    def __repr__(self) -> str:
        return f"independent({self.base!r}, {self._ndims})"


def interval(low, high) -> Constraint:
    """low ≤ x ≤ high"""
    return _Between(low, high)


def integer_interval(low, high) -> Constraint:
    """Whole numbers, low ≤ x ≤ high"""
    return _IntegerBetween(low, high)


def greater_than(low) -> Constraint:
    """x > low"""
    return _Between(low, open_low=True)


def less_than(high) -> Constraint:
    """x < high"""
    return _Between(high=high, open_high=True)


real: Constraint = _Real()
real_vector = _RealVector()
positive: Constraint = greater_than(0.0)
nonnegative = _Between(0.0)
unit_interval: Constraint = interval(0.0, 1.0)
half_open_unit_interval = _Between(0.0, 1.0, open_low=True)
nonnegative_integer = _IntegerBetween(0)
boolean = _Boolean()
simplex = _Simplex()
nonnegative_vector = _NonNegativeVector()
one_hot = _OneHot()
multinomial = _Multinomial
lower_cholesky = _LowerCholesky()
positive_definite = _PositiveDefinite()
