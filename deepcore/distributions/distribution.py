"""The base class of distributions, and helpers for their parameters."""

from __future__ import annotations

from typing import Any, ClassVar

import deepcore as dc
from deepcore.backend import dtypes as dt
from deepcore.distributions.constraints import Constraint
from deepcore.errors import ArgumentError, ArgumentTypeError, ShapeError, UnsupportedError
from deepcore.tensor import Tensor


class Distribution:
    """A distribution over tensors: `batch_shape` independent ones, each over values of `event_shape`.

    With `validate_args` (default: `Distribution.set_default_validate_args`, else True) parameters and values are
    checked against `arg_constraints` and `support`, which reads them: set it to False inside `dc.compile`.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    #: The values that can be drawn; a property where it depends on parameters.
    support: Any = None
    has_rsample = False
    has_enumerate_support = False
    _validate_args = True

    def __init__(self, batch_shape=(), event_shape=(), validate_args: bool | None = None):
        self._batch_shape, self._event_shape = tuple(batch_shape), tuple(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            for name, constraint in self.arg_constraints.items():
                if name in self.__dict__:
                    self._check(f"parameter {name}", constraint, self.__dict__[name])

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether distributions made from now on check their arguments."""
        Distribution._validate_args = value

    def _check(self, what: str, constraint: Constraint, value: Tensor) -> None:
        if not bool(constraint.check(value).all()):
            raise ArgumentError(
                f"{type(self).__name__}: the {what} is out of its domain",
                expected=repr(constraint),
                received=f"a tensor of shape {tuple(value.shape)}"
                if value.numel() > 8
                else f"{value.detach().tolist()}",
            )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the parameters: one distribution for each element."""
        return self._batch_shape

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one value."""
        return self._event_shape

    def expand(self, batch_shape, _instance=None) -> Any:
        """The same distribution with its parameters expanded to `batch_shape`."""
        shape = tuple(batch_shape)
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        for name, constraint in self.arg_constraints.items():
            if name in new.__dict__:
                parameter = new.__dict__[name]
                event = parameter.shape[parameter.ndim - constraint.event_dim :]
                new.__dict__[name] = parameter.expand((*shape, *event))
        new._batch_shape = shape
        return new

    # -- drawing ----------------------------------------------------------------------------------------------------
    def _extended_shape(self, sample_shape=()) -> tuple[int, ...]:
        return (*sample_shape, *self._batch_shape, *self._event_shape)

    def sample(self, sample_shape=()) -> Tensor:
        """Values of shape `sample_shape` + `batch_shape` + `event_shape`, without gradients."""
        with dc.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape=()) -> Tensor:
        """`sample`, differentiable in the parameters; where `has_rsample`."""
        raise self._lacks("rsample")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, along a new first dimension; where `has_enumerate_support`."""
        raise self._lacks("enumerate_support")

    # -- functions of a value -----------------------------------------------------------------------------------------
    def log_prob(self, value: Tensor) -> Tensor:
        """ln of the density, or of the probability of a discrete value."""
        raise self._lacks("log_prob")

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most `value`."""
        raise self._lacks("cdf")

    def icdf(self, value: Tensor) -> Tensor:
        """The inverse of `cdf`."""
        raise self._lacks("icdf")

    def _validate_sample(self, value: Tensor) -> None:
        if not self._validate_args:
            return
        if not isinstance(value, Tensor):
            raise ArgumentTypeError(
                f"{type(self).__name__}: the value is a tensor", received=type(value).__name__, fix="dc.tensor(value)"
            )
        events = value.ndim - len(self._event_shape)
        if events < 0 or value.shape[events:] != self._event_shape:
            raise ShapeError(
                f"{type(self).__name__}: the value has not the shape of an event",
                expected=f"(…, {', '.join(map(str, self._event_shape))})",
                received=str(tuple(value.shape)),
            )
        for n, m in zip(reversed(value.shape), reversed(self._extended_shape())):
            if n != m and 1 not in (n, m):
                raise ShapeError(
                    f"{type(self).__name__}: the value does not broadcast with batch_shape + event_shape",
                    received=f"{tuple(value.shape)} and {self._extended_shape()}",
                )
        if self.support is not None:
            self._check("value", self.support, value)

    # -- moments ----------------------------------------------------------------------------------------------------
    @property
    def mean(self) -> Tensor:
        raise self._lacks("mean")

    @property
    def mode(self) -> Tensor:
        raise self._lacks("mode")

    @property
    def variance(self) -> Tensor:
        raise self._lacks("variance")

    @property
    def stddev(self) -> Tensor:
        """√variance"""
        return dc.sqrt(self.variance)

    def entropy(self) -> Tensor:
        """-E[log_prob]"""
        raise self._lacks("entropy")

    def perplexity(self) -> Tensor:
        """exp(entropy)"""
        return dc.exp(self.entropy())

    def _lacks(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{type(self).__name__} has no {what}")

    def __repr__(self) -> str:
        names = [name for name in self.arg_constraints if name in self.__dict__]
        values = [(name, self.__dict__[name]) for name in names]
        shown = (f"{name}: {v.item() if v.numel() == 1 else tuple(v.shape)}" for name, v in values)
        return f"{type(self).__name__}({', '.join(shown)})"


def broadcast_all(*values) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape; numbers get dtype and backend of the first tensor."""
    like = next((v for v in values if isinstance(v, Tensor)), None)
    dtype = dt.default_float if like is None or not dt.is_floating(like.dtype) else like.dtype
    backend = None if like is None else like.backend
    tensors = [v if isinstance(v, Tensor) else dc.tensor(v, dtype=dtype, backend=backend) for v in values]
    shape = dc.broadcast_shapes(*(t.shape for t in tensors))
    return [t.expand(shape) for t in tensors]


def one_of(owner: object, probs, logits):
    """Raise unless exactly one of `probs` and `logits` is given."""
    if (probs is None) == (logits is None):
        raise ArgumentError(f"{type(owner).__name__} takes either probs or logits")


def vector_of(owner: object, name: str, value: Tensor) -> Tensor:
    """`value`, checked to have a dimension for the event."""
    if value.ndim < 1:
        raise ShapeError(f"{type(owner).__name__}: {name} has at least one dimension", received=str(tuple(value.shape)))
    return value


def clamp_probs(probs: Tensor) -> Tensor:
    """Probabilities whose logarithms, and those of their complements, are finite."""
    eps = dc.finfo(probs.dtype).eps
    return dc.clamp(probs, min=eps, max=1 - eps)


def noise(shape, like: Tensor, name: str) -> Tensor:
    """A tensor filled by the method `name`, as "normal_", with dtype and backend of `like`."""
    return getattr(dc.empty(shape, dtype=like.dtype, backend=like.backend), name)()
