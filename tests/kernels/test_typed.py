"""Kernels over 16-bit floats, whole numbers and several dtypes at once: the reference's bits, threads, layouts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import deepcore as dc
from deepcore.config import settings
from deepcore.ops.registry import PRIMITIVES

pytest.importorskip("numba")

CPU = dc.get_backend("cpu")
F16, BF16, F32, F64 = (np.dtype(d) for d in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))


def in_default(*values, slow):
    """Parameters of which some run with --slow only: each dtype and name is a kernel to compile."""
    return [*values, *(pytest.param(value, marks=pytest.mark.slow) for value in slow)]


HALVES = pytest.mark.parametrize("dtype", in_default(BF16, slow=[F16]), ids=str)
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-45, 3e38, -3e38, 0.5, 1e-5, np.pi / 2, 1e10, 2.0**60, 3.0]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def kernels_on(monkeypatch):
    monkeypatch.setattr(settings, "kernels", True)


def every(dtype):
    """Each number of a 16-bit dtype, four times."""
    return np.tile(np.arange(1 << 16).astype(np.uint16).view(dtype), 4)


def draw(*shape, dtype=F32, scale=3.0):
    return (np.random.default_rng(shape).standard_normal(shape) * scale).astype(dtype)


def alike(got, want):
    """Equal to the bit, but for what kind of NaN it is."""
    assert got.dtype == want.dtype and got.shape == want.shape
    nan = np.isnan(want.astype(F64))
    assert np.array_equal(nan, np.isnan(got.astype(F64)))
    bits = f"u{got.dtype.itemsize}"
    assert np.array_equal(got[~nan].view(bits), want[~nan].view(bits))


def both(call):
    """The result on two threads, which one thread gives, too."""
    before = settings.threads
    try:
        settings.threads = 2
        two = call().numpy()
        settings.threads = 1
        assert call().numpy().tobytes() == two.tobytes()
    finally:
        settings.threads = before
    return two


# -- elementwise ----------------------------------------------------------------------------------------------------


@HALVES
@pytest.mark.parametrize("name", in_default("mul", "gt", slow=["_add", "true_divide", "maximum", "eq"]))
def test_halves_have_the_references_bits(name, dtype):
    x = every(dtype)
    y = np.random.default_rng(0).permutation(x)
    op = PRIMITIVES[name.strip("_")]
    got = both(lambda: op(dc.from_numpy(x), dc.from_numpy(y)))
    alike(got, np.asarray(op.forward(CPU, x, y)))
    small = op(dc.from_numpy(x[:50]), dc.from_numpy(y[:50])).numpy()
    alike(small, got[:50])


@pytest.mark.parametrize("dtype", in_default(np.dtype("int64"), slow=[np.dtype(bool)]), ids=str)
@pytest.mark.parametrize("name", in_default("le", slow=["eq", "ne", "lt", "gt", "ge"]))
def test_whole_numbers_compare_as_in_the_reference(name, dtype):
    rng = np.random.default_rng(1)
    ends = np.array([-(2**63), 2**63 - 1, 0, -1, 1, 2**53, 2**53 + 1])
    x, y = (rng.choice(ends, 1 << 15).astype(dtype) for _ in range(2))
    op = PRIMITIVES[name]
    for other in (y, y[:1], y.reshape(-1, 1)[: 1 << 7]):
        mine = x.reshape(1 << 7, -1) if other.ndim == 2 else x
        got = both(lambda a=mine, b=other: op(dc.from_numpy(a), dc.from_numpy(b)))
        np.testing.assert_array_equal(got, np.asarray(op.forward(CPU, mine, other)))


@HALVES
@pytest.mark.parametrize("name", in_default("tanh", slow=["exp", "gelu"]))
def test_functions_of_halves_are_those_of_float32_rounded(name, dtype):
    x = every(dtype)
    function = getattr(dc, name)
    with settings_of(kernels=True):
        got = both(lambda: function(dc.from_numpy(x)))
        alike(got, function(dc.from_numpy(x.astype(F32))).numpy().astype(dtype))
        alike(function(dc.from_numpy(x[70:90])).numpy(), got[70:90])


def settings_of(**values):
    import contextlib

    @contextlib.contextmanager
    def changed():
        before = {name: getattr(settings, name) for name in values}
        for name, value in values.items():
            setattr(settings, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(settings, name, value)

    return changed()


@pytest.mark.parametrize("dtype", in_default(F16, slow=[BF16]), ids=str)
def test_halves_beside_numbers_and_rows(dtype):
    x, row, column = draw(300, 257, dtype=dtype), draw(257, dtype=dtype), draw(300, 1, dtype=dtype)
    for other in (row, column):
        got = dc.from_numpy(x) * dc.from_numpy(other)
        alike(got.numpy(), (x.astype(F32) * other.astype(F32)).astype(dtype))
    got = dc.from_numpy(x) + 1.7
    alike(got.numpy(), (x.astype(F32) + F32.type(1.7)).astype(dtype))
    alike(
        dc.outer(dc.from_numpy(row), dc.from_numpy(column[:, 0])).numpy(),
        (row[:, None].astype(F32) * column[:, 0].astype(F32)).astype(dtype),
    )


@pytest.mark.parametrize("source", [F16, BF16, F32, F64], ids=str)
@pytest.mark.parametrize("target", [F16, BF16, F32, F64, np.dtype(bool)], ids=str)
def test_conversions_round_once(source, target):
    if source == target:
        pytest.skip("nothing to convert")
    halves = every(F16)[: 1 << 16].astype(F64)
    ties = np.concatenate(
        [
            halves,
            halves * (1 + 2.0**-11),
            halves * (1 + 2.0**-11 + 2.0**-40),
            every(BF16)[: 1 << 16].astype(F64) * (1 + 2.0**-9),
        ]
    )
    x = np.concatenate([ties, [1e300, -1e300, 1e-310, *SPECIAL]]).astype(source)
    got = both(lambda: dc.from_numpy(x).to(target))
    if target.kind == "b":
        assert np.array_equal(got, x.astype(bool))
    else:
        alike(got, x.astype(target))


UNARY = {
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "exp2": np.exp2, "log2": np.log2,
    "log10": np.log10,
}  # fmt: skip
BINARY = {"atan2": np.arctan2, "logaddexp": np.logaddexp, "pow": np.power}


def ulps(got, want):
    """The largest |got - want| in float32's last places; NaN, infinities and signs of zero are as wanted."""
    near = want.astype(F32)
    nan, infinite = np.isnan(near), np.isinf(near)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got[infinite], near[infinite])
    assert np.array_equal(np.signbit(got[~nan]), np.signbit(near[~nan]))
    finite = ~nan & ~infinite
    return np.max(np.abs(got[finite].astype(F64) - want[finite]) / np.spacing(np.abs(near[finite])).astype(F64))


