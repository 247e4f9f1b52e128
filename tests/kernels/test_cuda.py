"""CUDA kernels: the PTX that a GPU would get, run by the stand-in's machine, and by the GPU where there is one."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import ptx_machine
import pytest
import standin
from backends import BACKENDS

import deepcore as dc
from deepcore import kernels
from deepcore.backend import get_backend
from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int64
from deepcore.cli import main
from deepcore.config import settings
from deepcore.errors import DeepcoreWarning
from deepcore.kernels.codegen import jit, ptx, toolchain
from deepcore.kernels.codegen.kernel import In, Out, args
from deepcore.kernels.cpu import elementwise, optimizer
from deepcore.kernels.cuda import argreduce as cuda_argreduce
from deepcore.kernels.cuda import batch_norm as cuda_batch_norm
from deepcore.kernels.cuda import cross_entropy as cuda_cross_entropy
from deepcore.kernels.cuda import dropout as cuda_dropout
from deepcore.kernels.cuda import elementwise as cuda_elementwise
from deepcore.kernels.cuda import embedding as cuda_embedding
from deepcore.kernels.cuda import finite as cuda_finite
from deepcore.kernels.cuda import gemm as cuda_gemm
from deepcore.kernels.cuda import norm as cuda_norm
from deepcore.kernels.cuda import optimizer as cuda_optimizer
from deepcore.kernels.cuda import philox as cuda_philox
from deepcore.kernels.cuda import reductions as cuda_reductions
from deepcore.kernels.cuda import softmax as cuda_softmax
from deepcore.kernels.cuda import tile as cuda_tile
from deepcore.kernels.math import reference
from deepcore.nn import functional as F

numba = pytest.importorskip("numba", reason="numba compiles the kernels")
ROOT = Path(__file__).resolve().parents[2]
CPU = get_backend("cpu")
kernels.discover()


@pytest.fixture(params=[b for b in BACKENDS if b != "cpu"])
def xp(request, monkeypatch):
    """A backend that launches kernels: the stand-in, or a GPU."""
    monkeypatch.setattr(standin, "kernels", True)
    return get_backend(request.param)


@pytest.fixture
def stand(monkeypatch):
    monkeypatch.setattr(standin, "kernels", True)
    return get_backend("standin")


def normal(*shape, seed=0, dtype="f", scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(dtype)


def host(xp, found):
    assert found is not NotImplemented and found is not None
    return xp.to_host(found)


def close(found, wanted, tolerance=2e-6):
    wanted = np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    error = np.linalg.norm((found - wanted).ravel()) / max(np.linalg.norm(wanted.ravel()), 1e-30)
    assert error < tolerance


# -- PTX ------------------------------------------------------------------------------------------------------------

#: What computes in float64 on purpose, whatever its dtype.
WIDE = ("targets", "losses", "layer_norm_columns", "rms_norm_columns", "batch_statistics", "batch_sums", "update_")


def check_ptx(kernel, text, target):
    assert f".target sm_{target}\n" in text and f".maxntid {kernel.threads}" in text
    # Without .rn the assembler might contract; approximations and flushed subnormals would not be the CPU's bits.
    assert not re.search(r"\b(add|sub|mul|fma|div|sqrt)\.f(32|64)|\.ftz|\.approx|\.full", text)
    if "float32" in kernel.name and not kernel.name.startswith(WIDE):
        assert "f64" not in text, "float64 has leaked into it"
    program = ptx_machine.Program(text, kernel.symbol)  # nothing the machine does not know
    types = kernel.arguments.values()
    pointers = [t.is_pointer for t in types]
    sizes = [64 if t.is_pointer else 8 * t.dtype.itemsize for t in types]
    assert program.parameters == list(zip(sizes, pointers))
    assert program.local <= 512 and program.shared <= ptx_machine.MAX_SHARED


@pytest.mark.slow
def test_every_kernel_compiles_for_every_target(tmp_path):
    ptxas = shutil.which("ptxas")
    importlib.import_module("deepcore.optim")  # which defines updates
    cuda_optimizer.kernel.define_all()
    assert "update_adam_float32" in ptx.KERNELS
    for name, kernel in list(ptx.KERNELS.items()):
        for target, text in zip(ptx.TARGETS, ptx.compile_ptx(numba, kernel, *ptx.TARGETS)):
            check_ptx(kernel, text, target)
            if ptxas:
                (tmp_path / "kernel.ptx").write_text(text)
                command = [ptxas, "-v", f"-arch=sm_{target}", "kernel.ptx", "-o", "kernel.cubin"]
                done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
                assert done.returncode == 0, (name, done.stderr)
                assert int(re.search(r"(\d+) bytes spill stores", done.stdout + done.stderr)[1]) <= 64, name


def test_a_gpu_gets_the_ptx_of_the_target_below_it():
    assert ptx.TARGETS == (75, 80, 90, 100)
    kernel = cuda_elementwise.MAPS["relu"]._kernels[float32]
    found = {c: re.search(r"\.target (\w+)", kernel.ptx(c))[1] for c in (75, 86, 89, 90, 103, 120)}
    assert found == {75: "sm_75", 86: "sm_80", 89: "sm_80", 90: "sm_90", 103: "sm_100", 120: "sm_100"}


def test_an_old_gpu_has_no_kernels(monkeypatch):
    monkeypatch.setattr(ptx, "_warned", False)
    kernel = cuda_elementwise.MAPS["relu"]._kernels[float64]
    with pytest.warns(DeepcoreWarning, match=r"compute capability 7\.5 or later"):
        assert kernel.ptx(70) is None


def test_ptx_is_kept_and_needs_no_numba_then(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "cache_dir", str(tmp_path))
    kernel = cuda_elementwise.MAPS["relu_grad"]._kernels[float32]
    monkeypatch.setattr(kernel, "_ptx", {})
    text = kernel.ptx(80)
    assert [p.name.startswith("cuda_relu_grad_float32-") for p in (tmp_path / "kernels").iterdir()] == [True]
    monkeypatch.setattr(kernel, "_ptx", {})
    monkeypatch.setattr(toolchain, "load_numba", lambda: pytest.fail("numba was asked for"))
    assert kernel.ptx(80) == text


def test_warmup_compiles_them_for_a_gpu(monkeypatch, tmp_path, capsys):
    some = {name: ptx.KERNELS[name] for name in ("relu_float64", "relu_grad_float32")}
    monkeypatch.setattr(settings, "cache_dir", str(tmp_path))
    optimizer.kernel.define_all()
    cuda_optimizer.kernel.define_all()
    monkeypatch.setattr(jit, "KERNELS", {})
    monkeypatch.setattr(ptx, "KERNELS", some)
    for state in ("compiled", "cached"):
        for kernel in some.values():
            monkeypatch.setattr(kernel, "_ptx", {})
        assert main(["warmup", "--cuda", "8.6"]) == 0
        lines = [line.split()[1:4] for line in capsys.readouterr().out.splitlines() if "cuda_" in line]
        assert [[f"cuda_{name}", "sm_80", state] for name in some] == lines
    assert main(["warmup", "--cuda", "7.0"]) == 2
    assert "7.5" in capsys.readouterr().err
    assert main(["warmup", "--cuda", "new"]) == 2


def test_importing_the_kernel_files_loads_neither_numba_nor_cupy():
    code = "from deepcore import kernels; kernels.discover(); import sys; print({'numba', 'cupy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


def test_without_numba_the_reference_runs(stand, monkeypatch):
    kernel = cuda_elementwise.MAPS["silu"]._kernels[float64]
    monkeypatch.setattr(kernel, "_ptx", {})
    monkeypatch.setattr(stand, "_functions", {})
    monkeypatch.setattr(toolchain, "_numba", None)
    monkeypatch.setattr(settings, "cache_dir", os.devnull)
    monkeypatch.setitem(sys.modules, "numba", None)
    x = normal(5, 7, dtype="d")
    with pytest.warns(DeepcoreWarning, match="numba cannot be imported") as caught:
        found = [F.silu(dc.tensor(x, backend=stand)) for _ in range(2)]
    assert len(caught) == 1
    close(found[1].numpy(), x / (1 + np.exp(-x)), 1e-15)


# -- maps -----------------------------------------------------------------------------------------------------------

SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 1e38, -1e38, 88.8, -104, 1e-20], "d")
DEFAULT_MAPS = [
    ("exp", float32),
    ("gelu_grad", float32),
    ("softplus", float32),
    ("tanh", float64),
    ("sigmoid", bfloat16),
]
DEFAULT_MAPS += [("silu", float16)]
EVERY_MAP = [(name, dtype) for name in cuda_elementwise.MAPS for dtype in (float32, float64, float16, bfloat16)]


MAP_CASES = [
    pytest.param(
        name, dtype, marks=() if (name, dtype) in DEFAULT_MAPS else pytest.mark.slow, id=f"{name}-{dtype.name}"
    )
    for name, dtype in EVERY_MAP
]


@pytest.mark.parametrize("name, dtype", MAP_CASES)
def test_a_map_has_the_bits_of_the_cpu(xp, name, dtype):
    """Also where whole tiles end, and in the dtypes that the CPU's kernel rounds to."""
    run = cuda_elementwise.MAPS[name]
    draw = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        values = [np.concatenate([draw.standard_normal(1200) * 3, draw.permutation(SPECIAL)]) for _ in range(run.arity)]
        xs = [x.astype(dtype) for x in values]
        params = dict(zip(run.parameters, (0.75, 1.5, 1.25)))
        found = host(xp, run(xp, *[xp.from_host(x) for x in xs], **params))
        wide = dtype if dtype.itemsize > 2 else float32
        wanted = elementwise.MAPS[name](CPU, *[x.astype(wide) for x in xs], **params).astype(dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(wide), wanted.astype(wide))


