"""Ranking, calibration, overlap, detection and text metrics: scikit-learn, brute force and closed forms as oracles."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

import deepcore as dc
from deepcore import metrics, nn
from deepcore.errors import ArgumentError, DataError, DTypeError, IndexRangeError, ShapeError


def on(backend, *arrays):
    return [dc.tensor(np.asarray(a), backend=backend) for a in arrays]


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def scored(seed, size=120, width=4, steps=9):
    """Logits with many ties, and class numbers."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=(size, width)) * steps) / steps, rng.integers(0, width, size)


# -- ranking ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_binary_ranking_equals_scikit_learn(backend, seed):
    sk = pytest.importorskip("sklearn.metrics")
    logits, target = scored(seed, width=2)
    scores = logits[:, 0].astype(np.float32)
    for shape in ((-1,), (-1, 1)):
        o, t = on(backend, scores.reshape(shape), target.reshape(shape))
        assert metrics.roc_auc(o, t) == pytest.approx(sk.roc_auc_score(target, scores), rel=1e-12)
        assert metrics.average_precision(o, t) == pytest.approx(sk.average_precision_score(target, scores), rel=1e-12)
        for ours, theirs in zip(metrics.precision_recall_curve(o, t), sk.precision_recall_curve(target, scores)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("average", ["macro", "weighted", None])
def test_multiclass_and_multilabel_ranking_equals_scikit_learn(average):
    sk = pytest.importorskip("sklearn.metrics")
    logits, target = scored(5)
    one_hot = np.eye(4)[target]
    expected = sk.roc_auc_score(one_hot, softmax(logits), average=average)
    for output in (logits, softmax(logits)):
        np.testing.assert_allclose(metrics.roc_auc(output, target, average), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.roc_auc(logits, one_hot, average), expected, rtol=1e-12)
    np.testing.assert_allclose(
        metrics.average_precision(logits, target, average),
        sk.average_precision_score(one_hot, softmax(logits), average=average),
        rtol=1e-12,
    )
    labels = (np.random.default_rng(1).random(logits.shape) < 0.4).astype(int)
    np.testing.assert_allclose(
        metrics.roc_auc(logits, labels, average, task="multilabel"),
        sk.roc_auc_score(labels, logits, average=average),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        metrics.average_precision(logits, labels, average, task="multilabel"),
        sk.average_precision_score(labels, logits, average=average),
        rtol=1e-12,
    )


def test_ranking_where_a_class_is_missing():
    logits, target = scored(2, width=3)
    seen = np.where(target == 2, 0, target)
    values = metrics.roc_auc(logits, seen, average=None)
    assert np.isnan(values[2]) and not np.isnan(values[:2]).any()
    assert metrics.roc_auc(logits, seen) == pytest.approx(values[:2].mean())
    assert math.isnan(metrics.roc_auc(logits[:, 0], np.zeros(len(logits), int)))
    assert math.isnan(metrics.average_precision(logits[:, 0], np.zeros(len(logits), int)))
    assert math.isnan(metrics.roc_auc([0.5, math.nan], [0, 1]))
    assert metrics.roc_auc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5, "all equal"
    assert metrics.roc_auc([-math.inf, 0, math.inf], [0, 0, 1]) == 1


def test_ignored_targets_do_not_rank():
    logits, target = scored(3)
    marked = target.copy()
    marked[::3] = -100
    kept = marked >= 0
    metric = metrics.ROCAUC(ignore_index=-100)
    metric.update(logits, marked)
    assert metric.compute() == pytest.approx(metrics.roc_auc(logits[kept], target[kept]))
    labels = (target > 1).astype(int)
    labels[::3] = -1
    binary = metrics.AveragePrecision(ignore_index=-1)
    binary.update(logits[:, 0], labels)
    assert binary.compute() == pytest.approx(metrics.average_precision(logits[kept, 0], labels[kept]))


def test_dense_outputs_rank_by_pixel():
    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    flat = np.moveaxis(output, 1, -1).reshape(-1, 3)
    for function in (metrics.roc_auc, metrics.average_precision, metrics.calibration_error):
        assert function(output, target) == pytest.approx(function(flat, target.ravel()))


def test_ranking_follows_the_loss(backend):
    x = dc.tensor(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), backend=backend)
    y = (x[:, :1] > 0).float()
    model = nn.Linear(3, 1).to(backend)
    names = ["roc_auc", "average_precision", "calibration_error", "dice", "jaccard_index"]
    trainer = dc.Trainer(model, dc.optim.SGD(model.parameters(), lr=1.0), nn.BCEWithLogitsLoss(), metrics=names)
    trainer.fit((x, y), epochs=20, verbose=0)
    values = trainer.evaluate((x, y))
    assert values["roc_auc"] > 0.95 and values["average_precision"] > 0.95 and values["calibration_error"] < 0.3
    assert all(math.isfinite(values[name]) for name in names)


