"""scikit-learn estimators: `DeepcoreClassifier`, `DeepcoreRegressor` and `DeepcoreAutoencoder`.

Needs scikit-learn 1.6 or later, which nothing else in deepcore imports.
"""

from __future__ import annotations

from deepcore.errors import MissingDependencyError

try:
    from sklearn.utils.validation import validate_data as _  # since 1.6
except ImportError as _error:
    raise MissingDependencyError(
        "deepcore.sklearn needs scikit-learn 1.6 or later",
        received=str(_error),
        fix='pip install "deepcore-nn[sklearn]"',
    ) from None

from deepcore.sklearn.autoencoder import DeepcoreAutoencoder
from deepcore.sklearn.classifier import DeepcoreClassifier
from deepcore.sklearn.regressor import DeepcoreRegressor

__all__ = ["DeepcoreAutoencoder", "DeepcoreClassifier", "DeepcoreRegressor"]
