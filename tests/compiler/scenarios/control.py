"""Loops and branches: `scan`, `fori_loop`, `while_loop`, `cond`."""

from __future__ import annotations

import deepcore as dc
from deepcore import nn, optim

from . import EAGER, scenario
from .common import F, inputs, integers, randn

LENGTHS = {"one step": 1, "two": 2, "five": 5}


@scenario(each=LENGTHS, everywhere=True)
def scan_forward(compile, length):
    weight = randn(3, 3)

    @compile
    def run(init, xs):
        return dc.scan(lambda h, x: ((h @ weight + x).tanh(), (h * x, x.sum())), init, xs, reverse=True)

    for x in inputs(6, length, 2, 3):
        yield run(x[0] * 2, x)


@scenario(each=LENGTHS, everywhere=True)
def scan_trained(compile, length):
    model, start = nn.Linear(3, 3), nn.Parameter(randn(2, 3))
    optimizer = optim.Adam([*model.parameters(), start], lr=0.1)

    @compile
    def step(xs):
        optimizer.zero_grad()
        carry, ys = dc.scan(lambda h, x: ((h + model(x)).tanh(), h * h), start * 2, xs)
        loss = carry.sum() + ys.mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x in inputs(6, length, 2, 3):
        yield step(x), model, start, optimizer


@scenario(each=[True, False], everywhere=True)
def scan_differentiated_outside(compile, of_both):
    weight = randn(3, 3, requires_grad=True)
    run = compile(lambda init, xs: dc.scan(lambda h, x: ((h @ weight + x).tanh(), h * x), init, xs))
    for x in inputs(6, 4, 2, 3):
        init, xs = x[0].clone().requires_grad_(), x.clone().requires_grad_()
        carry, ys = run(init, xs)
        ((carry * carry).sum() + (ys.sum() if of_both else 0)).backward()
        yield carry, ys, init, xs, weight


@scenario(everywhere=True)
def scan_in_scan(compile):
    weight = randn(3, requires_grad=True)

    @compile
    def step(init, rows):
        def outer(c, row):
            h, ys = dc.scan(lambda h, x: ((h * weight + x * c.mean()).tanh(), h + x), c, row, reverse=True)
            return h * weight, ys.sum(0)

        carry, ys = dc.scan(outer, init, rows)
        loss = (carry * carry).sum() + ys.mean()
        weight.grad = None
        loss.backward()
        return loss.detach(), carry.detach()

    for x in inputs(6, 3, 4, 2, 3):
        yield step(x[0, 0].clone(), x), weight


@scenario(each=["forward", "trained", "outside"], everywhere=True)
def scan_that_draws(compile, kind):
    weight = randn(3, 3, requires_grad=True)

    def run(xs):
        before = dc.rand(2)

        def f(h, x):
            h = F.dropout((h @ weight + x).tanh(), 0.5)
            return h, F.dropout(h, 0.25) + dc.rand(3)

        carry, ys = dc.scan(f, xs[0], xs)
        return carry.sum() + ys.sum(), before, dc.rand(2)

    @compile
    def step(xs):
        if kind == "outside":
            return run(xs)
        if kind == "forward":
            with dc.no_grad():
                return run(xs)
        weight.grad = None
        loss, *others = run(xs)
        loss.backward()
        return loss.detach(), *others

    for x in inputs(6, 4, 2, 3):
        loss, *others = step(x)
        if kind == "outside":
            weight.grad = None
            loss.backward()
        yield loss, others, weight


@scenario(everywhere=True)
def scan_in_scan_that_draws(compile):
    weight = randn(3, requires_grad=True)

    @compile
    def step(rows):
        def inner(h, x):
            h = F.dropout(h * weight + x, 0.5)
            return h, None

        def outer(c, row):
            return F.dropout(dc.scan(inner, c, row)[0], 0.5), c

        carry, ys = dc.scan(outer, rows[0, 0], rows)
        weight.grad = None
        (carry.sum() + ys.sum()).backward()
        return carry.detach()

    for x in inputs(6, 3, 4, 2, 3):
        yield step(x), weight


@scenario()
def scan_of_a_cell(compile):
    cell = nn.LSTMCell(3, 4)
    optimizer = optim.SGD(cell.parameters(), lr=0.1)

    @compile
    def step(xs):
        def f(state, x):
            h, c = cell(x, state)
            return (h, c), h

        _, hs = dc.scan(f, (dc.zeros(2, 4), dc.zeros(2, 4)), xs)
        optimizer.zero_grad()
        loss = (hs * hs).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x in inputs(6, 7, 2, 3):
        yield step(x), cell


