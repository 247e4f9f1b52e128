"""How functions are called: methods, nesting, exceptions, generators, recursion."""

from __future__ import annotations

import contextlib
import functools

import deepcore as dc
from deepcore import nn, optim

from . import EAGER, EQUAL_OR_EAGER, scenario
from .common import F, batches, inputs, integers, mlp, randn


class Model:
    scale = 2.0

    def __init__(self, factor=1.0):
        self.factor, self.w = factor, randn(3)

    def method(self, x):
        return x * self.w * self.factor

    @staticmethod
    def static(x):
        return x * 2

    @classmethod
    def of_class(cls, x):
        return x * cls.scale

    def __call__(self, x):
        return self.method(x) + 1


@scenario()
def bound_method(compile):
    run = compile(Model(2.0).method)
    for x in inputs(8, 3):
        yield run(x)


@scenario(each=["method", "static", "class"])
def decorated_in_a_class(compile, kind):
    class Decorated:
        scale = 2.0

        def __init__(self, factor):
            self.factor = factor

        @compile
        def method(self, x):
            return x * self.factor

        @staticmethod
        @compile
        def static(x):
            return x * 3

        @classmethod
        @compile
        def of_class(cls, x):
            return x * cls.scale

    one, two = Decorated(2.0), Decorated(3.0)
    for i, x in enumerate(inputs(14, 3)):
        if i == 7:
            one.factor = 5.0
        name = {"method": "method", "static": "static", "class": "of_class"}[kind]
        yield getattr(one, name)(x), getattr(two, name)(x)


@scenario()
def compiled_per_instance(compile):
    class Layer:
        def __init__(self, factor):
            self.factor = factor
            self.run = compile(self.forward)

        def forward(self, x):
            return x * self.factor

    layers = [Layer(float(i)) for i in range(3)]
    for x in inputs(8, 3):
        yield [layer.run(x) for layer in layers]


@scenario()
def static_and_class_methods(compile):
    runs = compile(Model.static), compile(Model.of_class)
    for x in inputs(8, 3):
        yield [run(x) for run in runs]


@scenario()
def callable_object(compile):
    one = Model(3.0)
    run = compile(one)
    for i, x in enumerate(inputs(12, 3)):
        if i == 6:
            one.factor = 0.5
        yield run(x)


@scenario(each=["positional", "keyword", "nested"])
def partial_function(compile, kind):
    def f(a, b, x, shift=0.0):
        return a * x + b + shift

    part = functools.partial(f, 2.0, 1.0)
    if kind == "keyword":
        part = functools.partial(part, shift=3.0)
    if kind == "nested":
        part = functools.partial(functools.partial(f, 2.0), 1.0, shift=1.0)
    run = compile(part)
    for x in inputs(8, 3):
        yield run(x)


@scenario()
def partial_over_tensors(compile):
    w, b = randn(3), randn(3, seed=1)
    run = compile(functools.partial(lambda w, x, b: w * x + b, w, b=b))
    for i, x in enumerate(inputs(10, 3)):
        w.add_(i)
        yield run(x), w, b


@scenario()
def function_in_a_function(compile):
    @compile
    def run(x):
        def inner(y):
            return y * x.shape[0] + x

        def outer(f, y):
            return f(f(y))

        return outer(inner, x)

    for i in range(10):
        yield run(randn(3 + i % 2, seed=i))


@scenario()
def decorated_and_wrapped(compile):
    def twice(f):
        @functools.wraps(f)
        def wrapper(*args, **kwargs):
            return f(*args, **kwargs) * 2

        return wrapper

    @compile
    @twice
    def inside(x):
        return x + 1

    @twice
    @compile
    def outside(x):
        return x + 1

    for x in inputs(8, 3):
        yield inside(x), outside(x)


@scenario()
def compiled_twice(compile):
    run = compile(compile(lambda x: x.exp() * 2))
    for x in inputs(10, 3):
        yield run(x)


@scenario(functions=2, everywhere=True)
def compiled_calls_compiled(compile):
    w = randn(3, requires_grad=True)
    inner = compile(lambda x: (w * x).tanh())

    @compile
    def outer(x):
        w.grad = None
        loss = inner(inner(x)).square().sum()
        loss.backward()
        return loss.detach()

    for i, x in enumerate(inputs(10, 3)):
        with dc.no_grad():
            plain = inner(x) if i % 3 == 0 else None
        yield outer(x), plain, w