# -- overlap ------------------------------------------------------------------------------------------
def test_overlap_equals_scikit_learn(backend):
    sk = pytest.importorskip("sklearn.metrics")
    logits, target = scored(7)
    predicted = logits.argmax(1)
    o, t = on(backend, logits.astype(np.float32), target)
    for average in ("macro", None):
        np.testing.assert_allclose(
            metrics.jaccard_index(o, t, average), sk.jaccard_score(target, predicted, average=average), rtol=1e-12
        )
        np.testing.assert_allclose(metrics.dice(o, t, average), sk.f1_score(target, predicted, average=average))
    masks = np.random.default_rng(1).integers(0, 2, (2, 2, 1, 6, 6))
    found, true = (m.astype(bool) for m in masks)
    metric = metrics.JaccardIndex(average=None, task="multilabel")
    metric.update(*on(backend, np.where(found, 1.0, -1.0).astype(np.float32), true.astype(np.float32)))
    np.testing.assert_allclose(metric.compute()[1], (found & true).sum() / (found | true).sum())


# -- probabilities ------------------------------------------------------------------------------------
def test_perplexity(backend):
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(3, 5, 7)).astype(np.float32), rng.integers(0, 7, (3, 5))
    own = np.take_along_axis(np.log(softmax(logits.reshape(-1, 7))), target.reshape(-1, 1), 1)
    expected = math.exp(-own.mean())
    o, c, t = on(backend, logits, logits.transpose(0, 2, 1).copy(), target)
    assert metrics.perplexity(o, t) == pytest.approx(expected, rel=1e-6)
    assert metrics.perplexity(c, t) == pytest.approx(expected, rel=1e-6)
    loss = dc.nn.functional.cross_entropy(c, t).item()
    assert metrics.perplexity(o, t) == pytest.approx(math.exp(loss), rel=1e-5)
    assert metrics.perplexity(np.zeros((4, 9)), [0, 1, 2, 8]) == pytest.approx(9), "uniform: the number of classes"
    marked = np.where(target == 3, -100, target)
    assert metrics.perplexity(o, marked, ignore_index=-100) == pytest.approx(
        math.exp(-own[target.ravel() != 3].mean()), rel=1e-6
    )
    assert metrics.perplexity([[0.0, 1e5]], [0]) == math.inf


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_by_brute_force(norm, bins):
    logits, target = scored(4, 300)
    p = softmax(logits)
    confidence, right = p.max(1), p.argmax(1) == target
    total = []
    for low in range(bins):
        inside = (confidence > low / bins) & (confidence <= (low + 1) / bins)
        if inside.any():
            total.append((inside.mean(), abs(confidence[inside].mean() - right[inside].mean())))
    share, gap = np.array(total).T
    expected = {"l1": (share * gap).sum(), "l2": math.sqrt((share * gap**2).sum()), "max": gap.max()}[norm]
    for output in (logits, p):
        assert metrics.calibration_error(output, target, bins, norm) == pytest.approx(expected, rel=1e-9)


def test_calibration_error_of_a_yes_or_no():
    sk = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(3)
    p = rng.random(500)
    y = (rng.random(500) < p**2).astype(int)
    share, mean = sk.calibration_curve(y, p, n_bins=10)
    counts = np.histogram(p, np.linspace(0, 1, 11))[0]
    expected = (np.abs(share - mean) * counts[counts > 0]).sum() / 500
    assert metrics.calibration_error(p, y, 10) == pytest.approx(expected, rel=1e-9)
    assert metrics.calibration_error(np.log(p / (1 - p)), y, 10) == pytest.approx(expected, rel=1e-6)
    assert metrics.calibration_error([0.0, 1.0, 1.0], [0, 1, 1]) == 0


# -- boxes --------------------------------------------------------------------------------------------
def overlap(a, b, crowd=False):
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    inside = max(w, 0) * max(h, 0)
    own, other = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return inside / (own if crowd else own + other - inside)


