"""Values of tensors in Python, data-dependent shapes, indices and masks, shapes in arithmetic."""

from __future__ import annotations

import math

import numpy as np

import deepcore as dc

from . import EAGER, EQUAL_OR_EAGER, scenario
from .common import F, inputs, integers, randn


def branch_on_loss(x):
    loss = x.square().mean()
    if loss > 1:
        return loss * 2
    return loss


def loop_on_value(x):
    while x.abs().max() > 0.5:
        x = x * 0.5
    return x


READS = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x.mean()),
    "int": lambda x: x * int(x.abs().sum()),
    "bool": lambda x: x if x.sum() > 0 else -x,
    "if": branch_on_loss,
    "while": loop_on_value,
    "and": lambda x: x if x[0] > 0 and x[1] > 0 else x * 3,
    "not": lambda x: x if not (x > 0).all() else x * 3,
    "max of Python": lambda x: max(x[0], x[1]) * x,
    "sorted": lambda x: sorted([x[0], x[1], x[2]], key=float)[0] * 1,
    "tolist": lambda x: x * sum(x.tolist()),
    "numpy": lambda x: x * float(x.numpy().max()),
    "format": lambda x: x * len(f"{x.sum()}"),
    "str": lambda x: x * len(str(x)),
    "index of a list": lambda x: x * [1.0, 2.0, 3.0][x.argmax()],
    "range": lambda x: sum(x * i for i in range(x.argmax() + 1)),
    "math": lambda x: x * math.floor(x.abs().sum()),
    "in": lambda x: x * (2.0 if x[0] in [x[1], x[2]] else 3.0),
    "equality": lambda x: x * 2 if (x == x).all() else x,
}


@scenario(EAGER, each=READS, everywhere=True)
def value_read(compile, function):
    run = compile(function)
    for x in inputs(6, 3):
        yield run(x), x


@scenario(EAGER, each={"asarray": np.asarray, "array": np.array, "memoryview": lambda x: memoryview(x.numpy())})
def value_read_by_numpy(compile, convert):
    run = compile(lambda x: x * float(convert(x)[0]))
    for x in inputs(6, 3):
        yield run(x), x


@scenario(EAGER, each=["parameter", "closure", "gradient", "loss"])
def value_of_what_is_held(compile, what):
    w = randn(3, requires_grad=True)
    state = randn(3)

    @compile
    def run(x):
        w.grad = None
        loss = (w * x).square().sum()
        loss.backward()
        value = {"parameter": w.detach()[0], "closure": state[0], "gradient": w.grad[0], "loss": loss}[what]
        return x * value.item()

    for i, x in enumerate(inputs(6, 3)):
        state.add_(i)
        yield run(x), w


SHAPED = {
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0.5) * 2,
    "slice to a maximum": lambda x: x[:, : (x > 0).sum(-1).max()],
    "arange to a sum": lambda x: dc.arange((x > 0).sum().item()),
    "mask and sum": lambda x: x[x.sum(-1) > 0].sum(0),
}


@scenario(EAGER, each=SHAPED)
def shape_from_values(compile, function):
    run = compile(function)
    for x in inputs(8, 4, 3):
        yield run(x)


INDEXED = {
    "index": lambda x, i: x[i],
    "index of a column": lambda x, i: x[:, i % 3],
    "two indices": lambda x, i: x[i, i.flip(0) % 3],
    "index and slice": lambda x, i: x[i, 1:],
    "gather": lambda x, i: x.gather(1, (i % 3)[:, None]),
    "index_select": lambda x, i: x.index_select(0, i),
    "take_along_dim": lambda x, i: x.take_along_dim((i % 3)[:, None], 1),
    "one_hot": lambda x, i: F.one_hot(i, 4).float() @ x,
    "embedding": lambda x, i: F.embedding(i, x),
    "argsort": lambda x, i: x[x[:, 0].argsort()],
    "topk": lambda x, i: x.topk(2, dim=1)[0] + x.topk(2, dim=1)[1],
    "sort": lambda x, i: x.sort(0)[0],
    "where": lambda x, i: dc.where(i[:, None] > 1, x, -x),
    "mask times": lambda x, i: x * (i[:, None] == dc.arange(3)),
    "0-d index": lambda x, i: x[i[0]] * 2,
    "searched by a mask": lambda x, i: (x.cumsum(0) > i[:, None]).sum(0),
}


