"""CTC: the loss against its definition and PyTorch's, what is refused, programs, and decoding against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import standin
from backends import has_run

import deepcore as dc
from deepcore import nn
from deepcore.config import settings
from deepcore.errors import ArgumentError, BackendError, DTypeError, GradientError, IndexRangeError, ShapeError
from deepcore.nn import functional as F

INF, NAN = math.inf, math.nan


@pytest.fixture(params=["kernels", "reference"])
def way(request, monkeypatch):
    monkeypatch.setattr(settings, "kernels", request.param == "kernels")


def log_probabilities(*shape, seed=0, dtype="d"):
    x = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return (x - np.log(np.exp(x).sum(-1, keepdims=True))).astype(dtype)


def collapsed(path, blank):
    return tuple(c for c, before in zip(path, (blank, *path)) if c not in (before, blank))


def enumerated(frames, blank=0):
    """The probability of every sequence of labels, summed over all paths of (T, C) log-probabilities."""
    total: dict = {}
    for path in itertools.product(range(frames.shape[1]), repeat=len(frames)):
        labels = collapsed(path, blank)
        total[labels] = total.get(labels, 0.0) + math.exp(sum(frames[t, c] for t, c in enumerate(path)))
    return total


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_is_that_of_all_alignments(blank, way, backend):
    frames = log_probabilities(5, 1, 4)
    expected = enumerated(frames[:, 0], blank)
    assert sum(expected.values()) == pytest.approx(1)
    x = dc.tensor(frames, backend=backend)
    other = [c for c in range(4) if c != blank]
    for length in range(5):
        for labels in itertools.product(other, repeat=length):
            target = dc.tensor([labels], dtype=dc.int64, backend=backend).reshape(1, length)
            loss = F.ctc_loss(x, target, [5], [length], blank, "sum")
            assert math.exp(-loss.item()) == pytest.approx(expected.get(labels, 0.0), abs=1e-12)
    assert F.ctc_loss(x, dc.tensor([[other[0]]], backend=backend), [2], [1], blank).item() == pytest.approx(
        -math.log(enumerated(frames[:2, 0], blank)[(other[0],)])
    )


def both(log_probs, targets, input_lengths, target_lengths, backend="cpu", slope=None, **options):
    """(loss, gradient of log_probs)."""
    x = dc.tensor(log_probs, backend=backend, requires_grad=True)
    loss = F.ctc_loss(x, dc.tensor(targets, backend=backend), input_lengths, target_lengths, **options)
    loss.backward(None if slope is None else dc.tensor(slope, backend=backend))
    return loss.detach().numpy(), x.grad.numpy()


#: T, N, C, S: short and long, more labels than frames, one class, several vectors of states.
SHAPES = [(12, 5, 6, 4), (30, 4, 20, 9), (3, 7, 3, 3), (90, 3, 21, 40), (1, 2, 2, 1), (4, 2, 1, 0)]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("concatenated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_pytorchs_numbers(shape, concatenated, zero_infinity, reduction, way, backend):
    torch = pytest.importorskip("torch")
    time, batch, classes, most = shape
    rng = np.random.default_rng(shape)
    for dtype, tolerance in (("d", 1e-9), ("f", 3e-4)):
        x, blank = log_probabilities(time, batch, classes, dtype=dtype), int(rng.integers(classes))
        labels = np.delete(np.arange(classes), blank)
        targets = labels[rng.integers(0, max(classes - 1, 1), (batch, most))]
        lengths = rng.integers(0, time + 1, batch), rng.integers(0, most + 1, batch)
        lengths[0][0], lengths[1][0] = time, most
        if concatenated:
            targets = np.concatenate([row[:n] for row, n in zip(targets, lengths[1])])
        slope = rng.standard_normal(batch).astype(dtype) if reduction == "none" else None
        options = {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}
        theirs = torch.tensor(x, requires_grad=True)
        expected = torch.nn.functional.ctc_loss(
            theirs, torch.tensor(targets), *map(torch.tensor, lengths), **options
        )  # fmt: skip
        expected.backward(None if slope is None else torch.tensor(slope))
        loss, gradient = both(x, targets, *map(list, lengths), backend, slope, **options)
        np.testing.assert_allclose(loss, expected.detach().numpy(), tolerance, tolerance)
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), tolerance, tolerance)


def test_infeasible_targets(way, backend):
    """Equal labels need a blank between them; the gradient behind a sequence's end is 0."""
    x = log_probabilities(3, 3, 3)
    targets, lengths = [[1, 1], [1, 1], [1, 2]], ([2, 3, 0], [2, 2, 0])
    loss, gradient = both(x, targets, *lengths, backend, reduction="sum")
    assert loss == INF
    assert np.isnan(gradient[:2, 0]).all() and not gradient[2, 0].any() and not gradient[:, 2].any()
    assert np.isfinite(gradient[:, 1]).all()
    loss, zeroed = both(x, targets, *lengths, backend, np.ones(3), reduction="none", zero_infinity=True)
    assert loss[0] == 0 and loss[1] > 0 and loss[2] == 0
    assert not zeroed[:, 0].any()
    np.testing.assert_array_equal(zeroed[:, 1], gradient[:, 1])


