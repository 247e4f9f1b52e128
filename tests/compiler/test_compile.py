"""`dc.compile`: the same bits as the function, for every op, for random programs and for training steps."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import gc
import itertools
import math
import random
import sys
import types
import typing
import warnings
import weakref

import numpy as np
import pytest
from op_samples import as_function, outputs_of, samples

import deepcore as dc
from deepcore.errors import DeepcoreWarning
from deepcore.kernels.runtime import threadpool
from deepcore.ops.registry import FUNCTIONS

pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")


#: Why a call of some function runs as it is.
EAGER = {
    "a result that shares the memory of an argument", "nonzero, whose shape depends on values",
    "repeat_interleave, whose shape depends on values", "a histogram, whose range depends on values",
}  # fmt: skip


def same(a, b) -> bool:
    """Whether two arrays have the same bits."""
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def run(function, leaves, weights):
    """(results, gradients) of a function, differentiated."""
    for leaf in leaves:
        leaf.grad = None
    outputs = function(*leaves, *weights)
    return [o.detach().numpy().copy() for o in outputs], [
        None if leaf.grad is None else leaf.grad.numpy().copy() for leaf in leaves
    ]


def differentiated(call, count):
    """The function's results, and the gradients of their weighted sum in `.grad`."""

    def step(*given):
        leaves, weights = given[:count], given[count:]
        outputs = outputs_of(call(*leaves))
        total = None
        for o, w in zip(outputs, weights):
            if o.requires_grad:
                part = (o * w).sum()
                part = part.real if part.is_complex() else part
                total = part if total is None else total + part
        if total is not None:
            total.backward()
        return [o.detach() for o in outputs]

    return step


def in_precision(t, dtype: str):
    """`t` in a real dtype, or in the complex one of its parts."""
    complex_one = {"float32": dc.complex64, "float64": dc.complex128}[dtype]
    return t.to(complex_one if t.is_complex() else getattr(dc, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_compiles_to_the_same_bits(name, dtype):
    """Followed on one set of values, run on others."""
    entry = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    for one in samples(name, "cpu"):
        call, leaves = as_function(entry, one)
        leaves = [in_precision(t.detach(), dtype).requires_grad_() for t in leaves]
        if not leaves:
            continue
        probe = outputs_of(call(*leaves))
        weights = [dc.tensor(rng.uniform(0.5, 1.5, o.shape), dtype=o.dtype if o.requires_grad else None) for o in probe]
        step = differentiated(call, len(leaves))
        compiled = dc.compile(step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepcoreWarning)
            for values in range(3):
                given = leaves
                if values:  # others, in another order of size, and never leaving what the sample allows
                    given = [dc.tensor(rng.permutation(t.detach().numpy().reshape(-1)).reshape(t.shape), requires_grad=True)
                             for t in leaves]  # fmt: skip
                expected, found = run(step, given, weights), run(compiled, given, weights)
                for a, b in zip(expected[0] + expected[1], found[0] + found[1]):
                    assert (a is None) == (b is None)
                    assert a is None or same(a, b), (one, values)
        assert compiled.runs == 2 or {fault.reason for fault in compiled.faults} <= EAGER, compiled.faults


def layers(count: int):
    nn = dc.nn
    found = [nn.Linear(6, 8)]
    for _ in range(count):
        found += [nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 8)]
    return nn.Sequential(*found, nn.Linear(8, 3))


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_training_step_has_the_bits_of_the_function(optimizer):
    """Weights, statistics, gradients, losses and the random stream, over steps of two batch sizes and two rates."""
    found = []
    for compiled in (False, True):
        dc.manual_seed(3)
        model = layers(3)
        settings = {"lr": 0.05} | ({"momentum": 0.9} if optimizer == "SGD" else {})
        chosen = getattr(dc.optim, optimizer)(model.parameters(), **settings)

        def step(x, y, model=model, chosen=chosen):
            chosen.zero_grad()
            loss = dc.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            chosen.step()
            return loss

        run = dc.compile(step) if compiled else step
        rng, losses = np.random.default_rng(0), []
        for i in range(12):
            n = 16 if i % 4 else 5
            chosen.param_groups[0]["lr"] = 0.05 if i < 8 else 0.01
            x = dc.tensor(rng.standard_normal((n, 6)).astype("f"))
            losses.append(run(x, dc.tensor(rng.integers(0, 3, n))).detach().numpy().copy())
        if compiled:
            assert not run.faults and run.runs >= 9, run.faults
        arrays = [t.detach().numpy() for t in model.state_dict().values()]
        found.append((losses, arrays, [p.grad.numpy() for p in model.parameters()], dc.get_rng_state()))
    for a, b in zip(*found):
        if isinstance(a, dict):
            assert a == b
        else:
            assert all(map(same, a, b))


place = 0  # a global with the name of an attribute


def test_a_global_with_the_name_of_an_attribute_is_not_read():
    global place

    class Shifted(dc.nn.Module):
        def __init__(self):
            super().__init__()
            self.place = dc.nn.Parameter(dc.ones(3))

        def forward(self, x):
            return x * self.place

    model = Shifted()
    compiled = dc.compile(lambda x: model(x))
    for n in range(12):
        place = n
        compiled(dc.ones(3))
    assert compiled.traces == 1 and compiled.runs

    compiled = dc.compile(lambda x: x * place)
    for n in (2, 3, 4):
        place = n
        assert compiled(dc.ones(1)).item() == n


HELD, NUMBER = dc.nn.Parameter(dc.ones(2)), dc.tensor(1.5)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x * HELD.sum().item(),
        lambda x: x * NUMBER.item(),
        lambda x: x * NUMBER.tolist(),
        lambda x: x if NUMBER else -x,
        lambda x: x * float(HELD.detach()[0]),
        lambda x: x * float(HELD.array[0]),
        lambda x: x if HELD.detach()[0] > 0 else -x,
        lambda x: x + dc.tensor(np.ones(2, "f")),
        lambda x: x * float(np.asarray(x.detach()).sum()),
        lambda x: print(x) or x * 2,
    ],
    ids=["item", "item outside", "tolist", "bool outside", "float", "data", "bool", "array", "asarray", "print"],
)
def test_what_reads_values_or_brings_in_data_is_not_compiled(reads):
    compiled = dc.compile(reads)
    with dc.no_grad():
        with pytest.warns(DeepcoreWarning, match="cannot be compiled"):
            first = compiled(dc.ones(2))
        second = compiled(2 * dc.ones(2))
        assert compiled.faults and not compiled.runs
        assert first.tolist() == reads(dc.ones(2)).tolist() and second.tolist() == reads(2 * dc.ones(2)).tolist()


