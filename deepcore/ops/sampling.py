"""Draws whose parameters are tensors, and tensors filled with draws in place.

Continuous distributions are inverse distribution functions of 53-bit uniform numbers, in ops, so `dc.compile` records
them. Gamma, Poisson and binomial numbers come from rejection: all elements propose at once, and those that are refused
propose again.
"""

from __future__ import annotations

import math
import operator

from deepcore.autograd import constant, mode
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.effects import untraceable
from deepcore.errors import ArgumentError, BackendError, DTypeError, ShapeError, TransformError
from deepcore.ops.exponential import exp, log1p
from deepcore.ops.index import refuse_leaf, write
from deepcore.ops.registry import Tensor, cast, is_half, primitive, promote
from deepcore.ops.rounding import floor
from deepcore.ops.search import _search
from deepcore.ops.shape import broadcast_shape, broadcast_to
from deepcore.ops.trigonometric import tan
from deepcore.random import (
    Generator,
    _range,
    _real,
    _size,
    drawn,
    rand,
    raw_bernoulli,
    raw_integers,
    raw_normal,
    raw_uniform,
)
from deepcore.tensor import empty_like, factory

# -- arguments ------------------------------------------------------------------------------------------------------


def _floating(name: str, input: Tensor) -> Tensor:
    if not dt.is_floating(input.dtype):
        raise DTypeError(f"{name} takes floats", received=dt.name_of(input.dtype), fix="x.float()")
    return input


@primitive(raises=True, batch="trailing")
def _in_range(xp, input, *, name, low, high, fix):
    """input, checked to lie in [low, high]; NaN does not."""
    if input.size and not bool(xp.logical_and(input >= low, input <= high).all()):
        raise ArgumentError(
            f"{name} is out of range",
            expected=f"{low} ≤ {name} ≤ {high}" if high < math.inf else f"{name} ≥ {low}",
            received=f"values from {input.min().item():.4g} to {input.max().item():.4g}",
            fix=fix,
        )
    return input


def _check_number(name: str, value: float, ok: bool, expected: str) -> None:
    if not ok:
        raise ArgumentError(f"{name} is out of range", expected=expected, received=repr(value))


def _wide_uniform(like: Tensor, generator) -> Tensor:
    return rand(like.shape, generator=generator, dtype=dt.float64, backend=like.backend)


# -- probabilities ------------------------------------------------------------------------------------------------------


def _below(p: Tensor, shape, dtype, generator) -> Tensor:
    """1 where a uniform number is below `p`, in `dtype`."""
    # Finer than float16 or bfloat16 uniforms: a small probability must not round to 0.
    real = dt.float64 if p.dtype == dt.float64 else dt.float32
    p = _in_range(_floating("bernoulli", p.detach()), name="p", low=0, high=1, fix="dc.sigmoid of logits")
    return cast(rand(shape, generator=generator, dtype=real, backend=p.backend) < cast(p, real), dtype)


