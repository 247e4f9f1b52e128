"""Writes in place, views, caches, and memory that several tensors share."""

from __future__ import annotations

import deepcore as dc
from deepcore import nn

from . import EQUAL, EQUAL_OR_EAGER, scenario
from .common import F, inputs, integers, randn

WRITES = {
    "add_": lambda x: x.add_(1),
    "mul_": lambda x: x.mul_(x.detach().abs() + 1),
    "+=": lambda x: x.__iadd__(x.flip(0)),
    "copy_": lambda x: x.copy_(x * 2),
    "zero_": lambda x: x.zero_(),
    "fill_": lambda x: x.fill_(3.0),
    "clamp_": lambda x: x.clamp_(-0.5, 0.5),
    "relu_": lambda x: x.relu_(),
    "item": lambda x: x.__setitem__((0, 1), 7.0),
    "row": lambda x: x.__setitem__(1, x[0]),
    "column": lambda x: x.__setitem__((slice(None), 2), 0.0),
    "slice": lambda x: x.__setitem__((slice(1, None), slice(None, None, 2)), x[:-1, ::2]),
    "mask": lambda x: x.__setitem__(x > 0, 0.0),
    "mask of rows": lambda x: x.__setitem__(x[:, 0] > 0, -1.0),
    "indices": lambda x: x.__setitem__(dc.tensor([0, 2]), x[dc.tensor([1, 3])]),
    "by a view": lambda x: x[1].mul_(5),
    "by a transposed view": lambda x: x.t()[0].add_(2),
    "by a view of a view": lambda x: x[1:].reshape(-1)[2:5].zero_(),
    "masked_fill_": lambda x: x.masked_fill_(x < 0, 9.0),
    "scatter_add_": lambda x: x.scatter_add_(0, dc.zeros(1, 3, dtype=dc.int64), dc.ones(1, 3)),
    "tril_": lambda x: x.tril_(),
}


@scenario(EQUAL_OR_EAGER, each=WRITES, everywhere=True)
def argument_written(compile, write):
    @compile
    def run(x):
        write(x)
        return x * 2

    for i in range(6):
        x = randn(4, 3, seed=i)
        part = x[1:]
        yield run(x), x, part


@scenario(EQUAL_OR_EAGER, each=WRITES)
def middle_written(compile, write):
    """Writing what the function computed, with a gradient behind."""
    w = randn(4, 3, requires_grad=True)

    @compile
    def run(x):
        w.grad = None
        y = w * x
        view = y[2:]
        write(y)
        (y * x).sum().backward()
        return y.detach(), view.detach() * 2

    for x in inputs(6, 4, 3):
        yield run(x), w


