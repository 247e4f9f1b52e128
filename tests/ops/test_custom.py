"""`dc.kernel`: elementwise ops of scalar functions, against NumPy and the functions themselves."""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import standin

import deepcore as dc
from deepcore import errors
from deepcore.compiler.compiled import _compiles
from deepcore.config import settings
from deepcore.kernels.cpu import elementwise

SLOPE = 0.25


@dc.kernel
def softclip(x, limit):
    return limit * math.tanh(x / limit)


@softclip.gradient
def _(x, limit):
    t = math.tanh(x / limit)
    return 1 - t * t, t - (1 - t * t) * x / limit


def half_positive(x, bound=1):
    """A helper with an early return and a default."""
    if x > bound:
        return x
    return x / 2


@dc.kernel
def steps(x):
    total, i = 0, 7
    for i in range(1, 4):
        if x < 0 and i == 2:
            continue
        total += x**i / i
        if total > 5:
            break
    return total + i


@dc.kernel
def newton(x):
    """The square root by Newton's method."""
    if not x > 0:
        return math.nan
    y = x if x > 1 else 1
    while abs(y * y - x) > 1e-3 * x:
        y = (y + x / y) / 2
    return y


@dc.kernel
def mixed(x):
    a, b = x, 2
    a, b = b, a
    y = max(a, b, 0.5) - min(a, b) if a != b else -1.0
    y = y - SLOPE if y >= 1 or x > 3 else half_positive(x, bound=0) + abs(x)
    return math.sqrt(math.fabs(y)) + float(int(x)) + math.floor(x) + round(x)


@dc.kernel
def functions(x):
    u = math.exp(-abs(x)) + math.log1p(x * x) + math.erf(x) + math.expm1(x / 4) + np.tanh(x)
    return (
        u + math.sin(3 * x) * math.cos(x) + math.atan(x) + math.atan2(x, 2) + math.hypot(x, 1) + abs(x) ** 1.5 + math.pi
    )


def same_at(x) -> list[float]:
    return [float(v) for v in np.asarray(x, np.float64).ravel()]


SCALARS = {"steps": steps, "newton": newton, "mixed": mixed, "functions": functions}
TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=[pytest.mark.slow] * (d in ("float64", "float16"))) for d in TOLERANCE]
)
@pytest.mark.parametrize("name", SCALARS)
def test_values_are_those_of_the_function(name, dtype, backend):
    kernel = SCALARS[name]
    x = (dc.arange(41, dtype=dc.float32) / 8 - 2.0).to(getattr(dc, dtype)).to(backend)  # exact in every dtype
    out = kernel(x)
    ran = elementwise.MAPS[kernel.variant([x], x.dtype).translation.name].kernel(x.dtype, "v")
    compiles = backend == "cpu" and settings.kernels and importlib.util.find_spec("numba") is not None
    assert not compiles or ran.state in ("compiled", "cached")
    assert out.dtype == x.dtype and out.shape == x.shape and str(out.backend) == str(x.backend)
    expected = [kernel._kernel_function(v) for v in same_at(x.to(dc.float64).cpu().numpy())]
    actual = out.to(dc.float64).cpu().numpy()
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    "shapes",
    [((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 1, 3), (4, 1)), ((0, 3), (3,)), ((5,), ()), ((2, 3, 4), (3, 1)), ((2, 3, 4), (2, 1, 4))],
    ids=str,
)  # fmt: skip
def test_operands_broadcast(shapes, backend):
    a, b = (dc.rand(*shape, backend=backend) + 0.5 for shape in shapes)
    x, y = a.cpu().numpy(), b.cpu().numpy()
    np.testing.assert_allclose(softclip(a, b).cpu().numpy(), y * np.tanh(x / y), rtol=2e-6)
    assert softclip(a, b).shape == np.broadcast_shapes(*shapes)
    if len(shapes[0]) == len(shapes[1]) == 2:
        a.requires_grad_()
        b.requires_grad_()
        softclip(a, b).sum().backward()
        assert a.grad.shape == a.shape and b.grad.shape == b.shape


