"""Losses: values by hand, stability, what is refused, and the same numbers on every backend."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from nn_examples import cases, make_input

import deepcore as dc
from deepcore import nn
from deepcore.config import settings
from deepcore.errors import ArgumentError, BackendError, DeepcoreWarning, DTypeError, IndexRangeError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn.functional.loss import first_calls
from deepcore.nn.registry import LOSSES


@pytest.mark.parametrize("cls, example", cases(LOSSES))
def test_every_loss_is_the_same_on_every_backend(cls, example, backend):
    rng = np.random.default_rng(0)
    input, *others = (make_input(kind, rng) for kind in example.inputs)
    results = []
    for place in ("cpu", backend):
        loss = cls(**example.arguments).to(place, dc.float64)
        x = dc.tensor(input, backend=place, requires_grad=True)
        out = loss(x, *(dc.tensor(other, backend=place) for other in others))
        out.sum().backward()
        assert out.backend == place
        results.append((out.detach().numpy(), x.grad.numpy()))
    for mine, reference in zip(*reversed(results)):
        np.testing.assert_allclose(mine, reference, 1e-9, 1e-12)


@pytest.mark.parametrize("cls, example", cases(LOSSES))
def test_gradients_of_every_loss(cls, example):
    rng = np.random.default_rng(1)
    input, *others = (dc.tensor(make_input(kind, rng)) for kind in example.inputs)
    loss = cls(**example.arguments).double()
    if cls is nn.CTCLoss:  # whose gradient is that of the input of a log_softmax, and the only one
        assert dc.autograd.gradcheck(lambda x: loss(F.log_softmax(x, -1), *others), (input.requires_grad_(),))
        return
    assert dc.autograd.gradcheck(lambda x: loss(x, *others), (input.requires_grad_(),))
    assert dc.autograd.gradgradcheck(lambda x: loss(x, *others), (input,))


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


@pytest.mark.parametrize(
    "scores, classes, fix",
    [
        (dc.tensor([0, 1]), dc.zeros(2, 2), r"scores first: cross_entropy\(scores, classes\)"),
        (dc.zeros(2, 2), dc.tensor([0.0, math.nan]), "some are NaN or infinite: leave"),
        (dc.zeros(2, 2), dc.tensor([0.0, 1.0]), r"fix: +target\.to\(dc\.int64\)"),
    ],
)
def test_class_numbers_that_are_no_integers(scores, classes, fix):
    with pytest.raises(DTypeError, match=fix):
        F.cross_entropy(scores, classes)


def test_linear_names_what_one_feature_per_sample_needs():
    with pytest.raises(ShapeError, match=r"x\[:, None\]"):
        nn.Linear(1, 2)(dc.zeros(32))


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
    monkeypatch.setattr(first_calls, "calls_left", 2)
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


# -- infinity -------------------------------------------------------------------------------------------------------

INF, NAN = math.inf, math.nan


@pytest.fixture(params=["kernels", "reference", "compiled"])
def way(request, backend, monkeypatch):
    """Runs a function of tensors by the kernels, by the array library alone, or as a compiled program."""
    if request.param == "compiled" and backend != "cpu":
        pytest.skip("captured graphs replay what eager execution launches")
    if request.param == "reference":
        monkeypatch.setattr(settings, "kernels", False)

    def run(function, *tensors):
        function = dc.compile(function) if request.param == "compiled" else function
        for _ in range(3 if request.param == "compiled" else 1):
            results = function(*tensors)
        return results

    return run


def loss_and_gradient(way, loss, x):
    """Both as lists, of a loss of one tensor."""

    def both(x):
        out = loss(x)
        return out, dc.autograd.grad(out, (x,), dc.ones_like(out))[0]

    return [t.float().tolist() for t in way(both, x.requires_grad_())]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("pos_weight", [None, 1.0, 3.0])
def test_bce_of_infinite_logits(pos_weight, dtype, backend, way):
    x = dc.tensor([INF, -INF, INF, -INF, INF, -INF, NAN], dtype=dtype, backend=backend)
    y = dc.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.0], dtype=dtype, backend=backend)
    p = None if pos_weight is None else dc.tensor([pos_weight], dtype=dtype, backend=backend)
    loss, slope = loss_and_gradient(
        way, lambda x: F.binary_cross_entropy_with_logits(x, y, reduction="none", pos_weight=p), x
    )
    assert loss[:6] == [0, 0, INF, INF, INF, INF] and math.isnan(loss[6])
    p = pos_weight or 1.0
    assert slope[:6] == [0, 0, 1, -p, 0.5, -0.5 * p]


def test_bce_with_logits_differentiates_its_target_and_weight():
    rng = np.random.default_rng(0)
    x, y = (dc.tensor(rng.uniform(low, 1, (4, 3)), requires_grad=True) for low in (-1, 0))
    p = dc.tensor([0.3, 1.0, 4.0], dtype=dc.float64, requires_grad=True)
    plain = lambda x, y: F.binary_cross_entropy_with_logits(x, y)
    weighted = lambda x, y, p: F.binary_cross_entropy_with_logits(x, y, pos_weight=p)
    for function, inputs in ((plain, (x, y)), (weighted, (x, y, p))):
        assert dc.autograd.gradcheck(function, inputs) and dc.autograd.gradgradcheck(function, inputs)
    # A weight of 0 counts nothing, whatever the logit.
    x, y, p = (dc.tensor(v, requires_grad=True) for v in ([-INF, INF], [1.0, 1.0], [0.0, 0.0]))
    F.binary_cross_entropy_with_logits(x, y, pos_weight=p, reduction="sum").backward()
    assert (x.grad.tolist(), p.grad.tolist()) == ([0, 0], [INF, 0])


@pytest.mark.parametrize("classes", [3, 70])
@pytest.mark.parametrize("options, expected, slope", [
    ({}, [math.log(2), 0, 0], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    ({"weight": [1.0, 3.0, 0.0]}, [2 * math.log(2), 0, 0], [[0.5, -0.5, 0], [0, 0, 0], [0, 0, 0]]),
])  # fmt: skip
def test_soft_targets_of_0_on_infinite_logits(options, expected, slope, classes, backend, way):
    """-∞·0 is 0: the class takes no part. A row of zeros counts nothing, whatever the logits."""
    rows = [[0.0, 0.0, -INF], [0.0, -INF, -INF], [NAN, INF, 0.0]]
    x = dc.tensor([[-INF] * (classes - 3) + row for row in rows], backend=backend)
    y = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    y = dc.tensor([[0.0] * (classes - 3) + row for row in y], backend=backend)
    if options:
        options = {"weight": dc.tensor([1.0] * (classes - 3) + options["weight"], backend=backend)}
    loss, got = loss_and_gradient(way, lambda x: F.cross_entropy(x, y, reduction="none", **options), x)
    assert loss == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose([row[classes - 3 :] for row in got], slope, atol=1e-6)
    assert all(v == 0 for row in got for v in row[: classes - 3])


@pytest.mark.parametrize("classes", [3, 70])
@pytest.mark.parametrize("loss", ["cross_entropy", "log_softmax and nll_loss"])
@pytest.mark.parametrize("weight, ignored", [(None, 2), ([1.0, 1.0, 0.0], -100)])
def test_rows_that_count_nothing_may_hold_anything(weight, ignored, loss, classes, backend, way):
    """Of class 2, which is ignored or weighs 0."""
    rows = [[0.0, 0.0, -INF], [NAN, 0.0, 0.0], [INF, INF, 0.0], [0.0, 0.0, -INF]]
    x = dc.tensor([row + [-INF] * (classes - 3) for row in rows], backend=backend)
    y = dc.tensor([0, 2, 2, 2], backend=backend)
    w = None if weight is None else dc.tensor(weight + [1.0] * (classes - 3), backend=backend)

    def value(x):
        if loss == "cross_entropy":
            return F.cross_entropy(x, y, w, ignored)
        return F.nll_loss(dc.log_softmax(x, 1), y, w, ignored)

    got, slope = loss_and_gradient(way, value, x)
    assert got == pytest.approx(math.log(2))
    assert [row[:3] for row in slope] == [pytest.approx([-0.5, 0.5, 0]), [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert all(v == 0 for row in slope for v in row[3:])


@pytest.mark.parametrize("classes", [3, 70])
def test_label_smoothing_beside_a_class_that_weighs_0(classes, backend, way):
    x = dc.tensor([[0.0, 0.0] + [-INF] * (classes - 2)], backend=backend)
    y, w = dc.tensor([0], backend=backend), dc.tensor([1.0, 1.0] + [0.0] * (classes - 2), backend=backend)
    smoothed = lambda x: F.cross_entropy(x, y, w, label_smoothing=0.3)
    loss, slope = loss_and_gradient(way, smoothed, x)
    assert loss == pytest.approx((0.7 + 0.6 / classes) * math.log(2))
    assert np.isfinite(slope).all()
    assert F.cross_entropy(x, y, label_smoothing=0.3).item() == INF


def test_a_weight_of_0_makes_any_term_0(backend, way):
    x, y = dc.tensor([0.0, 0.5], backend=backend), dc.tensor([1.0, 1.0], backend=backend)
    logits = dc.tensor([-INF, 0.0], backend=backend)
    w = dc.tensor([0.0, 1.0], backend=backend)
    loss, slope = loss_and_gradient(
        way, lambda x: F.binary_cross_entropy_with_logits(x, y, w, reduction="none"), logits
    )
    assert loss == pytest.approx([0, math.log(2)]) and slope == [0, -0.5]
    loss, slope = loss_and_gradient(way, lambda x: F.binary_cross_entropy(x, y, w, reduction="none"), x)
    assert loss == pytest.approx([0, math.log(2)]) and slope == [0, -2]


def test_the_slope_of_bce_at_the_ends_is_pytorchs(backend, way):
    x = dc.tensor([0.0, 0.0, 1.0, 1.0, 1e-20], backend=backend)
    y = dc.tensor([1.0, 0.0, 0.0, 1.0, 1.0], backend=backend)
    _, slope = loss_and_gradient(way, lambda x: F.binary_cross_entropy(x, y, reduction="none"), x)
    assert slope == pytest.approx([-1e12, 0, 1e12, 0, -1e12])


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_the_difference_of_equal_infinities_is_not_a_number(name, backend, way):
    x = dc.tensor([INF, INF, -INF], backend=backend)
    y = dc.tensor([INF, 0.0, 0.0], backend=backend)
    loss, slope = loss_and_gradient(way, lambda x: getattr(F, name)(x, y, reduction="none"), x)
    assert math.isnan(loss[0]) and math.isnan(slope[0])
    assert loss[1:] == [INF, INF] and slope[1:] == ([INF, -INF] if name == "mse_loss" else [1, -1])


@pytest.mark.parametrize("dim", [0, 1])
def test_logsumexp_of_infinities(dim, backend, way):
    rows = [[1e4, INF], [1e4, -INF], [1.0, 1.0]]
    x = dc.tensor(rows if dim else list(map(list, zip(*rows))), backend=backend)
    value, slope = loss_and_gradient(way, lambda x: dc.logsumexp(x, dim), x)
    slope = slope if dim else list(map(list, zip(*slope)))
    assert value == [INF, 1e4, pytest.approx(1 + math.log(2))]
    assert slope[0][0] == 0 and slope[1] == [1, 0] and slope[2] == [0.5, 0.5]


@pytest.mark.parametrize("ignored", [-100, 0])
def test_a_weighted_loss_of_one_target(ignored, backend):
    """Without a batch, the weight that NumPy picks is a number, and kernels read arrays."""
    x = dc.tensor([-1.0, -2.0], backend=backend, requires_grad=True)
    y, w = dc.tensor(1, backend=backend), dc.tensor([1.0, 3.0], backend=backend)
    loss = F.nll_loss(x, y, w, ignored, reduction="sum")
    loss.backward()
    assert loss.item() == 6 and x.grad.tolist() == [0, -3]


def test_the_mean_of_many_16_bit_losses(backend):
    """There are more rows than float16 counts, and their losses add up to more than it holds."""
    x = dc.full((70_000, 1), -2.0, dtype=dc.float16, backend=backend)
    y = dc.zeros(70_000, dtype=dc.int64, backend=backend)
    assert F.nll_loss(x, y).item() == 2
    assert F.nll_loss(x, y, dc.ones(1, dtype=dc.float16, backend=backend)).item() == 2
    y[0] = -100
    assert F.nll_loss(x, y).item() == 2


# -- of images ------------------------------------------------------------------------------------------------------


def test_focal_loss_is_its_formula(backend):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3)), rng.integers(0, 2, (5, 3)).astype(float)
    p = 1 / (1 + np.exp(-x))
    right = np.where(y == 1, p, 1 - p)
    expected = -np.where(y == 1, 0.3, 0.7) * (1 - right) ** 1.5 * np.log(right)
    ours = [dc.tensor(v, backend=backend) for v in (x, y)]
    np.testing.assert_allclose(F.sigmoid_focal_loss(*ours, alpha=0.3, gamma=1.5).tolist(), expected, rtol=1e-10)
    plain = F.binary_cross_entropy_with_logits(*ours).item()
    assert F.sigmoid_focal_loss(*ours, alpha=-1, gamma=0, reduction="mean").item() == pytest.approx(plain)
    assert dc.autograd.gradcheck(lambda x: F.sigmoid_focal_loss(x, ours[1]), [ours[0].requires_grad_()])


def test_dice_loss_is_its_formula(backend):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 2, 3, 3)), rng.random((4, 2, 3, 3))
    p = (1 / (1 + np.exp(-x))).reshape(4, -1)
    expected = 1 - (2 * (p * y.reshape(4, -1)).sum(1) + 0.5) / (p.sum(1) + y.sum((1, 2, 3)) + 0.5)
    ours = [dc.tensor(v, backend=backend) for v in (x, y)]
    np.testing.assert_allclose(F.dice_loss(*ours, smooth=0.5, reduction="none").tolist(), expected, rtol=1e-10)
    assert dc.nn.DiceLoss(0.5)(*ours).item() == pytest.approx(expected.mean())
    far = dc.where(ours[1] > 0.5, 100.0, -100.0)
    assert F.dice_loss(far, (ours[1] > 0.5).double()).item() == pytest.approx(0, abs=1e-6)
    assert dc.autograd.gradcheck(lambda x: F.dice_loss(x, ours[1]), [ours[0].requires_grad_()])


# -- of margins and distributions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kl_div", "poisson_nll_loss", "soft_margin_loss", "hinge_embedding_loss",
                                  "multilabel_soft_margin_loss"])  # fmt: skip
def test_these_do_not_broadcast_either(name):
    with pytest.raises(ShapeError, match=f"(?s)^{name}.*does not broadcast"):
        getattr(F, name)(dc.ones(4, 3), dc.ones(3))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: F.margin_ranking_loss(x, x[0], x), ShapeError, "input and input2"),
        (lambda x: F.triplet_margin_loss(x, x, x[0]), ShapeError, "input and negative"),
        (lambda x: F.triplet_margin_loss(x, x, x, margin=0), ArgumentError, "margin is positive"),
        (lambda x: nn.TripletMarginWithDistanceLoss(margin=-1), ArgumentError, "margin is positive"),
        (lambda x: F.cosine_embedding_loss(x, x, x), ShapeError, r"inputs \(N, D\) with target \(N,\)"),
        (lambda x: F.gaussian_nll_loss(x, x, -x), ArgumentError, r"var is a variance(?s:.*)softplus"),
        (lambda x: F.gaussian_nll_loss(x, x, x.t()), ShapeError, r"var has another shape"),
        (lambda x: nn.PoissonNLLLoss(eps=0), ArgumentError, "eps is positive"),
        (lambda x: nn.KLDivLoss(reduction="avg"), ArgumentError, "'avg'"),
        (lambda x: F.multi_margin_loss(x, dc.tensor([0, 1]), p=3), ArgumentError, "p is 1 or 2"),
        (lambda x: F.multi_margin_loss(x, dc.tensor([0, 3])), IndexRangeError, r"class 3 at target\[1\]"),
        (lambda x: F.multilabel_margin_loss(x, x), DTypeError, "class numbers are integers"),
        (lambda x: F.multilabel_margin_loss(x, dc.full((2, 3), 3)), IndexRangeError, "0 … 2, and -1 after"),
        (lambda x: F.bilinear(x, x, dc.ones(2, 3, 4)), ShapeError, r"weight \(K, H1, H2\)"),
    ],
)
def test_margin_losses_refuse(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call(dc.ones(2, 3))


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_kl_div_of_targets_of_0(reduction, backend):
    x = dc.tensor([[0.5, 0.25, 0.25]], backend=backend).log().requires_grad_()
    loss = F.kl_div(x, dc.tensor([[0.5, 0.5, 0.0]], backend=backend), reduction)
    loss.backward()
    share = 1 if reduction == "batchmean" else 3
    assert loss.item() == pytest.approx(0.5 * math.log(2) / share)
    assert x.grad.tolist() == [pytest.approx([-0.5 / share, -0.5 / share, 0])]
    assert nn.KLDivLoss(reduction).denominator(x) == (1 if reduction == "batchmean" else 3)


def test_soft_margins_of_far_scores(backend):
    x = dc.tensor([1000.0, -1000.0], backend=backend, requires_grad=True)
    loss = F.soft_margin_loss(x, dc.tensor([1.0, 1.0], backend=backend), reduction="none")
    loss.sum().backward()
    assert loss.tolist() == [0, 1000] and x.grad.tolist() == [0, -1]
