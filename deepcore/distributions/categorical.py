"""Distributions over classes."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import deepcore as dc
from deepcore.distributions import constraints
from deepcore.distributions.discrete import Binomial, all_values
from deepcore.distributions.distribution import Distribution, clamp_probs, one_of, vector_of
from deepcore.tensor import Tensor


class _OfClasses(Distribution):
    """A distribution of weights of classes, (…, K): normalised `probs`, or `logits`, of which exp is normalised."""

    arg_constraints: ClassVar = {"probs": constraints.simplex, "logits": constraints.real_vector}

    def _set(self, probs, logits, validate_args) -> None:
        one_of(self, probs, logits)
        if probs is None:
            vector_of(self, "logits", logits)
            self.logits = logits - dc.logsumexp(logits, -1, keepdim=True)
            self.classes = logits.shape[-1]
        else:
            vector_of(self, "probs", probs)
            if self._validate_args if validate_args is None else validate_args:
                self._check("parameter probs", constraints.nonnegative_vector, probs)
            self.probs = probs / probs.sum(-1, keepdim=True)
            self.classes = probs.shape[-1]

    @functools.cached_property
    def probs(self) -> Tensor:
        return dc.softmax(self.logits, -1)

    @functools.cached_property
    def logits(self) -> Tensor:
        return dc.log(clamp_probs(self.probs))

    @property
    def _parameter(self) -> Tensor:
        return self.logits if "probs" not in self.__dict__ else self.probs

    def _draw(self, shape, count: int) -> Tensor:
        """Classes of shape `shape` + `batch_shape` + (count,)."""
        number = math.prod(shape)
        rows = self.probs.detach().reshape(-1, self.classes)
        drawn = dc.multinomial(rows, number * count, True).reshape(*self.batch_shape, number, count)
        return dc.movedim(drawn, -2, 0).reshape(*shape, *self.batch_shape, count)

    def _class_entropy(self) -> Tensor:
        lowest = dc.finfo(self.logits.dtype).min
        return -(dc.clamp(self.logits, min=lowest) * self.probs).sum(-1)


class Categorical(_OfClasses):
    """The class k, 0 … K-1, with probability probsₖ / Σ probs"""

    has_enumerate_support = True

    def __init__(self, probs=None, logits=None, validate_args: bool | None = None):
        self._set(probs, logits, validate_args)
        super().__init__(self._parameter.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.classes - 1)

    @property
    def param_shape(self) -> tuple[int, ...]:
        """The shape of `probs`."""
        return self._parameter.shape

    def sample(self, sample_shape=()) -> Tensor:
        return self._draw(tuple(sample_shape), 1)[..., 0]

    @property
    def mean(self) -> Tensor:
        return dc.full_like(self._parameter[..., 0], math.nan)

    @property
    def variance(self) -> Tensor:
        return dc.full_like(self._parameter[..., 0], math.nan)

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        shape = dc.broadcast_shapes(value.shape, self.batch_shape)
        index = value.long().expand(shape).unsqueeze(-1)
        return dc.gather(self.logits.expand((*shape, self.classes)), -1, index).squeeze(-1)

    def entropy(self) -> Tensor:
        return self._class_entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return all_values(self, self.classes, self._parameter, dc.int64, expand)


class OneHotCategorical(_OfClasses):
    """The one-hot vector of a class, of K elements, with probability probsₖ / Σ probs"""

    support = constraints.one_hot
    has_enumerate_support = True

    def __init__(self, probs=None, logits=None, validate_args: bool | None = None):
        self._set(probs, logits, validate_args)
        shape = self._parameter.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def _one_hot(self, classes: Tensor) -> Tensor:
        return dc.nn.functional.one_hot(classes, self.classes).to(self._parameter.dtype)

    def sample(self, sample_shape=()) -> Tensor:
        return self._one_hot(self._draw(tuple(sample_shape), 1)[..., 0])

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return self._one_hot(self.probs.argmax(-1))

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return dc.where(value == 1, self.logits, 0.0).sum(-1)

    def entropy(self) -> Tensor:
        return self._class_entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = dc.eye(self.classes, dtype=self._parameter.dtype, backend=self._parameter.backend)
        values = values.reshape(self.classes, *(1,) * len(self.batch_shape), self.classes)
        return values.expand((self.classes, *self.batch_shape, self.classes)) if expand else values


class Multinomial(_OfClasses):
    """The counts of the classes in `total_count` draws, K numbers"""

    def __init__(self, total_count: int = 1, probs=None, logits=None, validate_args: bool | None = None):
        self._set(probs, logits, validate_args)
        self.total_count = total_count
        shape = self._parameter.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.multinomial(self.total_count)

    def sample(self, sample_shape=()) -> Tensor:
        drawn = self._draw(tuple(sample_shape), self.total_count)
        return dc.nn.functional.one_hot(drawn, self.classes).sum(-2).to(self._parameter.dtype)

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        logits = dc.masked_fill(self.logits, (value == 0) & (self.logits == -math.inf), 0.0)
        ways = math.lgamma(self.total_count + 1) - dc.lgamma(value + 1).sum(-1)
        return ways + (logits * value).sum(-1)

    def entropy(self) -> Tensor:
        n = self.total_count
        counts = Binomial(n, probs=self.probs, validate_args=False)
        values = counts.enumerate_support(expand=False)[1:]
        weights = dc.exp(counts.log_prob(values))
        return n * self._class_entropy() - math.lgamma(n + 1) + (weights * dc.lgamma(values + 1)).sum((0, -1))
