"""Training as Keras's users know it: arguments of fit, names, weights, several outputs, streams, callbacks."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn, optim
from deepcore.errors import ArgumentError, ConfigError, DataError, DeepcoreWarning, OutOfMemoryError, ShapeError
from deepcore.train import (
    BackupAndRestore,
    Callback,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    Trainer,
)
from deepcore.train import names as names_

N, FEATURES, CLASSES = 22, 6, 3
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, FEATURES)).astype(np.float32)
Y = X[:, :CLASSES].argmax(1)
W = RNG.uniform(0.1, 3, N).astype(np.float32)


def trainer(backend="cpu", loss="cross_entropy", optimizer=None, model=None, **options):
    dc.manual_seed(5)
    model = model or nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES))
    model.to(backend)
    optimizer = optimizer or optim.SGD(model.parameters(), lr=0.1)
    return Trainer(model, optimizer, loss, **{"seed": 7, **options})


def state(t):
    return {name: (v.dtype, v.numpy(force=True).tobytes()) for name, v in t.model.state_dict().items()}


def cross_entropies(model, x, y):
    """The loss of each sample, in float64."""
    z = model(dc.tensor(x)).numpy(force=True).astype(np.float64)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]


# -- data ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["positional", "named", "lists", "tuple"])
def test_forms_of_the_same_data(form, backend):
    calls = {
        "positional": lambda t, **kw: t.fit(X, Y, **kw),
        "named": lambda t, **kw: t.fit(x=X, y=Y, **kw),
        "lists": lambda t, **kw: t.fit(X.tolist(), Y.tolist(), **kw),
        "tuple": lambda t, **kw: t.fit((X, Y), **kw),
    }
    t, reference = trainer(backend), trainer(backend)
    calls[form](t, epochs=2, batch_size=8, verbose=0)
    reference.fit(dc.data.TensorDataset(X, Y), epochs=2, batch_size=8, verbose=0)
    assert state(t) == state(reference) and t.history["loss"] == reference.history["loss"]


def test_the_validation_split_is_the_last_samples_before_shuffling():
    t, apart = trainer(), trainer()
    t.fit(X, Y, validation_split=0.25, epochs=2, batch_size=8, verbose=0)
    cut = math.floor(N * 0.75)
    apart.fit(X[:cut], Y[:cut], validation_data=(X[cut:], Y[cut:]), epochs=2, batch_size=8, verbose=0)
    assert state(t) == state(apart) and t.history.history == apart.history.history
    with_dataset = trainer()
    with_dataset.fit(dc.data.TensorDataset(X, Y), validation_split=0.25, epochs=2, batch_size=8, verbose=0)
    assert state(with_dataset) == state(t)


def test_history_as_in_keras():
    t = trainer(metrics=["accuracy"])
    history = t.fit(X, Y, validation_data=(X, Y), initial_epoch=2, epochs=6, validation_freq=2, verbose=0)
    assert history.epoch == [2, 3, 4, 5] and list(history) == [3, 4, 5, 6]
    assert [len(history.history[n]) for n in ("loss", "val_loss", "accuracy", "val_accuracy")] == [4, 2, 4, 2]
    assert "val_loss" in history[4] and "val_loss" not in history[3]
    assert history.params == {"epochs": 6, "steps": 1, "verbose": 0} and history.model is t.model
    history = t.fit(X, Y, validation_data=(X, Y), epochs=4, validation_freq=[1, 4], verbose=0)
    assert ["val_loss" in history[e] for e in history] == [True, False, False, True]


def test_steps_of_an_epoch_go_on_where_the_last_one_ended():
    seen = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    t = trainer()
    history = t.fit(X, Y, batch_size=8, steps_per_epoch=2, epochs=3, verbose=0, callbacks=[watch])
    assert seen == [0, 1] * 3 and len(history) == 3
    reference = trainer()
    reference.fit(X, Y, batch_size=8, epochs=2, verbose=0)  # as many updates
    assert state(t) == state(reference)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_of_steps_resumes_to_the_same_bits(stop, tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs):
            if self.trainer.step == stop:
                self.trainer.stop_training = True

    options = {"batch_size": 8, "steps_per_epoch": 4, "epochs": 3, "verbose": 0, "class_weight": {1: 2.0}}
    whole, first, second = trainer(), trainer(out=tmp_path), trainer(out=tmp_path)
    whole.fit(X, Y, **options)
    first.fit(X, Y, **options, callbacks=[Stop()])
    assert first.step == stop
    second.fit(X, Y, **options, resume=True)
    assert state(second) == state(whole) and second.history["loss"] == whole.history["loss"]


def batches(count=None, size=8, weights=False):
    for i in itertools.count() if count is None else range(count):
        rows = np.arange(i * size, (i + 1) * size) % N
        yield (X[rows], Y[rows], W[rows]) if weights else (X[rows], Y[rows])


class Iterable:
    """As a data set of another library: batches, and no items by index."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return batches(self.count)


