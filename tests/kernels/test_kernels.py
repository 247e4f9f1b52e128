from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import kernels
from deepcore.backend import get_backend
from deepcore.config import settings
from deepcore.errors import DeepcoreWarning
from deepcore.kernels.codegen import toolchain
from deepcore.kernels.math import reference, special

ROOT = Path(__file__).resolve().parents[2]
CPU = get_backend("cpu")
F32, F64 = np.float32, np.float64


# -- the dispatcher -----------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """An empty registry, and numba as it is."""
    kernels.dispatcher("erf", CPU, abs)  # the real kernel files are in before it is swapped
    monkeypatch.setattr(kernels.registry, "_KERNELS", {})
    monkeypatch.setattr(toolchain, "_numba", None)


def plain(xp, x, **params):
    return "reference"


def test_without_a_kernel_the_reference_itself_is_returned(registry):
    kernels.register("double", "cuda", needs_numba=False)(lambda xp, x: "kernel")
    assert kernels.dispatcher("double", CPU, plain) is plain
    assert kernels.dispatcher("triple", CPU, plain) is plain


def test_the_kind_is_the_backend_name_before_the_colon(registry):
    kernels.register("double", "standin", needs_numba=False)(lambda xp, x: "kernel")
    assert kernels.dispatcher("double", get_backend("standin:1"), plain)(None, 1) == "kernel"
    assert kernels.dispatcher("double", CPU, plain)(None, 1) == "reference"


def test_the_first_kernel_whose_condition_holds_runs(registry):
    kernels.register("double", "cpu", when=lambda x, scale=1: x > 10, needs_numba=False)(lambda xp, x, scale=1: "large")
    kernels.register("double", "cpu", when=lambda x, scale=1: scale == 2, needs_numba=False)(
        lambda xp, x, scale=1: "scaled"
    )
    run = kernels.dispatcher("double", CPU, plain)
    assert [run(CPU, 1), run(CPU, 11), run(CPU, 11, scale=2), run(CPU, 1, scale=2)] == [
        "reference",
        "large",
        "large",
        "scaled",
    ]


def test_kernels_can_be_turned_off(registry, monkeypatch):
    kernels.register("double", "cpu", needs_numba=False)(lambda xp, x: "kernel")
    run = kernels.dispatcher("double", CPU, plain)
    monkeypatch.setattr(settings, "kernels", False)
    off = run(CPU, 1)
    monkeypatch.undo()
    assert off == "reference"


def test_without_numba_one_notice_at_the_first_kernel_wanted(registry, monkeypatch):
    kernels.register("double", "cpu", when=lambda x: x > 10)(lambda xp, x: "kernel")
    monkeypatch.setitem(sys.modules, "numba", None)
    run = kernels.dispatcher("double", CPU, plain)
    assert run(CPU, 1) == "reference"  # no kernel wanted: no notice
    with pytest.warns(DeepcoreWarning, match="pip install numba") as caught:
        assert run(CPU, 11) == "reference"
    assert len(caught) == 1
    assert run(CPU, 11) == "reference"


_FRESH = """
import sys, warnings
if {absent}: sys.modules["numba"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import deepcore as dc
    g = dc.Generator(7)
    small = dc.rand(1000, generator=g).sum().item() + dc.erf(dc.ones(3)).sum().item()
    assert "numba" not in sys.modules or {absent}, "the reference loaded numba"
    large = [dc.rand(1 << 20, generator=g), dc.erf(dc.randn(1 << 13, generator=g))] * 2
print(sum("pip install numba" in str(w.message) for w in caught), len(caught))
print(sum(float(x.numpy().astype("float64").sum()) for x in large))
"""


