"""Indexing, views and writes in place against PyTorch in float64: values, memory sharing and gradients."""

from __future__ import annotations

import operator
import random

import numpy as np
import pytest

import deepcore as dc
from deepcore.errors import DeepcoreError

torch = pytest.importorskip("torch")


class Pair:
    """The same tensor in both frameworks."""

    def __init__(self, theirs, ours):
        self.theirs, self.ours = theirs, ours

    @classmethod
    def of(cls, array, requires_grad: bool = False) -> Pair:
        theirs = torch.tensor(array, requires_grad=requires_grad)
        return cls(theirs, dc.tensor(array, requires_grad=requires_grad))

    def map(self, function) -> Pair:
        return Pair(function(self.theirs), function(self.ours))

    def check(self, what: str = "") -> None:
        assert self.ours.shape == tuple(self.theirs.shape), what
        np.testing.assert_allclose(
            self.ours.detach().numpy(), self.theirs.detach().numpy(), rtol=1e-9, atol=1e-12, err_msg=what
        )


# -- reading and writing by index ---------------------------------------------------------------------------------------

SHAPE = (4, 3, 5)


def random_index(rng: random.Random, shape=SHAPE) -> tuple:
    """A valid index: integers, slices, None, …, bool masks, integer arrays of one broadcast shape, in any mixture."""
    items: list = []
    dims = list(shape)
    block = rng.choice([(2,), (3,), (2, 3), (1, 2)])
    d = 0
    ellipsis_at = rng.randrange(4) if rng.random() < 0.3 else None
    while d < len(dims):
        n = dims[d]
        if ellipsis_at == len(items):
            items.append(...)
            d += rng.randrange(len(dims) - d + 1)
            ellipsis_at = None
            continue
        kind = rng.choice(["int", "slice", "none", "array", "list", "mask", "tensor0", "stop"])
        if kind == "none":
            items.append(None)
            continue
        if kind == "stop":
            break
        if kind == "int":
            items.append(rng.randrange(-n, n))
        elif kind == "slice":
            bounds = [rng.choice([None, *range(-n - 1, n + 2)]) for _ in range(2)]
            items.append(slice(*bounds, rng.choice([None, 1, 2, 3])))
        elif kind == "array":
            part = tuple(1 if rng.random() < 0.2 else m for m in block)
            items.append(np.array([rng.randrange(-n, n) for _ in range(int(np.prod(part)))]).reshape(part))
        elif kind == "list":
            items.append([rng.randrange(-n, n) for _ in range(block[-1])])
        elif kind == "tensor0":
            items.append(np.array(rng.randrange(-n, n)))
        else:
            mask = np.zeros(n, bool)  # as many as broadcast with the arrays
            mask[rng.sample(range(n), min(block[-1], n))] = True
            items.append(mask)
        d += 1
    return tuple(items)


def indices(item, make):
    return make(item) if isinstance(item, np.ndarray) else item


def both_indices(index):
    theirs = tuple(indices(i, torch.from_numpy) for i in index)
    ours = tuple(indices(i, dc.from_numpy) for i in index)
    return theirs, ours


def attempt(function, *operands):
    try:
        return function(*operands)
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        return error


@pytest.mark.parametrize("part", range(8))
def test_getitem(part, manual_seed):
    rng = random.Random(1000 * manual_seed + part)
    np_rng = np.random.default_rng(rng.randrange(2**31))
    for _ in range(60):
        index = random_index(rng)
        theirs, ours = both_indices(index)
        x = Pair.of(np_rng.normal(size=SHAPE), requires_grad=True)
        want = attempt(operator.getitem, x.theirs, theirs)
        got = attempt(operator.getitem, x.ours, ours)
        if isinstance(want, Exception):
            assert isinstance(got, DeepcoreError), (index, want, got)
            continue
        assert not isinstance(got, Exception), (index, got)
        Pair(want, got).check(str(index))
        g = np_rng.normal(size=tuple(want.shape))
        (want,) = torch.autograd.grad(want, x.theirs, torch.from_numpy(g))
        (got,) = dc.autograd.grad(got, x.ours, dc.from_numpy(g))
        Pair(want, got).check(f"gradient of {index}")