def test_maps_of_other_layouts(xp):
    x, slope = normal(6, 8), normal(6, 8, seed=1)
    a, g = xp.from_host(x), xp.from_host(slope)
    run = cuda_elementwise.MAPS["relu_grad"]
    wanted = np.where(x > 0, slope, 0)
    np.testing.assert_array_equal(host(xp, run(xp, g, a)), wanted)
    np.testing.assert_array_equal(host(xp, run(xp, g.T, a.T)), wanted.T)
    np.testing.assert_array_equal(host(xp, run(xp, g[:, ::2], a[:, ::2])), wanted[:, ::2])
    np.testing.assert_array_equal(host(xp, run(xp, g[:1, :1], a)), np.where(x > 0, slope[0, 0], 0))
    np.testing.assert_array_equal(host(xp, run(xp, g[0], a)), np.where(x > 0, slope[0], 0))
    assert run(xp, g[:0], a[:0]).shape == (0, 8)
    assert run(xp, g.astype(float64), a) is NotImplemented


@pytest.mark.parametrize("seed, stream, start", [(3, 2, 5), (2**63 + 7, 2**64 - 1, 2**32 - 3)])
def test_philox_draws_the_words_of_the_cpu(xp, seed, stream, start):
    wanted = reference.philox(CPU, seed, stream, start, 301)
    np.testing.assert_array_equal(host(xp, cuda_philox.philox(xp, seed, stream, start, 301)), wanted)


