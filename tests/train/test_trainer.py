"""The training loop, its callbacks, interrupts and resuming."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import io
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn, optim
from deepcore.data import DataLoader, Dataset, TensorDataset
from deepcore.errors import (
    ArgumentError,
    BackendError,
    ConfigError,
    DataError,
    DeepcoreWarning,
    DTypeError,
    FileFormatError,
    NonFiniteError,
    ShapeError,
    StateDictError,
)
from deepcore.io.files import FileAccessError, MissingFileError
from deepcore.kernels.runtime import threadpool
from deepcore.metrics import Accuracy, Metric
from deepcore.train import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
    Trainer,
)

N, FEATURES, CLASSES = 22, 6, 3
compiled_only = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")


def data(n=N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, FEATURES)).astype(np.float32)
    return x, (x[:, :CLASSES].argmax(1)).astype(np.int64)


def network(backend="cpu", dropout=0.3):
    model = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, CLASSES)
    )
    return model.to(backend)


def trainer(backend="cpu", *, model=network, loss=None, optimizer=optim.Adam, lr=0.01, schedule=True, **options):
    dc.manual_seed(5)
    model = model().to(backend)
    opt = optimizer(model.parameters(), lr=lr)
    scheduler = optim.lr_scheduler.StepLR(opt, 2, 0.5) if schedule else None
    return Trainer(model, opt, loss or nn.CrossEntropyLoss(), scheduler=scheduler, **options)


def bits(value):
    """Nested state with every array as its bytes, so that == is bitwise and NaN equals itself."""
    if isinstance(value, dc.Tensor):
        array = value.backend.to_host(value.array)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    return value.hex() if isinstance(value, float) else value


def result(t):
    return bits([t.model.state_dict(), t.optimizer.state_dict(), t.history.state_dict(), t.step])


class StopAt(Callback):
    """Ends the run, or presses Ctrl-C, after so many batches, counted over all epochs."""

    def __init__(self, batches, interrupt=False, times=1):
        self.left, self.interrupt, self.times = batches, interrupt, times

    def on_train_batch_end(self, batch, logs):
        self.left -= 1
        if self.left == 0 and self.interrupt:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        elif self.left == 0:
            self.trainer.stop_training = True

    def state_dict(self):
        return {}


class Script(Metric):
    """A metric whose values are given beforehand; None in Trainer logs would be an error, so they are numbers."""

    name, mode = "score", "max"

    def __init__(self, values, mode="max"):
        self.values, self.at, self.mode = list(values), -1, mode

    def reset(self):
        self.at += 1

    def update(self, output, target): ...

    def compute(self):
        return self.values[self.at]


class Record(Callback):
    def __init__(self):
        self.events = []

    def on_epoch_end(self, epoch, logs):
        self.events.append((epoch, self.trainer.lr))


def run_script(values, *callbacks, mode="max", epochs=None, model=None, lr=1.0):
    """Train one batch per epoch while the validation metric "score" follows the script; returns the trainer."""
    x, y = data(4)
    model = model or nn.Linear(FEATURES, CLASSES)
    t = Trainer(model, optim.SGD(model.parameters(), lr=lr), nn.CrossEntropyLoss(), metrics=(Script(values, mode),))
    t.fit((x, y), (x, y), epochs=epochs or len(values), callbacks=callbacks, verbose=0)
    return t


# -- fit, evaluate, predict ---------------------------------------------------------------------------------
def test_learns_digits(backend):
    train, test = dc.data.digits("train[:600]", flatten=True), dc.data.digits("test", flatten=True)
    dc.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    t = Trainer(model, optim.Adam(model.parameters(), lr=0.01), nn.CrossEntropyLoss(), backend=backend)
    history = t.fit(train, test, epochs=4, verbose=0)
    assert history["val_accuracy"][-1] > 0.9
    assert t.evaluate(test)["accuracy"] == history[4]["val_accuracy"]
    assert t.evaluate(test, batch_size=360)["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    predicted = t.predict(test, batch_size=100)
    assert predicted.shape == (360, 10) and predicted.backend is t.backend and not predicted.requires_grad
    assert dc.metrics.accuracy(predicted, test.tensors[1]) == history[4]["val_accuracy"]


def test_loop_equals_one_written_by_hand(backend):
    """The same bits as the loop a user would write."""
    x, y = data()
    t = trainer(backend, seed=11)
    t.fit((x, y), epochs=3, batch_size=8, verbose=0)

    dc.manual_seed(5)
    model = network(backend)
    opt = optim.Adam(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.StepLR(opt, 2, 0.5)
    dc.manual_seed(11)
    loader = DataLoader(TensorDataset(x, y), 8, shuffle=True, backend=backend)
    losses = []
    for _ in range(3):
        total = 0.0
        for inputs, target in loader:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), target)
            loss.backward()
            opt.step()
            total += loss.item() * len(target)
        schedule.step()
        losses.append(total / N)
    assert bits(model.state_dict()) == bits(t.model.state_dict())
    assert losses == t.history["loss"]
    assert t.history["lr"] == [0.01, 0.01, 0.005]


def test_loss_is_a_mean_over_samples(backend):
    x, y = data(10)
    model = nn.Linear(FEATURES, CLASSES).to(backend)
    whole = nn.functional.cross_entropy(model(dc.tensor(x, backend=backend)), dc.tensor(y, backend=backend)).item()
    for reduction, factor in (("mean", 1.0), ("sum", 1.0)):
        t = Trainer(model, optim.SGD(model.parameters(), lr=0.0), nn.CrossEntropyLoss(reduction=reduction))
        history = t.fit((x, y), (x, y), batch_size=4, verbose=0)  # batches of 4, 4 and 2
        assert history[1]["loss"] == pytest.approx(whole * factor, rel=1e-6)
        assert history[1]["val_loss"] == pytest.approx(whole * factor, rel=1e-6)


class Halves:
    """A loss of somebody else's, that says what it divides by: targets above 0."""

    def __call__(self, output, target):
        counts = (target > 0).float()
        return ((output.sum(1) - target) ** 2 * counts).sum() / counts.sum()

    def denominator(self, target):
        return (target > 0).sum().item()


WEIGHT = dc.tensor([0.2, 1.0, 3.0])
CLASS = np.array([-100, -100, 0, 1, 2, -100, 1, 1, 0, 0])  # pairs: all, none and half are ignored
YES = np.random.default_rng(4).integers(0, 2, (10, 3)).astype(np.float32)
WEIGHED = {
    "weights": (nn.CrossEntropyLoss(WEIGHT), CLASS % 3),
    "ignored": (nn.CrossEntropyLoss(), CLASS),
    "unsigned": (nn.CrossEntropyLoss(ignore_index=2), (CLASS % 3).astype(np.uint8)),
    "all three": (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2), CLASS),
    "probabilities": (nn.CrossEntropyLoss(WEIGHT), (YES + 0.5) / (YES + 0.5).sum(1, keepdims=True)),
    "log-probabilities": (nn.NLLLoss(WEIGHT, ignore_index=0), CLASS % 3),
    "a function": (functools.partial(nn.functional.cross_entropy, ignore_index=1), CLASS % 3),
    "binary": (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), YES),
    "squares": (nn.MSELoss(), YES),
    "a sum": (nn.CrossEntropyLoss(WEIGHT, reduction="sum"), CLASS),
    "samples": (lambda out, y: (out - y).abs().sum(1).mean(), YES),
    "its own": (Halves(), np.arange(10, dtype=np.float32) % 3),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_means_do_not_depend_on_the_batch_size(backend, name):
    loss, y = WEIGHED[name]
    x = data(10)[0]
    model = nn.Linear(FEATURES, CLASSES).to(backend)
    whole = copy.deepcopy(loss).to(backend) if isinstance(loss, nn.Module) else loss
    expected = whole(model(dc.tensor(x, backend=backend)), dc.tensor(y, backend=backend)).item()
    if name == "a sum":
        expected /= 10
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.0), copy.deepcopy(loss), metrics=(), accumulate=5)
    for size in (10, 4, 2, 1):
        assert t.evaluate((x, y), batch_size=size)["loss"] == pytest.approx(expected, rel=1e-5)
    assert t.fit((x, y), batch_size=2, shuffle=False, verbose=0)[1]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", WEIGHED)
def test_accumulated_gradients_weigh_what_the_loss_divides_by(name):
    loss, y = WEIGHED[name]
    x, weights = data(10)[0], []
    for batch_size, accumulate, compile in ((10, 1, False), (2, 5, False), (2, 5, True), (4, 3, True)):
        dc.manual_seed(1)
        model = nn.Linear(FEATURES, CLASSES)
        sgd = optim.SGD(model.parameters(), lr=0.1)
        t = Trainer(model, sgd, copy.deepcopy(loss), (), accumulate=accumulate, compile=compile)
        t.fit((x, y), epochs=2, batch_size=batch_size, shuffle=False, verbose=0)
        assert t.step == 2
        weights.append(model.weight.detach().numpy())
    assert weights[1].tobytes() == weights[2].tobytes()
    for others in weights[1:]:
        np.testing.assert_allclose(weights[0], others, rtol=1e-5, atol=1e-6)


def test_batches_of_unequal_shapes_weigh_by_their_elements():
    widths = (3, 1, 4)
    batches = [(dc.full((2, n, FEATURES), float(n)), dc.zeros(2, n, 1)) for n in widths]
    model = nn.Linear(FEATURES, 1)
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.0), nn.MSELoss())
    given = DataLoader(batches, collate_fn=lambda one: one[0])
    losses = [t.evaluate(DataLoader([b], collate_fn=lambda one: one[0]))["loss"] for b in batches]
    expected = sum(n * loss for n, loss in zip(widths, losses)) / sum(widths)
    assert t.evaluate(given)["loss"] == pytest.approx(expected, rel=1e-6)
    assert t.fit(given, verbose=0)[1]["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [dc.float16, dc.bfloat16])
def test_a_sum_beyond_16_bits_is_accumulated(dtype):
    x, y = np.ones((40, 2), np.float16), np.full((40, 1), 60, np.float16)  # squares add up to 144,000
    weights = []
    for batch_size, accumulate in ((40, 1), (20, 2)):
        model = nn.Linear(2, 1, bias=False).to(dtype=dtype)
        with dc.no_grad():
            model.weight.fill_(0.0)
        t = Trainer(model, optim.SGD(model.parameters(), lr=0.01), nn.MSELoss(), accumulate=accumulate)
        given = TensorDataset(dc.tensor(x).to(dtype), dc.tensor(y).to(dtype))
        assert t.fit(given, batch_size=batch_size, verbose=0)[1]["loss"] == pytest.approx(3600, rel=0.01)
        weights.append(model.weight.detach().float().numpy())
    np.testing.assert_allclose(*weights, rtol=0.01)


@compiled_only
def test_a_weight_per_batch_is_no_program_per_batch():
    y = np.array([-100, 0, 1, 2] * 10)
    for loss, target in ((nn.CrossEntropyLoss(WEIGHT), y), (Halves(), y.clip(0))):
        t = trainer(loss=loss, metrics=(), schedule=False, accumulate=2)
        t.fit((data(40)[0], target), batch_size=4, verbose=0)
        assert t._steps.gradients.traces == 2, t._steps.gradients.faults  # first of a group, and second
        assert t._steps.gradients.runs == 8


def test_a_subclass_that_computes_something_else_counts_samples():
    class Focal(nn.CrossEntropyLoss):
        def forward(self, input, target):
            return nn.functional.cross_entropy(input, target, reduction="none").square().mean()

    class Scaled(Focal):
        def denominator(self, target):
            return 2.0

    from deepcore.train.measure import Measure

    target = dc.tensor([0, -100, -100])
    counts = [Measure(loss).denominator((), target) for loss in (Focal(), Scaled(), nn.CrossEntropyLoss())]
    assert counts == [3, 2, 1]


def test_nothing_that_counts():
    """An evaluation says so; a group of accumulated batches is refused as one batch would be."""
    x, y = data(8)[0], np.full(8, -100)
    t = trainer(metrics=(), schedule=False, accumulate=2)
    with pytest.raises(DataError, match="nothing in it counts"):
        t.evaluate((x, y))
    with pytest.raises(NonFiniteError):
        t.fit((x, y), batch_size=2, verbose=0)
    assert t.step == 0
    y[0] = 1
    t.fit((x, y), batch_size=4, shuffle=False, verbose=0)
    assert t.step == 1 and t.history[1]["loss"] == t.history[1]["loss"]


def test_changing_a_loss_changes_what_is_accumulated():
    x, y = data(8)
    model = nn.Linear(FEATURES, CLASSES)
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.0), nn.CrossEntropyLoss(), metrics=(), accumulate=2)
    change = LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(t.loss, "label_smoothing", 0.3 * (epoch > 1)))
    first, second, third = t.fit((x, y), epochs=3, batch_size=4, shuffle=False, callbacks=[change], verbose=0)["loss"]
    smoothed = nn.functional.cross_entropy(model(dc.tensor(x)), dc.tensor(y), label_smoothing=0.3).item()
    assert first == second != third == pytest.approx(smoothed, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulating_equals_the_larger_batch(backend, reduction):
    x, y = data(10)  # in threes: 3 3 3 1, in groups of two: 6 and 4
    models = []
    for batch_size, accumulate in ((3, 2), (6, 1)):
        dc.manual_seed(1)
        model = nn.Linear(FEATURES, CLASSES).to(backend)
        t = Trainer(
            model,
            optim.SGD(model.parameters(), lr=0.1),
            nn.CrossEntropyLoss(reduction=reduction),
            accumulate=accumulate,
        )
        t.fit((x, y), epochs=3, batch_size=batch_size, shuffle=False, verbose=0)
        assert t.step == 6
        models.append(model.weight.detach().numpy())
    np.testing.assert_allclose(*models, rtol=1e-5, atol=1e-6)


def test_gradient_clipping():
    x, y = data(8)
    moved = []
    for clip in (None, 1e-3):
        dc.manual_seed(0)
        model = nn.Linear(FEATURES, CLASSES)
        before = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()
        Trainer(model, optim.SGD(model.parameters(), lr=1.0), nn.CrossEntropyLoss(), clip_grad_norm=clip).fit(
            (x, y), batch_size=8, verbose=0
        )
        after = model.weight.detach().numpy(), model.bias.detach().numpy()
        moved.append(math.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before))))
    assert moved[0] > 0.1 and moved[1] == pytest.approx(1e-3, rel=0.01)


