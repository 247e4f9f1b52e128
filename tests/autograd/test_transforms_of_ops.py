"""`vmap`, `jvp` and `vjp` of every declared function, by walking the registry."""

from __future__ import annotations

import numpy as np
import pytest
from backends import BACKENDS
from op_samples import Complex, as_function, outputs_of, replace, samples, tensors_in

import deepcore as dc
from deepcore.autograd import mode
from deepcore.errors import DeepcoreError, TransformError
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


def is_differentiable(t):
    return t.is_floating_point() or t.is_complex()


def batch_of(t, dim):
    """A batch along a new dimension `dim`."""
    if not is_differentiable(t):
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
    for k in range(len(FACTORS)):  # examples in row-major order, as they count inside `vmap`
        rows.append(call(*[b if d is None else b.select(d, k).contiguous() for b, d in zip(batches, dims)]))
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


def check_batches(name, one):
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


@places
@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_a_loop(name, place, request):
    for one in chosen(name, place, request):
        check_batches(name, one)


def weighed(outputs):
    """A number that depends on all floating outputs, and on both parts of complex ones."""
    total = 0.0
    for k, out in enumerate(outputs):
        for part in (out.real, out.imag) if out.is_complex() else (out,) if out.is_floating_point() else ():
            ramp = dc.arange(out.numel(), dtype="float64", backend=out.backend).reshape(out.shape)
            total = total + (part * dc.cos(ramp + k)).sum()
            k += 0.5
    return total


def of_leaves(name, one):
    """(the function of the sample's leaves, the leaves)."""
    call, leaves = as_function(FUNCTIONS[name], one)
    return call, [t.detach() for t in leaves]


def gradient_of(call, count):
    return dc.grad(lambda *args: weighed(outputs_of(call(*args))), tuple(range(count)))


def check_gradients_of_examples(name, one):
    call, leaves = of_leaves(name, one)
    if not leaves:
        return
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


@places
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_examples(name, place, request):
    for one in chosen(name, place, request):
        check_gradients_of_examples(name, one)


def differentiable_outputs(call):
    return lambda *args: tuple(filter(is_differentiable, outputs_of(call(*args))))


def vector_like(t, rng):
    values = rng.standard_normal(t.shape)
    if t.is_complex():
        values = values + 1j * rng.standard_normal(t.shape)
    return dc.tensor(values, dtype=t.dtype, backend=t.backend)


def inner(a, b):
    """Re⟨a, b⟩ of sequences of tensors: the inner product of their real and imaginary parts."""
    return sum(np.vdot(numbers(x), numbers(y)).real for x, y in zip(a, b))


def check_tangents(name, one, rng):
    call, leaves = of_leaves(name, one)
    if not leaves:
        return
    directions = tuple(vector_like(t, rng) for t in leaves)
    value, tangent = dc.jvp(differentiable_outputs(call), tuple(leaves), directions)
    again, pullback = dc.vjp(differentiable_outputs(call), *leaves)
    seeds = tuple(vector_like(t, rng) for t in again)
    for a, b, t in zip(value, again, tangent):
        np.testing.assert_array_equal(numbers(a), numbers(b))
        assert t.dtype == a.dtype and t.shape == a.shape
    left, right = inner(seeds, tangent), inner(pullback(seeds), directions)
    scale = inner([u.abs() for u in seeds], [t.abs() for t in tangent])
    assert abs(left - right) <= 1e-7 * (scale + 1), f"{left} {right}"


@places
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_jvp_against_vjp(name, place, request):
    """Re⟨u, J v⟩ = Re⟨Jᴴ u, v⟩"""
    rng = np.random.default_rng(0)
    for one in chosen(name, place, request):
        check_tangents(name, one, rng)


@places
@pytest.mark.filterwarnings("ignore:converting complex numbers to real ones:UserWarning")
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_transforms_of_complex_tensors(name, place, request):
    """The same three of the samples with complex numbers, where the function is defined for them."""
    if any(t.is_complex() for one in samples(name, place) for t in tensors_in(list(one.args))):
        pytest.skip("its samples are complex already")
    try:
        every = FUNCTIONS[name].examples(Complex(place, name))
        every = every if request.config.getoption("--slow") else every[:1]
        for one in every:
            call, leaves = of_leaves(name, one)
            call(*leaves)
    except DeepcoreError:
        pytest.skip("for real numbers alone")
    rng = np.random.default_rng(0)
    for one in every:
        check_batches(name, one)
        check_gradients_of_examples(name, one)
        check_tangents(name, one, rng)
