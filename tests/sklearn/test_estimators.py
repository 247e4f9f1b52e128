"""scikit-learn's own checks of the three estimators, and what its users do with them."""

from __future__ import annotations

import copy
import os
import pickle
import runpy
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import io, nn, optim
from deepcore.errors import ArgumentError, ArgumentTypeError, BackendError, DeepcoreError, ShapeError
from deepcore.train import Callback, LambdaCallback

sklearn = pytest.importorskip("sklearn", "1.6")

from scipy import sparse  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import Pipeline, make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler, scale  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from deepcore.sklearn import DeepcoreAutoencoder, DeepcoreClassifier, DeepcoreRegressor  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ESTIMATORS = [DeepcoreClassifier, DeepcoreRegressor, DeepcoreAutoencoder]
QUICK = {"max_epochs": 20, "lr": 0.01}
OUTPUTS = ("predict", "predict_proba", "decision_function", "transform")

X, NUMBERS = load_iris(return_X_y=True)
X = scale(X)
NAMES = load_iris().target_names[NUMBERS]


def classifier(**parameters):
    return DeepcoreClassifier(**{**QUICK, "random_state": 0, **parameters})


def fitted(cls, data=X, **parameters):
    return cls(**{**QUICK, "random_state": 0, **parameters}).fit(data, NUMBERS)


def outputs(estimator, data=X):
    return {name: getattr(estimator, name)(data) for name in OUTPUTS if hasattr(estimator, name)}


def same_bits(a, b):
    assert a.keys() == b.keys() and a
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# -- scikit-learn's checks --------------------------------------------------------------------------------
@parametrize_with_checks([cls(**QUICK) for cls in ESTIMATORS])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("name", [cls.__name__ for cls in ESTIMATORS])
def test_all_checks_pass_with_the_defaults(name):
    """None fails and none is skipped; the one of array APIs needs the variable."""
    code = (
        "from sklearn.utils.estimator_checks import check_estimator\n"
        f"from deepcore.sklearn import {name}\n"
        f"print(*[(r['check_name'], r['status']) for r in check_estimator({name}(), on_fail=None)], sep='\\n')\n"
    )
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    results = done.stdout.splitlines()
    assert len(results) > 45
    assert [line for line in results if "'passed'" not in line] == []


def test_without_scikit_learn_the_extra_is_named(tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('none here')")
    code = (
        "import deepcore as dc\nfrom deepcore.errors import MissingDependencyError\n"
        "try:\n    dc.sklearn\nexcept MissingDependencyError as error:\n    print(error)"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert "deepcore-nn[sklearn]" in done.stdout and "none here" in done.stdout, done.stderr


# -- rows and weights: to the bit -------------------------------------------------------------------------
@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_are_repetition_in_any_order_dense_or_sparse(cls, dtype):
    rng = np.random.default_rng(0)
    data = np.where(rng.random((60, 5)) < 0.5, 0, rng.standard_normal((60, 5))).astype(dtype)
    y = rng.integers(0, 3, 60)
    weight = rng.integers(0, 4, 60)
    order = rng.permutation(int(weight.sum()))

    def fit(X, y, sample_weight=None):
        one = cls(**QUICK, random_state=3, batch_size=7)  # several batches, so that their content counts
        one.fit(X, y, sample_weight=sample_weight)
        return outputs(one, data)

    weighted = fit(data, y, weight)
    same_bits(weighted, fit(data.repeat(weight, 0)[order], y.repeat(weight)[order]))
    same_bits(weighted, fit(data, y, 0.25 * weight))
    same_bits(weighted, fit(sparse.csc_array(data), y, weight))
    explicit = sparse.csr_array(data)
    explicit.data[0] = 0
    changed = data.copy()
    changed[0, explicit.indices[0]] = 0
    same_bits(fit(explicit, y, weight), fit(changed, y, weight))
    unweighted = fit(data, y)
    assert any((weighted[name] != unweighted[name]).any() for name in weighted)


def test_class_weights_are_sample_weights():
    weight = np.array([1.0, 5.0, 0.5])[NUMBERS]
    by_class = outputs(classifier(class_weight={"setosa": 1.0, "versicolor": 5.0, "virginica": 0.5}).fit(X, NAMES))
    same_bits(by_class, outputs(classifier().fit(X, NAMES, sample_weight=weight)))
    repeats = np.array([1, 2, 3])[NUMBERS]
    balanced = classifier(class_weight="balanced")
    repeated = outputs(clone(balanced).fit(X.repeat(repeats, 0), NAMES.repeat(repeats)))
    same_bits(repeated, outputs(balanced.fit(X, NAMES, sample_weight=repeats)))


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outputs_of_a_row_do_not_depend_on_others(cls, dtype):
    one = fitted(cls, X.astype(dtype))
    data = np.random.default_rng(1).standard_normal((131, 4)).astype(dtype)
    whole = outputs(one, data)
    rows = [outputs(one, data[[i]]) for i in range(len(data))]
    same_bits(whole, {name: np.concatenate([row[name] for row in rows]) for name in whole})
    same_bits(whole, {name: value[::-1] for name, value in outputs(one, data[::-1]).items()})
    assert all(value.dtype == dtype for name, value in whole.items() if name != "predict" or cls is DeepcoreRegressor)


# -- seeds, backends and programs -------------------------------------------------------------------------
def noisy(inputs, classes, rate=0.3):
    return nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, classes))


