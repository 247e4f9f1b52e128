"""Kernels over rows: reductions, softmax, losses, norms, embedding, dropout; against float64 and PyTorch's error."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore import errors
from deepcore.config import settings
from deepcore.nn import functional as F
from deepcore.ops.registry import FUSED, PRIMITIVES

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

from deepcore.kernels.cpu import argreduce, batch_norm, cross_entropy, dropout, embedding, reductions, softmax  # noqa: E402
from deepcore.kernels.cpu import norm as norm_kernels  # noqa: E402

CPU = dc.get_backend("cpu")
F32, F64, WIDE = np.float32, np.float64, np.longdouble
DTYPES = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
# Each dtype has kernels of its own, and compiling them all takes a minute.
DTYPES_SLOWLY = pytest.mark.parametrize(
    "dtype", [F32, pytest.param(F64, marks=pytest.mark.slow)], ids=["float32", "float64"]
)
LENGTHS = [1, 2, 3, 63, 64, 65, 1000, 3001]


@pytest.fixture(autouse=True)
def kernels_on(monkeypatch):
    monkeypatch.setattr(settings, "kernels", True)


def draw(kind: str, shape, dtype, seed: int = 0) -> np.ndarray:
    """Numbers that are ordinary, far from 0, huge, tiny, or of every size."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape)
    if kind == "offset":
        x += 1e4
    elif kind == "huge":
        x *= 1e30 if dtype == F32 else 1e300
    elif kind == "tiny":
        x *= 1e-30 if dtype == F32 else 1e-300
    elif kind == "mixed":
        x *= 10.0 ** rng.integers(-12, 12, shape)
    return x.astype(dtype)


def reduce(name: str, x, dims, out=None):
    return reductions.REDUCTIONS[name](CPU, x, dims=dims, keepdim=False, out=out)


KINDS = ["normal", "offset", "huge", "tiny", "mixed"]


def both(threads_two):
    """The result with two threads, which one thread must give too, to the bit."""
    before = settings.threads
    try:
        settings.threads = 2
        two = threads_two()
        settings.threads = 1
        one = threads_two()
    finally:
        settings.threads = before
    for a, b in zip(two if isinstance(two, tuple) else (two,), one if isinstance(one, tuple) else (one,)):
        assert a.tobytes() == b.tobytes()
    return two


def error(got, want) -> float:
    """The root mean square of the differences, by that of what is wanted."""
    got, want = np.asarray(got, WIDE), np.asarray(want, WIDE)
    finite = np.isfinite(want) & (np.abs(want) < np.finfo(F32).max)
    if not finite.any():
        return 0.0
    scale = np.sqrt(np.mean(want[finite] ** 2)) or 1.0
    return float(np.sqrt(np.mean(((got[finite] - want[finite]) / scale) ** 2)))


class Errors:
    """Ours and theirs, over many results: one alone may be lucky."""

    def __init__(self, dtype):
        self.eps = float(np.finfo(dtype).eps)
        self.dtype, self.ours, self.theirs = dtype, [], []

    def add(self, got, theirs, want):
        assert got.shape == np.shape(want) and got.dtype == self.dtype
        self.ours.append(error(got, want))
        self.theirs.append(error(theirs, want))
        assert self.ours[-1] <= max(5 * self.theirs[-1], 5 * self.eps)

    def check(self, slack=1.2):
        ours, theirs = (np.sqrt(np.mean(np.square(found))) for found in (self.ours, self.theirs))
        assert len(self.ours) > 4
        assert ours <= max(slack * theirs, self.eps)


def tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x))


# -- reductions -------------------------------------------------------------------------------------------------------

SHAPES = [
    ((1025,), (0,)), ((300_001,), (0,)), ((37, 65), (1,)), ((37, 65), (0,)), ((20_001, 3), (0,)), ((5000, 300), (0,)),
    ((3, 1500, 40), (1,)), ((4, 5, 6, 100), (0, 2)), ((4, 5, 6, 100), (1, 2, 3)), ((2, 700, 2000), (1,)),
    ((1, 1200, 1), (1, 2)), ((64, 1, 64), (0, 1)),
]  # fmt: skip