def test_probabilities_of_0_and_nan(way, backend):
    x = log_probabilities(4, 3, 3)
    x[:, 0, 2] = x[1, 1, 0] = -INF
    x[1, 1] -= np.log(np.exp(x[1, 1]).sum())
    x[1, 2, 1] = NAN
    loss, gradient = both(x, [[1, 2], [1, 2], [1, 2]], [4] * 3, [2] * 3, backend, np.ones(3), reduction="none")
    assert loss[0] == INF and np.isfinite(loss[1]) and np.isnan(loss[2])
    assert np.isnan(gradient[:, 0]).all() and np.isfinite(gradient[:, 1]).all() and np.isnan(gradient[:, 2]).all()
    assert gradient[1, 1, 0] == 0
    np.testing.assert_allclose(gradient[:, 1].sum(1), 0, atol=1e-12)


def test_a_long_sequence_neither_underflows_nor_loses_its_digits(way):
    x, targets = log_probabilities(2000, 1, 30, dtype="f"), np.arange(300)[None] % 29 + 1
    exact, slope = both(x.astype("d"), targets, [2000], [300], reduction="sum")
    loss, gradient = both(x, targets, [2000], [300], reduction="sum")
    assert loss == pytest.approx(exact, rel=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=2e-2)


def test_the_kernel_keeps_the_digits_of_float32(monkeypatch):
    """Its numbers do not grow with the frames, as PyTorch's do: there the gradient's error is 0.01 here."""
    pytest.importorskip("numba")
    monkeypatch.setattr(settings, "kernels", True)
    x, targets = log_probabilities(2000, 1, 30, dtype="f"), np.arange(300)[None] % 29 + 1
    exact, slope = both(x.astype("d"), targets, [2000], [300], reduction="sum")
    loss, gradient = both(x, targets, [2000], [300], reduction="sum")
    assert loss == pytest.approx(exact, rel=5e-7)
    np.testing.assert_allclose(gradient, slope, atol=1e-4)


def test_lengths_of_every_kind_and_one_sequence(way, backend):
    x = log_probabilities(6, 2, 4)
    inputs, targets = dc.tensor(x, backend=backend), dc.tensor([[1, 2], [3, 0]], backend=backend)
    expected = F.ctc_loss(inputs, targets, [6, 5], [2, 1], reduction="none").tolist()
    for kind in (tuple, np.array, dc.tensor, lambda v: dc.tensor(v, dtype=dc.uint8, backend=backend)):
        got = F.ctc_loss(inputs, targets.to(dc.int32), kind([6, 5]), kind([2, 1]), reduction="none")
        assert got.tolist() == expected
    for n, (row, length) in enumerate([([1, 2], 6), ([3], 5)]):
        for target in (row, [row]):
            one = dc.tensor(target, backend=backend)
            for reduction in ("none", "sum"):
                got = F.ctc_loss(inputs[:, n], one, dc.tensor(length), (len(row),), reduction=reduction)
                assert got.shape == () and got.item() == pytest.approx(expected[n])
        assert F.ctc_loss(inputs[:, n], one, [length], [len(row)]).item() == pytest.approx(expected[n] / len(row))
    assert nn.CTCLoss(reduction="none")(inputs, targets, [6, 5], [2, 1]).tolist() == expected
    half = F.ctc_loss(inputs.half(), targets, [6, 5], [2, 1], reduction="none")
    assert half.dtype == dc.float16 and half.tolist() == pytest.approx(expected, rel=1e-3)