@scenario()
def compiled_by_name_and_options(compile):
    runs = [compile(programs=2)(lambda x: x * 2), compile(lambda x: x * 3, programs=1)]
    for i in range(12):
        yield [run(randn(2 + i % 3, seed=i)) for run in runs]


@scenario(functions=3)
def recursion(compile):
    @compile
    def power(x, n):
        return x if n == 0 else power(x * x, n - 1)

    for i, x in enumerate(inputs(12, 3)):
        yield power(x, i % 3)


@scenario()
def recursion_of_plain_functions(compile):
    def tree(x, depth):
        return x if depth == 0 else tree(x[: len(x) // 2], depth - 1) + tree(x[len(x) // 2 :], depth - 1)

    run = compile(lambda x: tree(x, 2))
    for x in inputs(8, 8):
        yield run(x)


@scenario(EQUAL_OR_EAGER)
def function_that_calls_itself_compiled(compile):
    @compile
    def run(x, depth=0):
        y = x * 2
        return y + run(y, depth + 1) if depth < 2 else y

    for x in inputs(8, 3):
        yield run(x)


@scenario(EQUAL_OR_EAGER)
def generator_function(compile):
    @compile
    def parts(x):
        for i in range(3):
            yield x * i

    for x in inputs(8, 3):
        yield list(parts(x))


@scenario()
def generator_inside(compile):
    def parts(x):
        for i in range(3):
            yield x * i

    run = compile(lambda x: sum(parts(x)))
    for x in inputs(8, 3):
        yield run(x)


@scenario(EQUAL_OR_EAGER)
def generator_as_an_argument(compile):
    run = compile(lambda parts: sum(parts))
    for x in inputs(8, 3):
        yield run(x * i for i in range(3))


@scenario()
def context_manager_inside(compile):
    @contextlib.contextmanager
    def scope(module):
        before = module.training
        module.eval()
        try:
            yield
        finally:
            module.train(before)

    model = mlp(nn.Dropout(0.5)).eval()

    @compile
    def run(x):
        with scope(model):
            return model(x).detach()

    for x in inputs(8):
        yield run(x), model


def attempt(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error)


@scenario(everywhere=True)
def error_of_a_shape(compile):
    w = randn(3, 2)
    run = compile(lambda x: x @ w)
    for i in range(12):
        yield attempt(run, randn(4, 5 if i % 3 == 2 else 3, seed=i))


@scenario()
def class_out_of_range(compile):
    """An update does not happen where the step raises before it; what is before happens. On a GPU the next call raises."""
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = dc.zeros(())

    @compile
    def step(x, y):
        seen.add_(1)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i, (x, y) in enumerate(batches(14)):
        if i in (3, 4, 9):
            y[2] = 17
        yield attempt(step, x, y), [p.detach() for p in model.parameters()], optimizer


@scenario()
def index_out_of_range(compile):
    """On a GPU the next call raises."""
    table = nn.Embedding(5, 3)

    @compile
    def run(i):
        return table(i).detach()

    for k in range(12):
        i = integers(5, 4, seed=k)
        if k % 4 == 2:
            i[1] = 9
        yield attempt(run, i), table


@scenario()
def norm_that_is_not_finite(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()

    for i, (x, y) in enumerate(batches(12)):
        if i % 4 == 2:
            x[0, 0] = float("nan")
        yield attempt(step, x, y), [p.detach() for p in model.parameters()]


@scenario(EQUAL_OR_EAGER)
def error_of_the_function(compile):
    w = randn(3)

    @compile
    def run(x, bad):
        w.add_(x)
        if bad:
            raise ValueError("a scenario's")
        return w * 2

    for i, x in enumerate(inputs(12, 3)):
        yield attempt(run, x, i % 3 == 2), w


@scenario()
def error_at_the_first_call(compile):
    w = randn(3)
    run = compile(lambda x: x * w)
    for i in range(10):
        yield attempt(run, randn(2 if i < 2 else 3, seed=i)), w


@scenario(EAGER)
def error_by_value(compile):
    w = randn(3)

    @compile
    def run(x):
        w.mul_(0.9)
        if x.sum() > 1:
            raise ArithmeticError
        w.add_(1)
        return w * x

    for x in inputs(10, 3):
        yield attempt(run, x), w


@scenario(EQUAL_OR_EAGER)
def error_in_backward(compile):
    class Failing(dc.autograd.Function):
        @staticmethod
        def forward(ctx, x, fail):
            ctx.fail = fail
            return x * 2

        @staticmethod
        def backward(ctx, g):
            if ctx.fail:
                raise RuntimeError("a scenario's")
            return g * 2, None

    w = randn(3, requires_grad=True)

    @compile
    def step(x, fail):
        w.grad = None
        Failing.apply(w * x, fail).sum().backward()

    for i, x in enumerate(inputs(12, 3)):
        yield attempt(step, x, i % 4 == 2), w


@scenario()
def wrong_number_of_arguments(compile):
    run = compile(lambda x, y: x + y)
    for i, x in enumerate(inputs(9, 3)):
        yield attempt(run, x) if i % 3 == 2 else run(x, x)


@scenario(EQUAL_OR_EAGER)
def interrupted_in_between(compile):
    """KeyboardInterrupt out of a hook, once."""
    model, calls = mlp(), []
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y, hook=None):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if hook is not None:
            hook()
        optimizer.step()
        return loss.detach()

    def hook():
        raise KeyboardInterrupt

    for i, (x, y) in enumerate(batches(10)):
        try:
            yield step(x, y, hook if i == 5 else None), model
        except KeyboardInterrupt:
            calls.append(i)
            yield "interrupted", [p.detach() for p in model.parameters()]
    yield calls


@scenario(EQUAL_OR_EAGER)
def reentrant_by_a_hook(compile):
    """A hook of the step calls the same compiled function."""
    model = nn.Linear(3, 3)
    results = []
    busy = False

    @compile
    def run(x):
        return model(x).detach()

    def hook(module, args, output):
        nonlocal busy
        if not busy:
            busy = True
            results.append(run(args[0] * 2))
            busy = False

    handle = None
    for i, x in enumerate(inputs(9, 3)):
        if i == 3:
            handle = model.register_forward_hook(hook)
        if i == 6:
            handle.remove()
        yield run(x), list(results)


@scenario()
def called_in_a_transform(compile):
    inner = compile(lambda w, x: (w * x).square().sum())
    gradient = dc.grad(lambda w, x: inner(w, x) * 2)
    for x in inputs(8, 3):
        yield gradient(randn(3), x)


@scenario()
def called_in_a_comprehension(compile):
    run = compile(lambda x: x * 2)
    for x in inputs(6, 3, 2):
        yield [run(row) for row in x], dict(enumerate(map(run, x)))


@scenario()
def attributes_of_a_compiled_function(compile):
    def documented(x: dc.Tensor) -> dc.Tensor:
        """Doubles."""
        return x * 2

    run = compile(documented)
    for x in inputs(4, 3):
        yield run(x), run.__name__, run.__doc__, run.__qualname__.rpartition(".")[2]


@scenario(EAGER)
def warns_once_for_many_calls(compile):
    run = compile(lambda x: x * x.sum().item())
    for i in range(16):
        yield run(randn(2 + i % 4, seed=i))


@scenario()
def many_results_kept(compile):
    run = compile(lambda x: x * 2)
    kept = []
    for x in inputs(20, 3):
        kept.append(run(x))
        yield list(kept)


@scenario()
def alternating_signatures(compile):
    @compile
    def run(x, *more, flag=False):
        out = x * 2 if flag else x
        for t in more:
            out = out + t
        return out

    for i, x in enumerate(inputs(24, 3)):
        yield run(x, *[x] * (i % 3), flag=i % 2 == 0)


@scenario()
def lambda_made_in_a_loop(compile):
    runs = [compile(lambda x, i=i: x * i) for i in range(4)]
    for x in inputs(6, 3):
        yield [run(x) for run in runs]


@scenario()
def closure_cell_shared_by_two(compile):
    scale = 1.0

    @compile
    def first(x):
        return x * scale

    @compile
    def second(x):
        return x + scale

    for i, x in enumerate(inputs(14, 3)):
        scale = 1.0 + i // 4
        yield first(x), second(x)


@scenario()
def model_called_by_a_function_with_no_grad(compile):
    model = mlp(nn.BatchNorm1d(8)).eval()
    predict = compile(dc.no_grad()(lambda x: model(x).argmax(-1)))
    for x in inputs(8):
        yield predict(x), model