@factory
def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probabilities in `input`, or with probability `p` everywhere, else 0; shape and dtype of `input`."""
    input = constant("bernoulli", input)
    if p is None:
        return _below(input, input.shape, input.dtype, generator)
    return bernoulli_(empty_like(input), p, generator=generator)


def bernoulli_(self, p: Tensor | float = 0.5, *, generator: Generator | None = None):
    """1 with probability `p`, a number or a tensor that broadcasts, else 0, written into this tensor."""
    refuse_leaf(self)
    if isinstance(p, Tensor):
        broadcast_to(p, self.shape)  # raises where it does not fit
        return write(self, _below(p, self.shape, self.dtype, generator))
    _check_number("p", p, 0 <= p <= 1, "0 ≤ p ≤ 1")
    return write(self, cast(_like(self, "bernoulli_", raw_bernoulli, generator, (), float(p)), self.dtype))


@primitive(raises=True)
def _choice(xp, input, uniform, *, count, replacement):
    """Indices of the last dimension, drawn with weights `input`."""
    weights = input.astype(dt.float64)
    if weights.size and not bool(xp.logical_and(weights >= 0, weights < math.inf).all()):
        raise ArgumentError("multinomial takes weights", expected="finite numbers ≥ 0", fix="dc.softmax of logits")
    total = weights.sum(axis=-1, keepdims=True)
    if weights.size and not bool((total > 0).all()):
        raise ArgumentError("multinomial: the weights of a row sum to 0", expected="a sum > 0 in every row")
    if not replacement:
        # The smallest of exponential numbers of these rates: an index is first in proportion to its weight.
        race = -xp.log1p(-uniform) / weights
        return xp.argsort(race, axis=-1, kind="stable")[..., :count].astype(dt.int64)
    levels = xp.cumsum(weights / total, axis=-1)
    return _search.forward(xp, levels / levels[..., -1:], uniform, right=True)


@factory
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """`num_samples` indices of each row of weights, (C,) or (N, C), which need not sum to 1; int64.

    Without replacement an index occurs once, and those of weight 0 come last. (Efraimidis and Spirakis, 2006)
    """
    input = _floating("multinomial", constant("multinomial", input).detach())
    if input.ndim not in (1, 2):
        raise ShapeError("multinomial takes a vector or a matrix of weights", received=str(input.shape))
    classes = input.shape[-1]
    if num_samples < 1:
        raise ArgumentError("multinomial: num_samples is at least 1", received=repr(num_samples))
    if not replacement and num_samples > classes:
        raise ArgumentError(
            f"multinomial cannot draw {num_samples} of {classes} classes without replacement", fix="replacement=True"
        )
    if not classes:
        raise ShapeError("multinomial: there are no classes", received=str(input.shape))
    shape = (*input.shape[:-1], num_samples if replacement else classes)
    uniform = rand(shape, generator=generator, dtype=dt.float64, backend=input.backend)
    return _choice(input, uniform, count=num_samples, replacement=bool(replacement))


# -- filling a tensor -----------------------------------------------------------------------------------------------


def _like(self: Tensor, name: str, draw, generator, before: tuple, *after) -> Tensor:
    """draw(backend, generator, *before, shape, *after) with the shape of `self`."""
    xp = self.backend
    return drawn(name, self.shape, lambda s: draw(xp, generator, *before, s, *after), xp)


def _fill(self: Tensor, values: Tensor):
    return write(self, values if values.dtype == self.dtype else cast(values, self.dtype))


def uniform_(self, from_: float = 0, to: float = 1, *, generator: Generator | None = None):
    """Uniform numbers of [from_, to), written into this tensor; the sum from_ + (to - from_)·u may round to `to`."""
    refuse_leaf(self)
    _floating("uniform_", self)
    _check_number("from_", from_, from_ <= to, f"from_ ≤ to = {to}")
    return write(self, _like(self, "uniform_", raw_uniform, generator, (), self.dtype, from_, to))


def normal_(self, mean: float = 0, std: float = 1, *, generator: Generator | None = None):
    """mean + std·z with z standard normal, written into this tensor."""
    refuse_leaf(self)
    _floating("normal_", self)
    _check_number("std", std, std >= 0, "std ≥ 0")
    return write(self, _like(self, "normal_", raw_normal, generator, (), self.dtype, mean, std))


def log_normal_(self, mean: float = 1, std: float = 2, *, generator: Generator | None = None):
    """exp(mean + std·z) with z standard normal, written into this tensor."""
    refuse_leaf(self)
    _floating("log_normal_", self)
    _check_number("std", std, std > 0, "std > 0")
    real = dt.float32 if is_half(self) else self.dtype
    return _fill(self, exp(_like(self, "log_normal_", raw_normal, generator, (), real, mean, std)))


def exponential_(self, lambd: float = 1, *, generator: Generator | None = None):
    """-log(1 - u) / lambd with u uniform, of density lambd·exp(-lambd·x), written into this tensor."""
    refuse_leaf(self)
    _floating("exponential_", self)
    _check_number("lambd", lambd, lambd > 0, "lambd > 0")
    return _fill(self, log1p(-_wide_uniform(self, generator)) * (-1 / lambd))


def cauchy_(self, median: float = 0, sigma: float = 1, *, generator: Generator | None = None):
    """median + sigma·tan(π(u - ½)) with u uniform, written into this tensor."""
    refuse_leaf(self)
    _floating("cauchy_", self)
    _check_number("sigma", sigma, sigma > 0, "sigma > 0")
    return _fill(self, tan((_wide_uniform(self, generator) - 0.5) * math.pi) * sigma + median)


def geometric_(self, p: float, *, generator: Generator | None = None):
    """1 + ⌊log(1 - u) / log(1 - p)⌋ with u uniform, the trials up to the first success, written into this tensor."""
    refuse_leaf(self)
    if self.dtype == dt.bool_:
        raise DTypeError("geometric_ counts: bool does not hold its numbers", fix="x.long()")
    _check_number("p", p, 0 < p < 1, "0 < p < 1")
    return _fill(self, floor(log1p(-_wide_uniform(self, generator)) * (1 / math.log1p(-p))) + 1)


def random_(self, *bounds, generator: Generator | None = None):
    """Whole numbers written into this tensor: `random_(to)` of [0, to), `random_(from, to)` of [from, to).

    `random_()`, and `random_(from, None)`: up to the largest number to which the dtype holds every whole number.
    """
    refuse_leaf(self)
    if len(bounds) > 2:
        raise ArgumentError("random_ takes one or two bounds", received=repr(bounds))
    first, to = (0, *bounds) if len(bounds) == 1 else bounds or (0, None)
    smallest, largest = _range(self.backend, self.dtype)
    try:
        low, high = operator.index(first), largest + 1 if to is None else operator.index(to)
    except TypeError:
        raise ArgumentError("random_ draws whole numbers", received=repr(bounds)) from None
    _check_number("from", low, low < high, f"from < to = {high}")
    if low < smallest or high - 1 > largest:
        raise ArgumentError(
            f"random_: {dt.name_of(self.dtype)} does not hold every number of [{low}, {high})",
            expected=f"{smallest} … {largest}",
        )
    return write(self, _like(self, "random_", raw_integers, generator, (low, high), self.dtype))


@factory
def normal(
    mean=0.0,
    std=1.0,
    size=None,
    *,
    generator: Generator | None = None,
    dtype=None,
    backend=None,
    requires_grad=False,
    device=None,
) -> Tensor:
    """mean + std·z with z standard normal; `mean` and `std` are numbers (with a `size`) or tensors that broadcast."""
    tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
    if not isinstance(std, Tensor):
        _check_number("std", std, std >= 0, "std ≥ 0")
    if not tensors:
        if size is None:
            raise ArgumentError("normal needs a size when mean and std are numbers", fix="dc.normal(0.0, 1.0, (n,))")
        xp = get_backend(backend)
        kind = _real(dtype)
        return drawn(
            "normal", _size((size,)), lambda s: raw_normal(xp, generator, s, kind, mean, std), xp, requires_grad
        )
    if size is not None:
        raise ArgumentError("normal takes its size from mean and std when they are tensors", received=f"size={size!r}")
    if len({t.backend for t in tensors}) > 1:
        raise BackendError(
            "mean and std lie on two backends",
            received=" and ".join(str(t.backend) for t in tensors),
            fix="std.to(mean.backend)",
        )
    if isinstance(std, Tensor):
        std = _in_range(
            std.detach(), name="std", low=0, high=math.inf, fix="dc.nn.functional.softplus of a network's output"
        )
    mean, std = (value.detach() if isinstance(value, Tensor) else value for value in (mean, std))
    shape = broadcast_shape("normal", *(t.shape for t in tensors))
    dtype = promote("normal", "numeric", *tensors)[0].dtype if dtype is None else dt.as_dtype(dtype)
    real = dt.float64 if dtype == dt.float64 else dt.float32
    if not dt.is_floating(dtype):
        raise DTypeError("normal draws floats", received=dt.name_of(dtype), fix="mean.float()")
    xp = tensors[0].backend
    z = drawn("normal", shape, lambda s: raw_normal(xp, generator, s, real), xp)
    out = cast(z * std + mean, dtype)
    return out.requires_grad_() if requires_grad else out


# -- rejection ------------------------------------------------------------------------------------------------------


def _of_each(name: str, input: Tensor) -> Tensor:
    """`input`, by which numbers are drawn; inside of a vmap that of each example."""
    level = mode.level
    if level is None or not level.batches:
        return input
    if level.shares_draws():
        raise TransformError(
            f"vmap: {name} draws until numbers are accepted, which examples cannot share",
            fix='vmap(f, randomness="different")',
        )
    xp = input.backend
    return input + drawn(name, (), lambda s: xp.zeros(s, dtype=input.dtype), xp)


def _until_accepted(xp, generator, parameters: tuple, propose, words: str = "uu"):
    """Numbers of `propose(draws, parameters) -> (values, accepted)`, drawn again for the elements that are refused.

    Parameters are float64 vectors; `words`: a letter for each vector of draws, u(niform) on [0, 1) or n(ormal).
    """
    size = parameters[0].size
    out = xp.zeros((size,), dtype=dt.float64)
    pending = xp.arange(size)
    while pending.size:
        kinds = {"u": raw_uniform, "n": raw_normal}
        draws = [kinds[letter](xp, generator, (pending.size,), dt.float64) for letter in words]
        values, accepted = propose(draws, parameters)
        accepted = xp.logical_or(accepted, ~xp.isfinite(values))  # of parameters that are NaN or infinite
        out[pending[accepted]] = values[accepted]
        pending, parameters = pending[~accepted], tuple(p[~accepted] for p in parameters)
    return out


def _by_size(xp, large, parameters: tuple, small_draw, large_draw):
    """`small_draw` of the elements where not `large`, `large_draw` of the others; parameters are vectors."""
    out = xp.zeros(large.shape, dtype=dt.float64)
    for chosen, draw in ((~large, small_draw), (large, large_draw)):
        if bool(chosen.any()):
            out[chosen] = draw(tuple(p[chosen] for p in parameters))
    return out


def _count_up(xp, uniform, first, ratio):
    """The k at which the sum of probabilities first, first·ratio(1), first·ratio(1)·ratio(2), … exceeds `uniform`."""
    term, total = first, first
    k = xp.zeros(uniform.shape, dtype=dt.float64)
    step = 0
    while True:
        above = xp.logical_and(uniform >= total, term > 0)
        if not bool(above.any()):
            return k
        step += 1
        k = k + above
        term = term * ratio(step)
        # Beyond the last digit of the sum, nothing is left to exceed.
        term = xp.where(term > 1e-18 * total, term, 0.0)
        total = total + term


@primitive(raises=True)
def _poisson(xp, input, *, generator):
    """Poisson numbers of the rates `input`."""
    rate = _in_range.forward(
        xp, input.astype(dt.float64).reshape(-1), name="rate", low=0, high=math.inf, fix="dc.exp of a network's output"
    )

    def small(p):
        (mean,) = p
        # A rate of 0 has the terms 1, 0, 0, …
        return _count_up(xp, raw_uniform(xp, generator, mean.shape, dt.float64), xp.exp(-mean), lambda k: mean / k)

    def large(p):
        """Transformed rejection with a squeeze. (Hörmann, 1993: PTRS)"""

        def propose(draws, p):
            (mean,) = p
            b = 0.931 + 2.53 * xp.sqrt(mean)
            a = -0.059 + 0.02483 * b
            u, v = draws[0] - 0.5, 1.0 - draws[1]
            us = 0.5 - xp.abs(u)
            k = xp.floor((2 * a / us + b) * u + mean + 0.43)
            quick = xp.logical_and(us >= 0.07, v <= 0.9277 - 3.6224 / (b - 2))
            left = xp.log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (us * us) + b))
            right = k * xp.log(mean) - mean - xp.special("lgamma", xp.maximum(k, 0.0) + 1)
            refused = xp.logical_or(k < 0, xp.logical_and(us < 0.013, v > us))
            return k, xp.logical_or(quick, xp.logical_and(~refused, left <= right))

        return _until_accepted(xp, generator, p, propose)

    return _by_size(xp, rate >= 10, (rate,), small, large).reshape(input.shape).astype(input.dtype)


def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Numbers of events, Poisson-distributed with the rates `input`; shape and dtype of `input`."""
    untraceable("poisson, which draws until numbers are accepted")
    rate = _of_each("poisson", _floating("poisson", constant("poisson", input).detach()))
    return _poisson(rate, generator=generator)


