"""Distributions over whole numbers."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import deepcore as dc
from deepcore.distributions import constraints
from deepcore.distributions.distribution import Distribution, broadcast_all, clamp_probs, one_of
from deepcore.errors import ArgumentError
from deepcore.tensor import Tensor


class _OfProbability(Distribution):
    """A distribution of a probability, given by itself or by its logit; each is computed from the other."""

    arg_constraints: ClassVar = {"probs": constraints.unit_interval, "logits": constraints.real}

    @functools.cached_property
    def probs(self) -> Tensor:
        return dc.sigmoid(self.logits)

    @functools.cached_property
    def logits(self) -> Tensor:
        p = clamp_probs(self.probs)
        return dc.log(p) - dc.log1p(-p)

    @property
    def _parameter(self) -> Tensor:
        return self.logits if "probs" not in self.__dict__ else self.probs

    def _set(self, probs, logits) -> None:
        one_of(self, probs, logits)
        if probs is not None:
            (self.probs,) = broadcast_all(probs)
        else:
            (self.logits,) = broadcast_all(logits)


def log_of_both(logits: Tensor) -> Tensor:
    """ln(1 + exp(logits)) = -ln(1 - p)"""
    return dc.logaddexp(logits, dc.zeros_like(logits))


class Bernoulli(_OfProbability):
    """1 with probability `probs`, else 0"""

    support = constraints.boolean
    has_enumerate_support = True

    def __init__(self, probs=None, logits=None, validate_args: bool | None = None):
        self._set(probs, logits)
        super().__init__(self._parameter.shape, validate_args=validate_args)

    def sample(self, sample_shape=()) -> Tensor:
        return dc.bernoulli(self.probs.detach().expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return dc.masked_fill((self.probs >= 0.5).to(self.probs.dtype), self.probs == 0.5, math.nan)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return value * self.logits - log_of_both(self.logits)

    def entropy(self) -> Tensor:
        return log_of_both(self.logits) - self.probs * self.logits

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return all_values(self, 2, self._parameter, self._parameter.dtype, expand)


def all_values(self: Distribution, count: int, like: Tensor, dtype, expand: bool) -> Tensor:
    values = dc.arange(count, dtype=dtype, backend=like.backend).reshape(-1, *(1,) * len(self.batch_shape))
    return values.expand((count, *self.batch_shape)) if expand else values


class Geometric(_OfProbability):
    """(1 - p)ᵏ p: the failures before the first success"""

    support = constraints.nonnegative_integer

    def __init__(self, probs=None, logits=None, validate_args: bool | None = None):
        self._set(probs, logits)
        super().__init__(self._parameter.shape, validate_args=validate_args)
        if self._validate_args and "probs" in self.__dict__ and not bool((self.probs > 0).all()):
            raise ArgumentError("Geometric needs probs > 0", received=repr(self))

    def sample(self, sample_shape=()) -> Tensor:
        with dc.no_grad():
            p = clamp_probs(self.probs)
            drawn = dc.empty(self._extended_shape(sample_shape), dtype=p.dtype, backend=p.backend).exponential_()
            return dc.floor(drawn / -dc.log1p(-p))

    @property
    def mean(self) -> Tensor:
        return 1 / self.probs - 1

    @property
    def mode(self) -> Tensor:
        return dc.zeros_like(self.probs)

    @property
    def variance(self) -> Tensor:
        return (1 / self.probs - 1) / self.probs

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        # 0 · log(0) where p is 1 and no failure occurs.
        p = dc.where((self.probs != 1) | (value != 0), self.probs, 0.0)
        return value * dc.log1p(-p) + dc.log(self.probs)

    def entropy(self) -> Tensor:
        return (log_of_both(self.logits) - self.probs * self.logits) / self.probs


class Poisson(Distribution):
    """rateᵏ exp(-rate) / k!"""

    arg_constraints: ClassVar = {"rate": constraints.nonnegative}
    support = constraints.nonnegative_integer

    def __init__(self, rate, validate_args: bool | None = None):
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.shape, validate_args=validate_args)

    def sample(self, sample_shape=()) -> Tensor:
        return dc.poisson(self.rate.detach().expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def mode(self) -> Tensor:
        return dc.floor(self.rate)

    @property
    def variance(self) -> Tensor:
        return self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return dc.xlogy(value, self.rate) - self.rate - dc.lgamma(value + 1)


class Binomial(_OfProbability):
    """n! / (k! (n - k)!) pᵏ (1 - p)ⁿ⁻ᵏ, n = total_count"""

    arg_constraints: ClassVar = {"total_count": constraints.nonnegative_integer, **_OfProbability.arg_constraints}
    has_enumerate_support = True

    def __init__(self, total_count=1, probs=None, logits=None, validate_args: bool | None = None):
        self._set(probs, logits)
        name = "logits" if probs is None else "probs"
        parameter, count = broadcast_all(self._parameter, total_count)
        self.__dict__[name], self.total_count = parameter, count.to(parameter.dtype)
        super().__init__(parameter.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.total_count)

    def sample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return dc.binomial(self.total_count.expand(shape), self.probs.detach().expand(shape))

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return dc.minimum(dc.floor((self.total_count + 1) * self.probs), self.total_count)

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        n = self.total_count
        ways = dc.lgamma(n + 1) - dc.lgamma(value + 1) - dc.lgamma(n - value + 1)
        return ways + value * self.logits - n * log_of_both(self.logits)

    def entropy(self) -> Tensor:
        log_prob = _unchecked(self).log_prob(self.enumerate_support())
        return -(dc.exp(log_prob) * log_prob).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        count = int(self.total_count.max().item())
        if not bool((self.total_count == count).all()):
            raise ArgumentError("Binomial: the counts of one total_count can be enumerated", received=repr(self))
        return all_values(self, count + 1, self._parameter, self._parameter.dtype, expand)


def _unchecked(distribution: Distribution) -> Distribution:
    """The same distribution, whose values are not checked."""
    new = distribution.expand(distribution.batch_shape)
    new._validate_args = False
    return new