@DTYPES
@pytest.mark.parametrize("shape, dims", SHAPES)
def test_reductions(shape, dims, dtype):
    for kind in KINDS if shape[0] < 5000 else ["normal"]:
        x = draw(kind, shape, dtype)
        got = both(lambda: reduce("sum", x, dims))  # noqa: B023
        with np.errstate(over="ignore"):
            want = np.sum(x.astype(WIDE), axis=dims)
            theirs = tensor(x).sum(dims).numpy()
        scale = np.sum(np.abs(x.astype(WIDE)), axis=dims)
        ours, other = (np.abs((s - want) / scale).max() for s in (got, theirs))
        assert got.shape == want.shape
        assert ours <= max(1.5 * other, np.finfo(dtype).eps)
        for name in ("amax", "amin"):
            np.testing.assert_array_equal(reduce(name, x, dims), getattr(np, name)(x, axis=dims))


@pytest.mark.parametrize("order", ["F", "strided"])
def test_reductions_of_other_layouts(order):
    x = draw("normal", (64, 80), F32)
    y = np.asfortranarray(x) if order == "F" else np.repeat(x, 2, axis=1)[:, ::2]
    for dim in (0, 1, None):
        want = x.astype(F64).sum(dim)
        np.testing.assert_allclose(dc.as_tensor(y).sum(dim).numpy(), want, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(dc.as_tensor(y).amax(dim).numpy(), x.max(dim))
    out = np.empty(80, F32)
    assert reduce("sum", x, (0,), out=out) is out
    np.testing.assert_array_equal(out, reduce("sum", x, (0,)))


@DTYPES
def test_a_nan_is_the_extreme_and_its_place(dtype):
    x = draw("normal", (3, 2000), dtype)
    x[0, 77] = x[0, 1500] = np.nan
    x[1, 5] = np.inf
    x[2] = -np.inf
    for name in ("amax", "amin"):
        np.testing.assert_array_equal(reduce(name, x, (1,)), getattr(np, name)(x, axis=1))
        assert np.isnan(reduce(name, x, (0, 1)))
    assert np.isnan(reduce("sum", x, (1,))[0])
    np.testing.assert_array_equal(dc.as_tensor(x).argmax(1).numpy(), [77, 5, 0])
    np.testing.assert_array_equal(dc.as_tensor(x).argmin(1).numpy(), [77, x[1].argmin(), 0])


@DTYPES
@pytest.mark.parametrize("n", [1, 5, 64, 65, 1000, 5000, 200_001])
def test_places_and_the_k_largest(n, dtype):
    rng = np.random.default_rng(n)
    for nans in (0, 2):
        x = rng.integers(0, 50, (3, n)).astype(dtype)
        x.reshape(-1)[rng.integers(0, x.size, nans)] = np.nan
        for arg in ("argmax", "argmin"):
            got = both(lambda: getattr(argreduce, arg)(CPU, x, dim=1))  # noqa: B023
            np.testing.assert_array_equal(got, getattr(np, arg)(x, axis=1))
        for k in {1, min(n, 7), min(n, 100), n if n <= 5000 else 3}:
            for largest in (True, False):
                got = both(lambda: argreduce.topk(CPU, x, k=k, dim=1, largest=largest))  # noqa: B023
                want = PRIMITIVES["topk"].forward(CPU, x, k=k, dim=1, largest=largest)
                np.testing.assert_array_equal(got, want)


# -- softmax ----------------------------------------------------------------------------------------------------------


def softmax_of(x, dim):
    """softmax, its logarithm and the logsumexp of x in the widest float."""
    x = x.astype(WIDE)
    top = x.max(dim, keepdims=True)
    powers = np.exp(x - top)
    total = powers.sum(dim, keepdims=True)
    return powers / total, x - top - np.log(total), (top + np.log(total)).squeeze(dim)


@DTYPES_SLOWLY
@pytest.mark.parametrize("kind", KINDS)
def test_softmax(kind, dtype):
    found = {
        name: Errors(dtype) for name in ("softmax", "log_softmax", "softmax_grad", "log_softmax_grad", "logsumexp")
    }
    for shape, dim in [
        *(((7, n), 1) for n in LENGTHS),
        ((2, 40, 33), 1),
        ((3, 100, 20), 1),
        ((3, 7, 2), 1),
        ((66, 5), 0),
    ]:
        x, g = draw(kind, shape, dtype), draw("normal", shape, dtype, 1)
        exact, logarithm, total = softmax_of(x, dim)
        for name, want in (("softmax", exact), ("log_softmax", logarithm)):
            y = both(lambda: getattr(softmax, name)(CPU, x, dim=dim))  # noqa: B023
            dx = both(lambda: getattr(softmax, f"{name}_grad")(CPU, g, y, dim=dim))  # noqa: B023
            leaf = tensor(x).requires_grad_()
            theirs = getattr(torch, name)(leaf, dim)
            found[name].add(y, theirs.detach().numpy(), want)
            (their_dx,) = torch.autograd.grad(theirs, leaf, tensor(g))
            if name == "softmax":
                want_dx = exact * (g - (exact * g).sum(dim, keepdims=True))
            else:
                want_dx = g - exact * g.astype(WIDE).sum(dim, keepdims=True)
            found[f"{name}_grad"].add(dx, their_dx.numpy(), want_dx)
        if dim == x.ndim - 1:
            found["logsumexp"].add(softmax.logsumexp(CPU, x), torch.logsumexp(tensor(x), dim).numpy(), total)
    for each in found.values():
        each.check()


@DTYPES_SLOWLY
@pytest.mark.parametrize("n", [5, 300])
def test_softmax_at_the_edges(n, dtype):
    x = np.zeros((6, n), dtype)
    x[0, 1:] = -np.inf
    x[1] = -np.inf
    x[2, 3] = np.nan
    x[3, 1] = np.inf
    x[4] = np.linspace(0, -800 if dtype == F64 else -110, n)
    for name in ("softmax", "log_softmax"):
        got = getattr(softmax, name)(CPU, x, dim=1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
            want = softmax_of(x, 1)[name == "log_softmax"].astype(dtype)
        tiny = np.finfo(dtype).eps if name == "log_softmax" else 2 * np.finfo(dtype).smallest_subnormal
        np.testing.assert_allclose(got, want, rtol=1e-5 if dtype == F32 else 1e-13, atol=tiny)
    total = softmax.logsumexp(CPU, x)
    np.testing.assert_allclose(total[[0, 1, 2, 3, 5]], [0, -np.inf, np.nan, np.inf, np.log(n)], rtol=1e-6)
    x[3, -1] = np.nan
    assert np.isnan(softmax.logsumexp(CPU, x)[3])


# -- cross-entropy ----------------------------------------------------------------------------------------------------


def cross_entropy_of(x, target, weight, ignore_index, label_smoothing, reduction):
    """The loss and its gradient in the widest float."""
    exact, logarithm, _ = softmax_of(x, 1)
    classes = x.shape[1]
    weight = (np.ones(classes, WIDE) if weight is None else weight.astype(WIDE)).reshape(-1, *(1,) * (x.ndim - 2))
    chosen = np.expand_dims(target, 1) == np.arange(classes).reshape(weight.shape)
    valid = np.expand_dims(target != ignore_index, 1)
    wanted = (chosen * (1 - WIDE(label_smoothing)) + WIDE(label_smoothing) / classes) * weight * valid
    divisor = (chosen * weight * valid).sum() if reduction == "mean" else 1
    loss = -(wanted * logarithm).sum(1)
    return (loss if reduction == "none" else loss.sum() / divisor), (
        exact * wanted.sum(1, keepdims=True) - wanted
    ) / divisor


@DTYPES_SLOWLY
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(1, 3), (70, 10), (9, 64), (33, 300), (2, 21, 40), (2, 90, 5), (3, 4, 5, 7)])
def test_cross_entropy(shape, smoothing, dtype):
    rng = np.random.default_rng(0)
    found = Errors(dtype), Errors(dtype)
    x, target = draw("normal", shape, dtype) * 4, rng.integers(0, shape[1], shape[:1] + shape[2:])
    for weight in (None, rng.random(shape[1]).astype(dtype) + dtype(0.1)):
        for reduction, ignored in (("mean", -100), ("mean", 1), ("sum", 1), ("none", 2)):
            if (target == ignored).all():
                continue
            options = {"ignore_index": ignored, "label_smoothing": smoothing, "reduction": reduction}

            def run(function, make, target_of):
                leaf = make(x).requires_grad_()
                w = None if weight is None else make(weight)  # noqa: B023
                loss = function(leaf, target_of(target), w, **options)  # noqa: B023
                loss.sum().backward()
                return loss.detach().numpy(), leaf.grad.numpy()

            got = both(lambda: run(F.cross_entropy, dc.tensor, dc.tensor))
            theirs = run(torch.nn.functional.cross_entropy, tensor, torch.from_numpy)
            for each, *results in zip(found, got, theirs, cross_entropy_of(x, target, weight, **options)):
                each.add(*results)
            w = None if weight is None else dc.tensor(weight)
            unrecorded = F.cross_entropy(dc.tensor(x), dc.tensor(target), w, **options)
            np.testing.assert_array_equal(unrecorded.numpy(), got[0])
    for each in found:
        each.check()
    leaf = dc.tensor(x, requires_grad=True)
    assert F.cross_entropy(leaf, dc.tensor(target), label_smoothing=smoothing).grad_fn.name == "CrossEntropyBackward"