def test_seeds():
    one = classifier(module=noisy).fit(X, NAMES)
    dc.manual_seed(5)
    before = dc.get_rng_state()
    same_bits(outputs(one), outputs(classifier(module=noisy).fit(X, NAMES)))
    assert dc.get_rng_state() == before
    other = outputs(classifier(module=noisy, random_state=1).fit(X, NAMES))
    assert (outputs(one)["predict_proba"] != other["predict_proba"]).any()
    np.random.seed(7)
    first = classifier(random_state=None).fit(X, NAMES).predict_proba(X)
    np.random.seed(7)
    np.testing.assert_array_equal(first, classifier(random_state=None).fit(X, NAMES).predict_proba(X))


def test_compiled_and_eager_are_equal():
    same_bits(
        outputs(classifier(module=noisy).fit(X, NAMES)), outputs(classifier(module=noisy, compile=False).fit(X, NAMES))
    )


def test_backends(backend):
    data, y = X[::5], NAMES[::5]
    short = {"max_epochs": 2, "module": noisy, "module__rate": 0.0}
    one = classifier(backend=backend, **short).fit(data, y)
    assert next(one.module_.parameters()).backend == backend
    expected = classifier(**short).fit(data, y).predict_proba(data)
    np.testing.assert_allclose(one.predict_proba(data), expected, rtol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one)).predict_proba(data), one.predict_proba(data))


# -- pickles ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies(cls, duplicate):
    one = fitted(cls, warm_start=True)
    two = duplicate(one)
    same_bits(outputs(one), outputs(two))
    same_bits(outputs(one), outputs(duplicate(duplicate(one))))
    three = duplicate(one)
    three.set_params(hidden_layer_sizes=(3,))  # of the next fit, not of this one
    same_bits(outputs(one), outputs(duplicate(three)))
    same_bits(outputs(one.fit(X, NUMBERS)), outputs(two.fit(X, NUMBERS)))  # the optimizer and the seed go on, too


def test_pickles_hold_safetensors_and_no_module():
    one = fitted(DeepcoreClassifier)
    state = one.__getstate__()
    assert not [value for value in state.values() if isinstance(value, (nn.Module, optim.Optimizer, dc.Tensor))]
    restored = io.from_bytes(state["_state"])
    assert restored["optimizer"] is None
    assert restored["module"].keys() == one.module_.state_dict().keys()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            classes.add(f"{module}.{name}")
            return super().find_class(module, name)

    classes: set[str] = set()
    Unpickler(BytesIO(pickle.dumps(one))).load()
    assert {c for c in classes if c.startswith("deepcore")} == {"deepcore.sklearn.classifier.DeepcoreClassifier"}
    with pytest.raises(BackendError):
        pickle.loads(pickle.dumps(one)).set_params(backend="cuda:93").predict(X)


def test_callbacks_are_copied():
    class Counting(Callback):
        def __init__(self, seen):
            self.seen = seen

        def on_epoch_end(self, epoch, logs):
            self.seen.append(epoch)

    epochs: list[int] = []
    counting, plain = Counting([]), LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    one = classifier(max_epochs=3, callbacks=[counting, plain]).fit(X, NAMES)
    assert epochs == [0, 1, 2] and counting.seen == [] and not hasattr(counting, "trainer")
    assert clone(one).callbacks[0].seen == []