@scenario(everywhere=True)
def scan_with_trees_and_whole_numbers(compile):
    table = randn(5, 3, requires_grad=True)

    @compile
    def step(xs):
        def f(state, x):
            n = (state["n"] + 1) % 5
            return {"n": n, "sum": state["sum"] + table[n[None]][0] * x["a"], "same": state["same"]}, [
                n,
                (state["same"], x["b"]),
            ]

        start = {"n": dc.tensor(0), "sum": dc.zeros(3), "same": table}
        return dc.scan(f, start, {"a": xs, "b": xs.sum(1) > 0})

    for x in inputs(6, 4, 3):
        table.grad = None
        state, ys = step(x)
        (state["sum"].sum() + state["same"].sum()).backward()
        yield state, ys, table


@scenario(everywhere=True)
def scans_that_feed_one_another(compile):
    weight = randn(3, requires_grad=True)

    @compile
    def step(xs):
        scale = weight.exp()
        f = lambda h, x: ((h * scale + x).sin(), h + scale)
        _, ys = dc.scan(f, xs[0], xs)
        carry, zs = dc.scan(f, ys[-1], ys, reverse=True)
        weight.grad = None
        loss = (carry * scale).sum() + (zs * xs).sum()
        loss.backward()
        return loss.detach()

    for x in inputs(6, 4, 2, 3):
        yield step(x), weight


@scenario()
def scan_of_strided_arguments(compile):
    run = compile(lambda init, xs: dc.scan(lambda h, x: ((h + x).t().contiguous().t(), x.t()), init, xs))
    for x in inputs(6, 3, 4, 3):
        yield run(x[0, 1:].clone().t(), x.permute(2, 0, 1)[:, :, 1:])


@scenario(each=[0, 1, 3])
def scan_of_nothing(compile, length):
    run = compile(lambda xs: dc.scan(lambda h, x: (h + x, x), dc.zeros(0, 2), xs))
    for _ in range(4):
        yield run(dc.ones(length, 0, 2))


@scenario(everywhere=True)
def fori_loop_of_known_length(compile):
    weight = randn(3, requires_grad=True)

    @compile
    def step(x):
        weight.grad = None
        value = dc.fori_loop(1, 5, lambda i, v: v * weight + i, x)
        value.sum().backward()
        return value.detach()

    for x in inputs(6, 2, 3):
        yield step(x), weight


@scenario()
def scan_whose_classes_are_checked(compile):
    """A class out of range in one step: the function itself raises."""

    @compile
    def run(logits, classes):
        return dc.scan(lambda c, x: (c + F.cross_entropy(x[0], x[1]), None), 0.0, (logits, classes))[0]

    for i, x in enumerate(inputs(8, 3, 4, 5)):
        try:
            yield run(x, dc.full((3, 4), 9 if i in (3, 6) else 2))
        except dc.errors.IndexRangeError as error:
            yield type(error).__name__


@scenario(EAGER)
def scan_that_writes_outside(compile):
    seen = dc.zeros(3)

    @compile
    def run(xs):
        def f(h, x):
            seen.add_(x)
            return h + x, None

        return dc.scan(f, dc.zeros(3), xs)[0]

    for x in inputs(4, 5, 3):
        yield run(x), seen


@scenario(EAGER)
def scan_that_reads_a_value(compile):
    @compile
    def run(xs):
        return dc.scan(lambda h, x: (h + x if float(x.sum()) > 0 else h - x, None), dc.zeros(3), xs)[0]

    for x in inputs(4, 5, 3):
        yield run(x)


@scenario(EAGER)
def scan_whose_steps_differ(compile):
    @compile
    def run(xs):
        count = []

        def f(h, x):
            count.append(1)
            return h * len(count) + x, None

        return dc.scan(f, dc.zeros(3), xs)[0]

    for x in inputs(4, 5, 3):
        yield run(x)


@scenario(EAGER)
def scan_differentiated_twice(compile):
    weight = randn(3, requires_grad=True)

    @compile
    def run(xs):
        carry, _ = dc.scan(lambda h, x: ((h * weight + x).sin(), None), xs[0], xs)
        (g,) = dc.autograd.grad(carry.sum(), [weight], create_graph=True)
        return dc.autograd.grad((g * g).sum(), [weight])[0]

    for x in inputs(4, 5, 3):
        yield run(x)


