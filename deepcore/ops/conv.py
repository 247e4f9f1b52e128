"""Convolution and the gradients of its image and filters; all three are linear in both operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deepcore.autograd import apply, constant, mixed_backends
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.registry import Tensor, cast, composite, functional, is_half, primitive, sample
from deepcore.ops.shape import reshape_p

# Parameters of all three: stride and dilation are pairs, padding is a pair of (before, after).


def _taps(xp, image, size, positions, stride, padding, dilation):
    """For each tap of the filter, a view of the padded image with the elements under it at all positions."""
    (top, bottom), (left, right) = padding
    n, c, h, w = image.shape
    if top or bottom or left or right:
        padded = xp.zeros((n, c, h + top + bottom, w + left + right), dtype=image.dtype)
        padded[:, :, top : top + h, left : left + w] = image
    else:
        padded = image
    return padded, [padded[:, :, rows, columns] for rows, columns in _slices(size, positions, stride, dilation)]


def _slices(size, positions, stride, dilation) -> list[tuple[slice, slice]]:
    along = [
        [slice(k * d, k * d + s * (n - 1) + 1, s) for k in range(taps)]
        for taps, n, s, d in zip(size, positions, stride, dilation)
    ]
    return [(rows, columns) for rows in along[0] for columns in along[1]]


def _gathered(xp, image, size, positions, stride, padding, dilation, groups: int):
    """im2col: a matrix for each sample and group, (n, groups, channels · taps, positions)."""
    _, parts = _taps(xp, image, size, positions, stride, padding, dilation)
    n, c = image.shape[:2]
    return xp.stack(parts, 2).reshape(n, groups, c // groups * math.prod(size), math.prod(positions))


def _positions(shape, size, stride, padding, dilation) -> tuple[int, ...]:
    return tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[2:], size, stride, padding, dilation)
    )  # fmt: skip


def _to_input(g, weight, input_shape, stride, padding, dilation, groups):
    return conv2d_input_p(
        g, weight, size=input_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def _to_weight(g, input, weight_shape, stride, padding, dilation, groups):
    return conv2d_weight_p(
        input, g, size=weight_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@primitive(vjp=(_to_input, _to_weight, lambda g: g.sum((0, 2, 3))))
def conv2d_p(xp, input, weight, bias=None, *, stride, padding, dilation, groups):
    channels, depth, *size = weight.shape
    positions = _positions(input.shape, size, stride, padding, dilation)
    columns = _gathered(xp, input, size, positions, stride, padding, dilation, groups)
    rows = weight.reshape(groups, channels // groups, depth * math.prod(size))
    out = xp.matmul(rows, columns).reshape(len(input), channels, *positions)
    return out if bias is None else out + bias.reshape(-1, 1, 1)


@primitive(
    vjp=(
        lambda g, weight, stride, padding, dilation, groups: conv2d_p(
            g, weight, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        lambda g, input, weight_shape, stride, padding, dilation, groups: _to_weight(
            input, g, weight_shape, stride, padding, dilation, groups
        ),
    )
)
def conv2d_input_p(xp, input, weight, *, size, stride, padding, dilation, groups):
    """The gradient of an image of this `size`; `input` is the gradient of the convolution's result."""
    (channels, depth, *taps), (n, _, *positions) = weight.shape, input.shape
    rows = weight.reshape(groups, channels // groups, depth * math.prod(taps)).swapaxes(1, 2)
    columns = xp.matmul(rows, input.reshape(n, groups, channels // groups, math.prod(positions)))
    columns = columns.reshape(n, groups * depth, math.prod(taps), *positions)
    (top, bottom), (left, right) = padding
    padded = xp.zeros((n, groups * depth, size[0] + top + bottom, size[1] + left + right), dtype=input.dtype)
    for tap, (at_rows, at_columns) in enumerate(_slices(taps, positions, stride, dilation)):
        padded[:, :, at_rows, at_columns] += columns[:, :, tap]
    return padded[:, :, top : top + size[0], left : left + size[1]]


@primitive(
    vjp=(
        lambda g, other, input_shape, stride, padding, dilation, groups: _to_input(
            other, g, input_shape, stride, padding, dilation, groups
        ),
        lambda g, input, stride, padding, dilation, groups: conv2d_p(
            input, g, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    )
)
def conv2d_weight_p(xp, input, other, *, size, stride, padding, dilation, groups):
    """The gradient of filters of this `size` over the image `input`; `other` is the gradient of the convolution's result."""
    n, channels, *positions = other.shape
    columns = _gathered(xp, input, size, positions, stride, padding, dilation, groups)
    depth, length = input.shape[1] // groups, n * math.prod(positions)
    columns = columns.transpose(1, 0, 3, 2).reshape(groups, length, depth * math.prod(size))
    rows = other.reshape(n, groups, channels // groups, math.prod(positions)).transpose(1, 2, 0, 3)
    out = xp.matmul(rows.reshape(groups, channels // groups, length), columns)
    return out.reshape(channels, depth, *size)


def pair(name: str, value, least: int) -> tuple[int, int]:
    """A whole number for both directions, or one for each."""
    numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    if len(numbers) != 2 or any(isinstance(n, bool) or not hasattr(n, "__index__") or n < least for n in numbers):
        raise ArgumentError(
            f"conv2d: {name} is a whole number of at least {least}, or a pair of such", received=f"{name}={value!r}"
        )
    return int(numbers[0]), int(numbers[1])


def paddings(padding, size, stride, dilation) -> tuple[tuple[int, int], ...]:
    """(before, after) for rows and columns, of numbers, "valid" or "same"."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ArgumentError(
                'conv2d: padding "same" is for stride 1', received=f"stride={stride}", fix="padding=kernel_size // 2"
            )
        total_paddings = [d * (k - 1) for k, d in zip(size, dilation)]
        return tuple((total // 2, total - total // 2) for total in total_paddings)
    if isinstance(padding, str):
        raise ArgumentError(
            "conv2d: unknown padding", expected='whole numbers, "valid" or "same"', received=repr(padding)
        )
    return tuple((n, n) for n in pair("padding", padding, 0))


def _examples(make):
    x, w = make(2, 2, 4, 3), make(2, 2, 2, 2)
    return [
        sample(x, w, make(2)),
        sample(make(1, 2, 3, 3), make(1, 2, 2, 1)),
        sample(make(1, 1, 3, 3), make(1, 1, 2, 2), make(1)),
        sample(x, w, stride=2, padding=1),
        sample(x, w, make(2), stride=(1, 2), padding=(0, 2), dilation=(2, 1)),
        sample(make(2, 6, 5, 2), make(6, 1, 2, 2), groups=6, padding="same"),
        sample(make(1, 6, 2, 5), make(6, 2, 1, 2), make(6), groups=3, padding="valid"),
        sample(make(2, 3, 3), make(1, 2, 3, 1), padding=1, dilation=2),
        sample(make(0, 2, 3, 3), make(2, 2, 2, 2), make(2)),
    ]


@functional
@composite(examples=_examples, method=False)
def conv2d(
    input,
    weight,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
):
    """out[n, o, y, x] = bias[o] + Σ weight[o, c, i, j] · input[n, c, y·stride + i·dilation - padding, x·… + j·… - …]

    input (N, C, H, W) or (C, H, W), weight (out, C / groups, kh, kw), bias (out,); result (N, out, H', W') with
    H' = ⌊(H + 2·padding - dilation·(kh - 1) - 1) / stride⌋ + 1. Zeros surround the image; `padding`: numbers, "valid" (none)
    or "same" (the result has the image's size; stride 1 only). `groups`: each part of the channels has its own filters.
    """
    operands = [constant("conv2d", t) for t in ((input, weight) if bias is None else (input, weight, bias))]
    image, filters = operands[:2]
    if any(t.backend is not image.backend for t in operands):
        raise mixed_backends("conv2d", operands)
    if any(t.dtype != image.dtype for t in operands) or image.dtype == dt.bool_:
        raise DTypeError(
            "conv2d takes an image and parameters of one dtype of numbers",
            received=" and ".join(dt.name_of(t.dtype) for t in operands),
            fix="input.float()" if image.dtype == dt.bool_ else "convert one of them: t.to(other.dtype)",
        )
    steps, spread = pair("stride", stride, 1), pair("dilation", dilation, 1)
    _check(image.shape, filters.shape, None if bias is None else operands[2].shape, groups)
    params = {
        "stride": steps, "padding": paddings(padding, filters.shape[2:], steps, spread), "dilation": spread, "groups": groups,
    }  # fmt: skip
    if image.ndim == 3:
        operands[0] = reshape_p(image, shape=(1, *image.shape))
    _check_size(operands[0].shape, filters.shape, params)
    if is_half(image):  # summed in float32, rounded once
        return _unbatched(
            cast(apply(conv2d_p, tuple(cast(t, dt.float32) for t in operands), params), image.dtype), image
        )
    return _unbatched(apply(conv2d_p, tuple(operands), params), image)


def _unbatched(out: Tensor, image: Tensor) -> Tensor:
    return out if image.ndim == 4 else reshape_p(out, shape=out.shape[1:])


def _check(image, weight, bias, groups) -> None:
    if len(weight) != 4 or not all(weight):
        raise ShapeError(
            "conv2d needs filters of shape (out, in / groups, kh, kw), none of them 0", received=f"shape {weight}"
        )
    if isinstance(groups, bool) or not hasattr(groups, "__index__") or groups < 1 or weight[0] % groups:
        raise ArgumentError(
            "conv2d: groups is a whole number that divides the number of filters",
            received=f"groups={groups!r} and {weight[0]} filters",
        )
    channels = weight[1] * groups
    if len(image) not in (3, 4) or image[-3] != channels:
        raise ShapeError(
            f"conv2d expects {channels} channels", expected=f"shape (N, {channels}, H, W) or ({channels}, H, W)",
            received=f"shape {image}", fix=_fix(image, channels, groups),
        )  # fmt: skip
    if bias is not None and bias != (weight[0],):
        raise ShapeError(
            "conv2d: the bias has a number for each filter", expected=f"({weight[0]},)", received=f"{bias}"
        )


def _fix(image, channels: int, groups: int) -> str:
    if len(image) == 4 and image[-1] == channels:
        return "images of shape (N, H, W, C) are put in order by x.permute(0, 3, 1, 2)"
    if channels == 1 and len(image) in (2, 3):
        return f"a channel dimension: x.unsqueeze({len(image) - 2})"
    if len(image) in (3, 4):
        return f"Conv2d({image[-3]}, …)" + (", or other groups" if groups > 1 else "")
    return "x.reshape(N, C, H, W)"


def _check_size(image, weight, params) -> None:
    padded = [n + sum(p) for n, p in zip(image[2:], params["padding"])]
    reach = [d * (k - 1) + 1 for k, d in zip(weight[2:], params["dilation"])]
    if any(n < k for n, k in zip(padded, reach)):
        raise ShapeError(
            "conv2d: the filter is larger than the padded image", expected=f"at least {tuple(reach)}",
            received=f"an image of {tuple(padded)} with padding", fix="more padding, a smaller kernel, or fewer strides before",
        )  # fmt: skip