# -- inside scikit-learn's tools ----------------------------------------------------------------------------
def test_pipeline_grid_search_and_processes():
    steps = [("scale", StandardScaler()), ("net", classifier(optimizer="sgd", lr=0.05, optimizer__momentum=0.5))]
    grid = {
        "net__hidden_layer_sizes": [(4,), (16, 8)],
        "net__optimizer__momentum": [0.0, 0.9],
        "net__activation": ["tanh"],
    }
    search = GridSearchCV(Pipeline(steps), grid, cv=2).fit(X, NAMES)
    assert search.best_score_ > 0.9
    assert search.best_params_["net__optimizer__momentum"] == 0.9
    best = search.best_estimator_["net"]
    assert best.module_[0].out_features == search.best_params_["net__hidden_layer_sizes"][0]
    assert set(search.predict(X)) <= set(NAMES)


@pytest.mark.slow
def test_processes_give_the_same_scores():
    pipeline = make_pipeline(StandardScaler(), classifier())
    alone = cross_val_score(pipeline, X, NAMES, cv=4)
    np.testing.assert_array_equal(alone, cross_val_score(pipeline, X, NAMES, cv=4, n_jobs=2))
    np.testing.assert_array_equal(
        alone, cross_val_score(clone(pipeline).set_params(deepcoreclassifier__callbacks=[]), X, NAMES, cv=4, n_jobs=2)
    )


def test_threads_give_the_same_scores():
    joblib = pytest.importorskip("joblib")
    alone = cross_val_score(classifier(module=noisy), X, NAMES, cv=4)
    with joblib.parallel_backend("threading", n_jobs=2):
        np.testing.assert_array_equal(alone, cross_val_score(classifier(module=noisy), X, NAMES, cv=4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration(dtype, method):
    one = CalibratedClassifierCV(classifier(), cv=3, method=method).fit(X.astype(dtype), NAMES)
    np.testing.assert_allclose(one.predict_proba(X).sum(1), 1, rtol=1e-6)
    assert one.score(X, NAMES) > 0.85


def test_tables():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    one = classifier().fit(table, pandas.Series(NAMES))
    assert list(one.feature_names_in_) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(one.predict(table), classifier().fit(X, NAMES).predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        one.predict(table[["d", "c", "b", "a"]])
    codes = fitted(DeepcoreAutoencoder, table, n_components=3).set_output(transform="pandas").transform(table)
    assert list(codes.columns) == [f"deepcoreautoencoder{i}" for i in range(3)]


def test_memory_maps_are_read(tmp_path):
    for name, array in (("X", X), ("y", NUMBERS)):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "Xy"]
    assert classifier().fit(*mapped).score(*mapped) > 0.85


# -- parameters ---------------------------------------------------------------------------------------------
def test_nested_parameters():
    one = classifier(module=noisy, module__rate=0.5, optimizer__weight_decay=0.1)
    assert {"module__rate": 0.5, "optimizer__weight_decay": 0.1}.items() <= clone(one).get_params().items()
    one.set_params(module__rate=0.25, loss__label_smoothing=0.1, max_epochs=1)
    assert one.fit(X, NAMES).module_[3].p == 0.25
    assert "module__rate=0.25" in repr(one)
    assert type(one._optimizer) is optim.Adam and one._optimizer.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"module": nn.Linear(4, 3)}, ArgumentTypeError, "builds a Module"),
        ({"module": lambda i, o: 3}, ArgumentTypeError, "returns a Module"),
        ({"module": lambda i, o: nn.Linear(i, 1)}, ShapeError, r"(?s)n_outputs numbers.*\(n, 3\).*\(n, 1\)"),
        ({"module": nn.Linear, "module__bas": 1}, ArgumentTypeError, "(?s)module__bas.*'bias'"),
        ({"module__bias": True}, ArgumentError, "module is None"),
        ({"optimizer": "adm"}, ArgumentError, "no optimizer named 'adm'"),
        ({"optimizer__lr": 0.1}, ArgumentTypeError, r"(?s)optimizer__lr.*lr=0\.1"),
        ({"optimizer__betta": 1}, ArgumentTypeError, "(?s)optimizer__betta.*'betas'"),
        ({"loss": "cross"}, ArgumentError, "no loss named 'cross'"),
        ({"loss": nn.CrossEntropyLoss(), "loss__weight": 1}, ArgumentError, "loss is an object"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, ArgumentError, "one number"),
        ({"activation": "rel"}, ArgumentError, "no layer named 'rel'"),
        ({"hidden_layer_sizes": (3, 0)}, ArgumentError, "hidden_layer_sizes"),
        ({"batch_size": 0}, ArgumentError, "batch_size"),
        ({"max_epochs": 2.5}, ArgumentError, "max_epochs"),
        ({"lr": -1}, ArgumentError, "lr is negative"),
        ({"tol": -1}, ArgumentError, "tol is negative"),
        ({"validation_fraction": 1.0}, ArgumentError, "validation_fraction"),
        ({"class_weight": "balance"}, ArgumentError, "class_weight"),
        ({"class_weight": dict.fromkeys(set(NAMES), 0)}, ValueError, "weights are zero"),
        ({"callbacks": [Callback]}, DeepcoreError, "callback"),
    ],
)
def test_parameters_that_are_refused_by_fit(parameters, error, said):
    with pytest.raises(error, match=said):
        classifier(**parameters).fit(X, NAMES)


