"""What functions are called with, and what they return."""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import NamedTuple

import numpy as np

import deepcore as dc
from deepcore import nn, optim

from . import EAGER, EQUAL, EQUAL_OR_EAGER, Lag, scenario
from .common import F, batches, inputs, integers, mlp, randn


class Pair(NamedTuple):
    first: dc.Tensor
    second: dc.Tensor


@dataclasses.dataclass
class Batch:
    x: dc.Tensor
    y: dc.Tensor
    name: str = "batch"


class Kind(enum.Enum):
    SUM = "sum"
    MEAN = "mean"


#: How two tensors come, and how they are taken out.
PACKED = {
    "list": (lambda a, b: [a, b], lambda p: (p[0], p[1])),
    "tuple": (lambda a, b: (a, b), lambda p: (p[0], p[1])),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda p: (p["a"], p["b"])),
    "dict with numbers for keys": (lambda a, b: {1: a, (2, 3): b}, lambda p: (p[1], p[2, 3])),
    "ordered dict": (lambda a, b: collections.OrderedDict(a=a, b=b), lambda p: tuple(p.values())),
    "namedtuple": (lambda a, b: Pair(a, b), lambda p: (p.first, p.second)),
    "dataclass": (lambda a, b: Batch(a, b), lambda p: (p.x, p.y)),
    "nested": (lambda a, b: {"deep": [(a, None), {"b": (b, "text", 2)}]},
               lambda p: (p["deep"][0][0], p["deep"][1]["b"][0])),
    "list of lists": (lambda a, b: [[a], [b, a]], lambda p: (p[1][1], p[1][0])),
    "empty parts": (lambda a, b: [[], {}, (), a, b], lambda p: (p[3], p[4])),
    "deque": (lambda a, b: collections.deque([a, b]), lambda p: (p[0], p[1])),
}  # fmt: skip


@scenario(EQUAL_OR_EAGER, each=PACKED, everywhere=True)
def packed(compile, pack):
    make, take = pack

    @compile
    def run(p):
        a, b = take(p)
        return a * 2 - b

    for i in range(8):
        p = make(randn(3, seed=i), randn(3, seed=i + 50))
        yield run(p), p


@scenario(EQUAL_OR_EAGER, each=PACKED)
def returned_in(compile, pack):
    make, _ = pack
    run = compile(lambda x: make(x * 2, x + 1))
    for x in inputs(8, 3):
        yield run(x), x


@scenario()
def order_of_a_dict_of_arguments(compile):
    @compile
    def run(table):
        out = 0
        for i, value in enumerate(table.values(), 1):
            out = out + i * value
        return out

    for i in range(12):
        names = ["a", "b", "c"] if i % 3 else ["c", "a", "b"]
        yield run({name: randn(3, seed=i + ord(name)) for name in names})


@scenario()
def length_of_a_list_of_arguments(compile):
    run = compile(lambda parts: dc.cat(parts).square().sum() + len(parts))
    for i in range(14):
        yield run([randn(2, seed=10 * i + j) for j in range(1 + i % 4)])


@scenario()
def dataclass_that_is_kept(compile):
    """One object whose fields the caller replaces."""
    batch = Batch(randn(3), randn(3), "first")

    @compile
    def run(batch):
        return batch.x * 2 - batch.y if batch.name == "first" else batch.y

    for i in range(14):
        batch.x, batch.y = randn(3, seed=i), randn(3, seed=i + 30)
        batch.name = "first" if i < 7 else "second"
        yield run(batch), batch


@scenario()
def none_for_a_tensor(compile):
    @compile
    def run(x, mask=None, bias=None):
        x = x if mask is None else x * mask
        return x if bias is None else x + bias

    for i, x in enumerate(inputs(14, 3)):
        yield run(x, None if i % 2 else x > 0, bias=None if i % 3 else randn(3, seed=i))


@scenario(each={"string": ["sum", "mean"], "bool": [True, False], "enum": [Kind.SUM, Kind.MEAN], "int": [0, 1],
                "tuple": [(0, 1), (1, 0)], "none": [None, 0], "dtype": [dc.float64, dc.float32], "bytes": [b"a", b"b"],
                "slice": [slice(0, 2), slice(1, 3)], "set": [{1, 2}, {1}], "range": [range(2), range(3)],
                "type": [int, float], "complex": [1j, 2j]})  # fmt: skip