def test_strided_memory_and_numbers(backend):
    x = dc.randn(6, 8, backend=backend)
    expected = lambda t: 2.5 * np.tanh(t.cpu().numpy() / 2.5)
    for view in (x.t(), x[::2, 1:], x[:, ::-1] if backend == "cpu" else x[:, 3:], x.t()[:, None]):
        np.testing.assert_allclose(softclip(view, 2.5).cpu().numpy(), expected(view), rtol=3e-6)
    np.testing.assert_allclose(softclip(x, limit=2.5).cpu().numpy(), softclip(x=x, limit=2.5).cpu().numpy())
    array = x.cpu().numpy()
    np.testing.assert_array_equal(softclip(array, 2.5).numpy(), softclip(dc.from_numpy(array), 2.5).numpy())
    assert softclip(1.0, 2.0) == 2.0 * math.tanh(0.5)  # numbers alone: the function itself
    assert np.isclose(softclip(2.0, x).cpu().numpy(), array * np.tanh(2.0 / array)).all()


def test_numbers_are_not_rounded_to_16_bits():
    x = dc.tensor([3.0], dtype=dc.bfloat16)
    assert softclip(x, 1.001).item() == dc.tensor(1.001 * math.tanh(3 / 1.001)).to(dc.bfloat16).item()


# -- whole numbers and conditions --------------------------------------------------------------------------------------


@dc.kernel
def collatz(x):
    n = 0
    while x > 1:
        x = x // 2 if x % 2 == 0 else 3 * x + 1
        n += 1
    return n


