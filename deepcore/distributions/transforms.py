"""Invertible functions with the logarithms of their derivatives."""

from __future__ import annotations

import math

import deepcore as dc
from deepcore.distributions import constraints
from deepcore.tensor import Tensor


class Transform:
    """y = T(x), elementwise, with its inverse and ln |dy/dx|."""

    codomain: constraints.Constraint = constraints.real
    sign: int | Tensor = 1

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """The x with T(x) = y."""
        raise NotImplementedError

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """ln |dy/dx|, from both."""
        raise NotImplementedError

    def __eq__(self, other) -> bool:
        return type(self) is type(other)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class AffineTransform(Transform):
    """loc + scale · x"""

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale

    @property
    def sign(self):
        return dc.sign(self.scale) if isinstance(self.scale, Tensor) else math.copysign(1, self.scale)

    def __call__(self, x: Tensor) -> Tensor:
        return self.loc + self.scale * x

    def inverse(self, y: Tensor) -> Tensor:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return dc.log(dc.abs(dc.zeros_like(x) + self.scale))

    def __eq__(self, other) -> bool:
        if type(self) is not type(other):
            return False
        pairs = ((self.loc, other.loc), (self.scale, other.scale))
        return all(bool((a == b).all()) if isinstance(a == b, Tensor) else a == b for a, b in pairs)

    __hash__ = object.__hash__


class ExpTransform(Transform):
    """exp(x)"""

    codomain = constraints.positive

    def __call__(self, x: Tensor) -> Tensor:
        return dc.exp(x)

    def inverse(self, y: Tensor) -> Tensor:
        return dc.log(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x


def _softplus(x: Tensor) -> Tensor:
    return dc.logaddexp(x, dc.zeros_like(x))


class SigmoidTransform(Transform):
    """1 / (1 + exp(-x)), kept inside (0, 1)"""

    codomain = constraints.unit_interval

    def __call__(self, x: Tensor) -> Tensor:
        info = dc.finfo(x.dtype)
        return dc.clamp(dc.sigmoid(x), min=info.tiny, max=1 - info.eps)

    def inverse(self, y: Tensor) -> Tensor:
        info = dc.finfo(y.dtype)
        y = dc.clamp(y, min=info.tiny, max=1 - info.eps)
        return dc.log(y) - dc.log1p(-y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -_softplus(-x) - _softplus(x)


class TanhTransform(Transform):
    """tanh(x)"""

    codomain = constraints.interval(-1.0, 1.0)

    def __call__(self, x: Tensor) -> Tensor:
        return dc.tanh(x)

    def inverse(self, y: Tensor) -> Tensor:
        return dc.atanh(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        # ln(1 - tanh²x) without cancellation.
        return 2 * (math.log(2) - x - _softplus(-2 * x))