@scenario()
def scan_under_other_settings(compile):
    run = compile(lambda xs: dc.scan(lambda h, x: (h + x.exp(), h), dc.zeros(3), xs))
    for i, x in enumerate(inputs(6, 5, 3)):
        with dc.no_grad() if i % 2 else dc.enable_grad():
            yield run(x[: 4 + i % 2])


@scenario(each=["closure", "row", "carry", "views", "written", "twice", "numbers"], everywhere=True)
def scan_whose_results_are(compile, kind):
    """What a step returns besides new tensors: what it was given, parts of one tensor, one that it has written."""
    weight = randn(4, requires_grad=True)

    def written(h, x):
        new = h * 2
        new += x * weight
        new[1:3] = x[:2]
        return new, new[::2]

    f = {
        "closure": lambda h, x: (h + x, weight),
        "row": lambda h, x: (h * weight, x),
        "carry": lambda h, x: (h, h * x * weight),
        "views": lambda h, x: ((y := (h * weight + x).tanh()), (y[:1], y[1:], y[::2])),
        "written": written,
        "twice": lambda h, x: ((y := h * weight + x), (y, y)),
        "numbers": lambda h, x: (h + x * weight, (1, 2.5)),
    }[kind]

    @compile
    def step(init, xs):
        carry, ys = dc.scan(f, init, xs)
        floats = [y for y in (ys if isinstance(ys, tuple) else (ys,)) if y.requires_grad]
        weight.grad = None
        loss = sum([y.sum() for y in floats], (carry * carry * weight).sum())
        loss.backward()
        return loss.detach(), carry.detach(), ys

    for x in inputs(6, 3, 4):
        loss, carry, ys = step(x[0].clone(), x)
        yield loss, carry, [y.detach() for y in (ys if isinstance(ys, tuple) else (ys,))], weight


@scenario(each=["f2", "f8", "bfloat16"])
def scan_of_dtype(compile, name):
    dtype = {"f2": dc.float16, "f8": dc.float64, "bfloat16": dc.bfloat16}[name]
    weight = randn(4).to(dtype).requires_grad_()

    @compile
    def step(xs):
        weight.grad = None
        carry, ys = dc.scan(lambda h, x: ((h * weight + x).tanh(), h.float().sum()), xs[0], xs)
        (carry.float().sum() + ys.sum()).backward()
        return carry.detach(), ys.detach()

    for x in inputs(5, 3, 4):
        yield step(x.to(dtype)), weight


@scenario()
def scan_differentiated_in_parts(compile):
    """Two backward passes of one loop, for its carry and for its results, and a third of both by `autograd.grad`."""
    weight, start = randn(4, requires_grad=True), randn(4, requires_grad=True, seed=1)

    @compile
    def step(xs):
        weight.grad = start.grad = None
        carry, ys = dc.scan(lambda h, x: ((h * weight + x).tanh(), h * x), start, start * xs)
        carry.sum().backward(retain_graph=True)
        ys.sum().backward(retain_graph=True)
        return dc.autograd.grad((carry * ys).sum(), [weight, start])

    for x in inputs(6, 3, 4):
        yield step(x), weight, start


