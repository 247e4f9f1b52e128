"""Backends: how they are chosen, what they promise, and that threads do not change bits."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import standin

import deepcore as dc
from deepcore.backend import available_kinds, backend_of, dtypes, get_backend, use_backend
from deepcore.backend.cpu import CpuBackend, _Blas
from deepcore.config import settings
from deepcore.errors import ArgumentError, BackendError, ConfigError

ROOT = Path(__file__).resolve().parents[2]


def python(code, **environment):
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- choosing --------------------------------------------------------------------------------------
def test_names(backend):
    found = get_backend(backend)
    assert found is get_backend(backend) is get_backend(found) is pickle.loads(pickle.dumps(found))
    assert found is copy.deepcopy(found)
    assert found == backend and found == found.name and found != "elsewhere"
    assert str(found) == found.name and backend in available_kinds()


def test_numbered_devices_are_distinct():
    zero, one = get_backend("standin:0"), get_backend("standin:1")
    assert zero is get_backend("standin") and one is not zero
    assert one == "standin:1" and one != "standin" and zero == "standin"


@pytest.mark.parametrize(
    "name, error, words",
    [
        ("cpuu", BackendError, "did you mean 'cpu'"),
        ("CUDA", BackendError, "did you mean 'cuda'"),
        ("gpu", BackendError, "cpu"),
        ("", BackendError, "no backend named ''"),
        ("dtypes", BackendError, "no backend named 'dtypes'"),
        ("os.path", BackendError, "no backend named 'os.path'"),
        ("cpu:1", BackendError, "one CPU backend"),
        ("__init__", BackendError, "no backend named '__init__'"),
        ("cpu.x", BackendError, "no backend named 'cpu.x'"),
        ("../x", BackendError, "no backend named '../x'"),
        ("cuda:²", BackendError, "'cuda:²' is not a backend"),
        ("cpu:" + "9" * 5000, BackendError, "is not a backend"),
        ("\0", BackendError, r"no backend named '\\x00'"),
        ("cpu:x", BackendError, "'cpu:x' is not a backend"),
        ("standin:7", BackendError, "no GPU 7: this machine has 2"),
        (b"cpu", ArgumentError, "given by its name"),
        (-1, ArgumentError, "whole number of at least 0"),
        (True, ArgumentError, "given by its name"),
    ],
)
def test_unknown_names(name, error, words):
    with pytest.raises(error, match=words):
        get_backend(name)


def _fake_cupy(folder, count):
    """A package `cupy` that imports, and has `count` devices or raises."""
    (folder / "cupy").mkdir()
    (folder / "cupy" / "__init__.py").write_text(
        "__version__ = '14.0.0'\nclass ndarray: pass\n"
        f"class runtime:\n    @staticmethod\n    def getDeviceCount(): {count}\n"
        "class cuda:\n    runtime = runtime\n    class Device:\n        def __init__(self, i): self.id = i\n"
    )


TRY_CUDA = """
from deepcore.backend import get_backend
from deepcore.errors import BackendError
try:
    print(get_backend({name!r}).name)
except BackendError as error:
    print(error)
