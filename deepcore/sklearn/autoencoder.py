"""`DeepcoreAutoencoder`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from deepcore import nn
from deepcore.errors import ArgumentError
from deepcore.sklearn.estimator import DTYPES, Estimator, hidden_sizes, perceptron, weights_of
from deepcore.sklearn.rows import dense


class DeepcoreAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """A network that codes a row in `n_components` numbers, from which it reconstructs the row.

    `transform` is the encoder, with `hidden_layer_sizes`; `inverse_transform` the decoder, with these in reverse. `module`
    builds, from (n_features_in, n_components, **module__x), a Module whose forward reconstructs, with submodules `encoder`
    and `decoder`. loss: None is the mean squared error between a row and its reconstruction.

    Other parameters and attributes as `DeepcoreClassifier`, without `class_weight` and `classes_`. Scale X first.
    """

    _n_features_out: int

    def __init__(
        self,
        n_components=2,
        *,
        module=None,
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
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X, y=None, sample_weight=None):
        """Train on X (n, features); y is ignored. Returns self."""
        resume = bool(self.warm_start) and self.__sklearn_is_fitted__()
        self._fit(X, sample_weight, resume, None)
        self._partial = False
        return self

    def partial_fit(self, X, y=None, sample_weight=None):
        """One pass over X, going on from the previous call of any fit; y is ignored."""
        self._fit(X, sample_weight, self.__sklearn_is_fitted__(), 1)
        self._partial = True
        return self

    def _fit(self, X, sample_weight, resume: bool, epochs: int | None) -> None:
        count = self.n_components
        if not hasattr(count, "__index__") or isinstance(count, (bool, np.ndarray)) or count < 1:
            raise ArgumentError("n_components is a whole number of at least 1", received=repr(count))
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=not resume)
        if resume and count != self._n_features_out:
            raise ArgumentError(
                "training goes on with as many components as before",
                expected=f"n_components={self._n_features_out}",
                received=f"n_components={count}",
                fix="warm_start=False",
            )
        self._train(X, None, weights_of(sample_weight, X), int(count), resume, epochs)
        self._n_features_out = int(count)

    def _default_module(self, recipe: dict[str, Any]) -> nn.Module:
        sizes = [recipe["inputs"], *hidden_sizes(recipe), recipe["outputs"]]
        module = nn.Sequential()
        module.add_module("encoder", perceptron(sizes, recipe["activation"]))
        module.add_module("decoder", perceptron(sizes[::-1], recipe["activation"]))
        return module

    def _check_module(self, module: nn.Module) -> None:
        parts = dict(module.named_children())
        if not {"encoder", "decoder"} <= parts.keys():
            raise ArgumentError(
                "an autoencoder's module has submodules encoder and decoder",
                received=f"a {type(module).__name__} with {', '.join(parts) or 'no submodules'}",
                fix="self.encoder, self.decoder = …; forward returns self.decoder(self.encoder(x))",
            )

    def _check_outputs(self, module: nn.Module, X, recipe: dict[str, Any]) -> None:
        super()._check_outputs(module.encoder, X, recipe)
        super()._check_outputs(module, X, {**recipe, "outputs": recipe["inputs"]})

    def transform(self, X):
        """The codes (n, n_components) of the rows, in the module's dtype."""
        return self._outputs(X, lambda module: module.encoder)

    def inverse_transform(self, X):
        """The rows (n, features) that the decoder makes of codes."""
        check_is_fitted(self)
        X = check_array(X, accept_sparse="csr", dtype=DTYPES)
        if X.shape[1] != self._n_features_out:
            raise ValueError(f"X has {X.shape[1]} features, but codes have {self._n_features_out}: n_components")
        return self._run(self.module_.decoder, X, self._recipe["dtype"])

    def score(self, X, y=None):
        """The mean squared error of the reconstruction, negative, so that greater is better; y is ignored."""
        check_is_fitted(self)
        outputs = self._outputs(X)
        X = dense(validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False))
        return -float(np.mean((outputs.astype(np.float64) - X) ** 2))