def coco_by_hand(outputs, targets, c, threshold, low=0.0, high=1e10, most=100):
    """(average precision, recall) of a class, box by box."""
    rows, count = [], 0
    for found, true in zip(outputs, targets):
        boxes = []
        for box, label, crowd in zip(true["boxes"], true["labels"], true["iscrowd"]):
            if label == c:
                area = (box[2] - box[0]) * (box[3] - box[1])
                boxes.append({"box": box, "crowd": crowd, "ignored": crowd or not low <= area <= high, "taken": False})
        count += sum(not b["ignored"] for b in boxes)
        own = [(s, i) for i, (s, label) in enumerate(zip(found["scores"], found["labels"])) if label == c]
        for score, i in sorted(own, key=lambda pair: -pair[0])[:most]:
            box = found["boxes"][i]
            best = None
            for want_ignored in (False, True):
                for b in boxes:
                    iou = overlap(box, b["box"], b["crowd"])
                    if b["ignored"] == want_ignored and iou >= threshold and (not b["taken"] or b["crowd"]):
                        best = b if best is None or iou >= overlap(box, best["box"], best["crowd"]) else best
                if best is not None:
                    break
            if best is not None:
                best["taken"] = True
                if not best["ignored"]:
                    rows.append((score, 1))
            elif low <= (box[2] - box[0]) * (box[3] - box[1]) <= high:
                rows.append((score, 0))
    if not count:
        return math.nan, math.nan
    rows.sort(key=lambda row: -row[0])
    points, hits = [], 0
    for n, (_, hit) in enumerate(rows, 1):
        hits += hit
        points.append((hits / count, hits / n))
    levels = [max((p for r, p in points if r >= level), default=0) for level in np.linspace(0, 1, 101)]
    return float(np.mean(levels)), hits / count


def random_images(seed, images=6, classes=3):
    rng = np.random.default_rng(seed)
    outputs, targets = [], []
    for _ in range(images):
        n, m = rng.integers(0, 8), rng.integers(0, 6)
        start = rng.uniform(0, 120, (m, 2))
        true = np.concatenate([start, start + rng.uniform(5, 130, (m, 2))], 1)
        labels = rng.integers(0, classes, m)
        guess = np.concatenate([true + rng.normal(0, 6, true.shape), rng.uniform(0, 60, (n, 4))])
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        outputs.append(
            {
                "boxes": guess,
                "scores": rng.permutation(len(guess)) / 7 + rng.random(),
                "labels": np.concatenate([np.where(rng.random(m) < 0.8, labels, 0), rng.integers(0, classes, n)]),
            }
        )
        targets.append({"boxes": true, "labels": labels, "iscrowd": rng.random(m) < 0.15})
    return outputs, targets


def nanmean(values):
    values = [v for v in values if not math.isnan(v)]
    return float(np.mean(values)) if values else math.nan


