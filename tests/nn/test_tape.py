"""`GradientTape` and `Variable`."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DTypeError, GradientError


def test_the_linear_model_of_the_custom_training_tutorial(backend):
    """w·x + b by gradient descent on the mean squared error, against the same steps in NumPy."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = dc.Variable(5.0, device=backend), dc.Variable(0.0, device=backend)

        def forward(self, x):
            return self.w * x + self.b

    rng = np.random.default_rng(0)
    x = np.linspace(-2, 2, 201)
    y = 3 * x + 2 + rng.normal(size=201)
    xs, ys = (dc.tensor(a, dtype=dc.float32, device=backend) for a in (x, y))
    model, w, b = Linear(), 5.0, 0.0
    assert [name for name, _ in model.named_parameters()] == ["w", "b"]
    for _ in range(10):
        with dc.GradientTape() as tape:
            loss = (ys - model(xs)).square().mean()
        dw, db = tape.gradient(loss, [model.w, model.b])
        model.w.assign_sub(0.1 * dw)
        model.b.assign_sub(0.1 * db)
        error = w * x + b - y
        assert loss.item() == pytest.approx((error**2).mean(), rel=1e-5)
        w, b = w - 0.1 * 2 * (error * x).mean(), b - 0.1 * 2 * error.mean()
    assert f"{float(model.w):.4f} {float(model.b):.4f}" == f"{w:.4f} {b:.4f}"
    assert model.w.grad is None


def test_watch_lasts_as_long_as_the_block():
    x = dc.tensor(3.0)
    with dc.GradientTape() as tape:
        tape.watch(x)
        assert x.requires_grad
        y = x * x
    assert not x.requires_grad and not (x * x).requires_grad
    assert tape.gradient(y, x).item() == 6.0 and not x.requires_grad
    with pytest.raises(GradientError, match="persistent=True"):
        tape.gradient(y, x)
    with pytest.raises(DTypeError), dc.GradientTape() as tape:
        tape.watch(dc.tensor(1))


def test_two_tapes_watch_one_tensor():
    x = dc.tensor(2.0)
    with dc.GradientTape() as outer:
        outer.watch(x)
        with dc.GradientTape() as inner:
            inner.watch(x)
            y = x**2
        z = x * 5.0  # the outer tape still watches
    assert outer.gradient(z, x).item() == 5.0 and inner.gradient(y, x).item() == 4.0 and not x.requires_grad


def test_persistent_tapes():
    x = dc.tensor([1.0, 2.0])
    with dc.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        z = y * y
    assert tape.gradient(z, x).tolist() == [4.0, 32.0] and tape.gradient(y, x).tolist() == [2.0, 4.0]
    assert tape.gradient(z, y).tolist() == [2.0, 8.0] and tape.gradient([y, z], x).tolist() == [6.0, 36.0]
    assert tape.gradient(z, x, output_gradients=dc.tensor([1.0, 0.5])).tolist() == [4.0, 16.0]


def test_nested_tapes_give_second_derivatives(backend):
    x = dc.Variable(1.5, device=backend)
    with dc.GradientTape() as second:
        with dc.GradientTape() as first:
            y = x**3
        slope = first.gradient(y, x)
    assert slope.item() == pytest.approx(6.75) and second.gradient(slope, x).item() == pytest.approx(9.0)
    with dc.GradientTape(persistent=True) as tape:  # inside its own block
        slope = tape.gradient(x**3, x)
    assert tape.gradient(slope, x).item() == pytest.approx(9.0)
    with dc.GradientTape() as tape:
        y = x**3
    assert not tape.gradient(y, x).requires_grad


def test_what_a_tape_did_not_record():
    w, other, constant = dc.Variable(2.0), dc.Variable(1.0), dc.tensor(4.0)
    with dc.GradientTape(persistent=True) as tape:
        y = w * constant
        with tape.stop_recording():
            hidden = w * 3.0
        total = y + hidden
    outside = total * 2.0
    assert tape.gradient(total, w).item() == 4.0 and tape.gradient(outside, w) is None
    assert tape.gradient(y, [other, {"c": constant}]) == [None, {"c": None}]
    assert tape.gradient(y, other, unconnected_gradients="zero").item() == 0.0
    assert tape.gradient(constant, w) is None and tape.gradient(w, w).item() == 1.0
    with dc.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
        tape.watch(w)
        y = w * other
    assert [g and g.item() for g in tape.gradient(y, [w, other])] == [1.0, None]
    tape.reset()
    assert tape.gradient(y, w) is None and w.requires_grad, "watching a variable does not change it"


def test_variables(backend):
    v = dc.Variable([1.0, 2.0], name="v", device=backend)
    same = v
    v.assign([3.0, 4.0]).assign_add([1.0, 1.0])
    v.assign_sub(dc.ones(2, device=backend))
    assert v is same and v.tolist() == [3.0, 4.0] and v.requires_grad and v.trainable and v.name == "v"
    array, value = v.numpy(), v.value()
    v.assign([0.0, 0.0])
    assert array.tolist() == value.tolist() == [3.0, 4.0] and "'v'" in repr(v)
    with pytest.raises(ArgumentError, match="keeps its shape"):
        v.assign([1.0])
    assert not dc.Variable(3).trainable and dc.Variable(3).assign_add(1).item() == 4
    assert not dc.Variable(1.0, trainable=False).requires_grad and dc.Variable(1, dtype=dc.float64).dtype == dc.float64
    start = dc.ones(1)
    dc.Variable(start).assign([5.0])
    assert start.item() == 1.0


def test_assignments_in_compiled_steps():
    def run(compiled):
        w = dc.Variable(1.0)

        def step(x):
            with dc.GradientTape() as tape:
                loss = (w * x - 3.0).square().mean()
            w.assign_sub(0.1 * tape.gradient(loss, w))
            return loss

        run = dc.compile(step) if compiled else step
        return [run(dc.tensor([1.0, 2.0])).item() for _ in range(6)], w.item()

    assert run(True) == run(False)
