"""The examples of registered layers and losses, as test cases and arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deepcore.nn.registry import Integers, Signs, Uniform


def cases(registry):
    """(class, example) for every registered class."""
    return [
        pytest.param(cls, example, id=f"{name}-{i}")
        for name, cls in sorted(registry.items())
        for i, example in enumerate(cls.examples)
    ]


def make_input(kind, rng):
    """The array of an example's input."""
    if isinstance(kind, Integers) and kind.distinct:
        rows = [rng.permutation(kind.high) for _ in range(math.prod(kind.shape[:2]))]
        return np.stack(rows)[:, : math.prod(kind.shape[2:])].reshape(kind.shape)
    if isinstance(kind, Integers):
        return rng.integers(0, kind.high, kind.shape)
    if isinstance(kind, Signs):
        return np.asarray(rng.choice([-1.0, 1.0], kind.shape))
    if isinstance(kind, Uniform):
        values = rng.random(kind.shape)
        return values / values.sum(axis=min(1, values.ndim - 1), keepdims=True) if kind.sum_to_one else values
    return rng.standard_normal(kind)


def flat(result):
    """The tensors of a layer's result: one, or those of nested tuples, without None."""
    return [t for part in result for t in flat(part) if t is not None] if isinstance(result, tuple) else [result]