"""


def test_a_factory_may_ask_for_another_backend(monkeypatch):
    monkeypatch.setattr(dc.backend, "_FACTORIES", {})
    monkeypatch.setattr(dc.backend, "_INSTANCES", {})
    dc.backend.register("outer", lambda index: dc.backend.Backend("outer", get_backend("cpu").array_module, list))
    made = []
    thread = threading.Thread(target=lambda: made.append(get_backend("outer")), daemon=True)
    thread.start()
    thread.join(10)
    assert made == ["outer"]


@pytest.mark.parametrize(
    "name, body, words",
    [
        ("cuda", None, ["needs CuPy", "pip install 'deepcore-nn[cuda]'", "'deepcore-nn[cuda12]'", 'backend="cpu"']),
        (
            "cuda",
            "raise RuntimeError('cudaErrorNoDevice')",
            ["no usable GPU", "cudaErrorNoDevice", "nvidia-smi", "'deepcore-nn[cuda12]'", 'backend="cpu"'],
        ),
        ("cuda:7", "return 2", ["no GPU 7", "has 2", 'backend="cuda:1"']),
        ("cuda", "return 0", ["no GPU 0", 'backend="cpu"']),
        ("cuda:1", "return 2", ["cuda:1"]),
        ("auto", "return 1", ["cuda:0"]),
        ("auto", "raise RuntimeError('cudaErrorNoDevice')", ["cpu"]),
        ("auto", None, ["cpu"]),
    ],
)
def test_cuda_that_cannot_be_used_says_why(tmp_path, name, body, words):
    if body is None:
        (tmp_path / "cupy.py").write_text("raise ImportError('libcuda.so.1 is missing')")
    else:
        _fake_cupy(tmp_path, body)
    out = python(TRY_CUDA.format(name=name), PYTHONPATH=str(tmp_path))
    for word in words:
        assert word in out


def test_an_old_cupy_is_named(tmp_path):
    (tmp_path / "cupy.py").write_text("__version__ = '13.6.0'")
    out = python(TRY_CUDA.format(name="cuda"), PYTHONPATH=str(tmp_path))
    assert "CuPy 14 or later" in out and "13.6.0" in out and "pip install" in out


def test_use_backend():
    before = settings.backend
    with use_backend("standin") as inside:
        assert inside is get_backend() is get_backend("standin")
        assert dc.zeros(2).backend == "standin"
        with use_backend("cpu"):
            assert dc.zeros(2).backend == "cpu"
        assert dc.zeros(2).backend == "standin"
    assert settings.backend == before
    with pytest.raises(ZeroDivisionError), use_backend("standin"):
        raise ZeroDivisionError
    assert settings.backend == before
    with pytest.raises(BackendError):
        use_backend("cpuu")
    assert settings.backend == before
    try:
        use_backend("standin")  # a statement: from here on
        assert dc.ones(1).backend == "standin"
    finally:
        use_backend(before)


def test_environment_names_the_default():
    code = "import deepcore as dc; print(dc.get_backend().name, dc.zeros(1).backend)"
    assert python(code, DEEPCORE_BACKEND="cpu") == "cpu cpu"
    code = (
        "import deepcore as dc\ntry: dc.zeros(1)\nexcept dc.errors.BackendError as e: print(e.problem, e.fix, e.where)"
    )
    assert "'cpuu' did you mean 'cpu'? DEEPCORE_BACKEND" in python(code, DEEPCORE_BACKEND="cpuu")


@pytest.mark.parametrize(
    "name, text, says",
    [
        *(
            ("DEEPCORE_NUM_THREADS", text, "a positive whole number")
            for text in ("²", "٣", "0", "two", "-1", "1.5", "9" * 500)
        ),
        *(("DEEPCORE_KERNELS", text, r"0 \(off\) or 1 \(on\)") for text in ("foo", "off", "2")),
        ("DEEPCORE_CACHE", "~nobody-of-this-name/x", "a folder: it names the home of a user who is not there"),
        ("DEEPCORE_DATA", "~nobody-of-this-name", "a folder: it names the home of a user who is not there"),
    ],
)
def test_environment_is_checked_at_first_use(name, text, says, monkeypatch):
    from deepcore.config import Settings

    monkeypatch.setenv(name, text)
    made = Settings()
    dc.ones(1) + 1
    with pytest.raises(ConfigError, match=f"^{name} is not {says}\n  received: .*\n[\\s\\S]*fix: +{name}=") as caught:
        made.check()
    assert repr(text) in str(caught.value)
    monkeypatch.setattr(settings, "problems", made.problems)
    with pytest.raises(ConfigError, match=name):
        get_backend("cpu").bind(next(iter(get_backend("cpu").impls)))


@pytest.mark.parametrize("name", ["DEEPCORE_CACHE", "DEEPCORE_DATA"])
def test_environment_folders_may_begin_with_the_home(name, monkeypatch, tmp_path):
    from deepcore.config import Settings

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv(name, "~/kept")
    made = Settings()
    made.check()
    assert getattr(made, f"{name[9:].lower()}_dir") == str(tmp_path / "kept")


def test_a_bad_environment_lets_the_package_be_imported():
    code = """
