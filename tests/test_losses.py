"""Losses: values by hand, stability, what is refused, and the same numbers on every backend."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from nn_examples import cases, make_input

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, BackendError, DeepcoreWarning, DTypeError, IndexRangeError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn.registry import LOSSES


@pytest.mark.parametrize("cls, example", cases(LOSSES))
def test_every_loss_is_the_same_on_every_backend(cls, example, backend):
    rng = np.random.default_rng(0)
    input, target = (make_input(kind, rng) for kind in example.inputs)
    results = []
    for place in ("cpu", backend):
        loss = cls(**example.arguments).to(place, dc.float64)
        x = dc.tensor(input, backend=place, requires_grad=True)
        out = loss(x, dc.tensor(target, backend=place))
        out.sum().backward()
        assert out.backend == place
        results.append((out.detach().numpy(), x.grad.numpy()))
    for mine, reference in zip(*reversed(results)):
        np.testing.assert_allclose(mine, reference, 1e-9, 1e-12)


@pytest.mark.parametrize("cls, example", cases(LOSSES))
def test_gradients_of_every_loss(cls, example):
    rng = np.random.default_rng(1)
    input, target = (make_input(kind, rng) for kind in example.inputs)
    loss = cls(**example.arguments).double()
    assert dc.autograd.gradcheck(lambda x: loss(x, dc.tensor(target)), (dc.tensor(input, requires_grad=True),))
    assert dc.autograd.gradgradcheck(lambda x: loss(x, dc.tensor(target)), (dc.tensor(input, requires_grad=True),))


def test_values_by_hand():
    x, y = dc.tensor([1.0, -2.0, 3.0]), dc.tensor([0.0, 0.0, 1.0])
    assert F.mse_loss(x, y).item() == 3 and F.l1_loss(x, y, reduction="sum").item() == 5
    assert F.smooth_l1_loss(x, y, reduction="none").tolist() == [0.5, 1.5, 1.5]
    assert F.huber_loss(x, y, reduction="none", delta=1.5).tolist() == [0.5, 1.875, 1.875]
    assert F.cross_entropy(dc.zeros(2, 4), dc.tensor([1, 3])).item() == pytest.approx(math.log(4))
    assert F.nll_loss(dc.tensor([[0.25, 0.75]]), dc.tensor([1])).item() == -0.75
    assert F.binary_cross_entropy_with_logits(dc.zeros(3), y).item() == pytest.approx(math.log(2))
    assert F.binary_cross_entropy(dc.tensor([0.25]), dc.tensor([1.0])).item() == pytest.approx(math.log(4))


# -- stability ------------------------------------------------------------------------------------------------


def test_cross_entropy_of_large_and_infinite_logits(backend):
    x = dc.tensor([[1e4, -1e4, 0.0], [-math.inf, 0.0, 0.0]], backend=backend, requires_grad=True)
    loss = F.cross_entropy(x, dc.tensor([0, 1], backend=backend), reduction="none")
    assert loss.tolist() == pytest.approx([0, math.log(2)])
    loss.sum().backward()
    assert x.grad.tolist() == [pytest.approx([0, 0, 0]), pytest.approx([0, -0.5, 0.5])]
    wrong = F.cross_entropy(x, dc.tensor([1, 0], backend=backend), reduction="none").tolist()
    assert wrong == [20000, math.inf]


def test_bce_with_large_logits(backend):
    x = dc.tensor([1e4, -1e4, 1e4, -1e4], backend=backend, requires_grad=True)
    y = dc.tensor([1.0, 0.0, 0.0, 1.0], backend=backend)
    loss = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    assert loss.tolist() == [0, 0, 1e4, 1e4]
    loss.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, -1]


def test_bce_at_the_ends(backend):
    x = dc.tensor([0.0, 1.0, 0.0, 1.0], backend=backend, requires_grad=True)
    y = dc.tensor([0.0, 1.0, 1.0, 0.0], backend=backend)
    loss = F.binary_cross_entropy(x, y, reduction="none")
    assert loss.tolist() == [0, 0, 100, 100]
    loss.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_ignored_positions_count_nothing(backend):
    x = dc.tensor([[1.0, 2.0], [math.inf, 0.0]], backend=backend, requires_grad=True)
    target = dc.tensor([0, -100], backend=backend)
    loss = F.cross_entropy(x, target)
    assert loss.item() == pytest.approx(math.log(1 + math.e))
    smoothed = F.cross_entropy(x.detach(), target, label_smoothing=0.5).item()
    assert smoothed == pytest.approx(math.log(1 + math.e) - 0.25)
    all_ignored = F.cross_entropy(dc.ones(1, 2, backend=backend), dc.tensor([-100], backend=backend))
    assert math.isnan(all_ignored.item())


def test_a_loss_of_no_rows_is_not_a_number_and_computed_with(backend):
    """Kernels read the memory of an array: a NumPy number in its place has none."""
    logits = dc.zeros(0, 3, backend=backend, requires_grad=True)
    loss = F.cross_entropy(logits, dc.zeros(0, dtype=dc.int64, backend=backend))
    assert isinstance(loss._data, loss.backend.array_type)
    assert math.isnan((loss * 2).tanh().item())
    loss.backward()
    assert logits.grad.shape == (0, 3)


def test_target_dtypes(backend):
    x = dc.rand(4, 3, backend=backend)
    expected = F.cross_entropy(x, dc.tensor([0, 1, 2, 0], backend=backend)).item()
    for dtype in ("int32", "uint8", "int16"):
        assert F.cross_entropy(x, dc.tensor([0, 1, 2, 0], dtype=dtype, backend=backend)).item() == expected


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
                                  "binary_cross_entropy_with_logits"])  # fmt: skip
@pytest.mark.parametrize(
    "shape, target, fix",
    [
        ((4, 1), (4,), r"target\[:, None\]"),
        ((4,), (4, 1), r"target\.squeeze\(1\)"),
        ((1, 4), (4,), r"target\[None\]"),
        ((2, 6), (3, 4), r"target\.reshape\(2, 6\)"),
        ((4, 3), (4,), r"one_hot\(target\)"),
        ((4, 3), (1, 3), "the input's shape"),
        ((2, 3), (), "the input's shape"),
    ],
)
def test_a_loss_does_not_broadcast(name, shape, target, fix):
    with pytest.raises(ShapeError, match=f"(?s){name}.*expected: +target of shape.*fix: +.*{fix}"):
        getattr(F, name)(dc.ones(*shape), dc.ones(*target))


def test_the_module_names_itself_and_the_users_line():
    with pytest.raises(ShapeError, match=r"(?s)where: +MSELoss, test_losses\.py:\d+"):
        nn.MSELoss()(dc.ones(4, 1), dc.ones(4))


@pytest.mark.parametrize(
    "shape, target, error, message",
    [
        ((3, 4), [0, 4, 1], IndexRangeError, r"class 4 at target\[1\].*0 … 3, for 4 classes.*at least 5.*start at 1"),
        ((3, 4), [0, 3, 9], IndexRangeError, r"class 9 at target\[2\].*at least 10 outputs"),
        ((3, 4), [-1, 0, 1], IndexRangeError, r"class -1 at target\[0\].*labels start at 0"),
        ((1, 2, 2, 2), [[[0, 1], [2, 0]]], IndexRangeError, r"class 2 at target\[0, 1, 0\]"),
        ((2,), 5, IndexRangeError, "class 5 at target is out"),
        ((3, 4), [0.0, 1.0, 2.0], DTypeError, r"target\.to\(dc\.int64\)"),
        ((3, 4), [[0], [1], [2]], ShapeError, r"target\.squeeze\(1\)"),
        ((3, 4), [0, 1], ShapeError, r"shape \(3,\) for input \(3, 4\)"),
        ((2, 2), [[0, 1], [1, 0]], ShapeError, r"target\.argmax\(1\)"),
        ((), 0, ShapeError, "one score per class"),
    ],
)
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_class_targets_that_do_not_fit(name, shape, target, error, message, backend):
    with pytest.raises(error, match=f"(?s)^{name}.*{message}"):
        getattr(F, name)(dc.zeros(shape, backend=backend), dc.tensor(target, backend=backend))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: F.cross_entropy(x, dc.tensor([0, 1]), reduction="avg"), ArgumentError, "'avg'"),
        (lambda x: nn.MSELoss(reduction="avg"), ArgumentError, "'avg'"),
        (lambda x: F.cross_entropy(x, dc.tensor([0, 1]), label_smoothing=2), ArgumentError, "label_smoothing"),
        (lambda x: nn.CrossEntropyLoss(label_smoothing=-1), ArgumentError, "label_smoothing"),
        (lambda x: F.cross_entropy(x, dc.tensor([0, 1]), weight=dc.ones(2)), ShapeError, r"shape \(3,\)"),
        (lambda x: F.cross_entropy(x, x / 3, ignore_index=1), ArgumentError, "class probabilities"),
        (lambda x: F.binary_cross_entropy(x * 2, x), ArgumentError, "binary_cross_entropy_with_logits"),
        (lambda x: F.smooth_l1_loss(x, x, beta=-1), ArgumentError, "beta"),
        (lambda x: F.huber_loss(x, x, delta=0), ArgumentError, "delta"),
        (lambda x: F.cross_entropy(x, dc.tensor([0, 1], backend="standin")), BackendError, "two backends"),
    ],
)
def test_losses_refuse(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call(dc.ones(2, 3))


# -- probabilities instead of logits ----------------------------------------------------------------------------------


def test_cross_entropy_warns_once_when_it_is_fed_probabilities(backend):
    loss = nn.CrossEntropyLoss()
    probabilities = dc.softmax(dc.randn(5, 3, backend=backend), 1)
    target = dc.tensor([0, 1, 2, 0, 1], backend=backend)
    with pytest.warns(DeepcoreWarning, match="Remove the Softmax") as caught:
        loss(probabilities, target)
    assert caught[0].filename == __file__
    loss(probabilities, target)  # an error here, if it warned again
    with pytest.warns(DeepcoreWarning, match="given probabilities"):
        nn.CrossEntropyLoss()(probabilities, probabilities)


def test_cross_entropy_does_not_warn_of_logits():
    loss, target = nn.CrossEntropyLoss(), dc.tensor([0, 1])
    for logits in (dc.zeros(2, 3), dc.rand(2, 3), dc.tensor([[2.0, -1.0, 0.0]] * 2)):
        loss(logits, target)
    assert loss._check.calls_left == 0
    loss(dc.full((2, 4), 0.25), target)  # only the first calls are looked at
    nn.NLLLoss()(dc.full((2, 4), 0.25), target)


def test_functional_cross_entropy_warns_in_its_first_calls(monkeypatch):
    monkeypatch.setattr(F._first_calls, "calls_left", 2)
    F.cross_entropy(dc.zeros(2, 4), dc.tensor([0, 1]))
    with pytest.warns(DeepcoreWarning, match="probabilities"):
        F.cross_entropy(dc.full((2, 4), 0.25), dc.tensor([0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F.cross_entropy(dc.full((2, 4), 0.25), dc.tensor([0, 1]))


def test_loss_weights_are_buffers_that_move_and_are_not_trained():
    loss = nn.CrossEntropyLoss(weight=dc.tensor([1.0, 2.0]))
    assert list(loss.parameters()) == [] and list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype == dc.float64
