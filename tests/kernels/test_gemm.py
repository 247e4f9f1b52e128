"""The matrix product's own kernels: every layout, edge, dtype and epilogue against float64, and the same bits always."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from deepcore.backend import dtypes
from deepcore.config import settings

pytest.importorskip("numba")

from deepcore.kernels import plan
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu import elementwise, gemm, gemm_tables
from deepcore.kernels.runtime import threadpool

if gemm_tables.table() is None:
    pytest.skip("this processor's vectors have no fused multiply-add", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
FLOATS = [np.float32, np.float64]
# Around the edges of tiles (8 and 12 rows, one and two vectors), of blocks of k, and of slices.
SIZES = [
    (1, 1, 1), (1, 1, 40), (40, 1, 1), (1, 40, 1), (2, 3, 5), (7, 7, 7), (8, 8, 8), (9, 15, 17), (12, 16, 32),
    (13, 17, 33), (16, 31, 31), (17, 33, 47), (23, 320, 15), (25, 321, 65), (31, 641, 63), (97, 5, 95), (98, 70, 129),
    (100, 700, 100), (127, 255, 63), (1, 500, 300), (3, 300, 500), (300, 500, 1), (4, 999, 70), (200, 1000, 31), (333, 130, 260),
]  # fmt: skip


def layouts(x):
    """The same matrix in rows, in columns, with gaps, backwards, and with gaps both ways."""
    m, n = x.shape
    wide = np.zeros((2 * m, n + 3), x.dtype)
    wide[::2, 1:-2] = x
    gaps = np.zeros((m, 3 * n), x.dtype)
    gaps[:, ::3] = x
    back = np.ascontiguousarray(x[::-1])[::-1]
    return {"rows": x, "columns": np.asfortranarray(x), "wide": wide[::2, 1:-2], "back": back, "gaps": gaps[:, ::3]}


def exact(a, b):
    return np.matmul(a.astype(np.float64), b.astype(np.float64))


def bound(a, b):
    """What rounding of each product and sum may come to: a small multiple of √k times the terms' size."""
    k = a.shape[-1]
    size = np.matmul(np.abs(a).astype(np.float64), np.abs(b).astype(np.float64))
    return 2 * np.finfo(a.dtype).eps * (1 + math.sqrt(k)) * size + np.finfo(a.dtype).tiny


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_layout_has_the_same_right_bits(size, dtype):
    m, k, n = size
    a, b = RNG.standard_normal((m, k)).astype(dtype), RNG.standard_normal((k, n)).astype(dtype)
    expected, limit, seen = exact(a, b), bound(a, b), set()
    for x, y in itertools.product(layouts(a).values(), layouts(b).values()):
        out = gemm.product(x, y)
        assert out.dtype == dtype and out.shape == (m, n)
        assert (np.abs(out - expected) <= limit).all()
        seen.add(out.tobytes())
    # Contiguous rows times columns are dot products where there are few of either.
    dots = (m <= 4 and n * k >= 1 << 16) or (n == 1 and m * k >= 1 << 16)
    assert len(seen) <= 1 + dots


def test_random_shapes():
    for _ in range(150):
        m, k, n = (int(x) for x in np.exp(RNG.uniform(0, math.log(150), 3)))
        dtype = FLOATS[int(RNG.integers(2))]
        a, b = RNG.standard_normal((m, k)).astype(dtype), RNG.standard_normal((k, n)).astype(dtype)
        x, y = (list(layouts(z).values())[int(RNG.integers(5))] for z in (a, b))
        assert (np.abs(gemm.product(x, y) - exact(a, b)) <= bound(a, b)).all(), (m, k, n)


@pytest.mark.parametrize("n", [2, 3, 7, 10, 15])
@pytest.mark.parametrize("dtype", FLOATS)
def test_few_columns_have_the_bits_that_they_have_among_many(n, dtype):
    """They are computed as the transpose where there are many rows; bias, residual, activation and batches take part."""
    for m, k in ((131, 1), (300, 40), (1000, 784), (4099, 30)):
        a, b = RNG.standard_normal((2, m, k)).astype(dtype), RNG.standard_normal((k, 40)).astype(dtype)
        bias, residual = RNG.standard_normal(40).astype(dtype), RNG.standard_normal((2, m, 40)).astype(dtype)
        few, pre = np.ascontiguousarray(residual[..., :n]), np.empty((2, m, n), dtype)
        for x, y in itertools.product((a, a.swapaxes(1, 2).copy().swapaxes(1, 2)), (b, b.T.copy().T)):
            want = gemm.product(x, y, bias=bias, residual=residual, activation="gelu", scale=0.5)[..., :n]
            part = {"bias": np.ascontiguousarray(bias[:n]), "residual": few, "scale": 0.5}
            found = gemm.product(x, y[:, :n], **part, activation="gelu", pre=pre)
            assert found.tobytes() == want.tobytes()
            assert gemm.product(x, y[:, :n], **part).tobytes() == pre.tobytes()
            assert gemm.product(x[0], y[:, :n]).tobytes() == gemm.product(x[0], y)[:, :n].tobytes()