@scenario(EQUAL_OR_EAGER, each=INDEXED, everywhere=True)
def index_by_tensors(compile, function):
    run = compile(function)
    for k, x in enumerate(inputs(6, 4, 3)):
        yield run(x, integers(4, 4, seed=k))


@scenario(EQUAL_OR_EAGER, each={"number": lambda y, i: y.__setitem__(i, 0.0), "rows": lambda y, i: y.__setitem__(i, y[i] * 2),
                                "element": lambda y, i: y.__setitem__((i[0], i[1] % 3), 5.0),
                                "column": lambda y, i: y.__setitem__((slice(None), i[0] % 3), 1.0),
                                "mask": lambda y, i: y.__setitem__(i > 1, 0.0),
                                "add": lambda y, i: y[i[0]].add_(1)}, everywhere=True)  # fmt: skip
def written_by_tensors(compile, write):
    @compile
    def run(y, i):
        write(y, i)
        return y * 1

    for k, y in enumerate(inputs(8, 4, 3)):
        yield run(y, integers(4, 4, seed=k)), y


@scenario(EQUAL_OR_EAGER, each={
    "slope": lambda x, t: F.leaky_relu(x, t),
    "power": lambda x, t: x.abs() ** t,
    "number of a fill": lambda x, t: dc.full((3,), t) + x,
    "bound": lambda x, t: x.clamp(-t, t),
    "eps": lambda x, t: F.layer_norm(x, (3,), eps=t),
    "rate": lambda x, t: F.dropout(x, t),
    "masked": lambda x, t: x.masked_fill(x > 0, t),
    "element written": lambda x, t: (lambda y: (y.__setitem__(0, t), y)[1])(x.clone()),
    "fill_": lambda x, t: dc.empty(3).fill_(t) * x,
    "range": lambda x, t: x + dc.arange(3) * t,
    "scale": lambda x, t: x * t + t,
    "roll": lambda x, t: x.roll(1) / t,
})  # fmt: skip
def tensor_for_a_number(compile, function):
    """A 0-d tensor where a number is usual: its value is the value at the call."""
    run = compile(function)
    for i, x in enumerate(inputs(8, 3)):
        t = dc.tensor(0.1 + 0.1 * i)
        try:
            yield run(x, t), t
        except (dc.errors.DeepcoreError, TypeError) as error:
            yield type(error), t


@scenario(EQUAL_OR_EAGER)
def tensor_for_eps_of_an_optimizer_by_hand(compile):
    w, rate = randn(3, requires_grad=True), dc.tensor(0.1)

    @compile
    def step(x):
        w.grad = None
        (w * x).square().sum().backward()
        with dc.no_grad():
            w.sub_(rate * w.grad)

    for i, x in enumerate(inputs(10, 3)):
        rate.fill_(0.1 / (i + 1))
        yield step(x), w