def test_modes_during_and_after():
    x, y = data()
    t = trainer()
    t.model[1].eval()  # frozen, and left as found
    frozen = bits([t.model[1].running_mean, t.model[1].num_batches_tracked])
    seen = []
    t.model[3].register_forward_hook(lambda m, i, o: seen.append(m.training))
    t.fit((x, y), (x, y), batch_size=22, verbose=0)
    assert seen == [True, False]
    assert t.model.training and t.model[3].training and not t.model[1].training
    assert bits([t.model[1].running_mean, t.model[1].num_batches_tracked]) == frozen
    t.evaluate((x, y))
    t.predict(x)
    assert seen[2:] == [False, False] and t.model.training and not t.model[1].training


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize(
    "before, event, act, expected",
    [
        # Flags of (model, BatchNorm, Dropout) in the training batches of three epochs, two batches each.
        (lambda m: m.eval(), None, None, [(1, 1, 1)] * 6),
        (lambda m: m[1].eval(), None, None, [(1, 0, 1)] * 6),
        (lambda m: m.eval() and m[3].train(), None, None, [(0, 0, 1)] * 6),
        (lambda m: None, "on_epoch_end", lambda m: m.eval(), [(1, 1, 1)] * 6),
        (lambda m: m[1].eval(), "on_epoch_end", lambda m: m.eval(), [(1, 0, 1)] * 6),
        (lambda m: m[1].eval(), "on_train_batch_end", lambda m: m.eval(), [(1, 0, 1)] * 6),
        (lambda m: None, "on_epoch_end", lambda m: m[1].eval(), [(1, 1, 1)] * 2 + [(1, 0, 1)] * 4),
        (lambda m: m[1].eval(), "on_epoch_begin", lambda m: m.train(), [(1, 1, 1)] * 6),
        (lambda m: m[1].eval(), "on_test_end", lambda m: m.train(), [(1, 0, 1)] * 6),
    ],
)
def test_modes_that_are_found_or_changed(compile, before, event, act, expected):
    seen = []

    class Watch(Callback):
        def on_train_batch_begin(self, batch, logs):
            self.trainer.evaluate(data(4))
            self.trainer.predict(data(4)[0])

        def on_train_batch_end(self, batch, logs):
            seen.append(tuple(int(m.training) for m in (t.model, t.model[1], t.model[3])))

    t = trainer(compile=compile)
    before(t.model)
    found = [m.training for m in t.model.modules()]
    callbacks = [Watch()]
    if event:
        callbacks.append(LambdaCallback(**{event: lambda *args: act(t.model)}))
    t.fit(data(8), data(4), epochs=3, batch_size=4, callbacks=callbacks, verbose=0)
    assert seen == expected and [m.training for m in t.model.modules()] == found


@pytest.mark.parametrize("batches", [4, 5])
def test_modes_are_part_of_a_checkpoint(tmp_path, batches):
    """Frozen by a callback within the second of three epochs, two batches each; also saved while validating."""
    freeze = lambda t: LambdaCallback(on_train_batch_end=lambda batch, logs: t.epoch == 1 and t.model[1].eval())
    save = lambda t: LambdaCallback(on_test_end=lambda logs: t.save_checkpoint(tmp_path / f"{t.epoch}.safetensors"))
    whole = trainer(seed=1)
    whole.fit(data(8), data(4), epochs=3, batch_size=4, verbose=0, callbacks=[freeze(whole), save(whole)])
    t = trainer(seed=1, out=tmp_path)
    t.fit(data(8), data(4), epochs=3, batch_size=4, verbose=0, callbacks=[freeze(t), StopAt(batches)])
    for name in ("checkpoint", "1"):
        t = trainer()
        t.fit(data(8), data(4), epochs=3, batch_size=4, verbose=0, resume=tmp_path / f"{name}.safetensors")
        assert result(t) == result(whole)


