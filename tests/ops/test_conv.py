"""Convolution against PyTorch: values, gradients of two orders, layouts, edges; what is wrong with a call."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.nn import functional as F

#: Shapes of image and filters, stride, padding, dilation, groups.
CASES = [
    ((2, 3, 7, 9), (4, 3, 3, 3), 1, 0, 1, 1),
    ((2, 3, 7, 9), (4, 3, 3, 3), 2, 1, 1, 1),
    ((2, 4, 8, 8), (6, 2, 3, 2), (2, 1), (1, 2), (1, 2), 2),
    ((3, 8, 9, 9), (8, 1, 3, 3), 1, "same", 2, 8),
    ((2, 8, 9, 9), (16, 1, 3, 3), 2, 1, 1, 8),
    ((2, 3, 20, 17), (5, 3, 5, 4), 3, (2, 0), 1, 1),
    ((2, 6, 5, 5), (8, 6, 1, 1), 2, 0, 1, 1),
    ((1, 70, 6, 6), (9, 70, 3, 3), 1, 1, 1, 1),
    ((2, 4, 6, 6), (4, 4, 2, 2), 1, "same", 1, 1),
    ((2, 3, 5, 5), (2, 3, 3, 3), 3, 4, 1, 1),
    ((3, 4, 4), (2, 3, 2, 2), 1, "valid", 1, 1),
]


def arrays(shape, weight, dtype="float64"):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(dtype) for s in (shape, weight, weight[:1])]


def channels_last(array):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -3, -1)), -1, -3)


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last], ids=["rows", "channels last"])
@pytest.mark.parametrize("shape, weight, stride, padding, dilation, groups", CASES)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_values_and_gradients_of_two_orders(shape, weight, stride, padding, dilation, groups, layout, backend):
    torch = pytest.importorskip("torch")
    given = arrays(shape, weight)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    theirs = [torch.tensor(a, requires_grad=True) for a in given]
    ours = [dc.from_numpy(layout(a) if i == 0 else a).to(backend).requires_grad_() for i, a in enumerate(given)]
    expected, got = torch.nn.functional.conv2d(*theirs, **options), F.conv2d(*ours, **options)
    pull = np.random.default_rng(1).standard_normal(tuple(expected.shape))
    first = torch.autograd.grad(expected, theirs, torch.tensor(pull), create_graph=True)
    mine = dc.autograd.grad(got, ours, dc.tensor(pull, backend=backend), create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), theirs[:2])
    mine_second = dc.autograd.grad(sum((g * g).sum() for g in mine), ours[:2])
    for a, b in zip((got, *mine, *mine_second), (expected, *first, *second), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_summed_in_float32(dtype, backend):
    x, w, b = (dc.tensor(a, dtype=dtype, backend=backend) for a in arrays((2, 40, 6, 6), (3, 40, 3, 3)))
    got = F.conv2d(x, w, b, padding=1)
    want = F.conv2d(x.float(), w.float(), b.float(), padding=1)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got.float().numpy(), want.to(x.dtype).float().numpy())


def test_nothing_to_convolve(backend):
    x, w, b = (dc.tensor(a, backend=backend).requires_grad_() for a in arrays((0, 3, 5, 5), (4, 3, 3, 3)))
    out = F.conv2d(x, w, b, stride=2)
    assert out.shape == (0, 4, 2, 2)
    out.sum().backward()
    assert x.grad.shape == x.shape and not w.grad.numpy().any() and not b.grad.numpy().any()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x, w: F.conv2d(x, w[:, :2]), ShapeError, r"expects 2 channels"),
        (lambda x, w: F.conv2d(x.permute(0, 2, 3, 1), w), ShapeError, r"permute\(0, 3, 1, 2\)"),
        (lambda x, w: F.conv2d(x[0, 0], w[:, :1]), ShapeError, r"x.unsqueeze\(0\)"),
        (lambda x, w: F.conv2d(x, w[0]), ShapeError, r"filters of shape \(out, in / groups, kh, kw\)"),
        (lambda x, w: F.conv2d(x, w, w[0, 0, 0]), ShapeError, r"bias has a number for each filter"),
        (lambda x, w: F.conv2d(x, w, groups=3), ArgumentError, r"groups is a whole number that divides"),
        (lambda x, w: F.conv2d(x, w, dilation=4), ShapeError, r"larger than the padded image.*\n.*\(9, 9\)"),
        (lambda x, w: F.conv2d(x, w, stride=0), ArgumentError, r"stride is a whole number of at least 1"),
        (lambda x, w: F.conv2d(x, w, padding=(1, 2, 3)), ArgumentError, r"padding is a whole number of at least 0"),
        (lambda x, w: F.conv2d(x, w, padding="full"), ArgumentError, r"unknown padding"),
        (lambda x, w: F.conv2d(x, w, stride=2, padding="same"), ArgumentError, r"is for stride 1"),
        (lambda x, w: F.conv2d(x, w.double()), DTypeError, r"one dtype of numbers"),
        (lambda x, w: F.conv2d(x > 0, w > 0), DTypeError, r"input.float\(\)"),
        (lambda x, w: nn.Conv2d(3, 4, 3, groups=2), ArgumentError, r"groups divides the channels"),
        (lambda x, w: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ArgumentError, r"unknown padding_mode"),
        (lambda x, w: nn.Conv2d(3, 4, 0), ArgumentError, r"kernel_size is a whole number"),
    ],
)
def test_errors_say_what_is_wrong(call, error, message):
    x, w, _ = (dc.tensor(a) for a in arrays((2, 3, 7, 9), (4, 3, 3, 3), "float32"))
    with pytest.raises(error, match=message):
        call(x, w)