def repeats(index) -> bool:
    """Whether some element is written twice: which value stays is then open in PyTorch."""
    places = torch.arange(int(np.prod(SHAPE))).reshape(SHAPE)[both_indices(index)[0]]
    return len(torch.unique(places)) != places.numel()


@pytest.mark.parametrize("part", range(8))
def test_setitem(part, manual_seed):
    rng = random.Random(1000 * manual_seed + 100 + part)
    np_rng = np.random.default_rng(rng.randrange(2**31))
    for _ in range(60):
        index = random_index(rng)
        theirs, ours = both_indices(index)
        x = Pair.of(np_rng.normal(size=SHAPE), requires_grad=True)
        region = attempt(operator.getitem, x.theirs, theirs)
        if isinstance(region, Exception) or repeats(index):
            continue
        region = region.shape
        shape = [1 if rng.random() < 0.2 else n for n in region][rng.randrange(len(region) + 1) :]
        value = Pair.of(np_rng.normal(size=tuple(shape)), requires_grad=True)
        base = x.map(lambda t: t * 2)
        after = base.map(lambda t: t * 3)  # reads the old values

        want = attempt(operator.setitem, base.theirs, theirs, value.theirs)
        got = attempt(operator.setitem, base.ours, ours, value.ours)
        assert isinstance(got, Exception) == isinstance(want, Exception), (index, shape, want, got)
        if want is not None:
            continue
        base.check(str(index))
        result = Pair(base.theirs * base.theirs + after.theirs, base.ours * base.ours + after.ours)
        g = np_rng.normal(size=SHAPE)
        wants = torch.autograd.grad(result.theirs, [x.theirs, value.theirs], torch.from_numpy(g), allow_unused=True)
        gots = dc.autograd.grad(result.ours, [x.ours, value.ours], dc.from_numpy(g), allow_unused=True)
        for w, o, what in zip(wants, gots, ("target", "value")):
            if w is None or o is None:
                assert (w is None or not w.any()) and (o is None or not o.any()), (index, what)
            else:
                Pair(w, o).check(f"gradient of the {what}, {index}")


def test_duplicate_writes_on_the_cpu_keep_the_last():
    x, y = dc.zeros(3), torch.zeros(3)
    x[dc.tensor([0, 0, 1])] = dc.tensor([1.0, 2.0, 3.0])
    y[torch.tensor([0, 0, 1])] = torch.tensor([1.0, 2.0, 3.0])
    assert x.tolist() == y.tolist() == [2.0, 3.0, 0.0]


# -- random programs of views and writes ----------------------------------------------------------------------------------


def views(rng: random.Random, shape) -> list:
    """View operations that fit `shape`, each a function of a tensor of either framework.

    Without unbind and chunk: PyTorch refuses to write into their views, deepcore does not.
    """
    found = [
        lambda t: t.view(tuple(t.shape)) if t.is_contiguous() else t.unsqueeze(0),
        lambda t: t.unsqueeze(-1),
        lambda t: t.unsqueeze(0),
        lambda t: t[...],
    ]
    if len(shape) >= 1:
        d = rng.randrange(len(shape))
        n = shape[d]
        a, b = sorted(rng.sample(range(n + 1), 2)) if n else (0, 0)
        i = rng.randrange(n) if n else 0
        key = (slice(None),) * d + (slice(a, b, rng.choice([1, 1, 2])),)
        found += [lambda t: t[key], lambda t: t.narrow(d, a, b - a), lambda t: t.transpose(0, -1)]
        if n:
            found += [lambda t: t.select(d, i), lambda t: t.squeeze()]
    if len(shape) >= 2:
        order = rng.sample(range(len(shape)), len(shape))
        found += [
            lambda t: t.permute(order),
            lambda t: t.movedim(0, -1),
            lambda t: t.flatten() if t.is_contiguous() else t[0],
        ]
    return found