@pytest.mark.parametrize(
    "size", [(300, 400, 500), (50, 300, 2000), (4000, 70, 33), (4000, 70, 10), (2, 900, 900)], ids=str
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_same_bits_at_any_threads(size, dtype, monkeypatch):
    m, k, n = size
    a, b = RNG.standard_normal((m, k)).astype(dtype), RNG.standard_normal((n, k)).astype(dtype).T
    seen = set()
    for threads in (1, 2, 3):
        monkeypatch.setattr(settings, "threads", threads)
        seen.update(gemm.product(a, b).tobytes() for _ in range(3))
    assert len(seen) == 1


@pytest.mark.parametrize(
    "left, right",
    [
        ((3, 20, 30), (3, 30, 25)),
        ((3, 20, 30), (30, 25)),
        ((3, 1, 20, 30), (4, 30, 25)),
        ((4, 20, 30), (3, 1, 30, 25)),
        ((1, 200, 300), (5, 300, 100)),
        ((5, 200, 300), (1, 300, 100)),
        ((3, 200, 200), (3, 200, 600)),
        ((200, 200), (3, 200, 600)),
        ((3, 200, 200), (200, 600)),
        ((2, 3, 130, 70), (2, 1, 70, 90)),
        ((64, 1, 30), (64, 30, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_batches(left, right, dtype):
    a, b = RNG.standard_normal(left).astype(dtype), RNG.standard_normal(right).astype(dtype)
    transposed = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    for x, y in ((a, b), (a, transposed), (a[..., ::-1], b[..., ::-1, :])):
        out = gemm.product(x, y)
        expected = exact(x, y)
        assert out.shape == expected.shape
        assert (np.abs(out - expected) <= bound(x, y)).all()


def test_an_expanded_operand():
    a = np.broadcast_to(RNG.standard_normal((1, 40)).astype("f"), (130, 40))
    b = np.broadcast_to(RNG.standard_normal((40, 1)).astype("f"), (40, 50))
    assert (np.abs(gemm.product(a, b) - exact(a, b)) <= bound(a, b)).all()


@pytest.mark.parametrize("size", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)], ids=str)
def test_empty_products_are_left_to_the_reference(size):
    m, k, n = size
    assert gemm.product(np.ones((m, k), "f"), np.ones((k, n), "f")) is NotImplemented


def test_what_it_does_not_serve():
    f = np.ones((3, 3), "f")
    for x, y in ((f, f.astype("d")), (f, np.ones((4, 3), "f")), (f[0], f), (f.astype(int), f.astype(int))):
        assert gemm.product(x, y) is NotImplemented


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("size", [(32, 64, 10), (5, 3, 64), (3, 300, 200), (130, 400, 70), (100, 350, 32)], ids=str)
def test_epilogues(size, batch, dtype):
    m, k, n = size
    a, b = RNG.standard_normal((*batch, m, k)).astype(dtype), RNG.standard_normal((n, k)).astype(dtype).T
    bias, residual = RNG.standard_normal(n).astype(dtype), RNG.standard_normal((*batch, m, n)).astype(dtype)
    plain, scale = gemm.product(a, b), 0.375
    for parts in itertools.product((False, True), repeat=5):
        scaled, biased, added, active, kept = parts
        pre = np.full(residual.shape, np.nan, dtype) if kept else None
        out = gemm.product(
            a,
            b,
            bias=bias if biased else None,
            residual=residual if added else None,
            activation="gelu" if active else None,
            scale=scale if scaled else None,
            pre=pre,
        )
        want = plain * dtype(scale) if scaled else plain.copy()
        want += bias if biased else 0
        want += residual if added else 0
        if kept:
            assert np.array_equal(pre, want)
        want = elementwise.MAPS["gelu"](None, want) if active else want
        assert np.array_equal(out, want), parts


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize(
    "size",
    [
        (1, 2, 3),
        (33, 70, 21),
        (130, 300, 257),
        (3, 400, 300),
        (600, 100, 20),
        (300, 7, 50),
        (9, 500, 900),
        (200, 300, 1),
    ],
    ids=str,
)
def test_halves_are_summed_in_float32_and_rounded_once(size, dtype):
    m, k, n = size
    a, b = (RNG.standard_normal(s).astype(dtype) for s in ((m, k), (k, n)))
    bias, residual = RNG.standard_normal(n).astype(dtype), RNG.standard_normal((m, n)).astype(dtype)
    f32 = [x.astype(np.float32) for x in (a, b, bias, residual)]
    for x, y in [(x, y) for x in layouts(a).values() for y in layouts(b).values()]:
        out = gemm.product(x, y)
        assert out.dtype == dtype
        want = gemm.product(x.astype(np.float32), y.astype(np.float32))
        np.testing.assert_array_equal(out, want.astype(dtype))
    pre = np.empty((m, n), dtype)
    out = gemm.product(a, np.asfortranarray(b), bias=bias, residual=residual, activation="relu", pre=pre)
    want = gemm.product(f32[0], np.asfortranarray(f32[1]), bias=f32[2], residual=f32[3])
    np.testing.assert_array_equal(pre, want.astype(dtype))
    np.testing.assert_array_equal(out, np.maximum(want, 0).astype(dtype))


def test_batches_of_halves():
    a, b = (RNG.standard_normal(s).astype(dtypes.bfloat16) for s in ((2, 1, 40, 90), (3, 90, 70)))
    want = gemm.product(a.astype("f"), b.astype("f"))
    np.testing.assert_array_equal(gemm.product(a, b), want.astype(dtypes.bfloat16))
    vectors = a[:, :, :2]
    want = gemm.product(vectors.astype("f"), np.concatenate([b] * 12, -1).astype("f"))
    np.testing.assert_array_equal(gemm.product(vectors, np.concatenate([b] * 12, -1)), want.astype(dtypes.bfloat16))


def test_no_float32_copy_of_halves_is_made():
    """A matrix of 16 bits is widened panel by panel, where it is packed."""
    spec = plan.spec_of(np.ones((1024, 2048), dtypes.bfloat16), None)
    for rows in (1, 8, 64):
        product = gemm.planned(plan.spec_of(np.ones((rows, 1024), dtypes.bfloat16), None), spec)
        assert sum(product.temporaries) < 2 * spec.size


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda d: d.name)
def test_every_rounding_to_16_bits(dtype):
    """Halfway cases, both neighbours, overflow, subnormals, infinities and NaN, as NumPy converts them."""
    halves = np.arange(1 << 16).astype(np.uint16).view(dtype).astype(np.float32)
    with np.errstate(all="ignore"):
        steps = [np.nextafter(halves, np.float32(s)) for s in (-np.inf, np.inf)]
        ties = halves.view(np.uint32) + np.uint32(1 << (12 if dtype == dtypes.float16 else 15))
        x = np.concatenate([halves, *steps, ties.view(np.float32)])
        want = x.astype(dtype)
        nan = np.isnan(want.astype(np.float32))
    out, back = np.empty(x.shape, dtype), np.empty(x.shape, np.float32)
    assert gemm._ROUND[dtype].ready()
    chunks = -(-x.size // gemm._CONVERT_CHUNK)
    assert threadpool.launch(gemm._ROUND[dtype], chunks, source=x, to=out, count=x.size) == 0
    assert np.array_equal(np.isnan(out.astype(np.float32)), nan)
    assert np.array_equal(out[~nan].view(np.uint16), want[~nan].view(np.uint16))
    assert gemm._WIDEN[dtype].ready()
    assert threadpool.launch(gemm._WIDEN[dtype], chunks, source=want, to=back, count=x.size) == 0
    assert np.array_equal(back[~nan].view(np.uint32), want[~nan].astype(np.float32).view(np.uint32))


def test_out_is_filled():
    a, b = RNG.standard_normal((50, 60)).astype("f"), RNG.standard_normal((60, 70)).astype("f")
    out = np.empty((50, 70), "f")
    assert gemm.product(a, b, out) is out
    assert np.array_equal(out, gemm.product(a, b))


@pytest.mark.parametrize("size", [(5, 400, 40), (130, 400, 70)], ids=str)
def test_nan_and_infinity_reach_their_row_or_column_only(size):
    m, k, n = size
    a, b = np.ones((m, k), "f"), np.ones((k, n), "f")
    a[2, 7], b[350, 3], a[4, -1] = np.nan, np.inf, -np.inf
    out = gemm.product(a, b)
    with np.errstate(invalid="ignore"):
        expected = exact(a, b)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("k", [100, 1000, 4000])
def test_no_less_accurate_than_blas(k, layout):
    a, b = RNG.standard_normal((64, k)).astype("f"), RNG.standard_normal((k, 64)).astype("f")
    x, y = layouts(a)[layout], layouts(b)[layout]
    expected = exact(a, b)
    own, blas = (np.sqrt(np.mean((p - expected) ** 2)) for p in (gemm.product(x, y), np.matmul(x, y)))
    assert own <= 1.1 * blas
    torch = pytest.importorskip("torch")
    assert own <= 1.02 * np.sqrt(np.mean(((torch.from_numpy(x) @ torch.from_numpy(y)).numpy() - expected) ** 2))


@pytest.mark.parametrize("family", ["avx2", *(pytest.param(f, marks=pytest.mark.slow) for f in ("avx512", "neon"))])
def test_tiles_of_other_processors_give_the_same_bits(family, monkeypatch):
    if family == gemm_tables.family():
        pytest.skip("they are this processor's")
    sizes, f32 = [(13, 17, 33), (31, 400, 63), (150, 200, 130), (300, 300, 700)], np.dtype(np.float32)
    pairs = [(RNG.standard_normal((m, k)).astype(f32), RNG.standard_normal((k, n)).astype(f32)) for m, k, n in sizes]
    calls = [(x, y) for a, b in pairs for x in (a, np.asfortranarray(a)) for y in (b, np.asfortranarray(b))]
    expected = [gemm.product(x, y) for x, y in calls]
    table = gemm_tables.TABLES[family]
    monkeypatch.setattr(gemm_tables, "table", lambda: table)
    makers = {"_KERNELS": gemm._product_chunk, "_PACKERS": gemm._pack_before, "_ROW_PACKERS": gemm._pack_rows_before}
    for kernels, build in makers.items():
        made = Kernel(f"test_gemm{build.__name__}_{family}", build, "float32", table)
        monkeypatch.setattr(gemm, kernels, {f32: made})
    monkeypatch.setattr(gemm.PRODUCT, "plans", {})
    for (x, y), want in zip(calls, expected):
        assert np.array_equal(gemm.product(x, y), want)
    assert len(gemm.PRODUCT.plans) == len(calls)


def test_a_table_may_leave_a_class_of_shapes_to_blas(monkeypatch):
    choice = gemm_tables.table()._replace(blas=("float32 small",))
    monkeypatch.setattr(gemm_tables, "table", lambda: choice)
    monkeypatch.setattr(gemm.PRODUCT, "plans", {})
    a, b = np.ones((40, 50), "f"), np.ones((50, 60), "f")
    assert gemm.product(a, b) is NotImplemented
    assert np.array_equal(gemm.product(a.astype("d"), b.astype("d")), np.full((40, 60), 50.0))


@pytest.mark.parametrize("absent", [(), ("numba",), ("numba", "llvmlite", "llvmlite.binding")], ids=len)
def test_products_without_compilers(absent, tmp_path):
    code = f"""
import sys, warnings
for name in {absent!r}: sys.modules[name] = None
warnings.simplefilter("ignore")
import numpy as np, deepcore as dc
a, b = np.ones((100, 200), "f"), np.ones((200, 300), "f")
assert (dc.matmul(dc.tensor(a), dc.tensor(b)).numpy() == 200).all()
"""
    environment = {**os.environ, "DEEPCORE_KERNELS": "1" if absent else "0", "DEEPCORE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_several_python_threads_at_once():
    a, b = RNG.standard_normal((200, 300)).astype("f"), RNG.standard_normal((250, 300)).astype("f").T
    small = RNG.standard_normal((30, 300)).astype("f")
    expected = gemm.product(a, b).tobytes(), gemm.product(small, b).tobytes()
    wrong = []

    def work():
        for _ in range(20):
            if (gemm.product(a, b).tobytes(), gemm.product(small, b).tobytes()) != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
