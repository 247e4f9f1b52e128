"""Metrics against hand-computed values and plain NumPy; the text table and the plots."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import deepcore as dc
from deepcore import metrics, nn
from deepcore.errors import (
    ArgumentError,
    ConfigError,
    DataError,
    DTypeError,
    IndexRangeError,
    MissingDependencyError,
    ShapeError,
)

# Three classes, six samples: true 0 0 1 1 2 2, predicted 0 1 1 1 2 0.
TRUE = [0, 0, 1, 1, 2, 2]
PREDICTED = [0, 1, 1, 1, 2, 0]
MATRIX = [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
PRECISION, RECALL = [1 / 2, 2 / 3, 1.0], [1 / 2, 1.0, 1 / 2]
F1 = [2 * p * r / (p + r) for p, r in zip(PRECISION, RECALL)]


def logits_for(classes, width=3):
    return (np.eye(width)[classes] * 3 - 1).astype(np.float32)


def as_all(backend, *arrays):
    return [dc.tensor(np.asarray(a), backend=backend) for a in arrays]


@pytest.mark.parametrize(
    "output, target, right",
    [
        (logits_for(PREDICTED), TRUE, 4 / 6),
        (logits_for(PREDICTED), np.eye(3, dtype=np.float32)[TRUE], 4 / 6),
        (PREDICTED, TRUE, 4 / 6),
        (np.float32([-1, 2, 0.3, -4]), [0, 1, 0, 1], 2 / 4),
        (np.float32([[-1], [2], [0.3], [-4]]), [0, 1, 0, 0], 3 / 4),
        (np.float32([[-1], [2], [0.3], [-4]]), np.float32([[0], [1], [1], [0]]), 1.0),
        (np.float32([[[3, 0], [0, 1]], [[1, 4], [2, 0]]]), [[0, 1], [1, 1]], 3 / 4),
    ],
    ids=["indices", "one-hot", "classes", "binary", "binary (N,1)", "binary both (N,1)", "dense"],
)
def test_accuracy_of_every_layout(backend, output, target, right):
    output, target = as_all(backend, output, target)
    assert metrics.accuracy(output, target) == pytest.approx(right)


def test_labels_of_several_columns_are_one_yes_or_no_each(backend):
    output = np.float32([[2, -1], [-1, -2], [3, 0.5], [-4, 1]])
    target = np.float32([[1, 0], [0, 1], [1, 1], [0, 0]])
    o, t = as_all(backend, output, target)
    yes, right = output > 0, (output > 0) == (target == 1)
    assert metrics.accuracy(o, t, task="multilabel") == right.mean() == 6 / 8
    assert (
        metrics.accuracy(*as_all(backend, 1 / (1 + np.exp(-output)), target), threshold=0.5, task="multilabel") == 6 / 8
    )
    assert metrics.confusion_matrix(o, t, task="multilabel").tolist() == [[[2, 0], [0, 2]], [[1, 1], [1, 1]]]
    hits, said, true = (yes & (target == 1)).sum(0), yes.sum(0), target.sum(0)
    for function, expected in (
        (metrics.precision, hits / said),
        (metrics.recall, hits / true),
        (metrics.f1, 2 * hits / (said + true)),
    ):
        np.testing.assert_allclose(function(o, t, average=None, task="multilabel"), expected)
        assert function(o, t, task="multilabel") == pytest.approx(expected.mean())
    assert metrics.accuracy(o, t.bool(), task="multilabel") == 6 / 8
    soft = np.where(target == 1, 0.9, 0.4)
    assert metrics.accuracy(output, soft, task="multilabel") == 6 / 8
    marked = np.where(output < -1, -1, target)
    assert metrics.accuracy(output, marked, task="multilabel", ignore_index=-1) == 5 / 6
    assert metrics.confusion_matrix(output, marked, task="multilabel", ignore_index=-1).sum() == 6


def test_one_column_under_every_task():
    output, target = np.float32([[-1], [2], [0.3], [-4]]), [0, 1, 0, 0]
    for shape in ((4,), (4, 1)):
        assert metrics.accuracy(output, np.reshape(target, shape), task="multilabel") == 3 / 4
    assert metrics.confusion_matrix(output, target, task="multilabel").tolist() == [[2, 1], [0, 1]]
    assert metrics.accuracy(output, [0, 0, 0, 0], task="multiclass") == 1, "the largest of one"


def test_rows_of_zeros_have_no_class():
    output, target = logits_for([0, 1, 2]), np.float32([[1, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert metrics.accuracy(output, target, task="multiclass") == 1 / 2
    assert metrics.top_k_accuracy(output, target, k=1) == 1 / 2


@pytest.mark.parametrize(
    "loss, target, task, threshold, ignored",
    [
        (nn.BCEWithLogitsLoss(), "labels", "multilabel", 0.0, None),
        (nn.BCELoss(), "labels", "multilabel", 0.5, None),
        (nn.functional.binary_cross_entropy_with_logits, "labels", "multilabel", 0.0, None),
        (functools.partial(nn.functional.binary_cross_entropy), "labels", "multilabel", 0.5, None),
        (nn.CrossEntropyLoss(ignore_index=2), "classes", "multiclass", 0.5, 2),
        (functools.partial(nn.functional.cross_entropy, ignore_index=1), "classes", "multiclass", 0.5, 1),
        (nn.NLLLoss(), "classes", "multiclass", 0.5, -100),
        (nn.MSELoss(), "labels", None, 0.5, None),
        (nn.functional.huber_loss, "labels", None, 0.5, None),
        (lambda output, target: (output - target).mean(), "labels", None, 0.0, None),
    ],
)
def test_metrics_follow_the_loss(loss, target, task, threshold, ignored):
    """By name and as objects, but for what an object was told."""
    model = nn.Linear(2, 3)
    own = [metrics.Accuracy(name="own"), metrics.Recall(name="fixed", threshold=0.7, ignore_index=9, task="multiclass")]
    names = ("accuracy", "precision", "recall", "f1") if target == "labels" else ("accuracy", "f1", "top_k_accuracy")
    trainer = dc.Trainer(model, dc.optim.SGD(model.parameters(), lr=0.1), loss, metrics=[*names, *own])
    *followers, fixed = trainer.metrics
    for metric in followers:
        if metric.name != "top_k_accuracy":
            assert (metric.task, metric.threshold, metric.ignore_index) == (task, threshold, ignored)
    assert (fixed.task, fixed.threshold, fixed.ignore_index) == ("multiclass", 0.7, 9)
    default = dc.Trainer(model, trainer.optimizer, loss).metrics
    assert [m.name for m in default] == (["accuracy"] if task else [])
    other = dc.Trainer(model, trainer.optimizer, nn.CrossEntropyLoss(), metrics=own)
    assert (other.metrics[0].task, other.metrics[0].ignore_index) == ("multiclass", -100)
    assert "_open" not in own[0].state_dict()


def test_two_columns_of_labels_in_a_trainer(backend):
    """Each is thresholded; the largest of two would be right in a third of the samples."""
    x = np.float32([[1, 2], [-3, -1], [1, -1]])
    y = np.float32([[1, 1], [0, 0], [1, 0]])
    model = nn.Linear(2, 2, bias=False).to(backend)
    with dc.no_grad():
        model.weight.copy_(dc.tensor(np.eye(2, dtype=np.float32), backend=backend))
    sgd = dc.optim.SGD(model.parameters(), lr=0.0)
    trainer = dc.Trainer(model, sgd, nn.BCEWithLogitsLoss(), metrics=["accuracy", "f1"])
    assert trainer.fit((x, y), (x, y), verbose=0)[1]["val_accuracy"] == 1.0 == trainer.evaluate((x, y))["f1"]
    assert trainer.fit((x, y * 0.8 + 0.1), verbose=0)[1]["accuracy"] == 1.0, "smoothed labels"
    squares = dc.Trainer(model, sgd, nn.MSELoss(), metrics=["accuracy"])
    with pytest.raises(DataError, match="task='multilabel'"):
        squares.evaluate((x, y))


def test_threshold_and_ignored_targets():
    probabilities = np.float32([0.4, 0.6, 0.1])
    assert metrics.accuracy(probabilities, [0, 1, 0]) == pytest.approx(1 / 3)
    assert metrics.accuracy(probabilities, [0, 1, 0], threshold=0.5) == 1
    assert metrics.accuracy(logits_for([0, 1, 2, 0]), [0, -100, 1, 0], ignore_index=-100) == pytest.approx(2 / 3)
    assert metrics.confusion_matrix(logits_for([0, 1]), [0, -1], ignore_index=-1).sum() == 1


def test_top_k(backend):
    rng = np.random.default_rng(0)
    scores, target = rng.normal(size=(200, 7)).astype(np.float32), rng.integers(0, 7, 200)
    order = np.argsort(-scores, axis=1)
    for k in (1, 3, 7):
        expected = np.mean([t in row[:k] for t, row in zip(target, order)])
        output, labels = as_all(backend, scores, target)
        assert metrics.top_k_accuracy(output, labels, k=k) == pytest.approx(expected)
    tied = np.zeros((3, 4), np.float32)
    assert metrics.top_k_accuracy(tied, [0, 1, 2], k=2) == pytest.approx(2 / 3), "equal scores: the first is larger"
    assert metrics.top_k_accuracy(np.float32([[np.nan, 0, 1]]), [0], k=2) == 0
    with pytest.raises(ArgumentError, match="more than the 3 classes"):
        metrics.top_k_accuracy(logits_for([0]), [0], k=4)


def test_confusion_matrix_and_what_follows_from_it(backend):
    output, target = as_all(backend, logits_for(PREDICTED), TRUE)
    matrix = metrics.confusion_matrix(output, target)
    assert matrix.dtype == np.int64 and isinstance(matrix, np.ndarray)
    assert matrix.tolist() == MATRIX
    for function, per_class in ((metrics.precision, PRECISION), (metrics.recall, RECALL), (metrics.f1, F1)):
        np.testing.assert_allclose(function(output, target, average=None), per_class, rtol=1e-12)
        assert function(output, target) == pytest.approx(np.mean(per_class), rel=1e-12)


def test_absent_classes():
    output = logits_for([0, 0, 1], width=4)
    assert metrics.confusion_matrix(output, [0, 0, 2]).shape == (4, 4)
    # Classes 0, 1 and 2 occur, 3 does not: 1 was predicted wrongly, 2 was missed.
    assert metrics.precision(output, [0, 0, 2], average=None).tolist() == [1, 0, 0, 0]
    assert metrics.f1(output, [0, 0, 2]) == pytest.approx(1 / 3)


def test_errors_of_regression(backend):
    rng = np.random.default_rng(1)
    y, out = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    o, t = as_all(backend, out, y)
    assert metrics.mean_absolute_error(o, t) == pytest.approx(np.abs(out - y).mean(), rel=1e-12)
    assert metrics.mean_squared_error(o, t) == pytest.approx(((out - y) ** 2).mean(), rel=1e-12)
    expected = np.mean(1 - ((out - y) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0))
    assert metrics.r2(o, t) == pytest.approx(expected, rel=1e-12)


def test_r2_of_a_large_offset_and_constants():
    y = 1e8 + np.array([1.0, 2.0, 3.0])
    assert metrics.r2(y + 0.5, y) == pytest.approx(1 - 0.75 / 2, rel=1e-6), "the mean is large beside the spread"
    assert metrics.r2([2.0, 2.0], [2.0, 2.0]) == 1
    assert metrics.r2([2.0, 3.0], [2.0, 2.0]) == 0
    assert math.isnan(metrics.r2([2.0], [2.0]))


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_streaming_equals_all_at_once(name):
    rng = np.random.default_rng(2)
    regression = name in ("mean_absolute_error", "mean_squared_error", "r2")
    output = rng.normal(size=(31,) if regression else (31, 6))
    target = rng.normal(size=31) if regression else rng.integers(0, 6, 31)
    whole, parts = metrics.get(name), metrics.get(name)
    assert math.isnan(whole.compute())
    whole.update(output, target)
    parts.update(output, target)
    parts.reset()
    for rows in (slice(0, 10), slice(10, 11), slice(11, 31)):
        copy = metrics.get(name)
        copy.load_state_dict(parts.state_dict())  # and it continues from its state
        parts = copy
        parts.update(output[rows], target[rows])
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert whole.name == name and whole.mode in ("min", "max")


def test_confusion_matrix_grows_with_the_classes():
    metric = metrics.ConfusionMatrix()
    metric.update([0, 1], [0, 1])
    metric.update([3], [1])
    assert metric.compute().shape == (4, 4) and metric.compute()[1, 3] == 1 and metric.compute().sum() == 3


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: metrics.accuracy(np.zeros((3, 4)), np.zeros(5, int)), ShapeError, "do not fit together"),
        (lambda: metrics.accuracy(np.zeros((3, 4)), np.zeros(3)), DTypeError, "whole numbers"),
        (lambda: metrics.accuracy(np.zeros(3), np.array([0.3, 1, 0])), DataError, "r2"),
        (lambda: metrics.confusion_matrix(np.zeros((2, 3)), [0, 3]), IndexRangeError, "class 3 is out of range"),
        (lambda: metrics.confusion_matrix([0, 5], [0, 1], classes=3), IndexRangeError, "0 to 2"),
        (lambda: metrics.mean_squared_error(np.zeros((3, 1)), np.zeros(3)), ShapeError, r"squeeze\(1\)"),
        (lambda: metrics.f1([0], [0], average="weighted"), ArgumentError, "macro"),
        (lambda: metrics.f1([0], [0], task="binary"), ArgumentError, "multilabel"),
        (lambda: metrics.accuracy(np.zeros((2, 2)), np.ones((2, 2))), DataError, "neither one-hot nor probabilities"),
        (lambda: metrics.accuracy(np.zeros((2, 2)), np.eye(2) * 2 - 1), DataError, "neither one-hot"),
        (lambda: metrics.accuracy(np.zeros((2, 2)), np.eye(2) * 2 - 1, task="multilabel"), DataError, "value -1"),
        (lambda: metrics.recall(np.zeros((2, 2)), np.full((2, 2), np.nan), task="multilabel"), DataError, "nan"),
        (lambda: metrics.recall(np.zeros((2, 2)), [0, 1], task="multilabel"), ShapeError, r"shape \(2, 2\)"),
        (lambda: metrics.TopKAccuracy().follow(nn.BCELoss()), ArgumentError, "one true class per sample"),
        *(
            (lambda f=f: f(np.array([0, 1, 1]), np.array([0.2, 0.9, 0.4])), DataError, "exchange the two")
            for f in (metrics.accuracy, metrics.f1, metrics.roc_auc, metrics.average_precision)
        ),
        (lambda: metrics.get("acuracy"), ConfigError, "did you mean 'accuracy'"),
        (lambda: metrics.get(metrics.f1), ArgumentError, r"F1\(\)"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_text_table():
    text = metrics.format_confusion_matrix(MATRIX, ["a", "b", "cat"])
    assert text.splitlines() == [
        "            |  predicted",
        "       true |     a     b  cat | recall %",
        "------------+------------------+---------",
        "          a |     1     1    . |     50.0",
        "          b |     .     2    . |      100",
        "        cat |     1     .    1 |     50.0",
        "------------+------------------+---------",
        "precision % |  50.0  66.7  100 |     66.7",
    ]
    many = np.full((10, 10), 9)
    assert max(map(len, metrics.format_confusion_matrix(many).splitlines())) <= 80
    with pytest.raises(ArgumentError, match="2 names for 3 classes"):
        metrics.format_confusion_matrix(MATRIX, ["a", "b"])


# -- plots ------------------------------------------------------------------------------------------------
def drawn(figure):
    """The picture as an array: it must be possible to draw it without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_plot_of_a_history():
    pytest.importorskip("matplotlib")
    history = {e: {"loss": 1 / e, "val_loss": abs(e - 3) + 1, "accuracy": 0.5, "lr": 0.1 * 0.1**e} for e in range(1, 6)}
    figure = dc.plots.history(history)
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert titles == ["loss", "accuracy", "learning rate"]
    loss = figure.axes[0]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1 / e for e in range(1, 6)])
    assert loss.lines[3].get_xdata()[0] == 3, "the best epoch is marked"
    assert figure.axes[2].get_yscale() == "log"
    assert drawn(figure).std() > 5
    assert len(figure._repr_png_()) > 1000
    constant = dc.plots.history({1: {"loss": 1.0, "lr": 0.1}, 2: {"loss": 0.5, "lr": 0.1}})
    assert [ax.get_title() for ax in constant.axes] == ["loss"]
    with pytest.raises(ArgumentError, match="no finished epoch"):
        dc.plots.history({})