def writes(rng: random.Random) -> list:
    """Writes in place, each a function (tensor, other operand of either framework)."""
    k = rng.choice([0.5, -1.5, 2.0])

    def index_write(t, o):
        t[...] = o * 2

    def iadd(t, o):
        t += o

    def imul(t, o):
        t *= o

    return [
        lambda t, o: t.add_(o), lambda t, o: t.mul_(o), lambda t, o: t.sub_(o), lambda t, o: t.copy_(o), iadd, imul,
        lambda t, o: t.mul_(k), lambda t, o: t.fill_(k), lambda t, o: t.zero_(), lambda t, o: t.sin_(), lambda t, o: t.exp_(),
        lambda t, o: t.neg_(), lambda t, o: t.sigmoid_(), lambda t, o: t.tanh_(), index_write, lambda t, o: t.div_(k),
        lambda t, o: t.clamp_(-0.5, 0.5), lambda t, o: t.square_(),
    ]  # fmt: skip


def program(seed: int) -> str:
    """Runs one random program in both; returns what happened ("ran" or "refused")."""
    rng = random.Random(seed)
    np_rng = np.random.default_rng(seed)
    leaves = [Pair.of(np_rng.uniform(-1, 1, (3, 4)), True), Pair.of(np_rng.uniform(-1, 1, (4,)), True)]
    live = [leaves[0].map(lambda t: t * 1.5), leaves[1].map(lambda t: t * 0.5)]
    if rng.random() < 0.3:
        live.append(Pair.of(np_rng.uniform(-1, 1, (3, 4))))  # written into, it starts to require grad
    trace = []
    for _ in range(rng.randrange(3, 12)):
        at = rng.randrange(len(live))
        pair = live[at]
        shape = tuple(pair.theirs.shape)
        what = rng.random()
        if what < 0.45:
            choice = rng.randrange(len(views(random.Random(0), shape)))
            state = rng.getstate()
            both = []
            for t in (pair.theirs, pair.ours):
                rng.setstate(state)
                both.append(views(rng, shape)[choice](t))
            live.append(Pair(*both))
            trace.append(f"view {choice} of {at}: {tuple(both[0].shape)}")
        elif what < 0.85:
            candidates = [p for p in live if tuple(p.theirs.shape) == shape and p is not pair]
            other = (
                rng.choice(candidates) if candidates and rng.random() < 0.6 else Pair.of(np_rng.uniform(-1, 1, shape))
            )
            choice = rng.randrange(18)
            state = rng.getstate()
            outcomes = []
            trace.append(f"write {choice} into {at}: {shape}")
            for t, o in ((pair.theirs, other.theirs), (pair.ours, other.ours)):
                rng.setstate(state)
                outcomes.append(attempt(writes(rng)[choice], t, o))
            refused = [isinstance(x, Exception) for x in outcomes]
            if refused[0] or refused[1]:
                # PyTorch refuses more: a view taken before its base came to require grad.
                assert refused[0], f"seed {seed}: {trace}: {outcomes}"
                return "refused"
        else:
            live.append(pair.map(lambda t: t.sin() * t))
            trace.append(f"sin·x of {at}")
        for i, p in enumerate(live):
            p.check(f"seed {seed}, tensor {i} after {trace}")
            assert p.ours.requires_grad == p.theirs.requires_grad, f"seed {seed}, tensor {i}: {trace}"
    total = Pair(sum((p.theirs * p.theirs).sum() for p in live), sum((p.ours * p.ours).sum() for p in live))
    want = attempt(lambda: torch.autograd.grad(total.theirs, [p.theirs for p in leaves], allow_unused=True))
    got = attempt(lambda: dc.autograd.grad(total.ours, [p.ours for p in leaves], allow_unused=True))
    if isinstance(want, Exception) or isinstance(got, Exception):
        # deepcore keeps the old value of what an in-place operation itself saved, where PyTorch gives up.
        assert isinstance(want, Exception), f"seed {seed}: {trace}: PyTorch has gradients, but {got}"
        if not isinstance(got, Exception):
            return "kept"
        assert isinstance(got, DeepcoreError), got
        return "refused"
    for w, o in zip(want, got):
        if w is None or o is None:
            assert (w is None or not w.any()) and (o is None or not bool(o.any())), f"seed {seed}: {trace}"
        else:
            Pair(w, o).check(f"seed {seed}: gradient after {trace}")
    return "ran"


@pytest.mark.parametrize("part", range(10))
def test_programs_of_views_and_writes(part, manual_seed):
    """Gradients are PyTorch's, or both refuse; never a wrong one."""
    outcomes = [program(100_000 * manual_seed + 1000 * part + i) for i in range(60)]
    assert outcomes.count("ran") >= 20