def test_the_gradient_of_a_cross_entropy_is_differentiable(backend):
    rng = np.random.default_rng(0)
    for shape, options in (
        ((4, 3), {}),
        ((4, 3), {"reduction": "none", "label_smoothing": 0.1}),
        ((2, 3, 2), {"ignore_index": 1}),
    ):
        x = dc.tensor(rng.standard_normal(shape), backend=backend, requires_grad=True)
        target = dc.tensor(rng.integers(0, 3, shape[:1] + shape[2:]), backend=backend)
        weight = dc.tensor([0.5, 2.0, 1.0], dtype=dc.float64, backend=backend)
        function = lambda x: F.cross_entropy(x, target, weight, **options)  # noqa: B023
        assert dc.autograd.gradcheck(function, (x,)) and dc.autograd.gradgradcheck(function, (x,))


def test_a_class_out_of_range_is_named(backend):
    x, target = dc.zeros(3, 2, 50, backend=backend), dc.zeros(3, 50, dtype=dc.int64, backend=backend)
    target[2, 7] = 2
    with pytest.raises(errors.IndexRangeError, match=r"class 2 at target\[2, 7\]"):
        F.cross_entropy(x, target)
    assert F.cross_entropy(x, target, ignore_index=2).item() == pytest.approx(np.log(2))
    assert np.isnan(F.cross_entropy(x[:0], target[:0]).item())


