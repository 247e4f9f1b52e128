"""Layers of images: what has no oracle in PyTorch's own inputs."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DeepcoreError, ShapeError
from deepcore.nn import functional as F


@pytest.mark.parametrize(
    "drop, shape, channels",
    [
        (F.dropout1d, (50, 40, 3), (0, 1)),
        (F.dropout1d, (2000, 3), (0,)),
        (F.dropout2d, (50, 40, 2, 3), (0, 1)),
        (F.dropout2d, (50, 40, 3), (0, 1)),
        (F.dropout3d, (50, 40, 1, 2, 2), (0, 1)),
        (F.dropout3d, (2000, 2, 1, 2), (0,)),
    ],
)
def test_whole_channels_are_dropped(drop, shape, channels, backend):
    x = dc.ones(shape, backend=backend).requires_grad_()
    out = drop(x, 0.3, True)
    out.sum().backward()
    kept = out.detach().cpu().numpy().reshape(int(np.prod([shape[d] for d in channels])), -1)
    assert (kept == kept[:, :1]).all() and set(np.unique(kept)) == {0, np.float32(1 / 0.7)}
    assert (kept[:, 0] > 0).mean() == pytest.approx(0.7, abs=0.04)
    assert x.grad.tolist() == out.tolist()
    assert drop(x, 0.3, False).tolist() == x.tolist() and not drop(x, 1.0, True).any()


@pytest.mark.parametrize("drop", [F.alpha_dropout, F.feature_alpha_dropout])
def test_alpha_dropout_keeps_mean_and_variance(drop, backend):
    x = dc.randn(400, 300, backend=backend)
    out = drop(x, 0.2, True).cpu().numpy()
    assert out.mean() == pytest.approx(0, abs=0.02) and out.var() == pytest.approx(1, abs=0.03)
    dropped = np.isclose(out, out.min()) & (np.isclose(out, out.min()).sum() > 1000)
    assert drop(x, 0.2, False) is not None and (dropped | True).all()
    assert not drop(x, 1.0, True).any()


def test_running_statistics_of_instance_norm():
    layer = nn.InstanceNorm1d(2, momentum=0.5, track_running_stats=True)
    x = dc.tensor(np.random.default_rng(0).normal(3, 2, (4, 2, 50)), dtype=dc.float32)
    for _ in range(12):
        layer(x)
    np.testing.assert_allclose(layer.running_mean.numpy(), x.numpy().mean((0, 2)), rtol=1e-2)
    np.testing.assert_allclose(layer.running_var.numpy(), x.numpy().var(2, ddof=1).mean(0), rtol=1e-2)
    expected = (x.numpy() - layer.running_mean.numpy()[:, None]) / np.sqrt(layer.running_var.numpy() + 1e-5)[:, None]
    np.testing.assert_allclose(layer.eval()(x).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_pooling_and_its_inverse(backend):
    x = dc.tensor(np.random.default_rng(0).permutation(2 * 3 * 7 * 8).reshape(2, 3, 7, 8).astype("f"), backend=backend)
    pool, back = nn.MaxPool2d(2, stride=2, return_indices=True), nn.MaxUnpool2d(2, stride=2)
    largest, places = pool(x)
    out = back(largest, places, output_size=x.shape)
    assert out.shape == x.shape and (out[out != 0] == x[out != 0]).all()
    assert pool(out).values.tolist() == largest.tolist()


def test_windows_that_meet_padding_alone(backend):
    x = dc.tensor([[[1.0, 2.0]]], backend=backend).requires_grad_()
    values, places = F.max_pool1d(x, 2, 1, 1, 3, return_indices=True)
    assert values.tolist() == [[[-np.inf]]] and places.tolist() == [[[0]]]
    values.sum().backward()
    assert x.grad.tolist() == [[[0, 0]]]


def test_points_that_are_nan(backend):
    x, grid = dc.ones(1, 1, 3, 3, backend=backend), dc.full((1, 1, 1, 2), np.nan, backend=backend)
    assert dc.isnan(F.grid_sample(x, grid, "bicubic", align_corners=False)).all()


def test_the_nearest_pixel_has_a_gradient_of_0(backend):
    grid = dc.rand(1, 2, 2, 2, backend=backend).requires_grad_()
    F.grid_sample(dc.rand(1, 1, 3, 3, backend=backend), grid, "nearest", align_corners=False).sum().backward()
    assert not grid.grad.any()


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_the_nearest_pixels_are_pytorchs(mode):
    torch = pytest.importorskip("torch")
    for n in (4, 7, 24):
        x = np.arange(float(n)).reshape(1, 1, n)
        for out in range(1, 60):
            theirs = torch.nn.functional.interpolate(torch.tensor(x), out, mode=mode)
            assert F.interpolate(dc.tensor(x), out, mode=mode).tolist() == theirs.tolist()


def test_a_plain_average_of_batches_compiles():
    layers = [nn.BatchNorm2d(2, momentum=None) for _ in range(2)]
    steps = [layers[0], dc.compile(layers[1])]
    for k in range(4):
        x = dc.rand(3, 2, 4, 4) + k
        assert steps[0](x).tolist() == steps[1](x).tolist()
    assert layers[0].running_mean.tolist() == layers[1].running_mean.tolist()
    assert layers[0].num_batches_tracked.item() == layers[1].num_batches_tracked.item() == 4


def test_a_compiled_inverse_of_pooling_checks_its_indices():
    @dc.compile
    def back(x, places):
        return F.max_unpool1d(x, places, 2) * 2

    x = dc.ones(1, 1, 2)
    for places in ([0, 3], [1, 2], [0, 1], [3, 0]):
        out = back(x, dc.tensor([[places]]))
        assert [i for i, v in enumerate(out.tolist()[0][0]) if v == 2] == sorted(places)
    with pytest.raises(ShapeError, match="an index is outside"):
        back(x, dc.tensor([[[0, 4]]]))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_interpolation_to_the_same_size_changes_nothing(mode, backend):
    x = dc.rand(2, 3, 5, 6, backend=backend)
    np.testing.assert_allclose(F.interpolate(x, (5, 6), mode=mode).tolist(), x.tolist(), rtol=1e-6)


def test_a_grid_of_the_identity_samples_the_image(backend):
    x = dc.rand(2, 3, 5, 6, backend=backend)
    theta = dc.tensor([[[1.0, 0, 0], [0, 1, 0]]] * 2, backend=backend)
    for align in (False, True):
        grid = F.affine_grid(theta, x.shape, align_corners=align)
        np.testing.assert_allclose(F.grid_sample(x, grid, align_corners=align).tolist(), x.tolist(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*align_corners")
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 2, 1, 3)])
def test_grids_are_pytorchs(size, align):
    torch = pytest.importorskip("torch")
    rank = len(size) - 2
    theta = np.random.default_rng(0).standard_normal((size[0], rank, rank + 1))
    expected = torch.nn.functional.affine_grid(torch.tensor(theta), size, align_corners=align)
    np.testing.assert_allclose(F.affine_grid(dc.tensor(theta), size, align_corners=align).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.MaxPool2d(3)(dc.ones(1, 2, 2)), ShapeError, "larger than the padded input"),
        (lambda: nn.MaxPool2d(2)(dc.ones(2, 2)), ShapeError, r"\(N, C, H, W\) or \(C, H, W\)"),
        (lambda: nn.MaxPool2d(2, padding=2)(dc.ones(1, 4, 4)), ArgumentError, "at most half of kernel_size"),
        (lambda: nn.AvgPool2d(2, divisor_override=0)(dc.ones(1, 4, 4)), ArgumentError, "divisor_override"),
        (lambda: F.adaptive_avg_pool2d(dc.ones(1, 4, 4), (1, 2, 3)), ArgumentError, "output_size"),
        (lambda: F.max_unpool2d(dc.ones(1, 2, 2), dc.tensor([[[0, 1], [2, 99]]]), 2), ShapeError, "outside"),
        (lambda: F.interpolate(dc.ones(1, 1, 4, 4), 2, mode="linear"), ShapeError, r"takes \(N, C, L\)"),
        (lambda: F.interpolate(dc.ones(1, 1, 4, 4), 2, 2.0), ArgumentError, "size or scale_factor"),
        (lambda: F.interpolate(dc.ones(1, 1, 4, 4), 2, mode="cubic"), ArgumentError, "unknown mode"),
        (lambda: F.grid_sample(dc.ones(1, 1, 4, 4), dc.ones(1, 2, 2, 3)), ShapeError, r"grid \(N, H', W', 2\)"),
        (lambda: F.affine_grid(dc.ones(1, 3, 2), (1, 1, 2, 2)), ShapeError, r"theta \(N, 2, 3\)"),
        (lambda: F.group_norm(dc.ones(2, 5, 3), 2), ShapeError, "do not divide 5 channels"),
        (lambda: nn.GroupNorm(2, 5), ArgumentError, "num_groups divides num_channels"),
        (lambda: nn.InstanceNorm2d(3)(dc.ones(2, 4, 5, 5)), ShapeError, "normalises 3 channels"),
        (lambda: F.pixel_shuffle(dc.ones(3, 2, 2), 2), ShapeError, "multiple of 4 channels"),
        (lambda: F.fold(dc.ones(1, 5, 4), 3, 2), ShapeError, "multiple of 4 elements"),
        (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=2)(dc.ones(1, 2, 3, 3)), ArgumentError, "output_padding"),
        (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2)(dc.ones(1, 2, 3, 3), (9, 9)), ShapeError, r"from \(7, 7\) to \(8, 8\)"),
        (lambda: nn.Conv1d(2, 3, 3)(dc.ones(1, 3, 5)), ShapeError, "expects 2 channels"),
        (lambda: nn.Conv3d(2, 3, 3)(dc.ones(1, 2, 5, 5)), ShapeError, r"\(N, 2, D, H, W\)"),
        (lambda: nn.ReflectionPad2d(4)(dc.ones(1, 3, 3)), ShapeError, "wider than the dimension"),
        (lambda: F.dropout2d(dc.ones(3), 0.5), ShapeError, "drops channels"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, DeepcoreError)
