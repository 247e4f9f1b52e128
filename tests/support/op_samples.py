"""The samples of the registered ops, and their calls as functions of leaves."""

from __future__ import annotations

import zlib

import numpy as np

import deepcore as dc
from deepcore.ops.registry import FUNCTIONS, Sample
from deepcore.tensor import Tensor


class Make:
    """Creates the tensors of a sample: float64 leaves with fixed, distinct values."""

    def __init__(self, backend: str, name: str):
        self.backend = backend
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, *shape, low=-2.0, high=2.0) -> Tensor:
        n = int(np.prod(shape, dtype=int))
        # A shuffled ramp: values differ by more than the step of finite differences, so that no kink is crossed.
        values = low + (high - low) * (self.rng.permutation(n) + 0.5 + self.rng.uniform(-0.2, 0.2)) / max(n, 1)
        return dc.tensor(values.reshape(shape), backend=self.backend, requires_grad=True)

    def int(self, high, *shape) -> Tensor:
        return dc.tensor(self.rng.integers(0, high, shape), backend=self.backend)

    def bool(self, *shape) -> Tensor:
        return dc.tensor(self.rng.integers(0, 2, shape).astype(bool), backend=self.backend)


class Complex(Make):
    """The samples with floating tensors turned to complex ones."""

    def __call__(self, *shape, low=-2.0, high=2.0) -> Tensor:
        size = super().__call__(*shape, low=low, high=high).detach()
        angles = self.rng.uniform(-0.4, 0.4, shape)
        return (size * dc.tensor(np.exp(1j * angles), backend=self.backend)).requires_grad_()


def samples(name: str, backend: str) -> list[Sample]:
    return FUNCTIONS[name].examples(Make(backend, name))


def tensors_in(value) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors_in(v)]
    return []


def replace(value, mapping):
    if isinstance(value, Tensor):
        return mapping.get(id(value), value)
    if isinstance(value, (list, tuple)) and tensors_in(value):
        return type(value)(replace(v, mapping) for v in value)
    return value


def as_function(entry, sample: Sample):
    """(a function of the differentiable leaves, the leaves)."""
    leaves = [t for t in tensors_in([*sample.args, *sample.kwargs.values()]) if t.requires_grad]

    def call(*args):
        mapping = {id(a): b for a, b in zip(leaves, args)}
        if entry.through is not None:
            mapping[id(sample.args[0])] = entry.through(mapping.get(id(sample.args[0]), sample.args[0]))
        out = entry.function(
            *(replace(a, mapping) for a in sample.args), **{k: replace(v, mapping) for k, v in sample.kwargs.items()}
        )
        return out

    return call, leaves


def strided(t: Tensor) -> Tensor:
    """The same values in a memory layout with gaps and a reversed first dimension."""
    if not t.ndim:
        return t
    host = t.detach().numpy()
    wide = np.zeros(tuple(2 * n for n in host.shape), host.dtype)
    view = wide[tuple(slice(None, None, -2) if i == 0 else slice(None, None, 2) for i in range(host.ndim))]
    view[...] = host
    if t.backend != "cpu":
        xp = t.backend
        device = xp.from_host(np.ascontiguousarray(wide))
        view = device[tuple(slice(None, None, -2) if i == 0 else slice(None, None, 2) for i in range(host.ndim))]
    out = Tensor(view, t.backend)
    return out.requires_grad_() if t.requires_grad else out


def outputs_of(result) -> list[Tensor]:
    return tensors_in(result)