# -- norms ------------------------------------------------------------------------------------------------------------


NORMS = ["layer_norm", "rms_norm", "batch_norm", "batch_norm_eval"]


def norm_of(name, x, parameters):
    """Our function of the inputs, PyTorch's, and (result, gradients) in the widest float, given that of the result."""
    channels = x.shape[1:2]
    running = [draw("normal", channels, x.dtype, 5), np.abs(draw("normal", channels, x.dtype, 6)) + x.dtype.type(0.5)]
    module = torch.nn.functional
    along = (-1, *(1,) * (x.ndim - 2)) if name.startswith("batch") else (-1,)
    dims = tuple(d for d in range(x.ndim) if d != 1) if name.startswith("batch") else -1
    others = dims if name.startswith("batch") else tuple(range(x.ndim - 1))
    if name == "batch_norm":
        ours = lambda x, w=None, b=None: F.batch_norm(x, None, None, w, b, True)
        theirs = lambda x, w=None, b=None: module.batch_norm(x, None, None, w, b, True)
    elif name == "batch_norm_eval":
        ours = lambda x, *p: F.batch_norm(x, *map(dc.tensor, running), *p)
        theirs = lambda x, *p: module.batch_norm(x, *map(tensor, running), *p)
    else:
        ours = lambda x, *p: getattr(F, name)(x, x.shape[-1:], *p, eps=1e-5)
        theirs = lambda x, *p: getattr(module, name)(x, x.shape[-1:], *p, eps=1e-5)

    def exact(g):
        v, g = x.astype(WIDE), g.astype(WIDE)
        w, b = [p.astype(WIDE).reshape(along) for p in parameters] + [WIDE(1), WIDE(0)][len(parameters) :]
        if name == "batch_norm_eval":
            mean, variance = (r.astype(WIDE).reshape(along) for r in running)
        else:
            mean = 0 if name == "rms_norm" else v.mean(dims, keepdims=True)
            variance = ((v - mean) ** 2).mean(dims, keepdims=True)
        scale = 1 / np.sqrt(variance + WIDE(1e-5))
        hat, gw = (v - mean) * scale, g * w
        dx = gw
        if name != "batch_norm_eval":
            dx = gw - hat * (gw * hat).mean(dims, keepdims=True)
            dx = dx - (0 if name == "rms_norm" else gw.mean(dims, keepdims=True))
        return (hat * w + b, dx * scale, (g * hat).sum(others), g.sum(others))[: 2 + len(parameters)]

    return ours, theirs, exact