class FreezesItself(nn.Module):
    """As fine-tuning code does it: training mode leaves the BatchNorm in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return self.body(x)

    def train(self, mode=True):
        super().train(mode)
        self.body[1].eval()
        return self


@pytest.mark.parametrize(
    "before", [lambda m: None, lambda m: m.eval(), lambda m: m.train()], ids=["new", "eval", "train"]
)
def test_modes_that_the_models_own_train_sets(before):
    seen = []
    t = trainer(model=FreezesItself)
    before(t.model)
    found = [m.training for m in t.model.modules()]
    frozen = bits(t.model.body[1].running_mean)
    watch = LambdaCallback(on_train_batch_end=lambda *a: seen.append([t.model.body[i].training for i in (1, 3)]))
    t.fit(data(8), data(4), epochs=2, batch_size=4, verbose=0, callbacks=[watch])
    assert seen == [[False, True]] * 4 and bits(t.model.body[1].running_mean) == frozen
    assert [m.training for m in t.model.modules()] == found


class Short(DataLoader):
    """Gives fewer batches than its length says."""

    def __init__(self, batches, **options):
        super().__init__(TensorDataset(*data(20)), 4, **options)
        self.given = batches

    def __iter__(self):
        for _, batch in zip(range(self.given), super().__iter__()):
            yield batch


@pytest.mark.parametrize("given, steps", [(5, 3), (4, 2), (3, 2), (1, 1)])
def test_a_group_closes_where_the_loader_really_ends(given, steps, tmp_path):
    results = []
    for loader in (Short(given), DataLoader(TensorDataset(*(a[: 4 * given] for a in data(20))), 4)):
        t = trainer(accumulate=2, seed=1)
        save = ModelCheckpoint(tmp_path / "last.safetensors", save_freq=given)
        t.fit(loader, verbose=0, callbacks=[save])
        assert t.step == steps and all(p.grad is None for p in t.model.parameters())
        assert dc.io.read_checkpoint(tmp_path / "last.safetensors")["extra"]["progress"]["step"] == steps
        results.append(result(t))
    assert results[0] == results[1]


def test_a_loader_that_gives_nothing():
    with pytest.raises(DataError, match=r"gave no batch in epoch 1(.|\n)*5, as its length says"):
        trainer().fit(Short(0), verbose=0)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)

    def forward(self, x, z):
        return self.a(x) - self.b(z)


class Perhaps(Two):
    def forward(self, x, z=None):
        return self.a(x) if z is None else super().forward(x, z)


class Any(Two):
    def forward(self, *inputs):
        return super().forward(*inputs)


class Listed(Two):
    def forward(self, both):
        return super().forward(*both)


class Named(Two):
    def forward(self, both):
        return super().forward(both["x"], both["z"])


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(FEATURES, CLASSES)

    def forward(self, columns):
        return self.a(columns["x"])


def test_a_dict_of_inputs_stays_a_dict_or_is_given_by_name():
    x, y = data(8)
    for kind, given in ((Single, {"x": x}), (Named, {"x": x, "z": x}), (Two, {"z": x, "x": x})):
        model = kind()
        t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
        t.fit((given, y), verbose=0)
        assert bits(t.predict(given)) == bits(t.predict((given,))) == bits(t.predict((given, y)))
    with pytest.raises(DataError, match=r"with 'x', 'w'(.|\n)*as forward does: 'x', 'z'"):
        t.fit(({"x": x, "w": x}, y), verbose=0)


def test_one_input_in_a_tuple_is_that_input():
    x, y = data(8)
    model = nn.Linear(FEATURES, CLASSES)
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
    losses = {t.evaluate(given)["loss"] for given in ((x, y), ((x,), y), ([x], y), (x, (y,)))}
    assert len(losses) == 1


def test_a_metric_of_several_outputs_is_refused():
    x, y = data(8)
    for output in (lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}):
        with pytest.raises(ArgumentError, match=r"one output and one target(.|\n)*of 2(.|\n)*metrics=\(\)"):
            Accuracy().update(output(dc.tensor(x), dc.tensor(x)), y)


def test_predicting_from_several_inputs(backend):
    """How many forward takes says whether the last part of the samples is the target."""
    x, y = data(8)
    z = x[::-1].copy()

    def of(kind):
        dc.manual_seed(0)
        model = kind()
        return Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), backend=backend)

    t = of(Two)
    expected = bits(t.predict((x, z)))
    assert expected == bits(t.model(dc.tensor(x, backend=backend), dc.tensor(z, backend=backend)).detach())
    for given in ((x, z, y), [x, z], TensorDataset(x, z), TensorDataset(x, z, y), (x.tolist(), dc.tensor(z))):
        assert bits(t.predict(given, batch_size=3)) == expected
    for given in (((x, z), y), ([x, z], y), [((a, b), int(c)) for a, b, c in zip(x, z, y)]):  # as for fit
        assert bits(t.predict(given, batch_size=3)) == expected == bits(of(Any).predict(given))
    assert bits(of(Perhaps).predict((x, z, y))) == bits(of(Any).predict(TensorDataset(x, z, y))) == expected
    assert bits(of(Listed).predict(([x, z],))) == bits(of(Named).predict(({"x": x, "z": z}, y))) == expected
    assert bits(of(Perhaps).predict(TensorDataset(x, z))) == bits(of(Perhaps).predict(x)) != expected
    for given in ((x, z), [x, z]):
        with pytest.raises(ArgumentError, match="last of 2 arrays may be an input or a target"):
            of(Perhaps).predict(given)
    with pytest.raises(DataError, match="takes 2 input"):
        t.predict(x)
    fits = set()
    for kind, given in (
        (Two, (x, z, y)),
        (Two, ([x, z], y)),
        (Two, ((x, z), y)),
        (Any, ([x, z], y)),
        (Listed, ([x, z], y)),
        (Named, ({"x": x, "z": z}, y)),
        (Two, [(a, b, int(c)) for a, b, c in zip(x, z, y)]),
        (Two, ({"z": z, "x": x}, y)),
        (Two, [({"z": b, "x": a}, int(c)) for a, b, c in zip(x, z, y)]),
    ):
        t = of(kind)
        t.fit(given, batch_size=3, shuffle=False, verbose=0)
        fits.add(str(bits(t.model.state_dict())))
    assert len(fits) == 1


def test_several_targets():
    x, y = data(8)
    two = lambda out, y: nn.functional.cross_entropy(out, y[0]) + nn.functional.cross_entropy(out, y[1])
    losses = set()
    for target in ((y, y), [y, y], (y.tolist(), dc.tensor(y)), [dc.tensor(y), y]):
        t = trainer(loss=two, model=lambda: network(dropout=0.0))
        losses.add(t.fit((x, target), batch_size=3, shuffle=False, verbose=0)[1]["loss"])
    assert len(losses) == 1


class Frame:
    """What pandas and others have in common."""

    def __init__(self, **columns):
        self.data = {name: np.asarray(values) for name, values in columns.items()}
        self.columns = list(columns)
        self.shape = (len(next(iter(self.data.values()))), len(columns))

    def __getitem__(self, name):
        return self.data[name]

    def to_numpy(self):
        return np.stack([np.asarray(c, object) for c in self.data.values()], 1)


def test_kinds_of_inputs_people_have():
    x, y = data()
    frame = Frame(**{f"c{i}": x[:, i] for i in range(FEATURES)})
    losses = set()
    for given in (
        (x, y),
        (x.tolist(), y.tolist()),
        (list(x), list(y)),
        ([dc.tensor(row) for row in x], y),
        (x.astype(object), y.astype(object)),
        (x.astype(np.float64), y.astype(np.uint8)),
        [(row, int(label)) for row, label in zip(x, y)],
        [(row.tolist(), label) for row, label in zip(x, y)],
        (frame, y),
    ):
        t = trainer(model=lambda: network(dropout=0.0))
        losses.add(t.fit(given, batch_size=8, shuffle=False, verbose=0)[1]["loss"])
    assert len(losses) == 1
    assert len({str(bits(t.predict(given))) for given in (x, x.tolist(), list(x), frame, (x, y))}) == 1
    with pytest.raises(DataError, match=r"not hold numbers alone: name(.|\n)*drop\(columns=\['name'\]\)"):
        t.predict(Frame(a=x[:, 0], name=["n"] * N))
    with pytest.raises(DataError, match="fillna"):
        t.fit((Frame(a=[1, None] * 11), y))


def test_pandas():
    pandas = pytest.importorskip("pandas")
    x, y = data()
    frame = pandas.DataFrame(x)
    t = trainer()
    t.fit((frame, pandas.Series(y)), (frame, pandas.Series(y)), verbose=0)
    assert bits(t.predict(frame)) == bits(t.predict(x))
    with pytest.raises(DataError, match="columns that do not hold numbers alone: 1"):
        t.predict(frame.assign(**{"1": "text"}))
    with pytest.raises(DataError, match="unique"):
        t.fit((frame, pandas.Series(["a", "b"] * 11)))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64"])
def test_inputs_that_the_model_refuses_are_converted(backend, dtype):
    x, y = data(8)
    x = np.asarray(np.abs(x) * 9, dtype=dtype)

    class Items(Dataset):  # arrays of floats are converted as they are given, a dataset's are not
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return x[index], y[index]

    t, same = trainer(backend, seed=1), trainer(backend, seed=1)
    with pytest.warns(DeepcoreWarning, match=f"inputs are {dtype}, and the model computes in float32") as caught:
        t.fit(Items(), Items(), epochs=2, batch_size=4, shuffle=False, verbose=0)
        predicted = t.predict(Items())
    assert len(caught) == 1 and ("x / 255" in str(caught[0].message)) == (dtype == "uint8")
    same.fit((x.astype(np.float32), y), (x.astype(np.float32), y), 2, 4, shuffle=False, verbose=0)
    assert result(t) == result(same) and bits(predicted) == bits(same.predict(x.astype(np.float32)))


def test_indices_stay_whole_numbers():
    x, y = np.arange(16).reshape(8, 2) % 5, data(8)[1]
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, CLASSES))
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
    t.fit((x, y), verbose=0)

    class OneHot(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(10, CLASSES)

        def forward(self, x):
            return self.body(nn.functional.one_hot(x, 5).flatten(1).float())

    class Bytes(OneHot):
        def forward(self, x):
            return self.body(x.float().repeat(1, 5))

    for model in (OneHot(), Bytes()):
        t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
        t.fit((x, y), verbose=0)
        assert t.predict(x).shape == (8, CLASSES)


def test_asking_the_model_for_its_dtype_draws_nothing():
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(FEATURES, CLASSES)

        def forward(self, x):
            return self.body(x) + dc.rand(CLASSES)

    losses = []
    for x in (np.ones((8, FEATURES), np.float32), np.ones((8, FEATURES), np.int64)):
        dc.manual_seed(0)
        t = trainer(model=Noise, seed=1)
        with contextlib.nullcontext() if x.dtype == np.float32 else pytest.warns(DeepcoreWarning, match="int64"):
            losses.append(t.fit((x, data(8)[1]), verbose=0)[1]["loss"])
    assert losses[0] == losses[1]


def test_one_sample_that_a_layer_takes_for_its_features():
    """Six numbers are one row of six features to Linear, also where they came as a batch of six."""
    model = nn.Linear(FEATURES, CLASSES)
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
    with pytest.raises(ShapeError, match=r"a single sample(.|\n)*predict\(x\[None\]\)"):
        t.predict(X[0])
    assert t.predict(X[0][None]).shape == (1, CLASSES)


def test_regression_targets_of_one_dimension_get_a_fix_that_fits():
    x, y = data(8)
    model = nn.Linear(FEATURES, 1)
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    with pytest.raises(ShapeError, match=r"fix: +target\[:, None\]"):
        t.fit((x, y), verbose=0)
    t.fit((x, y[:, None]), verbose=0)


def test_kinds_of_data():
    x, y = data()

    class Pairs(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return x[i], int(y[i])

    losses = set()
    for given in (
        (x, y),
        (x.astype(np.float64), y),
        (dc.tensor(x), dc.tensor(y)),
        TensorDataset(x, y),
        Pairs(),
        DataLoader(Pairs(), 8),
    ):
        t = trainer()
        t.model[3].p = 0.0
        t.fit(given, **({} if isinstance(given, DataLoader) else {"batch_size": 8, "shuffle": False}), verbose=0)
        losses.add(t.history[1]["loss"])
    assert len(losses) == 1
    assert bits(t.predict(x)) == bits(t.predict((x, y))) == bits(t.predict(Pairs()))


def test_several_inputs_and_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 1), nn.Linear(3, 1)

        def forward(self, x, z):
            return {"sum": self.a(x) + self.b(z), "x": x}

    model = Two()
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), lambda out, y: ((out["sum"] - y) ** 2).mean())
    x, z, y = (np.ones((5, k), np.float32) for k in (2, 3, 1))
    assert t.fit((x, z, y), epochs=2, batch_size=2, verbose=0)["loss"][1] > 0
    assert t.predict((x, z, y), batch_size=2)["sum"].shape == (5, 1)


def test_backend_is_moved_to(backend):
    x, y = data()
    model = network()
    opt = optim.Adam(model.parameters())
    Trainer(model, opt, nn.CrossEntropyLoss()).fit((x, y), verbose=0)  # the optimizer has state on the CPU
    weight = dc.ones(CLASSES)
    t = Trainer(model, opt, nn.CrossEntropyLoss(weight=weight), backend=backend)
    t.fit(DataLoader(TensorDataset(x, y), 8), (x, y), verbose=0)
    assert all(p.backend is t.backend for p in model.parameters())
    assert t.backend == dc.get_backend(backend) and t.step == 3


def test_regression_and_two_classes_have_fitting_metrics():
    x, y = data()
    two, real = (y == 1).astype(np.float32)[:, None], x[:, :1] * 2
    squash = nn.Sequential(nn.Linear(FEATURES, 1), nn.Sigmoid())
    for model, loss, target, names in (
        (nn.Linear(FEATURES, 1), nn.MSELoss(), real, ["loss", "lr"]),
        (squash, nn.BCELoss(), two, ["loss", "accuracy", "lr"]),
        (nn.Linear(FEATURES, 1), nn.functional.binary_cross_entropy_with_logits, two, ["loss", "accuracy", "lr"]),
    ):
        t = Trainer(model, optim.Adam(model.parameters(), lr=0.1), loss)
        assert t.fit((x, target), epochs=30, verbose=0).names == names
        if t.metrics:
            cut = 0.5 if model is squash else 0.0
            expected = ((t.predict(x).numpy() > cut) == target).mean()
            assert t.evaluate((x, target))["accuracy"] == pytest.approx(expected) and expected > 0.6


# -- the same bits --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def reference():
    """Result of the run that never stops, per backend, made once."""
    made = {}

    def get(backend, tmp_path):
        if backend not in made:
            t = trainer(backend, seed=3, accumulate=2)
            t.fit(**fit_arguments())
            made[backend] = result(t)
        return made[backend]

    return get


def fit_arguments(**changes):
    x, y = data()
    watch = [
        EarlyStopping("val_loss", patience=9, restore_best_weights=True),
        ReduceLROnPlateau(patience=1, min_delta=5.0),
    ]
    return {
        "train": (x, y),
        "validation": DataLoader(TensorDataset(*data(9, seed=1)), 4, shuffle=True, seed=1),
        "epochs": 4,
        "batch_size": 4,  # 6 batches a epoch, the last of 2
        "callbacks": watch,
        "verbose": 0,
    } | changes


@pytest.mark.parametrize("batches", [1, 2, 3, 6, 8, 12, 17, 24])
@pytest.mark.parametrize("interrupt", [False, True], ids=["stopped", "interrupted"])
def test_resumed_run_has_the_bits_of_one_that_never_stopped(backend, tmp_path, reference, batches, interrupt):
    """1, 3 and 17 are inside a group of accumulated batches, 6, 12 and 24 ends of epochs."""
    expected = reference(backend, tmp_path)
    t = trainer(backend, seed=3, accumulate=2, out=tmp_path)
    arguments = fit_arguments()
    arguments["callbacks"] = [*arguments["callbacks"], StopAt(batches, interrupt)]
    history = t.fit(**arguments)
    assert history.interrupted == interrupt
    assert len(history) < 4 or (batches == 24 and not interrupt), "the last epoch is completed if nothing hurries"
    stopped = t.step
    dc.manual_seed(99)  # another process: nothing is as it was
    t = trainer(backend, out=tmp_path, accumulate=2)
    dc.manual_seed(98)
    history = t.fit(**fit_arguments(resume=True))
    assert t.step == 12 and stopped == min(-(-batches // 6) * 3, (batches // 6) * 3 + -(-(batches % 6) // 2))
    assert result(t) == expected
    assert not history.interrupted


def test_interrupted_while_validating(backend, tmp_path, reference):
    t = trainer(backend, seed=3, accumulate=2, out=tmp_path)
    arguments = fit_arguments()
    press = LambdaCallback(on_test_batch_end=lambda batch, logs: batch == 1 and signal.raise_signal(signal.SIGINT))
    history = t.fit(**{**arguments, "callbacks": [*arguments["callbacks"], press]})
    assert history.interrupted and len(history) == 0 and t.step == 3
    t = trainer(backend, accumulate=2, out=tmp_path)
    t.fit(**fit_arguments(resume=tmp_path))
    assert result(t) == reference(backend, tmp_path)


def test_more_epochs_after_the_end(tmp_path):
    x, y = data()
    whole = trainer(seed=3)
    whole.fit((x, y), epochs=5, verbose=0)
    t = trainer(seed=3, out=tmp_path)
    t.fit((x, y), epochs=2, verbose=0)
    t = trainer()
    t.fit((x, y), epochs=5, verbose=0, resume=tmp_path / "checkpoint.safetensors")
    assert result(t) == result(whole)


def test_same_seed_same_bits_at_one_and_two_threads(backend):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 200)).astype(np.float32), rng.integers(0, 10, 300)
    before = dc.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            dc.set_num_threads(threads)
            dc.manual_seed(0)
            model = nn.Sequential(nn.Linear(200, 300), nn.GELU(), nn.Dropout(), nn.Linear(300, 10)).to(backend)
            t = Trainer(model, optim.Adam(model.parameters()), nn.CrossEntropyLoss(), seed=1, clip_grad_norm=1.0)
            t.fit((x, y), epochs=2, batch_size=150, verbose=0)
            results.append(result(t))
    finally:
        dc.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_seed_decides():
    x, y = data()
    runs = []
    for seed in (1, 1, 2):
        t = trainer(seed=seed)
        t.fit((x, y), batch_size=8, verbose=0)
        runs.append(result(t))
    assert runs[0] == runs[1] != runs[2]


# -- compiled steps -------------------------------------------------------------------------------------------
class Carry(Callback):
    """Goes on after a loss that is not finite."""

    handles_non_finite = True


class Change(Callback):
    """Does something with the model or optimizer before each of some batches, counted over all epochs."""

    def __init__(self, act, *batches):
        self.act, self.batches, self.at = act, batches, 0

    def on_train_batch_begin(self, batch, logs):
        if self.at in self.batches:
            self.act(self.trainer)
        self.at += 1

    def state_dict(self):
        return {}


def freeze(t, flag=False):
    for p in t.model[0].parameters():
        p.requires_grad_(flag)


def broken(where, value):
    x, y = data()
    x[where] = value
    return x, y


def swap(t):
    t.model[2] = nn.Tanh()


def rebind(t):
    p = t.model[4].weight
    p.data = p.data * 2


class ByValue(nn.Module):
    """Cannot be compiled."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return self.body(x if x.sum().item() > 0 else -x)


#: Options of a Trainer, of its fit, and how many of the 18 steps are programs: two kinds of batches are followed.
COMPILED = {
    "plain": ({}, {}, 16),
    "momentum": ({"optimizer": lambda p, lr: optim.SGD(p, lr, momentum=0.9)}, {}, 16),
    "clipped": ({"clip_grad_norm": 0.1}, {}, 16),
    "a lambda": ({"loss": lambda out, y: nn.functional.cross_entropy(out, y) * 2}, {}, 16),
    "no metrics": ({"metrics": ()}, {}, 16),
    "another rate every step": ({}, {"callbacks": lambda: Change(lambda t: decay(t, "lr", 0.9), *range(18))}, 16),
    "weight decay": ({}, {"callbacks": lambda: Change(lambda t: decay(t, "eps", 2.0), 8)}, 16),
    "frozen": ({}, {"callbacks": lambda: Change(freeze, 7)}, 14),
    "frozen, thawed": (
        {},
        {"callbacks": lambda: [Change(freeze, 7), Change(lambda t: freeze(t, True), 13)]},
        14,
    ),
    "evaluating layer": ({}, {"callbacks": lambda: Change(lambda t: t.model[1].eval(), 2, 8, 14)}, 15),
    "another layer": ({}, {"callbacks": lambda: Change(swap, 9)}, 14),
    "another array": ({}, {"callbacks": lambda: Change(rebind, 9)}, 14),
    "best weights": ({}, {"callbacks": lambda: EarlyStopping("loss", restore_best_weights=True)}, 16),
    "NaN": ({}, {"train": broken(9, np.nan), "callbacks": Carry, "shuffle": False}, 13),
    "NaN first": ({}, {"train": broken(1, np.nan), "callbacks": Carry, "shuffle": False}, 13),
    "infinite, clipped": ({"clip_grad_norm": 1.0}, {"train": broken(9, np.inf), "callbacks": Carry}, None),
    "hooks": ({}, {"callbacks": lambda: Change(lambda t: t.model[3].register_forward_hook(double), 6)}, 4),
    "anomalies": ({}, {"callbacks": lambda: Anomalies()}, 16),
    "by value": ({"model": ByValue}, {}, 0),
}