@primitive()
def _binomial(xp, count, prob, *, generator):
    """Numbers of successes in `count` trials."""
    shape, n, p = count.shape, count.astype(dt.float64).reshape(-1), prob.astype(dt.float64).reshape(-1)
    inside = (n > 0) & (p > 0) & (p < 1)
    flipped = p > 0.5
    rare = xp.where(inside, xp.where(flipped, 1 - p, p), 0.25)
    trials = xp.where(inside, n, 1.0)

    def small(parameters):
        n, p = parameters
        odds = p / (1 - p)
        first = xp.exp(n * xp.log1p(-p))
        uniform = raw_uniform(xp, generator, n.shape, dt.float64)
        return _count_up(xp, uniform, first, lambda k: xp.maximum(n - k + 1, 0.0) / k * odds)

    def large(parameters):
        """Transformed rejection with a squeeze. (Hörmann, 1993: BTRS)"""

        def propose(draws, parameters):
            n, p = parameters
            spread = xp.sqrt(n * p * (1 - p))
            b = 1.15 + 2.53 * spread
            a = -0.0873 + 0.0248 * b + 0.01 * p
            u, v = draws[0] - 0.5, 1.0 - draws[1]
            us = 0.5 - xp.abs(u)
            k = xp.floor((2 * a / us + b) * u + n * p + 0.5)
            quick = xp.logical_and(us >= 0.07, v <= 0.92 - 4.2 / b)
            valid = xp.logical_and(k >= 0, k <= n)
            mode = xp.floor((n + 1) * p)
            left = xp.log(v * (2.83 + 5.1 / b) * spread / (a / (us * us) + b))
            held = xp.minimum(xp.maximum(k, 0.0), n)
            right = (held - mode) * xp.log(p / (1 - p))
            for sign, value in ((1, mode), (1, n - mode), (-1, held), (-1, n - held)):
                right = right + sign * xp.special("lgamma", value + 1)
            return k, xp.logical_and(valid, xp.logical_or(quick, left <= right))

        return _until_accepted(xp, generator, parameters, propose)

    drawn = _by_size(xp, trials * rare >= 10, (trials, rare), small, large)
    drawn = xp.where(flipped, n - drawn, drawn)
    certain = xp.where(xp.isnan(n + p), math.nan, xp.where((n > 0) & (p >= 1), n, 0.0))
    return xp.where(inside, drawn, certain).reshape(shape).astype(count.dtype)


