"""The gamma distribution and those made of gamma numbers."""

from __future__ import annotations

import math
from typing import ClassVar

import deepcore as dc
from deepcore.backend import dtypes as dt
from deepcore.distributions import constraints
from deepcore.distributions.distribution import Distribution, broadcast_all, vector_of
from deepcore.ops.sampling import standard_gamma
from deepcore.tensor import Tensor


class Gamma(Distribution):
    """rate^a xᵃ⁻¹ exp(-rate · x) / Γ(a) for x > 0, a = concentration"""

    arg_constraints: ClassVar = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True

    def __init__(self, concentration, rate, validate_args: bool | None = None):
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    def rsample(self, sample_shape=()) -> Tensor:
        drawn = standard_gamma(self.concentration.expand(self._extended_shape(sample_shape))) / self.rate
        return dc.clamp(drawn, min=dc.finfo(drawn.dtype).tiny)  # its logarithm is finite

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        return dc.clamp((self.concentration - 1) / self.rate, min=0)

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate**2

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a = self.concentration
        return dc.xlogy(a, self.rate) + dc.xlogy(a - 1, value) - self.rate * value - dc.lgamma(a)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a - dc.log(self.rate) + dc.lgamma(a) + (1 - a) * dc.digamma(a)


def _shares(concentration: Tensor) -> Tensor:
    """Gamma numbers divided by their sum along the last dimension; in float64, whose least number is far from 0."""
    drawn = standard_gamma(concentration.to(dt.float64))
    return (drawn / drawn.sum(-1, keepdim=True)).to(concentration.dtype)


class Beta(Distribution):
    """xᵃ⁻¹ (1 - x)ᵇ⁻¹ / B(a, b) for 0 < x < 1, a = concentration1, b = concentration0"""

    arg_constraints: ClassVar = {"concentration1": constraints.positive, "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, concentration1, concentration0, validate_args: bool | None = None):
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        super().__init__(self.concentration1.shape, validate_args=validate_args)

    def rsample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return _shares(dc.stack([self.concentration1.expand(shape), self.concentration0.expand(shape)], -1))[..., 0]

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def mode(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        inner = (a - 1) / dc.where((a > 1) | (b > 1), a + b - 2, 1.0)
        edge = dc.masked_fill((a > b).to(a.dtype), a == b, math.nan)
        return dc.where((a > 1) & (b > 1), inner, edge)

    @property
    def variance(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return a * b / ((a + b) ** 2 * (a + b + 1))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        return dc.xlogy(a - 1, value) + dc.xlogy(b - 1, 1 - value) - self._log_beta()

    def _log_beta(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return dc.lgamma(a) + dc.lgamma(b) - dc.lgamma(a + b)

    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        inner = (a - 1) * dc.digamma(a) + (b - 1) * dc.digamma(b) - (a + b - 2) * dc.digamma(a + b)
        return self._log_beta() - inner


class Dirichlet(Distribution):
    """Π xᵢ^(aᵢ - 1) Γ(Σ aᵢ) / Π Γ(aᵢ) for x ≥ 0 with Σ xᵢ = 1, a = concentration, (…, K)"""

    arg_constraints: ClassVar = {"concentration": constraints.independent(constraints.positive, 1)}
    support = constraints.simplex
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None):
        self.concentration = vector_of(self, "concentration", concentration)
        super().__init__(concentration.shape[:-1], concentration.shape[-1:], validate_args=validate_args)

    def rsample(self, sample_shape=()) -> Tensor:
        return _shares(self.concentration.expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, keepdim=True)

    @property
    def mode(self) -> Tensor:
        inner = dc.clamp(self.concentration - 1, min=0)
        total = inner.sum(-1, keepdim=True)
        # Below 1 the density is infinite in every corner: the first, as in PyTorch.
        corner = (dc.arange(self.event_shape[0], backend=inner.backend) == 0).to(inner.dtype)
        return dc.where((self.concentration < 1).all(-1, keepdim=True), corner, inner / total)

    @property
    def variance(self) -> Tensor:
        total = self.concentration.sum(-1, keepdim=True)
        return self.concentration * (total - self.concentration) / (total**2 * (total + 1))

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        a = self.concentration
        return dc.xlogy(a - 1, value).sum(-1) + dc.lgamma(a.sum(-1)) - dc.lgamma(a).sum(-1)

    def entropy(self) -> Tensor:
        a, k = self.concentration, self.event_shape[0]
        total = a.sum(-1)
        norm = dc.lgamma(a).sum(-1) - dc.lgamma(total)
        return norm - (k - total) * dc.digamma(total) - ((a - 1) * dc.digamma(a)).sum(-1)