PLACES = {
    "rows": lambda x, i, v: x.__setitem__(i, v),
    "columns": lambda x, i, v: x.__setitem__(
        (slice(None), i[:3] % 3), dc.cat([v[:, 1:3], v[:, :1]], 1)[dc.tensor([0, 1, 2, 3, 0])]
    ),
    "columns, a row for all": lambda x, i, v: x.__setitem__((slice(None), i % 3), v[:, 0]),
    "rows of a part": lambda x, i, v: x[1:].__setitem__((i - 1).clamp(0), v),
    "of every other row": lambda x, i, v: x[::2].__setitem__(i // 2, v),
    "one row": lambda x, i, v: x.__setitem__(i.sum() % 5, v[0]),
    "one column": lambda x, i, v: x.__setitem__((slice(None), i.amax() % 3), v[:, 0].sum()),
    "one for all": lambda x, i, v: x.__setitem__(i, 3.0),
    "of two dimensions": lambda x, i, v: x.__setitem__((i, i % 3), v[:, 0]),
    "one row twice": lambda x, i, v: x.__setitem__(i // 2, v),
    "index_copy_": lambda x, i, v: x.index_copy_(0, i, v),
    "index_put_": lambda x, i, v: x.index_put_((i,), v),
    "what it read": lambda x, i, v: x.__setitem__(i, x[i.flip(0)]),
}


@scenario(EQUAL, each=PLACES, everywhere=True)
def written_at_computed_places(compile, write):
    """Of memory from before, of an argument, and of what the function computes, with a gradient behind."""
    held, w = randn(5, 3), randn(5, 3, requires_grad=True)

    @compile
    def run(x, i, v):
        w.grad = None
        y = w * x.detach()
        write(y, i, v * w[:4])
        (y * y).sum().backward()
        with dc.no_grad():
            write(x, i, v)
            write(held, i, v + 1)
        return y.detach(), x * 2, held.sum()

    for n in range(8):
        i = dc.tensor([(n + k) % 5 for k in range(4)])
        x = randn(5, 3, seed=n)
        yield run(x, i, randn(4, 3, seed=n + 20)), x, held, w


VIEWS = {
    "part": lambda x: x[1:],
    "row": lambda x: x[0],
    "element": lambda x: x[0, 0],
    "strided": lambda x: x[::2, ::2],
    "transposed": lambda x: x.t(),
    "reshaped": lambda x: x.reshape(-1),
    "unsqueezed": lambda x: x[None],
    "expanded": lambda x: x.expand(2, 4, 4),
    "detached": lambda x: x.detach(),
    "several": lambda x: x.unbind(0),
    "in a dict": lambda x: {"a": x[:2], "rest": [x[2:]]},
    "view and new": lambda x: (x[1:], x * 2),
    "view or copy": lambda x: x.t().reshape(-1),
}


@scenario(EQUAL_OR_EAGER, each=VIEWS, everywhere=True)
def view_of_an_argument(compile, view):
    run = compile(view)
    for i in range(6):
        x = randn(4, 4, seed=i)
        out = run(x)
        x.add_(1)  # shows in the view
        yield out, x


@scenario(EQUAL_OR_EAGER, each=["part", "transposed", "reshaped", "detached"])
def view_written_by_the_caller(compile, name):
    run = compile(VIEWS[name])
    x = randn(4, 4)
    for _ in range(8):
        out = run(x)
        out.mul_(1.5)
        yield out, x


@scenario(EQUAL_OR_EAGER, each=["parameter", "closure", "buffer"])
def view_of_what_is_held(compile, kind):
    module = nn.Linear(3, 4)
    module.register_buffer("state", randn(4, 3))
    held = {"parameter": module.weight, "closure": randn(4, 3), "buffer": module.state}[kind]
    run = compile(lambda x: (held.detach()[1:], x * 2))
    for x in inputs(8, 3):
        out = run(x)
        with dc.no_grad():
            held.add_(1)
        yield out, held


@scenario(EQUAL_OR_EAGER)
def view_of_an_argument_that_is_written(compile):
    @compile
    def run(x):
        part = x[1:3]
        x.mul_(2)
        part.add_(1)
        return part

    for i in range(8):
        x = randn(4, 3, seed=i)
        yield run(x), x


@scenario(EQUAL_OR_EAGER, everywhere=True)
def cache_of_keys_as_an_argument(compile):
    project = nn.Linear(4, 8)

    @compile
    def decode(x, keys, values, where):
        k, v = project(x).detach().chunk(2, -1)
        keys[where] = k
        values[where] = v
        scores = (keys @ x) / 2.0
        mask = dc.arange(6) > where
        return scores.masked_fill(mask, float("-inf")).softmax(0) @ values

    keys, values = dc.zeros(6, 4), dc.zeros(6, 4)
    for i, x in enumerate(inputs(12, 4)):
        yield decode(x, keys, values, dc.tensor(i % 6)), keys, values


@scenario(EQUAL_OR_EAGER, each=["number", "view"])
def cache_of_keys_in_a_closure(compile, how):
    cache = dc.zeros(6, 4)

    @compile
    def decode(x, where):
        if how == "number":
            cache[where] = x
            return cache[: where + 1].sum(0)
        where.copy_(x)
        return cache.sum(0)

    for i, x in enumerate(inputs(12, 4)):
        yield decode(x, i % 6 if how == "number" else cache[i % 6]), cache


@scenario(EQUAL_OR_EAGER)
def cache_that_grows(compile):
    cache = None

    @compile
    def decode(x, cache):
        cache = x[None] if cache is None else dc.cat([cache, x[None]])
        return (cache * x).sum(0), cache

    for x in inputs(10, 4):
        out, cache = decode(x, cache)
        yield out, cache


@scenario(EQUAL_OR_EAGER)
def ring_buffer(compile):
    buffer, position = dc.zeros(4, 3), dc.zeros((), dtype=dc.int64)

    @compile
    def push(x):
        buffer[position] = x
        position.add_(1).remainder_(4)
        return buffer.mean(0)

    for x in inputs(12, 3):
        yield push(x), buffer, position


@scenario()
def running_statistics(compile):
    mean, count = dc.zeros(3), dc.zeros(())

    @compile
    def update(x):
        count.add_(1)
        mean.add_((x - mean) / count)
        return mean * 1

    for x in inputs(10, 3):
        yield update(x), mean, count


@scenario()
def state_swapped_inside(compile):
    a, b = randn(3), randn(3, seed=1)

    @compile
    def run(x):
        old = a.clone()
        a.copy_(b + x)
        b.copy_(old)

    for x in inputs(10, 3):
        yield run(x), a, b


@scenario()
def read_before_and_after_writing(compile):
    s = randn(3)

    @compile
    def run(x):
        before = s * 2
        s.add_(x)
        middle = s * 2
        s.mul_(0.5)
        return before, middle, s * 2

    for x in inputs(10, 3):
        yield run(x), s


@scenario()
def write_of_a_copy(compile):
    @compile
    def run(x):
        y = x.clone()
        y += 1
        z = y[1:]
        z *= 2
        return y, x

    for x in inputs(8, 4):
        yield run(x), x


@scenario()
def buffer_made_and_filled(compile):
    @compile
    def run(x):
        out = dc.zeros(3, 4)
        for i in range(3):
            out[i] = x * i
        out[:, 0] = -1.0
        total = dc.zeros(())
        total += out.sum()
        return out, total

    for x in inputs(8, 4):
        yield run(x), x


@scenario()
def empty_made_and_filled(compile):
    @compile
    def run(x):
        out = dc.empty(2, 4)
        out[0] = x
        out[1] = x.flip(0)
        return out

    for x in inputs(8, 4):
        yield run(x)


@scenario(EQUAL_OR_EAGER, each=["alias", "copy"])
def overlapping_shift(compile, how):
    """Part of a tensor copied onto another part of it."""

    @compile
    def run(x):
        x[1:] = x[:-1] if how == "alias" else x[:-1].clone()
        return x.sum()

    for i in range(8):
        x = randn(6, seed=i)
        yield run(x), x


@scenario(EQUAL_OR_EAGER)
def accumulated_by_index(compile):
    table = dc.zeros(5, 2)

    @compile
    def run(index, values):
        table.scatter_add_(0, index[:, None].expand(3, 2), values)
        return table.sum(0)

    for i in range(10):
        yield run(integers(5, 3, seed=i), randn(3, 2, seed=i)), table


@scenario()
def written_with_requires_grad(compile):
    w = randn(3, requires_grad=True)

    @compile
    def run(x):
        w.grad = None
        y = dc.zeros(4, 3)
        y[1] = w * x
        y[2:] += w
        y.square().sum().backward()
        return y.detach()

    for x in inputs(8, 3):
        yield run(x), w


@scenario()
def optimizer_by_hand_with_momentum(compile):
    w, velocity = randn(4, requires_grad=True), dc.zeros(4)

    @compile
    def step(x):
        w.grad = None
        (w * x).square().sum().backward()
        with dc.no_grad():
            velocity.mul_(0.9).add_(w.grad)
            w.sub_(0.1 * velocity)

    for x in inputs(10, 4):
        yield step(x), w, velocity


@scenario()
def inplace_activation_in_a_model(compile):
    first, second = nn.Linear(4, 4), nn.Linear(4, 2)

    @compile
    def step(x):
        first.zero_grad()
        second.zero_grad()
        h = first(x)
        F.relu(h)
        h.relu_()
        loss = second(h).square().mean()
        loss.backward()
        return loss.detach()

    for x in inputs(8):
        yield step(x), first, second


@scenario(EQUAL_OR_EAGER)
def memory_lent_to_numpy(compile):
    s = dc.zeros(3)
    outside = s.numpy()

    @compile
    def run(x):
        s.add_(x)
        return s * 2

    for i, x in enumerate(inputs(10, 3)):
        outside[0] = i
        yield run(x), s, outside


@scenario(everywhere=True)
def argument_memory_is_left_alone(compile):
    """Large temporaries do not land in what the caller holds."""
    run = compile(lambda x: ((x * 2).exp() - (x + 1).tanh() * x).softmax(-1).sum(0))
    x = randn(16, 16)
    views = x[::2], x.t()
    for _ in range(6):
        yield run(x), x, views


@scenario()
def same_memory_as_two_tensors(compile):
    base = randn(4)
    other = base.detach()

    @compile
    def run(x):
        base.add_(x)
        return other * 2

    for x in inputs(8, 4):
        yield run(x), base, other