def binomial(count: Tensor, prob: Tensor, generator: Generator | None = None) -> Tensor:
    """Numbers of successes in `count` trials of probability `prob`; the two broadcast and have one floating dtype."""
    count, prob = (_floating("binomial", constant("binomial", x).detach()) for x in (count, prob))
    if count.dtype != prob.dtype:
        raise DTypeError(
            "binomial: count and prob have one dtype",
            received=f"{dt.name_of(count.dtype)} and {dt.name_of(prob.dtype)}",
        )
    untraceable("binomial, which draws until numbers are accepted")
    shape = broadcast_shape("binomial", count.shape, prob.shape)
    count = _of_each("binomial", broadcast_to(count, shape))
    return _binomial(count, broadcast_to(prob, shape), generator=generator)


#: From this concentration on, the gamma distribution's quantiles are an expansion in 1/√concentration.
_WIDE = 1000.0


def _implicit_slope(xp, a, x):
    """dx/da of a gamma number at a fixed level of its distribution function: -∂P(a, x)/∂a / density.

    From the series P(a, x) = xᵃ e⁻ˣ / Γ(a + 1) · Σ xⁿ / ((a + 1)…(a + n)), differentiated term by term.
    """
    term = total = xp.ones(x.shape, dtype=dt.float64)
    harmonic = slope = xp.zeros(x.shape, dtype=dt.float64)
    step = 0
    while bool((term > 1e-17 * total).any()):
        step += 1
        term = term * x / (a + step)
        harmonic = harmonic + 1 / (a + step)
        total = total + term
        slope = slope + term * harmonic
    return x / a * (slope - total * (xp.log(x) - xp.special("digamma", a + 1)))