@pytest.mark.parametrize(
    "data, steps",
    [
        (lambda: batches(), 4),
        (lambda: lambda: batches(4), None),
        (lambda: Iterable(4), None),
        (lambda: functools.partial(batches, 4), None),
    ],
    ids=["generator", "function", "iterable", "partial"],
)
def test_batches_from_iterables(data, steps):
    t, reference = trainer(), trainer()
    t.fit(data(), steps_per_epoch=steps, epochs=2, verbose=0)
    for x, y in [*batches(8)] if steps else [*batches(4), *batches(4)]:
        reference.train_on_batch(x, y)
    assert state(t) == state(reference)
    assert len(t.history) == 2 and t.step == 8


def test_a_generator_is_read_on_over_epochs_and_named_when_it_ends():
    t, reference = trainer(), trainer()
    t.fit(batches(), steps_per_epoch=3, epochs=2, validation_data=batches(), validation_steps=2, verbose=0)
    for x, y in batches(6):
        reference.train_on_batch(x, y)
    assert state(t) == state(reference)
    with pytest.warns(DeepcoreWarning, match="ended after 1 of the 3 batches of epoch 2"):
        history = trainer().fit(batches(4), steps_per_epoch=3, epochs=5, verbose=0)
    assert len(history) == 2
    with pytest.raises(ArgumentError, match="read only once"):
        trainer().fit(batches(4), verbose=0)
    assert trainer().predict((x for x, _ in batches()), steps=2).shape == (16, CLASSES)
    assert trainer().evaluate(batches(), steps=2).keys() == {"loss", "accuracy"}


def test_weights_in_the_batches_of_an_iterable():
    t, reference = trainer(), trainer()
    t.fit(lambda: batches(2, weights=True), verbose=0)
    for x, y, w in batches(2, weights=True):
        reference.train_on_batch(x, y, sample_weight=w)
    assert state(t) == state(reference)


def test_batches_of_another_library():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    t, reference = trainer(), trainer()
    t.fit(torch.utils.data.DataLoader(data, batch_size=8), epochs=2, verbose=0)
    for _ in range(2):
        for rows in (slice(0, 8), slice(8, 16), slice(16, N)):
            reference.train_on_batch(X[rows], Y[rows])
    assert state(t) == state(reference)


# -- weights ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch_size", [4, 22])
def test_weighted_losses_are_those_of_keras(batch_size, backend):
    t = trainer(backend, optimizer=None)
    expected = (cross_entropies(t.model.to("cpu").eval(), X, Y) * W).sum() / N
    t.model.train().to(backend)
    result = t.evaluate(X, Y, sample_weight=W, batch_size=batch_size)
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    t.model.eval()
    frozen = Trainer(t.model, optim.SGD(t.model.parameters(), lr=0.0), "cross_entropy")
    frozen.model[2].p = 0.0
    history = frozen.fit(X, Y, sample_weight=W, validation_data=(X, Y, W), batch_size=batch_size, verbose=0)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_class_weights_are_sample_weights(accumulate):
    table = {0: 0.5, 2: 3.0}
    weights = np.array([table.get(label, 1.0) for label in Y], np.float32)
    by_class, by_sample = trainer(accumulate=accumulate), trainer(accumulate=accumulate)
    by_class.fit(X, Y, class_weight=table, batch_size=4, epochs=2, verbose=0)
    by_sample.fit(X, Y, sample_weight=weights, batch_size=4, epochs=2, verbose=0)
    assert state(by_class) == state(by_sample)
    one_hot = trainer(loss=nn.CrossEntropyLoss())
    one_hot.fit(X, np.eye(3, dtype=np.float32)[Y], class_weight=table, batch_size=4, epochs=2, verbose=0)
    if accumulate == 1:
        for a, b in zip(one_hot.model.parameters(), by_class.model.parameters()):
            assert np.allclose(a.numpy(force=True), b.numpy(force=True), atol=1e-6)


