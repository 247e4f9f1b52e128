"""`scan`, `cond`, `while_loop`, `fori_loop`: JAX's results, and gradients as of the same ops without the loop."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import numpy as np
import pytest

import deepcore as dc
from deepcore import errors
from deepcore.autograd import gradcheck, gradgradcheck

Pair = namedtuple("Pair", "h c")


def randn(*shape, backend="cpu", dtype=dc.float64, requires_grad=True):
    return dc.randn(*shape, dtype=dtype, device=backend, requires_grad=requires_grad)


def close(a, b):
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-12)


def unrolled(f, init, xs, length, reverse=False):
    """The definition of a scan over one tensor."""
    carry, ys = init, [None] * length
    for t in range(length)[::-1] if reverse else range(length):
        carry, ys[t] = f(carry, xs[t])
    return carry, dc.stack(ys)


# -- scan ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_scan_is_the_loop(length, reverse, backend):
    weight, init, xs = randn(3, 3, backend=backend), randn(2, 3, backend=backend), randn(length, 2, 3, backend=backend)
    f = lambda h, x: ((h @ weight + x).tanh(), (h * x).sum(1))
    found = []
    for run in (lambda: dc.scan(f, init, xs, reverse=reverse), lambda: unrolled(f, init, xs, length, reverse)):
        carry, ys = run()
        gradients = dc.autograd.grad((carry.sum() * 2 + (ys * ys).sum()), [weight, init, xs])
        found.append([carry, ys, *gradients])
    for a, b in zip(*found):
        close(a, b)


def test_gradients_of_two_orders_with_closures():
    def run(weight, scale, init, xs):
        def f(carry, x):
            h = (carry["h"] @ weight).tanh() * scale + x
            return {"h": h, "n": carry["n"] + 1}, (h * h, carry["n"])

        carry, (ys, _) = dc.scan(f, {"h": init, "n": dc.tensor(0)}, xs)
        return carry["h"], ys

    arguments = (randn(3, 3), randn(3), randn(2, 3), randn(4, 2, 3))
    assert gradcheck(run, arguments) and gradgradcheck(run, arguments)


@pytest.mark.parametrize("one_of_the_other", [False, True])
def test_closures_that_are_computed_outside(one_of_the_other):
    base = randn(3)
    weight = base * 2
    other = weight + 1 if one_of_the_other else weight
    init, xs = dc.ones(3, dtype=dc.float64), dc.ones(4, dtype=dc.float64)
    f = lambda c, x: (c * weight + other * x, c)
    found = []
    for scan in (dc.scan, lambda f, c, x: unrolled(f, c, x, 4)):
        found += dc.autograd.grad(scan(f, init, xs)[0].sum(), [base], retain_graph=True)
    close(*found)


def test_a_carry_that_requires_a_gradient_from_the_second_step_on():
    weight = randn()
    init = (dc.ones((), dtype=dc.float64), dc.ones((), dtype=dc.float64), dc.ones((), dtype=dc.float64))
    f = lambda c, _: ((c[1] * 2, c[2] * 3, c[2] + weight), c[0])
    (a, b, c), ys = dc.scan(f, init, length=5)
    (gradient,) = dc.autograd.grad(a + b + c + ys.sum(), [weight])
    x, w = init, weight.detach().requires_grad_()
    g = lambda c: (c[1] * 2, c[2] * 3, c[2] + w)
    total = 0
    for _ in range(5):
        total, x = total + x[0], g(x)
    (expected,) = dc.autograd.grad(sum(x) + total, [w])
    close(gradient, expected)


def test_steps_without_a_gradient_before_others():
    """What Python decides: the first step reads neither its inputs nor a closure."""
    weight, init, xs, count = randn(2), randn(2), randn(3, 2), []

    def f(c, x):
        count.append(1)
        return (dc.ones(2, dtype=dc.float64) if len(count) == 1 else c * weight + x), None

    carry, _ = dc.scan(f, init, xs)
    gradients = dc.autograd.grad(carry.sum(), [weight, init, xs])
    w = weight.detach()
    for found, expected in zip(
        gradients, (2 * w + xs.detach()[1], dc.zeros(2), dc.stack([dc.zeros(2), w, dc.ones(2)]))
    ):
        close(found, expected)


def test_trees():
    init = {"b": Pair(dc.zeros(2), [dc.ones(())]), "a": None}
    carry, ys = dc.scan(
        lambda c, x: ({"a": None, "b": Pair(c["b"].h + x["x"], [c["b"].c[0] * 2])}, (None, OrderedDict(y=x["n"]))),
        init, {"x": np.ones((3, 2), np.float32), "n": (dc.arange(3),)},
    )  # fmt: skip
    assert isinstance(carry["b"], Pair) and carry["b"].h.tolist() == [3.0, 3.0] and carry["b"].c[0].item() == 8.0
    assert carry["a"] is ys[0] is None and isinstance(ys[1], OrderedDict) and ys[1]["y"][0].tolist() == [0, 1, 2]


def test_lengths():
    count = lambda c, x: (c + 1, c * 2)
    carry, ys = dc.scan(count, 0, length=4)
    assert carry.item() == 4 and ys.tolist() == [0, 2, 4, 6] and ys.dtype == dc.int64
    carry, ys = dc.scan(count, 0, None, 3, True)
    assert ys.tolist() == [4, 2, 0]
    carry, ys = dc.scan(lambda c, x: (c, x.sum()), dc.ones(2), dc.ones(0, 3))
    assert carry.tolist() == [1, 1] and ys.shape == (0,)


def test_results_have_their_own_memory():
    init, xs = dc.ones(2), dc.ones(3, 2)
    carry, ys = dc.scan(lambda c, x: (c, c), init, xs)
    carry += 1
    assert init.tolist() == [1, 1] and ys.tolist() == [[1, 1]] * 3
    weight = dc.ones(2, requires_grad=True)
    carry, ys = dc.scan(lambda c, x: ((c * weight).exp(), x), init, xs)
    with dc.no_grad():
        carry += 1
    ys.sum()
    carry, _ = dc.scan(lambda c, x: (c * weight, None), init, xs)
    carry.sum().backward()
    assert weight.grad.tolist() == [3, 3]


def test_a_write_after_the_loop_is_noticed():
    xs, weight = dc.ones(3, 2), dc.ones(2, requires_grad=True)
    carry, _ = dc.scan(lambda c, x: (c + weight * x, None), dc.zeros(2), xs)
    xs += 1
    with pytest.raises(errors.GradientError, match="overwritten"):
        carry.sum().backward()


def test_the_graph_is_freed_and_retained_as_others():
    weight = randn(2)
    carry, _ = dc.scan(lambda c, _: (c * weight, None), weight, length=3)
    carry.sum().backward(retain_graph=True)
    carry.sum().backward()
    close(weight.grad, 2 * 4 * weight**3)
    with pytest.raises(errors.GradientError, match="already freed"):
        carry.sum().backward()


def test_hooks_of_a_closure_run_once():
    weight, seen = randn(2), []
    weight.register_hook(lambda g: seen.append(g) or g * 2)
    hidden = weight * 1
    hidden.register_hook(lambda g: seen.append(g))
    carry, _ = dc.scan(lambda c, _: (c + weight + hidden, None), dc.zeros(2, dtype=dc.float64), length=3)
    carry.sum().backward()
    assert len(seen) == 2 and weight.grad.tolist() == [12, 12]


def test_random_numbers_and_transforms():
    def loss(weight, xs):
        carry, _ = dc.scan(lambda c, x: (dc.nn.functional.dropout(c + weight * x, 0.5), None), dc.zeros(8), xs)
        return carry.sum()

    weight, xs = dc.ones(8), dc.rand(5, 8)
    dc.manual_seed(3)
    expected = dc.grad(loss)(weight, xs)
    dc.manual_seed(3)
    carry, weight = dc.zeros(8), weight.requires_grad_()
    for x in xs:
        carry = dc.nn.functional.dropout(carry + weight * x, 0.5)
    carry.sum().backward()
    np.testing.assert_allclose(weight.grad.numpy(), expected.numpy(), rtol=1e-6)


def test_scan_over_a_cell_is_the_layer():
    lstm, cell = dc.nn.LSTM(3, 4), dc.nn.LSTMCell(3, 4)
    for name, p in cell.named_parameters():
        p.data = getattr(lstm, f"{name}_l0").data.clone()
    x = dc.randn(6, 2, 3, requires_grad=True)
    zeros = dc.zeros(2, 4), dc.zeros(2, 4)
    (h, c), ys = dc.scan(lambda s, x: ((new := cell(x, s)), new[0]), zeros, x)
    out, (hn, cn) = lstm(x)
    for a, b in ((ys, out), (h, hn[0]), (c, cn[0])):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)
    gradients = dc.autograd.grad((ys * ys).sum() + c.sum(), [x, *cell.parameters()])
    expected = dc.autograd.grad((out * out).sum() + cn.sum(), [x, *lstm.parameters()])
    for a, b in zip(gradients, expected):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


def test_scan_in_scan():
    def run(weight, xs):
        def outer(c, row):
            inner, ys = dc.scan(lambda h, x: ((h * weight + x).sin(), h * c.sum()), c, row)
            return inner, ys.sum(0)

        carry, ys = dc.scan(outer, dc.ones(2, dtype=dc.float64), xs)
        return carry, ys

    assert gradcheck(run, (randn(2), randn(3, 4, 2))) and gradgradcheck(run, (randn(2), randn(2, 3, 2)))


@pytest.mark.parametrize(
    "f, init, xs, error, text",
    [
        (lambda c, x: ((c, c), None), 0.0, [1.0], errors.ArgumentError, "changes its structure"),
        (lambda c, x: (c + dc.ones(2), None), 0.0, [1.0], errors.ShapeError, "carry changes its shape"),
        (lambda c, x: ({"h": c["h"] + 0.5}, None), {"h": 0}, [1], errors.DTypeError, r"carry\['h'\] changes its dtype"),
        (lambda c, x: c, 0.0, [1.0], errors.ArgumentError, "returns a pair"),
        (lambda c, x: (c, "y"), 0.0, [1.0], errors.ArgumentTypeError, "y is not a tensor"),
        (lambda c, x: (c, dc.ones(int(c.item()))) and (c + 1, dc.ones(int(c.item()))), 1, [1, 2], errors.ShapeError, "different results"),
        (lambda c, x: (c.add_(1), None), 0.0, [1.0], errors.ArgumentError, "writes into carry"),
        (lambda c, x: (c, x.add_(1)), 0.0, [1.0], errors.ArgumentError, "writes into x"),
    ],
)  # fmt: skip
def test_errors_of_a_step(f, init, xs, error, text):
    with pytest.raises(error, match=text):
        dc.scan(f, init, dc.tensor(xs))


def test_errors_of_arguments():
    f = lambda c, x: (c, None)
    with pytest.raises(errors.ShapeError, match="along arrays of one length") as caught:
        dc.scan(f, 0, {"a": dc.ones(3), "b": dc.ones(4, 2)})
    assert "xs['b'] of shape (4, 2)" in str(caught.value)
    with pytest.raises(errors.ShapeError, match="along arrays of one length"):
        dc.scan(f, 0, dc.ones(3), length=4)
    with pytest.raises(errors.ShapeError, match="has no dimension"):
        dc.scan(f, 0, dc.ones(()))
    with pytest.raises(errors.ArgumentError, match="number of steps"):
        dc.scan(f, 0)
    with pytest.raises(errors.ArgumentError, match="whole number"):
        dc.scan(f, 0, length=-1)
    with pytest.raises(errors.ArgumentTypeError, match=r"init\['h'\] is not a tensor"):
        dc.scan(f, {"h": "text"}, dc.ones(3))


def test_a_tensor_of_another_step_is_noticed():
    kept, weight = [], randn(2)

    def f(c, _):
        kept.append(c * weight)
        return c + kept[0], None

    with pytest.raises(errors.GradientError, match="of another step"):
        dc.scan(f, randn(2), length=2)


# -- fori_loop, while_loop ----------------------------------------------------------------------------------------------
def test_fori_loop():
    def power(x):
        return dc.fori_loop(0, 3, lambda i, v: v * x + i, dc.ones_like(x))

    assert power(dc.tensor(2.0)).item() == ((1 * 2 + 0) * 2 + 1) * 2 + 2
    assert gradcheck(power, (randn(2),)) and gradgradcheck(power, (randn(2),))
    assert dc.fori_loop(3, 3, lambda i, v: v + 1, 5).item() == dc.fori_loop(4, 3, lambda i, v: v + 1, 5).item() == 5
    assert dc.fori_loop(-2, dc.tensor(3), lambda i, v: v + i, 0).item() == 0
    with pytest.raises(errors.ArgumentTypeError, match="upper is an integer"):
        dc.fori_loop(0, 2.5, lambda i, v: v, 0)


def test_while_loop():
    final = dc.while_loop(lambda s: s["x"] < 100, lambda s: {"x": s["x"] * 3, "n": s["n"] + 1}, {"x": 2.0, "n": 0})
    assert (final["x"].item(), final["n"].item()) == (162.0, 4)
    x = dc.tensor(2.0, requires_grad=True)
    dc.while_loop(lambda v: v < 10, lambda v: v * x, x).backward()
    assert x.grad.item() == 4 * 2.0**3
    with pytest.raises(errors.ShapeError, match="changes its shape"):
        dc.while_loop(lambda v: True, lambda v: v + dc.ones(2), 0.0)
    with pytest.raises(errors.ArgumentError, match="changes its structure"):
        dc.while_loop(lambda v: True, lambda v: (v, v), 0.0)
    with pytest.raises(errors.ShapeError, match="cond_fun is a tensor of one element"):
        dc.while_loop(lambda v: v > 0, lambda v: v, dc.ones(2))
    with pytest.raises(errors.ArgumentError, match="body_fun writes into val"):
        dc.while_loop(lambda v: v < 1, lambda v: v.add_(1), 0.0)


# -- cond ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pred", [True, False])
@pytest.mark.parametrize("kind", [bool, dc.tensor, lambda p: dc.tensor([float(p)]), int, np.bool_])
def test_cond(pred, kind):
    weight = randn(3)

    def run(weight, x, y):
        return dc.cond(
            kind(pred), lambda x, tree: (x * weight, tree["y"]), lambda x, tree: (x + weight, weight), x, {"y": y}
        )

    result = run(weight, randn(3), dc.ones(3, dtype=dc.float64))
    assert isinstance(result, tuple) and len(result) == 2
    assert gradcheck(run, (weight, randn(3), randn(3))) and gradgradcheck(run, (weight, randn(3), randn(3)))


def test_only_the_selected_branch_runs():
    seen = []
    dc.cond(dc.tensor(False), lambda: seen.append(1), lambda: seen.append(2))
    assert seen == [2]


def test_errors_of_cond():
    same = lambda x: x
    with pytest.raises(errors.ShapeError, match="pred is a tensor of one element"):
        dc.cond(dc.ones(2) > 0, same, same, dc.ones(2))
    with pytest.raises(errors.ArgumentTypeError, match="pred is a tensor of one element"):
        dc.cond((True,), same, same, dc.ones(2))
    with pytest.raises(errors.ArgumentTypeError, match="false_fun is a function"):
        dc.cond(True, same, 3, dc.ones(2))
    with pytest.raises(errors.ArgumentError, match="branch writes into operand"):
        dc.cond(dc.tensor(True), lambda x: x.add_(1), same, dc.ones(2))