@DTYPES_SLOWLY
@pytest.mark.parametrize("affine", [0, 1, 2])
@pytest.mark.parametrize("name", NORMS)
def test_norms(name, affine, dtype):
    if name == "rms_norm" and affine == 2:
        pytest.skip("it has no bias")
    shapes = [(5, 10), (64, 3), (7, 65), (3, 3001), (200, 300), (9, 4, 33)]
    if name.startswith("batch"):
        shapes = [(5, 10), (64, 3), (200, 300), (1000, 8), (6, 7, 70), (4, 3, 9, 9)]
    found = [Errors(dtype) for _ in range(2 + affine)]
    for shape in shapes:
        for kind in ("normal", "offset", "tiny"):
            x, g = draw(kind, shape, dtype), draw("normal", shape, dtype, 1)
            sizes = shape[1:2] if name.startswith("batch") else shape[-1:]
            parameters = [draw("normal", sizes, dtype, 2 + i) for i in range(affine)]
            ours, theirs, exact = norm_of(name, x, parameters)

            def run(function, make, grads):
                leaves = [make(a).requires_grad_() for a in (x, *parameters)]  # noqa: B023
                out = function(*leaves)
                return tuple(t.detach().numpy() for t in (out, *grads(out, leaves, make(g))))  # noqa: B023

            got = both(lambda: run(ours, dc.tensor, dc.autograd.grad))  # noqa: B023
            for each, *results in zip(found, got, run(theirs, tensor, torch.autograd.grad), exact(g)):
                each.add(*results)
    for each in found:
        each.check(1.7)  # the mean of numbers far from 0 is rounded to within them, by luck


def test_batch_norm_moves_its_running_statistics():
    for shape in ((40, 3), (5, 3, 11)):
        x = draw("offset", shape, F32)
        ours, theirs = dc.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
        for _ in range(2):
            ours(dc.tensor(x))
            theirs(tensor(x))
        for name in ("running_mean", "running_var"):
            np.testing.assert_allclose(getattr(ours, name).numpy(), getattr(theirs, name).numpy(), rtol=2e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm"])
def test_norms_of_sixteen_bits_are_rounded_once(name, dtype, backend):
    x = dc.tensor(draw("normal", (8, 5), F32), backend=backend).to(dtype)
    weight = dc.tensor(draw("normal", (5,), F32, 1), backend=backend).to(dtype)
    if name == "batch_norm":
        norm = lambda x, w: F.batch_norm(x, None, None, w, None, True)
    else:
        norm = lambda x, w: getattr(F, name)(x, 5, w, eps=1e-5)
    got = norm(x, weight)
    assert got.dtype == x.dtype
    assert got.float().tolist() == norm(x.float(), weight.float()).to(dtype).float().tolist()
    with pytest.raises(errors.DTypeError, match="floating tensor"):
        norm(x.long(), None)


@pytest.mark.parametrize("name", NORMS)
def test_gradients_of_norms_are_differentiable(name):
    rng = np.random.default_rng(0)
    for affine in range(2 if name == "rms_norm" else 3):
        inputs = [rng.standard_normal((4, 3, 2) if name.startswith("batch") else (4, 3))]
        inputs += [rng.standard_normal(3) for _ in range(affine)]
        leaves = tuple(dc.tensor(a, requires_grad=True) for a in inputs)
        assert dc.autograd.gradgradcheck(norm_of(name, inputs[0], inputs[1:])[0], leaves)


# -- embedding and dropout --------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize(
    "count, width, shape", [(5, 3, (7,)), (100, 64, (40, 3)), (1000, 300, (2000,)), (2, 1000, (50,))]
)
def test_embedding(count, width, shape, dtype):
    rng = np.random.default_rng(0)
    table, index = draw("normal", (count, width), dtype), rng.integers(0, count, shape)
    g = draw("normal", (*shape, width), dtype, 1)
    np.testing.assert_array_equal(both(lambda: embedding.rows(CPU, table, index)), table[index])
    want = np.zeros_like(table)
    np.add.at(want, index, g)
    np.testing.assert_array_equal(both(lambda: embedding.rows_grad(CPU, g, index, count=count)), want)
    want[1] = 0
    leaf = dc.tensor(table, requires_grad=True)
    F.embedding(dc.tensor(index), leaf, 1).backward(dc.tensor(g))
    np.testing.assert_array_equal(leaf.grad.numpy(), want)
    for bad in (-1, count):
        index.reshape(-1)[-1] = bad
        with pytest.raises(errors.IndexRangeError, match=f"index {bad} is out of range"):
            F.embedding(dc.tensor(index), leaf)