def decay(t, name, factor):
    t.optimizer.param_groups[0][name] *= factor


def double(module, args, output):
    return output * 2


class Anomalies(Callback):
    """Every result is looked at."""

    def on_train_begin(self, logs):
        self.context = dc.autograd.detect_anomaly()
        self.context.__enter__()

    def close(self):
        self.context.__exit__(None, None, None)

    def state_dict(self):
        return {}


def compiled_and_not(options, changes, **fit):
    """[(trainer, its result)] of a fit with programs and of one without."""
    found = []
    for compile in (True, False):
        options_, arguments = dict(options), {"train": data(), "epochs": 3, "batch_size": 4, "verbose": 0, **changes}
        if callable(arguments.get("callbacks")):
            arguments["callbacks"] = arguments["callbacks"]()
        model = options_.pop("model", network)
        t = trainer(model=model, seed=3, compile=compile, **options_)
        t.fit(**arguments, **fit)
        found.append(
            (t, [result(t), dc.get_rng_state(), *map(bits, (t.evaluate(data()), t.predict(data(), batch_size=5)))])
        )
    return found


@compiled_only
@pytest.mark.parametrize("name", COMPILED)
def test_programs_have_the_bits_of_the_loop(name, caplog):
    """Weights, statistics, optimizer, history, metrics, and the random stream."""
    options, changes, runs = COMPILED[name]
    with caplog.at_level("INFO", "deepcore.compile"):
        (compiled, a), (plain, b) = compiled_and_not(options, changes)
    assert a == b
    steps = compiled._steps
    assert not hasattr(plain._steps.train, "runs"), "compile=False compiles nothing"
    if runs is not None:
        assert steps.train.runs == runs, steps.train.faults
    if steps.predict.faults:
        assert name in ("hooks", "by value") and "_predict runs eagerly: " in caplog.text, (
            "in the log, and nowhere else"
        )
    else:
        assert steps.predict.runs == 3 and not steps.test.faults


@compiled_only
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_gradients_are_programs(reduction):
    (t, a), (_, b) = compiled_and_not({"accumulate": 2, "loss": nn.CrossEntropyLoss(reduction=reduction)}, {})
    assert a == b
    # First of a group, second of a group, and a smaller second one.
    assert (t._steps.gradients.runs, t._steps.gradients.traces, t._steps.train.traces) == (15, 3, 0)


@compiled_only
def test_a_program_stops_before_the_update_where_gradients_overflow():
    x = np.ones((8, 1), np.float32)
    x[4:6] = 3e38  # their sum is infinite, and their outputs' is not
    weights = []
    for compile in (True, False):
        model = nn.Linear(1, 1)
        with dc.no_grad():
            model.weight.fill_(0.1)
            model.bias.fill_(0.0)
        sgd = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        t = Trainer(model, sgd, lambda out, y: out.sum(), clip_grad_norm=1.0, compile=compile)
        t.fit((x, x), batch_size=2, shuffle=False, callbacks=Carry(), verbose=0)
        assert t.step == 3 and (not compile or t._steps.train.runs == 2)
        weights.append(bits([model.state_dict(), sgd.state_dict()]))
        with pytest.raises(NonFiniteError, match=r"the loss is finite, but(.|\n)*batch 3 of 4") as caught:
            t.fit((x, x), batch_size=2, shuffle=False, verbose=0)
        assert caught.value.__suppress_context__ and "the gradient of weight," in str(caught.value)
    assert weights[0] == weights[1]


@compiled_only
def test_batches_of_ever_new_sizes_are_not_followed_for_ever():
    x, y = data(45)
    batches = [(x[:n], y[:n]) for n in range(2, 46)]
    given = DataLoader(batches, collate_fn=lambda one: tuple(map(dc.tensor, one[0])))
    t = trainer()
    t.fit(given, epochs=2, verbose=0)
    assert t._steps.train.traces == t._steps.train.runs == 16 and t.step == 88


@compiled_only
def test_a_second_fit_goes_on_with_the_programs_of_the_first():
    t = trainer()
    for _ in range(2):
        t.fit(data(), batch_size=4, verbose=0)
        t.evaluate(data(), batch_size=11)
    assert (t._steps.train.traces, t._steps.train.runs) == (2, 10)
    assert (t._steps.test.traces, t._steps.test.runs) == (1, 3)
    t.loss, t.clip_grad_norm = nn.CrossEntropyLoss(label_smoothing=0.1), 1e-6
    before = bits(t.model[4].weight)
    t.fit(data(), batch_size=4, verbose=0)
    assert t._steps.train.traces == 4 and bits(t.model[4].weight) != before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["copied", "pickled"])
def test_a_copy_trains_apart_and_alike(copied):
    t = trainer()
    t.fit(data(), batch_size=4, shuffle=False, verbose=0)
    other, results = copied(t), []
    for one in (t, other):
        dc.manual_seed(1)
        one.fit(data(), epochs=2, batch_size=4, verbose=0)
        results.append(result(one))
    assert results[0] == results[1] and other.model is not t.model


# -- interrupts -------------------------------------------------------------------------------------------------
def test_interrupt_stops_after_the_step_and_saves(tmp_path, capsys):
    x, y = data()
    before = signal.getsignal(signal.SIGINT)
    t = trainer(out=tmp_path)
    history = t.fit((x, y), epochs=3, batch_size=4, callbacks=StopAt(8, interrupt=True), verbose=2)
    assert history.interrupted and len(history) == 1 and t.step == 8
    assert repr(history).endswith("interrupted")
    assert signal.getsignal(signal.SIGINT) is before
    assert all(p.grad is None for p in t.model.parameters())
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert "interrupted in epoch 2 after batch 2 of 6" in capsys.readouterr().out
    saved = dc.io.read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert bits(saved["parts"]["model"]) == bits(t.model.state_dict()), "the file and the memory agree"


