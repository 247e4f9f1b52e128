"""Python state: what the caller changes between calls, and what the function changes itself."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import types
import weakref

import numpy as np

import deepcore as dc
from deepcore import nn

from . import CHECKED, EAGER, EQUAL_OR_EAGER, Lag, scenario
from .common import F, inputs, mlp, randn

#: Calls, and at which of them the caller changes something: two checks (11 and 23) follow the last change.
CALLS, CHANGES = 26, (6, 9)

SCALE = 2.0
NAME, FLAG, TABLE, NUMBERS = "relu", True, {"scale": 2.0}, [2.0, 3.0]


def helper(x):
    return x * 2


def driven(run, change, *state, calls=CALLS, at=CHANGES):
    """Calls, with `change(number of the change)` before some of them."""
    for i, x in enumerate(inputs(calls, 3)):
        if i in at:
            change(at.index(i))
        yield run(x), *state


# -- what guards cover --------------------------------------------------------------------------------------------


@scenario()
def global_number(compile):
    run = compile(lambda x: x * SCALE)

    def change(i):
        global SCALE
        SCALE = 3.0 + i

    try:
        yield from driven(run, change, calls=14)
    finally:
        change(-1)


@scenario()
def global_string_and_flag(compile):
    run = compile(lambda x: getattr(dc, NAME)(x) if FLAG else -x)

    def change(i):
        global NAME, FLAG
        NAME, FLAG = ("tanh", FLAG) if i == 0 else (NAME, not FLAG)

    try:
        yield from driven(run, change, calls=14)
    finally:
        globals().update(NAME="relu", FLAG=True)


@scenario(each={"int": (2, 3), "float": (2.0, 2.5), "bool": (True, False), "string": ("sin", "cos"), "none": (None, 2.0),
                "sign of zero": (0.0, -0.0), "same value": (2, 2.0)}, everywhere=True)  # fmt: skip
def closure_value(compile, values):
    value, other = values

    @compile
    def run(x):
        if isinstance(value, str):
            return getattr(x, value)()
        if value is None:
            return x + 1
        return x.sign() / (x * value) if isinstance(value, float) and value == 0 else x.exp() * value

    def change(i):
        nonlocal value, other
        value, other = other, value

    yield from driven(run, change, calls=14)


@scenario()
def default_of_the_function(compile):
    def f(x, scale=2.0, *, shift=1.0):
        return x * scale + shift

    run = compile(f)

    def change(i):
        if i:
            f.__kwdefaults__["shift"] = 5.0
        else:
            f.__defaults__ = (3.0,)

    yield from driven(run, change, calls=14)


class Experiment:
    kind = 1.0

    def __init__(self):
        self.scale, self.on, self.activation = 2.0, True, "tanh"
        self.weight = nn.Parameter(randn(3))
        self.table, self.numbers = {"scale": 2.0}, [1.0, 2.0]

    def run(self, x):
        x = getattr(x, self.activation)() * self.scale * self.kind
        return x.detach() if self.on else (x * self.weight).detach()

    def deep(self, x):
        return x * self.table["scale"] + self.numbers[1]


@scenario(each={"number": ("scale", 3.0), "flag": ("on", False), "string": ("activation", "sigmoid")}, everywhere=True)
def attribute_of_self(compile, what):
    one = Experiment()
    yield from driven(compile(one.run), lambda i: setattr(one, what[0], what[1] if i == 0 else 5.0), calls=8, at=(4,))


@scenario()
def attribute_beside_the_class(compile):
    one = Experiment()
    yield from driven(compile(one.run), lambda i: setattr(one, "kind", 3.0 + i), calls=14)


@scenario()
def attribute_of_a_module(compile):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.noisy, self.scale = nn.Linear(3, 3), False, 2.0

        def forward(self, x):
            out = self.layer(x) * self.scale
            return out + 1 if self.noisy else out

    model = Noisy()
    run = compile(lambda x: model(x).detach())
    yield from driven(run, lambda i: setattr(model, *(("noisy", True), ("scale", 0.5))[i]), calls=14)


@scenario()
def flag_of_a_nested_module(compile):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.open = True

        def forward(self, x):
            return x if self.open else x * 0

    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Gate(), nn.Tanh()))
    run = compile(lambda x: model(x).detach())
    yield from driven(run, lambda i: setattr(model[1][0], "open", bool(i)), calls=14)


@scenario()
def list_of_modules_grows(compile):
    model = nn.ModuleList([nn.Linear(3, 3)])

    @compile
    def run(x):
        for layer in model:
            x = layer(x).tanh()
        return x.detach()

    yield from driven(run, lambda i: model.append(nn.Linear(3, 3)), model, calls=14)


@scenario()
def sequential_grows_and_shrinks(compile):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    run = compile(lambda x: model(x).detach())
    yield from driven(run, lambda i: model.append(nn.Linear(3, 3)) if i == 0 else model.pop(0), calls=14)


@scenario()
def length_of_a_named_list(compile):
    shifts = [1.0]
    run = compile(lambda x: x + sum(shifts))
    yield from driven(run, lambda i: shifts.append(float(i)), calls=14)


@scenario()
def parameter_replaced(compile):
    model = nn.Linear(3, 3)
    run = compile(lambda x: model(x).detach())
    yield from driven(run, lambda i: setattr(model, "weight", nn.Parameter(randn(3, 3, seed=i))), model, calls=14)


@scenario(everywhere=True)
def memory_of_a_parameter_replaced(compile):
    model = nn.Linear(3, 3)

    @compile
    def run(x):
        model.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss.detach()

    yield from driven(run, lambda i: setattr(model.weight, "data", randn(3, 3, seed=i)), model, calls=14)


@scenario()
def memory_of_a_parameter_swapped_to_and_fro(compile):
    p = nn.Parameter(randn(3))
    both = randn(3, seed=1), randn(3, seed=2)
    run = compile(lambda x: (p * x).detach())
    for i, x in enumerate(inputs(14, 3)):
        p.data = both[i % 2]
        yield run(x), p, both


@scenario()
def dtype_of_the_model_changed(compile):
    model = mlp(nn.BatchNorm1d(8))

    @compile
    def run(x):
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        return out.detach()

    for i, x in enumerate(inputs(14)):
        if i == 5:
            model.double()
        if i == 10:
            model.float()
            model.zero_grad()
        yield run(x.double() if 5 <= i < 10 else x), model


@scenario(CHECKED, everywhere=True)
def class_of_a_module_replaced(compile):
    class Halved(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 2

    model = nn.Linear(3, 3)
    run = compile(lambda x: model(x).detach())
    yield from driven(run, lambda i: setattr(model, "__class__", Halved if i == 0 else nn.Linear))


@scenario()
def forward_of_a_module_replaced(compile):
    model = nn.Linear(3, 3)
    run = compile(lambda x: model(x).detach())
    yield from driven(run, lambda i: setattr(model, "forward", lambda x: x * (2.0 + i)), calls=14)


@scenario(each=["tensor", "parameter", "buffer", "part"], everywhere=True)
def tensor_outside_is_written(compile, kind):
    model = nn.Module()
    t = randn(3)
    if kind == "parameter":
        t = model.weight = nn.Parameter(t)
    if kind == "buffer":
        model.register_buffer("t", t)
    run = compile(lambda x: (x * t).detach())
    with dc.no_grad():
        for i, x in enumerate(inputs(12, 3)):
            if i == 4:
                t.mul_(2)
            if i == 8:
                t[1 if kind == "part" else slice(None)] = 7.0
            yield run(x), t


@scenario(EQUAL_OR_EAGER)
def array_of_numpy_under_a_tensor_is_written(compile):
    array = np.ones(3, "f4")
    t = dc.from_numpy(array)
    run = compile(lambda x: x * t)
    for i, x in enumerate(inputs(12, 3)):
        array[i % 3] += i
        yield run(x), t, array


@scenario()
def modes_of_many_layers(compile):
    model = mlp(nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Dropout(0.1))
    run = compile(lambda x: model(x).detach())
    for i, x in enumerate(inputs(14)):
        for j in (1, 2, 3):
            model[j].train(bool(i >> (j - 1) & 1))
        yield run(x), model


@scenario(CHECKED)
def attribute_of_a_parameter_subclass(compile):
    class Scaled(nn.Parameter):
        scale = 2.0

    p = Scaled(randn(3))

    @compile
    def run(x):
        return (x * p * p.scale).detach()

    yield from driven(run, lambda i: setattr(p, "scale", 3.0 + i))


# -- what only checks see -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Config:
    scale: float = 2.0
    activation: str = "tanh"


class Mode(enum.Enum):
    DOUBLED = 2.0
    TRIPLED = 3.0


class Lazy:
    """Attributes that are computed."""

    def __init__(self):
        self.__dict__["values"] = {"scale": 2.0}

    def __getattr__(self, name):
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def twice(self):
        return 2 * self.values["scale"]


def readers():
    """name: (what reads Python state, what changes it for the number of a change)."""
    config, lazy, one = Config(), Lazy(), Experiment()
    table, numbers = {"scale": 2.0, "deep": {"scale": 1.0}}, [2.0, 3.0]
    big = {f"key {i}": float(i) for i in range(5000)}
    array, large = np.full(3, 2.0, "f4"), np.full(120_000, 2.0, "f4")
    space, queue, values = types.SimpleNamespace(scale=2.0), collections.deque([2.0, 1.0]), {1.0, 2.0}
    partial = functools.partial(lambda x, scale: x * scale, scale=2.0)
    mode, function, holder = [Mode.DOUBLED], types.SimpleNamespace(f=helper), types.SimpleNamespace(t=randn(3))
    kind = type("Kind", (), {"scale": 2.0})
    module = types.ModuleType("settings")
    module.scale = 2.0
    default = collections.defaultdict(float, scale=2.0)
    chain = collections.ChainMap({}, {"scale": 2.0})
    layers = [lambda x: x * 2, lambda x: x + 1]
    ref = Config()
    weak = weakref.ref(ref)

    def attributed(x):
        return x * attributed.scale

    attributed.scale = 2.0

    return {
        "dataclass": (lambda x: getattr(x, config.activation)() * config.scale,
                      lambda i: setattr(config, *(("scale", 3.0), ("activation", "sigmoid"))[i])),
        "dict": (lambda x: x * table["scale"], lambda i: table.update(scale=3.0 + i)),
        "dict in a dict": (lambda x: x * table["deep"]["scale"], lambda i: table["deep"].update(scale=3.0 + i)),
        "dict of 5000": (lambda x: x * big["key 4321"], lambda i: big.update({"key 4321": 3.0 + i})),
        "list": (lambda x: x * numbers[1], lambda i: numbers.__setitem__(1, 5.0 + i)),
        "set": (lambda x: x * max(values), lambda i: (values.discard(2.0), values.add(5.0))),
        "deque": (lambda x: x * queue[0], lambda i: queue.rotate(1)),
        "defaultdict": (lambda x: x * default["scale"], lambda i: default.update(scale=4.0 + i)),
        "ChainMap": (lambda x: x * chain["scale"], lambda i: chain.maps[0].update(scale=4.0 + i)),
        "array": (lambda x: x * float(array[1]), lambda i: array.__setitem__(1, 5.0 + i)),
        "array of 400 kB": (lambda x: x * float(large[100_000]), lambda i: large.__setitem__(100_000, 5.0 + i)),
        "namespace": (lambda x: x * space.scale, lambda i: setattr(space, "scale", 5.0 + i)),
        "class": (lambda x: x * kind.scale, lambda i: setattr(kind, "scale", 5.0 + i)),
        "class of self": (one.run, lambda i: setattr(Experiment, "kind", (5.0, 1.0)[i])),
        "table of self": (one.deep, lambda i: one.table.update(scale=5.0 + i)),
        "list of self": (one.deep, lambda i: one.numbers.__setitem__(1, 5.0 + i)),
        "module of Python": (lambda x: x * module.scale, lambda i: setattr(module, "scale", 5.0 + i)),
        "attribute of a function": (attributed, lambda i: setattr(attributed, "scale", 5.0 + i)),
        "partial": (lambda x: partial(x), lambda i: partial.keywords.update(scale=5.0 + i)),
        "enum": (lambda x: x * mode[0].value, lambda i: mode.__setitem__(0, Mode.TRIPLED)),
        "property": (lambda x: x * lazy.twice, lambda i: lazy.values.update(scale=5.0 + i)),
        "__getattr__": (lambda x: x * lazy.scale, lambda i: lazy.values.update(scale=5.0 + i)),
        "function replaced": (lambda x: function.f(x), lambda i: setattr(function, "f", lambda x: x * (5.0 + i))),
        "list of functions": (lambda x: layers[0](layers[1](x)), lambda i: layers.reverse()),
        "tensor replaced": (lambda x: x * holder.t, lambda i: setattr(holder, "t", randn(3, seed=5 + i))),
        "weak reference": (lambda x: x * weak().scale, lambda i: setattr(ref, "scale", 5.0 + i)),
        "order of a dict": (lambda x: x * next(iter(table)).count("e"),
                            lambda i: table.update(scale=table.pop("scale"))),
        "keys of a dict": (lambda x: x * ("extra" in table or 2), lambda i: table.update(extra=i)),
    }  # fmt: skip


@scenario(CHECKED, each=list(readers()))
def state_that_the_caller_changes(compile, what):
    read, change = readers()[what]
    try:
        yield from driven(compile(read), change)
    finally:
        Experiment.kind = 1.0


@scenario(CHECKED, each=["global function", "method of a class", "function of deepcore", "class of the model"])
def monkeypatched(compile, what):
    original = helper, Experiment.run, F.relu
    one = Experiment()
    try:
        if what == "global function":
            run, change = lambda x: helper(x), lambda i: globals().update(helper=lambda x: x * (5.0 + i))
        elif what == "method of a class":
            run, change = one.run, lambda i: setattr(Experiment, "run", lambda self, x: x * (7.0 + i))
            run = lambda x: one.run(x)
        elif what == "function of deepcore":
            run, change = lambda x: F.relu(x), lambda i: setattr(F, "relu", lambda x: x * (7.0 + i))
        else:
            model = nn.Linear(3, 3)
            run = lambda x: model(x).detach()
            kind = type("Patched", (nn.Linear,), {})
            model.__class__ = kind
            change = lambda i: setattr(kind, "forward", lambda self, x: x * (7.0 + i))
        yield from driven(compile(run), change)
    finally:
        globals()["helper"], Experiment.run, F.relu = original


@scenario(CHECKED, each=["closure", "list", "dict"])
def tensor_outside_is_rebound(compile, place):
    t = randn(3)
    held, table = [t], {"t": t}

    @compile
    def run(x):
        return x * (t if place == "closure" else held[0] if place == "list" else table["t"])

    def change(i):
        nonlocal t
        t = held[0] = table["t"] = randn(3, seed=10 + i)

    yield from driven(run, change)


@scenario(CHECKED)
def alternating_state(compile):
    """Changes in each call: no program is right twice."""
    table = {"scale": 2.0}
    run = compile(lambda x: x * table["scale"])
    for i, x in enumerate(inputs(26, 3)):
        table["scale"] = 2.0 if i % 2 else 3.0
        yield run(x)


@scenario(CHECKED)
def state_with_a_period_of_three(compile):
    table = {"scale": 2.0}
    run = compile(lambda x: x * table["scale"])
    for i, x in enumerate(inputs(26, 3)):
        table["scale"] = float(i % 3)
        yield run(x)


# -- what the function changes itself -------------------------------------------------------------------------------

COUNT = 0


@scenario(EAGER)
def counts_in_a_global(compile):
    global COUNT
    COUNT = 0

    @compile
    def run(x):
        global COUNT
        COUNT += 1
        return x * COUNT

    for x in inputs(14, 3):
        yield run(x), COUNT


@scenario(EAGER)
def counts_in_a_closure(compile):
    count = 0

    @compile
    def run(x):
        nonlocal count
        count += 1
        return x / count

    for x in inputs(14, 3):
        yield run(x), count


@scenario(EAGER)
def counts_without_using_it(compile):
    count = 0

    @compile
    def run(x):
        nonlocal count
        count += 1
        return x * 2

    for x in inputs(14, 3):
        yield run(x), count


@scenario(EAGER)
def counts_in_an_attribute(compile):
    class Counter:
        def __init__(self):
            self.calls = 0

        def run(self, x):
            self.calls += 1
            return x * self.calls

    counter = Counter()
    run = compile(counter.run)
    for x in inputs(14, 3):
        yield run(x), counter.calls


@scenario(EAGER)
def counts_in_a_module(compile):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x + self.calls

    model = Counter()
    run = compile(lambda x: model(x) * 2)
    for x in inputs(14, 3):
        yield run(x), model.calls


@scenario(EAGER)
def appends_to_a_list(compile):
    log = []

    @compile
    def run(x):
        log.append(len(log))
        return x * 2

    for x in inputs(14, 3):
        yield run(x), list(log)


@scenario(EAGER)
def adds_keys_to_a_dict(compile):
    log = {}

    @compile
    def run(x):
        log[len(log)] = "called"
        return x * 2

    for x in inputs(14, 3):
        yield run(x), dict(log)


@scenario(EAGER)
def keeps_results_in_a_list(compile):
    history = []

    @compile
    def run(x):
        history.append(x * 2)
        return history[-1] + 1

    for x in inputs(14, 3):
        yield run(x), list(history)


@scenario(EQUAL_OR_EAGER)
def keeps_its_result_in_a_variable(compile):
    hidden = dc.zeros(3)

    @compile
    def run(x):
        nonlocal hidden
        hidden = (hidden + x).tanh()
        return hidden * 2

    for x in inputs(14, 3):
        yield run(x), hidden


@scenario(EQUAL_OR_EAGER, everywhere=True)
def keeps_its_result_in_a_module(compile):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.hidden = nn.Linear(3, 3), None

        def forward(self, x):
            h = dc.zeros(3) if self.hidden is None else self.hidden
            self.hidden = (self.layer(x) + h).tanh().detach()
            return self.hidden * 2

    model = Recurrent()
    run = compile(lambda x: model(x))
    for i, x in enumerate(inputs(16, 3)):
        if i == 8:
            model.hidden = None
        yield run(x), model.hidden


@scenario(CHECKED, each=["dict entry", "list item", "array element", "dataclass field"])
def counts_in_a_container(compile, place):
    """Not in what guards look at: a difference in the results is found by the checks."""
    table, numbers, array, config = {"n": 0}, [0], np.zeros(1, int), Config(0.0)

    @compile
    def run(x):
        table["n"] += 1
        numbers[0] += 1
        array[0] += 1
        config.scale += 1
        n = {"dict entry": table["n"], "list item": numbers[0], "array element": int(array[0])}.get(place, config.scale)
        return x * n

    for x in inputs(14, 3):
        yield run(x)


@scenario()
def counts_what_nobody_reads(compile):
    table = {"n": 0}

    @compile(side_effects="once")
    def run(x):
        table["n"] += 1
        return x * 2

    for x in inputs(14, 3):
        yield run(x), Lag(dict(table))


@scenario(each=["closure", "attribute", "list"])
def side_effects_once(compile, place):
    """Accepted changes of Python state: happen when the function itself runs."""
    count, log, holder = 0, [], types.SimpleNamespace(calls=0)

    @compile(side_effects="once")
    def run(x):
        nonlocal count
        if place == "closure":
            count += 1
        elif place == "attribute":
            holder.calls += 1
        else:
            log.append(1)
        return x * 2

    for x in inputs(14, 3):
        yield run(x), Lag((count, holder.calls, list(log)))


@scenario(CHECKED)
def side_effects_once_that_matter(compile):
    count = 0

    @compile(side_effects="once")
    def run(x):
        nonlocal count
        count += 1
        return x * count

    for x in inputs(14, 3):
        yield run(x)


@scenario(EQUAL_OR_EAGER)
def makes_a_table_at_the_first_call(compile):
    cache = {}

    @compile
    def run(x):
        n = x.shape[0]
        if n not in cache:
            cache[n] = dc.arange(n, dtype=dc.float32) * 0.5
        return x * cache[n]

    for i in range(14):
        yield run(randn(3 + i // 5, seed=i)), cache


@scenario(EQUAL_OR_EAGER)
def makes_an_attribute_at_the_first_call(compile):
    class Positions(nn.Module):
        table = None

        def forward(self, x):
            if self.table is None or self.table.shape[0] < x.shape[0]:
                self.table = dc.arange(x.shape[0], dtype=dc.float32)
            return x + self.table[: x.shape[0]]

    model = Positions()
    run = compile(lambda x: model(x))
    for i in range(14):
        yield run(randn((3, 3, 5, 4)[i // 4 if i < 14 else 3], seed=i)), model.table


@scenario(EQUAL_OR_EAGER)
def makes_a_layer_at_the_first_call(compile):
    class Lazily(nn.Module):
        def forward(self, x):
            if not hasattr(self, "layer"):
                self.layer = nn.Linear(x.shape[-1], 2)
            return self.layer(x)

    model = Lazily()
    run = compile(lambda x: model(x).detach())
    for x in inputs(10, 5, 3):
        yield run(x), model


@scenario(EQUAL_OR_EAGER)
def warms_up_for_some_calls(compile):
    """Changes its state in the first calls only."""
    calls = 0

    @compile
    def run(x):
        nonlocal calls
        if calls < 3:
            calls += 1
            return x * 0.1 * calls
        return x

    for x in inputs(14, 3):
        yield run(x), calls


@scenario(EQUAL_OR_EAGER)
def changes_state_and_changes_it_back(compile):
    one = types.SimpleNamespace(scale=1.0)

    @compile
    def run(x):
        one.scale = 4.0
        out = x * one.scale
        one.scale = 1.0
        return out * one.scale

    for x in inputs(10, 3):
        yield run(x), one


@scenario()
def local_state(compile):
    """Lists, dicts and objects that the function makes are its own business."""

    @compile
    def run(x):
        log, table, config = [], {}, Config()
        for i in range(3):
            log.append(x * i)
            table[i] = len(log)
            config.scale += 1
        return sum(log) * table[2] * config.scale

    for x in inputs(8, 3):
        yield run(x)


@scenario(CHECKED, each=["iterator", "counter", "generator"])
def draws_from_an_iterator(compile, kind):
    import itertools

    source = {"iterator": lambda: iter([float(i) for i in range(100)]), "counter": itertools.count,
              "generator": lambda: (i * 0.5 for i in range(100))}[kind]()  # fmt: skip

    @compile
    def run(x):
        return x * next(source)

    for x in inputs(14, 3):
        yield run(x)


@scenario(CHECKED)
def cached_by_functools(compile):
    @functools.lru_cache
    def scale(kind):
        calls.append(kind)
        return 2.0 * len(calls)

    calls = []
    kind = "a"

    @compile
    def run(x):
        return x * scale(kind)

    for i, x in enumerate(inputs(14, 3)):
        if i == 7:
            scale.cache_clear()
        yield run(x)


@scenario(CHECKED)
def object_made_anew_by_the_caller(compile):
    config = Config()
    run = compile(lambda x: x * config.scale)

    def change(i):
        nonlocal config
        config = Config(5.0 + i)

    yield from driven(run, change)
