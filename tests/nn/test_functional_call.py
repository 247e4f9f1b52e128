"""Modules under transforms: ensembles, gradients of each sample, tangents, and `functional_call`."""

from __future__ import annotations

import numpy as np
import pytest
from nn_examples import cases, flat, make_input

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, TransformError
from deepcore.func import functional_call, stack_module_state
from deepcore.nn.registry import LAYERS, LOSSES


def examples_of(registry):
    """The examples of every class; all but its first are slow."""
    return [
        pytest.param(*case.values, id=case.id, marks=[] if case.id.endswith("-0") else pytest.mark.slow)
        for case in cases(registry)
    ]


def stacked(array, rng):
    """Two inputs like this one."""
    if array.dtype.kind in "iu":
        return np.stack([array, array])
    return np.stack([array, array * 0.75])


def assert_close(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 1e-7, 1e-9)


def scalar(result):
    return sum((out * out).sum() for out in flat(result) if out.is_floating_point())


def tree_stack(trees):
    return {name: dc.stack([tree[name] for tree in trees]) for name in trees[0]}


@pytest.mark.parametrize("cls, example", examples_of(LAYERS))
def test_every_layer_under_transforms(cls, example):
    rng = np.random.default_rng(0)
    dc.manual_seed(0)
    layers = [cls(**example.arguments).double().eval() for _ in range(2)]
    inputs = [dc.tensor(stacked(make_input(kind, rng), rng)) for kind in example.inputs]
    params, buffers = stack_module_state(layers)
    params = {name: p.detach() for name, p in params.items()}
    run = lambda p, b, *x: tuple(flat(functional_call(layers[0], (p, b), x)))
    at = lambda tree, k: {name: t[k] for name, t in tree.items()}

    # An ensemble on inputs of each, and one layer on all inputs.
    for a, *rows in zip(
        dc.vmap(run)(params, buffers, *inputs),
        *(run(at(params, k), at(buffers, k), *(x[k] for x in inputs)) for k in range(2)),
    ):
        assert_close(a, dc.stack(rows))
    first = at(params, 0), at(buffers, 0)
    dims = (None, None, *(0,) * len(inputs))
    if "max_norm" in example.arguments:  # which shortens rows of the weight in place, by the indices of each example
        with pytest.raises(TransformError, match="from outside"):
            dc.vmap(run, dims)(*first, *inputs)
        return
    shared = dc.vmap(run, dims)(*first, *inputs)
    for a, *rows in zip(shared, *(run(*first, *(x[k] for x in inputs)) for k in range(2))):
        assert_close(a, dc.stack(rows))

    floats = [i for i, x in enumerate(inputs) if x.is_floating_point()]
    if params:
        gradient = dc.grad(lambda p, b, *x: scalar(run(p, b, *x)))
        got = dc.vmap(gradient, dims)(*first, *inputs)
        expected = tree_stack([gradient(*first, *(x[k] for x in inputs)) for k in range(2)])
        for name in got:
            assert_close(got[name], expected[name])

    # ⟨u, J v⟩ = ⟨Jᵀ u, v⟩ with respect to parameters and inputs.
    def function(p, xs):
        full = [xs[floats.index(i)] if i in floats else x[0] for i, x in enumerate(inputs)]
        return [out for out in run(p, first[1], *full) if out.is_floating_point()]

    primals = first[0], [inputs[i][0] for i in floats]
    like = lambda t: dc.tensor(rng.standard_normal(t.shape))
    moved = {name: like(t) for name, t in primals[0].items()}, [like(t) for t in primals[1]]
    value, tangent = dc.jvp(function, primals, moved)
    again, pullback = dc.vjp(function, *primals)
    seeds = [like(t) for t in again]
    grads = pullback(seeds)
    left = sum(float((u * t).sum()) for u, t in zip(seeds, tangent))
    right = sum(float((grads[0][name] * moved[0][name]).sum()) for name in moved[0])
    right += sum(float((g * v).sum()) for g, v in zip(grads[1], moved[1]))
    assert left == pytest.approx(right, rel=1e-7, abs=1e-8)
    for a, b in zip(value, again):
        assert_close(a, b)


