"""What lies outside of the program: clocks, files, other generators, threads, processes, settings."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

import deepcore as dc
from deepcore import nn, optim

from . import CHECKED, EAGER, EQUAL_OR_EAGER, Lag, scenario
from .common import F, batches, inputs, mlp, randn, trainer

CALLS, AT = 26, 6


@contextlib.contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@scenario(CHECKED, each=["time", "perf_counter", "monotonic"])
def clock(compile, name):
    ticks = itertools.count(1)
    with replaced(time, name, lambda: float(next(ticks))):
        run = compile(lambda x: x * getattr(time, name)())
        for x in inputs(14, 3):
            yield run(x)


@scenario(EAGER, each={"random": lambda: random.random(), "gauss": lambda: random.gauss(0, 1),
                       "choice": lambda: random.choice([1.0, 2.0, 3.0]), "numpy": lambda: np.random.rand(),
                       "numpy integers": lambda: int(np.random.randint(9))})  # fmt: skip
def global_generator_of_another_library(compile, draw):
    run = compile(lambda x: x * draw())
    for x in inputs(8, 3):
        yield run(x), random.getstate()[1][:3], np.random.get_state()[2]


@scenario(CHECKED, each={"random": lambda: random.Random(3), "numpy": lambda: np.random.default_rng(3)})
def generator_of_another_library(compile, make):
    source = make()
    run = compile(lambda x: x * source.random())
    for x in inputs(14, 3):
        yield run(x)


@scenario(CHECKED)
def generator_without_a_state(compile):
    bits = itertools.count(0x1234_5678)
    with replaced(random, "_urandom", lambda n: (next(bits) << 20).to_bytes(n, "big")):
        source = random.SystemRandom()
        run = compile(lambda x: x * source.random())
        for x in inputs(14, 3):
            yield run(x)


@scenario(CHECKED)
def array_of_random_numbers(compile):
    """Noise from NumPy that becomes a tensor."""
    rng = np.random.default_rng(0)
    run = compile(lambda x: x + dc.tensor(rng.standard_normal(3).astype("f4")))
    for x in inputs(14, 3):
        yield run(x)


@scenario(CHECKED)
def environment_variable(compile):
    name = "A_VARIABLE_OF_A_SCENARIO"
    run = compile(lambda x: x * float(os.environ.get(name, "1")))
    try:
        for i, x in enumerate(inputs(CALLS, 3)):
            if i == AT:
                os.environ[name] = "3"
            yield run(x)
    finally:
        os.environ.pop(name, None)


@scenario(CHECKED)
def file_that_is_read(compile):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scale.txt"
        path.write_text("2")
        run = compile(lambda x: x * float(path.read_text()))
        for i, x in enumerate(inputs(CALLS, 3)):
            if i == AT:
                path.write_text("5")
            yield run(x)


@scenario(CHECKED)
def file_whose_presence_matters(compile):
    with tempfile.TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"
        run = compile(lambda x: x * 0 if stop.exists() else x)
        for i, x in enumerate(inputs(CALLS, 3)):
            if i == AT:
                stop.touch()
            yield run(x)


@scenario(CHECKED)
def context_variable(compile):
    scale = contextvars.ContextVar("scale", default=2.0)
    run = compile(lambda x: x * scale.get())
    for i, x in enumerate(inputs(CALLS, 3)):
        token = scale.set(5.0) if i >= AT else None
        yield run(x)
        if token:
            scale.reset(token)


@scenario(CHECKED)
def event_of_a_thread(compile):
    stop = threading.Event()
    run = compile(lambda x: x * 0 if stop.is_set() else x)
    for i, x in enumerate(inputs(CALLS, 3)):
        if i == AT:
            stop.set()
        yield run(x)


@scenario(CHECKED)
def value_of_multiprocessing(compile):
    scale = multiprocessing.Value("d", 2.0)
    run = compile(lambda x: x * scale.value)
    for i, x in enumerate(inputs(CALLS, 3)):
        if i == AT:
            scale.value = 5.0
        yield run(x)


@scenario(CHECKED)
def local_of_a_thread(compile):
    local = threading.local()
    local.scale = 2.0
    run = compile(lambda x: x * local.scale)
    for i, x in enumerate(inputs(CALLS, 3)):
        if i == AT:
            local.scale = 5.0
        yield run(x)


@scenario(CHECKED)
def working_directory(compile):
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        run = compile(lambda x: x * (os.getcwd() == before))
        try:
            for i, x in enumerate(inputs(CALLS, 3)):
                if i == AT:
                    os.chdir(folder)
                yield run(x)
        finally:
            os.chdir(before)


@scenario(EQUAL_OR_EAGER)
def warnings_silenced_inside(compile):
    @compile
    def run(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("of a scenario", stacklevel=1)
        return x * 2

    for x in inputs(8, 3):
        yield run(x)


@scenario()
def prints_text(compile):
    text = []

    class Stream:
        def write(self, part):
            text.append(part)

    stream = Stream()

    @compile(side_effects="once")
    def run(x):
        print("step", x.shape, file=stream)
        return x * 2

    for x in inputs(8, 3):
        yield run(x), Lag("".join(text))


@scenario(EAGER)
def prints_a_tensor(compile):
    text = []

    @compile
    def run(x):
        y = x * 2
        text[:] = [f"{y}"]
        return y

    for x in inputs(8, 3):
        yield run(x), list(text)


@scenario()
def number_of_threads_changed(compile):
    before = dc.get_num_threads()
    model = mlp()
    step = trainer(compile, model, optim.SGD(model.parameters(), lr=0.1))
    try:
        for i, (x, y) in enumerate(batches(10)):
            dc.set_num_threads(1 + i % 2)
            yield step(x, y), model
    finally:
        dc.set_num_threads(before)


@scenario()
def kernels_switched_off(compile):
    from deepcore.config import settings

    before, run = settings.kernels, compile(lambda x: (x.exp() @ x.t()).sum(-1))
    try:
        for i, x in enumerate(inputs(10)):
            settings.kernels = before and i % 4 != 3
            yield run(x)
    finally:
        settings.kernels = before


@scenario(each=["fills", "random"])
def default_backend_named(compile, what):
    @compile
    def run(x):
        with dc.use_backend("cpu"):
            extra = dc.ones(3) if what == "fills" else dc.randn(3)
        return x + extra

    for x in inputs(8, 3):
        yield run(x)


@scenario()
def same_function_in_threads(compile):
    w = randn(3)
    run = compile(lambda x: (x * w).exp().cumsum(0))
    results = {}

    def work(number):
        results[number] = [run(x) for x in inputs(6, 3 + number % 2, 3)]

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        yield [results[i] for i in range(4)], w


@scenario(functions=4)
def different_functions_in_threads(compile):
    models, results = [nn.Linear(3, 3) for _ in range(4)], {}
    optimizers = [optim.Adam(m.parameters()) for m in models]

    def make(model, optimizer):
        @compile
        def step(x):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    steps = [make(*pair) for pair in zip(models, optimizers)]

    def work(i):
        results[i] = [steps[i](x) for x in inputs(6, 5, 3)]

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        yield [results[i] for i in range(4)], models


@scenario()
def grad_mode_of_each_thread(compile):
    w = randn(3, requires_grad=True)
    run = compile(lambda x: (w * x).sum() if dc.is_grad_enabled() else (w * x * 2).sum())
    results = []

    def work(x):
        with dc.no_grad():
            results.append(run(x))

    for x in inputs(8, 3):
        thread = threading.Thread(target=work, args=(x,))
        thread.start()
        thread.join()
        with dc.no_grad():
            yield run(x), results.pop()


@scenario()
def forked_after_compiling(compile):
    """A child of fork computes what its parent would."""
    model = nn.Linear(3, 3)
    step = compile(lambda x: model(x).tanh().sum(0).detach())
    for i, x in enumerate(inputs(6, 5, 3)):
        result = step(x)
        if i != 3:
            yield result
            continue
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads are alive
            child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that waits for a lock ends
            try:
                os.write(write, step(x).numpy().tobytes())
            finally:
                os._exit(0)
        os.close(write)
        received = b""
        while part := os.read(read, 4096):
            received += part
        os.close(read)
        os.waitpid(child, 0)
        yield result, received


def scaled(x, scale=2.0):
    return (x * scale).exp()


def duplicates(value):
    return {"pickle": pickle.loads(pickle.dumps(value)), "deepcopy": copy.deepcopy(value), "copy": copy.copy(value)}


@scenario(functions=4)
def pickled_and_copied_function(compile):
    run = compile(scaled)
    copies = None
    for i, x in enumerate(inputs(10, 3)):
        if i == 4:
            copies = duplicates(run)
        yield run(x), None if copies is None else [c(x) for c in copies.values()]


@scenario(functions=3)
def copied_step_with_its_model(compile):
    class Training:
        def __init__(self):
            self.model = nn.Linear(4, 3)
            self.optimizer = optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

        def step(self, x, y):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()

    first = Training()
    step = compile(first.step)
    second = other = None
    for i, (x, y) in enumerate(batches(12)):
        if i == 4:
            second = copy.deepcopy(first)
            other = compile(second.step)
        step(x, y)
        if other is not None and i % 2:
            other(x, y)
        yield first.model, first.optimizer, None if second is None else second.model


@scenario()
def inside_a_trainer(compile):
    """`Trainer(compile=True)` trains like `Trainer(compile=False)`."""
    compiled = compile(scaled) is not scaled
    model = mlp(nn.Dropout(0.2), nn.BatchNorm1d(8))
    trained = dc.Trainer(model, optim.Adam(model.parameters(), lr=0.02), nn.CrossEntropyLoss(), compile=compiled)
    x, y = next(iter(batches(1, 22)))
    for _ in range(3):
        history = trained.fit((x.numpy(), y.numpy()), epochs=1, batch_size=6, verbose=0)
        yield model, float(history.history["loss"][-1]) if hasattr(history, "history") else None


@scenario()
def many_compiled_functions(compile):
    def make(i):
        return compile(lambda x: x * i + 1)

    functions = [make(float(i)) for i in range(20)]
    for x in inputs(4, 3):
        yield [f(x) for f in functions]


@scenario()
def programs_evicted(compile):
    run = compile(lambda x: x.exp().sum(0))
    for i in range(60):
        yield run(randn(1 + (i * 7) % 23, 2, seed=i))


@scenario()
def garbage_between_calls(compile):
    import gc

    model = mlp()
    step = trainer(compile, model, optim.Adam(model.parameters()))
    for i, (x, y) in enumerate(batches(8)):
        loss = step(x, y)
        if i % 3 == 0:
            gc.collect()
        yield loss, model


@scenario()
def profiled(compile):
    run = compile(lambda x: (x.exp() * 2).sum())
    for i, x in enumerate(inputs(10, 3)):
        with dc.autograd.profile() if i % 3 == 2 else contextlib.nullcontext():
            yield run(x)