def test_a_group_of_weighted_batches_makes_the_update_of_one_batch():
    whole, groups = trainer(), trainer(accumulate=3)
    for t in (whole, groups):
        t.model[2].p = 0.0
    whole.fit(X, Y, sample_weight=W, batch_size=24, shuffle=False, verbose=0)
    groups.fit(X, Y, sample_weight=W, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(whole.model.parameters(), groups.model.parameters()):
        assert np.allclose(a.numpy(force=True), b.numpy(force=True), atol=1e-6)
    assert whole.history["loss"][0] == pytest.approx(groups.history["loss"][0], rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "outputs"])
def test_compiled_equals_eager_with_weights(loss):
    results = []
    for compiled in (True, False):
        if loss == "outputs":
            t = two_outputs(compile=compiled)
            t.fit(X, {"label": Y, "value": X[:, 0]}, sample_weight=W, batch_size=8, epochs=3, verbose=0)
        else:
            t = trainer(compile=compiled)
            t.fit(X, Y, sample_weight=W, class_weight={0: 2.0}, batch_size=8, epochs=3, verbose=0)
        results.append((state(t), t.history.history))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda t: t.fit(X, Y, class_weight={"a": 1}), ArgumentError, "maps class numbers"),
        (lambda t: t.fit(X, Y, class_weight=[1, 2]), ArgumentError, "is a dict"),
        (lambda t: t.fit(X, Y, sample_weight={"a": W}), ArgumentError, "(?s)one column.*loss_weights"),
        (lambda t: t.fit(X, Y, validation_data=(X, Y, [W, W])), ArgumentError, "(?s)one column.*list of 2"),
        (lambda t: t.fit(X, Y, sample_weight=W[:5]), DataError, "sample_weight differ in length"),
        (lambda t: t.fit(dc.data.TensorDataset(X, Y), sample_weight=W), ArgumentError, "sample_weight is for arrays"),
        (
            lambda t: trainer(loss=lambda out, y: nn.functional.cross_entropy(out, y)).fit(X, Y, sample_weight=W),
            ArgumentError,
            r"cannot weigh samples(.|\n)*f\(y_true, y_pred\)",
        ),
        (lambda t: t.fit(X, Y, validation_split=1.5), ArgumentError, "0 < fraction < 1"),
        (lambda t: t.fit(X, Y, validation_split=0.999), DataError, "no sample"),
        (lambda t: t.fit(X, Y, validation_split=0.5, validation_data=(X, Y)), ArgumentError, "exclude each other"),
        (lambda t: t.fit(X, Y, validation_freq=0), ArgumentError, "validation_freq"),
        (lambda t: t.fit(X, Y, steps_per_epoch=0), ArgumentError, "steps_per_epoch"),
        (lambda t: t.fit(), ArgumentError, r"fit needs data"),
        (lambda t: t.fit(lambda: batches(2), batch_size=3), ArgumentError, "batches already"),
        (lambda t: Trainer(t.model, "adamm", "mse"), ConfigError, "did you mean 'adam'"),
        (lambda t: Trainer(t.model, "adam", "msee"), ConfigError, "did you mean 'mse'"),
        (lambda t: Trainer(t.model, "adam", "mse", ["acuracy"]), ConfigError, "did you mean 'accuracy'"),
        (
            lambda t: Trainer(t.model, "adam", "mse", [lambda output, target: 0]),
            ArgumentError,
            r"f\(y_true, y_pred\)",
        ),
        (lambda t: Trainer(t.model, "adam", ["mse"], loss_weights=[1, 2]), ArgumentError, "an entry for each output"),
        (lambda t: Trainer(t.model, "adam", "mse", loss_weights=[1]), ArgumentError, "several losses"),
        (
            lambda t: trainer(loss="sparse_categorical_crossentropy").fit(X, Y, verbose=0),
            ArgumentError,
            "loss of probabilities(.|\n)*loss='cross_entropy'",
        ),
        (
            lambda t: trainer(loss="categorical_crossentropy").fit(X, Y),
            ShapeError,
            "^categorical_crossentropy(.|\n)*loss='sparse_categorical_crossentropy'",
        ),
        (
            lambda t: trainer(loss="sparse_categorical_crossentropy").fit(X, t.model(dc.tensor(X)).detach()),
            ShapeError,
            "^sparse_categorical_crossentropy(.|\n)*loss='categorical_crossentropy'",
        ),
        (lambda t: trainer(loss="mse").fit(X, X), ShapeError, "^mean_squared_error: outputs and targets"),
    ],
)
def test_errors_say_what_to_do(act, error, words):
    with pytest.raises(error, match=words):
        act(trainer())


