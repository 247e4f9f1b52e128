"""`DeepcoreRegressor`."""

from __future__ import annotations

from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data

from deepcore.errors import ArgumentError
from deepcore.sklearn.estimator import DTYPES, Estimator, weights_of


class DeepcoreRegressor(RegressorMixin, Estimator):
    """A network that predicts one number a row, or several.

    Parameters and attributes as `DeepcoreClassifier`, without `class_weight` and `classes_`. The module has one output for
    each column of y. loss: None is the mean squared error; others are "l1", "huber", "smooth_l1", …

    Scale y where its numbers are far from 1, as with `sklearn.compose.TransformedTargetRegressor`.
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
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train on X (n, features) and y (n,) or (n, outputs). Returns self."""
        resume = bool(self.warm_start) and self.__sklearn_is_fitted__()
        self._fit(X, y, sample_weight, resume, None)
        self._partial = False
        return self

    def partial_fit(self, X, y, sample_weight=None):
        """One pass over X and y, going on from the previous call of any fit."""
        self._fit(X, y, sample_weight, self.__sklearn_is_fitted__(), 1)
        self._partial = True
        return self

    def _fit(self, X, y, sample_weight, resume: bool, epochs: int | None) -> None:
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=DTYPES, multi_output=True, y_numeric=True, reset=not resume
        )
        columns = y.reshape(len(y), -1)
        if resume and columns.shape[1] != self.n_outputs_:
            raise ArgumentError(
                "training goes on with as many outputs as before",
                expected=f"y of {self.n_outputs_} columns",
                received=f"y of {columns.shape[1]}",
                fix="a new estimator: sklearn.base.clone(estimator)",
            )
        weight = weights_of(sample_weight, X)
        self._train(X, columns.astype(X.dtype), weight, columns.shape[1], resume, epochs)
        self.n_outputs_, self._flat = columns.shape[1], y.ndim == 1

    def predict(self, X):
        """(n,), or (n, outputs) where y had that shape, in the module's dtype."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._flat else outputs