@pytest.mark.parametrize("cls, example", examples_of(LOSSES))
def test_every_loss_under_transforms(cls, example):
    rng = np.random.default_rng(0)
    loss = cls(**example.arguments).double()
    arrays = [make_input(kind, rng) for kind in example.inputs]
    inputs = [dc.tensor(stacked(a, rng)) if i == 0 else dc.tensor(np.stack([a, a])) for i, a in enumerate(arrays)]
    for function in (loss, dc.grad(lambda *x: loss(*x).sum())):
        got = dc.vmap(function)(*inputs)
        assert_close(got, dc.stack([function(*(x[k] for x in inputs)) for k in range(2)]))
    shared = (0, *(None,) * (len(inputs) - 1))
    got = dc.vmap(dc.grad(lambda *x: loss(*x).sum()), shared)(inputs[0], *(x[0] for x in inputs[1:]))
    expected = [dc.grad(lambda *x: loss(*x).sum())(inputs[0][k], *(x[0] for x in inputs[1:])) for k in range(2)]
    assert_close(got, dc.stack(expected))
    if cls is nn.CTCLoss:
        return
    of_first = lambda x: loss(x, *(t[0] for t in inputs[1:])).sum()
    v = dc.tensor(rng.standard_normal(arrays[0].shape))
    _, tangent = dc.jvp(of_first, (inputs[0][0],), (v,))
    assert float(tangent) == pytest.approx(float((dc.grad(of_first)(inputs[0][0]) * v).sum()), rel=1e-7, abs=1e-9)
    # Forward over reverse, and reverse over reverse.
    product = dc.jvp(dc.grad(of_first), (inputs[0][0],), (v,))[1]
    assert_close(product, dc.grad(lambda x: (dc.grad(of_first)(x) * v).sum())(inputs[0][0]))


# -- functional_call ----------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("calls", dc.zeros(()))

    def forward(self, x, scale=1.0):
        self.calls.add_(1)
        return self.second(self.first(x)) * scale


def test_functional_call_leaves_the_module_as_it_was():
    model = Tied()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, weight, calls = dc.randn(2, 3), dc.randn(3, 3), dc.zeros(())
    out = functional_call(model, ({"first.weight": weight}, {"calls": calls}), x, {"scale": 2.0})
    expected = (x @ weight.T + model.first.bias) @ weight.T + model.second.bias
    np.testing.assert_allclose(out.detach().numpy(), 2 * expected.detach().numpy(), 1e-5, 1e-6)
    assert calls.item() == 1 and model.calls.item() == 0
    for name, t in model.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), before[name].numpy())
    assert model.second.weight is model.first.weight
    untied = functional_call(model, {"first.weight": weight}, (x,), tie_weights=False)
    assert not np.allclose(untied.detach().numpy(), expected.detach().numpy())
    with pytest.raises(ArgumentError, match="another name"):
        functional_call(model, {"first.weight": weight, "second.weight": weight * 2}, (x,))
    with pytest.raises(ArgumentError, match=r"first\.wieght"):
        functional_call(model, {"first.wieght": weight}, (x,), strict=True)
    try:
        functional_call(model, {"first.weight": dc.ones(2, 2)}, (x,))
    except dc.errors.ShapeError:
        np.testing.assert_array_equal(model.first.weight.detach().numpy(), before["first.weight"].numpy())


def test_batch_norm_of_examples():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    x = dc.randn(3, 4, 1, 5, 5)
    with pytest.raises(TransformError, match="from outside"):
        dc.vmap(model)(x)
    dc.func.replace_all_batch_norm_modules_(model)
    np.testing.assert_allclose(
        dc.vmap(model)(x).detach().numpy(), np.stack([model(t).detach().numpy() for t in x]), 1e-4, 1e-5
    )