@pytest.mark.parametrize("absent, flag, notices", [(True, "1", 1), (True, "0", 0), (False, "0", 0)])
def test_a_fresh_process(absent, flag, notices, tmp_path):
    environment = {
        **os.environ,
        "DEEPCORE_KERNELS": flag,
        "DEEPCORE_CACHE": str(tmp_path / "empty"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", _FRESH.format(absent=absent)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    said, total = out.stdout.splitlines()
    assert said == f"{notices} {notices}"
    g = dc.Generator(7)
    dc.rand(1000, generator=g)
    here = [dc.rand(1 << 20, generator=g), dc.erf(dc.randn(1 << 13, generator=g))] * 2
    assert float(total) == pytest.approx(sum(float(x.numpy().astype(F64).sum()) for x in here), rel=1e-9)


# -- special functions --------------------------------------------------------------------------------


def every_float(dtype, count):
    """Finite and infinite numbers of `dtype`, evenly spaced over their bit patterns, and the special ones."""
    bits, top = (np.uint32, 2**32) if dtype == F32 else (np.uint64, 2**64)
    pattern = [i * (top // count | 1) % top for i in range(count)]
    with np.errstate(invalid="ignore"):
        x = np.array(pattern, bits).view(dtype)
    tiny = np.finfo(dtype).smallest_subnormal
    return np.concatenate([x[~np.isnan(x)], np.array([0.0, -0.0, np.inf, -np.inf, tiny, -tiny, 1, -1], dtype)])


def ulps(got, want):
    """Distance in units of the last place of `want` as a number of got's dtype."""
    return np.abs(got.astype(F64) - want) / np.spacing(np.abs(want.astype(got.dtype))).astype(F64)


def erf_kernel(x):
    pytest.importorskip("numba")
    from deepcore.kernels.cpu.elementwise import MAPS

    return MAPS["erf"](CPU, x)


ERFS = [pytest.param(lambda x: reference.erf(CPU, x), id="reference"), pytest.param(erf_kernel, id="kernel")]


@pytest.mark.parametrize("erf", ERFS)
@pytest.mark.parametrize("dtype, bound", [(F32, 1), (F64, 4)])
def test_erf_over_the_floats(erf, dtype, bound):
    x = np.concatenate([every_float(dtype, 30_000), np.linspace(-6, 6, 20_001, dtype=dtype)])
    got = erf(x)
    assert got.dtype == dtype
    assert ulps(got, np.array([math.erf(v) for v in x.tolist()])).max() <= bound
    assert np.array_equal(np.signbit(got), np.signbit(x))


@pytest.mark.parametrize("erf", ERFS)
def test_erf_of_nan_strides_and_layout(erf):
    x = np.random.default_rng(0).standard_normal((70, 90)).astype(F32)
    x[3, 5] = np.nan
    kept = x.copy()
    whole = erf(x)
    assert np.isnan(whole[3, 5]) and np.isnan(whole).sum() == 1
    frozen = x.view()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"-" + x.tobytes(), np.uint8)[1:].view(F32).reshape(x.shape)
    for same in (np.asfortranarray(x), frozen, unaligned):
        np.testing.assert_array_equal(erf(same), whole)
    np.testing.assert_array_equal(erf(x[1::2, ::-3]), whole[1::2, ::-3])
    np.testing.assert_array_equal(x, kept)


def test_the_kernel_and_the_reference_agree_to_an_ulp():
    x = np.random.default_rng(1).standard_normal(20_000)
    assert ulps(erf_kernel(x), reference.erf(CPU, x)).max() <= 1


def test_the_scalar_function_is_plain_python():
    for x in (-7.0, -1.0, -0.3, 0.0, 0.999, 1.5, 5.9, math.inf):
        assert special.erf(x) == pytest.approx(math.erf(x), rel=4e-16)


# Values from mpmath, 40 digits.
TABLE = {
    "erfc": [
        (-3.0, 1.9999779095030015),
        (0.5, 0.4795001221869535),
        (1.0, 0.15729920705028513),
        (10.0, 2.088487583762545e-45),
        (25.5, 8.80166269072795e-285),
    ],
    "erfinv": [
        (0.5, 0.4769362762044699),
        (-0.999, -2.3267537655135246),
        (1e-09, 8.86226925452758e-10),
        (1 - 2**-40, 5.05125408524939),
    ],
    "lgamma": [
        (0.5, 0.5723649429247001),
        (1.001, -0.0005763935982833062),
        (-0.3, 1.4648400508576025),
        (-2.5, -0.056243716497674054),
        (10000000000.0, 220258509288.81058),
        (1e-300, 690.7755278982137),
    ],
    "digamma": [
        (1.0, -0.5772156649015329),
        (0.1, -10.423754940411076),
        (-0.7, -2.073952793628704),
        (-10.3, 4.662403493582087),
        (50.0, 3.901989673427892),
    ],
    "trigamma": [
        (1.0, 1.6449340668482264),
        (0.1, 101.43329915079275),
        (-0.7, 14.28618087263834),
        (30.0, 0.033895060357739946),
    ],
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dtype, rtol", [(F64, 2e-13), (F32, 1.2e-7)])
def test_special_functions_at_known_points(backend, name, dtype, rtol):
    xp = get_backend(backend)
    points = np.array(TABLE[name])
    x = points[:, 0].astype(dtype)
    keep = (np.abs(x) < 1e38) & (x.astype(F64) == points[:, 0]) & (np.abs(points[:, 1]) > 1e-37)
    got = xp.special(name, xp.from_host(x[keep]))
    assert got.dtype == dtype
    np.testing.assert_allclose(xp.to_host(got), points[keep, 1], rtol=rtol)


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -2.0, 1.0, 2.0, 5e-324, -1e-310, 1.7e308, -1.7e308]
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "name, want",
    [
        ("erf", [0, 0, 1, -1, NAN, math.erf(-1), math.erf(-2), math.erf(1), math.erf(2), 5e-324, -1.128379167e-310, 1, -1]),
        ("erfc", [1, 1, 0, 2, NAN, math.erfc(-1), math.erfc(-2), math.erfc(1), math.erfc(2), 1, 1, 0, 2]),
        ("erfinv", [0, 0, NAN, NAN, NAN, -INF, NAN, INF, NAN, 5e-324, -8.86226925e-311, NAN, NAN]),
        ("lgamma", [INF, INF, INF, INF, NAN, INF, INF, 0, 0, 744.4400719213812, 713.8013788281542, INF, INF]),
        ("digamma", [-INF, INF, INF, NAN, NAN, NAN, NAN, -0.5772156649015329, 0.42278433509846714, -INF, INF, math.log(1.7e308), NAN]),
        ("trigamma", [INF, INF, 0, NAN, NAN, INF, INF, 1.6449340668482264, 0.6449340668482264, INF, INF, 1 / 1.7e308, INF]),
    ],
)  # fmt: skip
def test_special_functions_at_the_edges_raise_no_warning(backend, name, want):
    xp = get_backend(backend)
    got = xp.to_host(xp.special(name, xp.from_host(np.array(SPECIAL))))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64"])
def test_special_functions_keep_the_dtype_and_the_shape(backend, name, dtype):
    xp = get_backend(backend)
    dtype = dc.backend.dtypes.DTYPES[dtype]
    x = xp.from_host(np.ones((), dtype))
    got = xp.special(name, x)
    assert got.shape == () and type(got) is xp.array_type
    assert got.dtype == (F32 if dtype == np.int64 else dtype)


def test_lgamma_and_digamma_over_a_range():
    x = np.concatenate([np.linspace(1e-3, 40, 4001), -np.linspace(0.0131, 9.9913, 777)])
    want = np.array([math.lgamma(v) for v in x])
    np.testing.assert_allclose(reference.lgamma(CPU, x), want, rtol=1e-13, atol=1e-14)
    # Γ(x + 1) = x·Γ(x), differentiated.
    step = reference.digamma(CPU, x + 1) - reference.digamma(CPU, x)
    np.testing.assert_allclose(step, 1 / x, rtol=1e-11, atol=1e-12)
    y = np.linspace(-0.9999, 0.9999, 999)
    np.testing.assert_allclose(reference.erf(CPU, reference.erfinv(CPU, y)), y, rtol=4e-15)