def test_second_interrupt_is_immediate(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    t = trainer(out=tmp_path)
    t.model[3].eval()
    with pytest.raises(KeyboardInterrupt):
        t.fit(data(), epochs=3, batch_size=4, callbacks=[StopAt(8, interrupt=True, times=2)], verbose=0)
    assert signal.getsignal(signal.SIGINT) is before
    assert t.step == 8 and not (tmp_path / "checkpoint.safetensors").exists()
    assert t.model.training and not t.model[3].training


def test_handler_only_in_the_main_thread():
    seen = []
    look = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(signal.getsignal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    t = trainer()
    thread = threading.Thread(target=lambda: t.fit(data(), callbacks=[look], verbose=0))
    thread.start()
    thread.join()
    assert seen == [before] and t.step == 1
    t.fit(data(), callbacks=[look], verbose=0)
    assert seen[1] is not before and signal.getsignal(signal.SIGINT) is before


TERMINATING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.mark.parametrize("signum", TERMINATING)
def test_a_terminating_signal_saves_and_then_has_the_effect_it_had(signum, tmp_path):
    file, seen = tmp_path / "checkpoint.safetensors", []
    t = trainer(out=tmp_path)

    def handler(number, frame):
        seen.append((number, file.exists(), t.step, t.history.interrupted))

    def press(batch, logs):
        if t.step == 8:
            for _ in range(3):  # they come in pairs, and only the first counts
                signal.raise_signal(signum)

    before = signal.signal(signum, handler)
    try:
        history = t.fit(data(), epochs=3, batch_size=4, callbacks=LambdaCallback(on_train_batch_end=press), verbose=0)
        assert signal.getsignal(signum) is handler
    finally:
        signal.signal(signum, before)
    assert seen == [(signum, True, 8, True)] and history.interrupted and len(history) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_ignored_signals_stay_ignored_and_ctrl_c_after_a_signal_is_immediate():
    press = lambda *signals: LambdaCallback(on_train_batch_end=lambda *_: [signal.raise_signal(s) for s in signals])
    t = trainer()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert not t.fit(data(), batch_size=4, callbacks=press(signal.SIGHUP), verbose=0).interrupted and t.step == 6
    finally:
        signal.signal(signal.SIGHUP, before)
    before = signal.signal(signal.SIGTERM, lambda *args: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            t.fit(data(), batch_size=4, callbacks=press(signal.SIGTERM, signal.SIGINT), verbose=0)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_gets_its_signals_as_before():
    """Else its parent's `terminate()` would do nothing."""
    codes = []

    def fork(batch, logs):
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside the pool's threads
        history = trainer().fit(data(4), callbacks=LambdaCallback(on_train_batch_end=fork), verbose=0)
    assert codes == [-signal.SIGTERM] and not history.interrupted


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_sigterm_by_default_ends_the_process_with_the_run_saved(tmp_path):
    code = f"""
import os, signal, numpy as np
from deepcore import Trainer, nn, optim
from deepcore.train import LambdaCallback
model = nn.Linear(2, 2)
end = LambdaCallback(on_train_batch_end=lambda batch, logs: batch == 2 and os.kill(os.getpid(), signal.SIGTERM))
trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), out={str(tmp_path)!r})
trainer.fit((np.zeros((8, 2), np.float32), np.zeros(8, np.int64)), batch_size=1, callbacks=end)
print("not reached")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "interrupted in epoch 1 after batch 3 of 8" in done.stdout and "not reached" not in done.stdout
    saved = dc.io.read_checkpoint(tmp_path / "checkpoint.safetensors")["extra"]["progress"]
    assert (saved["step"], saved["batch"]) == (3, 3)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_error_beside_a_sigterm_is_shown(tmp_path):
    code = f"""
import os, signal, numpy as np
from deepcore import Trainer, nn, optim
from deepcore.train import LambdaCallback
model = nn.Linear(2, 2)
end = LambdaCallback(on_train_batch_end=lambda batch, logs: os.kill(os.getpid(), signal.SIGTERM) or 1 / 0)
trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), out={str(tmp_path)!r})
trainer.fit((np.zeros((8, 2), np.float32), np.zeros(8, np.int64)), batch_size=1, callbacks=end, verbose=0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "ZeroDivisionError" in done.stderr and "is saved in" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("where", ["training", "validation"])
def test_workers_that_a_signal_ended_before_the_run_stops(where, tmp_path):
    """Of a signal to all processes of a group, as a supervisor sends it."""

    class Ended(TensorDataset):
        def __getitem__(self, i):
            if i == 9:
                signal.raise_signal(signal.SIGTERM)
                raise DataError("worker 0 of the loader died (killed by signal 15)")
            return super().__getitem__(i)

    loader = DataLoader(Ended(*data()), 4, collate_fn=lambda items: tuple(map(dc.stack, zip(*items))))
    before = signal.signal(signal.SIGTERM, lambda *args: None)
    try:
        t = trainer(out=tmp_path)
        train = (loader, None) if where == "training" else (data(), loader)
        history = t.fit(*train, batch_size=4 if where == "validation" else None, verbose=0)
        assert history.interrupted and t.step == (2 if where == "training" else 6)
        saved = dc.io.read_checkpoint(tmp_path / "checkpoint.safetensors")["extra"]
        assert saved["progress"]["batch"] == t.step
    finally:
        signal.signal(signal.SIGTERM, before)


# -- checkpoints while a run goes on ------------------------------------------------------------------------------
class Clock:
    """A clock that a callback puts forward by `seconds` at every batch."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(dc.train.autosave, "monotonic", lambda: self.now)

    def tick(self, batch, logs):
        self.now += self.seconds


@pytest.mark.parametrize(
    "seconds, options, places",
    [
        (1, {}, [(2, 0), (4, 0)]),  # 6 s an epoch: at every second end
        (2, {}, [(1, 0), (2, 0), (3, 0), (4, 0)]),
        (25, {}, [(0, 3), (1, 0), (1, 3), (2, 0), (2, 3), (3, 0), (3, 3), (4, 0)]),
        (25, {"save_every": 150}, [(1, 0), (2, 0), (3, 0), (4, 0)]),
        (0, {"save_every": 0, "epochs": 1}, [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 0)]),
        (1000, {"save_every": None}, []),
    ],
)
def test_when_checkpoints_are_written(seconds, options, places, tmp_path, monkeypatch):
    clock, wrote = Clock(monkeypatch, seconds), []
    epochs = options.get("epochs", 4)
    t = trainer(out=tmp_path, **{k: v for k, v in options.items() if k != "epochs"})
    save = t.save_checkpoint
    monkeypatch.setattr(t, "save_checkpoint", lambda path: (wrote.append((t.epoch, t._progress.batch)), save(path)))
    t.fit(data(), epochs=epochs, batch_size=4, callbacks=LambdaCallback(on_train_batch_end=clock.tick), verbose=0)
    assert wrote == [*places, (epochs, 0)], "the last one when the fit ends"


def test_every_checkpoint_of_a_run_resumes_to_the_same_bits(backend, tmp_path, reference):
    """Of a run that is killed after any update: its checkpoints are copied as they are written."""
    expected = reference(backend, tmp_path)
    t = trainer(backend, seed=3, accumulate=2, out=tmp_path, save_every=0)
    save, copies = t.save_checkpoint, []

    def copied(path):
        save(path)
        copies.append(tmp_path / f"{len(copies)}.safetensors")
        shutil.copy(path, copies[-1])

    t.save_checkpoint = copied
    t.fit(**fit_arguments())
    assert result(t) == expected and len(copies) == 4 * (2 + 2) + 1  # within epochs, before validation, at ends
    for path in copies[:4]:  # one of each kind
        t = trainer(backend, accumulate=2)
        t.fit(**fit_arguments(resume=path))
        assert result(t) == expected


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "event, calls",
    [
        ("on_epoch_begin", (2,)), ("on_train_batch_begin", (1, 8, 9, 12)), ("on_train_batch_end", (1, 8, 12)),
        ("on_test_begin", (1, 2)), ("on_test_batch_begin", (1, 2, 4)), ("on_test_batch_end", (1, 3, 5)),
        ("on_test_end", (1, 2)), ("on_epoch_end", (1, 2)),
    ],
)  # fmt: skip
def test_a_checkpoint_asked_for_at_any_event_resumes_to_the_same_bits(event, calls, accumulate, tmp_path):
    """Neither the batch that begins is left out of the run that is resumed, nor a part of the validation."""

    def saved(*args):
        count[0] += 1
        if count[0] in calls:
            t.save_checkpoint(tmp_path / f"{count[0]}.safetensors")

    count = [0]
    t = trainer(seed=3, accumulate=accumulate)
    t.fit(**fit_arguments(epochs=2, callbacks=[LambdaCallback(**{event: saved})]))
    whole = result(t)
    for call in calls:
        t = trainer(accumulate=accumulate)
        t.fit(**fit_arguments(epochs=2, callbacks=(), resume=tmp_path / f"{call}.safetensors"))
        assert result(t) == whole


class Fault(RuntimeError): ...


class Bomb(Callback):
    """Raises the nth time that `at` is called for the place."""

    def __init__(self, place=None, count=0):
        self.place, self.left = place, count

    def at(self, place):
        self.left -= place == self.place
        if place == self.place and self.left == 0:
            raise Fault(place)

    def on_epoch_begin(self, epoch, logs):
        self.at("epoch begins")

    def on_epoch_end(self, epoch, logs):
        self.at("epoch ends")

    def on_train_batch_begin(self, batch, logs):
        self.at("batch begins")

    def on_train_batch_end(self, batch, logs):
        self.at("batch ends")

    def on_test_batch_end(self, batch, logs):
        self.at("validation")

    def state_dict(self):
        return {}


class Fused(TensorDataset):
    def __init__(self, bomb, place, *arrays):
        super().__init__(*arrays)
        self.bomb, self.place = bomb, place

    def __getitem__(self, i):
        self.bomb.at(self.place)
        return super().__getitem__(i)


class Tap(nn.Module):
    def __init__(self, bomb):
        super().__init__()
        self.__dict__["bomb"] = bomb

    def forward(self, x):
        if self.training:
            self.bomb.at("forward")
        return x


class Decay(Callback):
    """A learning rate that falls after each batch."""

    def on_train_batch_end(self, batch, logs):
        for group in self.trainer.optimizer.param_groups:
            group["lr"] *= 0.99


def with_bomb(bomb, accumulate, tmp_path, resume=None, first=False):
    """6 batches an epoch and 3 to validate, each sample fetched by itself."""
    dc.manual_seed(5)
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.3), Tap(bomb), nn.Linear(8, CLASSES))
    opt = optim.Adam(model.parameters(), lr=0.01)
    tapped = {"update": lambda self, *batch: (bomb.at("metric"), Accuracy.update(self, *batch))}
    t = Trainer(
        model,
        opt,
        nn.CrossEntropyLoss(),
        metrics=[type("Tapped", (Accuracy,), tapped)()],
        scheduler=optim.lr_scheduler.StepLR(opt, 1, 0.5),
        accumulate=accumulate,
        out=tmp_path,
        save_every=None,
        compile=False,
    )
    collate = lambda items: tuple(map(dc.stack, zip(*items)))
    loaders = [
        DataLoader(Fused(bomb, place, *arrays), 4, shuffle=True, seed=1, collate_fn=collate)
        for place, arrays in (("data", data()), ("validation data", data(9, seed=1)))
    ]
    watch = [
        EarlyStopping("val_loss", patience=9, restore_best_weights=True),
        ReduceLROnPlateau(patience=0, min_delta=5.0),
        LearningRateScheduler(lambda epoch, lr: lr * 0.9),
        Decay(),
    ]
    t.fit(*loaders, epochs=3, callbacks=[bomb, *watch] if first else [*watch, bomb], verbose=0, resume=resume)
    return result(t)


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "place, count",
    [
        ("epoch begins", 2),
        ("epoch ends", 2),
        ("batch begins", 9),
        ("batch begins", 10),
        ("batch ends", 9),
        ("batch ends", 10),
        ("forward", 9),
        ("metric", 9 + 2),
        ("data", 22 + 9),
        ("data", 22 + 13),
        ("validation", 5),
        ("validation data", 9 + 5),
    ],
)
def test_an_error_leaves_a_checkpoint_that_resumes_to_the_same_bits(place, count, accumulate, first, tmp_path):
    """But none where a group of batches has begun, or the books of an update are not closed.

    The callbacks before the one that raises see the event once, and those after it in the run that is resumed.
    """
    whole = with_bomb(Bomb(), accumulate, tmp_path / "whole", first=first)
    with pytest.raises(Fault) as caught:
        with_bomb(Bomb(place, count), accumulate, tmp_path, first=first)
    inside = accumulate == 2 and (place, count) in (
        ("batch begins", 10), ("batch ends", 9), ("data", 22 + 13),
    )  # fmt: skip
    notes = [note for note in getattr(caught.value, "__notes__", []) if not note.startswith("In sample")]
    if inside or place == "metric":
        assert not (tmp_path / "checkpoint.safetensors").exists() and not notes
    else:
        assert re.fullmatch(r"the run (in|after) epoch .* is saved in .*checkpoint.safetensors", notes[-1])
        assert with_bomb(Bomb(), accumulate, tmp_path, resume=True, first=first) == whole


def test_a_checkpoint_asked_for_is_written_where_a_later_callback_raises(tmp_path):
    """Else `ModelCheckpoint` takes it for the best one there is."""
    t = trainer(out=tmp_path)
    callbacks = [ModelCheckpoint(tmp_path / "kept", monitor="loss", save_best_only=True), Bomb("epoch ends", 2)]
    with pytest.raises(Fault):
        t.fit(data(), epochs=3, callbacks=callbacks, verbose=0)
    assert {"kept", "checkpoint.safetensors"} <= set(os.listdir(tmp_path))
    assert bits(dc.load(tmp_path / "kept")) == bits(dc.load(tmp_path / "checkpoint.safetensors"))


class Dying(Dataset):
    """Ends its worker at its nth sample of the third epoch."""

    def __init__(self, flag):
        self.flag, (self.x, self.y) = flag, data()

    def __len__(self):
        return N

    def __getitem__(self, i):
        if self.flag is not None and self.flag.exists() and i == 7:
            os._exit(1)
        return self.x[i], self.y[i]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_worker_that_dies_leaves_the_epochs_before(tmp_path):
    def run(flag, out, resume=None):
        t = trainer(out=out)
        kill = LambdaCallback(on_epoch_begin=lambda epoch, logs: flag.touch() if flag and epoch == 2 else None)
        loader = DataLoader(Dying(flag), 4, shuffle=True, seed=1, num_workers=1, multiprocessing_context="fork")
        t.fit(loader, epochs=4, callbacks=kill, verbose=0, resume=resume)
        return result(t)

    with pytest.raises(DataError, match="worker 0 of the loader died") as caught:
        run(tmp_path / "flag", tmp_path)
    assert re.match("the run (in epoch 3|after epoch 2)", caught.value.__notes__[-1])
    saved = dc.io.read_checkpoint(tmp_path / "checkpoint.safetensors")["extra"]["progress"]
    assert saved["epoch"] == 2 and saved["step"] >= 12
    assert run(None, tmp_path, resume=True) == run(None, tmp_path / "whole")


def test_a_full_disk_does_not_end_a_run_that_goes_on(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    t = trainer(out=tmp_path, save_every=0)
    t.fit(data(), batch_size=8, verbose=0)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(DeepcoreWarning, match="cannot be written: No space left on device; training goes on"):
        with pytest.raises(FileAccessError):  # the last one, when the fit ends
            t.fit(data(), epochs=2, batch_size=8, verbose=0)
        assert len(t.history) == 2
    with pytest.raises(Fault) as caught:
        t.save_every = None
        fail = LambdaCallback(on_epoch_end=lambda *args: Bomb(1, 1).at(1))
        t.fit(data(), epochs=2, batch_size=8, verbose=0, callbacks=fail)
    assert "no checkpoint could be written" in caught.value.__notes__[0]
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_run_without_a_checkpoint_yet_starts_from_the_beginning(tmp_path, capsys):
    whole = trainer(seed=3)
    whole.fit(data(), batch_size=4, verbose=0)
    for out, resume in ((tmp_path / "new", True), (tmp_path / "there", tmp_path / "there")):
        (tmp_path / "there").mkdir(exist_ok=True)
        t = trainer(seed=3, out=out)
        t.fit(data(), batch_size=4, resume=resume, verbose=2)
        assert "starting from the beginning" in capsys.readouterr().out and result(t) == result(whole)
    with pytest.raises(MissingFileError):
        trainer(out=tmp_path).fit(data(), resume=tmp_path / "elsewhere", verbose=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError):  # not the folder of this run
        trainer(out=tmp_path).fit(data(), resume=tmp_path / "empty", verbose=0)


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, 100)
    x, y = data(4)

    def run(values, epochs, **options):
        model = nn.Linear(FEATURES, CLASSES)
        t = Trainer(
            model, optim.SGD(model.parameters()), nn.CrossEntropyLoss(), metrics=(Script(values),), out=tmp_path,
            keep=2, best="val_score",
        )  # fmt: skip
        tick = LambdaCallback(on_train_batch_end=clock.tick)
        t.fit((x, y), (x, y), epochs=epochs, callbacks=tick, verbose=0, **options)

    (tmp_path / "checkpoint-0099.safetensors").touch()
    run([1, 5, 2, 3, 4, 4], 4)
    names = lambda: sorted(p.name for p in tmp_path.iterdir())
    assert names() == ["best.safetensors", *(f"checkpoint-{n}.safetensors" for n in ("0003", "0004", "0099")),
                       "checkpoint.safetensors"]  # fmt: skip
    at = lambda name: dc.io.read_checkpoint(tmp_path / name)["extra"]["progress"]["epoch"]
    assert at("best.safetensors") == 2 and at("checkpoint-0003.safetensors") == 3
    run([4] * 6, 6, resume=True)
    assert at("best.safetensors") == 2, "the best so far is part of the state"
    assert names()[1:3] == ["checkpoint-0005.safetensors", "checkpoint-0006.safetensors"]


@pytest.mark.parametrize("broken", ["data", "statistics"])
def test_validation_that_is_not_finite_is_reported_once(broken):
    x, y = data(8)
    bad = x.copy()
    bad[3] = np.nan
    t = trainer()
    spoil = lambda epoch, logs: t.model[1].running_mean.fill_(math.nan) if broken == "statistics" else None
    cause = "numpy.isfinite" if broken == "data" else "NaN or infinity in 1.running_mean"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        validation = (bad if broken == "data" else x, y)
        t.fit((x, y), validation, epochs=2, verbose=0, callbacks=LambdaCallback(on_train_batch_end=spoil))
    (said,) = caught
    assert str(said.message).startswith("val_loss is nan after epoch 1: ") and cause in str(said.message)
    assert math.isnan(t.history[2]["val_loss"]) and said.filename == __file__


@pytest.mark.parametrize("fault", ["extra", "callback"])
def test_a_checkpoint_that_a_run_cannot_take_over_changes_nothing(fault, tmp_path):
    class Picky(Callback):
        def state_dict(self):
            return {"at": 1}

        def load_state_dict(self, state):
            raise StateDictError("not mine")

    t = trainer(out=tmp_path)
    t.fit(data(), batch_size=4, verbose=0, callbacks=Picky())
    if fault == "extra":
        parts = {name: part for name, part in t._parts().items() if part is not None}
        dc.io.save_checkpoint(tmp_path / "checkpoint.safetensors", extra={"progress": {}, "history": {}}, **parts)
    other = trainer()
    loader = DataLoader(TensorDataset(*data()), 4, shuffle=True)
    dc.manual_seed(9)
    before, stream = result(other), dc.random.get_rng_state()
    with pytest.raises(FileFormatError if fault == "extra" else StateDictError):
        other.fit(loader, verbose=0, callbacks=Picky(), resume=tmp_path)
    assert result(other) == before and len(other.history) == 0
    assert dc.random.get_rng_state() == stream


@pytest.mark.parametrize(
    "options, words",
    [
        ({"save_every": -1}, "0 or more"),
        ({"save_every": math.nan}, "number of seconds"),
        ({"save_every": "1"}, "number of seconds"),
        ({"keep": -1}, "whole number"),
        ({"keep": 2}, "out="),
        ({"best": "val_loss"}, "out="),
    ],
)
def test_checkpoint_settings_that_make_no_sense(options, words):
    with pytest.raises(ArgumentError, match=words):
        trainer(**options)


# -- errors -----------------------------------------------------------------------------------------------------
def test_non_finite_loss_names_place_and_cause(backend):
    x, y = data(64)
    t = trainer(backend, optimizer=optim.SGD, lr=1e30, schedule=False)
    with pytest.raises(NonFiniteError) as caught:
        t.fit((x, y), epochs=5, batch_size=32, verbose=0)
    text = str(caught.value)
    for part in ("the loss is", "epoch ", "batch ", "step ", "lr 1e+30", "the last one was", "clip_grad_norm=1.0"):
        assert part in text
    bad = x.copy()
    bad[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"the batch itself holds NaN(.|\n)*isfinite"):
        trainer(backend).fit((bad, y), epochs=1, batch_size=64, verbose=0)


def test_terminate_on_nan_leaves_the_update_out(backend, capsys):
    x, y = data(12)
    x[9] = np.inf
    t = trainer(backend, schedule=False)
    kept = []
    keep = LambdaCallback(on_train_batch_begin=lambda batch, logs: kept.append(result(t)[:2]))
    history = t.fit((x, y), epochs=3, batch_size=4, shuffle=False, callbacks=[TerminateOnNaN(), keep], verbose=0)
    assert t.step == 2 and len(kept) == 3 and len(history) == 0 and not history.interrupted
    changed = bits(t.model[0].weight), bits(t.model[4].weight)
    assert result(t)[1] == kept[2][1] and changed[0] == kept[2][0]["0.weight"] and changed[1] == kept[2][0]["4.weight"]
    assert "epoch 1, batch 3: the loss is nan" in capsys.readouterr().out


def test_a_gradient_that_overflows_is_caught_before_the_update():
    model = nn.Linear(1, 1)
    loss = lambda out, y: ((out - y) ** 2).sqrt().mean()  # at 0 its slope is 0 times infinity
    with dc.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), loss, clip_grad_norm=1.0)
    x = np.zeros((2, 1), np.float32)
    with pytest.raises(NonFiniteError, match=r"the loss is finite, but(.|\n)*step 1"):
        t.fit((x, x), verbose=0)
    assert np.isfinite(model.weight.detach().numpy()).all()


def test_a_norm_that_overflows_though_no_gradient_does(backend):
    x = np.full((2, 4), 3e38, np.float32)
    model = nn.Linear(4, 1, bias=False).to(backend)
    with dc.no_grad():
        model.weight.fill_(0.01)
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), lambda out, y: out.mean(), clip_grad_norm=1.0)
    with pytest.raises(NonFiniteError, match="finite gradients whose norm overflows") as caught:
        t.fit((x, x), verbose=0)
    assert "scale the inputs or the loss down" in str(caught.value) and "slope" not in str(caught.value)


class Norm(nn.Module):
    """√Σx² of each row, whose slope at 0 is 0/0."""

    def forward(self, x):
        return (x * x).sum(1, keepdim=True).sqrt()


class Plain(optim.Optimizer):
    """Gradient descent that is no formula."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def apply(self, parameter, gradient, state, group):
        state["updates"] = state.get("updates", 0) + 1
        parameter._data[...] -= group["lr"] * gradient


class OwnStep(optim.Adam):
    def step(self, closure=None):
        return super().step(closure)


def before_last_batch(t):
    """A callback that keeps in its list what there was before each batch: model, optimizer, steps and random stream."""
    states = []
    look = lambda batch, logs: states.append([*result(t), dc.get_rng_state(), t.lr])
    return states, LambdaCallback(on_train_batch_begin=look)


REFUSED = {
    "SGD": {},
    "clipped": {"clip_grad_norm": 1.0},
    "momentum": {"optimizer": lambda params, lr: optim.SGD(params, lr=lr, momentum=0.9)},
    "Adam": {"optimizer": optim.Adam, "clip_grad_norm": 10.0},
    "accumulated": {"accumulate": 3},
    "no formula": {"optimizer": Plain},
    "no formula, clipped": {"optimizer": Plain, "clip_grad_norm": 1.0},
    "own step": {"optimizer": OwnStep},
    "float16": {"dtype": dc.float16},
    "bfloat16": {"dtype": dc.bfloat16, "clip_grad_norm": 1.0},
}


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_a_gradient_that_is_not_finite_changes_nothing(name, compile, backend):
    """The loss is finite, in the last batch as in the others."""
    options = dict(REFUSED[name])
    dtype = options.pop("dtype", dc.float32)
    x = data(12)[0]
    x[10] = 0
    y = np.ones((12, 2), np.float32)
    model = lambda: nn.Sequential(nn.Linear(FEATURES, 4, bias=False), Norm(), nn.Linear(1, 2)).to(dtype)
    t = trainer(
        backend,
        model=model,
        loss=nn.MSELoss(),
        compile=compile,
        **{"optimizer": optim.SGD, "schedule": False} | options,
    )
    states, keep = before_last_batch(t)
    tensors = [dc.tensor(a).to(dtype) for a in (x, y)]
    with pytest.raises(NonFiniteError) as caught:
        t.fit(tuple(tensors), batch_size=4, shuffle=False, callbacks=[keep], verbose=0)
    group = "accumulate" in options
    place = "batches 1 to 3 of 3 (step 1)" if group else "batch 3 of 3 (step 3)"
    for part in ("the loss is finite", "the gradient of 0.weight", "backward pass", "Sequential.1 (Norm)", place):
        assert part in str(caught.value)
    assert "learning rate" not in str(caught.value) and caught.value.__suppress_context__
    assert states[0 if group else -1] == [*result(t), dc.get_rng_state(), t.lr]
    assert all(p.grad is None for p in t.model.parameters())
    assert all(bool(p.isfinite().all()) for p in t.model.parameters())
    if compile and name in ("SGD", "clipped") and backend == "cpu" and threadpool.can_prepare():
        assert t._steps.train.runs == 1


class Counting(nn.Module):
    """Has a buffer that each forward writes, one that it binds anew, one that it leaves alone, and draws of its own."""

    def __init__(self, fails_at=0):
        super().__init__()
        self.register_buffer("written", dc.zeros(2))
        self.register_buffer("bound", dc.zeros(()))
        self.register_buffer("constant", dc.arange(3))
        self.register_buffer("late", None)
        self.generator = dc.Generator(3)
        self.fails_at = fails_at

    def forward(self, x):
        self.written[0] += x.detach().sum()
        self.bound = self.bound + 1
        self.late = dc.ones(1)
        dc.rand(2, generator=self.generator)
        if int(self.bound) == self.fails_at:
            x = x[:, :2]
        return x


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("cause", ["data", "forward", "gradient", "first", "group"])
def test_a_refused_batch_leaves_buffers_and_random_streams(cause, compile, backend):
    """After `fit` all is as it was before the last of three batches, before the first, or before a group of three."""
    dc.manual_seed(5)
    counting = Counting(3) if cause == "forward" else nn.Identity()
    tail = [Norm(), nn.Linear(1, 2)] if cause in ("gradient", "group") else [nn.Linear(4, 2)]
    model = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), counting, *tail).to(backend)
    x = data(12)[0]
    if cause in ("gradient", "group"):
        x[8:] = x[8]  # equal rows are 0 once they are normalized
    elif cause != "forward":
        x[0 if cause == "first" else 10] = np.nan
    sgd = optim.SGD(model[:1].parameters(), lr=0.01, momentum=0.9)
    t = Trainer(model, sgd, nn.MSELoss(), compile=compile, accumulate=3 if cause == "group" else 1)
    states, keep = before_last_batch(t)
    with pytest.raises(ShapeError if cause == "forward" else NonFiniteError):
        t.fit((x, np.ones((12, 2), np.float32)), batch_size=4, shuffle=False, callbacks=[keep], verbose=0)
    left = 0 if cause in ("first", "group") else 2
    assert len(states) == (1 if cause == "first" else 3) and states[left] == [*result(t), dc.get_rng_state(), t.lr]
    assert int(model[1].num_batches_tracked) == left and bool(model[1].running_mean.isfinite().all())
    if cause == "forward":
        assert int(counting.bound) == 2 and counting.generator.get_state()["position"] == 2
        assert counting.bound is counting._buffers["bound"] and counting.late.shape == (1,)
        assert bool(counting.written.isfinite().all())


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_refused_batch_leaves_its_group(bad, compile, backend):
    """Two batches of three make the update that they make by themselves."""
    x, y = data(12)
    rest = np.r_[0 : 4 * bad, 4 * bad + 4 : 12]
    found = []
    for keep, accumulate in ((rest, 2), (slice(None), 3)):
        mine = x.copy()
        if accumulate == 3:
            mine[4 * bad] = np.nan
        t = trainer(backend, accumulate=accumulate, compile=compile)
        t.fit((mine[keep], y[keep]), epochs=2, batch_size=4, shuffle=False, callbacks=Carry(), verbose=0)
        found.append([*result(t), dc.get_rng_state()])
    assert found[0] == found[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_terminate_on_nan_at_a_gradient(accumulate, backend, capsys):
    x = np.zeros((8, 2), np.float32)
    t = trainer(
        backend,
        model=lambda: nn.Sequential(nn.Linear(2, 2, bias=False), Norm()),
        loss=nn.MSELoss(),
        accumulate=accumulate,
    )
    before = result(t)
    t.fit((x, x[:, :1]), batch_size=2, callbacks=[TerminateOnNaN()], verbose=0)
    assert result(t) == before and t.step == 0
    assert f"batch {accumulate}: the loss is finite, but after the backward pass a gradient" in capsys.readouterr().out


@pytest.mark.parametrize(
    "loss, labels, says",
    [
        (nn.CrossEntropyLoss(), [-100, -100], r"every label of the batch is ignore_index \(-100\)"),
        (nn.CrossEntropyLoss(ignore_index=2), [2, 2], r"ignore_index \(2\)"),
        (nn.NLLLoss(ignore_index=1), [1, 1], r"ignore_index \(1\)"),
        (lambda out, y: nn.functional.cross_entropy(out, y), [-100, -100], r"ignore_index \(-100\)"),
        (nn.CrossEntropyLoss(weight=dc.tensor([1.0, 1.0, 0.0])), [2, 2], "class weight of every label"),
        (nn.CrossEntropyLoss(weight=dc.tensor([1.0, 1.0, 0.0]), ignore_index=1), [2, 1], "class weight of every label"),
    ],
)
def test_a_batch_in_which_no_label_counts(loss, labels, says, backend):
    x, y = data(6)
    y[:4] = 0
    y[4:] = labels
    t = trainer(backend, loss=loss)
    with pytest.raises(NonFiniteError, match=rf"(?s)the loss is nan at epoch 1, batch 3 of 3.*{says}") as caught:
        t.fit((x, y), batch_size=2, shuffle=False, verbose=0)
    assert "learning rate" not in str(caught.value) and "detect_anomaly" not in str(caught.value)


def test_where_a_loss_that_is_not_finite_comes_from(backend):
    """The first NaN names its op and layer, and before the first update no learning rate is to blame."""

    class Log(nn.Module):
        def forward(self, x):
            return x.log()

    x = np.ones((4, 2), np.float32)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), Log())
    with dc.no_grad():
        model[0].weight.fill_(-1.0)
    t = Trainer(model.to(backend), optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    with pytest.raises(NonFiniteError, match=r"log produced a NaN or infinity, in Sequential\.2 \(Log\)") as caught:
        t.fit((x, x), verbose=0)
    assert "learning rate" not in str(caught.value) and all(p.grad is None for p in model.parameters())


class Unfit(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 4), nn.Linear(5, CLASSES))

    def forward(self, x):
        return self.body(x)