@dc.kernel
def bits(a, b):
    return ((a & b) ^ (a << 1) | ~b) + (a % 3) * (a // 2) - a**2


@dc.kernel
def ratio(a, b):
    return a / b


@dc.kernel
def between(x, low, high):
    return low <= x < high


@dc.kernel
def choose(x, condition, y):
    return x if condition else 2 * y


def test_whole_numbers_keep_their_dtype(backend):
    x = dc.arange(1, 30, backend=backend)
    assert collatz(x).tolist() == [collatz._kernel_function(n) for n in range(1, 30)]
    assert collatz(x.to(dc.float32)).tolist() == collatz(x).tolist() and collatz(x).dtype == dc.int64
    for dtype in (dc.int8, dc.int32, dc.uint8):
        a, b = dc.arange(7, backend=backend).to(dtype), dc.tensor([3], backend=backend).to(dtype)
        out = bits(a, b)
        expected = np.array([bits._kernel_function(i, 3) for i in range(7)])
        assert out.dtype == dtype
        np.testing.assert_array_equal(out.cpu().numpy(), expected.astype(out.cpu().numpy().dtype))
    quotient = ratio(dc.tensor([1, 2], backend=backend), dc.tensor([2, 3], backend=backend))
    assert quotient.dtype == dc.float32
    np.testing.assert_allclose(quotient.cpu().numpy(), np.float32([0.5, 2 / 3]))
    assert ratio(dc.tensor([1, 2], backend=backend), 2.0).tolist() == [0.5, 1.0]
    assert bits(dc.arange(3, backend=backend), 0).tolist() == [bits._kernel_function(i, 0) for i in range(3)]


def test_conditions_give_and_take_bools(backend):
    x = dc.tensor([-1.0, 0.5, 2.0], backend=backend)
    inside = between(x, 0.0, dc.tensor([1.0], backend=backend))
    assert inside.dtype == dc.bool_ and inside.tolist() == [False, True, False]
    assert between(dc.arange(4, backend=backend), 1, 3).tolist() == [False, True, True, False]
    assert choose(x, inside, 1.5).tolist() == [3.0, 0.5, 3.0]
    assert choose(x, True, 1.5).tolist() == x.tolist() and choose(x, False, x).tolist() == [-2.0, 1.0, 4.0]


def test_mixed_dtypes_are_promoted(backend):
    x, n = dc.ones(2, backend=backend), dc.arange(1, 3, backend=backend)
    assert softclip(x, n).dtype == dc.float32 and softclip(n, 2).dtype == dc.float32
    assert softclip(x.to(dc.float16), x).dtype == dc.float32 and softclip(x.double(), n).dtype == dc.float64
    with pytest.raises(errors.BackendError):
        softclip(dc.ones(2, backend="cpu"), dc.ones(2, backend="standin"))


# -- gradients -----------------------------------------------------------------------------------------------------------


def test_gradients_equal_finite_differences(backend):
    x = dc.randn(3, 4, dtype=dc.float64, backend=backend).requires_grad_()
    limit = (dc.rand(4, dtype=dc.float64, backend=backend) + 1).requires_grad_()
    assert dc.autograd.gradcheck(softclip, (x, limit))
    assert dc.autograd.gradcheck(lambda x: softclip(x, 1.5), x)
    assert dc.autograd.gradcheck(lambda limit: softclip(0.7, limit), limit)


def test_a_gradient_that_is_a_kernel_has_a_second_derivative(backend):
    @dc.kernel
    def curve(x):
        return x * x * x

    slope = curve.gradient(lambda x: 3 * x * x)
    slope.gradient(lambda x: 6 * x)
    x = dc.randn(5, dtype=dc.float64, backend=backend).requires_grad_()
    assert dc.autograd.gradcheck(curve, x) and dc.autograd.gradgradcheck(curve, x)
    cube = dc.kernel(lambda x: x**3, grad=dc.kernel(lambda x: 3 * x**2))
    y = cube(x)
    (first,) = dc.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(errors.GradientError, match=r"kernel\.gradient.*second derivative"):
        first.sum().backward()


def test_a_gradient_may_read_the_result_and_the_incoming_gradient(backend):
    logistic = dc.kernel(lambda x: 1 / (1 + math.exp(-x)), grad=lambda out: out * (1 - out))
    product = dc.kernel(lambda x, y: x * y, grad=[lambda g, y: g * y, lambda x: x])
    x = dc.randn(4, dtype=dc.float64, backend=backend).requires_grad_()
    y = dc.randn(4, dtype=dc.float64, backend=backend).requires_grad_()
    assert dc.autograd.gradcheck(logistic, x) and dc.autograd.gradcheck(product, (x, y))


def test_without_a_gradient_backward_says_how_to_give_one(backend):
    @dc.kernel
    def squared(x, y):
        return x * x + y

    x = dc.ones(3, backend=backend, requires_grad=True)
    out = squared(x, 1.0)
    assert out.requires_grad
    with pytest.raises(errors.GradientError, match=r"squared\.gradient\(f\), where f\(x, y\)"):
        out.sum().backward()
    with dc.no_grad():
        assert not squared(x, 1.0).requires_grad
    partly = dc.kernel(lambda x, y: x * y, grad=lambda y: y)
    partly(x, 2.0).sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    with pytest.raises(errors.GradientError, match="with respect to 'y'"):
        partly(2.0, x).sum().backward()


def test_a_wrong_gradient_is_found_when_it_is_declared():
    with pytest.raises(errors.GradientError, match="'x' is wrong") as caught:
        dc.kernel(lambda x: x * x, grad=lambda x: 3 * x)
    text = str(caught.value)
    assert "x=" in text and "finite differences" in text and "test_custom.py:" in text
    dc.kernel(lambda x: x * x, grad=lambda x: 3 * x, check=False)
    dc.kernel(lambda x: math.log(x), grad=lambda x: 1 / x)  # NaN for half of the points
    dc.kernel(lambda x: x if x > 0 else 0.0, grad=lambda x: 1 if x > 0 else 0)
    with pytest.raises(errors.GradientError, match="'y' is wrong"):
        dc.kernel(lambda x, y: x * y, grad=lambda x, y: (y, y))
    with pytest.raises(errors.ArgumentError, match="of its own"):
        dc.kernel(lambda x: x, grad=lambda z: 1.0)
    with pytest.raises(errors.ArgumentError, match="derivatives"):
        dc.kernel(lambda x: x, grad=lambda x: (1.0, 2.0))


# -- constants from outside --------------------------------------------------------------------------------------------


def test_a_constant_that_changes_is_another_kernel(backend, monkeypatch):
    scale = 2.0

    @dc.kernel
    def scaled(x):
        return scale * x + SLOPE

    x = dc.ones(2, backend=backend)
    assert scaled(x).tolist() == [2.25, 2.25]
    scale = 3.0
    assert scaled(x).tolist() == [3.25, 3.25]
    monkeypatch.setitem(globals(), "SLOPE", -0.0)
    assert scaled(x).tolist() == [3.0, 3.0]
    scale = 2
    assert scaled(dc.arange(2, backend=backend)).tolist() == [0.0, 2.0]
    names = {scaled.variant([x], x.dtype).translation.name}
    scale = 2.5
    names.add(scaled.variant([x], x.dtype).translation.name)
    assert len(names) == 2  # the cache's key has the constant


def test_arrays_from_outside_are_refused_by_name():
    weights, table, text = dc.ones(3), [1.0], "a"
    for function, name in (
        (lambda x: x * weights, "weights"),
        (lambda x: x * table, "table"),
        (lambda x: x * text, "text"),
    ):
        with pytest.raises(errors.ArgumentTypeError, match=f"'{name}'") as caught:
            dc.kernel(function)
        assert "test_custom.py:" in str(caught.value)


# -- wrong uses ------------------------------------------------------------------------------------------------------------


def one_way(x):
    if x > 0:
        return x


def maybe(x):
    if x > 0:
        y = 1.0
    return y


def endless(x):
    return endless(x - 1)


def open_loop(x, n):
    for i in range(n):
        x += i
    return x


def generator(x):
    yield x


def printing(x):
    print(x)
    return x


def two_results(x):
    return x, x


def indexing(x):
    return x[0]


def unknown(x):
    return math.gamma(x)


def strings(x):
    return "a" if x > 0 else "b"


def both(x, y):
    return (x or y) + 1


def starred(*x):
    return x


def nothing():
    return 1.0


WRONG = {
    one_way: "returns nothing", maybe: "before it has a value", endless: "recursion", open_loop: "bounds depend",
    generator: "generator", printing: "statement `print", two_results: "second result", indexing: "expression `x\\[0\\]`",
    unknown: "function `math.gamma`", strings: "type str", both: "combine conditions", starred: "\\*args", nothing: "without arguments",
}  # fmt: skip


@pytest.mark.parametrize("function", WRONG, ids=lambda f: f.__name__)
def test_what_no_kernel_has_is_refused_with_its_line(function):
    with pytest.raises(errors.UnsupportedError, match=WRONG[function]) as caught:
        dc.kernel(function)
    line = function.__code__.co_firstlineno
    place = str(caught.value).partition("test_custom.py:")[2]
    assert line <= int(place.split()[0].rstrip(",")) <= line + 4 and "fix:" in str(caught.value)


def test_wrong_arguments_are_named():
    x = dc.ones(2)
    for args, kwargs, text in (
        ((x,), {}, "'limit'"), ((x, 1, 2), {}, "takes 2"), ((x,), {"lim": 1.0}, "'lim'"), ((x, "a"), {}, "'limit'"),
        ((x, 1.0), {"x": x}, "twice"), ((x, None), {}, "'limit'"),
    ):  # fmt: skip
        with pytest.raises(errors.ArgumentTypeError, match=text):
            softclip(*args, **kwargs)
    with pytest.raises(errors.UnsupportedError, match="`&`"):
        bits(x, x)
    with pytest.raises(errors.ArgumentTypeError):
        dc.kernel(math.sin)
    scope: dict = {}
    exec("def made(x):\n    return x", scope)
    with pytest.raises(errors.ArgumentError, match="source"):
        dc.kernel(scope["made"])


# -- with the rest -------------------------------------------------------------------------------------------------------


def test_a_program_fuses_it_and_has_the_same_bits(backend, monkeypatch):
    pytest.importorskip("numba")
    if not settings.kernels or not _compiles(dc.get_backend(backend)):
        pytest.skip("programs need compiled kernels")
    monkeypatch.setattr(standin, "kernels", backend == "standin")
    x = dc.randn(64, 130, backend=backend).requires_grad_()
    mask = x.detach() > 0

    def step(x, mask):
        x.grad = None
        y = softclip(x * 2.0, 1.5) + functions(x.exp())
        y = y * choose(y, mask, 0.5).detach()
        y.sum().backward()
        return y

    compiled = dc.compile(lambda x, mask: softclip(x * 2.0, 1.5) * 3.0 + choose(x, mask, 0.5))
    with dc.no_grad():
        results = [compiled(x, mask) for _ in range(4)]
        expected = softclip(x * 2.0, 1.5) * 3.0 + choose(x, mask, 0.5)
    assert all(np.array_equal(r.cpu().numpy(), expected.cpu().numpy()) for r in results)
    model = dc.compile(lambda x: softclip(x * 2.0, 1.5) * 3.0)
    grads = []
    for f in (model, model, lambda x: softclip(x * 2.0, 1.5) * 3.0):
        x.grad = None
        f(x).sum().backward()
        grads.append(x.grad.cpu().numpy())
    assert all(np.array_equal(g, grads[0]) for g in grads)
    if backend == "cpu":
        names = [step.name for entry in compiled._cache.values() for runner, *_ in entry for step in runner.exe.steps]
        assert any("softclip" in name and "·" in name for name in names), names
    del step


def test_large_arrays_have_the_bits_of_small_ones():
    x = dc.randn(3, 1 << 16)
    whole, threads = functions(x).numpy(), dc.get_num_threads()
    np.testing.assert_array_equal(whole[:, :7], functions(x[:, :7].clone()).numpy())
    try:
        dc.set_num_threads(1)
        np.testing.assert_array_equal(whole, functions(x).numpy())
    finally:
        dc.set_num_threads(threads)


@pytest.mark.parametrize("name", ["functions", "mixed"])
def test_ptx_and_the_cpu_have_the_same_bits(name, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(standin, "kernels", True)
    x = dc.randn(70)
    on_gpu = SCALARS[name](x.to("standin")).cpu().numpy()
    np.testing.assert_array_equal(on_gpu, SCALARS[name](x).numpy())


def test_without_kernels_array_code_has_the_same_values(monkeypatch):
    @dc.kernel
    def raised(x, a):
        y = a + 1e300
        while a < 3:  # a loop over a number alone
            a = a * 1.5 + 0.5
        return x * a if y > a else a

    x = dc.randn(50)
    plain = raised(x, 0.5).numpy()
    with monkeypatch.context() as patch:
        patch.setattr(settings, "kernels", False)
        np.testing.assert_allclose(raised(x, 0.5).numpy(), plain, rtol=1e-6)
    expected = [SCALARS[name](x).numpy() for name in SCALARS]
    monkeypatch.setattr(settings, "kernels", False)
    for name, values in zip(SCALARS, expected):
        np.testing.assert_allclose(SCALARS[name](x).numpy(), values, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_without_numba_it_warns_and_computes(tmp_path):
    file = tmp_path / "made.py"
    file.write_text(
        "import sys\nsys.modules['numba'] = None\nimport warnings\nimport numpy as np\nimport deepcore as dc\n"
        "@dc.kernel\ndef f(x):\n    return x * x + 0.125 if x > 0 else -x\n"
        "with warnings.catch_warnings(record=True) as caught:\n    warnings.simplefilter('always')\n"
        "    out = f(dc.tensor([1.5, -2.0])).tolist()\n"
        "assert out == [2.375, 2.0], out\nassert any('slow' in str(w.message) for w in caught), [str(w.message) for w in caught]\n"
    )
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_autocast_leaves_its_dtypes_alone():
    x = dc.randn(3)
    with dc.autocast("cpu", dtype=dc.bfloat16):
        assert softclip(x, 1.0).dtype == dc.float32 and softclip(x.bfloat16(), 1.0).dtype == dc.bfloat16


def test_kernels_are_copied_and_pickled_by_name():
    assert pickle.loads(pickle.dumps(steps)) is steps and copy.deepcopy(softclip) is softclip
    assert repr(softclip) == "<kernel softclip(x, limit)>" and steps.__name__ == "steps"


def test_a_kernel_calls_another_one(backend):
    twice = dc.kernel(lambda x: softclip(softclip(x, 2.0), limit=1))
    x = dc.randn(5, backend=backend)
    once = 2.0 * np.tanh(x.cpu().numpy() / 2.0)
    np.testing.assert_allclose(twice(x).cpu().numpy(), np.tanh(once), rtol=3e-6)


def test_profiles_count_its_arithmetic():
    with dc.profile() as prof:
        softclip(dc.ones(100), 2.0)
    (row,) = [row for row in prof.key_averages() if row.key == "softclip"]
    assert row.flops > 200 and row.flops % 100 == 0


def test_no_warning_comes_from_values_beyond_the_domain(backend):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = dc.kernel(lambda x: math.log(x) / x)(dc.tensor([-1.0, 0.0, 1.0], backend=backend))
    assert np.isnan(out.cpu().numpy()[0]) and np.isneginf(out.cpu().numpy()[1]) and out.cpu().numpy()[2] == 0.0
