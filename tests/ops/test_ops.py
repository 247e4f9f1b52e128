"""Every declared function, by walking the registry: forward, gradients of two orders, layouts, purity."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import ClassVar

import numpy as np
import pytest
from op_samples import Make, as_function, outputs_of, replace, samples, strided, tensors_in

import deepcore as dc
from deepcore import errors
from deepcore.config import settings
from deepcore.ops.registry import FUNCTIONS
from deepcore.tensor import Tensor

NAMES = sorted(FUNCTIONS)
#: Views of strided memory that are refused.
DENSE = ("view", "view_as", "view_as_complex")
DIFFERENTIABLE = [n for n in NAMES if FUNCTIONS[n].differentiable]


@pytest.mark.parametrize("name", NAMES)
def test_forward_runs_and_leaves_its_inputs_alone(name, backend):
    entry = FUNCTIONS[name]
    for one in samples(name, backend):
        given = tensors_in([*one.args, *one.kwargs.values()])
        before = [t.detach().numpy().copy() for t in given]
        outputs = outputs_of(entry.function(*one.args, **one.kwargs))
        assert outputs, "an op returns at least one tensor"
        for t, copy in zip(given, before):
            np.testing.assert_array_equal(t.detach().numpy(), copy)
        for out in outputs:
            assert type(out._data) is out.backend.array_type
            assert out.backend == backend


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("getitem", "to")])  # methods, whose tensor is a tensor
def test_arrays_count_as_constant_tensors(name, backend):
    entry = FUNCTIONS[name]
    for one in samples(name, backend):
        tensors = tensors_in([*one.args, *one.kwargs.values()])
        with dc.no_grad():
            expected = outputs_of(entry.function(*one.args, **one.kwargs))
        for chosen in (tensors, tensors[:1], tensors[1:]):
            mapping = {id(t): t._data for t in chosen}
            again = entry.function(
                *(replace(a, mapping) for a in one.args), **{k: replace(v, mapping) for k, v in one.kwargs.items()}
            )
            assert len(outputs_of(again)) == len(expected)
            for a, b in zip(outputs_of(again), expected):
                assert a.backend is b.backend and a.dtype == b.dtype
                np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_strided_inputs_give_the_same_result(name, backend):
    entry = FUNCTIONS[name]
    if name in DENSE:
        pytest.skip("a view of strided memory is refused, as it should be")
    for one in samples(name, backend):
        given = tensors_in([*one.args, *one.kwargs.values()])
        mapping = {id(t): strided(t) for t in given}
        again = entry.function(
            *(replace(a, mapping) for a in one.args), **{k: replace(v, mapping) for k, v in one.kwargs.items()}
        )
        for a, b in zip(outputs_of(entry.function(*one.args, **one.kwargs)), outputs_of(again)):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient(name, backend):
    checked = 0
    for one in samples(name, backend):
        call, leaves = as_function(FUNCTIONS[name], one)
        if leaves and any(o.requires_grad for o in outputs_of(call(*leaves))):
            dc.autograd.gradcheck(_tuple(call), leaves, rtol=1e-5, atol=1e-7)
            checked += 1
            spread = [strided(t) for t in leaves]
            if name not in DENSE:
                dc.autograd.gradcheck(_tuple(call), spread, rtol=1e-5, atol=1e-7)
    assert checked, f"{name} has no sample with a gradient"


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if FUNCTIONS[n].second_order])
def test_second_gradient(name, backend):
    for one in samples(name, backend):
        call, leaves = as_function(FUNCTIONS[name], one)
        if leaves and sum(t.numel() for t in leaves) <= 24 and any(o.requires_grad for o in outputs_of(call(*leaves))):
            dc.autograd.gradgradcheck(_tuple(call), leaves, rtol=1e-4, atol=1e-6)


def test_second_gradients_cover_the_registry():
    assert sum(FUNCTIONS[n].second_order for n in DIFFERENTIABLE) >= 0.9 * len(DIFFERENTIABLE)


def _tuple(call):
    @functools.wraps(call)
    def wrapped(*given):
        return tuple(outputs_of(call(*given)))

    return wrapped


@pytest.mark.parametrize("name", [n for n in NAMES if FUNCTIONS[n].method])
def test_methods_and_aliases_are_installed(name):
    entry = FUNCTIONS[name]
    for each in entry.names:
        assert operator.attrgetter(each)(dc) is entry.function
        assert "." in each or getattr(Tensor, each) is entry.function
    assert entry.function.__doc__, "a public function says what it computes"


def total(t: Tensor) -> Tensor:
    """The sum of the elements, of complex ones of both parts."""
    return (dc.view_as_real(t) if t.is_complex() else t).sum()


@pytest.mark.parametrize("name", [n for n in NAMES if FUNCTIONS[n].inplace])
def test_in_place_equals_the_function(name, backend):
    """t.exp_() holds what t.exp() gives, and the gradient of what was computed before is the same."""
    entry = FUNCTIONS[name]
    for one in samples(name, backend):
        if not isinstance(one.args[0], Tensor):
            continue
        first, *rest = one.args
        expected = entry.function(first, *rest, **one.kwargs)
        if expected.shape != first.shape:
            continue
        leaves = [t for t in tensors_in([first, *rest]) if t.requires_grad]
        weights = dc.tensor(
            np.linspace(0.5, 1.5, max(expected.numel(), 1))[: expected.numel()].reshape(expected.shape), backend=backend
        )
        flat = not expected.requires_grad  # a comparison: what it overwrites gets no gradient
        want = [dc.zeros_like(t) for t in leaves]
        if not flat:
            want = dc.autograd.grad(total(expected * weights), leaves, allow_unused=True)
        copy = first.clone()
        result = getattr(copy, f"{name}_")(*rest, **one.kwargs)
        assert result is copy
        np.testing.assert_allclose(copy.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
        if not leaves:
            continue
        got = dc.autograd.grad(total(copy * weights), leaves, allow_unused=True)
        for a, b in zip(want, got):
            if flat and b is None:
                continue
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "shape, dim", [((100_000, 3), 0), ((3, 100_000, 2), 1), ((400, 500, 2), (0, 1)), ((600, 3), 0)]
)
def test_long_sums_lose_no_digits(shape, dim, backend):
    """Also along a dimension that is not the last, where an array library may add one row after the other."""
    if backend == "standin":
        pytest.skip("it adds as NumPy does, where CuPy adds in a tree")
    exact = np.random.default_rng(0).uniform(1000, 1001, shape).astype(np.float32)
    axis = tuple(dim) if isinstance(dim, tuple) else dim
    x = dc.tensor(exact, backend=backend)
    for keep in (False, True):
        want = exact.astype(np.float64).sum(axis, keepdims=keep)
        np.testing.assert_allclose(x.sum(dim, keep).numpy(), want, rtol=1e-6)
    np.testing.assert_allclose(x.mean(dim).numpy(), exact.mean(axis, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_floats_add_up_in_a_wider_type(dtype, backend):
    ones = dc.ones(5000, dtype=dtype, backend=backend)
    tolerance = {"rtol": 1e-2}
    for got, want in [
        (ones.sum(), 5000),
        (ones.cumsum(0)[-1], 5000),
        (ones.softmax(0)[0], 1 / 5000),
        (ones.log_softmax(0)[0], -np.log(5000)),
        ((ones * 50).mean(), 50),
        ((ones * 300).mean(), 300),
        (ones.logsumexp(0), 1 + np.log(5000)),
        (dc.arange(300, dtype=dtype, backend=backend).var(), np.arange(300).var(ddof=1)),
    ]:
        assert dc.backend.dtypes.name_of(got.dtype) == dtype
        np.testing.assert_allclose(got.item(), want, **tolerance)
    x = dc.ones(5000, dtype=dtype, backend=backend, requires_grad=True)
    (x.mean() + x.softmax(0)[0]).backward()
    np.testing.assert_allclose(x.grad.numpy()[1:].astype(float), 1 / 5000, **tolerance)


@pytest.mark.parametrize("shape", [(0,), (0, 0), (2, 3, 0), (0, 3, 2), (2, 0, 3)])
def test_sums_of_nothing(shape, backend):
    for dim in (None, 0, -1, tuple(range(len(shape))), tuple(range(len(shape) - 1)) or 0):
        out = dc.zeros(*shape, dtype="float64", backend=backend).sum(dim)
        expected = np.zeros(shape).sum(dim)
        assert out.shape == expected.shape
        np.testing.assert_array_equal(out.numpy(), expected)


# -- kernels ----------------------------------------------------------------------------------------------------------


class Larger(Make):
    """The same samples with dimensions of 3 and 4 stretched, in a dtype: what a kernel divides among threads."""

    stretch: ClassVar = {3: 67, 4: 1031}

    def __init__(self, name: str, dtype):
        super().__init__("cpu", name)
        self.dtype = dtype

    def _shape(self, shape) -> tuple[int, ...]:
        return tuple(self.stretch.get(n, n) for n in shape)

    def __call__(self, *shape, **limits) -> Tensor:
        return super().__call__(*self._shape(shape), **limits).detach().to(self.dtype).requires_grad_()

    def int(self, high, *shape) -> Tensor:
        return super().int(high, *self._shape(shape))

    def bool(self, *shape) -> Tensor:
        return super().bool(*self._shape(shape))


def everything(name: str, dtype) -> list[np.ndarray]:
    """Outputs and gradients of every sample of a function that can be stretched."""
    found = []
    entry = FUNCTIONS[name]
    for one in entry.examples(Larger(name, dtype)):
        call, leaves = as_function(entry, one)
        try:
            result = call(*leaves)
        except errors.DeepcoreError:  # its arguments say something about the shape
            continue
        outputs = outputs_of(result)
        found += [t.detach().numpy() for t in outputs]
        pulled = [t for t in outputs if t.requires_grad]
        if pulled:
            rng = np.random.default_rng(len(found))
            pulls = [dc.tensor(rng.standard_normal(t.shape), dtype=t.dtype) for t in pulled]
            gradients = dc.autograd.grad(pulled, leaves, pulls, allow_unused=True)
            found += [g.numpy() for g in gradients if g is not None]
    return found


@pytest.mark.parametrize(
    "name, every",
    [
        *((name, [{"dim": 1}, {"dim": 0, "keepdim": True}, {"dim": 1, "keepdim": True}]) for name in ("sum", "amax")),
        ("argmax", [{"dim": 1}, {"dim": 1, "keepdim": True}, {"dim": 0}]),
        *((name, [{"dim": 1}, {"dim": 0}, {"dim": -1}]) for name in ("softmax", "log_softmax")),
    ],
)
def test_what_is_kept_from_a_call_is_right_for_later_ones(name, every, monkeypatch):
    """The same shape twice, in another layout, at an odd address, with other parameters, without kernels, and afterwards."""
    from deepcore.kernels import plan

    monkeypatch.setattr(plan, "_MAX_CACHED", 4)  # so that it also begins anew
    rng = np.random.default_rng(0)
    for kernels, rows in ((True, 40), (True, 41), (False, 40), (True, 40)):
        monkeypatch.setattr(settings, "kernels", kernels)
        x = rng.standard_normal((rows, 50)).astype("f")
        odd = np.frombuffer(bytearray(x.nbytes + 1), np.uint8)[1:].view(np.float32).reshape(x.shape)
        odd[...] = x
        for array in (x, x, np.asfortranarray(x), x[::-1], odd, x.astype(np.float64), x):
            for params in every:
                got = getattr(dc, name)(dc.from_numpy(array), **params)
                wanted = EXACT[name](array.astype(np.float64), params["dim"], params.get("keepdim", False))
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-5)


def _log_softmax(x, axis, keepdims):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


EXACT = {
    "sum": lambda x, axis, keepdims: x.sum(axis, keepdims=keepdims),
    "amax": lambda x, axis, keepdims: x.max(axis, keepdims=keepdims),
    "argmax": lambda x, axis, keepdims: x.argmax(axis, keepdims=keepdims),
    "softmax": lambda *call: np.exp(_log_softmax(*call)),
    "log_softmax": _log_softmax,
}


@pytest.mark.parametrize(
    "dtype", [dc.float32, pytest.param(dc.float64, marks=pytest.mark.slow)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_give_what_the_reference_gives_on_any_number_of_threads(name, dtype, monkeypatch):
    monkeypatch.setattr(settings, "threads", 2)
    two = everything(name, dtype)
    if not two:
        pytest.skip("its samples do not stretch")
    monkeypatch.setattr(settings, "threads", 1)
    one = everything(name, dtype)
    assert [a.tobytes() for a in one] == [a.tobytes() for a in two]
    monkeypatch.setattr(settings, "kernels", False)
    plain = everything(name, dtype)
    tight = 3e-5 if dtype == dc.float32 else 1e-12
    for ours, reference in zip(two, plain):
        assert ours.shape == reference.shape and ours.dtype == reference.dtype
        size = np.abs(reference).max(initial=0, where=np.isfinite(reference))
        if reference.size == 1:  # what is left of 70,000 terms that cancel
            size += 3.0
        np.testing.assert_allclose(ours, reference, rtol=tight, atol=tight * size)


@pytest.mark.parametrize("size", [3, 300_000])
def test_bounds_of_integers(size, backend):
    """There is no kernel for them, whatever the size."""
    x = dc.arange(size, backend=backend) - 1
    assert x.clamp(0, 1)[:3].tolist() == [0, 0, 1] and x.clamp(0, 1).dtype == dc.int64
    assert dc.hardtanh(x)[:3].tolist() == [-1, 0, 1] and dc.relu6(x)[:3].tolist() == [0, 0, 1]
    assert dc.threshold(x, 0, 7)[:3].tolist() == [7, 7, 1]


# -- 16-bit floats ----------------------------------------------------------------------------------------------------

WITH_NUMBERS = {
    "x + n": lambda x, n: x + n, "n - x": lambda x, n: n - x, "x * n": lambda x, n: x * n, "n * x": lambda x, n: n * x,
    "x / n": lambda x, n: x / n, "n / x": lambda x, n: n / x, "x // n": lambda x, n: x // n,
    "x trunc/ n": lambda x, n: dc.div(x, n, rounding_mode="trunc"), "x *= n": lambda x, n: x.clone().mul_(n),
    "x + n·x": lambda x, n: x.add(x, alpha=n), "x - n·x": lambda x, n: x.sub(x, alpha=n),
    "leaky relu": lambda x, n: dc.nn.functional.leaky_relu(x, n),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_a_number_is_not_rounded_to_16_bits(name, dtype, backend):
    """Values and gradients are those of float32, rounded once; of tensors without dimensions, too."""
    function, values = WITH_NUMBERS[name], [-1.7, -0.25, 0.1, 0.3, 2.0]
    for n, shape in itertools.product((65536, 1e-6, 0.1, 70000.0), ((5,), ())):
        x = dc.tensor(values if shape else 0.3, backend=backend).to(dtype).requires_grad_()
        w = x.detach().float().requires_grad_()
        out, want = function(x, n), function(w, n)
        assert out.dtype == x.dtype and np.array_equal(out.tolist(), want.to(dtype).tolist(), equal_nan=True)
        if name in ("x * n", "n * x", "x *= n", "x / n", "leaky relu"):
            out.sum().backward()
            want.sum().backward()
            assert x.grad.dtype == x.dtype and x.grad.tolist() == w.grad.to(dtype).tolist()


def test_loss_scaling_in_16_bits(backend):
    x = dc.tensor([0.25], dtype=dc.float16, backend=backend)
    assert (x * 65536).tolist() == [16384] and (16384 * x / 65536).tolist() == [0.0625]
    scale = dc.tensor(65536.0, backend=backend, requires_grad=True)  # without dimensions, it counts as a number
    many = dc.full((4000,), 0.25, dtype=dc.float16, backend=backend)
    out = many * scale
    assert out.dtype == dc.float16 and out[0].item() == 16384
    out.backward(dc.ones_like(out))
    assert scale.grad.dtype == dc.float32 and scale.grad.item() == 1000
    # Comparisons take the number in the tensor's dtype, as PyTorch's do.
    assert (dc.tensor([0.1], dtype=dc.float16, backend=backend) == 0.1).tolist() == [True]


def test_numbers_beside_16_bits_compiled():
    x = dc.tensor([0.25, -2.0], dtype=dc.float16)
    step = lambda x: (x * 65536 / 3, x.add(x, alpha=0.1))
    compiled = dc.compile(step)
    for _ in range(3):
        assert [t.tolist() for t in compiled(x)] == [t.tolist() for t in step(x)]


@pytest.mark.parametrize("tensors, alpha", [([1], 2.5), ([1], 1.0), ([1], True), ([1.0], True), ([True], 2.5)])
@pytest.mark.parametrize("name", ["add", "sub"])
def test_alpha_is_of_the_results_kind(name, tensors, alpha):
    x = dc.tensor(tensors)
    with pytest.raises(errors.DTypeError, match=f"(?s){name}: alpha.*received: +alpha={alpha}"):
        getattr(dc, name)(x, x, alpha=alpha)
    assert getattr(dc, name)(dc.tensor([4]), dc.tensor([2]), alpha=3).tolist() == [10 if name == "add" else -2]
    assert dc.add(dc.tensor([1]), 2.0, alpha=2.5).tolist() == [6.0]


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_factors_fit_the_dtype_of_integers(name):
    x = dc.tensor([[1]], dtype=dc.uint8)
    calls = [lambda factor: dc.addmm(x, x, x, **{name: factor})]
    if name == "alpha":
        calls += [lambda factor, other=other: dc.add(x, other, alpha=factor) for other in (x, 1, dc.tensor(1))]
        with pytest.raises(errors.DTypeError, match="400 does not fit dtype uint8"):
            dc.sub(x, 200, alpha=2)
    for call in calls:
        with pytest.raises(errors.DTypeError, match="300 does not fit dtype uint8"):
            call(300)
        with pytest.raises(errors.DTypeError, match=f"(?s){name}.*received: +{name}=2.5"):
            call(2.5)
        assert call(3).item() == 4 and call(3).dtype == dc.uint8


@pytest.mark.parametrize("dtype", [dc.float16, dc.bfloat16])
def test_addmm_of_16_bits_rounds_once(dtype, backend):
    a, c = (dc.tensor([[number]], dtype=dtype, backend=backend) for number in (300.0, 6e4))
    assert dc.addmm(c, a, a, beta=0, alpha=0.125).item() == dc.tensor(11250.0, dtype=dtype).item()
    exact = 9e4 - c.item()  # 300² alone is more than float16 holds
    assert dc.addmm(c, a, a, beta=-1).item() == dc.tensor(exact, dtype=dtype).item()


@pytest.mark.parametrize("dtype", [dc.uint8, dc.int8, dc.int16, dc.int32, dc.uint16, dc.bool])
def test_sums_keep_the_dtype_that_is_asked_for(dtype, backend):
    x = dc.tensor([[1, 2], [3, 0]], backend=backend)
    compiled = dc.compile(lambda t: (t.sum(dtype=dtype), t.sum(1, dtype=dtype)))
    for _ in range(2):
        whole, rows = compiled(x)
        expected = [[6], [3, 3]] if dtype != dc.bool else [[True], [True, True]]
        assert whole.dtype == rows.dtype == dtype and [[whole.item()], rows.tolist()] == expected
    small = dc.ones((1, 2, 3), dtype=dtype, backend=backend)
    if dtype != dc.bool:
        assert dc.einsum("...ik,...j->ij", small, small[0, 0]).dtype == dtype


@pytest.mark.parametrize("dtype", [dc.float16, dc.bfloat16])
def test_sigmoid_of_16_bits_rounds_once(dtype, backend):
    wide = dc.linspace(-17, 12, 400, backend=backend).to(dtype).float()
    function = dc.compile(lambda t: t.sigmoid())
    for _ in range(2):  # e¹² is more than float16 holds
        assert function(wide.to(dtype)).tolist() == dc.sigmoid(wide).to(dtype).tolist()


def test_logsumexp_of_one_number(backend):
    for dtype in (dc.float16, dc.bfloat16, dc.float32):
        x = dc.tensor(1.5, dtype=dtype, backend=backend)
        assert dc.logsumexp(x, 0).item() == dc.logsumexp(x, (0,), True).item() == 1.5


def test_what_is_no_tensor_is_named(backend):
    x = dc.ones(3, 3, backend=backend)
    calls = [
        lambda v: dc.mm(x, v), lambda v: dc.mm(v, x), lambda v: dc.bmm(x[None], v), lambda v: x.mv(v), lambda v: dc.dot(x[0], v),
        lambda v: dc.outer(x[0], v), lambda v: dc.addmm(x, x, v), lambda v: dc.embedding(v, x), lambda v: x.masked_select(v),
        lambda v: dc.broadcast_tensors(x, v), dc.flatten, dc.tril, dc.triu, lambda v: dc.tile(v, 2), lambda v: x @ v,
    ]  # fmt: skip
    for call in calls:
        for value in ([[1.0, 2.0]], None, "text"):
            with pytest.raises(errors.DTypeError, match=r"(?s)takes tensors.*dc\.tensor\(…\)"):
                call(value)
    for function in (
        dc.rand_like,
        dc.randn_like,
        dc.zeros_like,
        lambda v: dc.randint_like(v, 3),
        lambda v: dc.full_like(v, 1),
    ):
        for value in ([[1.0, 2.0]], None, np.ones(3)):
            with pytest.raises(errors.DTypeError, match="_like takes a tensor"):
                function(value)
    assert dc.bernoulli(np.ones(3)).tolist() == [1, 1, 1]
    for call in (lambda v: dc.elu(x, v), lambda v: dc.leaky_relu(x, v), lambda v: dc.softplus(x, v)):
        for value in (None, "text"):
            with pytest.raises(errors.DTypeError, match=r"elu: |softplus: |does not fit"):
                call(value)
    with pytest.raises(errors.ArgumentError, match="sizes are whole numbers"):
        dc.empty(np.ones((2, 2)))


# -- infinity, and slopes of slopes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name, options", [("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {})])
def test_activations_at_infinity(name, options, kernels, dtype, backend, monkeypatch):
    monkeypatch.setattr(settings, "kernels", kernels and settings.kernels)
    x = dc.tensor([-math.inf, math.inf, -3e4, 3e4, math.nan], dtype=dtype, backend=backend, requires_grad=True)
    out = getattr(dc.nn.functional, name)(x, **options)
    out.sum().backward()
    assert out.tolist()[:4] == [0, math.inf, 0, x.tolist()[3]] and np.isnan(out.tolist()[4])
    assert x.grad.tolist()[:4] == [0, 1, 0, 1] and np.isnan(x.grad.tolist()[4])


@pytest.mark.parametrize("function", [
    dc.relu, dc.abs, dc.nn.functional.leaky_relu, lambda x: dc.clamp(x, -0.5, 1.0), lambda x: dc.clamp(x, min=0.0),
    lambda x: dc.maximum(x, dc.zeros_like(x)), lambda x: dc.minimum(dc.zeros_like(x), x), dc.amax, dc.amin,
    lambda x: dc.nn.functional.l1_loss(x, dc.zeros_like(x)),
])  # fmt: skip
@pytest.mark.parametrize("kernels", [True, False])
def test_the_second_derivative_of_what_is_piecewise_linear_is_0(function, kernels, backend, monkeypatch):
    monkeypatch.setattr(settings, "kernels", kernels and settings.kernels)
    x = dc.tensor([-1.0, 0.5, 2.0], backend=backend, requires_grad=True)
    (slope,) = dc.autograd.grad(function(x).sum(), (x,), create_graph=True)
    before = slope.tolist()
    assert dc.autograd.grad(slope.sum(), (x,))[0].tolist() == [0, 0, 0]
    x = x.detach().requires_grad_()
    (slope,) = dc.autograd.grad(function(x).sum(), (x,))
    assert slope.tolist() == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["scatter_add", "gather", "index_select", "indices", "embedding", "take_along_dim"])
def test_sums_by_index_of_16_bit_floats(name, dtype, backend):
    """4,000 ones add up to 4,000, where running sums of 16 bits stop at 2,048 or 256."""
    places = dc.zeros(4000, dtype=dc.int64, backend=backend)
    x = dc.zeros(2, 1, dtype=dtype, backend=backend, requires_grad=True)
    if name == "scatter_add":
        ones = dc.ones(4000, 1, dtype=dtype, backend=backend)
        total = x.scatter_add(0, places.reshape(4000, 1), ones)
    else:
        out = {
            "gather": lambda: x.gather(0, places.reshape(4000, 1)), "index_select": lambda: x.index_select(0, places),
            "indices": lambda: x[places], "embedding": lambda: dc.nn.functional.embedding(places, x),
            "take_along_dim": lambda: dc.take_along_dim(x, places.reshape(4000, 1), 0),
        }[name]()  # fmt: skip
        (total,) = dc.autograd.grad(out, (x,), dc.ones_like(out))
    assert str(total.dtype) == dtype and total.float().tolist() == [[4000], [0]]


def test_scatter_add_of_16_bit_floats_rounds_once(backend):
    x = dc.tensor([2048.0], dtype=dc.float16, backend=backend, requires_grad=True)
    src = dc.tensor([1.0, 0.75, 0.75], dtype=dc.float16, backend=backend, requires_grad=True)
    out = x.scatter_add(0, dc.zeros(3, dtype=dc.int64, backend=backend), src)
    out.backward()
    assert out.tolist() == [2050] and (x.grad.tolist(), src.grad.tolist()) == ([1], [1, 1, 1])
    assert src.grad.dtype == dc.float16


@pytest.mark.parametrize("dtype, value", [("float32", 1e30), ("float32", 0.1), ("float64", 1e200), ("float16", 6e4)])
def test_equal_numbers_have_no_variance(dtype, value, backend):
    x = dc.full((3, 7), value, dtype=dtype, backend=backend, requires_grad=True)
    for name, dim in itertools.product(("var", "std"), (None, 0, 1)):
        out = getattr(dc, name)(x, dim)
        (slope,) = dc.autograd.grad(out.sum(), (x,))
        assert not out.any() and not slope.any()
    row = dc.tensor([[0.0, 0.0, 1e4]], dtype=dc.float16, backend=backend)
    assert row.std(1).item() == 5772  # its variance does not fit