def test_shape_errors_name_the_module_and_the_batch():
    model = Unfit()
    t = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
    with pytest.raises(ShapeError, match=r"Unfit\.body\.1 \(Linear\)") as caught:
        t.fit(data(), batch_size=4, verbose=0)
    assert (
        "epoch 1, batch 1 of 6 (step 1)" in caught.value.__notes__[0] and "(4, 6) float32" in caught.value.__notes__[0]
    )


X, Y = data(8)


class Texts(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return X[index], "b"


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda t: t.fit((X[:0], Y[:0])), DataError, "empty"),
        (lambda t: t.fit((X, Y[:3])), DataError, r"x and y differ in length(.|\n)*x \(8, 6\), y \(3,\)"),
        (lambda t: t.fit((X.T, Y)), DataError, r"fix: +x\.T"),
        (lambda t: t.fit((X, np.where(Y > 0, Y, np.nan))), DTypeError, "some are NaN(.|\n)*without a label"),
        (
            lambda t: t.fit((X, Y), callbacks=[EarlyStopping("val_los")]),
            ArgumentError,
            "mean 'val_loss'(.|\n)*validation=",
        ),
        (lambda t: t.fit(X), DataError, r"training data is a tuple \(x, y\)(.|\n)*fit\(x, y\)"),
        (lambda t: t.fit((X,)), DataError, r"\(input, …, target\)"),
        (lambda t: t.fit((X, Y), X), DataError, r"validation=\(x, y\)"),
        (lambda t: t.fit(X, Y, 32, 10), ArgumentError, r"batch_size before epochs(.|\n)*fit\(x, y, epochs=…"),
        (lambda t: t.fit((X, X), y=Y), DTypeError, r"Linear takes tensors(.|\n)*received: +tuple"),
        (lambda t: t.fit(DataLoader(TensorDataset(X, Y)), y=Y), ArgumentError, "targets are in the data already"),
        (lambda t: t.fit(X, Y[:5]), DataError, r"x and y differ in length"),
        (lambda t: t.predict(X, Y), ArgumentError, r"fix: +predict\(x\)"),
        (lambda t: t.predict(X[0]), ShapeError, r"shape \(1, 6\)(.|\n)*predict\(x\[None\]\)"),
        (lambda t: t.predict(X[0], batch_size=6), ShapeError, r"6 samples of shape \(\)(.|\n)*x\[None\]"),
        (lambda t: t.predict(X[:, :4]), ShapeError, "Linear expects 6 features"),
        (lambda t: t.predict((X, X, X)), DataError, r"takes 1 input\(s\), and a batch has 3"),
        (lambda t: t.fit((X, X, Y)), DataError, r"takes 1 input\(s\), and a batch has 2"),
        (lambda t: t.fit(3), ArgumentError, "DataLoader, a Dataset"),
        (lambda t: t.fit("abc"), ArgumentError, "DataLoader, a Dataset"),
        (lambda t: t.fit([]), DataError, "empty"),
        (lambda t: t.fit(zip(X, Y)), ArgumentError, r"zip can be read only once(.|\n)*list\(…\)"),
        (lambda t: t.fit({"x": X, "y": Y}), ArgumentError, r"with 'x', 'y'(.|\n)*\(data\[…\], data\[…\]\)"),
        (lambda t: t.fit([{"x": X[0], "y": Y[0]}]), DataError, "a dict"),
        (lambda t: t.fit(([[1, 2], [3]], [0, 1])), DataError, "rows of x differ"),
        (lambda t: t.fit((X, Y.astype(str))), DataError, r"such as '\d'(.|\n)*numpy\.unique\(y, return_inverse=True\)"),
        (lambda t: t.fit((X, list("abcabcab"))), DataError, "such as 'a'"),
        (lambda t: t.fit((X, np.array(list("abcabcab"), object))), DataError, "such as 'a'"),
        (lambda t: t.fit(list(zip(X, "abcabcab"))), DataError, "such as 'a'"),
        (lambda t: t.fit(Texts()), DataError, "such as 'b'"),
        (lambda t: t.fit((X.astype(str), Y)), DataError, "x is text"),
        (lambda t: t.fit((np.full(8, "2024-01-01", "M8[D]"), Y)), DataError, "x does not hold numbers"),
        (lambda t: t.fit((np.array([[None] * 6] * 8), Y)), DataError, "with None"),
        (lambda t: t.fit((X, 3)), ArgumentError, "y is a int"),
        (lambda t: t.fit((X, (Y, Y))), ArgumentError, r"one target tensor(.|\n)*a tuple of 2(.|\n)*y\[0\]"),
        (lambda t: t.fit(DataLoader(TensorDataset(X, Y)), batch_size=4), ArgumentError, "does nothing"),
        (lambda t: t.fit(DataLoader(TensorDataset(X, Y)), shuffle=False), ArgumentError, "does nothing"),
        (lambda t: t.predict(DataLoader(TensorDataset(X, Y), shuffle=True)), ArgumentError, "in order"),
        (lambda t: t.fit((X, Y), epochs=1.5), ArgumentError, "whole number"),
        (lambda t: t.fit((X, Y), verbose=7), ArgumentError, "verbose"),
        (lambda t: t.fit((X, Y), callbacks=[EarlyStopping]), ArgumentError, r"EarlyStopping\(…\)"),
        (lambda t: t.fit((X, Y), resume=True), ArgumentError, "out="),
        (lambda t: t.fit((X, Y), resume="nowhere.safetensors"), FileFormatError, "no file"),
        (lambda t: Trainer(nn.Linear, t.optimizer, t.loss), ArgumentError, r"Linear\(…\)"),
        (lambda t: Trainer(t.model, t.model.parameters(), t.loss), ArgumentError, "optimizer is"),
        (lambda t: Trainer(t.model, t.optimizer, nn.MSELoss), ArgumentError, r"MSELoss\(…\)"),
        (lambda t: Trainer(t.model, t.optimizer, nn.MSELoss(reduction="none")), ArgumentError, "mean"),
        (
            lambda t: Trainer(t.model, t.optimizer, functools.partial(nn.functional.mse_loss, reduction="none")),
            ArgumentError,
            "mean",
        ),
        (lambda t: Trainer(network(), t.optimizer, t.loss), ArgumentError, "no parameter of the model"),
        (lambda t: Trainer(t.model, t.optimizer, t.loss, metrics=["acuracy"]), ConfigError, "'accuracy'"),
        (lambda t: Trainer(t.model, t.optimizer, t.loss, ["accuracy", "accuracy"]), ArgumentError, "differ"),
        (lambda t: Trainer(t.model, t.optimizer, t.loss, clip_grad_norm=0), ArgumentError, "clip_grad_norm > 0"),
        (lambda t: Trainer(t.model, t.optimizer, t.loss, clip_grad_norm=-1.0), ArgumentError, "is negative"),
        (lambda t: Trainer(t.model, t.optimizer, t.loss, clip_grad_norm=math.nan), ArgumentError, "is NaN"),
        (lambda t: Trainer(t.model, t.optimizer, t.loss, clip_grad_norm="1"), ArgumentError, "not a number"),
        (lambda t: Trainer(t.model, t.optimizer, t.loss, accumulate=0), ArgumentError, "at least 1"),
        (
            lambda t: Trainer(
                t.model, t.optimizer, t.loss, scheduler=optim.lr_scheduler.StepLR(trainer().optimizer, 1)
            ),
            ArgumentError,
            "not one of this optimizer",
        ),
        (lambda t: Trainer(t.model, t.optimizer, lambda o, y: o).fit((X, Y), verbose=0), ShapeError, r"loss\.mean\(\)"),
        (
            lambda t: Trainer(t.model, t.optimizer, t.loss, [dc.metrics.ConfusionMatrix()]).fit((X, Y), verbose=0),
            ArgumentError,
            "not one number",
        ),
    ],
)
def test_bad_arguments(act, error, words):
    with pytest.raises(error, match=words):
        act(trainer())


