"""The computations on one batch, each of which can run as one program."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from deepcore.autograd import no_grad
from deepcore.autograd.trees import tree_map
from deepcore.backend import dtypes as dt
from deepcore.compiler.compiled import Compiled, NotFinite, finite
from deepcore.errors import NonFiniteError
from deepcore.ops.shape import stack
from deepcore.train.measure import check_scalar, check_tensors


class Refused(Exception):
    """No update is made with this batch: the loss is not finite, or the gradients named by `gradients` are not."""

    def __init__(self, problem: str, loss: float, gradients: str = ""):
        super().__init__(problem)
        self.problem, self.loss, self.gradients = problem, loss, gradients


class Steps:
    """The steps of a `Trainer` with its model, loss and optimizer, compiled or not.

    train(inputs, target), test(inputs, target): (loss, output), the output only where metrics need it.
    gradients(inputs, target, weight): the same with the sum that the loss divides, or `weight` times the loss where the sum
    is unknown (`Measure.weight`); gradients accumulate until `update()`.
    predict(inputs): the output.
    `scale`: `Measure.scale`, where samples are weighed. With several outputs the loss is a vector, one for each.

    `prepare()` is called before `train` and `gradients`, unless a program runs, which changes nothing when it stops.
    """

    def __init__(self, compiled: bool, prepare: Callable[[], None]):
        self.model: Any = None
        self.loss: Any = None
        #: `Measure.module`, and whether the loss is a sum.
        self.module: Any = None
        self.summed = False
        self.measure: Any = None
        #: Whether the loss is `OutputLosses`.
        self.several = False
        self.optimizer: Any = None
        self.clip_grad_norm: float | None = None
        #: (name, parameter) of every parameter of the optimizer, for errors.
        self.named: tuple = ()
        #: Whether metrics read outputs.
        self.watched = False
        changing: Callable = partial(_after, prepare)
        run: Callable = lambda function: function
        if compiled:
            changing, run = partial(Compiled, automatic=True, prepare=prepare), partial(Compiled, automatic=True)
        self.train, self.gradients = changing(self._train), changing(self._gradients)
        self.test, self.predict = run(self._test), run(self._predict)

    def _train(self, inputs: tuple, target, scale=None):
        output = self.model(*inputs)
        parts = None
        if self.several:
            parts = self.loss.parts(output, target, scale)
            loss = check_scalar(self.loss.total(parts))
        else:
            loss = self._mean(output, target, scale)
        value, output = self._backward(loss, output)
        self.update()
        return (value if parts is None else stack([part.detach() for part in parts])), output

    def _gradients(self, inputs: tuple, target, weight, scale=None):
        output = self.model(*inputs)
        if self.several:
            parts = self.loss.parts(output, target, scale)
            _, output = self._backward(check_scalar(self.loss.total(parts) * weight), output)
            return stack([part.detach() for part in parts]), output
        return self._backward(self._total(output, target, weight, scale), output)

    def _backward(self, loss, output):
        try:
            value = finite(loss)
        except NotFinite as error:
            raise Refused(f"the loss is {error.value}", error.value) from None
        loss.backward()
        return value, tree_map(_detached, output) if self.watched else None

    def _mean(self, output, target, scale=None):
        """The loss, checked to be a single number."""
        if self.module is not None:
            check_tensors(output, target)
        if scale is not None:
            return self.measure.scaled(output, target, scale)
        return check_scalar(self.loss(output, target))

    def _total(self, output, target, weight, scale=None):
        """The sum that the loss divides: 0 where its mean would be 0/0."""
        if scale is not None:
            return self._mean(output, target, scale)
        if self.module is None or self.summed:
            loss = self._mean(output, target)
            return loss if weight is None else loss * weight
        check_tensors(output, target)
        if output.dtype.itemsize == 2:  # a sum may overflow 16 bits
            output = output.to(dt.float32)
        return self.module.reduced(output, target, "sum")

    def update(self) -> None:
        """One update with the current gradients, which are then cleared."""
        try:
            self.optimizer.clipped_step(self.clip_grad_norm, error_if_nonfinite=True, named=self.named, keep=False)
        except NonFiniteError as error:
            problem = f"the loss is finite, but after the backward pass {error.problem}"
            raise Refused(problem, math.nan, error.received) from None
        self.clear_gradients()

    def clear_gradients(self) -> None:
        self.optimizer.zero_grad()
        self.model.zero_grad()  # includes parameters that the optimizer does not have

    def loss_of(self, inputs: tuple, target):
        """The loss, to be differentiated."""
        return self._mean(self.model(*inputs), target)

    @no_grad()
    def _test(self, inputs: tuple, target, scale=None):
        output = self.model(*inputs)
        if self.several:
            loss = stack(self.loss.parts(output, target, scale))
        else:
            loss = self._mean(output, target, scale)
        return loss, output if self.watched else None

    @no_grad()
    def _predict(self, inputs: tuple):
        return self.model(*inputs)


def _detached(leaf):
    return leaf.detach() if hasattr(leaf, "detach") else leaf


def _after(prepare: Callable[[], None], function: Callable) -> Callable:
    def run(*args):
        prepare()
        return function(*args)

    return run
