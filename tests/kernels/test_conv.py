"""Convolution's kernels: the same bits at any number of threads, in a program, and on both devices."""

from __future__ import annotations

import numpy as np
import ptx_machine
import pytest
import standin

import deepcore as dc
from deepcore.backend import get_backend
from deepcore.backend.dtypes import float32, float64
from deepcore.config import settings

pytest.importorskip("numba")

from deepcore.kernels.cpu import conv
from deepcore.kernels.cuda import conv as cuda_conv
from deepcore.kernels.cuda import tile as cuda_tile
from deepcore.nn import functional as F
from deepcore.ops.conv import conv_input_p, conv_p, conv_weight_p


def draw(*shape, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def params(stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1) -> dict:
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


CASES = [
    ((3, 40, 13, 15), (24, 40, 3, 3), params()),
    ((2, 8, 21, 17), (16, 2, 3, 2), params((2, 3), ((1, 0), (2, 1)), (1, 2), 4)),
    ((40, 3, 8, 8), (4, 3, 1, 1), params(padding=((0, 0), (0, 0)))),
    ((3, 70, 9, 9), (33, 70, 3, 3), params((2, 2))),
    ((20, 64, 4, 4), (300, 32, 2, 2), params((1, 1), ((0, 1), (2, 0)), (2, 1), 2)),
    ((2, 20, 11, 90), (16, 20, 5, 1), params((3, 1), dilation=(1, 2))),
    ((2, 17, 12, 7), (40, 17, 1, 1), params(padding=((0, 0), (0, 0)))),
    ((3, 6, 40, 13), (12, 1, 3, 5), params((2, 1), ((0, 2), (1, 1)), (1, 2), 6)),
    ((2, 3, 90, 500), (3, 1, 3, 3), params(groups=3)),
]


def results(x, w, options) -> list:
    """The results of all three ops."""
    out = conv_p(x, w, **options)
    g = dc.tensor(draw(*out.shape, dtype=x.dtype), backend=x.backend)
    return [
        out.numpy(), conv_input_p(g, w, size=x.shape[2:], **options).numpy(),
        conv_weight_p(x, g, size=w.shape[2:], **options).numpy(),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [float32, float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape, weight, options", CASES)
def test_kernels_are_right_with_any_number_of_threads(shape, weight, options, dtype, monkeypatch):
    x, w = dc.tensor(draw(*shape, dtype=dtype)), dc.tensor(draw(*weight, dtype=dtype))
    found = results(x, w, options)
    assert all(any(op.lowering.plans.values()) for op in (conv_p, conv_input_p, conv_weight_p))
    channels_last = dc.from_numpy(draw(*shape, dtype=dtype).transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2))
    for a, b in zip(found, results(channels_last, w, options)):
        np.testing.assert_array_equal(a, b)
    for threads in (1, 3):
        monkeypatch.setattr(settings, "threads", threads)
        for a, b in zip(found, results(x, w, options)):
            np.testing.assert_array_equal(a, b)
    monkeypatch.setattr(settings, "kernels", False)
    tolerance = 1e-4 if dtype == float32 else 1e-12
    for a, b in zip(found, results(x, w, options)):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * 10)


def test_an_image_that_is_all_infinite_or_not_a_number_stays_so():
    x, w = np.full((1, 2, 3, 3), np.nan, np.float32), draw(2, 2, 3, 3)
    assert np.isnan(F.conv2d(dc.tensor(x), dc.tensor(w)).numpy()).all()
    assert np.isposinf(F.conv2d(dc.tensor(np.full_like(x, np.inf)), dc.tensor(np.abs(w))).numpy()).all()


@pytest.mark.parametrize(
    "function, steps",
    [
        (lambda x, w, b, y: F.relu(F.conv2d(x, w, b, padding=1)), 1),
        (lambda x, w, b, y: (F.conv2d(x, w, b, padding=1) + y).tanh(), 1),
        (lambda x, w, b, y: F.relu(F.conv2d(x, w, padding=1)), 1),
        (lambda x, w, b, y: dc.grad(lambda w: F.relu(F.conv2d(x, w, b, padding=1)).square().sum())(w), None),
    ],
)
def test_what_follows_joins_it_in_a_program(function, steps):
    given = [dc.tensor(draw(*s)) for s in ((4, 8, 12, 12), (16, 8, 3, 3), (16,), (4, 16, 12, 12))]
    expected = function(*given)
    compiled = dc.compile(function)
    for _ in range(3):
        np.testing.assert_array_equal(compiled(*given).numpy(), expected.numpy())
    runners = [runner for runners in compiled._cache.values() for runner in runners]
    executables = [getattr(r, "exe", None) or r[0].exe for r in runners]
    if steps is not None:
        assert [len(exe.steps) for exe in executables] == [steps]
        assert executables[0].launches[-1].kernel in (conv._CONV[float32], conv._BY_TILES[float32])
    assert any("conv" in step.name for step in executables[0].steps)


@pytest.mark.parametrize("dtype", [float32, float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "shape, weight, options",
    [
        ((2, 3, 5, 4), (4, 3, 3, 3), params()),
        ((1, 4, 5, 6), (2, 2, 2, 3), params((2, 1), ((1, 0), (2, 1)), (1, 2), 2)),
        ((1, 25, 3, 3), (2, 25, 3, 3), params()),
        ((3, 20, 7, 9), (24, 20, 3, 3), params()),
        ((2, 32, 12, 16), (40, 16, 3, 3), params((2, 1), ((1, 0), (2, 1)), (1, 2), 2)),
        ((2, 20, 11, 12), (16, 20, 5, 1), params((3, 1), dilation=(2, 2))),
        ((2, 20, 8, 7), (32, 20, 1, 1), params((2, 2), ((0, 0), (0, 0)))),
        ((3, 16, 20, 20), (32, 16, 2, 3), params((1, 4), dilation=(3, 2))),
    ],
)
def test_cuda_agrees_with_the_cpu(shape, weight, options, dtype, device, monkeypatch):
    arrays = draw(*shape, dtype=dtype), draw(*weight, dtype=dtype)
    on_cpu = results(*map(dc.tensor, arrays), options)
    launched = recorded(device, monkeypatch)
    on_device = results(*(dc.tensor(a, backend="standin") for a in arrays), options)
    for a, b in zip(on_cpu, on_device):
        np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == float32 else 1e-12, atol=1e-5)
    tiled = weight[0] > 8
    assert launched and all(
        name.startswith("conv") and (("tile" in name) | ("sum" in name)) == tiled for name in launched
    )


def recorded(device, monkeypatch) -> list[str]:
    """The names of kernels that are launched from now on."""
    names, launch = [], device.launch
    run = lambda kernel, blocks, **arguments: names.append(kernel.name) or launch(kernel, blocks, **arguments)
    monkeypatch.setitem(vars(device), "launch", run)
    return names


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(standin, "kernels", True)
    return get_backend("standin")


def chain(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """rows @ columns, each element one chain of fused multiply-adds."""
    total = np.zeros((len(rows), columns.shape[1]), np.float32)
    for k in range(len(columns)):
        total = ptx_machine.fma32(rows[:, k, None], columns[None, k], total)
    return total


def gathered(x: np.ndarray) -> np.ndarray:
    """The columns of a filter of 3 × 3 with padding 1."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    parts = np.stack([padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)], 2)
    return parts.transpose(1, 2, 0, 3, 4).reshape(c * 9, n * h * w)


@pytest.mark.parametrize("tile", [pytest.param(cuda_tile.TILES[0], marks=pytest.mark.slow), cuda_tile.TILES[1]])
def test_a_tile_is_one_chain_and_ends_with_bias_residual_and_activation(tile, device, monkeypatch):
    monkeypatch.setattr(cuda_tile, "TILES", (tile, tile))
    for shape in ((2, 10, 6, 6), (2, 10, 7, 5)):  # vectors of four, and not
        arrays = x, w, bias, residual = draw(*shape), draw(20, 10, 3, 3), draw(20), draw(2, 20, *shape[2:])
        x_, w_, bias_, residual_ = map(device.from_host, arrays)
        out, before = cuda_conv.convolve(device, x_, w_, bias_, residual_, "relu", True, **params())
        sums = chain(gathered(x), w.reshape(20, -1)).reshape(20, 2, *shape[2:]).swapaxes(0, 1)
        wanted = sums + bias[:, None, None] + residual
        np.testing.assert_array_equal(device.to_host(before), wanted)
        np.testing.assert_array_equal(device.to_host(out), np.maximum(wanted, 0))


def test_filters_gradients_are_parts_in_a_fixed_order(device, monkeypatch):
    x, g = draw(2, 16, 24, 24), draw(2, 16, 24, 24)
    launched = recorded(device, monkeypatch)
    found = cuda_conv.conv_weight(device, *map(device.from_host, (x, g)), size=(3, 3), **params())
    assert launched == ["conv_tile_weight_float32_64", "conv_sum_parts_float32"]
    columns, rows = gathered(x).T, g.swapaxes(0, 1).reshape(16, -1)
    wanted = chain(columns[:576], rows[:, :576]) + chain(columns[576:], rows[:, 576:])
    np.testing.assert_array_equal(device.to_host(found).reshape(16, -1), wanted)


@pytest.mark.slow
def test_tiles_have_the_same_bits(device, monkeypatch):
    x, w = (dc.tensor(draw(*shape), backend="standin") for shape in ((2, 80, 16, 17), (72, 80, 3, 3)))
    found = []
    for multiprocessors in (1, 1000):
        monkeypatch.setitem(vars(device), "multiprocessors", multiprocessors)
        launched = recorded(device, monkeypatch)
        found.append(results(x, w, params()))
        assert all(name.endswith("128" if multiprocessors == 1 else "64") for name in launched if "tile" in name)
    for a, b in zip(*found):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 49, 64, 12544, 2**30 - 1])
def test_divisors_are_exact(d):
    packed = cuda_conv._divisor(d)
    factor, shift = packed & 0xFFFFFFFF, packed >> 32
    numbers = {0, 1, d - 1, d, d + 1, 2**31 - 1, *(k * d + r for k in (1, (2**31 - 1) // d) for r in (-1, 0))}
    assert all((2 * n * factor >> 32) >> shift == n // d for n in numbers)


WINOGRAD = [
    ((3, 40, 13, 15), (24, 40, 3, 3), params()),
    ((2, 32, 70, 150), (48, 32, 3, 3), params(padding=((0, 1), (2, 0)))),
    ((16, 48, 4, 4), (80, 48, 3, 3), params()),
    ((9, 64, 8, 5), (34, 32, 3, 3), params(padding=((2, 2), (1, 1)), groups=2)),
    ((2, 17, 6, 300), (19, 17, 3, 3), params()),
]


@pytest.mark.parametrize("shape, weight, options", WINOGRAD)
def test_winograds_error_is_below_three_times_that_of_sums(shape, weight, options, monkeypatch):
    x, w = draw(*shape), draw(*weight)
    exact = results(dc.tensor(x, dtype=float64), dc.tensor(w, dtype=float64), options)
    errors, by_algorithm = [], {}
    for algorithm in ("direct", "auto"):
        monkeypatch.setattr(dc.config, "conv_algorithm", algorithm)
        by_algorithm[algorithm] = results(dc.tensor(x), dc.tensor(w), options)
        errors.append([np.linalg.norm(a - b) for a, b in zip(by_algorithm[algorithm], exact)])
    assert all((a != b).any() for a, b in zip(*by_algorithm.values()))
    assert all(error <= 3 * direct for direct, error in zip(*errors)), errors
    for threads in (1, 3):
        monkeypatch.setattr(settings, "threads", threads)
        for a, b in zip(by_algorithm["auto"], results(dc.tensor(x), dc.tensor(w), options)):
            np.testing.assert_array_equal(a, b)


def test_the_algorithm_is_a_setting(monkeypatch):
    x, w = dc.tensor(draw(2, 32, 16, 16)), dc.tensor(draw(32, 32, 3, 3))
    compiled = dc.compile(lambda x: F.conv2d(x, w, padding=1))
    outputs = {}
    for algorithm in ("auto", "direct", "auto"):
        monkeypatch.setattr(dc.config, "conv_algorithm", algorithm)
        eager = outputs.setdefault(algorithm, F.conv2d(x, w, padding=1).numpy())
        np.testing.assert_array_equal(eager, compiled(x).numpy())
        np.testing.assert_array_equal(eager, compiled(x).numpy())
    assert (outputs["auto"] != outputs["direct"]).any()
    monkeypatch.setattr(dc.config, "conv_algorithm", "fft")
    with pytest.raises(dc.errors.ConfigError, match='"auto" or "direct"'):
        F.conv2d(x, w)
