"""Models, batches and steps that many scenarios use."""

from __future__ import annotations

import numpy as np

import deepcore as dc
from deepcore import nn

F = nn.functional


def randn(*shape, seed: int = 0, dtype="f4", requires_grad: bool = False) -> dc.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return dc.tensor(values, requires_grad=requires_grad)


def integers(high: int, *shape, seed: int = 0) -> dc.Tensor:
    return dc.tensor(np.random.default_rng(seed).integers(0, high, shape))


def inputs(calls: int, *shape, dtype="f4"):
    """A tensor for each call, with values of its own."""
    shape = shape or (5, 4)
    for i in range(calls):
        yield randn(*shape, seed=100 + i, dtype=dtype)


def batches(calls: int, n: int = 6, dtype="f4"):
    """Features (n, 4) and classes (n,) for each call."""
    for i, x in enumerate(inputs(calls, n, 4, dtype=dtype)):
        yield x, integers(3, n, seed=i)


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), *between, nn.Tanh(), nn.Linear(8, 3))


def trainer(compile, model, optimizer):
    """A compiled step of classification."""

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