def test_names_that_are_refused_at_once():
    with pytest.raises(TypeError, match=r"(?s)no parameter 'hidden_layers'.*hidden_layer_sizes"):
        DeepcoreClassifier(hidden_layers=3)
    with pytest.raises(ValueError, match="Invalid parameter 'hidden'"):
        DeepcoreClassifier().set_params(hidden=3)


def test_a_failed_fit_keeps_the_model():
    one = classifier().fit(X, NAMES)
    before = outputs(one)
    with pytest.raises(ArgumentError):
        one.set_params(optimizer="adm").fit(X, NAMES)
    same_bits(before, outputs(one))


def test_before_fit():
    for cls in ESTIMATORS:
        assert not hasattr(cls(), "module_")
    with pytest.raises(NotFittedError):
        DeepcoreAutoencoder().inverse_transform(X)


# -- training -------------------------------------------------------------------------------------------------
def test_early_stopping_keeps_the_best_epoch():
    rng = np.random.default_rng(0)
    y = np.where(rng.random(150) < 0.3, rng.permutation(NUMBERS), NUMBERS)  # noise, which is learnt by heart
    one = classifier(early_stopping=True, validation_fraction=0.3, max_epochs=300, n_iter_no_change=5).fit(X, y)
    losses = one.validation_loss_curve_
    assert one.n_iter_ == len(losses) == len(one.loss_curve_) < 300
    assert min(losses) < losses[-1]
    short = clone(one).set_params(early_stopping=False, tol=None, max_epochs=3).fit(X, y)
    assert short.n_iter_ == 3 and not hasattr(short, "validation_loss_curve_")
    assert not hasattr(one.set_params(early_stopping=False).fit(X, y), "validation_loss_curve_")
    with pytest.raises(ValueError, match="n_samples=1"):
        classifier(early_stopping=True).fit(X[:1], y[:1])


def test_training_stops_where_the_loss_does_not_fall():
    assert classifier(max_epochs=500, tol=0.1, n_iter_no_change=3).fit(X, NAMES).n_iter_ < 50
    assert classifier(max_epochs=40, tol=10.0, n_iter_no_change=None).fit(X, NAMES).n_iter_ == 40


def test_partial_fit_and_warm_start():
    parts = [slice(0, 75), slice(75, 150)]
    one = DeepcoreClassifier(random_state=0, lr=0.01)
    with pytest.raises(ValueError, match="classes must be passed"):
        one.partial_fit(X, NAMES)
    for _ in range(20):
        for part in parts:
            one.partial_fit(X[part], NAMES[part], classes=np.unique(NAMES))
    assert one.n_iter_ == len(one.loss_curve_) == 40
    assert one.score(X, NAMES) > 0.9
    with pytest.raises(ValueError, match="not among"):
        one.partial_fit(X, NUMBERS.astype(str))
    with pytest.raises(ArgumentError, match="balanced"):
        one.set_params(class_weight="balanced").partial_fit(X, NAMES)

    warm = classifier(warm_start=True, max_epochs=5).fit(X, NAMES)
    first = warm.loss_curve_
    module = warm.module_
    assert warm.fit(X.astype(np.float32), NAMES).module_ is module  # a dtype of its own stays
    assert warm.loss_curve_[:5] == first and warm.n_iter_ == 10 and warm.loss_curve_[5] < first[0]
    with pytest.raises(ArgumentError, match="warm_start"):
        warm.fit(X, NUMBERS)

    regressor = DeepcoreRegressor(random_state=0).partial_fit(X, NUMBERS).partial_fit(X, NUMBERS)
    assert regressor.n_iter_ == 2
    with pytest.raises(ArgumentError, match="as many outputs"):
        regressor.partial_fit(X, X)
    coder = DeepcoreAutoencoder(random_state=0).partial_fit(X).partial_fit(X)
    assert coder.n_iter_ == 2
    with pytest.raises(ArgumentError, match="as many components"):
        coder.set_params(n_components=3).partial_fit(X)