@DTYPES
@pytest.mark.parametrize("n", [1, 5, 1000, 70_001])
def test_dropout_draws_what_bernoulli_draws(n, dtype):
    x = draw("normal", (n,), dtype)
    for p in (0.1, 0.5, 1.0):
        for seed, stream, position in ((3, 0, 7), (2**64 - 5, 2**63, 2**64 - 3)):
            state = {"seed": seed, "stream": stream, "position": position}
            dc.random.set_rng_state(state)
            mask = dc.random.raw_bernoulli(CPU, None, (n,), 1 - p).astype(dtype)
            after = dc.random.get_rng_state()
            if p < 1:
                mask *= 1 / (1 - p)
            leaf = dc.tensor(x, requires_grad=True)

            def ours():
                dc.random.set_rng_state(state)  # noqa: B023
                out = F.dropout(leaf, p)  # noqa: B023
                return out.detach().numpy(), dc.autograd.grad(out.sum(), leaf)[0].numpy()  # noqa: B023

            out, dx = both(ours)
            np.testing.assert_array_equal(out, x * mask)
            np.testing.assert_array_equal(dx, mask)
            assert dc.random.get_rng_state() == after
    dc.random.set_rng_state({"seed": 0, "stream": 0, "position": 0})


# -- all of them ------------------------------------------------------------------------------------------------------


def test_results_go_where_they_are_wanted():
    x, g = draw("normal", (70, 100), F32), draw("normal", (70, 100), F32, 1)
    y = softmax.softmax(CPU, x, dim=1)
    weight, (_, statistics) = x[0].copy(), norm_kernels.layer_norm(CPU, x, rank=1, eps=1e-5)
    batch = batch_norm.batch_statistics(CPU, x, eps=1e-5)
    state = {"seed": 1, "stream": 0, "position": 0, "p": 0.3}
    index = np.arange(70)
    for call in (
        lambda **o: softmax.softmax(CPU, x, dim=1, **o),
        lambda **o: softmax.softmax(CPU, x, dim=0, **o),
        lambda **o: softmax.log_softmax_grad(CPU, g, y, dim=1, **o),
        lambda **o: norm_kernels.layer_norm(CPU, x, weight, rank=1, eps=1e-5, **o)[0],
        lambda **o: norm_kernels.rms_norm_grad(CPU, g, x, statistics[:1], weight, rank=1, eps=1e-5, affine=1, **o)[0],
        lambda **o: batch_norm.batch_norm(CPU, x, batch, weight, weight, batch=True, eps=1e-5, **o),
        lambda **o: batch_norm.batch_norm_grad(CPU, g, x, batch, weight, batch=True, affine=2, eps=1e-5, **o)[0],
        lambda **o: dropout.dropout(CPU, x, **state, **o),
        lambda **o: embedding.rows(CPU, x, index, **o),
        lambda **o: embedding.rows_grad(CPU, g, index, count=70, **o),
    ):
        want, out = call(), np.empty_like(x)
        assert call(out=out) is out
        np.testing.assert_array_equal(out, want)


def test_every_kernel_of_rows_belongs_to_an_op():
    names = {n for n, kind in dc.kernels.registry._KERNELS if kind == "cpu"} & {
        name
        for module in (reductions, argreduce, softmax, cross_entropy, norm_kernels, batch_norm, embedding, dropout)
        for name in vars(module)
    }
    assert len(names) >= 20
    assert names <= set(PRIMITIVES) | set(FUSED)