def test_loader_on_another_backend():
    loader = DataLoader(TensorDataset(X, Y), backend="standin")
    with pytest.raises(BackendError, match=r"standin(.|\n)*cpu(.|\n)*backend="):
        trainer().fit(loader)


def test_checkpoints_that_do_not_fit(tmp_path):
    t = trainer(out=tmp_path)
    t.fit((X, Y), batch_size=4, verbose=0)
    with pytest.raises(StateDictError, match="batch_size"):
        trainer().fit((X, Y), batch_size=2, verbose=0, resume=tmp_path)
    other = nn.Linear(FEATURES, CLASSES)
    with pytest.raises(StateDictError):
        Trainer(other, optim.Adam(other.parameters()), nn.CrossEntropyLoss()).fit((X, Y), verbose=0, resume=tmp_path)
    loader = DataLoader(TensorDataset(X, Y), 4)
    parts = {"model": t.model, "optimizer": t.optimizer, "scheduler": t.scheduler, "loader": loader}
    dc.io.save_checkpoint(tmp_path / "own.safetensors", extra={"epoch": 1}, **parts)
    with pytest.raises(FileFormatError, match=r"not one that Trainer\.fit wrote"):
        t.fit(loader, verbose=0, resume=tmp_path / "own.safetensors")


# -- callbacks -------------------------------------------------------------------------------------------------
def test_order_of_events():
    seen = []

    class Watch(Callback):
        pass

    for name in dc.train.callbacks.EVENTS:
        setattr(Watch, name, lambda self, *args, name=name: seen.append((name, *args[:-1])))
    t = trainer()
    t.fit((X, Y), (X, Y), batch_size=4, callbacks=[Watch()], verbose=0)
    batches = lambda kind: [(f"on_{kind}_batch_{when}", i) for i in (0, 1) for when in ("begin", "end")]
    assert seen == [
        ("on_train_begin",),
        ("on_epoch_begin", 0),
        *batches("train"),
        ("on_test_begin",),
        *batches("test"),
        ("on_test_end",),
        ("on_epoch_end", 0),
        ("on_train_end",),
    ]


def test_logs_and_what_callbacks_add():
    class Add(Callback):
        log_names = ("double",)

        def on_epoch_end(self, epoch, logs):
            logs["double"] = np.float32(2 * logs["loss"])

    batch_logs = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: batch_logs.append(dict(logs)))
    t = trainer()
    history = t.fit(
        (X, Y), (X, Y), batch_size=4, callbacks=[Add(), watch, EarlyStopping("double", mode="min")], verbose=0
    )
    assert list(history[1]) == ["loss", "accuracy", "val_loss", "val_accuracy", "lr", "double"]
    assert history[1]["double"] == pytest.approx(2 * history[1]["loss"]) and type(history[1]["double"]) is float
    assert set(batch_logs[0]) == {"loss", "accuracy"} and batch_logs[-1]["loss"] == history[1]["loss"]


def test_evaluating_inside_a_callback():
    found = []

    class Evaluate(Callback):
        def on_epoch_end(self, epoch, logs):
            found.append(self.trainer.evaluate((X, Y))["loss"])

    t = trainer()
    history = t.fit((X, Y), (X, Y), epochs=2, callbacks=[Evaluate()], verbose=0)
    assert found == history["val_loss"]


@pytest.mark.parametrize(
    "options, mode, values, epochs, best_epoch",
    [
        ({"patience": 0}, "max", [1, 2, 2, 3], 3, 1),
        ({"patience": 2}, "max", [1, 3, 2, 2, 2, 9], 4, 1),
        ({"patience": 2}, "min", [3, 1, 2, 2, 2, 0], 4, 1),
        ({"patience": 2}, "max", [1, 3, 2, 4, 2, 2, 9], 6, 3),
        ({"patience": 1, "min_delta": 0.5}, "max", [1, 1.4, 9], 2, 0),
        ({"patience": 2, "baseline": 5}, "max", [1, 2, 3, 9], 4, 3),
        ({"patience": 2, "baseline": 5}, "max", [1, 2, 1, 9], 3, 1),
        ({"patience": 1, "start_from_epoch": 2}, "max", [9, 8, 1, 2, 2, 5], 5, 3),
        ({"patience": 1}, "max", [1, math.nan, 3], 2, 0),
        ({"patience": 3}, "max", [1, 2, 3], 3, 2),
    ],
)
def test_early_stopping(options, mode, values, epochs, best_epoch):
    stop = EarlyStopping("val_score", **options)
    t = run_script(values, stop, mode=mode)
    assert len(t.history) == epochs
    assert stop.best_epoch == best_epoch
    assert stop.stopped_epoch == (epochs - 1 if epochs < len(values) else 0)


@pytest.mark.parametrize("values", [[1, 5, 2, 2, 2], [1, 5, 2]], ids=["cut short", "not"])
def test_early_stopping_restores_the_best_weights(values):
    model, kept = nn.Linear(FEATURES, CLASSES), []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(bits(model.state_dict())))
    run_script(values, keep, EarlyStopping("val_score", patience=3, restore_best_weights=True), model=model)
    assert bits(model.state_dict()) == kept[1] and kept[1] != kept[2]


def test_baseline_never_beaten_still_has_a_best_epoch():
    stop = EarlyStopping("val_score", patience=3, baseline=10, restore_best_weights=True)
    run_script([3, 2, 1, 0, 0], stop)
    assert stop.best_epoch == 0 and stop.best == 3