@pytest.mark.parametrize("name", in_default("sin", "atanh", slow=[n for n in UNARY if n not in ("sin", "atanh")]))
def test_functions_in_float64_are_the_nearest_float32(name):
    bits = (np.arange(60_000, dtype=np.uint64) * 71569 + 7).astype(np.uint32).view(F32)
    rng = np.random.default_rng(0)
    near = [rng.uniform(-1, 1, 20_000), rng.uniform(-100, 100, 20_000), 1 + rng.uniform(0, 1e-3, 2000), SPECIAL]
    x = np.concatenate([bits, *near]).astype(F32)
    got = both(lambda: getattr(dc, name)(dc.from_numpy(x)))
    assert ulps(got, UNARY[name](x.astype(F64))) <= 0.501
    some = slice(59_990, 60_030)
    alike(getattr(dc, name)(dc.from_numpy(x[some])).numpy(), got[some])  # at any size


@pytest.mark.parametrize("name", in_default("pow", slow=["atan2", "logaddexp"]))
def test_functions_of_two_in_float64_are_the_nearest_float32(name):
    rng = np.random.default_rng(0)
    special = np.array(SPECIAL, F32)
    x = np.concatenate([np.repeat(special, len(special)), rng.uniform(0, 3, 20_000).astype(F32), draw(20_000)])
    y = np.concatenate(
        [np.tile(special, len(special)), rng.uniform(-5, 5, 20_000).astype(F32), draw(20_000, scale=9.0)]
    )
    got = both(lambda: getattr(dc, name)(dc.from_numpy(x), dc.from_numpy(y)))
    assert ulps(got, BINARY[name](x.astype(F64), y.astype(F64))) <= 0.501


