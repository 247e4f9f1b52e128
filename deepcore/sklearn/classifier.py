"""`DeepcoreClassifier`."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from deepcore.errors import ArgumentError
from deepcore.sklearn.estimator import DTYPES, Estimator, weights_of


class DeepcoreClassifier(ClassifierMixin, Estimator):
    """A network that classifies rows: one of several classes, or several labels of yes and no (a matrix of 0 and 1).

    The network is `hidden_layer_sizes` with `activation`, or what `module(n_features_in, n_outputs, **module__x)` builds, a
    class or function; its outputs are logits, one for each class (two for two classes) or label.
    loss: None is cross-entropy, for labels binary cross-entropy; a name ("cross_entropy"), a class or an object of
        `deepcore.nn`, or a function of (outputs, class numbers).
    optimizer: a name ("adam", "sgd", …) or class of `deepcore.optim`; its learning rate is `lr`.
    max_epochs: passes over the distinct rows. Training ends before where the loss, with `early_stopping` that of a part
        `validation_fraction` of the rows, has not fallen by more than `tol` for `n_iter_no_change` epochs (None: never).
        With early stopping the best epoch's weights are restored.
    class_weight: {label: weight}, or "balanced": Σw / (number of classes · Σw of the class).
    random_state: an integer, for the same bits in every fit; a RandomState; or None, which draws from NumPy's.
    backend: "cpu", "cuda", … as everywhere in deepcore. compile: run steps as programs (same bits, less time).
    verbose: as of `Trainer.fit`: 1 shows a progress bar, 2 a line for each epoch.
    warm_start: `fit` goes on with the module and optimizer of the call before.
    callbacks: `deepcore.train.Callback` objects, which are copied.
    `module__x`, `optimizer__x`, `loss__x`: further arguments, such as `optimizer__weight_decay=1e-4`.

    The dtype of X, float32 or float64, is that of the module; other data becomes float64, as everywhere in scikit-learn.
    A row of weight k is the same as k equal rows, and neither their order nor whether X is sparse makes a difference, to
    the bit. Sparse rows are made dense a batch at a time. The outputs of a row do not depend on other rows.

    Attributes: `classes_`, `n_features_in_`, `feature_names_in_` (of a table), `n_outputs_`, `n_iter_`, `module_`,
    `history_` (name: values of the epochs), `loss_curve_`, `validation_loss_curve_` (with early stopping).

    >>> DeepcoreClassifier(random_state=0).fit(X, y).predict_proba(X)
    """

    def __init__(
        self,
        module=None,
        *,
        hidden_layer_sizes=(100,),
        activation="relu",
        loss=None,
        optimizer="adam",
        lr=1e-3,
        batch_size=32,
        max_epochs=200,
        tol=1e-4,
        n_iter_no_change=10,
        early_stopping=False,
        validation_fraction=0.1,
        class_weight=None,
        random_state=None,
        backend=None,
        compile=True,
        verbose=0,
        warm_start=False,
        callbacks=None,
        **nested,
    ):
        self._store(locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train on X (n, features) and y: labels (n,), or a matrix of 0 and 1 (n, labels). Returns self."""
        X, y, weight = self._checked(X, y, sample_weight, reset=not self._resumes())
        multilabel = y.ndim == 2
        classes = np.arange(y.shape[1]) if multilabel else np.unique(y[weight > 0])
        resume = self._resumes()
        if resume and (multilabel != self._multilabel or not np.array_equal(classes, self.classes_)):
            raise ArgumentError(
                "warm_start goes on with the classes of the previous fit",
                expected=f"classes {self.classes_.tolist()}",
                received=f"classes {classes.tolist()}",
                fix="warm_start=False",
            )
        self._partial = False
        return self._fit(X, y, weight, classes, resume, None)

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """One pass over X and y, going on from the previous call of any fit. `classes`: all labels, in the first call."""
        first = not self.__sklearn_is_fitted__()
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if self.class_weight == "balanced":
            raise ArgumentError(
                "class_weight='balanced' needs all samples, and partial_fit sees a part",
                fix="the weights themselves: class_weight={label: weight}",
            )
        X, y, weight = self._checked(X, y, sample_weight, reset=first)
        classes = self.classes_ if classes is None else np.unique(np.asarray(classes))
        if not first and not np.array_equal(classes, self.classes_):
            raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, {self.classes_!r}")
        outside = [] if y.ndim == 2 else np.setdiff1d(y, classes).tolist()
        if outside or (y.ndim == 2 and y.shape[1] != len(classes)):
            raise ValueError(f"y has classes that are not among `classes`: {outside or y.shape}; classes={classes!r}")
        self._fit(X, y, weight, classes, not first, 1)
        self._partial = True
        return self

    def _resumes(self) -> bool:
        return bool(self.warm_start) and self.__sklearn_is_fitted__()

    def _checked(self, X, y, sample_weight, reset: bool):
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=DTYPES, multi_output=True, reset=reset)
        check_classification_targets(y)
        y = y.toarray() if hasattr(y, "toarray") else y
        if type_of_target(y).startswith("multilabel"):
            return X, y, weights_of(sample_weight, X)
        if y.ndim == 2 and y.shape[1] > 1:
            raise ValueError("Unknown label type: several columns of more than two classes. One classifier each, or "
                             "sklearn.multioutput.MultiOutputClassifier")  # fmt: skip
        return X, column_or_1d(y, warn=True), weights_of(sample_weight, X)

    def _fit(self, X, y, weight: np.ndarray, classes: np.ndarray, resume: bool, epochs: int | None):
        multilabel = y.ndim == 2
        target: Any = y.astype(X.dtype) if multilabel else np.searchsorted(classes, y).clip(max=len(classes) - 1)
        loss = "BCEWithLogitsLoss" if multilabel else "CrossEntropyLoss"
        self._train(X, target, weight, len(classes), resume, epochs, loss, self._class_weights(y, weight))
        self.classes_, self._multilabel, self._label_dtype = classes, multilabel, y.dtype
        self.n_outputs_ = len(classes)
        return self

    def _class_weights(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray | None:
        """`class_weight` of each row."""
        if self.class_weight is None:
            return None
        if not isinstance(self.class_weight, str):
            return compute_sample_weight(self.class_weight, y)
        if self.class_weight != "balanced":
            raise ArgumentError("class_weight is a dict, 'balanced' or None", received=repr(self.class_weight))
        factors = np.ones(len(y))
        for column in y.reshape(len(y), -1).T:  # with the samples' weights, so that these equal repetition
            numbers = np.unique(column, return_inverse=True)[1]
            sums = np.bincount(numbers, weight)
            factors *= (weight.sum() / (np.count_nonzero(sums) * np.where(sums > 0, sums, 1.0)))[numbers]
        return factors

    def decision_function(self, X):
        """Logits (n, classes) or (n, labels); of two classes, (n,): the second's minus the first's."""
        outputs = self._outputs(X)
        if self._multilabel or len(self.classes_) > 2:
            return outputs
        return outputs[:, -1] - outputs[:, 0]

    def predict(self, X):
        """The label of each row: that of the greatest logit. Of several labels, 1 where the logit is above 0."""
        outputs = self._outputs(X)
        if self._multilabel:
            return (outputs > 0).astype(self._label_dtype)
        return self.classes_[outputs.argmax(1)]

    def predict_proba(self, X):
        """The probability of each class (n, classes), which sum to 1; or of each label (n, labels)."""
        outputs = self._outputs(X)
        exact = outputs.astype(np.float64)
        return (expit(exact) if self._multilabel else softmax(exact, axis=1)).astype(outputs.dtype)

    def predict_log_proba(self, X):
        """The logarithm of `predict_proba`, also where that is 0 in its dtype."""
        outputs = self._outputs(X)
        exact = outputs.astype(np.float64)
        return (log_expit(exact) if self._multilabel else log_softmax(exact, axis=1)).astype(outputs.dtype)