def _wide_slope(xp, a, x):
    """The same from Cornish and Fisher's expansion of the quantile a + z√a + …, whose z is solved for."""
    root = xp.sqrt(a)
    z = (x - a) / root
    for _ in range(10):
        rest = (z * z - 1) / 3 + (z**3 - 7 * z) / (36 * root) - (3 * z**4 + 7 * z * z - 16) / (810 * a)
        z = (x - a - rest) / root
    rest = -(z**3 - 7 * z) / (72 * a * root) + (3 * z**4 + 7 * z * z - 16) / (810 * a * a)
    return 1 + z / (2 * root) + rest


@primitive()
def _gamma_slope(xp, concentration, sample):
    a, x = concentration.astype(dt.float64).reshape(-1), sample.astype(dt.float64).reshape(-1)
    parts = (lambda p: _implicit_slope(xp, *p)), (lambda p: _wide_slope(xp, *p))
    return _by_size(xp, a >= _WIDE, (a, x), *parts).reshape(sample.shape).astype(sample.dtype)


@primitive(vjp=lambda g, concentration, out: g * _gamma_slope(concentration, out))
def _gamma(xp, concentration, *, generator):
    """Numbers of density xᵃ⁻¹ e⁻ˣ / Γ(a): d·(1 + cz)³ of normal z. (Marsaglia and Tsang, 2000)"""
    a = concentration.astype(dt.float64).reshape(-1)
    d = xp.where(a < 1, a + 1, a) - 1 / 3

    def propose(draws, parameters):
        (d,) = parameters
        z, u = draws[0], 1.0 - draws[1]
        v = (1 + z / xp.sqrt(9 * d)) ** 3
        positive = xp.maximum(v, 1e-300)
        return d * v, xp.logical_and(v > 0, xp.log(u) < 0.5 * z * z + d * (1 - v + xp.log(positive)))

    drawn = _until_accepted(xp, generator, (d,), propose, "nu")
    # A number of concentration a + 1 times uᵃ⁻¹ has concentration a.
    boost = xp.log(1.0 - raw_uniform(xp, generator, a.shape, dt.float64)) / a
    out = xp.where(a < 1, drawn * xp.exp(boost), drawn)
    # The least positive number in place of 0, whose logarithm is infinite.
    least = float(dt.finfo(concentration.dtype).tiny)
    return xp.maximum(out, least).reshape(concentration.shape).astype(concentration.dtype)


def standard_gamma(concentration: Tensor, generator: Generator | None = None) -> Tensor:
    """Numbers of the gamma distribution of rate 1; differentiable in `concentration`.

    The gradient is that at a fixed level of the distribution function. (Figurnov, Mohamed and Mnih, 2018)
    """
    untraceable("gamma numbers, which are drawn until they are accepted")
    return _gamma(_of_each("gamma", _floating("standard_gamma", concentration)), generator=generator)


Tensor.bernoulli, Tensor.bernoulli_, Tensor.multinomial = bernoulli, bernoulli_, multinomial
Tensor.uniform_, Tensor.normal_, Tensor.log_normal_, Tensor.cauchy_ = uniform_, normal_, log_normal_, cauchy_
Tensor.exponential_, Tensor.geometric_, Tensor.random_ = exponential_, geometric_, random_