# -- names --------------------------------------------------------------------------------------------------------
P = RNG.uniform(0.05, 0.95, (7, 4))
P /= P.sum(1, keepdims=True)
Q = RNG.uniform(0.05, 0.95, (7, 4))
Q /= Q.sum(1, keepdims=True)
LABELS = RNG.integers(0, 4, 7)
SIGNS = RNG.integers(0, 2, (7, 4)).astype(float)
#: Keras's formulas, in NumPy: (name, output, target, mean).
FORMULAS = [
    ("mse", P, Q, ((P - Q) ** 2).mean()),
    ("mae", P, Q, abs(P - Q).mean()),
    ("mape", P, Q, 100 * (abs(P - Q) / Q).mean()),
    ("msle", P, Q, ((np.log(P + 1) - np.log(Q + 1)) ** 2).mean()),
    ("huber", 3 * P, Q, np.where(abs(3 * P - Q) <= 1, (3 * P - Q) ** 2 / 2, abs(3 * P - Q) - 0.5).mean()),
    ("log_cosh", P, Q, np.log(np.cosh(P - Q)).mean()),
    ("poisson", P, Q, (P - Q * np.log(P + 1e-7)).mean()),
    ("hinge", P, SIGNS, np.maximum(1 - (2 * SIGNS - 1) * P, 0).mean()),
    ("squared_hinge", P, SIGNS, (np.maximum(1 - (2 * SIGNS - 1) * P, 0) ** 2).mean()),
    (
        "categorical_hinge",
        P,
        np.eye(4)[LABELS],
        np.maximum(((1 - np.eye(4)[LABELS]) * P).max(1) - (np.eye(4)[LABELS] * P).sum(1) + 1, 0).mean(),
    ),
    ("kl_divergence", P, Q, (Q * np.log(Q / P)).sum(1).mean()),
    (
        "cosine_similarity",
        P,
        Q,
        -((P / np.linalg.norm(P, axis=1)[:, None]) * (Q / np.linalg.norm(Q, axis=1)[:, None])).sum(1).mean(),
    ),
    ("binary_crossentropy", P, SIGNS, -(SIGNS * np.log(P) + (1 - SIGNS) * np.log(1 - P)).mean()),
    ("categorical_crossentropy", P, Q, -(Q * np.log(P)).sum(1).mean()),
    ("sparse_categorical_crossentropy", P, LABELS, -np.log(P[np.arange(7), LABELS]).mean()),
]


def test_every_loss_of_keras_has_a_formula_here():
    assert {names_._SHORT.get(name, name) for name, *_ in FORMULAS} == names_._BY_NAME.keys()