def test_plot_of_a_confusion_matrix():
    pytest.importorskip("matplotlib")
    figure = dc.plots.confusion_matrix(MATRIX, ["a", "b", "c"])
    (ax,) = figure.axes
    assert sorted(t.get_text() for t in ax.texts) == ["1", "1", "1", "1", "2"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_title() == "4 of 6 right (66.7%)"
    assert drawn(figure).std() > 5
    drawn(dc.plots.confusion_matrix(np.zeros((2, 2), int)))


@pytest.mark.parametrize("shape", [(6, 5, 5), (3, 1, 5, 5), (2, 3, 8, 8), (8, 8), (3, 8, 8)])
def test_plot_of_images(backend, shape):
    pytest.importorskip("matplotlib")
    images = dc.rand(*shape, backend=backend)
    figure = dc.plots.images(images, columns=4)
    count = shape[0] if len(shape) == 4 or shape == (6, 5, 5) else 1
    assert sum(len(ax.images) for ax in figure.axes) == count
    assert drawn(figure).std() > 5


def test_wrong_predictions_stand_out():
    pytest.importorskip("matplotlib")
    figure = dc.plots.images(np.zeros((2, 4, 4)), labels=np.array([3, 4]), predictions=dc.tensor([3, 9]))
    titles = [(ax.get_title(), ax.title.get_color()) for ax in figure.axes]
    assert titles == [("3", "black"), ("9 (4)", "#c0281c")]
    with pytest.raises(ShapeError, match="reshape"):
        dc.plots.images(np.zeros((2, 64)).reshape(2, 8, 8, 1, 1))
    with pytest.raises(ArgumentError, match="3 labels for 2 images"):
        dc.plots.images(np.zeros((2, 4, 4)), labels=[1, 2, 3])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    from deepcore import plots

    plots._figure_class.cache_clear()
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "deepcore-nn\[plot\]"'):
        plots.confusion_matrix(MATRIX)
