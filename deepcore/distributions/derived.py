"""Distributions made of another one."""

from __future__ import annotations

from typing import ClassVar

import deepcore as dc
from deepcore.distributions import constraints
from deepcore.distributions.continuous import Normal
from deepcore.distributions.distribution import Distribution
from deepcore.distributions.transforms import ExpTransform, Transform
from deepcore.errors import ArgumentError, ArgumentTypeError
from deepcore.tensor import Tensor


def sum_last(x: Tensor, ndims: int) -> Tensor:
    """The sum over the last `ndims` dimensions."""
    return x.sum(tuple(range(-ndims, 0))) if ndims else x


class Independent(Distribution):
    """`base_distribution`, whose last `reinterpreted_batch_ndims` batch dimensions belong to the event"""

    def __init__(self, base_distribution, reinterpreted_batch_ndims: int, validate_args: bool | None = None):
        shape = base_distribution.batch_shape
        if reinterpreted_batch_ndims > len(shape):
            raise ArgumentError(
                "Independent: the distribution has not that many batch dimensions",
                expected=f"at most {len(shape)}",
                received=f"reinterpreted_batch_ndims={reinterpreted_batch_ndims}",
            )
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, reinterpreted_batch_ndims
        cut = len(shape) - reinterpreted_batch_ndims
        super().__init__(shape[:cut], (*shape[cut:], *base_distribution.event_shape), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base_dist.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.base_dist.support, self.reinterpreted_batch_ndims)

    def expand(self, batch_shape, _instance=None) -> Independent:
        shape = tuple(batch_shape)
        event = self.event_shape[: self.reinterpreted_batch_ndims]
        return Independent(self.base_dist.expand((*shape, *event)), len(event), self._validate_args)

    def sample(self, sample_shape=()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape=()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def mode(self) -> Tensor:
        return self.base_dist.mode

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_last(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)

    def entropy(self) -> Tensor:
        return sum_last(self.base_dist.entropy(), self.reinterpreted_batch_ndims)

    def __repr__(self) -> str:
        return f"Independent({self.base_dist!r}, {self.reinterpreted_batch_ndims})"


class TransformedDistribution(Distribution):
    """T(x) with x of `base_distribution` and T the composition of `transforms`, the first applied first"""

    def __init__(self, base_distribution, transforms, validate_args: bool | None = None):
        self.transforms = [transforms] if isinstance(transforms, Transform) else list(transforms)
        if not all(isinstance(t, Transform) for t in self.transforms):
            raise ArgumentTypeError("transforms are Transforms", received=repr(transforms))
        self.base_dist = base_distribution
        super().__init__(base_distribution.batch_shape, base_distribution.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base_dist.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        if not self.transforms:
            return self.base_dist.support
        return constraints.independent(self.transforms[-1].codomain, len(self.event_shape))

    def expand(self, batch_shape, _instance=None):
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.base_dist, new._batch_shape = self.base_dist.expand(batch_shape), tuple(batch_shape)
        return new

    def _through(self, x: Tensor) -> Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x

    def _back(self, y: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            y = transform.inverse(y)
        return y

    def sample(self, sample_shape=()) -> Tensor:
        with dc.no_grad():
            return self._through(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape=()) -> Tensor:
        return self._through(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        total: float | Tensor = 0.0
        y = value
        for transform in reversed(self.transforms):
            x = transform.inverse(y)
            total = total - sum_last(transform.log_abs_det_jacobian(x, y), len(self.event_shape))
            y = x
        return total + self.base_dist.log_prob(y)

    def _oriented(self, level: Tensor) -> Tensor:
        """`level`, or 1 - level where T decreases."""
        sign: int | Tensor = 1
        for transform in self.transforms:
            sign = sign * transform.sign
        return sign * (level - 0.5) + 0.5

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return self._oriented(self.base_dist.cdf(self._back(value)))

    def icdf(self, value: Tensor) -> Tensor:
        return self._through(self.base_dist.icdf(self._oriented(value)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_dist!r}, {self.transforms!r})"


class LogNormal(TransformedDistribution):
    """exp(x) with x normal, of mean `loc` and standard deviation `scale`"""

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.positive

    def __init__(self, loc, scale, validate_args: bool | None = None):
        super().__init__(Normal(loc, scale, validate_args), ExpTransform(), validate_args=validate_args)

    @property
    def loc(self) -> Tensor:
        return self.base_dist.loc

    @property
    def scale(self) -> Tensor:
        return self.base_dist.scale

    @property
    def mean(self) -> Tensor:
        return dc.exp(self.loc + self.scale**2 / 2)

    @property
    def mode(self) -> Tensor:
        return dc.exp(self.loc - self.scale**2)

    @property
    def variance(self) -> Tensor:
        return dc.expm1(self.scale**2) * dc.exp(2 * self.loc + self.scale**2)

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() + self.loc

    def __repr__(self) -> str:
        return f"LogNormal({self.base_dist!r})"