@pytest.mark.parametrize("name, output, target, mean", FORMULAS, ids=[name for name, *_ in FORMULAS])
def test_losses_by_keras_names(name, output, target, mean, backend):
    loss = names_.loss_of(name)
    out = dc.tensor(output, dtype=dc.float32, device=backend)
    want = dc.tensor(target, device=backend)
    assert loss(out, want).item() == pytest.approx(mean, rel=1e-4)
    count = loss.denominator(want)
    assert loss.reduced(out, want, "sum").item() / count == pytest.approx(mean, rel=1e-4)
    each = loss.reduced(out, want, "none")
    assert each.shape[0] == 7 and each.mean().item() == pytest.approx(mean, rel=1e-4)


def test_a_softmax_over_one_output_is_a_warning():
    model = nn.Sequential(nn.Linear(FEATURES, 1), nn.Softmax(1))
    with pytest.warns(DeepcoreWarning, match="Softmax over a single output"):
        Trainer(model, "sgd", "binary_crossentropy").fit(X, Y > 0, verbose=0)


def test_class_numbers_in_a_column_fit_as_in_keras():
    model = nn.Sequential(nn.Linear(FEATURES, 3), nn.Softmax(1))
    t = Trainer(model, "sgd", "sparse_categorical_crossentropy", metrics=["accuracy", "roc_auc"])
    y = np.arange(len(X)) % 3
    assert t.evaluate(X, y[:, None]) == t.evaluate(X, y)


def test_targets_of_one_column_fit_as_in_keras():
    model = nn.Sequential(nn.Linear(FEATURES, 1), nn.Sigmoid())
    t = Trainer(model, "sgd", "binary_crossentropy", metrics=["accuracy", "mae", "rmse"])
    flat = t.evaluate(X, (Y > 0).astype(int))
    column = t.evaluate(X, (Y > 0).astype(np.float32)[:, None])
    assert flat == pytest.approx(column) and flat["rmse"] >= flat["mae"]
    p = t.predict(X).numpy()[:, 0]
    assert flat["accuracy"] == pytest.approx(((p > 0.5) == (Y > 0)).mean())
    assert flat["mae"] == pytest.approx(abs(p - (Y > 0)).mean(), rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "SGD", "rmsprop", "adamw", "adagrad", "adadelta", "adamax", "nadam", "radam"])
def test_optimizers_by_name(name):
    t = trainer(optimizer=name)
    kind = type(t.optimizer)
    assert kind.__name__.lower() == name.lower()
    group = t.optimizer.param_groups[0]
    assert group["lr"] == {"sgd": 0.01}.get(name.lower(), 0.001)
    assert t.fit(X, Y, verbose=0).last["loss"] > 0


def test_names_of_deepcore_mean_its_classes():
    for name, kind in (("CrossEntropyLoss", nn.CrossEntropyLoss), ("cross_entropy", nn.CrossEntropyLoss),
                       ("mse_loss", nn.MSELoss), ("binary_cross_entropy_with_logits", nn.BCEWithLogitsLoss)):  # fmt: skip
        assert type(names_.loss_of(name)) is kind


def test_functions_of_keras_form():
    def cubes(y_true, y_pred):
        return (y_pred.softmax(1).gather(1, y_true.unsqueeze(1)).squeeze(1) - 1).abs() ** 3

    def reverse(y_pred, y_true):  # by name, in any order
        return (y_true - y_pred.argmax(1)).float()

    t = trainer(loss=cubes, metrics=["acc", reverse, lambda a, b: float(a.shape == (8,) or len(a) == 6)])
    history = t.fit(X, Y, batch_size=8, sample_weight=W, verbose=0)
    out = t.predict(X)
    each = ((1 - out.softmax(1).numpy()[np.arange(N), Y]) ** 3).astype(np.float64)
    result = t.evaluate(X, Y, batch_size=8)
    assert result["loss"] == pytest.approx(each.mean(), rel=1e-5)
    assert t.evaluate(X, Y, sample_weight=W)["loss"] == pytest.approx((each * W).mean(), rel=1e-5)
    assert result["reverse"] == pytest.approx((Y - out.numpy().argmax(1)).mean())
    assert result["lambda"] == 1.0 and history.names[:2] == ["loss", "acc"]