@pytest.mark.parametrize("seed", range(4))
def test_coco_by_brute_force(seed):
    outputs, targets = random_images(seed)
    metric = metrics.MeanAveragePrecision(max_detections=(1, 3, 100))
    for pair in zip(outputs, targets):
        metric.update(*pair)
    found = metric.compute()
    thresholds = np.linspace(0.5, 0.95, 10)
    hand = functools.partial(coco_by_hand, outputs, targets)
    classes = range(3)
    expected = {
        "map": nanmean([hand(c, t)[0] for c in classes for t in thresholds]),
        "map_50": nanmean([hand(c, 0.5)[0] for c in classes]),
        "map_75": nanmean([hand(c, thresholds[5])[0] for c in classes]),
        "map_small": nanmean([hand(c, t, 0, 32**2)[0] for c in classes for t in thresholds]),
        "map_large": nanmean([hand(c, t, 96**2, 1e10)[0] for c in classes for t in thresholds]),
        "mar_3": nanmean([hand(c, t, most=3)[1] for c in classes for t in thresholds]),
        "mar_100": nanmean([hand(c, t)[1] for c in classes for t in thresholds]),
        "mar_medium": nanmean([hand(c, t, 32**2, 96**2)[1] for c in classes for t in thresholds]),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert found["classes"].tolist() == [0, 1, 2]


def test_voc_in_closed_form(backend):
    """Three boxes; detections: hit, miss, hit, a second one of the first box, and one of a difficult box."""
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    found = [[0, 0, 10, 10], [80, 80, 90, 90], [21, 0, 31, 10], [1, 0, 11, 10], [60, 0, 70, 10]]
    b, s, f = on(backend, np.float32(boxes), np.float32([0.9, 0.8, 0.7, 0.6, 0.95]), np.float32(found))
    output = [{"boxes": f, "scores": s, "labels": dc.zeros(5, dtype=dc.int64, backend=backend)}]
    target = [{"boxes": b, "labels": [0, 0, 0, 0], "difficult": [0, 0, 0, 1]}]
    # Recalls 1/3, 1/3, 2/3, 2/3 with precisions 1, 1/2, 2/3, 1/2.
    for protocol, area in (("voc", 1 / 3 + 2 / 3 / 3), ("voc07", (4 * 1 + 3 * 2 / 3) / 11)):
        metric = metrics.MeanAveragePrecision(protocol)
        metric.update(output, target)
        assert metric.compute()["map"] == pytest.approx(area, rel=1e-12)
        metric.reset()
        assert math.isnan(metric.compute()["map"])


def test_boxes_of_other_formats_and_perfect_detections():
    xyxy = np.array([[1.0, 2, 5, 10], [20, 20, 140, 150]])
    size = xyxy[:, 2:] - xyxy[:, :2]
    forms = {"xyxy": xyxy, "xywh": np.c_[xyxy[:, :2], size], "cxcywh": np.c_[xyxy[:, :2] + size / 2, size]}
    for name, boxes in forms.items():
        metric = metrics.MeanAveragePrecision(box_format=name)
        metric.update([{"boxes": boxes, "scores": [0.9, 0.8], "labels": [1, 2]}], [{"boxes": boxes, "labels": [1, 2]}])
        metric.update([{"boxes": [], "scores": [], "labels": []}], [{"boxes": [], "labels": []}])
        copy = metrics.MeanAveragePrecision(box_format=name)
        copy.load_state_dict(metric.state_dict())
        found = copy.compute()
        assert all(found[key] == pytest.approx(1) for key in ("map", "map_small", "map_large", "mar_100"))
        assert math.isnan(found["map_medium"]) and found["map_per_class"] == pytest.approx([1, 1])
    assert metrics.box_iou(xyxy[:1], xyxy).tolist() == [[1, 0]]


# -- text ---------------------------------------------------------------------------------------------
def edits(a, b):
    @functools.cache
    def d(i, j):
        if not i or not j:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


def test_error_rates():
    texts = ["", "a", "abc", "kitten", "sitting", "the cat sat", "the  hat sat down", "été", "ete"]
    for a, b in itertools.product(texts, texts):
        assert metrics.edit_distance(a, b) == edits(a, b)
    assert metrics.word_error_rate("the cat sat", "the hat sat down") == 2 / 4
    assert metrics.char_error_rate(["kitten", "a"], ["sitting", "a"]) == 3 / 8
    assert metrics.word_error_rate([["a", "b"]], [["a", "c"]]) == 1 / 2
    assert metrics.word_error_rate(["extra"], [""]) == math.inf
    metric = metrics.CharErrorRate()
    assert math.isnan(metric.compute())
    metric.update(["ab"], ["ac"])
    metric.update("x", "x")
    assert metric.compute() == 1 / 3


# -- errors -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: metrics.roc_auc(np.zeros((3, 4)), np.zeros(5, int)), ShapeError, "do not fit together"),
        (lambda: metrics.roc_auc(np.zeros((3, 4)), np.zeros(3)), DTypeError, "whole numbers"),
        (lambda: metrics.roc_auc(np.zeros(3), [0, 1, 2]), DataError, "0 or 1"),
        (lambda: metrics.roc_auc(np.zeros((2, 3)), [0, 3]), IndexRangeError, "class 3"),
        (lambda: metrics.roc_auc(np.zeros((2, 2)), np.ones((2, 2))), DataError, "multilabel"),
        (lambda: metrics.ROCAUC(average="micro"), ArgumentError, "macro"),
        (lambda: metrics.perplexity(np.zeros((2, 3)), [0.0, 1.0]), DTypeError, "long"),
        (lambda: metrics.perplexity(np.zeros((2, 3)), [0, 1, 2]), ShapeError, "tokens"),
        (lambda: metrics.CalibrationError(norm="l3"), ArgumentError, "'max'"),
        (lambda: metrics.CalibrationError(n_bins=0), ArgumentError, "at least 1"),
        (lambda: metrics.word_error_rate(["a"], ["a", "b"]), ShapeError, "2 texts"),
        (lambda: metrics.word_error_rate([3], ["a"]), ArgumentError, "decode"),
        (lambda: metrics.MeanAveragePrecision("pascal"), ArgumentError, "voc07"),
        (lambda: metrics.MeanAveragePrecision(iou_thresholds=[50]), ArgumentError, "at most 1"),
        (lambda: metrics.MeanAveragePrecision().update([{}], [{}]), ArgumentError, "image 0"),
        (
            lambda: metrics.MeanAveragePrecision().update(
                [{"boxes": np.zeros((2, 4)), "scores": [1], "labels": [0, 0]}], [{"boxes": [], "labels": []}]
            ),
            ShapeError,
            "belong together",
        ),
    ],
)
def test_errors_name_the_fault(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_batches_of_other_columns():
    metric = metrics.ROCAUC()
    metric.update(np.zeros((2, 3)), [0, 1])
    with pytest.raises(ShapeError, match="3 columns"):
        metric.update(np.zeros((2, 4)), [0, 1])