def option(compile, values):
    @compile
    def run(x, which):
        if isinstance(which, slice):
            return x[which] * 1
        if isinstance(which, set | range):
            return x * len(which)
        if isinstance(which, np.dtype):
            return x.to(which) * 2
        if which in ("sum", Kind.SUM, True, b"a", int, 1j):
            return x.sum(0)
        if isinstance(which, tuple):
            return x.permute(*which) * 1
        return x.mean(which) if isinstance(which, int) and not isinstance(which, bool) else x.exp()

    for i, x in enumerate(inputs(12, 3, 4)):
        yield run(x, values[i // 2 % 2])


@scenario()
def positional_and_keyword(compile):
    @compile
    def run(a, b=None, *more, scale=1.0, **names):
        out = a * scale
        for t in ([] if b is None else [b]) + list(more) + [names[k] for k in sorted(names)]:
            out = out - t
        return out

    a, b, c = (randn(3, seed=i) for i in range(3))
    ways = [lambda: run(a), lambda: run(a, b), lambda: run(a=a, b=b), lambda: run(b=b, a=a), lambda: run(a, b, c),
            lambda: run(a, scale=2.0), lambda: run(a, x=b, y=c), lambda: run(a, y=b, x=c), lambda: run(a, b, c, a, z=b)]  # fmt: skip
    for i in range(27):
        a.add_(0.1)
        yield ways[i % 9](), a, b, c


@scenario()
def unpacked(compile):
    run = compile(lambda *args, **kwargs: sum(args) * kwargs.get("scale", 1.0) + len(kwargs))
    for i in range(12):
        tensors = [randn(3, seed=i + j) for j in range(1 + i % 3)]
        yield run(*tensors, **({"scale": 0.5, "other": None} if i % 2 else {}))


# -- arrays -------------------------------------------------------------------------------------------------------


@scenario(arrays=True, each=["f4", "f8", "i8", "u1", "?", "f2"])
def array_of(compile, dtype):
    @compile
    def run(x, w):
        return x * w + 1, x.sum()

    rng = np.random.default_rng(0)
    for _ in range(10):
        yield run((rng.random((4, 3)) * 2).astype(dtype), randn(3))


@scenario(arrays=True)
def arrays_for_training(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x, y in batches(10):
        yield step(x.numpy(), y.numpy()), model


@scenario(arrays=True)
def array_with_another_shape_or_dtype(compile):
    run = compile(lambda x: x.exp().sum(-1) if x.is_floating_point() else x.sum(-1))
    rng = np.random.default_rng(0)
    for i in range(16):
        x = rng.random((2 + i % 3, 4))
        yield run(x.astype(("f4", "f8", "i4", "f4")[i % 4]))


@scenario(arrays=True)
def array_that_the_caller_writes(compile):
    run = compile(lambda x: x * 2)
    x = np.ones(3, "f4")
    for i in range(10):
        x += i
        yield run(x), x


@scenario(EQUAL_OR_EAGER, arrays=True)
def array_that_the_function_writes(compile):
    @compile
    def run(x):
        x.mul_(2)
        return x + 1

    for _ in range(2):
        x = np.ones(3, "f4")
        for _ in range(6):
            yield run(x), x


@scenario(arrays=True)
def arrays_in_containers(compile):
    run = compile(lambda batch: batch["x"] @ batch["more"][0] + batch["bias"])
    rng = np.random.default_rng(0)
    for _ in range(8):
        more = [rng.random((4, 2)).astype("f4")]
        yield run({"x": rng.random((3, 4)).astype("f4"), "more": more, "bias": randn(2)})


@scenario(EQUAL_OR_EAGER, arrays=True)
def array_arrives_as_a_tensor(compile):
    seen = []

    @compile(side_effects="once")
    def run(x, t):
        seen.append((type(x).__name__, type(t).__name__))
        return x + t

    for i in range(12):
        yield run(np.full(3, i, "f4"), randn(3)), Lag(list(seen))


@scenario(EAGER, arrays=True)
def array_whose_value_is_read(compile):
    @compile
    def run(x, n):
        return x * int(n[0])

    for i, x in enumerate(inputs(8, 3)):
        yield run(x, np.array([i % 3]))


@scenario(EQUAL_OR_EAGER, arrays=True)
def array_that_is_returned(compile):
    run = compile(lambda x: (x, x * 2))
    x = np.arange(3, dtype="f4")
    for _ in range(8):
        x += 1
        result = run(x)
        yield result[0].numpy() is not None, result, np.shares_memory(result[0].numpy(), x)


@scenario(arrays=True, each=["reversed", "strided", "transposed", "broadcast", "read-only", "big-endian"])
def array_with_layout(compile, layout):
    run = compile(lambda x: (x * 2, x.sum(0)))
    for i in range(8):
        x = np.random.default_rng(i).random((4, 6)).astype("f4")
        if layout == "reversed":
            x = x[::-1]
        elif layout == "strided":
            x = x[:, ::2]
        elif layout == "transposed":
            x = x.T
        elif layout == "broadcast":
            x = np.broadcast_to(x[:1], (4, 6))
        elif layout == "read-only":
            x = x.copy()
            x.flags.writeable = False
        else:
            x = x.astype(">f4").astype("f4")
        yield run(x)


@scenario(EQUAL_OR_EAGER, each={"float": np.float32, "int": np.int64, "bool": np.bool_, "double": np.float64})
def number_of_numpy(compile, kind):
    run = compile(lambda x, scale: x * scale)
    for i, x in enumerate(inputs(12, 3)):
        yield run(x, kind(i // 3 % 2))


# -- shapes, layouts, dtypes ----------------------------------------------------------------------------------------

LAYOUTS = {
    "transposed": lambda x: x.t(),
    "sliced": lambda x: x[1:, ::2],
    "reversed": lambda x: x.flip(0),
    "expanded": lambda x: x[:, :1].expand(6, 6),
    "expanded by a dimension": lambda x: x.expand(2, 6, 6),
    "column": lambda x: x[:, 2],
    "scalar": lambda x: x[0, 0],
    "empty": lambda x: x[:0],
    "empty inside": lambda x: x[:, :0],
    "one element": lambda x: x[:1, :1],
    "permuted": lambda x: x.reshape(2, 3, 6).permute(2, 0, 1),
    "narrow": lambda x: x.narrow(1, 1, 3),
}


@scenario(each=LAYOUTS, everywhere=True)
def layout(compile, view):
    run = compile(lambda x: (x * 2 + 1, x.sum(), x.cumsum(0) if x.ndim else x, x.exp() - x.abs()))
    for i in range(6):
        x = randn(6, 6, seed=i)
        yield run(view(x)), x


@scenario()
def layout_changes(compile):
    run = compile(lambda x: (x @ x.t()).exp().sum(0))
    for i in range(12):
        x = randn(6, 6, seed=i)
        yield run((x, x.t(), x.flip(0), x[:1].expand(6, 6))[i % 4])


@scenario(
    each=["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"], everywhere=True
)
def dtype(compile, name):
    run = compile(lambda x, y: (x + y, x * y, x > y, (x == y).sum(), x.float().mean()))
    for i in range(6):
        x, y = ((randn(4, 3, seed=10 * i + j) * 4).to(getattr(dc, name)) for j in (0, 1))
        yield run(x, y)


@scenario(EQUAL_OR_EAGER, each=["float16", "bfloat16", "float64"])
def model_in(compile, name):
    model = mlp(nn.LayerNorm(8)).to(dtype=getattr(dc, name))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x, y in batches(8):
        yield step(x.to(getattr(dc, name)), y), model


@scenario()
def dtype_changes(compile):
    run = compile(lambda x: x * 2 + 1)
    kinds = [dc.float32, dc.float64, dc.int64, dc.float16, dc.bool_]
    for i in range(15):
        yield run(randn(3, seed=i).to(kinds[i % 5]))


@scenario()
def mixed_dtypes(compile):
    run = compile(lambda a, b, c: (a + b, a * c, dc.where(c > 0, a, b), b / 2, a // 2))
    for i in range(8):
        a = randn(3, seed=i)
        yield run(a, integers(5, 3, seed=i), integers(2, 3, seed=i).to(dc.float64))


@scenario(EQUAL_OR_EAGER, each=["zero", "one", "ranks"], everywhere=True)
def unusual_shapes(compile, which):
    run = compile(lambda x: (x * 2, x.sum(), x.reshape(-1)))
    shapes = {"zero": [(0,), (0, 3), (3, 0), (2, 0, 2)], "one": [(), (1,), (1, 1), (1, 1, 1)],
              "ranks": [(2,), (2, 2), (2, 2, 2), (2, 2, 2, 2)]}[which]  # fmt: skip
    for i in range(12):
        yield run(randn(*shapes[i % 4], seed=i))


@scenario()
def batch_without_samples(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, reduction="sum")
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(9):
        for x, y in batches(1, 0 if i % 3 == 2 else 5):
            yield step(x, y), model


@scenario(each={"nan": float("nan"), "inf": float("inf"), "minus zero": -0.0, "subnormal": 1e-42}, everywhere=True)
def special_values(compile, value):
    run = compile(lambda x: (x * 2, x.exp(), x.softmax(0), x.max(), x.argmax(), (x == x).sum(), 1 / x, x.sum()))
    for i in range(6):
        x = randn(5, seed=i)
        x[i % 5] = value
        yield run(x)


# -- one thing twice ----------------------------------------------------------------------------------------------


@scenario()
def same_tensor_twice(compile):
    run = compile(lambda a, b: (a * b + a, a - b))
    for i, x in enumerate(inputs(14, 3)):
        yield run(x, x) if i % 3 else run(x, randn(3, seed=i))


@scenario()
def same_tensor_twice_written(compile):
    @compile
    def run(a, b):
        a.add_(1)
        return b * 2

    for i, x in enumerate(inputs(14, 3)):
        y = x if i % 3 else randn(3, seed=i)
        yield run(x, y), x, y


@scenario(EQUAL_OR_EAGER, each=["apart", "overlapping", "whole and part", "transposed"], everywhere=True)
def two_views_of_one_base(compile, how):
    @compile
    def run(a, b):
        a.mul_(2)
        return a + 1, b * 3

    for i in range(12):
        base = randn(4, 4, seed=i)
        views = {"apart": (base[:2], base[2:]), "overlapping": (base[:3], base[1:]),
                 "whole and part": (base, base[1:2]), "transposed": (base, base.t())}[how]  # fmt: skip
        if i % 4 == 3:
            views = views[0], views[1].clone()
        yield run(*views), base, views


@scenario(EQUAL_OR_EAGER, each=["parameter", "buffer", "state", "gradient"], everywhere=True)
def argument_is_also_held(compile, where):
    model = nn.BatchNorm1d(4)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @compile
    def run(x, t):
        optimizer.zero_grad()
        loss = (model(x) * t.detach()).square().mean()
        loss.backward()
        optimizer.step()
        return t.detach() * 2

    for i, x in enumerate(inputs(14)):
        t = randn(4, seed=i)
        if i % 3:
            t = {"parameter": model.weight, "buffer": model.running_mean, "gradient": model.weight.grad,
                 "state": model.bias.detach()}[where]  # fmt: skip
        yield run(x, t), model


@scenario()
def parameter_as_an_argument(compile):
    w = nn.Parameter(randn(3))

    @compile
    def run(w, x):
        w.grad = None
        (w * x).square().sum().backward()
        with dc.no_grad():
            w.sub_(0.1 * w.grad)

    for i, x in enumerate(inputs(12, 3)):
        if i == 6:
            w = nn.Parameter(randn(3, seed=4))
        yield run(w, x), w


@scenario()
def model_as_an_argument(compile):
    models = [mlp(), mlp()]
    run = compile(lambda model, x: model(x).detach())
    for i, x in enumerate(inputs(14)):
        if i == 7:
            models[1].eval()
            models.append(mlp(nn.Dropout(0.5)))
        yield run(models[i % len(models)], x)


@scenario(EQUAL_OR_EAGER)
def function_as_an_argument(compile):
    run = compile(lambda f, x: f(x) * 2)
    functions = [dc.exp, F.relu, lambda x: x + 1]
    for i, x in enumerate(inputs(12, 3)):
        yield run(functions[i % 3], x)


@scenario()
def no_arguments(compile):
    w = randn(3)
    run = compile(lambda: (w.mul_(1.5), w + 1)[1])
    for _ in range(8):
        yield run(), w


@scenario(EQUAL_OR_EAGER)
def no_tensors_at_all(compile):
    run = compile(lambda n: n * 2)
    for i in range(8):
        yield run(i)


# -- results ------------------------------------------------------------------------------------------------------


@scenario()
def results_of_all_kinds(compile):
    run = compile(lambda x: (x * 2, 3, "text", None, True, x.shape, x.dtype, {"n": x.numel()}, [x.sum()]))
    for i in range(10):
        yield run(randn(2 + i % 2, 3, seed=i))


@scenario()
def nothing_returned(compile):
    w = randn(3)

    @compile
    def run(x):
        w.add_(x)

    for x in inputs(8, 3):
        yield run(x), w


@scenario(everywhere=True)
def argument_returned(compile):
    run = compile(lambda x, y: (x, x + y, y))
    for i, x in enumerate(inputs(10, 3)):
        y = randn(3, seed=i)
        yield run(x, y), x, y


@scenario()
def argument_returned_after_writing(compile):
    @compile
    def run(x):
        x.mul_(2)
        return x

    x = randn(3)
    for _ in range(10):
        yield run(x), x


@scenario(EQUAL_OR_EAGER, each=["parameter", "buffer", "closure", "gradient"])
def held_tensor_returned(compile, what):
    model, other = nn.BatchNorm1d(4), randn(3)

    @compile
    def run(x):
        model.zero_grad()
        model(x).square().sum().backward()
        return {"parameter": model.weight, "buffer": model.running_mean, "closure": other}.get(what, model.weight.grad)

    for x in inputs(8):
        yield run(x), model, other


@scenario(EQUAL_OR_EAGER)
def same_result_twice(compile):
    @compile
    def run(x):
        y = x * 2
        return y, [y, y + 1], {"y": y}

    for x in inputs(8, 3):
        yield run(x)


@scenario(EQUAL_OR_EAGER, each={"view": lambda y: (y, y[1:]), "transposed": lambda y: (y, y.t()),
                                "two parts": lambda y: (y[:2], y[1:]), "reshaped": lambda y: (y.reshape(-1), y),
                                "detached": lambda y: (y, y.detach()), "split": lambda y: tuple(y.split(1)),
                                "expanded": lambda y: (y, y[:1].expand(4, 3))}, everywhere=True)  # fmt: skip
def results_that_share_memory(compile, pack):
    run = compile(lambda x: pack(x * 2))
    for x in inputs(8, 4, 3):
        out = run(x)
        before = [t.detach().clone() for t in out]
        out[0].add_(1)
        yield out, before, x


@scenario(everywhere=True)
def results_written_by_the_caller(compile):
    w = randn(3)
    run = compile(lambda x: (x * w, dc.ones(3), x.sum()))
    for x in inputs(8, 3):
        out = run(x)
        for t in out:
            t.add_(5)
        yield out, x, w


@scenario()
def results_of_constants(compile):
    run = compile(
        lambda x: (dc.zeros(2, 2), dc.arange(3), dc.eye(2), dc.full((2,), 7), dc.linspace(0, 1, 3), x * 0 + 1)
    )
    kept = []
    for x in inputs(8, 3):
        out = run(x)
        out[0].add_(1)
        kept.append(out[0])
        yield out, list(kept)


@scenario()
def result_fed_back(compile):
    run = compile(lambda h, x: (h * 0.9 + x).tanh())
    h = dc.zeros(3)
    for x in inputs(12, 3):
        h = run(h, x)
        yield h


@scenario()
def result_fed_back_and_written(compile):
    @compile
    def run(h, x):
        h.mul_(0.9)
        return h + x

    h = dc.zeros(3)
    for x in inputs(12, 3):
        before = h
        h = run(h, x)
        yield h, before


@scenario()
def large_results(compile):
    """Larger than what the allocator keeps for reuse, and dropped by the caller."""
    run = compile(lambda x: (x * 2, (x + 1).exp()))
    x = randn(600, 500)
    for i in range(5):
        x.add_(1e-3)
        a, b = run(x)
        if i % 2:
            del a
            a = dc.zeros(600, 500)
        yield a.sum(), b.sum(), b[::100, ::100] * 1


@scenario(everywhere=True)
def given_twice(compile):
    run = compile(lambda x, y, z: x - 2 * y + 5 * z)
    for x, y in zip(inputs(8), inputs(8, 1, 4)):
        yield run(x, x, y), run(y, x, x), run(x, y, x)


VIEWS = {
    "slice": lambda x: x[:, :3],
    "step": lambda x: x[:, ::2],
    "transposed": lambda x: x.t(),
    "row": lambda x: x[2],
    "part of three": lambda x: x.reshape(2, 3, 4).transpose(0, 2)[1:],
}


@scenario(everywhere=True, each=VIEWS)
def views_as_arguments(compile, view):
    run = compile(lambda x: (x * 2 + 1, x.sum(0), (x.mT if x.ndim > 1 else x) * 1))
    for x in inputs(8, 6, 4):
        yield run(view(x))


@scenario(EQUAL_OR_EAGER, everywhere=True, each=VIEWS)
def views_as_arguments_are_written(compile, view):
    @compile
    def run(x):
        x.add_(1.0)
        y = x * 2
        x[0] = y[-1]
        return y

    for x in inputs(8, 6, 4):
        yield run(view(x)), x


@scenario(EQUAL_OR_EAGER, everywhere=True)
def parts_of_written_arguments_are_returned(compile):
    @compile
    def run(x):
        x.add_(1.0)
        return x[0]

    for x in inputs(8, 6, 4):
        part = run(x)
        part.mul_(3.0)
        yield part, x


@scenario(EQUAL_OR_EAGER, everywhere=True, each=[False, True])
def parts_of_gradients_are_returned(compile, added):
    w = nn.Parameter(randn(4))

    @compile
    def run(x):
        (w * x).sum().backward()
        return w.grad[1:]

    for x in inputs(8, 6, 4):
        w.grad = dc.ones(4) if added else None
        part = run(x)
        part.mul_(3.0)
        yield part, w.grad


@scenario(everywhere=True)
def two_arguments_are_written(compile):
    @compile
    def run(x, y):
        x.add_(y)
        y.mul_(x)
        return x * y, y

    for x, y in zip(inputs(8), inputs(8, 1, 4)):
        yield run(x, y.expand(5, 4).clone()), x, y


NEIGHBOURS = {
    "columns": lambda b: (b[:, :-1], b[:, 1:]),
    "rows": lambda b: (b[:3], b[1:]),
    "the same": lambda b: (b, b[:]),
    "a part": lambda b: (b, b[1:3]),
    "every other": lambda b: (b[:, ::2], b[:, 1::2]),
    "columns one by one": lambda b: b.unbind(1),
    "transposed": lambda b: (b, b.t()),
    "at changing distances": lambda b: (b[:2], b[1:3] if b[0, 0] > 0 else b[2:]),
    "now and then": lambda b: (b[:, :-1], b[:, 1:] if b[0, 0] > 0 else b[:, 1:].clone()),
}


@scenario(EQUAL, each=NEIGHBOURS)
def arguments_that_share_memory(compile, parts):
    """As the tokens of a text and those that follow."""
    w = randn(5, 1, requires_grad=True)

    @compile
    def step(*xs):
        w.grad = None
        loss = sum(
            (x[:1] * x[-1:]).sum() + (x.tanh() * w[: x.shape[0], 0].reshape(-1, *(1,) * (x.ndim - 1))).sum() for x in xs
        )
        loss.backward()
        return loss.detach(), [x[1:].exp() for x in xs]

    for i in range(10):
        yield step(*parts(randn(4, 5, seed=i))), w


@scenario(EQUAL_OR_EAGER, each=["columns", "rows", "a part"])
def arguments_that_share_memory_and_are_written(compile, name):
    @compile
    def run(x, y):
        x.add_(1)
        return y * 2

    for i in range(8):
        b = randn(4, 5, seed=i)
        yield run(*NEIGHBOURS[name](b)), b