# -- several outputs ----------------------------------------------------------------------------------------------
class Two(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, 1)

    def forward(self, x):
        outputs = self.a(x), self.b(x)
        return dict(zip(("label", "value"), outputs)) if self.kind is dict else outputs


def two_outputs(backend="cpu", kind=dict, **options):
    dc.manual_seed(1)
    losses = {"label": "cross_entropy", "value": "mse"}
    losses = losses if kind is dict else list(losses.values())
    model = Two(kind).to(backend)
    return Trainer(model, optim.SGD(model.parameters(), lr=0.05), losses, **{"seed": 7, **options})


@pytest.mark.parametrize("kind", [dict, tuple])
def test_a_loss_for_each_output(kind, backend):
    weights = {"label": 1.0, "value": 0.25} if kind is dict else [1.0, 0.25]
    metrics = {"value": ["mae"], "label": "accuracy"} if kind is dict else ["accuracy", ["mae"]]
    t = two_outputs(backend, kind, loss_weights=weights, metrics=metrics)
    names = ["label", "value"] if kind is dict else ["output_1", "output_2"]
    targets = dict(zip(names, (Y, X[:, 0]))) if kind is dict else (Y, X[:, 0])
    result = t.evaluate(X, targets, batch_size=5)
    model = t.model.to("cpu")
    scores = model.a(dc.tensor(X)).numpy(force=True)
    label = cross_entropies(model.a, X, Y).mean()
    value = ((model.b(dc.tensor(X)).numpy(force=True)[:, 0] - X[:, 0]) ** 2).mean()
    expected = {
        "loss": label + 0.25 * value,
        f"{names[0]}_loss": label,
        f"{names[1]}_loss": value,
        f"{names[0]}_accuracy": (scores.argmax(1) == Y).mean(),
        f"{names[1]}_mae": abs(model.b(dc.tensor(X)).numpy(force=True)[:, 0] - X[:, 0]).mean(),
    }
    assert result == pytest.approx(expected, rel=1e-5)
    t.model.to(backend)
    stop = EarlyStopping(f"val_{names[0]}_loss", patience=5)
    history = t.fit(X, targets, epochs=3, batch_size=8, validation_split=0.3, callbacks=[stop], verbose=0)
    assert {*history.names} == {*expected, *(f"val_{n}" for n in expected), "lr"} and stop.best is not None


def test_several_outputs_resume_and_accumulate(tmp_path):
    data = (X, {"label": Y, "value": X[:, 0]})
    whole, first, second = two_outputs(), two_outputs(out=tmp_path), two_outputs(out=tmp_path)
    whole.fit(*data, batch_size=4, epochs=4, verbose=0)
    first.fit(*data, batch_size=4, epochs=2, verbose=0)
    second.fit(*data, batch_size=4, epochs=4, resume=True, verbose=0)
    assert state(whole) == state(second) and whole.history.history == second.history.history
    one, groups = two_outputs(), two_outputs(accumulate=3)
    one.fit(*data, batch_size=24, shuffle=False, verbose=0)
    groups.fit(*data, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(one.model.parameters(), groups.model.parameters()):
        assert np.allclose(a.numpy(force=True), b.numpy(force=True), atol=1e-6)


def test_several_inputs_by_list_dict_and_name():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.u, self.v = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)

        def forward(self, first, second):
            return self.u(first) + self.v(second)

    results = []
    for data in ([X, -X], (X, -X), {"second": -X, "first": X}):
        dc.manual_seed(0)
        t = Trainer(Sum(), "sgd", "cross_entropy", seed=7)
        t.fit(data, Y, epochs=2, batch_size=8, verbose=0)
        results.append((state(t), t.predict(data).numpy().tobytes(), t.evaluate(data, Y)["loss"]))
    assert results[0] == results[1] == results[2]