def test_the_batch_may_be_any_view(way):
    x = dc.tensor(log_probabilities(3, 7, 4), requires_grad=True)  # batch, time, classes
    targets = dc.tensor([[1, 2, 3], [3, 0, 0]])[:, :2]
    loss = F.ctc_loss(x.transpose(0, 1)[:, ::2], targets, [7, 7], [2, 1])
    loss.backward()
    plain, gradient = both(
        np.ascontiguousarray(x.detach().numpy()[::2].swapaxes(0, 1)), [[1, 2], [3, 1]], [7, 7], [2, 1]
    )
    assert loss.item() == plain
    np.testing.assert_array_equal(x.grad.numpy()[::2], gradient.swapaxes(0, 1))
    assert not x.grad.numpy()[1].any()


def test_there_is_no_second_derivative(way):
    x = dc.tensor(log_probabilities(4, 1, 3), requires_grad=True)
    (gradient,) = dc.autograd.grad(F.ctc_loss(x, dc.tensor([[1]]), [4], [1]), x, create_graph=True)
    np.testing.assert_array_equal(gradient.detach().numpy(), both(x.detach().numpy(), [[1]], [4], [1])[1])
    with pytest.raises(GradientError, match="first derivative only"):
        gradient.sum().backward()


def test_the_same_bits_at_any_number_of_threads(monkeypatch):
    x, targets = log_probabilities(40, 9, 12, dtype="f"), np.arange(63).reshape(9, 7) % 11 + 1
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(settings, "threads", threads)
        results.append([a.tobytes() for a in both(x, targets, [40] * 9, [7] * 9, zero_infinity=True)])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("concatenated", [False, True])
def test_a_training_step_is_one_program(concatenated, backend, monkeypatch):
    if backend != "cpu":
        pytest.importorskip("numba", reason="programs on a GPU are of kernels")
        monkeypatch.setattr(standin, "kernels", True)
        if concatenated:
            pytest.skip("the longest target is read, which no graph can do")

    def training(compile):
        dc.manual_seed(0)
        model = nn.Linear(5, 6).to(backend)
        optimizer, loss_function = dc.optim.SGD(model.parameters(), lr=0.1), nn.CTCLoss(zero_infinity=True)

        def step(x, targets, input_lengths, target_lengths):
            optimizer.zero_grad()
            loss = loss_function(F.log_softmax(model(x), -1), targets, input_lengths, target_lengths)
            loss.backward()
            optimizer.step()
            return loss.detach()

        step, rng = dc.compile(step) if compile else step, np.random.default_rng(0)
        losses = []
        for i in range(6):
            x = dc.tensor(rng.standard_normal((5, 3, 5), np.float32), backend=backend)
            targets, lengths = rng.integers(1, 6, (3, 3)), [[1, 3, 2], [3, 1, 2], [2, 2, 2]][i % 3]
            if concatenated:
                targets = np.concatenate([row[:n] for row, n in zip(targets, lengths)])
            args = (dc.tensor(a, backend=backend) for a in (targets, [5, 4, 3 + i % 3], lengths))
            losses.append(step(x, *args).item())
        return losses, model.weight.detach().numpy().tobytes(), step

    *eager, _ = training(False)
    *compiled, step = training(True)
    assert compiled == eager
    assert has_run(step, 3)
    bad = [dc.tensor(a, backend=backend) for a in ([1] * 6 if concatenated else [[1] * 3] * 3, [9, 1, 1], [2] * 3)]
    with pytest.raises((ArgumentError, IndexRangeError)):  # a graph's error comes with the next call
        step(dc.ones(5, 3, 5, backend=backend), *bad)
        step(dc.ones(5, 3, 5, backend=backend), *bad)


# -- what is refused ---------------------------------------------------------------------------------------------------

X, Y = (5, 2, 4), [[1, 2], [3, 3]]


