"""Functions of rows on square float32 matrices of three sizes, against NumPy, PyTorch and a copy.

deepcore keeps the memory of results by itself; NumPy and PyTorch are given `out=` wherever they take it, which PyTorch's
autograd, in "forward, backward", does not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import peaks
import peers
from contest import Contest, array

import deepcore as dc
from deepcore.nn import functional as F

SIDES = (100, 1000, 4000)
VOCABULARY = 10_000


class Rows(NamedTuple):
    """`deepcore(n)` and the others give the callable for n×n; `moved`: how many arrays of that size it reads and writes."""

    deepcore: Callable
    torch: Callable
    numpy: Callable | None = None
    moved: float = 2
    bound: bool = True  # by memory; not where each number takes an exponential


def numbers(n: int):
    return dc.from_numpy(array(n, n))


def out_of(call: Callable, *shapes: Callable) -> Callable:
    """PyTorch's side: call(torch, x, out) into tensors of these shapes of n."""

    def side(n: int):
        torch = peers.torch()
        x, outs = peers.shared(array(n, n)), [torch.empty(shape(n)) for shape in shapes]
        return lambda: call(torch, x, *outs)

    return side


def with_numpy(call: Callable, shape: Callable, dtype: str = "f") -> Callable:
    def side(n: int):
        x, out = array(n, n), np.empty(shape(n), dtype)
        return lambda: call(x, out)

    return side


def gradient(name: str, second: Callable, **params) -> Callable:
    """deepcore's fused gradient `name` of (g, second(x))."""

    def side(n: int):
        op, g, y = peers.fused(name), dc.from_numpy(array(n, n, seed=1)), second(numbers(n))
        return lambda: op(g, y, **params)

    return side


def torch_gradient(name: str, second: Callable, *params) -> Callable:
    def side(n: int):
        torch = peers.torch()
        op = peers.backward(name)
        g, x = peers.shared(array(n, n, seed=1)), peers.shared(array(n, n))
        y, out = second(torch, x), torch.empty(n, n)
        return lambda: op(g, y, *params, torch.float32, out)

    return side


def trained(library: Callable, loss: Callable, *others: Callable) -> Callable:
    """Forward and backward of loss(functional, x, …); the gradients of x and of what `others` make, given n."""

    def side(n: int):
        make, functional, slope = library(n)
        tensors = [make(array(n, n)), *(make(other(n)) for other in others)]

        def step():
            value = loss(functional, *tensors)
            value.backward(slope) if value.ndim else value.backward()
            for t in tensors:
                t.grad = None

        return step

    return side


def _deepcore(n: int):
    return (lambda x: dc.tensor(x, requires_grad=True)), F, dc.from_numpy(array(n, n, seed=1))


def _torch(n: int):
    torch = peers.torch()
    return (lambda x: torch.tensor(x, requires_grad=True)), torch.nn.functional, peers.shared(array(n, n, seed=1))


def both(loss: Callable, *others: Callable, **settings) -> Rows:
    return Rows(trained(_deepcore, loss, *others), trained(_torch, loss, *others), **settings)


def classes(n: int):
    return np.random.default_rng(3).integers(0, n, n)


def _cross_entropy(library: str) -> Callable:
    def side(n: int):
        make, functional, _ = (_deepcore if library == "deepcore" else _torch)(n)
        x = make(array(n, n))
        target = dc.from_numpy(classes(n)) if library == "deepcore" else peers.shared(classes(n))

        def step():
            functional.cross_entropy(x, target).backward()
            x.grad = None

        return step

    return side