# -- single batches, lazy layers, summary -----------------------------------------------------------------------------
def test_single_batches():
    t, reference = trainer(), trainer()
    first = t.test_on_batch(X, Y, return_dict=False)
    assert first == pytest.approx([t.evaluate(X, Y)["loss"], t.evaluate(X, Y)["accuracy"]])
    logs = [t.train_on_batch(X[i : i + 8], Y[i : i + 8])["loss"] for i in range(0, N, 8)]
    reference.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert state(t) == state(reference) and t.step == 3
    assert np.average(logs, weights=[8, 8, 6]) == pytest.approx(reference.history["loss"][0])
    assert t.predict_on_batch(X).numpy().tobytes() == t.predict(X).numpy().tobytes()


def test_a_lazy_model_trains_by_the_name_of_an_optimizer(backend):
    dc.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(8, backend=backend), nn.ReLU(), nn.LazyLinear(CLASSES, backend=backend))
    assert "not counted" in str(model.summary()) and "?" in str(model.summary())
    t = Trainer(model, "adam", "cross_entropy")
    assert t.optimizer is None
    t.fit(iter(list(batches(3))), steps_per_epoch=3, verbose=0)
    assert t.step == 3, "the batch that was read for the shapes is trained on, too"
    table = str(model.summary())
    assert "input (1, 6)" in table and "(1, 8)" in table and "83 parameters" in table


# -- callbacks ------------------------------------------------------------------------------------------------------
def test_callbacks_in_keras_form():
    class Old(Callback):
        def __init__(self):
            self.events = []

        def on_batch_begin(self, batch, logs=None):
            self.events.append(("begin", batch))

        def on_batch_end(self, batch, logs=None):
            self.events.append(("end", batch))

        def on_epoch_end(self, epoch, logs=None):
            assert self.params["epochs"] == 5
            self.model.stop_training = epoch == 1

        def on_predict_batch_end(self, batch, logs=None):
            self.events.append(("predicted", logs["outputs"].shape))

    old = Old()
    t = trainer()
    assert len(t.fit(X, Y, epochs=5, batch_size=16, callbacks=[old], verbose=0)) == 2
    assert old.events == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)] * 2
    assert len(t.fit(X, Y, epochs=2, verbose=0)) == 2, "the next fit is not stopped"
    t.predict(X, callbacks=[old])
    assert old.events[-1] == ("predicted", (N, CLASSES))


def test_schedules_of_one_argument_and_monitors_of_epochs_without_validation():
    rates = []
    watch = LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(logs["lr"]))
    stop = EarlyStopping(patience=1, min_delta=100.0)
    plateau = ReduceLROnPlateau(patience=100)
    schedule = LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    history = trainer().fit(X, Y, epochs=9, validation_split=0.3, validation_freq=2, verbose=0,
                            callbacks=[schedule, watch, stop, plateau])  # fmt: skip
    assert rates == [0.1 / (e + 1) for e in range(4)] and len(history) == 4, "stopped at the second validation"


def test_backup_takes_keras_argument(tmp_path):
    backup = BackupAndRestore(backup_dir=tmp_path / "backup")
    trainer().fit(X, Y, epochs=1, callbacks=[backup], verbose=0)
    assert backup.directory == str(tmp_path / "backup")


def test_checkpoints_in_the_background(tmp_path):
    direct, background = (
        ModelCheckpoint(tmp_path / f"{name}-{{epoch}}.safetensors", asynchronous=name == "background")
        for name in ("direct", "background")
    )
    trainer().fit(X, Y, epochs=3, batch_size=8, callbacks=[direct, background], verbose=0)
    for epoch in (1, 2, 3):
        a, b = (dc.io.read_checkpoint(tmp_path / f"{name}-{epoch}.safetensors") for name in ("direct", "background"))
        for name, value in a["parts"]["model"].items():
            assert value.numpy().tobytes() == b["parts"]["model"][name].numpy().tobytes()
    resumed = trainer()
    resumed.fit(X, Y, epochs=3, batch_size=8, resume=tmp_path / "background-1.safetensors", verbose=0)
    whole = trainer()
    whole.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    assert state(resumed) == state(whole)