@pytest.mark.parametrize(
    "options, values, lrs",
    [
        ({"patience": 1}, [1, 1, 1, 1], [1, 0.1, 0.01, 0.001]),
        ({"patience": 2, "factor": 0.5}, [1, 1, 1, 1, 1], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 1, "cooldown": 2}, [1, 1, 1, 1, 1], [1, 0.1, 0.1, 0.01, 0.01]),
        ({"patience": 1, "min_lr": 0.05}, [1, 1, 1, 1], [1, 0.1, 0.05, 0.05]),
        ({"patience": 1, "min_delta": 0.5}, [1, 1.4, 1.6, 1.7], [1, 0.1, 0.1, 0.01]),
        ({"patience": 1}, [1, 2, 3, 4], [1, 1, 1, 1]),
    ],
)
def test_reduce_lr_on_plateau(options, values, lrs):
    record = Record()
    run_script(values, ReduceLROnPlateau("val_score", **options), record)
    assert [lr for _, lr in record.events] == pytest.approx(lrs)


@pytest.mark.parametrize("validation", [False, True])
def test_a_plateau_watches_the_loss(validation):
    t = trainer(schedule=False)
    metrics = []
    t.scheduler = optim.lr_scheduler.ReduceLROnPlateau(t.optimizer, patience=0, threshold=10.0, threshold_mode="abs")
    step = t.scheduler.step
    t.scheduler.step = lambda value: (metrics.append(value), step(value))
    history = t.fit(data(), validation=data(seed=1) if validation else None, epochs=3, verbose=0)
    assert metrics == history["val_loss" if validation else "loss"]
    assert t.lr == pytest.approx(history["lr"][0] * 0.01)


def test_learning_rate_scheduler():
    t = run_script([0, 0, 0], LearningRateScheduler(lambda epoch, lr: lr / 2 if epoch else 0.8))
    assert t.history["lr"] == [0.8, 0.4, 0.2]
    with pytest.raises(ArgumentError, match="no learning rate"):
        run_script([0], LearningRateScheduler(lambda epoch, lr: None))


def test_model_checkpoint(tmp_path):
    best = ModelCheckpoint(
        tmp_path / "new" / "best.safetensors", "val_score", save_best_only=True, save_weights_only=True
    )
    each = ModelCheckpoint(tmp_path / "{epoch:02d}-{val_score:.1f}.safetensors")
    kept = []
    model = nn.Linear(FEATURES, CLASSES)
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(bits(model.state_dict())))
    run_script([1, 5, 2], best, each, keep, model=model)
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        f"0{e}-{v}.0.safetensors" for e, v in ((1, 1), (2, 5), (3, 2))
    ]
    assert bits(nn.Linear.load(tmp_path / "new" / "best.safetensors").state_dict()) == kept[1]
    dc.io.load_checkpoint(tmp_path / "01-1.0.safetensors", model=model, random=False)
    assert bits(model.state_dict()) == kept[0]
    with pytest.raises(ArgumentError, match="did you mean 'val_score'"):
        run_script([1], ModelCheckpoint(tmp_path / "{val_scor}.safetensors"))
    threshold = ModelCheckpoint(tmp_path / "t.safetensors", "val_score", save_best_only=True, initial_value_threshold=4)
    run_script([1, 2], threshold)
    assert not (tmp_path / "t.safetensors").exists()


def test_checkpoints_by_batches_can_be_resumed(tmp_path, backend):
    """A checkpoint asked for inside a group of accumulated batches waits for the update."""
    x, y = data()
    whole = trainer(backend, seed=3, accumulate=2)
    save = ModelCheckpoint(tmp_path / "{epoch}-{batch}.safetensors", save_freq=5)
    whole.fit((x, y), epochs=2, batch_size=4, verbose=0, callbacks=[save])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-5.safetensors", "2-4.safetensors"]
    for name in ("1-5", "2-4"):
        t = trainer(backend, accumulate=2)
        t.fit((x, y), epochs=2, batch_size=4, verbose=0, resume=tmp_path / f"{name}.safetensors")
        assert result(t) == result(whole)


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    run_script([1, 2], CSVLogger(path))
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert rows[0] == ["epoch", "loss", "score", "val_loss", "val_score", "lr"]
    assert [row[0] for row in rows[1:]] == ["1", "2"] and [row[4] for row in rows[1:]] == ["1.0", "2.0"]
    run_script([7], CSVLogger(path, append=True))
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["epoch", "1", "2", "1"]
    run_script([7], CSVLogger(path, separator=";"))
    assert len(path.read_text().splitlines()) == 2 and ";" in path.read_text()


def table(path, separator=","):
    return [line.split(separator) for line in path.read_text().splitlines()]


def test_csv_logger_makes_columns_for_new_names(tmp_path):
    path = tmp_path / "log.csv"
    x, y = data(4)
    grow = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update({"late": 5.0} if epoch == 1 else {}))
    run_script([1], CSVLogger(path))
    run_script([2, 3], grow, CSVLogger(path, append=True))
    model = nn.Linear(FEATURES, CLASSES)
    plain = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), metrics=())
    plain.fit((x, y), verbose=0, callbacks=CSVLogger(path, append=True))
    rows = table(path)
    assert rows[0] == ["epoch", "loss", "score", "val_loss", "val_score", "lr", "late"]
    assert [row[0] for row in rows[1:]] == ["1", "1", "2", "1"]
    assert [row[2] for row in rows[1:]] == ["1.0", "2.0", "3.0", "NA"]
    assert [row[6] for row in rows[1:]] == ["NA", "NA", "5.0", "NA"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError, match="cannot add to"):
        run_script([1], CSVLogger(path, append=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full and /proc")
@pytest.mark.parametrize("place, message", [("/dev/full", "No space"), ("/proc/x", "cannot be")])
@pytest.mark.parametrize("what", ["csv", "history", "folder", "model", "plot"])
def test_what_cannot_be_written_is_a_typed_error(place, message, what):
    """Whoever writes."""
    callback = {"csv": CSVLogger, "folder": BackupAndRestore, "model": ModelCheckpoint}.get(what)
    place = f"{place}/x/y" if what == "model" else place
    with pytest.raises(FileAccessError, match="cannot be" if callback is not CSVLogger else message):
        history = run_script([1], *([callback(place)] if callback else [])).history
        if what == "plot":
            pytest.importorskip("matplotlib")
            history.plot().savefig(place, format="png")
        history.save_csv(place)


def test_backup_and_restore_after_a_crash(tmp_path, backend):
    x, y = data()

    class Crash(Callback):
        def on_train_batch_begin(self, batch, logs):
            if self.trainer.epoch == 2 and batch == 3:
                raise RuntimeError("power cut")

    options = {"epochs": 4, "batch_size": 4, "verbose": 0}
    watch = lambda: [ReduceLROnPlateau("loss", patience=1, min_delta=5.0), CSVLogger(tmp_path / "log.csv")]
    whole = trainer(backend, seed=3)
    whole.fit((x, y), callbacks=watch(), **options)
    lines = (tmp_path / "log.csv").read_text()
    for save_freq in ("epoch", 4):
        backup = lambda save_freq=save_freq: BackupAndRestore(tmp_path / "backup", save_freq)
        with pytest.raises(RuntimeError, match="power cut"):
            trainer(backend, seed=3).fit((x, y), callbacks=[backup(), *watch(), Crash()], **options)
        assert (tmp_path / "backup" / "backup.safetensors").exists()
        t = trainer(backend, seed=3)
        t.fit((x, y), callbacks=[backup(), *watch()], **options)
        assert result(t) == result(whole)
        assert (tmp_path / "log.csv").read_text() == lines
        assert not (tmp_path / "backup" / "backup.safetensors").exists(), "a finished run leaves none"


def test_backup_of_an_interrupted_run(tmp_path):
    x, y = data()
    t = trainer(seed=3)
    t.fit((x, y), epochs=2, batch_size=4, verbose=0, callbacks=[BackupAndRestore(tmp_path), StopAt(3, interrupt=True)])
    assert dc.io.read_checkpoint(tmp_path / "backup.safetensors")["extra"]["progress"]["step"] == 3


@pytest.mark.parametrize(
    "callback, words",
    [
        (lambda: EarlyStopping("val_scor"), "did you mean 'val_score'"),
        (lambda: ReduceLROnPlateau("val_acc"), "one of|did you mean"),
        (lambda: ModelCheckpoint("x.safetensors", "val_los", save_best_only=True), "did you mean 'val_loss'"),
        (lambda: EarlyStopping("lr"), "fall or rise"),
        (lambda: EarlyStopping(mode="down"), "'min', 'max'"),
        (lambda: ReduceLROnPlateau(factor=1.0), "between 0 and 1"),
        (lambda: ModelCheckpoint("x", save_freq=0), "number of batches"),
        (lambda: LambdaCallback(on_epoch_ends=print), "did you mean 'on_epoch_end'"),
        (lambda: LearningRateScheduler(0.1), "function of"),
    ],
)
def test_callbacks_refuse_what_they_cannot_do(callback, words):
    with pytest.raises(ArgumentError, match=words):
        run_script([1], callback())


def test_monitoring_validation_that_is_not_there():
    with pytest.raises(ArgumentError, match=r"validation=data\), or EarlyStopping\(monitor='loss'\)"):
        trainer().fit((X, Y), callbacks=[EarlyStopping()], verbose=0)


# -- history and progress ------------------------------------------------------------------------------------
def test_history(tmp_path):
    t = run_script([1.0, 0.25])
    history = t.history
    assert history["val_score"] == [1.0, 0.25] and history[2]["val_score"] == 0.25
    assert list(history) == [1, 2] and len(history) == 2 and dict(history)[1] is history[1]
    assert "loss" in history and "los" not in history and 3 not in history
    with pytest.raises(ArgumentError, match="did you mean 'loss'"):
        history["los"]
    lines = repr(history).splitlines()
    assert lines[0].split() == ["epoch", "loss", "score", "val_loss", "val_score", "lr"] and len(lines) == 3
    assert lines[2].split()[4] == "0.2500"
    history.save_csv(tmp_path / "h.csv")
    table = np.genfromtxt(tmp_path / "h.csv", delimiter=",", names=True)
    assert table["val_loss"].tolist() == history["val_loss"], "every digit"
    pytest.importorskip("matplotlib")
    assert [ax.get_title() for ax in history.plot().axes] == ["loss", "score"]


def test_lines_without_a_terminal(capsys):
    t = trainer()
    t.fit((X, Y), (X, Y), epochs=2, verbose=1)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2 and err == "" and "\r" not in out
    assert lines[1].startswith("epoch 2/2  loss ") and "val_accuracy" in lines[1] and lines[1].endswith(" s")
    t.evaluate((X, Y), verbose=1)
    assert capsys.readouterr().out.startswith("evaluation  loss ")
    t.fit((X, Y), (X, Y), verbose=0)
    assert capsys.readouterr() == ("", "")


def test_bar_in_a_terminal(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    t = trainer()
    slow = LambdaCallback(on_train_batch_end=lambda batch, logs: __import__("time").sleep(0.06))
    t.fit(data(), data(), batch_size=4, epochs=1, callbacks=[slow], verbose=1)
    assert "epoch 1/1:" in screen.getvalue() and "loss " in screen.getvalue() and "validation" in screen.getvalue()
    assert capsys.readouterr().out.startswith("epoch 1/1  loss")
    screen.truncate(0)
    t.fit(data(), verbose=2)
    assert screen.getvalue().strip("\0") == ""


def test_a_notebook_without_ipywidgets_has_the_text_bar(monkeypatch):
    pytest.importorskip("tqdm")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    shell = SimpleNamespace(config={"IPKernelApp": {}}, kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, version_info=(8,)))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bar = dc.data.bars.tqdm_class()
        import tqdm
    assert not caught and issubclass(bar, tqdm.std.tqdm) and "notebook" not in {k.__module__ for k in bar.__mro__}


def test_metric_objects_and_settings():
    half = Accuracy(threshold=0.5, name="half")
    t = trainer(metrics=("accuracy", half))
    assert t.fit((X, Y), verbose=0).names == ["loss", "accuracy", "half", "lr"]
    ignoring = trainer(loss=nn.CrossEntropyLoss(ignore_index=1))
    assert ignoring.metrics[0].ignore_index == 1
    assert "CrossEntropyLoss" in repr(t) and "'half'" in repr(t)


def test_a_loader_taken_over_in_the_middle_of_its_epoch():
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), 4)
    loader.load_state_dict({**loader.state_dict(), "position": 3})
    t = trainer(accumulate=2)
    seen = []
    t.fit(loader, verbose=0, callbacks=[LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))])
    assert seen == [3, 4, 5] and t.step == 2 and all(p.grad is None for p in t.model.parameters())


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_with_workers_and_random_augmentation(tmp_path, workers):
    whole = trainer(seed=3)
    whole.fit(DataLoader(Noisy(), 4, shuffle=True, seed=4), epochs=2, verbose=0)
    t = trainer(seed=3, out=tmp_path)
    t.fit(DataLoader(Noisy(), 4, shuffle=True, seed=4, num_workers=workers), epochs=2, callbacks=StopAt(8), verbose=0)
    t = trainer(out=tmp_path)
    t.fit(DataLoader(Noisy(), 4, shuffle=True, num_workers=workers), epochs=2, verbose=0, resume=True)
    assert result(t) == result(whole)


class Noisy(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        x, y = data()
        return x[index] + dc.randn(FEATURES).numpy(), int(y[index])
