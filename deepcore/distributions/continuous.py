"""Continuous distributions of a location and a scale."""

from __future__ import annotations

import math
from typing import ClassVar

import deepcore as dc
from deepcore.distributions import constraints
from deepcore.distributions.distribution import Distribution, broadcast_all, noise
from deepcore.errors import ArgumentError
from deepcore.ops.sampling import standard_gamma
from deepcore.tensor import Tensor

_LOG_2PI = math.log(2 * math.pi)


class _LocScale(Distribution):
    """loc + scale·z with z of a standard distribution, drawn by `_standard`."""

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc, scale, validate_args: bool | None = None):
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def _standard(self, shape) -> Tensor:
        raise NotImplementedError

    def rsample(self, sample_shape=()) -> Tensor:
        return self.loc + self.scale * self._standard(self._extended_shape(sample_shape))

    def _standardized(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return (value - self.loc) / self.scale

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc


class Normal(_LocScale):
    """exp(-z²/2) / (scale √(2π)), z = (x - loc) / scale"""

    def _standard(self, shape) -> Tensor:
        return noise(shape, self.loc, "normal_")

    @property
    def variance(self) -> Tensor:
        return self.scale**2

    def log_prob(self, value: Tensor) -> Tensor:
        return self._standardized(value) ** 2 * -0.5 - dc.log(self.scale) - 0.5 * _LOG_2PI

    def cdf(self, value: Tensor) -> Tensor:
        return 0.5 * (1 + dc.erf(self._standardized(value) * (1 / math.sqrt(2))))

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * dc.erfinv(2 * value - 1) * math.sqrt(2)

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * _LOG_2PI + dc.log(self.scale)


class Laplace(_LocScale):
    """exp(-|z|) / (2 scale), z = (x - loc) / scale"""

    def _standard(self, shape) -> Tensor:
        # The difference of two exponential numbers.
        return noise(shape, self.loc, "exponential_") - noise(shape, self.loc, "exponential_")

    @property
    def variance(self) -> Tensor:
        return 2 * self.scale**2

    def log_prob(self, value: Tensor) -> Tensor:
        return -dc.abs(self._standardized(value)) - dc.log(2 * self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        z = self._standardized(value)
        return 0.5 - 0.5 * dc.sign(z) * dc.expm1(-dc.abs(z))

    def icdf(self, value: Tensor) -> Tensor:
        term = value - 0.5
        return self.loc - self.scale * dc.sign(term) * dc.log1p(-2 * dc.abs(term))

    def entropy(self) -> Tensor:
        return 1 + dc.log(2 * self.scale)


class Cauchy(_LocScale):
    """1 / (π scale (1 + z²)), z = (x - loc) / scale"""

    def _standard(self, shape) -> Tensor:
        return noise(shape, self.loc, "cauchy_")

    @property
    def mean(self) -> Tensor:
        return dc.full_like(self.loc, math.nan)

    @property
    def variance(self) -> Tensor:
        return dc.full_like(self.loc, math.inf)

    def log_prob(self, value: Tensor) -> Tensor:
        return -math.log(math.pi) - dc.log(self.scale) - dc.log1p(self._standardized(value) ** 2)

    def cdf(self, value: Tensor) -> Tensor:
        return dc.atan(self._standardized(value)) / math.pi + 0.5

    def icdf(self, value: Tensor) -> Tensor:
        return dc.tan(math.pi * (value - 0.5)) * self.scale + self.loc

    def entropy(self) -> Tensor:
        return math.log(4 * math.pi) + dc.log(self.scale)


class StudentT(Distribution):
    """z √(df / c) · scale + loc with z normal and c chi-squared of `df` degrees of freedom"""

    arg_constraints: ClassVar = {"df": constraints.positive, "loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, df, loc=0.0, scale=1.0, validate_args: bool | None = None):
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        super().__init__(self.df.shape, validate_args=validate_args)

    def rsample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        half = 0.5 * self.df.expand(shape)
        z = noise(shape, self.loc, "normal_") * dc.rsqrt(standard_gamma(half) / half)
        return self.loc + self.scale * z

    @property
    def mean(self) -> Tensor:
        return dc.masked_fill(self.loc, self.df <= 1, math.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        finite = self.scale**2 * self.df / dc.where(self.df > 2, self.df - 2, 1.0)
        variance = dc.where(self.df > 2, finite, math.inf)
        return dc.masked_fill(variance, self.df <= 1, math.nan)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        z = (value - self.loc) / self.scale
        norm = dc.log(self.scale) + 0.5 * dc.log(self.df) + 0.5 * math.log(math.pi)
        norm = norm + dc.lgamma(0.5 * self.df) - dc.lgamma(0.5 * (self.df + 1))
        return -0.5 * (self.df + 1) * dc.log1p(z**2 / self.df) - norm

    def entropy(self) -> Tensor:
        half, more = 0.5 * self.df, 0.5 * (self.df + 1)
        beta = dc.lgamma(half) + math.lgamma(0.5) - dc.lgamma(more)
        return dc.log(self.scale) + more * (dc.digamma(more) - dc.digamma(half)) + 0.5 * dc.log(self.df) + beta


class Uniform(Distribution):
    """1 / (high - low) for low ≤ x < high"""

    arg_constraints: ClassVar = {"low": constraints.real, "high": constraints.real}
    has_rsample = True

    def __init__(self, low, high, validate_args: bool | None = None):
        self.low, self.high = broadcast_all(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ArgumentError("Uniform needs low < high", received=repr(self))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    def rsample(self, sample_shape=()) -> Tensor:
        return self.low + noise(self._extended_shape(sample_shape), self.low, "uniform_") * (self.high - self.low)

    @property
    def mean(self) -> Tensor:
        return (self.high + self.low) / 2

    @property
    def mode(self) -> Tensor:
        return dc.full_like(self.low, math.nan)

    @property
    def stddev(self) -> Tensor:
        return (self.high - self.low) / math.sqrt(12)

    @property
    def variance(self) -> Tensor:
        return (self.high - self.low) ** 2 / 12

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        inside = ((value >= self.low) & (value < self.high)).to(self.low.dtype)
        return dc.log(inside) - dc.log(self.high - self.low)

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return dc.clamp((value - self.low) / (self.high - self.low), min=0, max=1)

    def icdf(self, value: Tensor) -> Tensor:
        return value * (self.high - self.low) + self.low

    def entropy(self) -> Tensor:
        return dc.log(self.high - self.low)


class Exponential(Distribution):
    """rate · exp(-rate · x) for x ≥ 0"""

    arg_constraints: ClassVar = {"rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, rate, validate_args: bool | None = None):
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.shape, validate_args=validate_args)

    def rsample(self, sample_shape=()) -> Tensor:
        return noise(self._extended_shape(sample_shape), self.rate, "exponential_") / self.rate

    @property
    def mean(self) -> Tensor:
        return 1 / self.rate

    @property
    def mode(self) -> Tensor:
        return dc.zeros_like(self.rate)

    @property
    def stddev(self) -> Tensor:
        return 1 / self.rate

    @property
    def variance(self) -> Tensor:
        return self.rate**-2

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return dc.log(self.rate) - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return -dc.expm1(-self.rate * value)

    def icdf(self, value: Tensor) -> Tensor:
        return -dc.log1p(-value) / self.rate

    def entropy(self) -> Tensor:
        return 1 - dc.log(self.rate)