def _words(n: int):
    """Indices into a table with rows of 64, so that what is gathered has n² numbers or a little less."""
    return np.random.default_rng(4).integers(0, VOCABULARY, n * n // 64)


def _embedding(library: str, backward: bool) -> Callable:
    def side(n: int):
        own = library == "deepcore"
        index = dc.from_numpy(_words(n)) if own else peers.shared(_words(n))
        table, g = array(VOCABULARY, 64), array(n * n // 64, 64, seed=1)
        functional = F if own else peers.torch().nn.functional
        if not backward:
            if own:
                weight = dc.from_numpy(table)
                return lambda: functional.embedding(index, weight)
            torch, weight, out = peers.torch(), peers.shared(table), peers.torch().empty(n * n // 64, 64)
            return lambda: torch.index_select(weight, 0, index, out=out)
        weight = dc.tensor(table, requires_grad=True) if own else peers.torch().tensor(table, requires_grad=True)
        slope = dc.from_numpy(g) if own else peers.shared(g)

        def step():
            functional.embedding(index, weight).backward(slope)
            weight.grad = None

        return step

    return side


def _dropout(library: str) -> Callable:
    def side(n: int):
        if library == "deepcore":
            x = numbers(n)
            return lambda: F.dropout(x, 0.5)
        x, functional = peers.shared(array(n, n)), peers.torch().nn.functional
        return lambda: functional.dropout(x, 0.5)

    return side


def _norm(name: str) -> Callable:
    """loss(functional, x, weight, bias) of a normalisation."""
    if name == "batch_norm":
        return lambda functional, x, w, b: functional.batch_norm(x, None, None, w, b, training=True)
    if name == "rms_norm":
        return lambda functional, x, w: functional.rms_norm(x, (x.shape[1],), w)
    return lambda functional, x, w, b: functional.layer_norm(x, (x.shape[1],), w, b)


def _forward(name: str, count: int) -> tuple[Callable, Callable]:
    def own(n: int):
        tensors = [numbers(n), *(dc.from_numpy(array(n, seed=i)) for i in range(count))]
        function = _norm(name)
        return lambda: function(F, *tensors)

    def torchs(n: int):
        torch = peers.torch()
        tensors = [peers.shared(array(n, n)), *(peers.shared(array(n, seed=i)) for i in range(count))]
        function = _norm(name)
        return lambda: function(torch.nn.functional, *tensors)

    return own, torchs


def _same(n: int):
    return (n, n)


def _column(n: int):
    return (n,)


def _one(n: int):
    return ()


def _vector(seed: int) -> Callable:
    return lambda n: array(n, seed=seed)


def _of_rows(name: str, **settings) -> Callable:
    function = getattr(dc, name)

    def side(n: int):
        x = numbers(n)
        return lambda: function(x, **settings)

    return side


def _topk(n: int):
    torch = peers.torch()
    x, values, places = peers.shared(array(n, n)), torch.empty(n, 10), torch.empty(n, 10, dtype=torch.int64)
    return lambda: torch.topk(x, 10, out=(values, places))


def _argmax(n: int):
    torch = peers.torch()
    x, out = peers.shared(array(n, n)), torch.empty(n, dtype=torch.int64)
    return lambda: torch.argmax(x, 1, out=out)


ROWS = {
    "sum": Rows(
        _of_rows("sum"),
        out_of(lambda torch, x, out: torch.sum(x, (0, 1), out=out), _one),
        with_numpy(lambda x, out: np.sum(x, out=out), _one),
        1,
    ),
    "sum of columns": Rows(
        _of_rows("sum", dim=0),
        out_of(lambda torch, x, out: torch.sum(x, 0, out=out), _column),
        with_numpy(lambda x, out: np.sum(x, 0, out=out), _column),
        1,
    ),
    "amax": Rows(
        _of_rows("amax", dim=1),
        out_of(lambda torch, x, out: torch.amax(x, 1, out=out), _column),
        with_numpy(lambda x, out: np.max(x, 1, out=out), _column),
        1,
    ),
    "argmax": Rows(
        _of_rows("argmax", dim=1), _argmax, with_numpy(lambda x, out: np.argmax(x, 1, out=out), _column, "q"), 1
    ),
    "topk 10": Rows(_of_rows("topk", k=10), _topk, None, 1, False),
    "logsumexp": Rows(
        _of_rows("logsumexp", dim=1),
        out_of(lambda torch, x, out: torch.logsumexp(x, 1, out=out), _column),
        None,
        1,
        False,
    ),
    "softmax": Rows(
        _of_rows("softmax", dim=1), out_of(lambda torch, x, out: torch.softmax(x, 1, out=out), _same), bound=False
    ),
    "log_softmax": Rows(
        _of_rows("log_softmax", dim=1),
        out_of(lambda torch, x, out: torch.log_softmax(x, 1, out=out), _same),
        bound=False,
    ),
    "softmax gradient": Rows(
        gradient("softmax_grad", lambda x: dc.softmax(x, 1), dim=1),
        torch_gradient("_softmax_backward_data", lambda torch, x: torch.softmax(x, 1), 1),
        None,
        3,
    ),
    "log_softmax gradient": Rows(
        gradient("log_softmax_grad", lambda x: dc.log_softmax(x, 1), dim=1),
        torch_gradient("_log_softmax_backward_data", lambda torch, x: torch.log_softmax(x, 1), 1),
        None,
        3,
        False,
    ),
    "cross_entropy forward, backward": Rows(_cross_entropy("deepcore"), _cross_entropy("torch"), bound=False),
    "layer_norm": Rows(*_forward("layer_norm", 2)),
    "layer_norm forward, backward": both(_norm("layer_norm"), _vector(1), _vector(2), moved=5),
    "rms_norm": Rows(*_forward("rms_norm", 1)),
    "rms_norm forward, backward": both(_norm("rms_norm"), _vector(1), moved=5),
    "batch_norm": Rows(*_forward("batch_norm", 2)),
    "batch_norm forward, backward": both(_norm("batch_norm"), _vector(1), _vector(2), moved=5),
    "dropout": Rows(_dropout("deepcore"), _dropout("torch"), None, 2, False),
    "embedding": Rows(_embedding("deepcore", False), _embedding("torch", False), None, 2, False),
    "embedding forward, backward": Rows(_embedding("deepcore", True), _embedding("torch", True), None, 3, False),
}


def make(side: str, name: str, n: int):
    one = ROWS[name]
    if side == "copy":
        return peaks.copy(n * n, 4.0 * one.moved * n * n)
    return getattr(one, side)(n)


CONTESTS = [
    Contest(
        "rows",
        f"{name} {n * n:,}",
        partial(make, name=name, n=n),
        ("deepcore", "torch", "copy") if one.numpy is None else ("deepcore", "numpy", "torch", "copy"),
        4.0 * one.moved * n * n,
        "byte",
        long=n > 1000,
        facts={"op": name, "size": n * n, "bound": one.bound},
    )
    for name, one in ROWS.items()
    for n in SIDES
]