def test_dropout_draws_the_mask_it_needs(xp):
    x = normal(1003)
    found = host(xp, cuda_dropout.dropout(xp, xp.from_host(x), seed=3, stream=2, position=5, p=0.3))
    kept = reference.philox(CPU, 3, 2, 5, 251)[:1003] < round(0.7 * 2**32)
    np.testing.assert_array_equal(found, np.where(kept, x * np.float32(1 / 0.7), np.float32(0) * x))


# -- rows -----------------------------------------------------------------------------------------------------------

WIDTHS = [10, 1300]  # a warp's row and a block's
SLOW_WIDTHS = [10, pytest.param(1300, marks=pytest.mark.slow)]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


#: A row for each kernel of softmax: of a warp, of a block, streamed; by fours and one by one.
SOFTMAX_WIDTHS = [10, 200, 1300, 4100]
SOFTMAX_WIDTHS += [pytest.param(n, marks=pytest.mark.slow) for n in (1301, 9001)]


@pytest.mark.parametrize("n", SOFTMAX_WIDTHS)
def test_softmax(xp, n):
    x = normal(9, n, scale=5)
    x[1, 1 : n - 1] = -np.inf
    x[2, : n - 1] = -np.inf
    x[3:6, n // 2] = -np.inf, np.inf, np.nan
    x[6] = -np.inf
    x[7] = np.sort(x[7])
    a = xp.from_host(x)
    with np.errstate(invalid="ignore"):
        wanted = softmax(x.astype(float64))
    found = host(xp, cuda_softmax.softmax(xp, a, dim=1))
    assert not np.isnan(wanted[[0, 1, 2, 3, 7, 8]]).any()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    close(np.nan_to_num(found), np.nan_to_num(wanted))
    np.testing.assert_array_equal(host(xp, cuda_softmax.softmax(xp, a[3:], dim=1)), found[3:])
    logs = host(xp, cuda_softmax.log_softmax(xp, a, dim=1))
    close(logs[[0, 7, 8]], np.log(wanted[[0, 7, 8]]))
    np.testing.assert_array_equal(np.isnan(logs), np.isnan(wanted))


def test_memory_that_fours_do_not_fit(xp):
    flat = xp.from_host(normal(1 + 5 * 200))
    found = host(xp, cuda_softmax.softmax(xp, flat[1:].reshape(5, 200), dim=1))
    close(found, softmax(normal(1 + 5 * 200)[1:].reshape(5, 200).astype(float64)))


@pytest.mark.parametrize("n", SLOW_WIDTHS)
def test_relatives_of_softmax(xp, n):
    x, g = normal(9, n, scale=5), normal(9, n, seed=1)
    y, logs = softmax(x.astype(float64)), np.log(softmax(x.astype(float64)))
    a, b, out, log_out = (xp.from_host(v.astype("f")) for v in (x, g, y, logs))
    close(host(xp, cuda_softmax.softmax_grad(xp, b, out, dim=1)), y * (g - (g * y).sum(-1, keepdims=True)), 5e-6)
    close(host(xp, cuda_softmax.log_softmax(xp, a, dim=-1)), logs)
    close(
        host(xp, cuda_softmax.log_softmax_grad(xp, b, log_out, dim=1)),
        g - y * g.astype(float64).sum(-1, keepdims=True),
        5e-6,
    )
    close(host(xp, cuda_softmax.logsumexp(xp, a)), np.log(np.exp(x.astype(float64)).sum(-1)))


def test_rows_along_another_dimension(xp):
    x = normal(4, 5, 6)
    found = host(xp, cuda_softmax.softmax(xp, xp.from_host(x), dim=1))
    close(found, np.moveaxis(softmax(np.moveaxis(x, 1, -1).astype(float64)), -1, 1))


def test_rows_with_special_values(xp):
    inf, nan = np.inf, np.nan
    x = np.array([[1, inf, 2], [-inf, -inf, -inf], [nan, 1, 2], [3, 3, -inf], [1, nan, nan]], "f")
    a = xp.from_host(x)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(
            host(xp, cuda_reductions.amax(xp, a, dims=(1,), keepdim=True)), x.max(1, keepdims=True)
        )
        np.testing.assert_array_equal(host(xp, cuda_reductions.amin(xp, a, dims=(1,), keepdim=False)), x.min(1))
        np.testing.assert_array_equal(host(xp, cuda_argreduce.argmax(xp, a, dim=1)), x.argmax(1))
        np.testing.assert_array_equal(host(xp, cuda_argreduce.argmin(xp, a, dim=1)), x.argmin(1))
        np.testing.assert_array_equal(np.isnan(host(xp, cuda_softmax.softmax(xp, a, dim=1))), np.isnan(softmax(x)))
    np.testing.assert_array_equal(host(xp, cuda_softmax.logsumexp(xp, a))[[0, 1, 2]], [inf, -inf, nan])


@pytest.mark.parametrize("n", SLOW_WIDTHS)
def test_reductions(xp, n):
    x = normal(7, n)
    a = xp.from_host(x)
    close(host(xp, cuda_reductions.sum(xp, a, dims=(1,), keepdim=False)), x.astype(float64).sum(1), 1e-5)
    np.testing.assert_array_equal(host(xp, cuda_argreduce.argmax(xp, a, dim=1)), x.argmax(1))


def cross_entropy(x, target, weight, smoothing, reduction, ignored=-100):
    """(loss, gradient), in float64."""
    n = x.shape[1]
    weight = np.ones(n) if weight is None else weight.astype(float64)
    counted = target != ignored
    chosen = np.where(counted, target, 0)
    q = np.eye(n)[chosen] * (1 - smoothing) + smoothing / n
    q = q * weight * counted[:, None]
    losses = -(q * np.log(softmax(x))).sum(1)
    total = (weight[chosen] * counted).sum() if reduction == "mean" else 1.0
    gradient = (softmax(x) * q.sum(1, keepdims=True) - q) / total
    return (losses if reduction == "none" else losses.sum() / total), gradient


@pytest.mark.parametrize("n, weighted, smoothing, reduction", [
    (10, False, 0.0, "mean"), (10, True, 0.1, "mean"), (10, False, 0.1, "sum"), pytest.param(1300, True, 0.0, "none", marks=pytest.mark.slow),
])  # fmt: skip
def test_cross_entropy(xp, n, weighted, smoothing, reduction):
    x, target = normal(40, n, scale=3), np.random.default_rng(1).integers(0, n, 40)
    target[[3, 7]] = -100
    weight = np.random.default_rng(2).random(n).astype("f") if weighted else None
    params = {"dim": 1, "ignore_index": -100, "smoothing": smoothing, "reduction": reduction}
    arrays = [xp.from_host(a) for a in (x, target)] + ([] if weight is None else [xp.from_host(weight)])
    loss, gradient = cuda_cross_entropy.cross_entropy(xp, *arrays, **params, recorded=True)
    wanted = cross_entropy(x.astype(float64), target, weight, smoothing, reduction)
    close(host(xp, loss), wanted[0])
    close(host(xp, gradient), wanted[1], 1e-5)
    arrays[1] = xp.from_host(target + n)
    assert (
        cuda_cross_entropy.cross_entropy(xp, *arrays, **params, recorded=True) is NotImplemented
    )  # a class out of range


@pytest.mark.parametrize("n, centred", [
    (10, True), (1300, False), pytest.param(10, False, marks=pytest.mark.slow), pytest.param(1300, True, marks=pytest.mark.slow),
])  # fmt: skip
def test_layer_and_rms_norm(xp, n, centred):
    x, g, weight, bias = normal(300, n) + 3, normal(300, n, seed=1), normal(n), normal(n, seed=1)
    forward = cuda_norm.layer_norm if centred else cuda_norm.rms_norm
    backward = cuda_norm.layer_norm_grad if centred else cuda_norm.rms_norm_grad
    parameters = [weight, bias][: 1 + centred]
    arrays = [xp.from_host(a) for a in (x, *parameters)]
    out, statistics = forward(xp, *arrays, rank=1, eps=1e-5)
    wide = x.astype(float64)
    mean = wide.mean(1, keepdims=True) if centred else 0.0
    rstd = 1 / np.sqrt(((wide - mean) ** 2).mean(1, keepdims=True) + 1e-5)
    xhat, scaled = (wide - mean) * rstd, g * weight.astype(float64)
    close(host(xp, out), xhat * weight + (bias if centred else 0))
    found = backward(xp, xp.from_host(g), arrays[0], statistics, arrays[1], rank=1, eps=1e-5, affine=1 + centred)
    inner = scaled - xhat * (scaled * xhat).mean(1, keepdims=True) - (scaled.mean(1, keepdims=True) if centred else 0)
    wanted = (inner * rstd, (g * xhat).sum(0), g.astype(float64).sum(0))
    for array, want in zip(found, wanted[: 2 + centred], strict=True):
        close(host(xp, array), want, 1e-5)


def test_batch_norm(xp):
    x, g, weight, bias = normal(45, 37) + 2, normal(45, 37, seed=1), normal(37), normal(37, seed=1)
    a, w = xp.from_host(x), xp.from_host(weight)
    statistics = cuda_batch_norm.batch_statistics(xp, a, eps=1e-5)
    wide = x.astype(float64)
    rstd = 1 / np.sqrt(wide.var(0) + 1e-5)
    xhat = (wide - wide.mean(0)) * rstd
    close(host(xp, statistics), [wide.mean(0), wide.var(0), rstd])
    close(
        host(xp, cuda_batch_norm.batch_norm(xp, a, statistics, w, xp.from_host(bias), batch=True, eps=1e-5)),
        xhat * weight + bias,
    )
    found = cuda_batch_norm.batch_norm_grad(xp, xp.from_host(g), a, statistics, w, batch=True, affine=2, eps=1e-5)
    wanted = (g - g.mean(0) - xhat * (g * xhat).mean(0)) * rstd * weight, (g * xhat).sum(0), g.sum(0)
    for array, want in zip(found, wanted, strict=True):
        close(host(xp, array), want, 1e-5)
    fixed = cuda_batch_norm.batch_norm_grad(xp, xp.from_host(g), a, statistics, w, batch=False, affine=0, eps=1e-5)
    close(host(xp, fixed[0]), g * rstd * weight)


def test_rows_by_index(xp):
    table, index = normal(11, 40), np.random.default_rng(0).integers(0, 11, (7, 9))
    a = xp.from_host(table)
    np.testing.assert_array_equal(host(xp, cuda_embedding.rows(xp, a, xp.from_host(index))), table[index])
    for wrong in (11, -1):
        bad = index.copy()
        bad[3, 4] = wrong
        assert cuda_embedding.rows(xp, a, xp.from_host(bad)) is NotImplemented


def test_gathered_rows_add_up_as_on_the_cpu(xp):
    index, g = np.random.default_rng(0).integers(0, 5, (8, 9)), normal(8, 9, 40, scale=1e3)
    wanted = np.zeros((7, 40), "f")
    np.add.at(wanted, index, g)
    wanted[2] = 0
    found = host(xp, cuda_embedding.rows_grad(xp, xp.from_host(g), xp.from_host(index), count=7, padding=2))
    np.testing.assert_array_equal(found, wanted)


def test_scatter_add_runs_on_it(xp):
    target, index, values = normal(6, 3), np.array([4, 1, 4, -1, 4]), normal(5, 3, seed=1)
    a = xp.from_host(target.copy())
    xp.scatter_add(a, xp.from_host(index), xp.from_host(values))
    np.add.at(target, index, values)
    np.testing.assert_array_equal(host(xp, a), target)
    assert "scatter_rows_float32" in xp._functions


# -- products -------------------------------------------------------------------------------------------------------


def chained(a, b):
    """a @ b, each element one chain of fused multiply-adds."""
    total = np.zeros((a.shape[0], b.shape[1]), "f")
    for k in range(a.shape[1]):
        total = ptx_machine.fma32(a[:, k, None], b[None, k], total)
    return total


@pytest.mark.parametrize("m, n, k, a_transposed, b_transposed", [
    (5, 7, 3, False, False), (70, 66, 33, False, True), (68, 72, 20, False, True),
    pytest.param(68, 72, 20, True, False, marks=pytest.mark.slow),
    pytest.param(68, 72, 18, True, False, marks=pytest.mark.slow),
    pytest.param(70, 66, 33, True, False, marks=pytest.mark.slow), pytest.param(64, 64, 16, True, True, marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.parametrize("tile", [pytest.param(cuda_tile.TILES[0], marks=pytest.mark.slow), cuda_tile.TILES[1]])
def test_products_are_one_chain(xp, monkeypatch, m, n, k, a_transposed, b_transposed, tile):
    monkeypatch.setattr(cuda_tile, "TILES", (tile, tile))
    a, b = normal(*((k, m) if a_transposed else (m, k))), normal(*((n, k) if b_transposed else (k, n)), seed=1)
    x, y = xp.from_host(a), xp.from_host(b)
    found = host(xp, cuda_gemm.product(xp, x.T if a_transposed else x, y.T if b_transposed else y))
    np.testing.assert_array_equal(found, chained(a.T if a_transposed else a, b.T if b_transposed else b))


@pytest.mark.parametrize("n", [18, 20])
def test_a_product_ends_with_bias_residual_and_activation(xp, n):
    x, w, bias, residual = normal(20, 12), normal(n, 12, seed=1), normal(n), normal(20, n)
    arrays = [xp.from_host(a) for a in (x, w, bias, residual)]
    out, before = cuda_gemm.product(xp, arrays[0], arrays[1].T, arrays[2], arrays[3], activation="gelu_tanh", keep=True)
    wanted = (chained(x, w.T) + bias) + residual
    np.testing.assert_array_equal(host(xp, before), wanted)
    np.testing.assert_array_equal(host(xp, out), elementwise.MAPS["gelu_tanh"](CPU, wanted))


def test_without_cublas_it_is_all_products(xp, monkeypatch):
    monkeypatch.setitem(vars(xp), "blas", None)
    x, w, bias = (dc.tensor(a, backend=xp) for a in (normal(2, 10, 12), normal(18, 12, seed=1), normal(18)))
    found = F.linear(x, w, bias, activation="gelu")
    wanted = F.linear(x.to("cpu"), w.to("cpu"), bias.to("cpu"), activation="gelu")
    close(found.numpy(), wanted.numpy())
    assert any(name.startswith("gemm_nt") and name.endswith("gelu") for name in xp._functions)
    np.testing.assert_array_equal((x[0] @ w.T).numpy(), chained(normal(2, 10, 12)[0], normal(18, 12, seed=1).T))


# -- updates --------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda ps: dc.optim.SGD(ps, lr=0.1),
    "momentum": lambda ps: dc.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda ps: dc.optim.Adam([{"params": ps[:2], "lr": 0.1}, {"params": ps[2:]}]),
    "AMSGrad": lambda ps: dc.optim.AdamW(ps, amsgrad=True),
}


def trained(where, name):
    """(optimizer, parameters) after three steps, in one of which a parameter has no gradient."""
    draw = np.random.default_rng(0)
    shapes = ((5, 7), (1100,), (0, 3), (1,), (33, 40))
    parameters = [dc.nn.Parameter(dc.tensor(draw.standard_normal(s).astype("f"), backend=where)) for s in shapes]
    optimizer = OPTIMIZERS[name](parameters)
    for step in range(3):
        for p in parameters:
            p.grad = dc.tensor(draw.standard_normal(p.shape).astype("f"), backend=where)
        if step == 1:
            parameters[1].grad = None
        optimizer.step()
    return optimizer, parameters


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_have_the_bits_of_the_cpu_in_one_launch(xp, monkeypatch, name):
    launched = []
    prepared = type(xp).prepared
    monkeypatch.setattr(
        type(xp), "prepared", lambda self, k, *a, **named: launched.append(k.name) or prepared(self, k, *a, **named)
    )
    optimizer, found = trained(xp, name)
    assert len(launched) == 3 and all(k.startswith("update_") for k in launched)
    expected, wanted = trained("cpu", name)
    for p, q in zip(found, wanted):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
        for key, value in expected.state.get(q, {}).items():
            here = optimizer.state[p][key]
            np.testing.assert_array_equal(xp.to_host(here) if isinstance(value, np.ndarray) else here, value)


@pytest.mark.parametrize("dtypes", ["f", "d", "fd"])
def test_gradients_are_checked_in_one_launch(xp, monkeypatch, dtypes):
    arrays = [
        xp.asarray(normal(*s, dtype=dtypes[i % len(dtypes)])) for i, s in enumerate([(5, 7), (0, 3), (2100,), ()])
    ]
    launched = []
    prepared = type(xp).prepared
    monkeypatch.setattr(
        type(xp), "prepared", lambda self, k, *a, **named: launched.append(k.name) or prepared(self, k, *a, **named)
    )
    assert cuda_finite.all_finite(xp, *arrays) is True and cuda_finite.all_finite(xp, arrays[1]) is True
    assert launched == [f"gradients_finite_{np.dtype(d).name}" for d in dtypes]
    for array, at, wrong in ((0, (4, 6), np.nan), (2, 1024, np.inf), (2, 2099, -np.inf), (3, (), np.nan)):
        kept, arrays[array][at] = arrays[array][at].copy(), wrong
        assert cuda_finite.all_finite(xp, *arrays) is False
        arrays[array][at] = kept
    assert cuda_finite.all_finite(xp, *arrays) is True
    assert cuda_finite.all_finite(xp, xp.zeros(3, dtype=float16)) is NotImplemented


def test_updates_follow_arrays_that_move(xp):
    """The table of a step is kept for the next one, as far as its arrays are."""
    results = []
    for where in ("cpu", xp):
        optimizer, parameters = trained(where, "Adam")
        draw = np.random.default_rng(3)
        old = parameters[0]._data
        for step in range(5):
            for p in parameters:
                p.grad = dc.tensor(draw.standard_normal(p.shape).astype("f"), backend=where)
            if step == 1:
                parameters[0]._data = old.copy()
            if step == 2:
                optimizer.load_state_dict(optimizer.state_dict())
            if step == 3:
                optimizer.param_groups[0]["lr"] = 0.3
            if step == 4:
                parameters[3].grad = dc.tensor(np.ones((4, 1), "f"), backend=where)[2]
                parameters[4].grad = parameters[4].grad.to("cpu").T.contiguous().T.to(where)
            optimizer.step()
        results.append([*(p.detach().numpy() for p in parameters), dc.as_tensor(old).numpy()])
    for wanted, found in zip(*results):
        np.testing.assert_array_equal(found, wanted)


def test_a_step_that_fails_changes_nothing(stand, monkeypatch):
    optimizer, parameters = trained(stand, "Adam")
    before, steps = [p.detach().numpy().copy() for p in parameters], [optimizer.state[p]["step"] for p in parameters]

    def fail(array):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(stand, "from_host", fail, raising=False)
        with pytest.raises(MemoryError):
            optimizer.step()
    assert [optimizer.state[p]["step"] for p in parameters] == steps
    for p, old in zip(parameters, before):
        np.testing.assert_array_equal(p.detach().numpy(), old)
    optimizer.step()
    assert [optimizer.state[p]["step"] for p in parameters] == [n + 1 for n in steps]


def test_a_network_learns_as_on_the_cpu(xp):
    """Every kernel in its place: a few steps of training end at the CPU's parameters."""
    results = []
    for where in ("cpu", xp):
        dc.manual_seed(0)
        model = dc.nn.Sequential(
            dc.nn.BatchNorm1d(12), dc.nn.Linear(12, 16), dc.nn.GELU(), dc.nn.LayerNorm(16), dc.nn.Dropout(0.2),
            dc.nn.Linear(16, 5),
        ).to(where)  # fmt: skip
        optimizer = dc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        data, classes = dc.tensor(normal(24, 12), backend=where), dc.tensor(np.arange(24) % 5, backend=where)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(data), classes).backward()
            optimizer.step()
        results.append([p.detach().numpy() for p in model.parameters()])
    for on_cpu, found in zip(*results):
        close(found, on_cpu, 1e-4)


# -- the machine finds what it must ---------------------------------------------------------------------------------


def made(name, build):
    kernel = ptx.Kernel(name, build, threads=64)
    del ptx.KERNELS[name]
    return ptx_machine.Program(ptx.compile_ptx(numba, kernel, 90)[0], kernel.symbol)


def run(program, *arrays, threads=64, grid=1):
    memory = ptx_machine.Memory()
    for a in arrays:
        memory.add(a)
    ptx_machine.run(program, memory, grid, threads, [np.uint64(a.ctypes.data) for a in arrays])


def test_accesses_outside_an_allocation():
    @args(x=In(float32), out=Out(float32))
    def build(tools):
        thread = tools.thread()

        def kernel(x, out):
            out[thread()] = x[thread() + 1]

        return kernel

    program, x, out = made("outside", build), np.ones(65, "f"), np.zeros(64, "f")
    run(program, x, out)
    assert (out == 1).all()
    with pytest.raises(ptx_machine.PtxError, match="allocation"):
        run(program, x[:64].copy(), out)
    with pytest.raises(ptx_machine.PtxError, match="allocation"):
        run(program, x, out[:63].copy())


@pytest.mark.parametrize("missing", ["", "before", "after"])
def test_races_in_shared_memory(missing):
    @args(x=In(float32), out=Out(float32))
    def build(tools):
        thread, wait, space = tools.thread(), tools.barrier(), tools.shared("float32", 64)

        def kernel(x, out):
            s, t = space(), thread()
            for _ in range(2):
                s[t] = x[t]
                if missing != "before":
                    wait()
                out[t] = s[63 - t]
                if missing != "after":
                    wait()

        return kernel

    program, x, out = made("races", build), normal(64), np.zeros(64, "f")
    if missing:
        with pytest.raises(ptx_machine.PtxError, match="race"):
            run(program, x, out)
    else:
        run(program, x, out)
        np.testing.assert_array_equal(out, x[::-1])


@pytest.mark.parametrize("what", ["barrier", "shuffle"])
def test_threads_that_do_not_come(what):
    @args(x=In(float32), out=Out(float32))
    def build(tools):
        thread, wait, exchange = tools.thread(), tools.barrier(), tools.shuffle("float32")

        def barrier(x, out):
            t = thread()
            if x[t] > 0:
                out[t] = 1.0
                wait()
            out[t] += 2.0

        def shuffle(x, out):
            t = thread()
            if x[t] > 0:
                out[t] = exchange(x[t], 1)

        return {"barrier": barrier, "shuffle": shuffle}[what]

    program, out = made(what, build), np.zeros(64, "f")
    run(program, np.ones(64, "f"), out)
    assert (out == (3 if what == "barrier" else 1)).all()
    some = np.ones(64, "f")
    some[40:] = -1
    with pytest.raises(ptx_machine.PtxError, match=what):
        run(program, some, out)


def test_two_writers_of_one_element():
    @args(out=Out(float32))
    def build(tools):
        thread = tools.thread()

        def kernel(out):
            out[thread() // 2] = 1.0

        return kernel

    with pytest.raises(ptx_machine.PtxError, match="two threads write"):
        run(made("writers", build), np.zeros(64, "f"))


def test_threads_that_part_and_meet():
    """Loops of different lengths, nested branches, and a shuffle after them."""

    @args(out=Out(int64))
    def build(tools):
        thread, exchange = tools.thread(), tools.shuffle("int64")

        def kernel(out):
            t = thread()
            n, steps = t + 1, 0
            while n != 1:
                if n % 2 == 0:
                    n = n // 2
                else:
                    n = 3 * n + 1
                steps += 1
            out[t] = steps * 1000 + exchange(steps, 16)

        return kernel

    def collatz(n):
        steps = 0
        while n != 1:
            n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
        return steps

    out = np.zeros(64, int64)
    run(made("parting", build), out)
    steps = np.array([collatz(t + 1) for t in range(64)])
    np.testing.assert_array_equal(out, steps * 1000 + steps[np.arange(64) ^ 16])


def test_the_machines_fma_rounds_once():
    from fractions import Fraction

    draw = np.random.default_rng(0)
    for dtype, fma in ((np.float32, ptx_machine.fma32), (np.float64, ptx_machine.fma64)):
        a, b = (draw.standard_normal(300).astype(dtype) for _ in range(2))
        c = np.where(draw.random(300) < 0.7, -(a * b), draw.standard_normal(300)).astype(dtype)
        found = fma(a, b, c)
        for i in range(300):
            exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
            error = abs(Fraction(float(found[i])) - exact)
            for other in (np.nextafter(found[i], dtype(np.inf)), np.nextafter(found[i], dtype(-np.inf))):
                assert error <= abs(Fraction(float(other)) - exact)


@pytest.mark.slow
def test_numbas_simulator_agrees():
    """Shared memory, barriers and reductions once more, at 64 threads, in the simulator that numba-cuda has."""
    pytest.importorskip("numba_cuda", reason="numba-cuda has the simulator")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "support" / "cuda_simulator.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8


# -- launching ------------------------------------------------------------------------------------------------------


def test_arguments_are_checked(stand):
    kernel = cuda_elementwise.MAPS["relu"]._kernels[float32]
    assert stand.ready(kernel)
    launch, x, out = stand._functions[kernel.name], stand.from_host(normal(8)), stand.empty(8, dtype=float32)
    launch((1,), (256,), (x, out, 8))
    for arguments, error in (
        ((x, out), "takes 3 arguments"),
        ((x, 8, out), "is given for"),
        ((x, out, x), "an array is given for a number"),
        ((x, out, np.int32(8)), "number of 64 bits"),
        ((x, np.zeros(8, "f"), 8), "Unsupported type"),
        ((x, out, 2**63), "too large"),
    ):
        with pytest.raises((TypeError, ValueError, OverflowError), match=error):
            launch((1,), (256,), arguments)
    for grid, block in (((0,), (256,)), ((1,), (512,)), ((1,), (100,)), (1, 256)):
        with pytest.raises((TypeError, ptx_machine.PtxError)):
            launch(grid, block, (x, out, 8))
    with pytest.raises(ptx_machine.PtxError, match="allocation"):
        launch((1,), (256,), (x, out, 9))


def test_a_second_device_loads_its_own(monkeypatch):
    monkeypatch.setattr(standin, "kernels", True)
    x = normal(5, 6)
    found = dc.softmax(dc.tensor(x, backend="standin:1"), 1)
    assert found._data.device.id == 1
    close(found.numpy(), softmax(x.astype(float64)))


# -- elsewhere ------------------------------------------------------------------------------------------------------


def benchmark():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gpu
    finally:
        sys.path.pop(0)
    return gpu


def test_the_gpu_benchmark_runs(stand, tmp_path):
    """Its plumbing, on tiny arrays; what it measures here means nothing."""
    gpu = benchmark()
    effort, lines = gpu.contest.Effort(1e-6, 0.0, 1, 1), []
    result = gpu.measure(gpu.Machine(stand, gpu.TINY), effort, only="", say=lines.append)
    names = [entry["name"] for entry in result["contests"]]
    assert len(names) == len(set(names)) == len(lines) > 12
    assert result["device"] == "CUDA stand-in"
    assert gpu.save(result, tmp_path).name == "gpu-cuda-stand-in.json"


def test_the_gpu_benchmark_says_what_is_missing(capsys, monkeypatch):
    gpu = benchmark()

    def missing(name):
        raise dc.errors.BackendError("no usable GPU", fix="a GPU")

    monkeypatch.setattr(gpu.dc, "get_backend", missing)
    assert gpu.main([]) == 2
    assert "no usable GPU" in capsys.readouterr().err


def test_a_kernel_of_each_kind_compiles():
    """The last test here: most kinds have been compiled by now."""
    kinds: dict = {}
    for kernel in ptx.KERNELS.values():
        if kernel.build not in kinds or (90 in kernel._ptx and 90 not in kinds[kernel.build]._ptx):
            kinds[kernel.build] = kernel
    assert len(kinds) > 15
    for kernel in kinds.values():
        check_ptx(kernel, kernel.ptx(90), 90)
