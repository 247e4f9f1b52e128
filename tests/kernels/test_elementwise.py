"""Scalar functions and elementwise kernels: accuracy over all floats, edges, layouts, threads."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import pytest

import deepcore as dc
from deepcore.backend import get_backend
from deepcore.config import settings
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.kernel import Kernel
from deepcore.kernels.cpu.elementwise import LEAST_EXACT, MAPS, SLICE, build, one
from deepcore.kernels.math import elementary, formulas
from deepcore.ops import activation

CPU = get_backend("cpu")
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
INF, NAN = math.inf, math.nan
PARAMETERS = {
    "slope": 0.1,
    "alpha": 0.7,
    "beta": 1.5,
    "threshold": 3.0,
    "delta": 0.8,
    "keep": 0.9,
    "take": 0.1,
    "low": -0.5,
    "high": 0.8,
    "lambd": 0.6,
    "value": -2.0,
    "scale": 1.3,
    "rate": 0.9,
}

pytestmark = pytest.mark.filterwarnings("ignore:invalid value|overflow|divide by zero:RuntimeWarning")


@pytest.fixture(scope="module", autouse=True)
def numba():
    return pytest.importorskip("numba")


def run(name: str, *operands, **options):
    result = MAPS[name](CPU, *operands, **{key: PARAMETERS[key] for key in MAPS[name].parameters}, **options)
    assert result is not NotImplemented
    return result


def all_floats(dtype, count: int, seed: int = 0):
    """Numbers evenly spaced over the bit patterns, so of every exponent and either sign, without NaN."""
    bits = np.dtype(f"u{dtype.itemsize}").type
    step = 2 ** (8 * dtype.itemsize) // count | 1
    with np.errstate(over="ignore"):
        x = (np.arange(count).astype(bits) * bits(step) + bits(seed)).view(dtype)
    return x[~np.isnan(x)]


def ulps(got, want):
    """|got - want| in units of got's last place, where `want` is finite in got's dtype."""
    near = want.astype(got.dtype)
    finite = np.isfinite(near)
    # The place after `want` itself, rounded down: at a power of two the smaller unit counts.
    unit = np.spacing(np.minimum(np.abs(near[finite]), np.finfo(got.dtype).max)).astype(want.dtype)
    return np.abs((got[finite].astype(want.dtype) - want[finite]) / unit)


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _erf(x):
    """erf x = 2x/√π · exp(-x²) · Σ (2x²)ⁿ/(2n + 1)!!, which has no term of another sign; float64 from the C library."""
    if x.dtype == F64:
        return np.frompyfunc(math.erf, 1, 1)(x).astype(F64)
    result = x * (2 / np.sqrt(np.longdouble("3.14159265358979323846264338327950288")))
    far = np.flatnonzero(np.abs(x) > 1e-11)
    for part in np.array_split(far, len(far) // 10_000 + 1):
        a = np.minimum(np.abs(x[part]), 6.5)
        square, total, n = a * a, np.ones_like(a), 0
        term = total.copy()
        while (term > 1e-20 * total).any():
            n += 1
            term *= 2 * square / (2 * n + 1)
            total += term
        result[part] = np.copysign(np.minimum(result[part] / x[part] * a * np.exp(-square) * total, 1), x[part])
    return result


# Where each is interesting, in float32 and float64, and the most it may be off: in float32, in float64, and where the
# result is subnormal or nearly.
FUNCTIONS = {
    "exp": (np.exp, (-104, 89), (-746, 710), 0.56, 0.52, 0.56),
    "expm1": (np.expm1, (-20, 89), (-40, 710), 0.58, 0.53, 0.58),
    "log": (np.log, (0, 4), (0, 4), 0.65, 0.55, 0.65),
    "log1p": (np.log1p, (-1, 4), (-1, 4), 0.67, 0.55, 0.67),
    "tanh": (np.tanh, (-10, 10), (-20, 20), 0.58, 0.67, 0.67),
    "sigmoid": (_sigmoid, (-104, 20), (-746, 40), 1.5, 1.5, 1.5),
    "erf": (_erf, (-4, 4), (-6, 6), 0.77, 0.77, 1.0),
}


def interesting(name: str, dtype, count: int):
    _, narrow, wide, *_ = FUNCTIONS[name]
    low, high = narrow if dtype == F32 else wide
    rng = np.random.default_rng(0)
    spread = np.concatenate([
        np.linspace(low, high, count), np.linspace(-1, 1, count), np.linspace(0.5, 2, count),
        10.0 ** rng.uniform(-30, 0, count // 4), -(10.0 ** rng.uniform(-30, 0, count // 4)),
    ]).astype(dtype)  # fmt: skip
    return np.concatenate([all_floats(dtype, count), spread])


def check_accuracy(name: str, dtype, count: int):
    function, _, _, single, double, subnormal = FUNCTIONS[name]
    x = interesting(name, dtype, count)
    wider = np.float64 if dtype == F32 else np.longdouble
    if dtype == F64 and np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("long double is no wider than double here")
    want = function(x.astype(wider))
    got = run(name, x)
    assert got.dtype == dtype
    assert np.array_equal(np.isnan(got), np.isnan(want))
    rounded = want.astype(dtype)
    infinite = np.isinf(rounded)
    assert np.array_equal(got[infinite], rounded[infinite])
    signs = ~np.isnan(want) & (x != 0)
    assert np.array_equal(np.signbit(got[signs]), np.signbit(want[signs]))
    normal = np.abs(want) >= 16 * np.finfo(dtype).smallest_normal
    assert ulps(got[normal], want[normal]).max() <= (single if dtype == F32 else double)
    if not normal.all():
        assert ulps(got[~normal], want[~normal]).max(initial=0) <= subnormal


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_accuracy_over_the_floats(name, dtype):
    check_accuracy(name, dtype, 40_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_accuracy_over_many_floats(name, dtype):
    check_accuracy(name, dtype, 500_000 if (name, dtype) == ("erf", F64) else 3_000_000)


def test_double_erf_against_many_digits():
    mp = pytest.importorskip("mpmath")
    mp.mp.dps = 30
    x = np.concatenate([np.linspace(-6, 6, 1501), np.linspace(0.9, 1.1, 500), 10.0 ** np.linspace(-300, 0, 301)])
    want = [mp.erf(mp.mpf(float(v))) for v in x]
    got = run("erf", x)
    for value, exact in zip(got, want):
        assert abs(mp.mpf(float(value)) - exact) <= 0.77 * mp.mpf(float(np.spacing(abs(float(exact)))))


# fmt: off
EDGES = {
    "exp": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (1000.0, INF), (-1000.0, 0), ("tiny", 1)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1), (1000.0, INF), (-1000.0, -1), ("tiny", "tiny")],
    "log": [(0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (-1.0, NAN), (1.0, 0.0), ("-tiny", NAN)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, NAN), (-1.0, -INF), (-2.0, NAN), ("tiny", "tiny"), ("-tiny", "-tiny")],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (50.0, 1), (-50.0, -1), ("tiny", "tiny"), ("-tiny", "-tiny")],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (1000.0, 1), (-1000.0, 0), ("tiny", 0.5)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (50.0, 1), (-50.0, -1), ("tiny", "tiny"), ("-tiny", "-tiny")],
}
# fmt: on


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_edges(name, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    value = {"tiny": tiny, "-tiny": -tiny}
    x, want = np.array([(NAN, NAN), *((value.get(a, a), value.get(b, b)) for a, b in EDGES[name])], dtype).T
    got = run(name, x)
    np.testing.assert_array_equal(got, want)
    numbers = ~np.isnan(want)
    assert np.array_equal(np.signbit(got[numbers]), np.signbit(want[numbers]))


# 2¹²⁸ - 2¹⁰⁴ is the largest float32, 2⁻¹⁴⁹ the smallest; the same for float64.
@pytest.mark.parametrize(
    "dtype, over, under", [(F32, 88.72283905206835, -103.97207708399179), (F64, 709.782712893384, -745.1332191019412)]
)
def test_where_exp_overflows_and_underflows(dtype, over, under):
    x = np.array([over, under], dtype)
    inside = np.nextafter(x, dtype.type(0))
    outside = np.nextafter(x, np.array([INF, -INF], dtype))
    for function in ("exp", "expm1"):
        assert np.isfinite(run(function, inside)).all() and np.isinf(run(function, outside)[0])
    assert run("exp", outside)[1] == 0 and run("exp", np.nextafter(inside, dtype.type(0)))[1] > 0


# -- every formula ---------------------------------------------------------------------------------------------------


def ir_of(formula: str, dtype) -> str:
    numba = pytest.importorskip("numba")
    entry = next(m for m in MAPS.values() if m.formula == formula)
    pattern = "V" * entry.booleans + "v" * (entry.arity - entry.booleans)
    lines = one(formula, len(pattern), len(entry.parameters))
    kernel = Kernel("kernel", build, lines, dtype.name, pattern, (len(pattern),))
    return str(jit.optimized(numba, kernel, "kernel", jit._machine()))


@pytest.mark.parametrize("formula", ["exp", "log1p", "tanh", "erf", "gelu_grad", "gelu_tanh_grad", "softplus"])
def test_single_precision_kernels_compute_in_it_and_in_vectors(formula):
    text = ir_of(formula, F32)
    lines = [line for line in text.splitlines() if "double" in line and "declare" not in line]
    # Parameters arrive as float64.
    assert all("fptrunc" in line or "bitcast" in line or "load double" in line for line in lines), lines[:3]
    assert re.search(r"fma\.v\d+f32", text)


def slope(function, x, step):
    """A central difference of high order."""
    d = [function(x + k * step) - function(x - k * step) for k in (1, 2, 3)]
    return (45 * d[0] - 9 * d[1] + d[2]) / (60 * step)


def kink_free(name: str, x):
    """Without what is near a place where the slope jumps."""
    named = {key: PARAMETERS[key] for key in ("low", "high", "lambd", "threshold")}
    kinks = [0.0, *named.values(), -named["lambd"], 3.0, -3.0, PARAMETERS["threshold"] / PARAMETERS["beta"]]
    return x[np.min([np.abs(x - k) for k in kinks], axis=0) > 0.1]


@pytest.mark.parametrize("name", [name for name in MAPS if name.endswith("_grad") and MAPS[name].arity == 2])
def test_derivatives(name):
    forward = name.removesuffix("_grad")
    x = kink_free(forward, np.linspace(-6, 6, 301))
    read = run(forward, x) if formulas.function(name).__code__.co_varnames[1] == "out" else x
    g = np.random.default_rng(0).standard_normal(x.shape)
    want = g * slope(lambda v: run(forward, v), x, 1e-2)
    np.testing.assert_allclose(run(name, g, read), want, rtol=1e-9, atol=1e-11)


LOSSES = ["mse", "l1", "smooth_l1", "huber", "bce", "bce_with_logits"]


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_of_losses(name):
    x, target = operands(name, F64, (500,))
    far = np.abs(x - target)
    keep = np.min([np.abs(far - k) for k in (0, PARAMETERS["beta"], PARAMETERS["delta"])], axis=0) > 0.01
    x, target, g = x[keep], target[keep], operands("mse", F64, (500,), 1)[0][keep]
    want = g * slope(lambda v: run(name, v, target), x, 3e-4)
    np.testing.assert_allclose(run(f"{name}_grad", g, x, target), want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_no_less_accurate_than_pytorch(name):
    """Terms and gradients, against float64."""
    torch = pytest.importorskip("torch")
    if not settings.kernels:
        pytest.skip("the reference runs")
    full = {"bce": "binary_cross_entropy", "bce_with_logits": "binary_cross_entropy_with_logits"}.get(
        name, f"{name}_loss"
    )
    options = {"smooth_l1": {"beta": 1.5}, "huber": {"delta": 0.8}}.get(name, {})
    x, target = operands(name, F32, (20_000,))

    def both(module, tensor, dtype):
        t = tensor(x.astype(dtype), requires_grad=True)
        terms = getattr(module, full)(t, tensor(target.astype(dtype)), reduction="none", **options)
        terms.sum().backward()
        return terms.detach().numpy(), t.grad.numpy()

    exact = both(torch.nn.functional, torch.tensor, F64)
    for ours, theirs, want in zip(
        both(dc.nn.functional, dc.tensor, F32), both(torch.nn.functional, torch.tensor, F32), exact
    ):
        unit = np.spacing(np.maximum(np.abs(want), 0.01).astype(F32)).astype(F64)
        errors = [np.abs(result.astype(F64) - want) / unit for result in (ours, theirs)]
        assert errors[0].max() <= max(1.35 * errors[1].max(), 2.2)
        assert errors[0].mean() <= max(1.15 * errors[1].mean(), 0.4)


def operands(name: str, dtype, shape, seed: int = 0):
    rng = np.random.default_rng(seed)
    found = [(rng.standard_normal(shape) * 3).astype(dtype) for _ in range(MAPS[name].arity)]
    if MAPS[name].booleans:
        found[0] = found[0] > 0
    if name.startswith("bce"):  # probabilities
        found[-2:] = [(0.5 + 0.49 * np.tanh(x)).astype(dtype) for x in found[-2:]]
    return found


NUMPY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "true_divide": np.true_divide, "neg": np.negative,
    "square": np.square, "sqrt": np.sqrt, "abs": np.abs, "maximum": np.maximum, "minimum": np.minimum,
    "where": np.where, "rsqrt": lambda x: np.reciprocal(np.sqrt(x)), "reciprocal": np.reciprocal,
    "relu": lambda x: np.maximum(x, x.dtype.type(0)), "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
    "sign": lambda x: np.nan_to_num(np.sign(x), nan=0), "cube": lambda x: x * x * x, "inverse_square": lambda x: 1 / (x * x),
    "clamp": lambda x: np.minimum(np.maximum(x, x.dtype.type(-0.5)), x.dtype.type(0.8)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_what_numpy_computes_has_its_bits(name, dtype):
    assert name == "relu" or MAPS[name].least == LEAST_EXACT
    x = operands(name, dtype, 5000)
    special = np.array([0.0, -0.0, INF, -INF, NAN, 1e-310, -1e-310, 1, -1, 1e-45, 3e38], dtype)
    grid = np.meshgrid(*[special] * MAPS[name].arity)
    if MAPS[name].booleans:
        grid = [np.isfinite(grid[0]), *grid[1:]]
    every = [np.concatenate([a, b.ravel()]) for a, b in zip(x, grid)]
    with np.errstate(all="ignore"):
        want = NUMPY[name](*every)
    got = run(name, *every)
    assert got.dtype == dtype and np.array_equal(got, want, equal_nan=True)
    numbers = ~np.isnan(want)
    assert np.array_equal(np.signbit(got[numbers]), np.signbit(want[numbers]))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_same_bits_for_any_threads_slices_and_outputs(name, dtype, monkeypatch):
    x = operands(name, dtype, 2 * SLICE + 77)
    monkeypatch.setattr(settings, "threads", 1)
    one = run(name, *x)
    monkeypatch.setattr(settings, "threads", 2)
    two = run(name, *x)
    parts = np.concatenate([run(name, *part) for part in zip(*[np.array_split(a, 5) for a in x])])
    out = np.empty_like(one)
    assert run(name, *x, out=out) is out
    last = x[-1].copy()
    over = run(name, *x[:-1], last, out=last)
    for other in (two, parts, out, over):
        assert other.tobytes() == one.tobytes()


@pytest.mark.parametrize("name", ["mul", "where", "gelu_grad"])
def test_broadcasting(name):
    rows, columns = 300, 257
    full = operands(name, F32, (rows, columns))
    least = MAPS[name].booleans
    shapes = [(), (1,), (columns,), (1, columns), (rows, 1), (1, 1)]
    for i in range(least, len(full)):
        for shape in shapes:
            cut = list(full)
            cut[i] = np.ascontiguousarray(
                full[i][tuple(slice(0, n) for n in np.broadcast_shapes(shape, (1, 1)))]
            ).reshape(shape)
            want = run(name, *[np.ascontiguousarray(np.broadcast_to(x, (rows, columns))) for x in cut])
            got = run(name, *cut)
            assert got.shape == want.shape and got.tobytes() == want.tobytes()


def test_what_is_not_taken():
    x = np.ones((4, 6), np.float32)
    mul, exp = MAPS["mul"], MAPS["exp"]
    assert mul(CPU, x, x.astype(F64)) is NotImplemented
    assert mul(CPU, x[:, ::2], x[:, ::2]) is NotImplemented  # a copy would cost as much
    assert mul(CPU, np.ones((2, 1, 3), "f"), np.ones((4, 1), "f")) is NotImplemented
    assert exp(CPU, x.astype(int)) is NotImplemented
    with pytest.raises(ValueError, match="broadcast"):
        mul(CPU, x, np.ones((5, 6), "f"))


@pytest.mark.parametrize("name", ["exp", "gelu_grad", "add"])
def test_layouts(name):
    """Rows, columns, strides, no elements, one element, memory that is not aligned."""
    x = operands(name, F32, (40, 60))
    whole = run(name, *x)
    columns = run(name, *[np.asfortranarray(a) for a in x])
    assert columns.flags.f_contiguous and np.array_equal(columns, whole)
    unaligned = [np.frombuffer(b"-" + a.tobytes(), np.uint8)[1:].view(F32).reshape(a.shape) for a in x]
    if not MAPS[name].least:
        np.testing.assert_array_equal(run(name, *[a[1::2, ::-3] for a in x]), whole[1::2, ::-3])
        np.testing.assert_array_equal(run(name, *unaligned), whole)
    assert run(name, *[a[:0] for a in x]).shape == (0, 60)
    assert run(name, *[np.asarray(a[3, 5]) for a in x]) == whole[3, 5]


def test_formulas_are_plain_python():
    for name, entry in MAPS.items():
        function = formulas.function(entry.formula)
        values = operands(name, F64, (3,))
        given = [PARAMETERS[p] for p in entry.parameters]
        plain = [float(function(*[v[i] for v in values], *given)) for i in range(3)]
        np.testing.assert_allclose(run(name, *values), plain, rtol=1e-14)
    assert elementary.exp(1.0) == pytest.approx(math.e, rel=1e-15)


# -- beside PyTorch ---------------------------------------------------------------------------------------------------


def oracles():
    """In float64, without cancellation: each function of one input, and the derivatives that have a kernel."""
    special = pytest.importorskip("scipy.special")
    expit, ndtr = special.expit, special.ndtr
    inner = 2 * math.sqrt(2 / math.pi)

    def elbow(x):
        return inner * (x + 0.044715 * x**3)

    return {
        "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sigmoid": expit,
        "erf": special.erf, "neg": np.negative, "square": np.square, "sqrt": np.sqrt, "abs": np.abs,
        "rsqrt": lambda x: 1 / np.sqrt(x), "reciprocal": lambda x: 1 / x, "relu": lambda x: np.maximum(x, 0),
        "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "cube": lambda x: x**3,
        "inverse_square": lambda x: x**-2.0, "clamp": lambda x: np.clip(x, -0.5, 0.8),
        "leaky_relu": lambda x: np.where(x > 0, x, 0.1 * x), "elu": lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)),
        "gelu": lambda x: x * ndtr(x), "gelu_tanh": lambda x: x * expit(elbow(x)), "silu": lambda x: x * expit(x),
        "scaled_elu": lambda x: 1.3 * np.where(x > 0, x, 0.7 * np.expm1(0.9 * x)),
        "mish": lambda x: x * np.tanh(np.logaddexp(0, x)), "hardtanh": lambda x: np.clip(x, -0.5, 0.8),
        "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6, "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
        "softshrink": lambda x: np.sign(x) * np.maximum(abs(x) - 0.6, 0),
        "hardshrink": lambda x: np.where(abs(x) > 0.6, x, 0), "threshold": lambda x: np.where(x > 3, x, -2),
        "scaled_elu_grad": lambda x: 1.3 * np.where(x > 0, 1, 0.63 * np.exp(0.9 * x)),
        "mish_grad": lambda x: np.tanh(np.logaddexp(0, x)) + x * expit(x) / np.cosh(np.logaddexp(0, x)) ** 2,
        "hardtanh_grad": lambda x: (x > -0.5) & (x < 0.8), "hardsigmoid_grad": lambda x: (abs(x) < 3) / 6,
        "hardswish_grad": lambda x: np.where(abs(x) < 3, x / 3 + 0.5, x > 0),
        "hardshrink_grad": lambda x: abs(x) > 0.6, "threshold_grad": lambda x: x > 3,
        "softplus": lambda x: np.where(1.5 * x > 3, x, np.log1p(np.exp(1.5 * x)) / 1.5),
        "logsigmoid": special.log_expit,
        "tanh_grad": lambda x: np.cosh(x) ** -2.0, "sigmoid_grad": lambda x: expit(x) * expit(-x),
        "relu_grad": lambda x: x > 0, "leaky_relu_grad": lambda x: np.where(x > 0, 1, 0.1),
        "elu_grad": lambda x: np.where(x > 0, 1, 0.7 * np.exp(x)),
        "gelu_grad": lambda x: ndtr(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
        "gelu_tanh_grad": lambda x: expit(elbow(x)) + x * expit(elbow(x)) * expit(-elbow(x)) * inner * (1 + 3 * 0.044715 * x * x),
        "silu_grad": lambda x: expit(x) * (1 + x * expit(-x)),
        "softplus_grad": lambda x: np.where(1.5 * x > 3, 1, expit(1.5 * x)), "logsigmoid_grad": lambda x: expit(-x),
    }  # fmt: skip


TORCH = {
    "leaky_relu": lambda F, x: F.leaky_relu(x, 0.1), "elu": lambda F, x: F.elu(x, 0.7), "gelu": lambda F, x: F.gelu(x),
    "gelu_tanh": lambda F, x: F.gelu(x, approximate="tanh"), "silu": lambda F, x: F.silu(x),
    "logsigmoid": lambda F, x: F.logsigmoid(x), "softplus": lambda F, x: F.softplus(x, 1.5, 3.0),
    "relu": lambda F, x: F.relu(x), "cube": lambda F, x: x**3, "inverse_square": lambda F, x: x**-2,
    "clamp": lambda F, x: x.clamp(-0.5, 0.8), "mish": lambda F, x: F.mish(x),
    "scaled_elu": lambda F, x: F.elu(x * 0.9, 0.7 * 0.9) * (1.3 / 0.9), "hardtanh": lambda F, x: F.hardtanh(x, -0.5, 0.8),
    "hardsigmoid": lambda F, x: F.hardsigmoid(x), "hardswish": lambda F, x: F.hardswish(x),
    "softshrink": lambda F, x: F.softshrink(x, 0.6), "hardshrink": lambda F, x: F.hardshrink(x, 0.6),
    "threshold": lambda F, x: F.threshold(x, 3.0, -2.0),
}  # fmt: skip
OURS = {
    "leaky_relu": lambda x: dc.leaky_relu(x, 0.1), "elu": lambda x: dc.elu(x, 0.7),
    "cube": lambda x: x**3, "inverse_square": lambda x: x**-2, "clamp": lambda x: x.clamp(-0.5, 0.8),
    "gelu_tanh": lambda x: dc.gelu(x, "tanh"), "softplus": lambda x: dc.softplus(x, 1.5, 3.0),
    "scaled_elu": lambda x: activation.float_op(activation._scaled_elu, x, alpha=0.7, scale=1.3, rate=0.9),
    "hardtanh": lambda x: dc.hardtanh(x, -0.5, 0.8), "softshrink": lambda x: dc.softshrink(x, 0.6),
    "hardshrink": lambda x: dc.hardshrink(x, 0.6), "threshold": lambda x: dc.threshold(x, 3.0, -2.0),
}  # fmt: skip


def errors_beside_pytorch(name: str):
    """(kind of numbers, errors of ours, of PyTorch's), in ulp of the exact result, or of 0.01 where a slope is smaller."""
    torch = pytest.importorskip("torch")
    if not settings.kernels:
        pytest.skip("the reference runs")
    F = torch.nn.functional
    forward = name.removesuffix("_grad")
    rng = np.random.default_rng(0)
    for kind, numbers in {
        "random": rng.standard_normal(20_000) * 3,
        "large": rng.uniform(-100, 100, 20_000),
        "tiny": rng.standard_normal(5_000) * 1e-4,
        "awkward": np.concatenate([all_floats(F32, 5_000), np.linspace(0.9, 1.1, 5_000), [0.0, -0.0]]),
    }.items():
        x = numbers.astype(np.float32)
        x = np.abs(x) if name in ("log", "sqrt", "rsqrt") else np.abs(x) - 1 if name == "log1p" else x
        with np.errstate(all="ignore"):
            want = np.asarray(oracles()[name](x.astype(np.float64)), np.float64)
            results = []
        for tensor, function in (
            (dc.tensor, OURS.get(forward) or getattr(dc, forward, None)),
            (torch.tensor, functools.partial(TORCH[forward], F) if forward in TORCH else getattr(torch, forward)),
        ):
            t = tensor(x, requires_grad=True)
            out = function(t)
            if forward != name:
                out.sum().backward()
            results.append((t.grad if forward != name else out.detach()).numpy())
        rounded = want.astype(np.float32)
        good = np.isfinite(rounded) & (np.abs(x) < 1e18)  # PyTorch squares and cubes
        if forward == name:
            good &= np.abs(rounded) >= np.finfo(np.float32).smallest_normal
        unit = np.spacing(np.maximum(np.abs(rounded), 0.01 if forward != name else 0).astype(np.float32)).astype(F64)
        if good.any():  # a tiny number's whole part is 0
            yield kind, *((np.abs(result.astype(F64) - want) / unit)[good] for result in results)


ONE_INPUT = [n for n in MAPS if MAPS[n.removesuffix("_grad")].arity == 1]


@pytest.mark.parametrize("name", ONE_INPUT)
def test_no_less_accurate_than_pytorch(name):
    """On random, large, tiny and awkward float32; which is ahead within two ulp, or by a third, is luck."""
    for kind, ours, theirs in errors_beside_pytorch(name):
        assert ours.max() <= max(1.35 * theirs.max(), 2.2), kind
        assert ours.mean() <= max(1.15 * theirs.mean(), 0.4), kind


@pytest.mark.parametrize("slopes", [(0.0, -0.0), (-0.0, 0.0)])
def test_parameters_keep_the_sign_of_zero(backend, slopes):
    x = dc.tensor([-1.0, -2.0], backend=backend)
    signs = [np.signbit(dc.nn.functional.leaky_relu(x, slope).numpy()).tolist() for slope in slopes]
    assert signs == [[not np.signbit(slope)] * 2 for slope in slopes]