@pytest.mark.parametrize("dtype", in_default(F32, slow=[BF16]), ids=str)
@pytest.mark.parametrize("name", in_default("remainder", slow=["fmod", "floor_divide"]))
def test_remainders_have_numpys_bits(name, dtype):
    special = np.array(SPECIAL, F32)
    x = np.concatenate([np.repeat(special, len(special)), draw(30_000, scale=100.0), draw(9_000, scale=1e30)]).astype(
        dtype
    )
    y = np.concatenate([np.tile(special, len(special)), draw(39_000, scale=2.0)]).astype(dtype)
    got = both(lambda: getattr(dc, name)(dc.from_numpy(x), dc.from_numpy(y)))
    alike(got, getattr(np, name)(x, y))


@pytest.mark.parametrize("exponent", in_default(2, slow=[3, -0.5, -1, -2]))
def test_powers_are_products_as_in_pytorch(exponent):
    torch = pytest.importorskip("torch")
    x = np.abs(draw(200, 700)) + F32.type(0.01)
    assert np.array_equal((dc.from_numpy(x) ** exponent).numpy(), (torch.from_numpy(x) ** exponent).numpy())
    assert np.array_equal((dc.from_numpy(x[0]) ** exponent).numpy(), (dc.from_numpy(x) ** exponent).numpy()[0])


def test_powers_of_whole_numbers_wrap():
    x = np.arange(-128, 128).astype(np.int8)
    assert np.array_equal((dc.from_numpy(x) ** 3).numpy(), x * x * x)
    assert np.array_equal((dc.from_numpy(x) ** 2).numpy(), x * x)


# -- reductions -------------------------------------------------------------------------------------------------------

SHAPES = in_default((200, 301), slow=[(70_000, 3), (3, 200, 50), (200_001,)])


