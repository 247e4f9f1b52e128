"""`vmap`, `jvp` and `vjp` of every declared function, by walking the registry."""

from __future__ import annotations

import numpy as np
import pytest
from backends import BACKENDS
from op_samples import as_function, outputs_of, replace, samples, tensors_in

import deepcore as dc
from deepcore.autograd import mode
from deepcore.errors import TransformError
from deepcore.ops.registry import FUNCTIONS

NAMES = sorted(FUNCTIONS)
DIFFERENTIABLE = [n for n in NAMES if FUNCTIONS[n].differentiable]
#: The examples of a batch are multiples of the sample, close enough to stay in the function's domain.
FACTORS = (1.0, 0.97, 0.99)


#: The first sample on the CPU by default; all of them, and other backends, with --slow.
places = pytest.mark.parametrize(
    "place", [pytest.param(b, marks=[] if b == "cpu" else pytest.mark.slow) for b in BACKENDS]
)


def chosen(name, place, request):
    every = samples(name, place)
    return every if request.config.getoption("--slow") else every[:1]


def batch_of(t, dim):
    """A batch along a new dimension `dim`."""
    if not dc.is_floating_point(t):
        return dc.stack([t] * len(FACTORS), dim)
    return dc.stack([t.detach() * f for f in FACTORS], dim)


def caller(entry, one):
    """(the function of all its tensors, the tensors)."""
    tensors = tensors_in([*one.args, *one.kwargs.values()])

    def call(*given):
        mapping = {id(a): b for a, b in zip(tensors, given)}
        args = [replace(a, mapping) for a in one.args]
        return tuple(outputs_of(entry.function(*args, **{k: replace(v, mapping) for k, v in one.kwargs.items()})))

    return call, tensors


def numbers(t):
    return t.detach().cpu().numpy()


def assert_close(a, b, what=""):
    assert a.shape == b.shape and a.dtype == b.dtype, what
    np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-7, atol=1e-9, err_msg=what)


def looped(call, batches, dims):
    """`call` for each example, and the results stacked."""
    rows = []
    for k in range(len(FACTORS)):
        rows.append(call(*[b if d is None else b.select(d, k) for b, d in zip(batches, dims)]))
    return [dc.stack(list(parts)) for parts in zip(*rows)]


def mappings(tensors):
    """Which inputs are mapped: all along dimension 0, all along the last, and each alone."""
    everything = list(range(len(tensors)))
    yield [0] * len(tensors)
    yield [-1] * len(tensors)
    if len(everything) > 1:
        for i in everything[:3]:
            yield [0 if k == i else None for k in everything]


class Reads:
    """A tracer that notes what no program can do, and runs effects."""

    def __init__(self):
        self.notes = []

    def note(self, what):
        self.notes.append(what)

    def __getattr__(self, kind):
        return lambda run, *operands: run(*operands)


def reads_values(call, tensors):
    """Whether the function reads values of tensors, so that no batch of them can take their place."""
    tracer = Reads()
    mode.tracer = tracer
    try:
        call(*tensors)
    finally:
        mode.tracer = None
    return bool(tracer.notes)


@places
@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_a_loop(name, place, request):
    for one in chosen(name, place, request):
        call, tensors = caller(FUNCTIONS[name], one)
        for dims in mappings(tensors):
            batches = [t.detach() if d is None else batch_of(t, d) for t, d in zip(tensors, dims)]
            try:
                got = dc.vmap(call, tuple(dims))(*batches)
            except TransformError:
                assert reads_values(call, tensors)
                continue
            expected = looped(call, batches, dims)
            assert len(got) == len(expected)
            for a, b in zip(got, expected):
                assert_close(a, b, f"in_dims {dims}")


def weighed(outputs):
    """A number that depends on all floating outputs."""
    total = 0.0
    for k, out in enumerate(outputs):
        if dc.is_floating_point(out):
            ramp = dc.arange(out.numel(), dtype="float64", backend=out.backend).reshape(out.shape)
            total = total + (out * dc.cos(ramp + k)).sum()
    return total


def of_leaves(name, one):
    """(the function of the sample's leaves, the leaves)."""
    call, leaves = as_function(FUNCTIONS[name], one)
    return call, [t.detach() for t in leaves]


def gradient_of(call, count):
    return dc.grad(lambda *args: weighed(outputs_of(call(*args))), tuple(range(count)))


@places
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_examples(name, place, request):
    for one in chosen(name, place, request):
        call, leaves = of_leaves(name, one)
        if not leaves:
            continue
        gradient = gradient_of(call, len(leaves))
        batches = [batch_of(t, 0) for t in leaves]
        dims = (0,) * len(leaves)
        for a, b in zip(dc.vmap(gradient)(*batches), looped(gradient, batches, dims)):
            assert_close(a, b)
        # The gradient of each example with respect to what all share.
        if len(leaves) > 1:
            shared = [leaves[0], *batches[1:]]
            dims = (None, *dims[1:])
            for a, b in zip(dc.vmap(gradient, dims)(*shared), looped(gradient, shared, dims)):
                assert_close(a, b, "the first is shared")


def floats_of(call):
    return lambda *args: tuple(t for t in outputs_of(call(*args)) if dc.is_floating_point(t))


def vector_like(t, rng):
    return dc.tensor(rng.standard_normal(t.shape), dtype=t.dtype, backend=t.backend)


@places
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_jvp_against_vjp(name, place, request):
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩"""
    rng = np.random.default_rng(0)
    for one in chosen(name, place, request):
        call, leaves = of_leaves(name, one)
        if not leaves:
            continue
        directions = tuple(vector_like(t, rng) for t in leaves)
        value, tangent = dc.jvp(floats_of(call), tuple(leaves), directions)
        again, pullback = dc.vjp(floats_of(call), *leaves)
        seeds = tuple(vector_like(t, rng) for t in again)
        for a, b in zip(value, again):
            np.testing.assert_array_equal(numbers(a), numbers(b))
        left = sum(float((u * t).sum()) for u, t in zip(seeds, tangent))
        right = sum(float((g * v).sum()) for g, v in zip(pullback(seeds), directions))
        scale = sum(float((u * t).abs().sum()) for u, t in zip(seeds, tangent))
        assert abs(left - right) <= 1e-7 * (scale + 1), f"{left} {right}"