PYTHONIC = {
    "for row": lambda x: sum(row * i for i, row in enumerate(x)),
    "unpacking": lambda x: (lambda a, b, *rest: a * b + len(rest))(*x),
    "len": lambda x: x * len(x),
    "shape": lambda x: x.reshape(x.shape[0] * x.shape[1]) / math.sqrt(x.shape[1]),
    "numel": lambda x: x.sum() / x.numel(),
    "size": lambda x: x.view(x.size(1), -1) * x.size(0),
    "ndim": lambda x: x.sum(tuple(range(x.ndim))),
    "comprehension": lambda x: dc.stack([row.softmax(0) for row in x]),
    "zip": lambda x: dc.stack([a * b for a, b in zip(x, x.flip(0))]),
    "reversed": lambda x: dc.stack(list(x.unbind(0))[::-1]),
    "enumerate slices": lambda x: dc.cat([x[i : i + 2] * i for i in range(0, len(x), 2)]),
    "while": lambda x: (lambda y: y)(_halve(x)),
    "is_floating_point": lambda x: x * 2 if x.is_floating_point() else x,
    "dtype": lambda x: x.to(dc.float64) if x.dtype == dc.float32 else x,
    "device": lambda x: x * (1 if str(x.device) == "cpu" else 2),
    "isinstance": lambda x: x * 2 if isinstance(x, dc.Tensor) else x,
    "try": lambda x: _attempted(x),
    "any of Python": lambda x: x * any(n > 2 for n in x.shape),
    "dict of functions": lambda x: {"a": dc.exp, "b": dc.tanh}["a"](x),
    "lambda": lambda x: (lambda f: f(f(x)))(lambda y: y * 0.5),
    "sum of Python": lambda x: sum(x),
    "contains a shape": lambda x: x if 3 in x.shape else x * 0,
    "assert": lambda x: _asserted(x),
    "match": lambda x: _matched(x),
}


def _halve(x):
    while x.numel() > 2:
        x = x[: len(x) // 2].sum(-1) if x.ndim > 1 else x[:2]
    return x * 1


def _attempted(x):
    try:
        return x.reshape(7, 7)
    except dc.errors.DeepcoreError:
        return x * 3


def _asserted(x):
    assert x.ndim == 2, "two dimensions"
    return x + 1


def _matched(x):
    match x.shape:
        case (4, n):
            return x * n
        case _:
            return x


@scenario(each=PYTHONIC)
def python_about_shapes(compile, function):
    run = compile(function)
    for i in range(10):
        yield run(randn(4 if i % 4 < 2 else 6, 3, seed=i))


@scenario()
def sequence_lengths_as_numbers(compile):
    run = compile(lambda x, n: x[:, :n].sum(-1) / n)
    for i, x in enumerate(inputs(12, 2, 5)):
        yield run(x, 1 + i % 4)


@scenario()
def sequence_lengths_as_a_tensor(compile):
    @compile
    def run(x, lengths):
        mask = dc.arange(x.shape[1])[None] < lengths[:, None]
        return (x * mask).sum(-1) / lengths

    for i, x in enumerate(inputs(10, 2, 5)):
        yield run(x, integers(4, 2, seed=i) + 1)


@scenario()
def constants_made_inside(compile):
    run = compile(lambda x: x * dc.arange(3) + dc.ones(3) - dc.eye(3)[1] + dc.full((3,), 2.0) + dc.zeros_like(x))
    for x in inputs(8, 3):
        yield run(x)


@scenario(EQUAL_OR_EAGER, each=["list", "array", "number", "as_tensor"])
def tensor_made_of_data(compile, of):
    array = np.array([1.0, 2.0, 3.0], "f4")

    @compile
    def run(x):
        return x * {"list": lambda: dc.tensor([1.0, 2.0, 3.0]), "array": lambda: dc.tensor(array),
                    "number": lambda: dc.tensor(2.0), "as_tensor": lambda: dc.as_tensor(array)}[of]()  # fmt: skip

    for x in inputs(8, 3):
        yield run(x)


@scenario(EQUAL_OR_EAGER)
def tensor_made_of_an_array_that_changes(compile):
    array = np.array([1.0, 2.0, 3.0], "f4")

    @compile
    def run(x):
        return x * dc.as_tensor(array)

    for x in inputs(12, 3):
        array += 1
        yield run(x)


@scenario()
def gate_without_reading(compile):
    """A decision by `where`, as it is written for compilers."""
    w = randn(3, requires_grad=True)

    @compile
    def step(x):
        w.grad = None
        loss = (w * x).square().sum()
        loss.backward()
        ok = w.grad.isfinite().all()
        with dc.no_grad():
            w.copy_(dc.where(ok, w - 0.1 * w.grad, w))
        return ok

    for i, x in enumerate(inputs(8, 3)):
        if i % 3 == 2:
            x[0] = float("inf")
        yield step(x), w