import deepcore as dc
try: dc.ones(1) + 1
except dc.errors.ConfigError as error: print(error.problem)
from deepcore.cli import main
print(main(["summary"]), main(["info"]))
"""
    said = python(code, DEEPCORE_NUM_THREADS="abc")
    assert said.startswith("DEEPCORE_NUM_THREADS is not a positive whole number\n")
    assert "DEEPCORE_NUM_THREADS  abc: not a positive whole number" in said and said.endswith("2 0")


# -- mixing ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: a + b,
        lambda a, b: a @ b,
        lambda a, b: dc.where(a == a, a, b),
        lambda a, b: dc.cat([a, b]),
        lambda a, b: a.__iadd__(b),
        lambda a, b: dc.maximum(b, a),
    ],
)
@pytest.mark.parametrize("other", ["standin", "standin:1"])
def test_mixed_backends_name_both(mix, other):
    first = "standin" if other == "standin:1" else "cpu"
    a = dc.tensor([[1.0, 2.0], [3.0, 4.0]], backend=first)
    b = dc.tensor([[1.0, 2.0], [3.0, 4.0]], backend=other)
    with standin.transfers() as crossed, pytest.raises(BackendError) as caught:
        mix(a, b)
    assert str(a.backend) in str(caught.value) and str(b.backend) in str(caught.value)
    assert caught.value.fix and (crossed.uploads, crossed.downloads) == (0, 0)


def test_a_training_step_makes_no_implicit_transfer():
    x = dc.ones(4, 3, backend="standin")
    w = dc.ones(3, 2, backend="standin", requires_grad=True)

    def step():
        w.grad = None
        loss = ((x @ w).relu() * 2.0 - 1.0).sum()
        loss.backward()
        return loss

    step()  # the constants are uploaded once
    with standin.transfers() as crossed:
        loss = step()
    assert (crossed.uploads, crossed.downloads, crossed.syncs) == (0, 0, 0)
    assert loss.item() == 40.0 and w.grad.backend == "standin"


# -- the contract ----------------------------------------------------------------------------------
def test_arrays_go_there_and_back(backend):
    xp = get_backend(backend)
    for host in (
        np.float32(2.5).reshape(()),
        np.arange(6).reshape(2, 3).T,
        np.zeros((0, 3)),
        np.ones((4, 4))[::2, ::2],
    ):
        host = np.asarray(host)
        there = xp.from_host(host)
        assert type(there) is xp.array_type and there.shape == host.shape and backend_of(there) is xp
        back = xp.to_host(there)
        assert type(back) is np.ndarray and back.dtype == host.dtype
        np.testing.assert_array_equal(back, host)
    assert backend_of([1.0]) is None


def test_constants_are_kept_apart(backend):
    xp = get_backend(backend)
    f32, i64 = dtypes.float32, dtypes.int64

    def host(*key):
        return xp.to_host(xp.constant(*key))

    assert not np.signbit(host(0.0, f32)) and np.signbit(host(-0.0, f32)) and not np.signbit(host(0.0, f32))
    assert np.isnan(host(float("nan"), f32)) and np.isinf(host(float("inf"), f32))
    for value in (True, 1, 1.0):
        for dtype in (f32, i64, dtypes.bool_, dtypes.bfloat16):
            constant = host(value, dtype)
            assert constant.dtype == dtype and constant.shape == () and constant == 1
    assert host(False, dtypes.bool_) == host(0, dtypes.bool_) and host(2.5, f32) == 2.5
    assert xp.constant(3.0, f32) is xp.constant(3.0, f32)
    for i in range(3000):  # the store does not grow without end
        xp.constant(i + 0.5, f32)
    assert len(xp._constants) < 2000


SCATTERS = [
    ("duplicates", (7, 5), lambda r: r.integers(-7, 7, 300), (300, 5)),
    ("one row", (7, 5), lambda r: np.zeros(129, np.int64), (129, 5)),
    ("vector", (50,), lambda r: r.integers(0, 50, 200), (200,)),
    ("no writes", (7, 5), lambda r: np.zeros(0, np.int64), (0, 5)),
    ("no columns", (7, 0), lambda r: r.integers(0, 7, 3), (3, 0)),
    ("broadcast value", (7, 5), lambda r: r.integers(-7, 7, 30), (5,)),
    ("0-d value", (7, 5), lambda r: r.integers(-7, 7, 30), ()),
    ("index matrix", (9, 2, 3), lambda r: r.integers(-9, 9, (4, 6)), (4, 6, 2, 3)),
    ("two indices", (4, 3, 2), lambda r: (r.integers(-4, 4, 40), r.integers(-3, 3, 40)), (40, 2)),
    ("two that broadcast", (4, 3), lambda r: (r.integers(0, 4, (5, 1)), r.integers(0, 3, (1, 6))), (5, 6)),
    ("small integers", (7, 5), lambda r: r.integers(-7, 7, 30).astype(np.int8), (30, 5)),
    ("slice first", (3, 6), lambda r: (slice(None), r.integers(-6, 6, 20)), (3, 20)),
    ("slice and step", (6, 4), lambda r: (r.integers(0, 6, 9), slice(None, None, 2)), (9, 2)),
    ("scalar and array", (4, 6), lambda r: (2, r.integers(0, 6, 9)), (9,)),
    ("mask", (4, 6), lambda r: np.arange(24).reshape(4, 6) % 3 == 0, (8,)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bfloat16", "float16"])
@pytest.mark.parametrize("name, shape, index, values", SCATTERS, ids=[s[0] for s in SCATTERS])
def test_scatter_add(backend, name, shape, index, values, dtype):
    """Against np.add.at in float64; integers and small whole numbers exactly."""
    xp, rng = get_backend(backend), np.random.default_rng(0)
    index = index(rng)
    target = rng.integers(-4, 5, shape).astype(dtypes.DTYPES[dtype])
    values = rng.integers(-1, 2, values).astype(dtypes.DTYPES[dtype])
    expected = target.astype(np.float64)
    np.add.at(expected, index, values.astype(np.float64))
    assert abs(expected).max(initial=0) < 256  # exact in bfloat16
    there = (
        tuple(xp.from_host(i) if isinstance(i, np.ndarray) else i for i in index)
        if isinstance(index, tuple)
        else xp.from_host(index)
    )
    for make in (lambda a: xp.from_host(a.copy()), lambda a: xp.from_host(np.ascontiguousarray(a.T)).T):
        array = make(target)
        before = array
        with np.errstate(all="ignore"):
            xp.scatter_add(array, there, xp.from_host(values))
        assert array is before and array.dtype == target.dtype
        np.testing.assert_array_equal(xp.to_host(array).astype(np.float64), expected)


def test_scatter_add_keeps_its_bits(backend):
    xp, rng = get_backend(backend), np.random.default_rng(0)
    index = rng.integers(-30, 30, 5000)
    values = rng.standard_normal((5000, 3)).astype(np.float32)
    seen = set()
    for _ in range(3):
        target = xp.zeros((30, 3), dtype=np.float32)
        source = xp.from_host(values.copy())
        xp.scatter_add(target, xp.from_host(index), source)
        seen.add(xp.to_host(target).tobytes())
        np.testing.assert_array_equal(xp.to_host(source), values)  # the values are not summed in place
    assert len(seen) == 1
    expected = np.zeros((30, 3))
    np.add.at(expected, index, values.astype(np.float64))
    np.testing.assert_allclose(xp.to_host(target), expected, rtol=1e-5, atol=1e-5)


def test_scatter_add_waits_for_nothing_it_need_not():
    xp = get_backend("standin")
    target, index = xp.zeros((9, 2)), xp.asarray([3, 3, 1])
    values = xp.ones((3, 2))
    with standin.transfers() as crossed:
        xp.scatter_add(target, index, values)
    # The kernel takes the rows as they come; array code must know how many runs of equal ones there are.
    waits = 0 if standin.kernels else 1
    assert (crossed.uploads, crossed.downloads, crossed.syncs) == (0, waits, waits)


def test_device_facts(backend):
    xp = get_backend(backend)
    xp.synchronize()
    xp.release_memory()
    assert all(isinstance(v, int) and v >= 0 for v in xp.memory().values())
    assert xp.info() and all(value not in (None, "") for value in xp.info().values())
    with pytest.raises(AttributeError):
        xp.no_such_function  # noqa: B018


def test_second_device_computes_and_allocates_there():
    xp = get_backend("standin:1")
    with standin.transfers():
        a = dc.tensor([[1.0, 2.0], [3.0, 4.0]], backend="standin:1", requires_grad=True)
        (a @ a + 1.0).exp().sum().backward()
        for array in (xp.zeros(3), xp.asarray(1.0), xp.constant(2.0, dtypes.float32), a.array, a.grad.array):
            assert array.device.id == 1
    assert standin.cupy.cuda.get_device_id() == 0


def test_graph_memory_goes_back_without_the_collector():
    import gc

    xp = get_backend("standin")
    w = dc.ones(64, 64, backend="standin", requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        before = xp.memory()["used"]
        y = w
        for _ in range(20):
            y = (y * 1.0).tanh()
        loss = y.sum()
        assert xp.memory()["used"] > before
        loss.backward()
        w.grad = None
        del y, loss
        assert xp.memory()["used"] <= before + 4096  # cached constants
    finally:
        gc.enable()


# -- matrix products -------------------------------------------------------------------------------
def operands(rng, shape, dtype):
    """The same values as rows, columns, every second element of a larger array, reversed, and one row repeated."""
    a = rng.standard_normal(shape).astype(dtype)
    wide = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
    wide[..., ::2] = a
    yield "rows", a
    yield "columns", np.ascontiguousarray(np.swapaxes(a, -1, -2)).swapaxes(-1, -2)
    yield "strided", wide[..., ::2]
    yield "reversed", np.ascontiguousarray(a[..., ::-1, :])[..., ::-1, :]


PRODUCTS = [
    ((2, 2), (2, 2)),
    ((1, 20000), (20000, 1)),
    ((300, 1), (1, 300)),
    ((129, 70), (70, 33)),
    ((257, 513), (513, 130)),
    ((700, 300), (300, 1)),
    ((1, 300), (300, 700)),
    ((64, 300), (300, 900)),
    ((20000, 40), (40, 3)),
    ((3, 0), (0, 4)),
    ((500, 0), (0, 500)),
    ((0, 300), (300, 500)),
    ((500, 300), (300, 0)),
    ((6, 70, 50), (6, 50, 60)),
    ((6, 70, 50), (50, 60)),
    ((70, 50), (6, 50, 60)),
    ((9, 120, 130), (1, 130, 110)),
    ((1, 120, 130), (9, 130, 110)),
    ((3, 1, 90, 100), (4, 100, 90)),
    ((4, 90, 100), (3, 1, 100, 90)),
    ((5, 3, 90, 100), (5, 1, 100, 90)),
    ((0, 90, 100), (100, 900)),
    ((2000, 8, 8), (2000, 8, 8)),
]

HASHES = """
import hashlib, numpy as np, sys
sys.path[:0] = ["tests/backend", "tests/support"]
import test_backend as t
print(t.product_hash())
"""


def product_hash():
    import hashlib

    xp, rng, digest = CpuBackend(), np.random.default_rng(0), hashlib.sha256()
    for shape_x, shape_y in PRODUCTS:
        for dtype in (np.float32, np.float64):
            layouts_x, layouts_y = dict(operands(rng, shape_x, dtype)), dict(operands(rng, shape_y, dtype))
            for x, y in (("rows", "rows"), ("columns", "rows"), ("rows", "columns"), ("strided", "reversed")):
                digest.update(xp.matmul(layouts_x[x], layouts_y[y]).tobytes())
        if shape_x[-2] < 5000:  # NumPy has a routine of its own for x @ x.T
            digest.update(xp.matmul(layouts_x["rows"], layouts_x["rows"].swapaxes(-1, -2)).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape_x, shape_y", PRODUCTS, ids=str)
def test_matmul_is_right_and_the_same_at_any_threads(shape_x, shape_y, dtype, kernels, monkeypatch):
    monkeypatch.setattr(settings, "kernels", kernels)
    xp, rng = CpuBackend(), np.random.default_rng(0)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for name_x, x in operands(rng, shape_x, dtype):
        for name_y, y in operands(rng, shape_y, dtype):
            bits = set()
            for threads in (1, 2):
                monkeypatch.setattr(settings, "threads", threads)
                out = xp.matmul(x, y)
                bits.add(out.tobytes())
            assert len(bits) == 1, (name_x, name_y)
            expected = np.matmul(x.astype(np.float64), y.astype(np.float64))
            assert out.shape == expected.shape and out.dtype == dtype
            scale = max(np.sqrt(shape_x[-1]), 1.0)
            np.testing.assert_allclose(
                out, expected, rtol=tolerance, atol=tolerance * scale, err_msg=f"{name_x} @ {name_y}"
            )
    monkeypatch.undo()


@pytest.mark.skipif(
    not CpuBackend().blas.controllable, reason="this NumPy's BLAS cannot be told how many threads to use"
)
def test_matmul_bits_do_not_depend_on_the_blas_threads():
    seen = {
        python(HASHES, OPENBLAS_NUM_THREADS=blas, DEEPCORE_NUM_THREADS=own, DEEPCORE_KERNELS="0")
        for blas, own in (("1", "1"), ("2", "1"), ("4", "3"))
    }
    assert len(seen) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64", "bool"])
def test_matmul_of_other_dtypes(backend, dtype):
    xp, rng = get_backend(backend), np.random.default_rng(0)
    x = rng.integers(0, 3, (40, 300)).astype(dtypes.DTYPES[dtype])
    y = rng.integers(0, 2, (300, 50)).astype(dtypes.DTYPES[dtype])
    out = xp.matmul(xp.from_host(x), xp.from_host(y))
    assert out.dtype == x.dtype
    expected = np.matmul(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)
    np.testing.assert_array_equal(xp.to_host(out), expected)


def test_batched_matmul_of_bfloat16(backend):
    """CuPy has no batched product of bfloat16."""
    xp, rng = get_backend(backend), np.random.default_rng(0)
    x, y = (rng.integers(-2, 3, s).astype(dtypes.bfloat16) for s in ((3, 4, 5), (3, 5, 6)))
    out = xp.matmul(xp.from_host(x), xp.from_host(y))
    np.testing.assert_array_equal(xp.to_host(out).astype(np.float32), np.matmul(x, y).astype(np.float32))
    assert out.dtype == dtypes.bfloat16


def test_matmul_shapes_that_do_not_fit_raise():
    xp = CpuBackend()
    for x, y in (((300, 300), (299, 300)), ((5, 200, 300), (4, 300, 200))):
        with pytest.raises(ValueError):
            xp.matmul(np.ones(x, np.float32), np.ones(y, np.float32))


def test_numpy_error_state_reaches_the_threads(monkeypatch):
    xp = CpuBackend()
    monkeypatch.setattr(settings, "threads", 2)
    monkeypatch.setattr(settings, "kernels", False)  # BLAS tells of an overflow; compiled kernels do not
    x = np.full((1000, 300), 1e30, np.float32)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        xp.matmul(x, x.T)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isinf(xp.matmul(x, x.T)).all()


@pytest.mark.parametrize("kernels", [False, True])
def test_two_python_threads_at_once(kernels, monkeypatch):
    """Overlapping products keep their bits, and the BLAS gets its own number of threads back."""
    monkeypatch.setattr(settings, "kernels", kernels)
    xp, rng = CpuBackend(), np.random.default_rng(0)
    monkeypatch.setattr(settings, "threads", 2)
    x = rng.standard_normal((300, 400)).astype(np.float32)
    y = rng.standard_normal((400, 300)).astype(np.float32)
    expected = xp.matmul(x, y).tobytes()
    blas = xp.blas
    before = blas._get() if blas.controllable else None
    wrong: list = []

    def work():
        try:
            for _ in range(15):
                if xp.matmul(x, y).tobytes() != expected:
                    wrong.append("bits")
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert before is None or (blas._get() == before and blas._depth == 0)


def test_one_thread_is_counted():
    calls = []
    count = [4]

    def set_(n):
        calls.append(n)
        count[0] = n

    blas = _Blas(lambda: count[0], set_, "fake")
    with blas.one_thread():
        with blas.one_thread():
            assert count == [1]
        assert count == [1]
    assert calls == [1, 4]
    with pytest.raises(ZeroDivisionError), blas.one_thread():
        raise ZeroDivisionError
    assert count == [4]
    blas.__enter__()
    blas.after_fork()  # a child starts outside, whoever was inside in the parent
    assert count == [4] and blas._depth == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_products_after_fork():
    code = """
import multiprocessing as mp, numpy as np, warnings
from deepcore.backend import get_backend
from deepcore.config import settings
settings.threads = 2
warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads running: what is tested
x = np.ones((1000, 300), np.float32)
xp = get_backend("cpu")
def product(queue): queue.put(float(xp.matmul(x, x.T).sum()))
product_here = float(xp.matmul(x, x.T).sum())
context = mp.get_context("fork")
queue = context.SimpleQueue()
child = context.Process(target=product, args=(queue,))
child.start(); child.join(30)
print(child.exitcode, queue.get() == product_here)
"""
    assert python(code) == "0 True"


def test_two_threads_use_two_backends(backend):
    """Gradients and constants do not leak between Python threads."""
    results: dict = {}

    def work(name):
        a = dc.tensor([1.0, 2.0, 3.0], backend=name, requires_grad=True)
        for _ in range(20):
            a.grad = None
            (a * 2.0 + 1.0).sum().backward()
        results[name] = a.grad.tolist()

    names = [backend, "cpu", "standin:1"]
    threads = [threading.Thread(target=work, args=(n,)) for n in names]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {n: [2.0, 2.0, 2.0] for n in names}