@pytest.mark.parametrize(
    "shape, targets, input_lengths, target_lengths, options, error, message",
    [
        (X, Y, [6, 5], [2, 2], {}, ArgumentError, r"input_lengths\[0\] is 6, of at most 5 frames .*\(5, 2, 4\)"),
        (X, Y, [5, -1], [2, 2], {}, ArgumentError, r"input_lengths\[1\] is -1"),
        (X, Y, [5, 5], [2, 3], {}, ArgumentError, r"target_lengths\[1\] is 3, of at most 2 labels .*\(2, 2\)"),
        (X, Y, [5, 5], [-1, 2], {}, ArgumentError, r"target_lengths\[0\] is -1"),
        (X, [1, 2, 3], [5, 5], [2, 2], {}, ShapeError, r"(?s)concatenated.*sum is 3.*\(3,\).*the sum 4"),
        (X, [1, 2, 3], [5, 5], [1, 1], {}, ShapeError, "the sum 2"),
        (X, [[1, 4], [3, 3]], [5, 5], [2, 2], {}, IndexRangeError, r"(?s)label 4 at targets\[0, 1\] is out of range.*0 … 3"),
        (X, [[1, 2], [-1, 3]], [5, 5], [2, 1], {}, IndexRangeError, r"label -1 at targets\[1, 0\]"),
        (X, [1, 0, 3], [5, 5], [2, 1], {}, IndexRangeError, r"label 0 at targets\[1\] is the blank"),
        (X, Y, [5, 5], [2, 2], {"blank": 3}, IndexRangeError, r"label 3 at targets\[1, 0\] is the blank"),
        (X, Y, [5, 5], [2, 2], {"blank": 4}, ArgumentError, "(?s)blank is one of the classes.*0 … 3.*blank=4"),
        (X, Y, [5, 5], [2, 2], {"blank": -1}, ArgumentError, "blank=-1"),
        (X, Y, [5, 5], [2, 2], {"reduction": "avg"}, ArgumentError, "unknown reduction"),
        (X, Y, [5], [2, 2], {}, ShapeError, r"(?s)\(5, 2, 4\).*input_lengths of shape \(2,\).*shape \(1,\)"),
        (X, Y, [5, 5], 2, {}, ShapeError, r"target_lengths of shape \(2,\)"),
        (X, Y, [5.0, 5.0], [2, 2], {}, DTypeError, "input_lengths are integers"),
        (X, [[1.0, 2.0], [3.0, 3.0]], [5, 5], [2, 2], {}, DTypeError, r"targets are integers(.|\n)*targets\.to"),
        (X, [[1, 2]], [5, 5], [2, 2], {}, ShapeError, r"(?s)targets \(2, S\).*shape \(1, 2\)"),
        (X, [[[1, 2], [3, 3]]], [5, 5], [2, 2], {}, ShapeError, r"shape \(1, 2, 2\)"),
        ((4,), [1, 2], [1], [2], {}, ShapeError, r"(?s)log_probs \(T, N, C\) or \(T, C\).*shape \(4,\)"),
        ((0, 2, 4), Y, [0, 0], [0, 0], {}, ShapeError, "not empty"),
    ],
)  # fmt: skip
def test_arguments_that_are_refused(shape, targets, input_lengths, target_lengths, options, error, message, backend):
    x = dc.zeros(*shape, backend=backend)
    with pytest.raises(error, match=message):
        F.ctc_loss(x, dc.tensor(targets, backend=backend), input_lengths, target_lengths, **options)


def test_more_that_is_refused():
    with pytest.raises(ArgumentError, match=r"where: +CTCLoss, test_ctc\.py:\d+"):
        nn.CTCLoss()(dc.zeros(5, 2, 4), dc.tensor(Y), [6, 5], [2, 2])
    with pytest.raises(ArgumentError, match="unknown reduction"):
        nn.CTCLoss(reduction="batchmean")
    with pytest.raises(DTypeError, match=r"fix: +log_softmax"):
        F.ctc_loss(dc.zeros(5, 2, 4, dtype=dc.int64), dc.tensor(Y), [5, 5], [2, 2])
    with pytest.raises(BackendError):
        F.ctc_loss(dc.zeros(5, 2, 4, backend="standin"), dc.tensor(Y, backend="cpu"), [5, 5], [2, 2])
    padded = dc.tensor([[1, -1], [3, 99]])  # padding is not looked at
    assert math.isfinite(F.ctc_loss(dc.zeros(5, 2, 4), padded, [5, 5], [1, 1]).item())