@pytest.mark.parametrize("weights_only", [True, False])
def test_an_error_in_the_background_ends_the_run(weights_only, tmp_path, monkeypatch):
    from deepcore.io import safetensors

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "save_file", full)
    save = ModelCheckpoint(tmp_path / "m.safetensors", save_weights_only=weights_only, asynchronous=True, save_freq=1)
    with pytest.raises(OSError, match="No space left"):
        trainer().fit(X, Y, epochs=50, batch_size=8, callbacks=[save], verbose=0)


def test_tensorboard_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"deepcore-nn\[tensorboard\]"):
        dc.train.TensorBoard("logs")


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    board = dc.train.TensorBoard(tmp_path, histogram_freq=2, update_freq=2)
    t = trainer()
    history = t.fit(X, Y, epochs=2, batch_size=8, validation_split=0.3, callbacks=[board], verbose=0)
    values = {}
    for file in tmp_path.rglob("events*"):
        data = file.read_bytes()
        while data:  # records: length, its checksum, event, its checksum
            length = int.from_bytes(data[:8], "little")
            for value in Event.FromString(data[12 : 12 + length]).summary.value:
                values.setdefault((file.parent.name, value.tag), []).append(value.simple_value)
            data = data[16 + length :]
    assert values["train", "epoch_loss"] == pytest.approx(history["loss"], rel=1e-6)
    assert values["validation", "epoch_accuracy"] == pytest.approx(history["val_accuracy"], rel=1e-6)
    assert values["train", "epoch_learning_rate"] == pytest.approx([0.1, 0.1])
    assert len(values["train", "batch_loss"]) == 2 and len(values["train", "0/weight"]) == 1


# -- out of memory ----------------------------------------------------------------------------------------------------
class Bursts(nn.Module):
    """Fails as NumPy or CuPy does, in its `left`th call."""

    left = 0

    def forward(self, x):
        self.__dict__["left"] -= 1
        if self.left == 0:
            np.empty((1 << 30, 1 << 30), np.float32)
        return x.relu()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("at", [1, 5])
def test_out_of_memory_names_tensors_and_leaves_the_model(compiled, at, backend):
    model = nn.Sequential(nn.Linear(FEATURES, 40), Bursts(), nn.Linear(40, CLASSES))
    t = trainer(backend, model=model, optimizer=optim.Adam(model.to(backend).parameters()), compile=compiled)
    reference = trainer(backend, model=model, optimizer="adam", compile=compiled)
    del reference
    before = []
    watch = LambdaCallback(on_train_batch_begin=lambda batch, logs: before.append(state(t)))
    model[1].__dict__["left"] = at
    with pytest.raises(OutOfMemoryError, match=r"Sequential\.1 \(Bursts\)") as caught:
        t.fit(X, Y, epochs=20, batch_size=8, callbacks=[watch], verbose=0)
    error = caught.value
    assert (
        isinstance(error, MemoryError) and error.__context__ is None and "float32[1073741824, 1073741824]" in str(error)
    )
    assert [entry.path for entry in error.tensors[:1]] in (["0.weight"], ["0.weight"])
    assert {e.kind for e in error.tensors} >= {"parameter"} | ({"optimizer state exp_avg"} if t.step else set())
    assert [e.bytes for e in error.tensors] == sorted((e.bytes for e in error.tensors), reverse=True)
    assert state(t) == before[-1] and all(p.grad is None for p in model.parameters())
    model[1].__dict__["left"] = -1
    assert t.fit(X, Y, verbose=0).last["loss"] > 0 and t.evaluate(X, Y)["loss"] > 0


def test_out_of_memory_names_the_op():
    class Wide(nn.Module):
        def forward(self, x):
            return x.reshape(-1, 1, 1, FEATURES).expand(-1, 1 << 20, 1 << 20, FEATURES).contiguous()

    with pytest.raises(OutOfMemoryError, match=r"contiguous \(float32.*in Sequential\.0 \(Wide\)"):
        Trainer(nn.Sequential(Wide(), nn.Linear(1, 1)), "sgd", "mse").predict(X)