# -- each estimator -------------------------------------------------------------------------------------------
def test_one_class_one_sample_one_feature():
    assert (classifier().fit(X, np.full(150, "only")).predict(X) == "only").all()
    assert classifier().fit(X[:1], NAMES[:1]).predict(X[:2]).tolist() == ["setosa"] * 2
    assert classifier().fit(X[:, 2:3], NAMES).score(X[:, 2:3], NAMES) > 0.8
    assert DeepcoreRegressor(**QUICK).fit(X[:1], [2.0]).predict(X[:2]).shape == (2,)
    assert DeepcoreAutoencoder(**QUICK).fit(X[:1, :1]).transform(X[:2, :1]).shape == (2, 2)


def test_classes_whose_weights_are_zero_are_unknown():
    one = classifier().fit(X, NAMES, sample_weight=(NUMBERS != 1).astype(float))
    assert one.classes_.tolist() == ["setosa", "virginica"]
    assert one.decision_function(X).shape == (150,)


def test_binary_decisions():
    y = NAMES == "virginica"
    one = classifier().fit(X, y)
    decision = one.decision_function(X)
    np.testing.assert_array_equal(one.predict(X), decision > 0)
    np.testing.assert_allclose(one.predict_proba(X)[:, 1], 1 / (1 + np.exp(-decision)), rtol=1e-12)
    np.testing.assert_allclose(np.exp(one.predict_log_proba(X)), one.predict_proba(X), rtol=1e-12)


def test_labels():
    data, y = make_multilabel_classification(200, 6, n_classes=4, random_state=0)
    data = scale(data)
    one = classifier(max_epochs=60).fit(data, y)
    assert one.classes_.tolist() == [0, 1, 2, 3] and one.score(data, y) > 0.6
    probabilities = one.predict_proba(data)
    np.testing.assert_array_equal(one.predict(data), probabilities > 0.5)
    np.testing.assert_allclose(np.exp(one.predict_log_proba(data)), probabilities, rtol=1e-12)
    same_bits(outputs(one, data), outputs(classifier(max_epochs=60).fit(data, sparse.csr_array(y)), data))
    assert classifier(class_weight="balanced").fit(data, y).predict(data).sum() > one.predict(data).sum()
    with pytest.raises(ValueError, match="Unknown label type"):
        classifier().fit(data, y * 2 + 1 + np.arange(200)[:, None] % 3)


def test_other_losses():
    for loss in (
        "cross_entropy",
        nn.CrossEntropyLoss,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.functional.cross_entropy,
    ):
        assert classifier(loss=loss).fit(X, NAMES, sample_weight=1.0 + NUMBERS).score(X, NAMES) > 0.85

    def own(output, target):
        return -(output.log_softmax(1)[dc.arange(len(target)), target]).mean()

    twice = np.concatenate([X, X])
    one = classifier(loss=own).fit(twice, np.concatenate([NAMES, NAMES]))
    assert one.score(X, NAMES) > 0.85
    with pytest.raises(ArgumentError, match="takes no weights"):
        classifier(loss=own).fit(X, NAMES, sample_weight=1.0 + NUMBERS)
    half = (np.arange(150) % 2).astype(float)
    chosen = half > 0
    same_bits(
        outputs(classifier(loss=own).fit(X, NAMES, sample_weight=half)),
        outputs(classifier(loss=own).fit(X[chosen], NAMES[chosen])),
    )


