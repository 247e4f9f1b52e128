"""KL(p ‖ q) = E_p[ln p(x) - ln q(x)], by pairs of distributions."""

from __future__ import annotations

import math
from collections.abc import Callable

import deepcore as dc
from deepcore.distributions.categorical import Categorical, OneHotCategorical
from deepcore.distributions.continuous import Cauchy, Exponential, Laplace, Normal, Uniform
from deepcore.distributions.derived import Independent, TransformedDistribution, sum_last
from deepcore.distributions.discrete import Bernoulli, Binomial, Geometric, Poisson, log_of_both
from deepcore.distributions.distribution import Distribution
from deepcore.distributions.gamma import Beta, Dirichlet, Gamma
from deepcore.distributions.multivariate_normal import MultivariateNormal, half_log_det
from deepcore.errors import UnsupportedError
from deepcore.tensor import Tensor

_REGISTRY: dict[tuple[type, type], Callable] = {}


def register_kl(type_p: type, type_q: type) -> Callable[[Callable], Callable]:
    """Decorator: a function of (p, q) computes the divergence of these types, and of their subclasses.

    >>> @register_kl(Normal, Normal)
    ... def kl(p, q): ...
    """

    def declare(function: Callable) -> Callable:
        _REGISTRY[type_p, type_q] = function
        return function

    return declare


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p ‖ q), of the broadcast batch shape; raises `UnsupportedError` for pairs without a formula."""
    # The nearest base classes: the least sum of distances, then the nearest of p.
    pairs = [
        (i + j, i, _REGISTRY[a, b])
        for i, a in enumerate(type(p).__mro__)
        for j, b in enumerate(type(q).__mro__)
        if (a, b) in _REGISTRY
    ]
    if not pairs:
        raise UnsupportedError(
            f"no KL divergence of {type(p).__name__} from {type(q).__name__} is registered",
            fix="dc.distributions.register_kl, or the mean of p.log_prob(x) - q.log_prob(x) over samples of p",
        )
    return min(pairs, key=lambda pair: pair[:2])[2](p, q)


@register_kl(Normal, Normal)
def _normal(p, q):
    ratio = (p.scale / q.scale) ** 2
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale) ** 2 - 1 - dc.log(ratio))


@register_kl(Laplace, Laplace)
def _laplace(p, q):
    ratio, distance = p.scale / q.scale, dc.abs(p.loc - q.loc)
    return -dc.log(ratio) + distance / q.scale + ratio * dc.exp(-distance / p.scale) - 1


@register_kl(Cauchy, Cauchy)
def _cauchy(p, q):
    """(Chyzak and Nielsen, 2019)"""
    above = (p.scale + q.scale) ** 2 + (p.loc - q.loc) ** 2
    return dc.log(above) - dc.log(4 * p.scale * q.scale)


@register_kl(Uniform, Uniform)
def _uniform(p, q):
    inside = (q.low <= p.low) & (q.high >= p.high)
    return dc.where(inside, dc.log((q.high - q.low) / (p.high - p.low)), math.inf)


@register_kl(Uniform, Normal)
def _uniform_normal(p, q):
    width = p.high - p.low
    distance = ((p.high + p.low - 2 * q.loc) / 2) ** 2
    return 0.5 * dc.log(2 * math.pi * q.scale**2 / width**2) + (width**2 / 12 + distance) / (2 * q.scale**2)


@register_kl(Exponential, Exponential)
def _exponential(p, q):
    ratio = q.rate / p.rate
    return ratio - dc.log(ratio) - 1


@register_kl(Gamma, Gamma)
def _gamma(p, q):
    a, b = p.concentration, q.concentration
    return (
        b * dc.log(p.rate / q.rate)
        + dc.lgamma(b)
        - dc.lgamma(a)
        + (a - b) * dc.digamma(a)
        + (q.rate - p.rate) * (a / p.rate)
    )


@register_kl(Exponential, Gamma)
def _exponential_gamma(p, q):
    return _gamma(Gamma(dc.ones_like(p.rate), p.rate, validate_args=False), q)


@register_kl(Gamma, Exponential)
def _gamma_exponential(p, q):
    return _gamma(p, Gamma(dc.ones_like(q.rate), q.rate, validate_args=False))


@register_kl(Beta, Beta)
def _beta(p, q):
    total = p.concentration1 + p.concentration0
    change = p.concentration1 - q.concentration1, p.concentration0 - q.concentration0
    return (
        q._log_beta()
        - p._log_beta()
        + change[0] * dc.digamma(p.concentration1)
        + change[1] * dc.digamma(p.concentration0)
        - (change[0] + change[1]) * dc.digamma(total)
    )


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p, q):
    a, b = p.concentration, q.concentration
    total = a.sum(-1)
    norm = dc.lgamma(total) - dc.lgamma(b.sum(-1)) - (dc.lgamma(a) - dc.lgamma(b)).sum(-1)
    return norm + ((a - b) * (dc.digamma(a) - dc.digamma(total).unsqueeze(-1))).sum(-1)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p, q):
    """Σ p ln(p / q) over both values, from logits: finite where a probability rounds to 0 or 1."""
    both = log_of_both(q.logits) - log_of_both(p.logits)
    finite = p.probs * (p.logits - q.logits) + both
    return dc.masked_fill(finite, ((q.probs == 0) & (p.probs > 0)) | ((q.probs == 1) & (p.probs < 1)), math.inf)


@register_kl(Binomial, Binomial)
def _binomial(p, q):
    """Infinite where p counts more trials than q; fewer have no closed form."""
    if bool((p.total_count < q.total_count).any()):
        raise UnsupportedError("the KL divergence of Binomials where q has the greater total_count has no closed form")
    one = p.total_count * (p.probs * (p.logits - q.logits) + dc.log1p(-p.probs) - dc.log1p(-q.probs))
    return dc.masked_fill(one, p.total_count > q.total_count, math.inf)


@register_kl(Geometric, Geometric)
def _geometric(p, q):
    return -p.entropy() - dc.log1p(-q.probs) / p.probs - q.logits


@register_kl(Poisson, Poisson)
def _poisson(p, q):
    return p.rate * (dc.log(p.rate) - dc.log(q.rate)) - (p.rate - q.rate)


@register_kl(Categorical, Categorical)
@register_kl(OneHotCategorical, OneHotCategorical)
def _categorical(p, q):
    terms = p.probs * (p.logits - q.logits)
    terms = dc.masked_fill(terms, q.probs == 0, math.inf)
    return dc.masked_fill(terms, p.probs == 0, 0.0).sum(-1)


@register_kl(MultivariateNormal, MultivariateNormal)
def _multivariate_normal(p, q):
    n = p.event_shape[0]
    batch = dc.broadcast_shapes(p.batch_shape, q.batch_shape)
    factor, other = (d.scale_tril.expand((*batch, n, n)) for d in (q, p))
    mixed = dc.linalg.solve_triangular(factor, other, upper=False)
    shift = dc.linalg.solve_triangular(factor, (q.loc - p.loc).unsqueeze(-1), upper=False)
    squares = (mixed**2).sum((-2, -1)) + (shift**2).sum((-2, -1))
    return half_log_det(factor) - half_log_det(other) + 0.5 * (squares - n)


@register_kl(Independent, Independent)
def _independent(p, q):
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise UnsupportedError("the KL divergence of Independents with events of two ranks has no formula")
    return sum_last(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p, q):
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise UnsupportedError("the KL divergence of distributions with different transforms has no formula")
    return kl_divergence(p.base_dist, q.base_dist)