# -- decoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_decoding_finds_what_enumeration_finds(seed, blank, backend):
    frames = 2 * np.random.default_rng(seed).standard_normal((5, 2, 3))
    frames -= np.log(np.exp(frames).sum(-1, keepdims=True))
    x = dc.tensor(frames, backend=backend)
    lengths = [5, 4]
    greedy = F.ctc_greedy_decode(x, lengths, blank)
    everything = F.ctc_beam_decode(x, dc.tensor(lengths, backend=backend), blank, beam_width=1000)
    narrow = F.ctc_beam_decode(x, lengths, blank, beam_width=3)
    for n, length in enumerate(lengths):
        path = frames[:length, n].argmax(1)
        assert greedy[n].labels == list(collapsed(path.tolist(), blank))
        assert greedy[n].log_prob == pytest.approx(frames[:length, n].max(1).sum())
        expected = enumerated(frames[:length, n], blank)
        assert len(everything[n]) == len(expected)
        assert [d.log_prob for d in everything[n]] == sorted((d.log_prob for d in everything[n]), reverse=True)
        for labels, log_prob in everything[n]:
            assert math.exp(log_prob) == pytest.approx(expected[tuple(labels)])
        assert len(narrow[n]) == 3
        for labels, log_prob in narrow[n]:  # what was dropped is missing
            assert log_prob <= math.log(expected[tuple(labels)]) + 1e-9


def test_the_beam_sums_alignments_where_greedy_takes_one():
    """The best alignment is all blanks (0.36); the label has three others, with 0.64 in all."""
    frames = dc.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert F.ctc_greedy_decode(frames) == ([], pytest.approx(math.log(0.36)))
    first, second = F.ctc_beam_decode(frames, beam_width=2)
    assert first == ([1], pytest.approx(math.log(0.64))) and second == ([], pytest.approx(math.log(0.36)))


def test_decoding_of_nothing_and_of_the_impossible():
    assert F.ctc_greedy_decode(dc.zeros(3, 1, 2), [0]) == [([], 0.0)]
    assert F.ctc_beam_decode(dc.zeros(3, 1, 2), [0]) == [[([], 0.0)]]
    assert F.ctc_beam_decode(dc.full((2, 3), -INF)) == []
    certain = dc.full((3, 3), -INF)
    certain[0, 1] = certain[1, 0] = certain[2, 1] = 0.0
    assert F.ctc_beam_decode(certain) == [([1, 1], 0.0)]


@pytest.mark.parametrize("decode", [F.ctc_greedy_decode, F.ctc_beam_decode])
def test_decoding_refuses(decode):
    name = decode.__name__
    for shape in ((4,), (2, 3, 4, 5), (0, 4)):
        with pytest.raises(ShapeError, match=rf"(?s){name}.*log_probs \(T, N, C\) or \(T, C\)"):
            decode(dc.zeros(*shape))
    with pytest.raises(DTypeError, match=name):
        decode(dc.zeros(3, 4, dtype=dc.int64))
    with pytest.raises(ArgumentError, match=f"{name}: blank is one of the classes"):
        decode(dc.zeros(3, 4), blank=4)
    with pytest.raises(ArgumentError, match=rf"{name}: input_lengths\[0\] is 4"):
        decode(dc.zeros(3, 4), [4])
    with pytest.raises(ShapeError, match=rf"{name} takes a length for each"):
        decode(dc.zeros(3, 2, 4), [3])
    assert decode(np.zeros((2, 3))) == decode(dc.zeros(2, 3))  # arrays, as everywhere


@pytest.mark.parametrize("width", [0, 2.5, None])
def test_a_beam_has_a_width(width):
    with pytest.raises(ArgumentError, match="beam_width is a whole number"):
        F.ctc_beam_decode(dc.zeros(2, 3), beam_width=width)