@pytest.mark.parametrize("loss", [None, "huber", "l1"])
def test_regression_of_several_numbers(loss):
    data, y = load_diabetes(return_X_y=True)
    data, targets = scale(data), scale(np.stack([y, -2 * y, data[:, 2]], 1))
    one = DeepcoreRegressor(loss=loss, random_state=0, max_epochs=60).fit(data, targets)
    assert one.predict(data).shape == targets.shape and one.n_outputs_ == 3
    assert one.score(data, targets) > 0.6
    column = DeepcoreRegressor(random_state=0, max_epochs=3).fit(data, targets[:, :1])
    assert column.predict(data).shape == (len(data), 1)
    with pytest.raises(ValueError, match="features"):
        one.predict(data[:, :2])


def test_weighted_loss_is_the_mean_of_weighted_losses():
    """One full batch of plain gradient descent, by hand."""
    rng = np.random.default_rng(0)
    data, y, weight = rng.standard_normal((10, 3)), rng.standard_normal((10, 2)), rng.random(10)
    one = DeepcoreRegressor(nn.Linear, module__bias=False, optimizer="sgd", lr=0.1, random_state=0, batch_size=10)
    start = clone(one).set_params(lr=1e-300, max_epochs=1).fit(data, y).module_.weight.detach().numpy()
    one.set_params(max_epochs=1).fit(data, y, sample_weight=weight)
    residual = data @ start.T - y
    gradient = (residual * weight[:, None] / weight.sum()).T @ data  # of the mean over the two outputs
    np.testing.assert_allclose(one.module_.weight.detach().numpy(), start - 0.1 * gradient, rtol=1e-12)


class TestAutoencoder:
    def test_reconstructs(self):
        one = DeepcoreAutoencoder(n_components=2, random_state=0, max_epochs=100).fit(X)
        codes = one.transform(X)
        again = one.inverse_transform(codes)
        assert codes.shape == (150, 2) and again.shape == X.shape
        assert one.score(X) == pytest.approx(-np.mean((again - X) ** 2))
        assert one.score(X) > -0.1  # 1.0 is the variance; the best plane leaves 0.042
        np.testing.assert_array_equal(one.transform(sparse.csr_array(X)), codes)
        with pytest.raises(ValueError, match="codes have 2"):
            one.inverse_transform(X)

    def test_searches_and_own_modules(self):
        class Linear(nn.Module):
            def __init__(self, inputs, components, bias=True):
                super().__init__()
                self.encoder, self.decoder = nn.Linear(inputs, components, bias), nn.Linear(components, inputs, bias)

            def forward(self, x):
                return self.decoder(self.encoder(x))

        base = DeepcoreAutoencoder(module=Linear, module__bias=False, random_state=0, lr=0.02, max_epochs=60)
        search = GridSearchCV(base, {"n_components": [1, 3]}, cv=3).fit(X)
        assert search.best_params_ == {"n_components": 3}
        assert search.best_estimator_.module_.encoder.bias is None
        with pytest.raises(ArgumentError, match="submodules encoder and decoder"):
            DeepcoreAutoencoder(module=nn.Linear).fit(X)
        with pytest.raises(ArgumentError, match="n_components"):
            DeepcoreAutoencoder(0).fit(X)


def test_subclasses():
    class Mine(DeepcoreRegressor):
        def predict(self, X):
            return 2 * super().predict(X)

    one = clone(Mine(lr=0.1, optimizer__eps=1e-6)).set_params(**QUICK, random_state=0)
    np.testing.assert_array_equal(
        one.fit(X, NUMBERS).predict(X), 2 * fitted(DeepcoreRegressor, optimizer__eps=1e-6).predict(X)
    )


def test_fit_prints_only_when_asked(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(max_epochs=2).fit(X, NAMES)
        assert capsys.readouterr() == ("", "")
        classifier(max_epochs=2, verbose=2).fit(X, NAMES)
    assert "loss" in capsys.readouterr().out


def test_the_page_of_documentation_runs(tmp_path):
    pytest.importorskip("pandas")
    parts = (ROOT / "docs" / "sklearn.md").read_text(encoding="utf-8").split("```python\n")[1:]
    code = "\n".join(part.partition("```")[0] for part in parts)
    assert code.count("assert") == len(parts) == 4
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "page.py"), run_name="page")  # a module, so that its function can be pickled