@scenario()
def scan_of_a_network(compile):
    """Layers in a body: normalisation, attention, embedding, dropout, a function with a gradient of its own."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.25, batch_first=True)
    table = nn.Embedding(5, 8)
    optimizer = optim.Adam([*layer.parameters(), *table.parameters()], lr=0.01)

    class Double(dc.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    @compile
    def step(tokens):
        def f(h, row):
            h = layer(h + Double.apply(table(row)))
            return h, h.mean()

        _, ys = dc.scan(f, dc.zeros(2, 3, 8), tokens)
        optimizer.zero_grad()
        loss = ys.sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(5):
        yield step(integers(5, 4, 2, 3, seed=i)), layer, table


# -- cond ---------------------------------------------------------------------------------------------------------------
@scenario(each=["bool", "number", "shape (1,)"])
def cond_forward(compile, kind):
    weight = randn(3)

    @compile
    def run(x):
        pred = {"bool": x.sum() > 0, "number": (x.sum() > 0).float(), "shape (1,)": x.sum(0, keepdim=True)[:1] > 0}[
            kind
        ]
        return dc.cond(pred, lambda x, y: (x * weight, y), lambda x, y: (y - x, x), x, x.exp())

    for x in inputs(8, 3):
        yield run(x)


@scenario(each=["trained", "outside", "in a scan"])
def cond_differentiated(compile, kind):
    weight = randn(3, requires_grad=True)

    def run(x):
        f = lambda x: dc.cond(x.sum() > 0, lambda x: (x * weight).exp(), lambda x: (x - weight).sin() * weight, x)
        if kind == "in a scan":
            carry, ys = dc.scan(lambda c, x: (f(c + x), c), x[0], x)
            return carry.sum() + ys.sum()
        return f(x * 2).sum()

    @compile
    def step(x):
        loss = run(x)
        if kind == "outside":
            return loss
        weight.grad = None
        loss.backward()
        return loss.detach()

    for x in inputs(8, 5, 3):
        loss = step(x)
        if kind == "outside":
            weight.grad = None
            loss.backward()
        yield loss, weight


@scenario()
def cond_of_arguments_that_require_a_gradient(compile):
    run = compile(lambda x, y: dc.cond(x.sum() > 0, lambda x, y: x * 2, lambda x, y: x * y, x, y))
    for x in inputs(8, 3):
        x, y = x.requires_grad_(), (x + 1).detach().requires_grad_()
        run(x, y).sum().backward()
        yield x, y


@scenario()
def cond_in_cond(compile):
    run = compile(
        lambda x: dc.cond(
            x.sum() > 0,
            lambda x: dc.cond(x[0] > 0, lambda x: x * 2, lambda x: x + 1, x),
            lambda x: dc.scan(lambda c, y: (c + y, None), x, dc.stack([x, x]))[0],
            x,
        )
    )
    for x in inputs(8, 3):
        yield run(x)


@scenario(EAGER)
def cond_whose_branches_draw(compile):
    run = compile(lambda x: dc.cond(x.sum() > 0, lambda x: x * dc.rand(3), lambda x: x, x))
    for x in inputs(8, 3):
        yield run(x)


@scenario(EAGER)
def cond_whose_branches_write(compile):
    seen = dc.zeros(3)
    run = compile(lambda x: dc.cond(x.sum() > 0, lambda x: x + seen.add_(1), lambda x: x - seen.add_(2), x))
    for x in inputs(8, 3):
        yield run(x), seen


@scenario(EAGER)
def cond_with_a_branch_that_raises(compile):
    run = compile(lambda x: dc.cond((x * x).sum() >= 0, lambda x: x * 2, lambda x: x.reshape(7), x))
    for x in inputs(8, 3):
        yield run(x)


@scenario(EAGER)
def cond_with_parameters_of_one_branch(compile):
    weight, bias = randn(3, requires_grad=True), randn(3, requires_grad=True, seed=1)

    @compile
    def step(x):
        weight.grad = bias.grad = None
        dc.cond(x.sum() > 0, lambda x: x * weight, lambda x: x + bias, x).sum().backward()

    for x in inputs(8, 3):
        step(x)
        yield weight, bias


# -- while_loop ---------------------------------------------------------------------------------------------------------
@scenario()
def while_loop_forward(compile):
    weight = dc.tensor(1.5)

    @compile
    def run(x):
        return dc.while_loop(
            lambda s: s["x"].sum() < 50, lambda s: {"x": s["x"] * weight, "n": s["n"] + 1}, {"x": x, "n": 0}
        )

    for x in inputs(8, 3):
        yield run(x * x + 0.1)
    yield run(dc.full((3,), 100.0))


@scenario()
def while_loop_that_does_not_run_at_first(compile):
    run = compile(lambda x: dc.while_loop(lambda v: v.sum() < 10, lambda v: v * 2, x))
    for i in range(8):
        yield run(dc.full((3,), 20.0 / (i + 1)))


@scenario()
def fori_loop_to_a_tensor(compile):
    run = compile(lambda n, x: dc.fori_loop(1, n, lambda i, v: v + i * x, x))
    for i, x in enumerate(inputs(8, 3)):
        yield run(dc.tensor(i), x)


@scenario(EAGER)
def while_loop_differentiated(compile):
    weight = randn(3, requires_grad=True)

    @compile
    def step(x):
        weight.grad = None
        dc.while_loop(lambda v: v.sum() < 10, lambda v: v + weight * weight, x).sum().backward()

    for x in inputs(8, 3):
        step(x)
        yield weight


@scenario(EAGER)
def while_loop_that_draws(compile):
    run = compile(lambda x: dc.while_loop(lambda v: v.sum() < 10, lambda v: v + dc.rand(3), x))
    for x in inputs(8, 3):
        yield run(x)