#: What may change between two calls of a function of a model, so that its program no longer fits.
CHANGES = {
    "a mode": lambda model: model[1].eval(),
    "a number": lambda model: setattr(model[1], "p", 0.25),
    "a layer more": lambda model: model.append(dc.nn.Tanh()),
    "another layer": lambda model: model.__setitem__(0, dc.nn.Linear(4, 4)),
    "another parameter": lambda model: setattr(model[0], "weight", dc.nn.Parameter(dc.ones(4, 4))),
    "a parameter that is frozen": lambda model: model[0].weight.requires_grad_(False),
    "a hook": lambda model: model[0].register_forward_hook(lambda module, args, output: output * 2),
    "a parameter's hook": lambda model: model[0].weight.register_hook(lambda gradient: gradient * 2),
    "a parameter that is detached": lambda model: model[0].weight.detach_(),
    "an attribute beside the class's": lambda model: setattr(model[1], "forward", lambda x: x * 2),
}


def gradients(model, x):
    model.zero_grad()
    loss = model(x).sum()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("given", [False, True], ids=["around", "as an argument"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_calls_is_noticed(change, given):
    found = []
    for compiled in (False, True):
        dc.manual_seed(0)
        model = dc.nn.Sequential(dc.nn.Linear(4, 4), dc.nn.Dropout())

        def around(x, model=model):
            return gradients(model, x)

        step = gradients if given else around
        run = dc.compile(step) if compiled else step
        arguments = (model, dc.ones(3, 4)) if given else (dc.ones(3, 4),)
        run(*arguments)
        run(*arguments)
        CHANGES[change](model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepcoreWarning)
            found += [run(*arguments).numpy(), *(p.grad.numpy() for p in model.parameters() if p.grad is not None)]
        if compiled:
            assert run.runs == 1 and run.traces == 2
    assert len(found) % 2 == 0 and all(map(same, found[: len(found) // 2], found[len(found) // 2 :]))


#: Made before, as making one counts as a change.
SPARE = dc.nn.Parameter(dc.ones(4, 3))

#: What may change between two steps of training, beside the model: (optimizer, factors, table) -> None.
STEP_CHANGES = {
    "a rate": lambda o, factors, table: o.param_groups[0].update(lr=0.02),
    "another formula": lambda o, factors, table: o.param_groups[0].update(momentum=0.0),
    "a setting more": lambda o, factors, table: o.param_groups[0].update(tag="all"),
    "a setting in the place of another": lambda o, factors, table: o.param_groups[0].update(
        tag=o.param_groups[0].pop("name")
    ),
    "another parameter": lambda o, factors, table: o.param_groups[0]["params"].__setitem__(0, SPARE),
    "a parameter less": lambda o, factors, table: o.param_groups[0]["params"].pop(),
    "a list of groups": lambda o, factors, table: setattr(o, "param_groups", list(o.param_groups)),
    "another group": lambda o, factors, table: o.param_groups.__setitem__(0, dict(o.param_groups[0], lr=0.02)),
    "no state": lambda o, factors, table: o.state.clear(),
    "a state's table": lambda o, factors, table: setattr(o, "state", dict(o.state)),
    "states loaded": lambda o, factors, table: o.load_state_dict(o.state_dict()),
    "a state's array": lambda o, factors, table: next(iter(o.state.values())).update(
        momentum_buffer=np.ones((4, 3), "f")
    ),
    "a state without its array": lambda o, factors, table: next(iter(o.state.values())).clear(),
    "memory": lambda o, factors, table: setattr(o.param_groups[0]["params"][0], "data", dc.ones(4, 3)),
    "a gradient": lambda o, factors, table: setattr(o.param_groups[0]["params"][0], "grad", dc.ones(4, 3)),
    "an item": lambda o, factors, table: factors.__setitem__(0, 3.0),
    "an equal item": lambda o, factors, table: factors.__setitem__(0, float("2.0")),
    "an item more": lambda o, factors, table: factors.append(3.0),
    "an entry": lambda o, factors, table: table.update(scale=3.0),
    "an entry more": lambda o, factors, table: table.update(other=3.0),
    "an entry by another name": lambda o, factors, table: table.update(other=table.pop("scale")),
}


class Base:
    scale = 2.0
    other = 1.0


class Slotted:
    __slots__ = ("scale",)

    def __init__(self):
        self.scale = 2.0


def readings():
    """(a function of x that reads something of Python's, what changes that), new ones in each call."""
    settings = types.ModuleType("settings")
    settings.scale = 2.0
    kind = type("Kind", (Base,), {"twice": property(lambda self: self.factor), "times": lambda self, x: x * self.scale})
    one, slotted, zero = kind(), Slotted(), {"scale": 0.0}
    one.factor = 2.0
    values, queue = {1.0, 2.0}, collections.deque([2.0])
    part = functools.partial(lambda x, scale: x * scale, scale=2.0)

    def default(x, scale=2.0, *, more=1.0):
        return x * scale * more

    def calls(function):
        return lambda x: function(x)

    def importing(x):
        import settings_of_a_test

        return x * settings_of_a_test.scale

    Meta = type("Meta", (type,), {"shared": 2.0})
    Kind, plain, Tripled = Meta("Kind", (), {}), Base(), type("Tripled", (Base,), {"scale": 3.0})
    shown, user = {"scale": 2.0}, collections.UserDict(scale=2.0)
    view, unread = types.MappingProxyType(shown), dc.ones(2)
    sys.modules["settings_of_a_test"] = types.ModuleType("settings_of_a_test")
    sys.modules["settings_of_a_test"].scale = 2.0
    return {
        "an attribute of the class": (lambda x: x * one.scale, lambda: setattr(kind, "scale", 3.0)),
        "an attribute of the class below": (lambda x: x * kind.scale, lambda: setattr(kind, "scale", 3.0)),
        "an attribute of its own": (lambda x: x * one.scale, lambda: setattr(one, "scale", 3.0)),
        "an attribute by name": (lambda x: x * getattr(one, "FACTOR".lower()), lambda: setattr(one, "factor", 3.0)),
        "what a property reads": (lambda x: x * one.twice, lambda: setattr(one, "factor", 3.0)),
        "what a method reads": (lambda x: one.times(x), lambda: setattr(one, "scale", 3.0)),
        "a method": (lambda x: one.times(x), lambda: setattr(one, "times", lambda x: x)),
        "a method of the class": (lambda x: one.times(x), lambda: setattr(kind, "times", lambda self, x: x)),
        "a slot": (lambda x: x * slotted.scale, lambda: setattr(slotted, "scale", 3.0)),
        "a default": (calls(default), lambda: setattr(default, "__defaults__", (3.0,))),
        "a default by keyword": (calls(default), lambda: default.__kwdefaults__.update(more=3.0)),
        "the code": (calls(default), lambda: setattr(default, "__code__", (lambda x, scale=0, *, more=0: x).__code__)),
        "an element of a set": (lambda x: x * max(values), lambda: values.add(3.0)),
        "an item of a queue": (lambda x: x * queue[0], lambda: queue.appendleft(3.0)),
        "a module's attribute": (lambda x: x * settings.scale, lambda: setattr(settings, "scale", 3.0)),
        "an argument bound before": (calls(part), lambda: part.keywords.update(scale=3.0)),
        "a UserDict": (lambda x: x * user["scale"], lambda: user.update(scale=3.0)),
        "a mapping's view": (lambda x: x * view["scale"], lambda: shown.update(scale=3.0)),
        "a class's class": (lambda x: x * Kind.shared, lambda: setattr(Meta, "shared", 3.0)),
        "another table of attributes": (lambda x: x * one.scale, lambda: setattr(one, "__dict__", {"scale": 3.0})),
        "an object's class": (lambda x: x * plain.scale, lambda: setattr(plain, "__class__", Tripled)),
        "a shape": (lambda x: x * len(unread), lambda: setattr(unread, "data", dc.ones(3))),
        "whether a gradient is wanted": (lambda x: x * (1 + unread.requires_grad), lambda: unread.requires_grad_()),
        "whether there is a gradient": (
            lambda x: x * (1 if unread.grad is None else 2),
            lambda: setattr(unread, "grad", dc.ones(2)),
        ),
        "a module that is imported there": (
            importing,
            lambda: setattr(sys.modules["settings_of_a_test"], "scale", 3.0),
        ),
        "the sign of zero": (lambda x: x / (x * zero["scale"]), lambda: zero.update(scale=-0.0)),
    }


@pytest.mark.parametrize("what", readings())
def test_what_a_function_reads_of_python_is_looked_at(what):
    function, change = readings()[what]
    compiled, x = dc.compile(function), dc.full((2,), 5)
    before = [compiled(x).tolist() for _ in range(4)]
    change()
    after = compiled(x).tolist()
    assert before == before[:1] * 4 and after != before[0] and after == function(x).tolist() == compiled(x).tolist()
    assert compiled.runs == 4 and compiled.traces == 2 and not compiled.faults


@pytest.mark.parametrize("kind", ["many items", "bytes", "an array", "the order of entries"])
def test_what_guards_do_not_cover_is_found_by_a_check(kind):
    """A difference that lasts is seen by the next checks: a warning, and a new program."""
    numbers, data, array, table = [1.0] * 1000, bytearray([2]), np.full(70_000, 2.0), {"a": 2.0, "b": 3.0}
    function, change = {
        "many items": (lambda x: x * numbers[700], lambda: numbers.__setitem__(700, 3.0)),
        "bytes": (lambda x: x * data[0], lambda: data.__setitem__(0, 3)),
        "an array": (lambda x: x * float(array[7]), lambda: array.__setitem__(7, 3.0)),
        "the order of entries": (lambda x: x * next(iter(table.values())), lambda: table.update(a=table.pop("a"))),
    }[kind]
    compiled, x = dc.compile(function), dc.ones(2)
    for _ in range(4):
        compiled(x)
    change()
    with pytest.warns(DeepcoreWarning, match="no longer computes"):
        for _ in range(8):
            last = compiled(x)
    assert last.tolist() == function(x).tolist() == compiled(x).tolist() and not compiled.faults


def test_what_no_code_names_may_change():
    class Experiment:
        def __init__(self):
            self.weight = dc.nn.Parameter(dc.ones(3))
            self.optimizer = dc.optim.SGD([self.weight], lr=0.1)
            self.iteration = 0

        def step(self, x):
            self.optimizer.zero_grad()
            (self.weight * x).sum().backward()
            self.optimizer.step()

    experiment = Experiment()
    step = dc.compile(experiment.step)
    for _ in range(5):
        step(dc.ones(3))
        experiment.iteration += 1
    assert (step.traces, step.runs) == (1, 4)


def test_the_sign_of_a_zero_among_arguments():
    inverse = dc.compile(lambda x, scale: x / (x * scale))
    assert [inverse(dc.ones(1), scale).item() for scale in (0.0, -0.0, 0.0)] == [math.inf, -math.inf, math.inf]


@pytest.mark.parametrize("change", STEP_CHANGES)
def test_what_changes_between_steps_is_noticed(change):
    found = []
    for compiled in (False, True):
        dc.manual_seed(0)
        model, factors, table = dc.nn.Linear(3, 4), [2.0, 3.0], {"first": 1.0, "scale": 2.0}
        optimizer = dc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer.param_groups[0]["name"] = "all"

        def step(x, model=model, optimizer=optimizer, factors=factors, table=table):
            optimizer.zero_grad()
            x = x * sum(i * value for i, value in enumerate(table.values(), 1))
            loss = (model(x) * sum(factors) * table.get("scale", 5.0)).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = dc.compile(step) if compiled else step
        for number in range(12):
            if number == 4:
                STEP_CHANGES[change](optimizer, factors, table)
            if number == 8:  # what it looks at now is noticed, too
                optimizer.param_groups[0]["lr"] = 0.05
            found.append(run(dc.ones(5, 3)).numpy())
        found += [p.detach().numpy() for p in model.parameters()]
        if compiled:
            assert run.runs >= 9 and not run.faults, (run.runs, run.faults)
    assert all(map(same, found[: len(found) // 2], found[len(found) // 2 :]))


def added_up(x):
    total = dc.zeros(2)
    for _ in range(3):
        total += x
    return total


def part_written(x):
    out = dc.zeros_like(x)
    out[1:] = x[1:]
    return out


#: Functions that make memory themselves, and write it or hand it out.
MAKERS = {
    "added up": added_up,
    "part written": part_written,
    "scaled": lambda x: dc.full((2,), 3.0).mul_(x),
    "of a list": lambda x: dc.tensor([1.0, 2.0]).add_(x),
    "read": lambda x: x * dc.ones(2) + dc.eye(2)[0],
    "returned": lambda x: (dc.zeros(2), dc.arange(3), x * 2),
    "needed twice": lambda x: (lambda z: (z + x, z.add_(x), z))(dc.ones(2)),
}


@pytest.mark.parametrize("what", MAKERS)
def test_what_a_function_makes_is_new_in_each_run(what):
    """Also where the caller writes into what it got."""
    compiled, found = dc.compile(MAKERS[what]), []
    for function in (MAKERS[what], compiled):
        for i in range(5):
            out = function(dc.full((2,), 1.0 + i))
            for t in out if isinstance(out, tuple) else (out,):
                found.append(t.tolist())
                t.add_(1)
    assert found[: len(found) // 2] == found[len(found) // 2 :] and compiled.runs == 4


def changing_rate(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.param_groups[0]["lr"] *= 0.5
    optimizer.step()


def scheduled(model, optimizer, x, schedule):
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    schedule.step()


def weighed(model, optimizer, x):
    optimizer.zero_grad()
    loss = model(x).square().sum() * optimizer.param_groups[0]["lr"]
    loss.backward()
    optimizer.step()


def only_updating(model, optimizer, x):
    optimizer.step()


def clipping_only(model, optimizer, x):
    dc.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def by_gradients(model, optimizer, x):
    with dc.no_grad():
        for p in model.parameters():
            p.sub_(p.grad * 0.1)


@pytest.mark.parametrize("step", [changing_rate, scheduled, weighed, only_updating, clipping_only, by_gradients])
def test_steps_that_meet_settings_and_gradients(step):
    """Rates that the function sets or reads, a schedule in it, and gradients that came before it."""
    found = []
    for compiled in (False, True):
        dc.manual_seed(0)
        model = dc.nn.Linear(3, 2)
        optimizer = dc.optim.SGD(model.parameters(), lr=0.1)
        schedule = (dc.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),) if step is scheduled else ()
        run = dc.compile(step) if compiled else step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepcoreWarning)
            for i in range(6):
                x = dc.randn(4, 3)
                optimizer.zero_grad()
                (model(x) * i).sum().backward()
                run(model, optimizer, x, *schedule)
                found += [p.detach().numpy().tobytes() for p in model.parameters()]
                found.append(optimizer.param_groups[0]["lr"])
                if step is weighed:
                    optimizer.param_groups[0]["lr"] *= 0.9
    assert found[: len(found) // 2] == found[len(found) // 2 :]


def test_containers_among_arguments_are_the_callers():
    found = []
    for compiled in (False, True):

        def step(batch, log):
            x = batch.pop("x")
            log.append(x * 2)
            return x + 1

        run, log = dc.compile(step) if compiled else step, []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepcoreWarning)
            for i in range(4):
                batch = {"x": dc.full((2,), i), "y": 1}
                found += [run(batch, log).tolist(), list(batch), [t.tolist() for t in log]]
    assert found[: len(found) // 2] == found[len(found) // 2 :]


def test_buffers_and_gradients_that_are_returned_are_themselves():
    buffer, p = dc.zeros(2), dc.nn.Parameter(dc.ones(2))

    def step(x):
        p.grad = None
        (p * x).sum().backward()
        buffer.add_(x)
        return buffer, p.grad

    compiled = dc.compile(step)
    for i in range(4):
        total, gradient = compiled(dc.full((2,), 1.0 + i))
        assert total is buffer and gradient is p.grad and gradient.tolist() == [1.0 + i] * 2
    assert buffer.tolist() == [10.0, 10.0] and compiled.runs == 2


def test_a_view_of_what_a_function_writes_stays_one():
    found = []
    for compiled in (False, True):
        buffer = dc.zeros(2)
        step = lambda x, buffer=buffer: buffer.add_(x)[:1]
        run = dc.compile(step) if compiled else step
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*a result in memory that the function writes", DeepcoreWarning)
            for i in range(4):
                run(dc.full((2,), 1.0 + i)).mul_(2)
                found.append(buffer.tolist())
    assert found[:4] == found[4:]


class Attributes(dict):
    __getattr__ = dict.__getitem__


class Hidden:
    """What looks at its table by asking it gets nothing."""

    def __init__(self):
        self.scale = 2.0

    def __getattribute__(self, name):
        if name == "__dict__":
            raise RuntimeError("nobody is to know")
        return object.__getattribute__(self, name)


class Keywords:
    __slots__ = ("from", "scale")


def test_objects_of_strange_classes_are_looked_at():
    settings, odd, hidden = Attributes(scale=2.0), Keywords(), Hidden()
    setattr(odd, "from", 3.0)
    deep = functools.reduce(lambda inner, _: lambda x: inner(x), range(30), lambda x: x * settings.scale)
    for function, change in (
        (lambda x: x * settings.scale * getattr(odd, "from"), lambda: setattr(odd, "from", 4.0)),
        (deep, lambda: settings.update(scale=5.0)),
        (lambda x: x * hidden.scale, lambda: setattr(hidden, "scale", 3.0)),
    ):
        compiled = dc.compile(function)
        before = [compiled(dc.ones(1)).item() for _ in range(3)]
        change()
        assert compiled(dc.ones(1)).item() == function(dc.ones(1)).item() != before[0]
        assert compiled.runs == 2 and len(set(before)) == 1


def test_seeding_inside_of_a_function():
    def noise(x):
        dc.manual_seed(3)
        return x + dc.randn(2)

    compiled = dc.compile(noise)
    with pytest.warns(DeepcoreWarning, match="seeding a generator"):
        assert compiled(dc.ones(2)).tolist() == compiled(dc.ones(2)).tolist() == noise(dc.ones(2)).tolist()


class Numbers(list):
    """A list of a user's own kind."""


@pytest.mark.parametrize(
    "pack",
    [
        lambda i: collections.OrderedDict(a=dc.full((2,), i), b=[dc.full((2,), -i)]),
        lambda i: collections.defaultdict(list, a=dc.full((2,), i)),
        lambda i: Numbers([dc.full((2,), i), 3.0]),
        lambda i: np.float32(i),
        lambda i: (np.float64(i), np.int64(2), dc.full((2,), i)),
        lambda i: {"x": np.full(2, i, "f"), "scale": np.float32(2)},
        lambda i: complex(0, i),
    ],
    ids=["OrderedDict", "defaultdict", "list of a kind", "number", "numbers", "array and number", "complex"],
)
def test_arguments_come_in_what_they_are_given_in(pack):
    """A tree as arguments may have it, new in each call and used again."""

    def total(x, given):
        for leaf in (
            given.values() if isinstance(given, dict) else given if isinstance(given, (list, tuple)) else [given]
        ):
            x = x * 2 + (leaf[0] if isinstance(leaf, list) else leaf.imag if isinstance(leaf, complex) else leaf)
        return x

    compiled, again = dc.compile(total), pack(7)
    with dc.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*an array that comes in", DeepcoreWarning)  # NumPy's numbers are arrays
        for i in (1, 2, 1, 3):
            for given in (pack(i), again):
                assert same(compiled(dc.ones(2), given).numpy(), total(dc.ones(2), given).numpy())


def assigned(x, a):
    out = x.clone()
    out[:] = a
    return out


@pytest.mark.parametrize(
    "function, follows",
    [
        (lambda x, a: x * 2 + a, True),
        (lambda x, a: dc.as_tensor(a) + x, True),
        (lambda x, a: x @ a, True),
        (lambda x, a: dc.sum(a) + x, True),
        (lambda x, a: dc.nn.functional.mse_loss(x, a), True),
        (lambda x, a: dc.nn.functional.linear(a, x[None]), True),
        (assigned, True),
        (lambda x, a: dc.tensor(a) + x, False),
        (lambda x, a: dc.as_tensor(a, dtype="float64") + x, True),
    ],
)
def test_array_arguments_of_ops_change_from_call_to_call(function, follows):
    compiled = dc.compile(function)
    with contextlib.nullcontext() if follows else pytest.warns(DeepcoreWarning, match="dc.tensor.. of a tensor"):
        for i in (1, 2, 3):
            x, a = dc.tensor([1.0, 3.0]), np.array([i, 2 * i], "f")
            assert same(compiled(x, a).numpy(), function(x, a).numpy())
    assert compiled.runs == (2 if follows else 0)


@dataclasses.dataclass(frozen=True)
class Output:
    logits: object
    name: str = "logits"


class Pair(typing.NamedTuple):
    first: object
    second: object


@pytest.mark.parametrize(
    "pack",
    [
        lambda y: Output(y),
        lambda y: {"out": [Output(Pair(y, y + 1))], "shape": y.shape, "dtype": y.dtype},
        lambda y: (y, y.detach(), None, 3, np.float32(2), "text", range(3)),
    ],
    ids=["dataclass", "nested", "tuple"],
)
def test_results_come_in_what_the_function_puts_them_in(pack):
    compiled = dc.compile(lambda x: pack(x * 2))
    for i in range(4):
        assert repr(compiled(dc.full((2,), i))) == repr(pack(dc.full((2,), 2 * i)))
    assert compiled.runs == 3


@pytest.mark.parametrize(
    "pack", [lambda y: types.SimpleNamespace(y=y), lambda y: {y}, lambda y: iter([y]), weakref.ref]
)
def test_results_in_what_is_not_known_run_as_they_are(pack):
    compiled = dc.compile(lambda x: pack(x * 2))
    with pytest.warns(DeepcoreWarning, match="a result of type .*, which may hold tensors"):
        compiled(dc.ones(2))
    compiled(dc.ones(2))
    assert not compiled.runs


def test_a_result_that_is_returned_twice_is_one_tensor():
    compiled = dc.compile(lambda x: (x * 2,) * 2)
    for _ in range(3):
        first, second = compiled(dc.ones(2))
        assert first is second and first.tolist() == [2.0, 2.0]


def test_a_leaf_that_a_function_makes_runs_as_it_is():
    w = dc.ones(2)

    def attack(x):
        delta = dc.zeros(2, requires_grad=True)
        ((x + delta) * w).square().sum().backward()
        return delta.grad * 2

    compiled = dc.compile(attack)
    with pytest.warns(DeepcoreWarning, match="a gradient of a tensor that the function makes"):
        for i in range(4):
            assert compiled(dc.full((2,), 1.0 + i)).tolist() == attack(dc.full((2,), 1.0 + i)).tolist()
    assert not compiled.runs


@pytest.mark.parametrize(
    "read",
    [
        lambda n: n[1],
        lambda n: next(iter(n)),
        lambda n: n.tolist()[0],
        lambda n: float(n.clip(0, 9).sum()),
        lambda n: np.asarray(n).max(),
    ],
    ids=["item", "iter", "list", "clip", "array"],
)
def test_numbers_read_from_an_array_among_the_arguments(read):
    compiled = dc.compile(lambda x, n: x * float(read(n)))
    with pytest.warns(DeepcoreWarning, match="cannot be compiled"):
        for n in (np.array([1.0, 2.0]), np.array([4.0, 3.0])):
            assert compiled(dc.ones(1), n).item() == float(read(n))
    assert not compiled.runs


@pytest.mark.parametrize(
    "gives",
    [lambda w: setattr(w, "data", w.data + 1), lambda w: dc.tensor(w), lambda w: dc.zeros(2, requires_grad=True)],
)
def test_other_memory_copies_and_leaves_are_not_compiled(gives):
    w = dc.ones(2)

    def function(x):
        return x * w, gives(w)

    compiled = dc.compile(function)
    with pytest.warns(DeepcoreWarning, match="cannot be compiled"):
        compiled(dc.ones(2))
    with dc.no_grad():
        w += 1
    expected = (w * 3).tolist()
    result, other = compiled(dc.full((2,), 3.0))
    assert result.tolist() == expected and not compiled.runs
    assert other is None or other.requires_grad or other.tolist() == w.tolist()


def one_parameter():
    """A parameter of three ones, its optimizer, and a step of them."""
    p = dc.nn.Parameter(dc.ones(3))
    optimizer = dc.optim.SGD([p], lr=0.1)

    def step(x):
        optimizer.zero_grad()
        (p * x.sum()).sum().backward()
        optimizer.step()

    return p, optimizer, step


@pytest.mark.parametrize("eager", [False, True], ids=["two programs", "an eager step between"])
def test_programs_of_one_optimizer_keep_to_their_settings(eager):
    found = []
    for compiled in (False, True):
        p, optimizer, step = one_parameter()
        group, rates = optimizer.param_groups[0], {4: 0.1, 1: 0.01}
        run = dc.compile(step) if compiled else step
        for i in range(12):
            n = 4 if eager or i % 2 else 1
            group["lr"] = rates[n]
            run(dc.ones(n))
            if eager and i % 3 == 2:
                group["lr"] = 0.5
                optimizer.step()
            found.append(p.detach().numpy().copy())
    assert all(map(same, found[:12], found[12:])) and run.runs >= 9


def test_a_compiled_step_goes_with_its_last_reference():
    """Without the garbage collector, which may come late."""

    def made():
        p, _, step = one_parameter()
        run = dc.compile(step)
        for _ in range(4):
            run(dc.ones(3))
        assert run.runs == 3
        return weakref.ref(p._data)

    gc.collect()
    gc.disable()
    try:
        assert made()() is None
    finally:
        gc.enable()


def test_an_unread_norm_still_raises():
    w = dc.ones(3, requires_grad=True)
    optimizer = dc.optim.SGD([w], lr=0.1)

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        dc.nn.utils.get_total_norm([w.grad], error_if_nonfinite=True)
        optimizer.step()

    for _ in range(3):
        step(dc.ones(3))
    before = w.detach().numpy().copy()
    with pytest.raises(dc.errors.NonFiniteError):
        step(dc.full((3,), float("nan")))
    assert step.runs == 2 and same(before, w.detach().numpy())


def test_a_parameter_that_only_later_has_a_gradient_is_updated():
    found = []
    for compiled in (False, True):
        p, optimizer, step = one_parameter()
        q = dc.nn.Parameter(dc.ones(2))
        optimizer.add_param_group({"params": [q]})
        optimizer.zero_grad = lambda p=p: setattr(p, "grad", None)
        run = dc.compile(step) if compiled else step
        for i in range(8):
            q.grad = dc.ones(2) if i in (4, 6) else None
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*an update by a gradient from before", DeepcoreWarning)
                run(dc.ones(3))
        found.append((p.tolist(), q.tolist()))
    assert found[0] == found[1] and run.runs >= 3


def test_a_rate_in_an_array_may_be_written():
    found = []
    for compiled in (False, True):
        p, optimizer, step = one_parameter()
        rate = optimizer.param_groups[0]["lr"] = np.array(0.1)
        run = dc.compile(step) if compiled else step
        for i in range(6):
            rate[()] = 0.1 * i
            run(dc.ones(3))
        found.append(p.tolist())
    assert found[0] == found[1] and run.runs == 5


def test_each_tensor_over_an_array_is_looked_at():
    first = dc.ones(3)
    second = first.detach()
    both = dc.compile(lambda x: x * first + second)
    for _ in range(3):
        assert both(dc.ones(3)).tolist() == [2.0] * 3
    second.data = dc.full((3,), 5)
    assert both(dc.ones(3)).tolist() == [6.0] * 3 and both.runs == 2


def test_another_parameter_over_the_array_of_one_that_is_given_twice():
    found = []
    for compiled in (False, True):
        a = dc.nn.Parameter(dc.ones(3))
        b = dc.nn.Parameter(dc.ones(3))
        b.data = a.data

        def step(a, b):
            (a * 2 + b * 3).sum().backward()

        run = dc.compile(step) if compiled else step
        for _ in range(3):
            a.grad = None
            run(a, a)
        a.grad = None
        run(a, b)
        found.append((a.grad.tolist(), b.grad.tolist()))
    assert found[0] == found[1]


def test_a_gradient_that_is_added_to_counts_what_is_written():
    p = dc.nn.Parameter(dc.ones(3))
    step = dc.compile(lambda x: (p * x).sum().backward())
    for _ in range(4):
        step(dc.ones(3))
    one = dc.nn.Parameter(dc.ones(3))
    loss = (one * p.grad).sum()
    step(dc.ones(3))
    assert step.runs == 3
    with pytest.raises(dc.errors.GradientError, match="overwritten"):
        loss.backward()


def test_two_parameters_with_one_gradient():
    found = []
    for compiled in (False, True):
        a, b = (dc.nn.Parameter(dc.ones(3)) for _ in range(2))

        def step(x, a=a, b=b):
            (a * x + b * 3).sum().backward()

        run = dc.compile(step) if compiled else step
        for i in range(6):
            if i == 4:
                a.grad = b.grad
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*a gradient that shares memory", DeepcoreWarning)
                run(dc.ones(3))
        found.append((a.grad.tolist(), b.grad.tolist()))
    assert found[0] == found[1] and run.runs == 2


def test_memory_of_the_past_is_let_go():
    p = dc.nn.Parameter(dc.ones(3))
    times = dc.compile(lambda x: (p * x).detach())
    arrays = []
    for i in range(8):
        p.data = dc.full((3,), float(i))
        arrays.append(weakref.ref(p.array))
        assert times(dc.ones(3)).tolist() == times(dc.ones(3)).tolist() == [i] * 3
    assert times.runs == 8 and [ref() is not None for ref in arrays] == [False] * 6 + [True] * 2


def test_what_is_always_followed_anew_runs_as_it_is(caplog):
    p = dc.nn.Parameter(dc.ones(3))
    times = dc.compile(lambda x: (p * x).detach(), programs=3)
    for i in range(8):
        p.data = dc.full((3,), float(i))
        assert times(dc.ones(3)).tolist() == [i] * 3
    assert times.traces == 6
    assert [r.levelname for r in caplog.records if "does not pay (a tensor has other memory" in r.getMessage()] == [
        "WARNING"
    ]


def test_memory_that_is_given_again_counts_what_is_written():
    """A graph made after `p.data = p.data` notices the steps that come then."""
    p, _, step = one_parameter()
    run = dc.compile(step)
    for _ in range(3):
        run(dc.ones(3))
    p.data = p.data
    loss = p.square().sum()
    run(dc.ones(3))
    assert run.runs == 3
    with pytest.raises(dc.errors.GradientError, match="overwritten"):
        loss.backward()


@pytest.mark.parametrize("clip", [{"max_norm": 0.1}, {"clip_value": 0.01}, {"max_norm": 1e9}])
def test_clipping_has_the_bits_of_the_function(clip):
    found = []
    for compiled in (False, True):
        dc.manual_seed(0)
        model = layers(1)
        optimizer = dc.optim.Adam(model.parameters(), lr=0.1)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            dc.nn.functional.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            optimizer.clipped_step(**clip)

        run = dc.compile(step) if compiled else step
        for i in range(4):
            rng = np.random.default_rng(i)
            run(dc.tensor(rng.standard_normal((9, 6)).astype("f")), dc.tensor(rng.integers(0, 3, 9)))
        if compiled:
            assert run.runs == 3, run.faults
        found.append([p.detach().numpy() for p in model.parameters()] + [p.grad.numpy() for p in model.parameters()])
    assert all(map(same, *found))


def test_gradients_of_arguments_reach_the_arguments_of_that_call():
    @dc.compile
    def step(x):
        (x * x).sum().backward()

    given = [dc.tensor([float(i), 2.0], requires_grad=True) for i in range(3)]
    for x in given:
        step(x)
    assert step.runs == 2
    assert [x.grad.tolist() for x in given] == [[0, 4], [2, 4], [4, 4]]
    with pytest.warns(DeepcoreWarning, match="has a gradient already"):
        step(given[1])
    step(given[2])
    assert [x.grad.tolist() for x in given] == [[0, 4], [4, 8], [8, 8]]


def test_gradients_that_someone_holds_are_left_alone():
    w = dc.nn.Parameter(dc.ones(2))
    optimizer = dc.optim.SGD([w], lr=0.0)

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()

    held = []
    for i in range(5):
        step(dc.tensor([1.0, float(i)]))
        held.append(w.grad)
    assert [g.tolist() for g in held] == [[1, i] for i in range(5)]
    assert step.runs == 4


def test_gradients_add_up_in_a_program_of_their_own():
    w = dc.nn.Parameter(dc.ones(2))

    @dc.compile
    def step(x):
        (w * x).sum().backward()

    for i in range(4):
        step(dc.tensor([1.0, float(i)]))
    assert w.grad.tolist() == [4, 6] and step.runs == 2


def test_the_programs_used_least_recently_go_first():
    compiled = dc.compile(lambda x: x * 2, programs=2)
    for n in (1, 2, 1, 3, 1):
        compiled(dc.ones(n))
    assert (compiled.traces, compiled.runs) == (3, 2)


def test_a_decision_by_value_runs_as_it_is_and_is_named():
    def step(x):
        return x * 2 if x.sum().item() > 0 else x - 1

    compiled = dc.compile(step)
    with pytest.warns(DeepcoreWarning, match=r"cannot be compiled.*test_compile\.py"):
        assert compiled(dc.ones(3)).tolist() == [2, 2, 2]
    assert compiled(-dc.ones(3)).tolist() == [-2, -2, -2]
    assert compiled.faults and not compiled.runs


def test_a_bad_class_raises_as_the_function_does_and_changes_nothing():
    model = dc.nn.Linear(4, 3)
    optimizer = dc.optim.SGD(model.parameters(), lr=0.1)

    @dc.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = dc.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = dc.ones(2, 4), dc.tensor([0, 2])
    step(x, y)
    step(x, y)
    assert step.runs == 1
    before = model.weight.detach().numpy().copy()
    with pytest.raises(dc.errors.IndexRangeError, match="class 7"):
        step(x, dc.tensor([0, 7]))
    assert same(before, model.weight.detach().numpy())


def test_arguments_are_returned_themselves():
    @dc.compile
    @dc.no_grad()
    def both(x, pair):
        return {"x": x, "sum": x + pair[1], "again": [pair[1], pair[0], x]}

    for i in range(3):
        x, y, z = dc.full((2,), i), dc.ones(2), dc.zeros(3)
        found = both(x, (z, y))
        assert found["x"] is x and list(map(id, found["again"])) == [id(y), id(z), id(x)]
        assert found["sum"].tolist() == [i + 1.0] * 2
    assert both.runs == 2, both.faults


VIEWS = {
    "slice": lambda x: x[1:],
    "row": lambda x: x[0],
    "step": lambda x: x[::2],
    "t": lambda x: x.t(),
    "permute": lambda x: x.permute(1, 0),
    "chunk": lambda x: x.chunk(2)[0],
    "split": lambda x: x.split(1)[1],
    "unbind": lambda x: x.unbind()[1],
    "narrow": lambda x: x.narrow(0, 1, 2),
    "select": lambda x: x.select(0, 1),
    "reshape": lambda x: x.reshape(2, 8),
    "detach": lambda x: x.detach(),
    "among others": lambda x: {"doubled": x * 2, "view": (x[1:],)}["view"][0],
}


@pytest.mark.filterwarnings("ignore:.*shares the memory of an argument:deepcore.errors.DeepcoreWarning")
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_of_an_argument_stays_one(view):
    """In every call: what is written into the argument shows in the result, and the other way round."""
    compiled = dc.compile(view)
    for _ in range(4):
        x = dc.ones(4, 4)
        result = compiled(x)
        x.mul_(3)
        assert (result == 3).all()
        result.fill_(5)
        assert (x == 5).any()


def test_a_generator_without_a_state_runs_as_it_is():
    system = random.SystemRandom()
    compiled = dc.compile(lambda x: x * system.random())
    with pytest.warns(DeepcoreWarning, match="cannot be compiled"):
        results = {compiled(dc.ones(1)).item() for _ in range(4)}
    assert len(results) == 4 and not compiled.runs


@pytest.mark.parametrize("period", [2, 3])
def test_what_changes_with_a_period_is_found(period):
    """A function whose result alternates ends up eager, after warnings; no call after that is wrong."""
    values = itertools.cycle(range(1, period + 1))
    compiled = dc.compile(lambda x: x * next(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepcoreWarning)
        for _ in range(60):
            compiled(dc.ones(1))
    assert compiled.faults
    seen = {compiled(dc.ones(1)).item() for _ in range(2 * period)}
    assert seen == {float(i) for i in range(1, period + 1)}


def test_pytorchs_arguments_are_accepted():
    def double(x):
        return x * 2

    compiled = dc.compile(
        double, mode="reduce-overhead", fullgraph=True, backend="inductor", options={"a": 1}, dynamic=False
    )
    assert compiled(dc.ones(2)).tolist() == [2.0, 2.0] and compiled.traces == 1
    assert dc.compile(double, disable=True) is double and dc.compile(disable=True)(double) is double
