"""Metrics: functions of (output, target), and the streaming objects that `Trainer(metrics=…)` names.

Every metric of classification reads classes by `task`:

    "multiclass"   output (N, C, *): the class is the largest of C; target (N, *) class numbers, or (N, C, *), whose class
                   is the largest of C, too: one-hot rows or probabilities (rows of zeros do not count)
    "multilabel"   output and target of one shape, (N, L, *), or (N,) and (N, 1): each element is a yes or no of its own,
                   yes where output > `threshold`; target 0 or 1, or between them (yes above 0.5)
    None           in a Trainer what the loss says. Elsewhere the shapes decide: "multiclass" with several columns, yes or
                   no (target 0 or 1) with one; whole numbers of one shape are classes already

`threshold` is 0 for logits and 0.5 for probabilities; None: what the loss says, and 0 elsewhere.
"""

from __future__ import annotations

from deepcore.metrics.base import METRICS, Metric, get
from deepcore.metrics.classification import (
    F1,
    TASKS,
    Accuracy,
    ConfusionMatrix,
    Dice,
    JaccardIndex,
    Precision,
    Recall,
    TopKAccuracy,
    accuracy,
    confusion_matrix,
    dice,
    f1,
    jaccard_index,
    precision,
    recall,
    top_k_accuracy,
)
from deepcore.metrics.detection import MeanAveragePrecision, box_iou
from deepcore.metrics.probability import CalibrationError, Perplexity, calibration_error, perplexity
from deepcore.metrics.ranking import (
    ROCAUC,
    AveragePrecision,
    PrecisionRecallCurve,
    average_precision,
    precision_recall_curve,
    roc_auc,
)
from deepcore.metrics.regression import (
    R2,
    MeanAbsoluteError,
    MeanSquaredError,
    mean_absolute_error,
    mean_squared_error,
    r2,
)
from deepcore.metrics.tables import check_matrix, format_confusion_matrix
from deepcore.metrics.text import CharErrorRate, WordErrorRate, char_error_rate, edit_distance, word_error_rate

__all__ = [
    "F1",
    "METRICS",
    "R2",
    "ROCAUC",
    "TASKS",
    "Accuracy",
    "AveragePrecision",
    "CalibrationError",
    "CharErrorRate",
    "ConfusionMatrix",
    "Dice",
    "JaccardIndex",
    "MeanAbsoluteError",
    "MeanAveragePrecision",
    "MeanSquaredError",
    "Metric",
    "Perplexity",
    "Precision",
    "PrecisionRecallCurve",
    "Recall",
    "TopKAccuracy",
    "WordErrorRate",
    "accuracy",
    "average_precision",
    "box_iou",
    "calibration_error",
    "char_error_rate",
    "check_matrix",
    "confusion_matrix",
    "dice",
    "edit_distance",
    "f1",
    "format_confusion_matrix",
    "get",
    "jaccard_index",
    "mean_absolute_error",
    "mean_squared_error",
    "perplexity",
    "precision",
    "precision_recall_curve",
    "r2",
    "recall",
    "roc_auc",
    "top_k_accuracy",
    "word_error_rate",
]