@pytest.mark.parametrize("dtype", in_default(F16, slow=[BF16]), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_halves_add_up_in_float32(shape, dtype):
    x = draw(*shape, dtype=dtype)
    for dim in (None, *range(len(shape))):
        got = both(lambda: dc.from_numpy(x).sum(dim))  # noqa: B023
        alike(got, dc.from_numpy(x.astype(F32)).sum(dim).numpy().astype(dtype))


@pytest.mark.slow
@HALVES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_extremes_of_halves(shape, dtype):
    x = draw(*shape, dtype=dtype)
    for dim in (None, *range(len(shape))):
        for name in ("amax", "amin"):
            alike(
                getattr(dc.from_numpy(x), name)(dim).numpy(),
                np.asarray(getattr(np, name)(x.astype(F32), dim)).astype(dtype),
            )


@pytest.mark.parametrize("dtype", in_default("uint8", slow=["int32", "bool"]))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whole_numbers_add_up_in_int64(shape, dtype):
    x = draw(*shape, scale=90.0).astype(dtype)
    for dim in (None, *range(len(shape))):
        alike(both(lambda: dc.from_numpy(x).sum(dim)), np.asarray(x.sum(dim, dtype=np.int64)))  # noqa: B023
    if dtype == "int32":
        alike(dc.from_numpy(x).amax(0).numpy(), np.asarray(x.max(0)))


@pytest.mark.parametrize("dim", [0, 1])
def test_sums_of_large_unsigned_numbers_are_exact(dim):
    x = np.full((200, 200), 2**53 + 1, np.uint64)
    assert np.array_equal(dc.from_numpy(x).sum(dim).numpy(), x.sum(dim).astype(np.int64))


def test_sums_of_bytes_make_no_wide_copy():
    import tracemalloc

    x = dc.from_numpy(np.ones(8_000_000, np.uint8))
    x.sum(), x.reshape(-1, 8).sum(0)  # compiles
    tracemalloc.start()
    assert x.sum().item() == 8_000_000 and x.reshape(-1, 8).sum(0).tolist() == [1_000_000] * 8
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_a_nan_is_the_extreme_of_halves():
    x = draw(40, 600, dtype=F16)
    x[3, 5] = np.nan
    largest = dc.from_numpy(x).amax(1).numpy()
    assert np.isnan(largest[3]) and not np.isnan(np.delete(largest, 3)).any()


# -- scans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", in_default(F16, slow=[F32, np.dtype(np.int64)]), ids=str)
@pytest.mark.parametrize("shape", [(131, 260), (9000,), (6, 300, 7), (3, 2000)], ids=str)
def test_running_sums_have_the_references_bits(shape, dtype):
    x = draw(*shape, dtype=dtype, scale=50.0)
    for dim in range(len(shape)):
        got = both(lambda: dc.from_numpy(x).cumsum(dim))  # noqa: B023
        alike(got, PRIMITIVES["cumsum"].forward(CPU, x, dim=dim))
    if len(shape) == 2:
        alike(dc.from_numpy(x).t().cumsum(0).numpy(), PRIMITIVES["cumsum"].forward(CPU, x, dim=1).T)


# -- softmax of long rows across memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", in_default("softmax", slow=["log_softmax"]))
@pytest.mark.parametrize("shape", in_default((2, 100, 17), slow=[(300, 130)]), ids=str)
def test_softmax_across_memory(name, shape):
    torch = pytest.importorskip("torch")
    dim = len(shape) - 2
    x, g = draw(*shape), draw(*shape, scale=1.0)
    ours = dc.tensor(x, requires_grad=True)
    got = both(lambda: getattr(dc, name)(ours.detach(), dim))
    getattr(dc, name)(ours, dim).backward(dc.from_numpy(g))
    errors = []
    exact = torch.tensor(x.astype(F64), requires_grad=True)
    want = getattr(torch, name)(exact, dim)
    want.backward(torch.from_numpy(g.astype(F64)))
    single = torch.tensor(x, requires_grad=True)
    theirs = getattr(torch, name)(single, dim)
    theirs.backward(torch.from_numpy(g))
    for mine, other, true in (
        (got, theirs.detach(), want.detach()), (ours.grad.numpy(), single.grad, exact.grad),
    ):  # fmt: skip
        errors.append(tuple(np.sqrt(np.mean((np.asarray(v, F64) - true.numpy()) ** 2)) for v in (mine, other)))
    for mine, other in errors:
        assert mine <= 1.5 * other


# -- moves --------------------------------------------------------------------------------------------------------------

MOVED = pytest.mark.parametrize("dtype", in_default(F32, slow=[np.dtype(np.uint8), F16]), ids=str)


@MOVED
@pytest.mark.parametrize("shape", [(130, 257), (40, 7, 50), (5, 6, 40, 20)], ids=str)
def test_copies_of_other_layouts(shape, dtype):
    x = draw(*shape, dtype=F32, scale=40.0).astype(dtype)
    t, rank = dc.from_numpy(x), len(shape)
    for order in (tuple(range(rank))[::-1], (1, 0, *range(2, rank)), (*range(1, rank), 0)):
        alike(both(lambda: t.permute(*order).contiguous()), np.ascontiguousarray(x.transpose(order)))  # noqa: B023
        alike(t.permute(*order).clone().numpy(), np.ascontiguousarray(x.transpose(order)))
    alike(t[:, ::2].contiguous().numpy(), np.ascontiguousarray(x[:, ::2]))
    alike(t[..., ::3].clone().numpy(), np.ascontiguousarray(x[..., ::3]))
    for dims in ((0,), (rank - 1,), tuple(range(rank))):
        alike(t.flip(dims).numpy(), np.ascontiguousarray(np.flip(x, dims)))
    for k in (-3, 0, 2, 600):
        alike(t.tril(k).numpy(), np.tril(x, k))
        alike(t.triu(k).numpy(), np.triu(x, k))
    for dim in range(rank):
        alike(dc.cat([t, t, t], dim).numpy(), np.concatenate([x, x, x], dim))
        alike(dc.stack([t, t], dim).numpy(), np.stack([x, x], dim))
        alike(dc.roll(t, 3, dim).numpy(), np.roll(x, 3, dim))


@MOVED
@pytest.mark.parametrize("shape", [(130, 257), (40, 7, 50)], ids=str)
def test_elements_by_index(shape, dtype):
    rng = np.random.default_rng(0)
    x = draw(*shape, scale=40.0).astype(dtype)
    t = dc.from_numpy(x)
    for dim in range(len(shape)):
        rows = rng.integers(0, shape[dim], 77)
        alike(both(lambda: t.index_select(dim, dc.from_numpy(rows))), np.take(x, rows, dim))  # noqa: B023
        along = rng.integers(0, shape[dim], (*shape[:dim], 33, *shape[dim + 1 :]))
        alike(t.gather(dim, dc.from_numpy(along)).numpy(), np.take_along_axis(x, along, dim))
        if dtype == F32:
            source = draw(*along.shape)
            got = both(lambda: t.scatter_add(dim, dc.from_numpy(along), dc.from_numpy(source)))  # noqa: B023
            want, grid = np.zeros_like(x), list(np.indices(along.shape))
            grid[dim] = along
            np.add.at(want, tuple(grid), source)
            alike(got, x + want)
    index = rng.integers(-shape[0], shape[0], (5, 90))
    alike(t[dc.from_numpy(index)].numpy(), x[index])
    with pytest.raises(dc.errors.IndexRangeError):
        t[dc.from_numpy(index + shape[0])]


@MOVED
@pytest.mark.parametrize(
    "index",
    [
        np.s_[3], np.s_[:, -2], np.s_[..., 5:9], np.s_[2:7, :, 1:-1], np.s_[None, 4:, None, 3], np.s_[1:, 2:, 3:4], np.s_[:],
        np.s_[::2], np.s_[3:3], np.s_[-5:, 1:3, 7:30],
    ],
    ids=str,
)  # fmt: skip
def test_zeros_around_what_an_index_reads(index, dtype):
    from deepcore.ops.index import _index_grad

    shape = (9, 5, 40, 6)
    want = np.zeros(shape, dtype)
    want[index] = part = draw(*want[index].shape, scale=40.0).astype(dtype)
    key = index if isinstance(index, tuple) else (index,)
    alike(both(lambda: _index_grad(dc.from_numpy(part), shape=shape, index=key)), want)


@MOVED
def test_masks(dtype):
    rng = np.random.default_rng(0)
    x = draw(60, 20, 30, scale=40.0).astype(dtype)
    t = dc.from_numpy(x)
    for mask in (
        rng.random(x.shape) > 0.5,
        rng.random(x.shape[:2]) > 0.5,
        rng.random(60) > 0.5,
        np.zeros(x.shape, bool),
    ):
        alike(t[dc.from_numpy(mask)].numpy(), x[mask])
        alike(
            t.permute(0, 2, 1)[dc.from_numpy(mask if mask.ndim == 1 else mask[:, :1].repeat(30, 1))].numpy(),
            x.transpose(0, 2, 1)[mask if mask.ndim == 1 else mask[:, :1].repeat(30, 1)],
        ) if mask.ndim < 3 else None
    mask = rng.random(x.shape) > 0.5
    alike(t.masked_select(dc.from_numpy(mask)).numpy(), x[mask])


def test_the_gradient_of_a_masked_part():
    x = dc.tensor(draw(30, 40), requires_grad=True)
    mask = x.detach() > 0
    (x[mask] * 2.0).sum().backward()
    assert np.array_equal(x.grad.numpy(), 2.0 * mask.numpy().astype(F32))


@pytest.mark.parametrize("dtype", in_default(F16, slow=[F32]), ids=str)
@pytest.mark.parametrize("name", in_default("argmax", slow=["argmin"]))
def test_places_across_memory(name, dtype):
    x = np.round(draw(200, 3, 140, dtype=F32)).astype(dtype)
    x[7, 1, 5] = x[9, 1, 5] = np.nan
    for dim in (0, 1):
        got = both(lambda: getattr(dc.from_numpy(x), name)(dim))  # noqa: B023
        assert np.array_equal(got, getattr(np, name)(x, axis=dim))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_places_along_memory_and_the_largest_of_halves(dtype):
    x = np.round(draw(200, 3, 140, dtype=F32)).astype(dtype)
    x[7, 1, 5] = x[9, 1, 5] = np.nan
    t = dc.from_numpy(x)
    for dim in range(3):
        for name in ("argmax", "argmin"):
            assert np.array_equal(getattr(t, name)(dim).numpy(), getattr(np, name)(x, axis=dim))
        values, places = t.topk(3, dim)
        order = np.argsort(-x.astype(F64), axis=dim, kind="stable")
        nan = np.isnan(x).any(axis=dim, keepdims=True)
        want = np.take(order, range(3), axis=dim)
        assert np.array_equal(np.where(nan, 0, places.numpy()), np.where(nan, 0, want))
        alike(values.numpy(), np.take_along_axis(x, places.numpy(), dim))
