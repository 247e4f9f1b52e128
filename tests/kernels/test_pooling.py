"""Pooling kernels against the reference, in every layout, and at any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore.config import settings
from deepcore.nn import functional as F

pytest.importorskip("numba")

from deepcore.ops.pool import _largest_p, window_spread_p, window_sum_p

CASES = {
    "one dimension": ((3, 2, 301), F.max_pool1d, F.avg_pool1d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "halves": ((2, 3, 8, 10), F.max_pool2d, F.avg_pool2d, {"kernel_size": 2}),
    "overlapping": ((2, 3, 9, 7), F.max_pool2d, F.avg_pool2d, {"kernel_size": 3, "stride": 1, "padding": 1}),
    "cut off": ((1, 2, 6, 9), F.max_pool2d, F.avg_pool2d, {"kernel_size": (3, 2), "stride": 2, "ceil_mode": True}),
    "wide": ((1, 1, 3, 600), F.max_pool2d, F.avg_pool2d, {"kernel_size": (2, 5), "stride": (1, 1), "padding": (1, 2)}),
    "volumes": ((2, 2, 5, 4, 6), F.max_pool3d, F.avg_pool3d, {"kernel_size": 2, "stride": (1, 2, 3), "padding": 1}),
}


def results(x, largest, mean, options):
    """Values, places and gradients."""
    x = x.detach().requires_grad_()
    values, places = largest(x, **options, return_indices=True)
    means = mean(x, **options, count_include_pad=False)
    weights = dc.arange(values.numel(), dtype=x.dtype).reshape(values.shape) / 7
    (slope,) = dc.autograd.grad((values * weights).sum(), (x,))
    (mean_slope,) = dc.autograd.grad((means * weights).sum(), (x,), create_graph=True)
    return [t.detach().numpy() for t in (values, places, means, slope, mean_slope)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_kernels_compute_what_the_reference_does(name, dtype, monkeypatch):
    shape, *functions, options = CASES[name]
    rng = np.random.default_rng(0)
    array = rng.integers(-9, 9, shape).astype(dtype)  # with equals
    array[rng.random(shape) < 0.05] = -np.inf
    for x in (
        dc.tensor(array),
        dc.tensor(np.ascontiguousarray(array.T).T),
        dc.tensor(array[..., ::-1].copy()).flip(-1),
    ):
        found = [results(x, *functions, options)]
        monkeypatch.setattr(settings, "threads", 1)
        found.append(results(x, *functions, options))
        monkeypatch.undo()
        monkeypatch.setattr(settings, "kernels", False)
        found.append(results(x, *functions, options))
        monkeypatch.undo()
        for ours, single, reference in zip(*found):
            np.testing.assert_array_equal(ours, single)
            np.testing.assert_allclose(ours, reference, rtol=1e-6)
    assert all(op.lowering.plans for op in (_largest_p, window_sum_p, window_spread_p))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_nans_the_last_and_of_equals_the_first(dtype):
    x = dc.tensor(np.array([[[1, np.nan, 3, np.nan, 2, 2, -np.inf, -np.inf]]], dtype))
    values, places = F.max_pool1d(x, 4, return_indices=True)
    assert places.tolist() == [[[3, 4]]] and np.isnan(values.numpy()[0, 0, 0]) and values[0, 0, 1] == 2
    assert F.max_pool1d(x[..., 6:], 2, return_indices=True).indices.tolist() == [[[0]]]
    assert F.max_pool1d(x[..., 6:], 2, stride=1, padding=1, return_indices=True).indices.tolist() == [[[0, 0, 1]]]
